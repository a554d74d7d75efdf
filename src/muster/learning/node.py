# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The node `learning`: senses, acts and learns at a fixed rate, and is safe when it cannot."""
from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future as Job, ThreadPoolExecutor
from functools import partial
from pathlib import Path
import threading
import time
import traceback
from typing import Any

from ament_index_python.packages import get_package_share_directory, PackageNotFoundError
from diagnostic_msgs.msg import DiagnosticStatus
from muster.learning.agents.base import Agent, LearningMode
from muster.learning.agents.q_learning import QLearningParameters
from muster.learning.cycle import ControlCycle, Decision, EpisodeRecord
from muster.learning.models import ModelError, ModelNotFoundError, ModelStore, restore, snapshot
from muster.learning.safety import StopRecord
from muster.learning.specification import check_messages, load_specification, SpecificationError
from muster.learning.training import make_agent
from muster.ros import qos
from muster.ros.interfaces import ErrorCode
from muster.ros.main import run
from muster.ros.node import ConfigurationError, diagnostic, ManagedNode
from muster.ros.parameters import ParameterSpec
from muster_interfaces.msg import Action, Episode, LearningStatus
from muster_interfaces.srv import ActivateModel, SaveModel, SetLearningMode
import numpy as np
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.duration import Duration
from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.parameter import Parameter
from rclpy.task import Future
from std_msgs.msg import Bool
from std_srvs.srv import SetBool, Trigger

#: Hyper-parameters that may change while learning; -1 leaves them to the specification.
LIVE = ('learning_rate', 'discount', 'epsilon', 'epsilon_min', 'epsilon_decay')
#: Model files being written or read at one time; more requests are answered BUSY.
MAXIMUM_JOBS = 4
#: With simulated time, so long without a cycle (seconds of real time) gives the safe action.
SILENCE = 0.5
#: The safe action may take so long to be acknowledged before its publisher goes, in seconds.
LAST_WORD = 0.3
STOP, PAUSE = 'emergency stop', 'pause'
AUTOSAVE, LATEST = 'autosave', 'latest'


def _live(value: float) -> str:
    return '' if value == -1.0 or value >= 0.0 else 'must be within 0..1, or -1 for that of the specification'


PARAMETERS = (
    ParameterSpec('specification', 'goal_seeking.yaml', 'File that says what is observed, done and '
                  'rewarded; a relative path is looked up in share/muster/config/learning.', read_only=True),
    ParameterSpec('mode', 'mixed', 'exploration: random, learns; exploitation: best known, does not learn; '
                  'mixed: epsilon-greedy, learns.', choices=tuple(m.name.lower() for m in LearningMode)),
    ParameterSpec('seed', -1, 'Fixes all randomness of the agent; -1 = a new one at every start.',
                  minimum=-1, maximum=2**31 - 1, read_only=True),
    ParameterSpec('model_directory', '', 'Folder of the saved models; empty: models in $MUSTER_HOME/<robot>, '
                  'else in ~/.local/state/muster/<robot>.', read_only=True),
    ParameterSpec('initial_model', '', 'Model to begin with, loaded when configured; empty: none.',
                  read_only=True),
    ParameterSpec('save_on_deactivate', True, f"Save what was learned as '{AUTOSAVE}' when deactivated."),
    ParameterSpec('save_interval', 0.0, f"Save as '{AUTOSAVE}' this often, in seconds; 0 = never.",
                  minimum=0.0, maximum=86400.0),
    *(ParameterSpec(name, -1.0, QLearningParameters.__dataclass_fields__[name].metadata['description']
                    + ' -1 = as the specification says.', minimum=-1.0, maximum=1.0, check=_live)
      for name in LIVE),
)


def boot_time() -> float:
    """Return seconds since the machine started, suspended or not: it never steps back."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LearningNode(ManagedNode):
    """Carries messages into the control cycle and its decisions out, and keeps the models."""

    def __init__(self, **arguments: Any) -> None:
        """Declare the parameters; the specification is read when the node is configured."""
        super().__init__('learning', PARAMETERS, **arguments)
        self._entities: list[tuple[Callable[[Any], Any], Any]] = []
        self._running: list[Any] = []
        self._jobs = 0
        self._jobs_lock = threading.Lock()
        self._worker: ThreadPoolExecutor | None = None
        self._durations: deque[float] = deque(maxlen=100)
        self._decision: Decision | None = None
        self._stop_pressed = False
        self._stop_failure = ''
        self._cycled = 0.0
        self._saved_updates = 0

    # Lifecycle --------------------------------------------------------------------------------
    def configure(self) -> None:
        """Read the specification, make the agent and all entities."""
        home = self.state_directory
        self._models = ModelStore(Path(self.parameters['model_directory'] or home / 'models').expanduser())
        try:
            self._specification = load_specification(self._specification_file())
            classes = check_messages(self._specification)
            agent = self._new_agent()
            if self.parameters['initial_model']:
                agent = self._restored(self._models.load(self.parameters['initial_model']))
        except (SpecificationError, ModelError) as error:
            raise ConfigurationError(str(error)) from error
        self.cycle: ControlCycle[Any] = ControlCycle(self._specification, agent, self._mode(), boot_time)
        self._stop_record = StopRecord(home / 'emergency_stop')
        if self._stop_record.engaged or self._stop_failure:
            self._hold_stopped()
        self._saved_updates = agent.statistics.updates
        self._worker = ThreadPoolExecutor(1, thread_name_prefix='learning-models')
        self._make_topics(classes)
        self._make_services()

    def _specification_file(self) -> Path:
        name = Path(self.parameters['specification']).expanduser()
        if name.is_absolute():
            return name
        try:
            return Path(get_package_share_directory('muster')) / 'config' / 'learning' / name
        except PackageNotFoundError as error:
            raise ConfigurationError("the package 'muster' is not built or not sourced: run 'make shell' or "
                                     "'source install/setup.bash'") from error

    def _make_topics(self, classes: dict[str, type]) -> None:
        action = self._specification.action
        self._command_message = classes[action.type]()
        self._command = self._publisher(classes[action.type], action.topic, qos.COMMANDS)
        self._status = self._publisher(LearningStatus, 'learning/status', qos.STATUS)
        self._episodes = self._publisher(Episode, 'learning/episodes', qos.EVENTS)
        self._actions = self._publisher(Action, 'learning/action', qos.SENSORS)
        types = {source.topic: classes[source.type] for source in self._specification.sources}
        sensors = {term.source.topic for term in self._specification.observation}
        for topic, kind in types.items():
            self._subscribe(kind, topic, partial(self._take, topic),
                            qos.SENSORS if topic in sensors else qos.EVENTS)
        # A latched stop must arrive, and so must one of a publisher that latches nothing; that the
        # latter does not suit the former's subscription is no news.
        for profile in (qos.STATUS, qos.EVENTS):
            self._subscribe(Bool, 'emergency_stop', self._take_stop, profile,
                            event_callbacks=SubscriptionEventCallbacks(use_default_callbacks=False))

    def _make_services(self) -> None:
        waiting = ReentrantCallbackGroup()  # these wait for the disk, and others must be served meanwhile
        for kind, name, callback, group in (
                (SetLearningMode, 'set_mode', self._set_mode, None), (SetBool, 'pause', self._pause, None),
                (Trigger, 'reset', self._reset, None), (Trigger, 'rearm', self._rearm, None),
                (SaveModel, 'save_model', self._save_model, waiting),
                (ActivateModel, 'activate_model', self._activate_model, waiting)):
            service = self.create_service(kind, f'~/{name}', callback, qos_profile=qos.SERVICES,
                                          callback_group=group)
            self._entities.append((self.destroy_service, service))

    def _publisher(self, kind: type, topic: str, profile: Any) -> Any:
        publisher = self.create_lifecycle_publisher(kind, topic, profile)
        self._entities.append((self.destroy_lifecycle_publisher, publisher))
        return publisher

    def _subscribe(self, kind: type, topic: str, callback: Callable[[Any], None], profile: Any,
                   **arguments: Any) -> None:
        subscription = self.create_subscription(kind, topic, callback, profile, **arguments)
        self._entities.append((self.destroy_subscription, subscription))

    def _take(self, topic: str, message: Any) -> None:
        self.cycle.receive(topic, message, boot_time())

    def activate(self) -> None:
        """Begin to sense and act."""
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        period = 1.0 / self._specification.rate
        simulated = self.get_parameter('use_sim_time').value
        self.cycle.begin()
        self._cycled = boot_time()
        # The wall clock may be set back, and then its timers wait: only simulated time is followed.
        self._running = [self.create_timer(period, self._run_cycle, clock=None if simulated else steady),
                         self.create_timer(1.0, self._publish_status, clock=steady)]
        if simulated:
            self._running.append(self.create_timer(SILENCE / 2, self._watch, clock=steady))
        self._autosave_at = boot_time() + self.parameters['save_interval']

    def deactivate(self) -> None:
        """Publish the safe action, then save what was learned."""
        self._stop_timers()
        self._carry_out(self.cycle.make_safe('the node was deactivated'))
        self._publish_status()
        self._command.wait_for_all_acked(Duration(seconds=LAST_WORD))
        if self.parameters['save_on_deactivate']:
            self._autosave()

    def release(self) -> None:
        """Finish writing and destroy all entities."""
        self._stop_timers()
        if self._worker is not None:
            self._worker.shutdown()
            self._worker = None
        while self._entities:
            destroy, entity = self._entities.pop()
            destroy(entity)

    def _stop_timers(self) -> None:
        while self._running:
            self.destroy_timer(self._running.pop())

    # The control cycle ------------------------------------------------------------------------
    def _run_cycle(self) -> None:
        now = self._cycled = boot_time()
        try:
            decision = self.cycle.step(now, self.get_clock().now().nanoseconds * 1e-9)
        except Exception as error:
            decision = self._failed(error)
        self._carry_out(decision)
        self.cycle.learn()
        self._durations.append(boot_time() - now)

    def _failed(self, error: Exception) -> Decision:
        self.get_logger().error(f'the cycle failed, the action is safe: {error}', throttle_duration_sec=5.0)
        self.get_logger().debug(traceback.format_exc())
        return self.cycle.make_safe(f'{type(error).__name__}: {error}')

    def _watch(self) -> None:
        silent = boot_time() - self._cycled
        if silent > SILENCE + 2.0 / self._specification.rate:
            self._carry_out(self.cycle.make_safe(f'no cycle for {silent:.1f} s: does /clock go on?'))

    def _carry_out(self, decision: Decision) -> None:
        stamp = self.get_clock().now().to_msg()
        command = self.cycle.write(decision, self._command_message, stamp)
        if command is not None:
            self._command.publish(command)
        self._actions.publish(Action(
            stamp=stamp, name=decision.name, index=decision.index, exploratory=decision.exploratory,
            values=decision.values.astype(np.float32)))
        self._publish_episode(decision.ended)
        before, self._decision = self._decision, decision
        # Ages count up inside the reason: only a change between safe and not safe is news.
        if before is None or bool(before.safe_reason) != bool(decision.safe_reason):
            self.get_logger().info(f'safe action: {decision.safe_reason}' if decision.safe_reason
                                   else f'acting in mode {self.cycle.mode.name.lower()}')

    def _publish_episode(self, ended: EpisodeRecord | None) -> None:
        if ended:
            self._episodes.publish(Episode(
                stamp=self.get_clock().now().to_msg(), number=ended.number, steps=ended.steps,
                episode_return=ended.total, end=int(ended.end), mode=int(ended.mode)))

    def _publish_status(self) -> None:
        cycle, statistics = self.cycle, self.cycle.agent.statistics
        reason = self._decision.safe_reason if self._decision else ''
        self._status.publish(LearningStatus(
            stamp=self.get_clock().now().to_msg(), mode=int(cycle.mode), paused=PAUSE in cycle.holds,
            safe=bool(reason), safe_reason=reason, agent=cycle.agent.kind, cycles=cycle.cycles,
            updates=statistics.updates, episodes=statistics.episodes, states=cycle.agent.states,
            epsilon=cycle.agent.epsilon, mean_reward=_mean(cycle.returns),
            mean_td_error=_mean(statistics.td_errors), cycle_ms=1e3 * _mean(self._durations),
            oldest_observation_s=cycle.sample.oldest, specification=self._specification.digest))
        interval = self.parameters['save_interval']
        if interval and boot_time() >= self._autosave_at:
            self._autosave_at = boot_time() + interval
            self._autosave()

    # The agent --------------------------------------------------------------------------------
    def _mode(self) -> LearningMode:
        return LearningMode[self.parameters['mode'].upper()]

    def _new_agent(self) -> Agent[Any]:
        seed = self.parameters['seed']
        agent = make_agent(self._specification, None if seed < 0 else seed)
        agent.configure(**self._hyperparameters())
        return agent

    def _hyperparameters(self) -> dict[str, float]:
        return {name: self.parameters[name] if self.parameters[name] >= 0.0
                else getattr(self._specification.hyperparameters, name) for name in LIVE}

    def _restored(self, checkpoint: Any) -> Agent[Any]:
        agent = make_agent(self._specification)
        restore(checkpoint, agent, self._specification.meaning)
        agent.configure(**self._hyperparameters())
        return agent

    def _load(self, name: str) -> Agent[Any]:
        return self._restored(self._models.load(name))

    def _replace_agent(self, agent: Agent[Any]) -> None:
        self._publish_episode(self.cycle.change_mode(self.cycle.mode))
        self.cycle.agent = agent
        self._saved_updates = agent.statistics.updates

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Apply the mode and the hyper-parameters from the next cycle on."""
        if not self._entities:
            return
        if 'mode' in changed:
            self._publish_episode(self.cycle.change_mode(self._mode()))
        if set(changed) & set(LIVE):
            self.cycle.agent.configure(**self._hyperparameters())

    def _autosave(self) -> None:
        agent = self.cycle.agent
        if agent.statistics.updates == self._saved_updates or self._jobs >= MAXIMUM_JOBS:
            return
        self._saved_updates = agent.statistics.updates
        job = self._submit(self._models.save, snapshot(agent, self._specification.meaning), {}, AUTOSAVE)
        job.add_done_callback(lambda done: done.exception() and self.get_logger().error(
            f'autosave failed: {done.exception()}'))

    # The emergency stop -----------------------------------------------------------------------
    def _take_stop(self, message: Bool) -> None:
        self._stop_pressed = message.data
        if not message.data or (STOP in self.cycle.holds and not self._stop_failure):
            return
        self._hold_stopped()
        if self.is_active:
            self._carry_out(self.cycle.make_safe(self.cycle.holds[STOP]))
        # Only now, when the robot stops, the disk: after a crash the stop must still be known.
        try:
            self._stop_record.engage()
            self._stop_failure = ''
        except OSError as error:
            self._stop_failure = f'the stop is not recorded, a restart would forget it: {error}'
            self.get_logger().error(self._stop_failure)

    def _hold_stopped(self) -> None:
        name = self.get_fully_qualified_name()
        self.cycle.holds = {STOP: f'emergency stop; call {name}/rearm to go on', **self.cycle.holds}

    def _rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.is_active:
            return self._inactive(response)
        if self._stop_pressed:
            response.message = 'the emergency stop is still engaged: publish false on emergency_stop first'
            return response
        try:
            self._stop_record.clear()
        except OSError as error:
            response.message = f'the record of the stop could not be removed: {error}'
            return response
        self._stop_failure = ''
        was_stopped = self.cycle.holds.pop(STOP, None)
        response.success, response.message = True, 'armed' if was_stopped else 'was armed already'
        return response

    # Services ---------------------------------------------------------------------------------
    def _inactive(self, response: Any) -> Any:
        response.message = f'{self.get_fully_qualified_name()} is not active: activate it first'
        if hasattr(response, 'error_code'):
            response.error_code = ErrorCode.INACTIVE
        return response

    def _set_mode(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return self._inactive(response)
        if request.mode not in set(LearningMode):
            known = ', '.join(f'{mode.value} ({mode.name.lower()})' for mode in LearningMode)
            response.error_code = ErrorCode.INVALID
            response.message = f'mode must be one of {known}, not {request.mode}'
            return response
        name = LearningMode(request.mode).name.lower()
        self.set_parameters([Parameter('mode', value=name)])
        response.success, response.message = True, f'mode {name}'
        return response

    def _pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        if not self.is_active:
            return self._inactive(response)
        if request.data:
            self.cycle.holds[PAUSE] = 'paused'
        else:
            self.cycle.holds.pop(PAUSE, None)
        response.success, response.message = True, 'paused' if request.data else 'running'
        return response

    def _reset(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        if not self.is_active:
            return self._inactive(response)
        self._replace_agent(self._new_agent())
        response.success, response.message = True, 'everything learned is forgotten; saved models are kept'
        return response

    async def _save_model(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return self._inactive(response)
        updates = self.cycle.agent.statistics.updates
        checkpoint = snapshot(self.cycle.agent, self._specification.meaning)
        version = await self._on_disk(response, self._models.save, checkpoint, {}, request.name)
        if version is not None:
            self._saved_updates = updates
            response.success, response.message = True, f'saved as {version.label}'
            response.path = str(self._models.path(version))
        return response

    async def _activate_model(self, request: Any, response: Any) -> Any:
        if not self.is_active:
            return self._inactive(response)
        name = request.name or LATEST
        agent = await self._on_disk(response, self._load, name)
        if agent is not None and not self.is_active:
            return self._inactive(response)
        if agent is not None:
            self._replace_agent(agent)
            response.success = True
            response.message = f"acting by model '{name}': {agent.statistics.updates} updates"
        return response

    async def _on_disk(self, response: Any, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do `work` in the worker thread; return its result, or None with the error in `response`."""
        if self._jobs >= MAXIMUM_JOBS:
            response.error_code = ErrorCode.BUSY
            response.message = f'{MAXIMUM_JOBS} models are being written or read already: repeat later'
            return None
        finished = Future(executor=self.executor)
        job = self._submit(work, *arguments)

        def wake(_: Job[Any]) -> None:
            finished.set_result(None)
            if self.executor is not None:
                self.executor.wake()
        job.add_done_callback(wake)
        await finished
        error = job.exception()
        if error is None:
            return job.result()
        response.message = str(error)
        if isinstance(error, ModelNotFoundError):
            response.error_code = ErrorCode.NOT_FOUND
        elif isinstance(error, ModelError):
            response.error_code = ErrorCode.STORAGE if error.storage else ErrorCode.INVALID
        else:
            response.error_code = ErrorCode.INTERNAL
            self.get_logger().error(f'{type(error).__name__}: {error}')
        return None

    def _submit(self, work: Callable[..., Any], *arguments: Any) -> Job[Any]:
        assert self._worker is not None
        with self._jobs_lock:
            self._jobs += 1
        job = self._worker.submit(work, *arguments)
        job.add_done_callback(self._job_done)
        return job

    def _job_done(self, _: Job[Any]) -> None:
        with self._jobs_lock:
            self._jobs -= 1

    # Diagnostics ------------------------------------------------------------------------------
    def concerns(self) -> list[DiagnosticStatus]:
        """Report whether it acts, and whether it learns."""
        own, cycle, statistics = self.get_fully_qualified_name(), self.cycle, self.cycle.agent.statistics
        reason = self._decision.safe_reason if self._decision else 'no cycle yet'
        level = DiagnosticStatus.ERROR if STOP in cycle.holds else DiagnosticStatus.WARN
        learning = self._stop_failure or (cycle.learning_problem if not reason and cycle.mode.learns else '')
        return [
            diagnostic(level if reason else DiagnosticStatus.OK, f'{own}: control',
                       f'safe action: {reason}' if reason else 'acting', self.robot, cycles=cycle.cycles,
                       cycle_ms=f'{1e3 * _mean(self._durations):.2f}',
                       oldest_observation_s=f'{cycle.sample.oldest:.2f}'),
            diagnostic(DiagnosticStatus.WARN if learning else DiagnosticStatus.OK, f'{own}: learning',
                       learning or cycle.mode.name.lower(), self.robot, updates=statistics.updates,
                       episodes=statistics.episodes, epsilon=f'{cycle.agent.epsilon:.3f}')]


def _mean(values: deque[float]) -> float:
    return float(np.mean(values)) if values else 0.0


def main(args: list[str] | None = None) -> None:
    """Run the learning node until SIGINT or SIGTERM."""
    run(LearningNode, args=args)


if __name__ == '__main__':
    main()
