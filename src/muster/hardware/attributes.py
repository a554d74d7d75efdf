# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What a device offers in detail, as the kernel tells it: typed attributes of its capabilities."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
import re
import struct

from muster.hardware.capabilities import Offer, Value
from muster.hardware.evidence import Record

#: Offers of one device; a camera has one for each format and size.
MAX_OFFERS = 64
#: Speeds that a serial port is commonly asked for (termios(3), and those of servos).
BAUDS = (1200, 2400, 4800, 9600, 19200, 38400, 57600, 115200, 230400, 460800, 500000, 576000, 921600,
         1000000, 1152000, 1500000, 2000000, 2500000, 3000000, 3500000, 4000000)
#: A receiver samples ten bits after one start bit: half a bit of drift is too much, 2 % are safe.
BAUD_TOLERANCE = 0.02
SAMPLE_RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000, 88200, 96000, 176400, 192000)
ARPHRD_ETHER = '1'           # linux/if_arp.h; wireless interfaces have it too
SECTOR = 512                 # bytes: the unit of `size` in sysfs, always
WORD_BITS = 8 * struct.calcsize('L')
# linux/input-event-codes.h
KEY_ESC_TO_D = 0xFFFFFFFE
BTN_LEFT, BTN_TOOL_PEN, BTN_TOOL_FINGER, BTN_TOUCH = 0x110, 0x140, 0x145, 0x14A
BTN_JOYSTICK_TO_THUMBR = sum(1 << code for code in range(0x120, 0x13F))
XY, ABS_RX, ABS_MT_XY = 0b11, 3, 0b11 << 0x35
REL_AXES, ABS_AXES = (1 << 9) - 1, (1 << 0x28) - 1   # without REL_MISC, and from ABS_MISC on
PROP_DIRECT, PROP_ACCELEROMETER = 1, 6
MAC = re.compile(r'(?!00:00:00:00:00:00)[0-9a-f]{2}(:[0-9a-f]{2}){5}')


def offers(members: Iterable[Record]) -> tuple[Offer, ...]:
    """Return what the kernel's records of one device tell of what it offers, each way once."""
    told = dict.fromkeys(offer for record in members if record.subsystem in _READERS
                         for offer in _READERS[record.subsystem](record))
    return tuple(told)[:MAX_OFFERS]


def refine(claimed: Sequence[Offer], told: Sequence[Offer]) -> tuple[Offer, ...]:
    """Return the claimed offers as the kernel tells them: it is believed, what it omits is kept."""
    known = {offer.capability: dict(offer.attributes) for offer in claimed}
    there = {offer.capability for offer in told}
    refined = [Offer.of(offer.capability, **{**known.get(offer.capability, {}), **dict(offer.attributes)})
               for offer in told]
    return (*refined, *(offer for offer in claimed if offer.capability not in there))


def _video(record: Record) -> Iterator[Offer]:
    for mode in record.modes:
        attributes: dict[str, Value] = {'width': mode.width, 'height': mode.height}
        if mode.pixel_format:
            attributes['pixel_format'] = mode.pixel_format
        if mode.fps:
            attributes['fps'] = mode.fps if len(mode.fps) > 1 else mode.fps[0]
        yield Offer.of('video_capture', **attributes)


# Input ----------------------------------------------------------------------------------------
def bitmap(text: str, word_bits: int = WORD_BITS) -> int:
    """Return a bitmap of sysfs (hexadecimal words of a C long, the highest first); 0 where it is none."""
    result = 0
    try:
        for word in text.split():
            result = result << word_bits | int(word, 16) & (1 << word_bits) - 1
    except ValueError:
        return 0
    return result


def _input(record: Record) -> Iterator[Offer]:
    keys, relative, absolute = (bitmap(record.attributes.get(f'capabilities/{kind}', ''))
                                for kind in ('key', 'rel', 'abs'))
    properties = bitmap(record.attributes.get('properties', ''))
    counts = {'buttons': keys.bit_count(),
              'axes': (relative & REL_AXES).bit_count() + (absolute & ABS_AXES).bit_count()}
    if not any(counts.values()):
        return    # a node of the device, or one that has only switches or lights
    for kind in list(_kinds(keys, relative, absolute, properties)) or ['events']:
        yield Offer.of(kind, **counts)


def _kinds(keys: int, relative: int, absolute: int, properties: int) -> Iterator[str]:
    """Yield what an input device is used as; one may be keyboard and mouse."""
    direct = properties >> PROP_DIRECT & 1
    if properties >> PROP_ACCELEROMETER & 1:
        yield 'imu' if absolute >> ABS_RX & 1 else 'accelerometer'
    elif absolute & XY == XY and keys & BTN_JOYSTICK_TO_THUMBR:
        yield 'joystick'
    elif keys >> BTN_TOOL_FINGER & 1 and not keys >> BTN_TOOL_PEN & 1 and not direct:
        yield 'touchpad'
    elif keys >> BTN_TOUCH & 1 and direct and (absolute & XY == XY or absolute & ABS_MT_XY):
        yield 'touchscreen'
    if relative & XY == XY and keys >> BTN_LEFT & 1:
        yield 'mouse'
    if keys & KEY_ESC_TO_D == KEY_ESC_TO_D:
        yield 'keyboard'


# Sound ----------------------------------------------------------------------------------------
def _sound(record: Record) -> Iterator[Offer]:
    """Read the modes of a USB sound device (Linux sound/usb/proc.c); of others the kernel tells none."""
    capability, section = {'p': ('audio_playback', 'Playback:'), 'c': ('audio_capture', 'Capture:')}.get(
        record.name[-1], ('', ''))
    inside, channels = False, 0
    for line in record.attributes.get('stream', '').splitlines():
        key, _, value = line.strip().partition(': ')
        if line and not line.startswith(' '):
            inside = line.strip() == section
        elif inside and key == 'Channels' and value.isdecimal():
            channels = int(value[:6])
        elif inside and key == 'Rates' and channels:
            rates = _rates(value)
            if rates:
                yield Offer.of(capability, channels=channels, sample_rate=rates)
            channels = 0


def _rates(text: str) -> tuple[int, ...]:
    """Return the rates of a list, or the usual ones of a range, as '8000 - 48000 (continuous)'."""
    numbers = tuple(int(number) for number in re.findall(r'\d{1,9}', text))
    if len(numbers) == 2 and 'continuous' in text:
        low, high = numbers
        return tuple(sorted({low, high, *(rate for rate in SAMPLE_RATES if low < rate < high)}))
    return numbers


# Others ---------------------------------------------------------------------------------------
def _serial(record: Record) -> Iterator[Offer]:
    """Tell what a UART's clock can be divided to; of adapters on USB the kernel tells nothing."""
    clock = record.attributes.get('uartclk', '')
    fastest = int(clock[:12]) / 16 if clock.isdecimal() else 0.0
    rates = tuple(baud for baud in BAUDS if baud <= fastest * (1 + BAUD_TOLERANCE)
                  and abs(fastest / round(fastest / baud) - baud) <= BAUD_TOLERANCE * baud)
    if rates:
        yield Offer.of('serial', baud=rates)


def _block(record: Record) -> Iterator[Offer]:
    if record.device_type != 'disk':
        return
    told: dict[str, Value] = {}
    size = record.attributes.get('size', '')
    if size.isdecimal():
        told['capacity'] = int(size[:18]) * SECTOR
    for name, attribute in (('removable', 'removable'), ('rotational', 'queue/rotational')):
        flag = record.attributes.get(attribute)
        if flag in ('0', '1'):
            told[name] = flag == '1'
    if told:
        yield Offer.of('block_storage', **told)


def _net(record: Record) -> Iterator[Offer]:
    if record.attributes.get('type') != ARPHRD_ETHER:
        return
    told: dict[str, Value] = {'wireless': record.device_type == 'wlan'}
    speed, mac = record.attributes.get('speed', ''), record.attributes.get('address', '')
    if speed.isdecimal() and int(speed[:9]):     # Mbit/s; -1 or unreadable without a link
        told['speed'] = int(speed[:9]) * 1_000_000
    if MAC.fullmatch(mac):
        told['mac'] = mac
    yield Offer.of('ip', **told)


_READERS: Mapping[str, Callable[[Record], Iterator[Offer]]] = {
    'video4linux': _video, 'input': _input, 'sound': _sound, 'tty': _serial, 'block': _block, 'net': _net}
