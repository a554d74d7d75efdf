# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""What the three nodes share: a managed node with parameters, autostart and diagnostics."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
import re
import threading
import traceback
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from muster.home import state_directory
from muster.ros.parameters import Parameters, ParameterSpec
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from std_msgs.msg import Header

#: A name that is safe in topics, files and messages alike.
NAME = re.compile(r'[A-Za-z][A-Za-z0-9_]{0,63}')
#: Seconds between two diagnostics.
DIAGNOSTICS_INTERVAL = 1.0

COMMON_PARAMETERS = (
    ParameterSpec('autostart', True, 'Configure and activate by itself when started.', read_only=True),
    ParameterSpec('diagnostics_topic', '/diagnostics', 'Topic of the diagnostics, 1 Hz.', read_only=True),
)


class ConfigurationError(Exception):
    """What the operator gave cannot work; the message names it and the remedy."""


def diagnostic(level: bytes, concern: str, message: str, hardware_id: str,
               **values: Any) -> DiagnosticStatus:
    """Build one /diagnostics status: `level` is a DiagnosticStatus constant, `values` its facts."""
    return DiagnosticStatus(level=level, name=concern, message=message, hardware_id=hardware_id,
                            values=[KeyValue(key=k, value=str(v)) for k, v in values.items()])


class ManagedNode(LifecycleNode):
    """
    A lifecycle node whose subclass says what to do, and which survives what goes wrong there.

    The subclass overrides `configure`, `activate`, `deactivate`, `release` and `concerns`. An
    error in `configure` or `activate` is logged, everything made so far is released, and the
    transition fails; the node stays alive for the operator to correct it.
    """

    def __init__(self, name: str, specs: Sequence[ParameterSpec], *, concerns_in_thread: bool = False,
                 **arguments: Any) -> None:
        """
        Declare the parameters and begin publishing diagnostics.

        `concerns_in_thread` lets a thread of its own call `concerns` while the executor runs, for a node
        that is idle most of the time: a thread that wakes costs a fraction of rclpy's executor, which
        builds its wait set of all entities anew each time.
        """
        super().__init__(name, allow_undeclared_parameters=True,
                         automatically_declare_parameters_from_overrides=True, **arguments)
        self.failure = ''
        self.parameters = Parameters(self, (*COMMON_PARAMETERS, *specs), self._change)
        self._diagnostics = super().create_publisher(
            DiagnosticArray, self.parameters['diagnostics_topic'], 10)
        self._ended = threading.Event()
        self._beat: threading.Thread | None = None
        if concerns_in_thread:
            self._beat = threading.Thread(target=self._publish_until_ended, name='diagnostics', daemon=True)
            self._beat.start()
        else:   # on the steady clock: with `use_sim_time` a paused simulation must not silence a node
            self.create_timer(DIAGNOSTICS_INTERVAL, self.publish_diagnostics,
                              clock=Clock(clock_type=ClockType.STEADY_TIME))

    def destroy_node(self) -> None:
        """End the diagnostics, then give back everything else."""
        self._ended.set()
        if self._beat is not None:
            self._beat.join()
        super().destroy_node()

    @property
    def robot(self) -> str:
        """Return the robot's name: the namespace, or `robot` at the root."""
        return self.get_namespace().strip('/').replace('/', '_') or 'robot'

    @property
    def state_directory(self) -> Path:
        """Return where this robot keeps what lasts: `$MUSTER_HOME/<robot>`, or below the XDG state home."""
        return state_directory(self.robot)

    # What a subclass provides -----------------------------------------------------------------
    def configure(self) -> None:
        """Make all entities; raise ConfigurationError where the operator must act."""

    def activate(self) -> None:
        """Begin to work."""

    def deactivate(self) -> None:
        """Stop working; runs before the publishers are switched off."""

    def release(self) -> None:
        """Destroy all that `configure` made, also when it got only half-way; may run twice."""

    def parameters_changed(self, changed: dict[str, Any]) -> None:
        """Apply values that were set live."""

    def concerns(self) -> list[DiagnosticStatus]:
        """Return the diagnostics of the subclass, one status for each concern."""
        return []

    def _change(self, changed: dict[str, Any]) -> None:
        try:
            self.parameters_changed(changed)
        except Exception as error:  # raised through the parameter service, it would end the node
            self.failure = f'{", ".join(changed)} could not be applied: {type(error).__name__}: {error}'
            self.get_logger().error(self.failure)

    # Lifecycle --------------------------------------------------------------------------------
    def start(self) -> None:
        """Make the own way to `active` where `autostart` says so."""
        if self.parameters['autostart'] and self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()

    def stop(self) -> None:
        """Go down in order: deactivate, clean up, and give everything back."""
        if self.is_active:
            self.trigger_deactivate()
        self.release()

    def run_soon(self, work: Callable[[], None]) -> None:
        """Run `work` on the thread that spins this node, from any thread; never, where it spins no more."""
        if self.executor is not None:
            with suppress(AttributeError):  # rclpy takes the guard condition from an executor that has ended
                self.executor.create_task(work)

    @property
    def is_active(self) -> bool:
        """Return whether the node is in the lifecycle state `active`."""
        return self._state_machine.current_state[1] == 'active'

    def _attempt(self, step: Any) -> bool:
        self.failure = ''
        try:
            if self.parameters.problems:
                raise ConfigurationError('; '.join(self.parameters.problems.values()))
            step()
            return True
        except ConfigurationError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = f'{type(error).__name__}: {error}'
            self.get_logger().debug(traceback.format_exc())
        self.get_logger().error(f'{step.__name__} failed: {self.failure}')
        return False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make all entities; on failure release what was made and stay unconfigured."""
        if self._attempt(self.configure):
            return TransitionCallbackReturn.SUCCESS
        self.release()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Switch the publishers on and begin to work."""
        super().on_activate(state)
        if self._attempt(self.activate):
            return TransitionCallbackReturn.SUCCESS
        super().on_deactivate(state)
        return TransitionCallbackReturn.FAILURE

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working, then switch the publishers off."""
        self._attempt(self.deactivate)
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Destroy all entities."""
        self.release()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Stop working and destroy all entities, from any state."""
        if state.label == 'active':
            self._attempt(self.deactivate)
        self.release()
        return TransitionCallbackReturn.SUCCESS

    # Diagnostics ------------------------------------------------------------------------------
    def _publish_until_ended(self) -> None:
        while not self._ended.wait(DIAGNOSTICS_INTERVAL) and self.context.ok():
            self.publish_diagnostics()

    def publish_diagnostics(self) -> None:
        """Publish the node's own state and every concern of the subclass, where somebody listens."""
        if not self._diagnostics.get_subscription_count():
            return
        label = self._state_machine.current_state[1]
        level, message = DiagnosticStatus.OK if label == 'active' else DiagnosticStatus.WARN, label
        if self.failure:
            level, message = DiagnosticStatus.ERROR, self.failure
        own = diagnostic(level, f'{self.get_fully_qualified_name()}: lifecycle', message, self.robot)
        header = Header(stamp=self.get_clock().now().to_msg())
        concerns = self.concerns() if label == 'active' else []
        self._diagnostics.publish(DiagnosticArray(header=header, status=[own, *concerns]))
