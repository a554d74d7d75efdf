# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node `learning`: senses, acts and learns at a fixed rate, and is safe when it cannot."""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from diagnostic_msgs.msg import DiagnosticStatus
from muster.learning import tuning
from muster.learning.agents.base import Agent, LearningMode, Value
from muster.learning.continual.reservoir import check_task
from muster.learning.control import boot_time, Control
from muster.learning.emergency_stop import EmergencyStop
from muster.learning.model_keeper import AUTOSAVE, ModelKeeper
from muster.learning.models import ModelError, restore, Version
from muster.learning.safety import StopRecord
from muster.learning.services import Services
from muster.learning.specification import (
    check_messages, load_specification, Specification, SpecificationError)
from muster.learning.specification.loader import AGENTS
from muster.learning.status import concerns, PAUSE, status_message, STOP
from muster.learning.training import make_agent
from muster.learning.training_action import TrainingAction
from muster.ros import qos
from muster.ros.main import run
from muster.ros.node import ConfigurationError, ManagedNode
from muster.ros.parameters import ParameterSpec
from muster_interfaces.msg import Action, Episode, LearningStatus
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.parameter import Parameter
from std_msgs.msg import Bool

#: With simulated time, so long without a cycle (seconds of real time) gives the safe action.
SILENCE = 0.5
#: The safe action may take so long to be acknowledged before its publisher goes, in seconds.
LAST_WORD = 0.3


def _task_problem(task: str) -> str:
    try:
        check_task(task)
    except ValueError as error:
        return str(error)
    return ''


PARAMETERS = (
    ParameterSpec('specification', 'goal_seeking.yaml', 'File that says what is observed, done and '
                  'rewarded; a relative path is looked up in share/muster/config/learning.', read_only=True),
    ParameterSpec('mode', 'mixed', 'exploration: random, learns; exploitation: best known, does not learn; '
                  'mixed: explores sometimes, learns.', choices=tuple(m.name.lower() for m in LearningMode)),
    ParameterSpec('task', '', 'What is learned from now on; another one consolidates the one before. Empty: '
                  'the only task there is.', check=_task_problem),
    ParameterSpec('seed', -1, 'Fixes all randomness of the agent; -1 = a new one at every start.',
                  minimum=-1, maximum=2**31 - 1, read_only=True),
    ParameterSpec('model_directory', '', 'Folder of the saved models; empty: models in $MUSTER_HOME/<robot>, '
                  'else in ~/.local/state/muster/<robot>.', read_only=True),
    ParameterSpec('initial_model', '', 'Model to begin with, loaded when configured: a version, a name, '
                  "'champion' or 'latest'; empty: none.", read_only=True),
    ParameterSpec('save_on_deactivate', True, f"Save what was learned as '{AUTOSAVE}' when deactivated."),
    ParameterSpec('save_interval', 0.0, f"Save as '{AUTOSAVE}' this often, in seconds; 0 = never.",
                  minimum=0.0, maximum=86400.0),
    *tuning.all_specs(AGENTS.values()),
)


class LearningNode(ManagedNode):
    """Puts together the control cycle, the models, the services and the action of one robot."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; the specification is read when the node is configured."""
        super().__init__('learning', PARAMETERS, **arguments)
        self._releases: list[Callable[[], Any]] = []
        self._running: list[Any] = []
        self._stop = EmergencyStop(StopRecord(self.state_directory / 'emergency_stop'))

    # Lifecycle --------------------------------------------------------------------------------
    def configure(self) -> None:
        """Read the specification, make the agent and all entities."""
        folder = Path(self.parameters['model_directory'] or self.state_directory / 'models').expanduser()
        try:
            self._specification = load_specification(self._specification_file())
            classes = check_messages(self._specification)
            self._declare_hyperparameters()
            self.keeper = ModelKeeper(self, folder, self._specification.meaning)
            self._releases.append(self.keeper.close)
            agent, version = self.load_agent(self.parameters['initial_model']) \
                if self.parameters['initial_model'] else (self.new_agent(), None)
        except (SpecificationError, ModelError, ValueError) as error:
            raise ConfigurationError(str(error)) from error
        self.keeper.adopt(agent, version)
        self._make_topics(classes, agent)
        self._stop.recall()
        self._hold_if_stopped()
        self.training = TrainingAction(self, self.control, self.keeper, self.begin_task, (STOP,))
        services = Services(self)
        self._releases += [self.training.close, services.close]
        self.begin_task(self.parameters['task'] or agent.task)

    def _specification_file(self) -> Path:
        name = Path(self.parameters['specification']).expanduser()
        if name.is_absolute():
            return name
        try:
            return Path(get_package_share_directory('muster')) / 'config' / 'learning' / name
        except PackageNotFoundError as error:
            raise ConfigurationError("the package 'muster' is not built or not sourced: run 'make shell' or "
                                     "'source install/setup.bash'") from error

    def _declare_hyperparameters(self) -> None:
        parameters = self._specification.hyperparameters
        problems = self.parameters.declare(tuning.specs(parameters))
        if problems:
            raise ConfigurationError('; '.join(problems))

    def _make_topics(self, classes: dict[str, type], agent: Agent[Any]) -> None:
        action, kind = self._specification.action, classes[self._specification.action.type]
        self._status = self._publisher(LearningStatus, 'learning/status', qos.STATUS)
        self.control = Control(self, self._specification, agent, self._mode(), (
            self._publisher(kind, action.topic, qos.COMMANDS),
            self._publisher(Action, 'learning/action', qos.SENSORS),
            self._publisher(Episode, 'learning/episodes', qos.EVENTS)), kind())
        types = {source.topic: classes[source.type] for source in self._specification.sources}
        sensors = {term.source.topic for term in self._specification.observation}
        for topic, kind in types.items():
            self._subscribe(kind, topic, partial(self.control.receive, topic),
                            qos.SENSORS if topic in sensors else qos.EVENTS)
        # A latched stop must arrive, and so must one of a publisher that latches nothing; that the
        # latter does not suit the former's subscription is no news.
        for profile in (qos.STATUS, qos.EVENTS):
            self._subscribe(Bool, 'emergency_stop', self._take_stop, profile,
                            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        publisher = self.create_lifecycle_publisher(kind, topic, profile)
        self._releases.append(partial(self.destroy_lifecycle_publisher, publisher))
        return publisher

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any,
                   **arguments: Any) -> None:
        subscription = self.create_subscription(kind, topic, callback, profile, **arguments)
        self._releases.append(partial(self.destroy_subscription, subscription))

    def activate(self) -> None:
        """Begin to sense and act."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = 1.0 / self._specification.rate
        simulated = self.get_parameter('use_sim_time').value
        self.control.begin()
        # The wall clock may be set back, and then its timers wait: only simulated time is followed.
        self._running = [self.create_timer(period, self.control.run, clock=None if simulated else steady),
                         self.create_timer(1.0, self._look, clock=steady)]
        if simulated:
            self._running.append(self.create_timer(SILENCE / 2, self._watch, clock=steady))
        self._autosave_at = boot_time() + self.parameters['save_interval']

    def deactivate(self) -> None:
        """Publish the safe action, then save what was learned."""
        self._stop_timers()
        self.control.make_safe('the node was deactivated')
        self.training.end('the node was deactivated')
        self._publish_status()
        self.control.command.wait_for_all_acked(Duration(seconds=LAST_WORD))
        if self.parameters['save_on_deactivate']:
            self.keeper.autosave(self.control.agent)

    def release(self) -> None:
        """Finish writing and destroy all entities."""
        self._stop_timers()
        while self._releases:
            self._releases.pop()()

    def _stop_timers(self) -> None:
        while self._running:
            self.destroy_timer(self._running.pop())

    # Once a second ----------------------------------------------------------------------------
    def _look(self) -> None:
        self.training.look()
        self._publish_status()
        interval = self.parameters['save_interval']
        if interval and boot_time() >= self._autosave_at:
            self._autosave_at = boot_time() + interval
            self.keeper.autosave(self.control.agent)

    def _publish_status(self) -> None:
        stamp = self.get_clock().now().to_msg()
        self._status.publish(status_message(self.control, self.keeper.active, stamp))

    def _watch(self) -> None:
        silent = boot_time() - self.control.cycled
        if silent > SILENCE + 2.0 / self._specification.rate:
            self.control.make_safe(f'no cycle for {silent:.1f} s: does /clock go on?')

    def concerns(self) -> list[DiagnosticStatus]:
        """Report whether it acts, whether it learns, and whether it keeps its rate."""
        return concerns(self.control, self._stop, self.get_fully_qualified_name(), self.robot)

    # The agent --------------------------------------------------------------------------------
    def _mode(self) -> LearningMode:
        return LearningMode[self.parameters['mode'].upper()]

    def new_agent(self) -> Agent[Any]:
        """Return an agent that knows nothing, with the hyper-parameters as they are now."""
        seed = self.parameters['seed']
        return make_agent(self._tuned(), None if seed < 0 else seed)

    def load_agent(self, selector: int | str) -> tuple[Agent[Any], Version | None]:
        """
        Return a saved agent and its version, None for a file put there by hand.

        Blocks on the disk, and may run in any thread; raises ModelError.
        """
        checkpoint, version = self.keeper.load(selector)
        agent = make_agent(self._tuned())
        restore(checkpoint, agent, self._specification.meaning)
        agent.configure(**self._live())
        return agent, version

    def replace_agent(self, agent: Agent[Any], version: Version | None, why: str) -> None:
        """Act by another agent from the next cycle on; a training that is going on ends."""
        self.training.end(why)
        self.control.replace(agent)
        self.keeper.adopt(agent, version)
        self.begin_task(agent.task)

    def _tuned(self) -> Specification:
        given = self._specification.hyperparameters
        return replace(self._specification, hyperparameters=given.changed(
            **tuning.values(given, self.parameters.__getitem__)))

    def _live(self) -> dict[str, Value]:
        return tuning.values(self._specification.hyperparameters, self.parameters.__getitem__, live=True)

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Apply mode, task and hyper-parameters from the next cycle on."""
        if not self._releases:
            return
        if 'mode' in changed:
            self.training.change_mode(self._mode())
        if 'task' in changed:
            self.control.begin_task(changed['task'])
        live = {name: value for name, value in self._live().items() if name in changed}
        if live:
            self.control.agent.configure(**live)

    def begin_task(self, task: str) -> None:
        """Learn `task` from now on, and say so in the parameter; raises ValueError."""
        self.control.begin_task(task)
        if self.parameters['task'] != task:
            self.set_parameters([Parameter('task', value=task)])

    def consolidate(self, task: str) -> str:
        """
        Hold on to the present task and return its name; then learn `task`, or go on if it is empty.

        Raises ValueError and changes nothing where that cannot be.
        """
        before = self.control.agent.task
        if task in ('', before):
            self.control.agent.consolidate()
        else:
            self.begin_task(task)
        return before

    # Standing still ---------------------------------------------------------------------------
    def pause(self, paused: bool) -> None:
        """Stand still until told otherwise, or go on."""
        if paused:
            self.control.cycle.holds[PAUSE] = 'paused'
        else:
            self.control.cycle.holds.pop(PAUSE, None)

    def _take_stop(self, message: Bool) -> None:
        if not self._stop.press(message.data):
            return
        self._hold_if_stopped()
        if self.is_active:
            self.control.make_safe(self.control.cycle.holds[STOP])
        # Only now, when the robot stops, the disk: after a crash the stop must still be known.
        self._stop.record()
        if self._stop.failure:
            self.get_logger().error(self._stop.failure)

    def _hold_if_stopped(self) -> None:
        if self._stop.engaged:
            reason = f'emergency stop; call {self.get_fully_qualified_name()}/rearm to go on'
            self.control.cycle.holds = {STOP: reason, **self.control.cycle.holds}

    def rearm(self) -> tuple[bool, str]:
        """End the emergency stop; return whether it is over, and a word about it."""
        over, message = self._stop.rearm()
        if over:
            self.control.cycle.holds.pop(STOP, None)
        return over, message


def main(args: list[str] | None = None) -> None:
    """Run the learning node until SIGINT or SIGTERM."""
    run(LearningNode, args=args)


if __name__ == '__main__':
    main()
