# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
USB devices in plain Python, plugged into the kernel's virtual host controller (vhci_hcd).

Runs in the guest as a process of its own, so that emulating does not slow what is measured: it reads
one command a line, `plug NAME`, `unplug` or `chips ADDRESS…`, and answers with the monotonic time
(seconds) at which the kernel was told. The kernel's drivers see descriptors and answers as those of
the real device; how it works is in Documentation/usb/usbip_protocol.rst.
"""
from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
import struct
import sys
import time
from typing import Any

from usbip import protocol
from usbip.classes.device import CDCACM, HID, UVC
from usbip.core import SPEED_FULL, SPEED_HIGH, WIRE_SPEED
from usbip.device import In, Out, USBDevice
from usbip.function import Interface
from usbip.transport import Loopback

VHCI = Path('/sys/devices/platform/vhci_hcd.0')

#: USB HID 1.11, section 6.2.2: a game pad (usage 1/5) with two axes of 8 bits and 8 buttons.
GAMEPAD = bytes.fromhex('05 01 09 05 a1 01  09 30 09 31 15 00 26 ff 00 75 08 95 02 81 02 '
                        ' 05 09 19 01 29 08 15 00 25 01 75 01 95 08 81 02  c0')

#: What the chips on the I2C adapter hold: address, register, value (config/devices/i2c.yaml).
CHIPS: dict[int, dict[int, int]] = {
    0x1e: {0x0a: 0x48, 0x0b: 0x34, 0x0c: 0x33},   # HMC5883L
    0x28: {0x00: 0xa0, 0x01: 0xfb},               # BNO055
    0x29: {0xc0: 0xee, 0xc1: 0xaa},               # VL53L0X
    0x53: {0x00: 0xe5},                           # ADXL345
    0x68: {0x75: 0x71},                           # MPU-9250
    0x6b: {0x0f: 0x6c},                           # LSM6DSO
}


class Vendor(Interface):
    """A vendor's own interface: every read gives zeros, every write is taken."""

    def on_control(self, setup: Any, data: bytes = b'') -> bytes:
        """Answer a request on the control pipe."""
        return bytes(setup.wLength) if setup.bmRequestType & 0x80 else b''


class Bridge(Vendor):
    """A serial bridge: two bulk pipes, and one for changes of its lines."""

    data_in = In(0x81, mps=64)
    data_out = Out(0x01, mps=64)
    lines = In(0x82, 'interrupt', mps=16, interval=1)


class PlainBridge(Vendor):
    """A serial bridge, or a CAN adapter, with two bulk pipes only."""

    data_in = In(0x81, mps=64)
    data_out = Out(0x02, mps=64)


class Xbox(Vendor):
    """The data interface of an Xbox 360 controller (Linux drivers/input/joystick/xpad.c)."""

    bInterfaceSubClass, bInterfaceProtocol = 0x5d, 0x01
    data_in = In(0x81, 'interrupt', mps=32, interval=4)
    data_out = Out(0x01, 'interrupt', mps=32, interval=8)


class I2cAdapter(Vendor):
    """i2c-tiny-usb (Linux drivers/i2c/busses/i2c-tiny-usb.c) with the chips that are `present`."""

    GET_FUNC, GET_STATUS, IO = 1, 3, 4
    #: What it can do: plain I2C, and SMBus emulated on it.
    FUNCTIONS = 0x8eff0001
    NO_SUCH_REQUEST, READ = 0, 1

    def __init__(self, present: set[int]) -> None:
        """Take the addresses of the chips; the set may be changed while it is plugged in."""
        super().__init__()
        self._present = present
        self._acknowledged = False
        self._pointers: dict[int, int] = {}

    def on_control(self, setup: Any, data: bytes = b'') -> bytes:
        """Answer a request: wValue has the flags of i2c_msg, wIndex the address."""
        if setup.bRequest == self.GET_FUNC:
            return struct.pack('<I', self.FUNCTIONS)
        if setup.bRequest == self.GET_STATUS:
            return b'\1' if self._acknowledged else b'\2'
        if setup.bRequest < self.IO:
            return super().on_control(setup, data)
        address, reading = setup.wIndex, bool(setup.wValue & self.READ)
        self._acknowledged = address in self._present
        if reading:
            start, registers = self._pointers.get(address, 0), CHIPS.get(address, {})
            return bytes(registers.get(start + n & 0xff, 0) for n in range(setup.wLength))
        if data:
            self._pointers[address] = data[0]
        return b''


def chip_bus(present: set[int]) -> Callable[[], USBDevice]:
    """Return a maker of the I2C adapter."""
    return lambda: made(0x0403, 0xc631, 'i2c-tiny-usb', I2cAdapter(present))


def made(vendor: int, product: int, title: str, function: Any, speed: int = SPEED_FULL,
         maker: str = 'emulated', **device: Any) -> USBDevice:
    """Return a device with one function; a device's own requests go to it as well."""
    result = USBDevice(vendor, product, product=title, manufacturer=maker, serial='', **device)
    result.set_speed(speed)
    result.add(function)
    return result


PRESENT: set[int] = set()
DEVICES: dict[str, Callable[[], USBDevice]] = {
    'cp2102': lambda: made(0x10c4, 0xea60, 'CP2102 USB to UART Bridge Controller', PlainBridge()),
    'ch340': lambda: made(0x1a86, 0x7523, 'USB Serial', Bridge(), bcdDevice=0x0264),
    'ft232r': lambda: made(0x0403, 0x6001, 'FT232R USB UART', PlainBridge(), bcdDevice=0x0600),
    'u-blox 8': lambda: made(0x1546, 0x01a8, 'u-blox GNSS receiver', CDCACM()),
    'urg': lambda: made(0x15d1, 0x0000, 'URG-Series USB Driver', CDCACM()),
    'uno': lambda: made(0x2341, 0x0043, 'Arduino Uno', CDCACM()),
    'c920': lambda: made(0x046d, 0x082d, 'HD Pro Webcam C920', UVC(1280, 720, 30, ('yuyv', 'mjpeg')),
                         SPEED_HIGH),
    'gamepad': lambda: made(0x0079, 0x0011, 'USB Gamepad', HID(GAMEPAD)),
    'xbox': lambda: made(0x045e, 0x028e, 'Controller', Xbox(), device_class=0xff, device_subclass=0xff,
                         device_protocol=0xff),
    'canable': lambda: made(0x1d50, 0x606f, 'canable gs_usb', PlainBridge()),
    'i2c-tiny-usb': chip_bus(PRESENT),
}


class Port:
    """One port of the virtual host controller."""

    #: Ports 0-7 are of USB 2; the device number is any that no other port uses.
    NUMBER, DEVICE = 0, 0x10002

    def __init__(self) -> None:
        """Begin empty."""
        self._wire: Any = None

    def plug(self, device: USBDevice) -> float:
        """Hand the kernel a socket that speaks for the device; return the time."""
        transport = Loopback()
        transport.serve(device)
        self._wire = transport, (socket := transport.connect())
        protocol.client_import(socket, b'1-1')
        now = time.monotonic()
        speed = WIRE_SPEED[device.speed]
        (VHCI / 'attach').write_text(f'{self.NUMBER} {socket.fileno()} {self.DEVICE} {speed}')
        return now

    def unplug(self) -> float:
        """Pull the device out; return the time."""
        now = time.monotonic()
        (VHCI / 'detach').write_text(str(self.NUMBER))
        transport, socket = self._wire
        socket.close()
        transport.stop()
        return now


def main() -> None:
    """Do what the lines of the standard input say."""
    port = Port()
    for line in sys.stdin:
        command, _, rest = line.strip().partition(' ')
        if command == 'plug':
            moment = port.plug(DEVICES[rest]())
        elif command == 'unplug':
            moment = port.unplug()
        else:
            PRESENT.clear()
            PRESENT.update(int(address, 16) for address in rest.split())
            moment = time.monotonic()
        print(moment, flush=True)


if __name__ == '__main__':
    main()
