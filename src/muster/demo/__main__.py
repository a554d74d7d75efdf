# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Run the demo: `make demo`, or `muster demo` where Muster is installed."""
from __future__ import annotations

import argparse
from pathlib import Path
import shutil
import signal
import sys

from muster.demo.acts import Acts
from muster.demo.claims import Summary
from muster.demo.observer import Missing, Observer
from muster.demo.plots import learning_curve, timeline
from muster.demo.robots import reserved_domain, Robots
from muster.demo.screen import claims_table, Screen

ROBOTS = ('robot_1', 'robot_2', 'robot_3')


def main() -> int:
    """Play the demo; return 0 where every claim holds."""
    parser = argparse.ArgumentParser(prog='muster demo', description=__doc__)
    parser.add_argument('--headless', action='store_true', help='plain lines instead of the live view')
    parser.add_argument('--output', type=Path, default=Path('demo'), metavar='DIR',
                        help='where summary, pictures and logs go; it is emptied (default: %(default)s)')
    options = parser.parse_args()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell had them ignored
        signal.signal(number, signal.default_int_handler)
    folder: Path = options.output.resolve()
    _empty(folder)
    summary = Summary()
    with reserved_domain() as domain, Screen(summary, options.headless) as screen:
        screen.say(f'ROS_DOMAIN_ID={domain} ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST to watch with ros2')
        play(folder, domain, summary, screen)
    summary.write(folder / 'summary.json')
    screen.console.print(claims_table(summary.claims))
    screen.console.print(f'summary and pictures: {folder}', soft_wrap=True)
    return 0 if summary.holds else 1


def play(folder: Path, domain: int, summary: Summary, screen: Screen) -> None:
    """Start the robots, run every act, draw the pictures, and end the robots."""
    robots = Robots(ROBOTS, folder, domain)
    observer = Observer(ROBOTS)
    screen.watch(observer)
    acts = Acts(robots, observer, summary, screen.say)
    try:
        robots.start()
        screen.say('nine nodes and the simulated world are starting')
        acts.play()
        timeline(observer, summary.figures, folder / 'failover.png')
        learning_curve(summary.figures['training'], folder / 'learning_curve.png')
    except Missing as error:
        summary.claim('demo', 'every act runs to its end', str(error), False)
    except KeyboardInterrupt:
        summary.claim('demo', 'every act runs to its end', 'interrupted', False)
    finally:
        screen.say('ending all processes')
        acts.close()
        codes = robots.end()
        observer.close()
        summary.claim('end', 'every process ends by itself after SIGINT, exit code 0',
                      ', '.join(f'{name} {code}' for name, code in codes.items()),
                      bool(codes) and not any(codes.values()))


def _empty(folder: Path) -> None:
    """Empty a folder of an earlier demo, and no other."""
    if folder.exists() and any(folder.iterdir()):
        if not (folder / 'summary.json').exists() and not (folder / 'robot.yaml').exists():
            sys.exit(f"muster demo: '{folder}' is not empty and not of an earlier demo: "
                     'give another --output')
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)


if __name__ == '__main__':
    sys.exit(main())
