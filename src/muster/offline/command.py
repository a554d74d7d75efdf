# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The command `muster train`: learns a specification in the simulated world, or in a Gymnasium environment.

In the simulated world the observation, action and reward of a specification run through the node's own
control cycle, so what was learned here is loaded there. A Gymnasium environment stands for all of them:
it gives the elements of the observation in the order of the terms, obeys the numbers of the actions and
rewards as it likes. The model goes into the store that the robot's node reads.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, Field, field, fields, replace
from pathlib import Path
import signal
import time
from typing import Any, NoReturn

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from muster.home import state_directory
from muster.learning import gymnasium_env
from muster.learning.agents.base import Agent, Continuous, Hyperparameters
from muster.learning.cycle import ControlCycle
from muster.learning.models import ModelError, ModelStore, snapshot
from muster.learning.specification import (
    check_messages, load_specification, Specification, SpecificationError)
from muster.learning.training import make_agent, rollout
from muster.offline.curve import Curve, draw, sparkline
from muster.offline.trials import judge, ROBOT, UNSEEN, Verdict
from muster.simulation.environment import WorldEnvironment, worlds
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

#: Starts of each check while training, in worlds that neither training nor the judgement sees.
CHECK_STARTS, CHECK_SEED = 50, UNSEEN // 2
#: Every run of training has worlds of its own, so many seeds apart.
WORLDS_APART = 1_000_000
#: The progress bar is brought up to date every so many steps.
SHOWN = 200


class TrainingError(Exception):
    """What was asked for cannot be trained; the message says why."""


@dataclass
class Course:
    """One course of training: what it learns, and what came of it."""

    agent: Agent[Any]
    meaning: dict[str, Any]
    title: str
    rate: float
    """Steps in a second of the robot's time."""
    curve: Curve = field(default_factory=Curve)
    steps: int = 0
    seconds: float = 0.0
    returns: list[float] = field(default_factory=list)
    """Of the evaluation at the end."""
    metrics: dict[str, float] = field(default_factory=dict)


def run(options: argparse.Namespace) -> int:
    """Train as the command line asks, and save; Ctrl-C ends training early and saves what was learned."""
    console = Console(stderr=False)
    try:
        store = ModelStore((options.models or state_directory(options.robot) / 'models').expanduser())
        return _keep(options, _trained(options, console), store, console)
    except (SpecificationError, ModelError, gymnasium_env.GymnasiumError) as error:
        raise TrainingError(str(error)) from error


def _trained(options: argparse.Namespace, console: Console) -> Course:
    specification = load_specification(_found(options.config))
    check_messages(specification)
    parameters = hyperparameters(specification.hyperparameters, specification.agent, options.arguments)
    specification = replace(specification, hyperparameters=parameters)
    if options.environment:
        return _in_gymnasium(options, specification, console)
    return _in_the_world(options, specification, console)


def _course(specification: Specification, seed: int) -> Course:
    return Course(make_agent(specification, seed), specification.meaning, Path(specification.file).name,
                  specification.rate)


# Gymnasium ------------------------------------------------------------------------------------
def _in_gymnasium(options: argparse.Namespace, specification: Specification, console: Console) -> Course:
    environment = gymnasium_env.make(options.environment)
    _check_spaces(specification, environment, options.environment)
    course = _course(specification, options.seed)
    with _interrupt() as interrupted, _progress(console, options.steps) as show:
        begun = time.process_time()

        def ended(step: int, total: float) -> bool:
            course.steps = step
            course.curve.episodes.append((step, total))
            show(course)
            return not interrupted()

        course.steps = gymnasium_env.train(
            course.agent, environment, options.steps, options.seed, progress=ended).steps
        course.seconds = time.process_time() - begun
    if options.evaluate:
        course.returns = gymnasium_env.evaluate(course.agent, environment, options.evaluate, UNSEEN)
        course.metrics = {'starts': float(options.evaluate)}
    return course


def _check_spaces(specification: Specification, environment: Any, name: str) -> None:
    """Refuse an environment that does not stand for what the specification senses and does."""
    elements, actions = gymnasium_env.elements_of(environment), gymnasium_env.actions_of(environment)
    if elements != specification.elements:
        raise TrainingError(f'{name} observes {elements} elements, the terms of {specification.file} '
                            f'{specification.elements}: they must be the same, in the same order')
    wanted = specification.action.space
    if isinstance(wanted, Continuous) and isinstance(actions, Continuous):
        same = np.shape(actions.low) == np.shape(wanted.low) and \
            np.allclose((actions.low, actions.high), (wanted.low, wanted.high))  # float32 of the environment
    else:
        same = actions == wanted
    if not same:
        raise TrainingError(f'{name} obeys {actions}, the action of {specification.file} is {wanted}: '
                            'they must be the same')


# The simulated world --------------------------------------------------------------------------
def _in_the_world(options: argparse.Namespace, specification: Specification, console: Console) -> Course:
    first = worlds(ROBOT, options.seed * WORLDS_APART)
    environment = WorldEnvironment(next(first), ROBOT, first)
    _check_world(specification, environment)
    course = _course(specification, options.seed)
    agent = course.agent
    best = _learn(options, specification, environment, course, console)
    if best:
        agent.restore(*best)
    if options.evaluate:
        verdict = _judged(specification, agent, options.evaluate, UNSEEN)
        course.returns = verdict.returns
        course.metrics = {'success': verdict.success, 'collisions': verdict.collisions,
                          'seconds_to_goal': verdict.seconds, 'starts': float(options.evaluate)}
        course.metrics = {name: value for name, value in course.metrics.items() if value == value}
    return course


def listed(options: argparse.Namespace) -> Table:
    """Return the hyper-parameters of the specification's agent, as the command line changes them."""
    try:
        specification = load_specification(_found(options.config))
    except SpecificationError as error:
        raise TrainingError(str(error)) from error
    kind = specification.agent
    return listing(hyperparameters(specification.hyperparameters, kind, options.arguments), kind)


def _found(name: str) -> Path:
    path = Path(name).expanduser()
    if path.exists() or path.is_absolute():
        return path
    try:
        shared = Path(get_package_share_directory('muster')) / 'config' / 'learning' / path
    except PackageNotFoundError:
        return path
    return shared if shared.exists() else path


def _check_world(specification: Specification, environment: WorldEnvironment) -> None:
    """Refuse, before an hour of safe actions, what this world does not sense or obey."""
    sent = {topic for topic, _ in (*environment.reset(), *environment.step(environment.command(), 0.05))}
    sent.add('episode_end')
    for source in specification.sources:
        if source.topic not in sent:
            raise TrainingError(f"{specification.file}: the simulated world does not send '{source.topic}', "
                                f'only {", ".join(sorted(sent))}: train another robot live, with its node')
    action = specification.action
    if (action.topic, action.type) != ('cmd_vel', 'geometry_msgs/msg/Twist'):
        raise TrainingError(f'{specification.file}: the simulated world obeys geometry_msgs/msg/Twist on '
                            f"'cmd_vel' alone, not {action.type} on '{action.topic}'")


def _learn(options: argparse.Namespace, specification: Specification, environment: WorldEnvironment,
           course: Course, console: Console) -> tuple[Any, Any] | None:
    """Run the course; return the state of the agent that passed its checks best, if it was checked."""
    cycle = ControlCycle(specification, course.agent)
    every = max(1, options.steps // options.checks) if options.checks else options.steps + 1
    best: tuple[Any, Any] | None = None
    highest = (-1.0, 0.0)
    with _interrupt() as interrupted, _progress(console, options.steps) as show:
        begun = time.process_time()
        for decision in rollout(cycle, environment, options.steps):
            course.steps += 1
            if decision.ended:
                course.curve.episodes.append((course.steps, decision.ended.total))
            if course.steps % SHOWN == 0:
                show(course)
            if interrupted():
                break
            if course.steps % every == 0:
                course.seconds += time.process_time() - begun
                verdict = _judged(specification, course.agent, CHECK_STARTS, CHECK_SEED)
                course.curve.checks.append((course.steps, verdict.success))
                score = (verdict.success, sum(verdict.returns))
                if score >= highest:
                    highest, best = score, course.agent.export()
                begun = time.process_time()
        course.seconds += time.process_time() - begun
        show(course)
    return best


def _judged(specification: Specification, agent: Agent[Any], starts: int, seed: int) -> Verdict:
    """Judge a copy: what it drives here is no part of what it has been through."""
    copy = make_agent(specification, 0)
    copy.restore(*agent.export())
    return judge(specification, copy, starts, seed)


# Options --------------------------------------------------------------------------------------
class _Options(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise TrainingError(f"{message} (see 'muster train --config FILE --list')")


def hyperparameters(given: Hyperparameters, kind: str, arguments: Sequence[str]) -> Hyperparameters:
    """Return hyper-parameters changed by options such as `--learning-rate 0.001`; raises TrainingError."""
    parser = _Options(prog='muster train', add_help=False, allow_abbrev=False)
    for item in fields(given):
        parser.add_argument(f'--{item.name.replace("_", "-")}', type=_reader(item), default=None)
    values = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    try:
        return given.changed(**values)
    except ValueError as error:
        raise TrainingError(f'{kind}: {error}') from error


def _reader(item: Field[Any]) -> Callable[[str], Any]:
    if isinstance(item.default, bool):
        return lambda text: {'true': True, 'false': False}[text.lower()]
    if isinstance(item.default, tuple):
        return lambda text: tuple(int(part) for part in text.split(','))
    reader: Callable[[str], Any] = type(item.default)
    return reader


def listing(given: Hyperparameters, kind: str) -> Table:
    """Return the hyper-parameters of an agent as a table."""
    table = Table(title=f'hyper-parameters of {kind}', title_justify='left')
    for column in ('option', 'here', 'range', 'meaning'):
        table.add_column(column, overflow='fold')
    for item in fields(given):
        shown = getattr(given, item.name)
        shown = ','.join(map(str, shown)) if isinstance(shown, tuple) else str(shown)
        span = 'true, false' if isinstance(item.default, bool) else \
            f'{item.metadata["minimum"]:g}..{item.metadata["maximum"]:g}'
        table.add_row(f'--{item.name.replace("_", "-")}', shown, span, escape(item.metadata['description']))
    return table


# Presentation ---------------------------------------------------------------------------------
@contextmanager
def _interrupt() -> Iterator[Callable[[], bool]]:
    """Give a function that says whether Ctrl-C was pressed; a second one is not waited for."""
    asked = False

    def note(*_: Any) -> None:
        nonlocal asked
        asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(console: Console, steps: int) -> Iterator[Callable[[Course], None]]:
    columns = (TextColumn('training'), BarColumn(),
               TextColumn('{task.completed:,.0f} of {task.total:,.0f} steps'),
               TextColumn('{task.fields[told]}'), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=not console.is_terminal) as bar:
        task = bar.add_task('', total=steps, told='')

        def show(course: Course) -> None:
            curve = course.curve
            checked = f', success {curve.checks[-1][1]:.0%}' if curve.checks else ''
            bar.update(task, completed=course.steps,
                       told=f'{len(curve.episodes)} episodes, return {curve.recent():.1f}{checked}')
        yield show


def _keep(options: argparse.Namespace, course: Course, store: ModelStore, console: Console) -> int:
    """Save the model, draw its curve and say what came out."""
    if not course.steps:
        raise TrainingError('nothing was learned: no model was saved')
    course.metrics |= {'steps': float(course.steps), 'processor_seconds': course.seconds}
    version = store.save(snapshot(course.agent, course.meaning), course.metrics, options.name)
    rows = [('saved', f'{version.label} in {store.folder}')]
    if course.returns:
        store.evaluate(version.number, course.returns)
        rows.append(('champion', store.promote(version.number).reason))
    rows = _told(course) + rows
    if options.plot:
        rows.append(('picture', _drawn(course, options.plot)))
    table = Table(title=escape(course.title), title_justify='left', show_header=False)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    console.print(table)
    return 0


def _told(course: Course) -> list[tuple[str, str]]:
    curve, metrics = course.curve, course.metrics
    speed = course.steps / course.seconds if course.seconds else 0.0
    rows = [('steps', f'{course.steps:,} in {course.seconds:.1f} s of processor time, '
             f'{speed:,.0f} a second, {speed / course.rate:,.0f} x real time'),
            ('episodes', f'{len(curve.episodes):,}, mean return of the last 20: {curve.recent():.2f}'),
            ('learning curve', sparkline(curve.returns))]
    if 'success' in metrics:
        rows.append(('success', f'{metrics["success"]:.1%} of {len(course.returns)} starts in unseen worlds, '
                     f'collisions {metrics["collisions"]:.1%}'))
    elif course.returns:
        mean = sum(course.returns) / len(course.returns)
        rows.append(('return', f'{mean:.2f} on average of {len(course.returns)} episodes '
                     'without exploration'))
    return rows


def _drawn(course: Course, path: Path) -> str:
    try:
        draw(course.curve, f'{course.agent.kind}: {course.title}, {course.steps:,} steps in '
             f'{course.seconds:.0f} s of processor time', path)
    except ImportError:
        return 'not drawn: matplotlib is not installed (pip install matplotlib)'
    except OSError as error:
        return f'not drawn: {path}: {error.strerror}'
    return str(path)


__all__ = ['listed', 'run', 'TrainingError']
