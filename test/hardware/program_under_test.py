# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
Muster's own discovery as a process: tells events as lines of JSON, answers commands on its input.

Arguments: `i2c NUMBER`, `spi NODE` or `serial PORT` for a source beside udev's; `grace SECONDS`.
"""
from __future__ import annotations

import json
from pathlib import Path
import sys
import threading
from typing import Any

from muster.hardware import HardwareAutoDiscoverySystem
from muster.hardware.devices import Device
from muster.hardware.identification import Rules
from muster.hardware.sources.i2c import I2cSource
from muster.hardware.sources.serial_probing import SerialProber
from muster.hardware.sources.spi import SpiSource
from muster.hardware.sources.udev import UdevSource
from muster.hardware.sources.worker import Source

HOUR = 3600.0
LOCK = threading.Lock()


def tell(**told: Any) -> None:
    """Print a line."""
    with LOCK:
        print(json.dumps(told), flush=True)


def facts(device: Device) -> dict[str, Any]:
    """Return a device as JSON."""
    return {'id': device.id, 'name': device.name, 'type': device.type, 'confidence': device.confidence,
            'nodes': device.nodes, 'path': device.path, 'status': device.status.name,
            'offers': [str(offer) for offer in device.every_offer]}


def main(arguments: list[str]) -> None:
    """Run until the input is closed."""
    rules = Rules.load(sorted((Path(__file__).parents[2] / 'config' / 'devices').glob('*.yaml')))
    sources: list[Source] = [UdevSource(rules)]
    grace = 0.1
    for kind, what in zip(arguments[::2], arguments[1::2], strict=True):
        match kind:
            case 'grace':
                grace = float(what)
            case 'i2c':
                sources.append(I2cSource(int(what), rules))
            case 'spi':
                sources.append(SpiSource(what, rules))
            case 'serial':
                sources.append(SerialProber(what, rules))
            case _:
                sys.exit(f'unknown argument {kind}')
    system = HardwareAutoDiscoverySystem('bed', HOUR, sources=sources, grace=grace)
    for name in ('discovered', 'connected', 'changed', 'error', 'disconnected'):
        system.on_event(f'device_{name}', lambda event: tell(
            event=event['event'].removeprefix('device_'), sequence=event['sequence'], reason=event['reason'],
            **facts(event['device'])))
    system.start()
    for line in sys.stdin:
        command, *words = json.loads(line)
        tell(event='answer', answer=[facts(device) for device in system.registry.get_devices()]
             if command == 'list' else system.get_system_status() if command == 'status'
             else system.negotiate_capabilities(words[0], words[1:]))
    system.stop()


if __name__ == '__main__':
    main(sys.argv[1:])
