# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The acts of the demo: each does something with the fleet, measures it, and claims what it saw."""
from __future__ import annotations

from collections.abc import Callable
import itertools
import json
from pathlib import Path
import shutil
import subprocess
import sys
import threading
import time
from typing import Any

from builtin_interfaces.msg import Duration
from muster.demo.claims import Summary
from muster.demo.observer import Missing, Observer, Seen
from muster.demo.robots import Robots
from muster_interfaces.msg import ClusterEvent, ClusterStatus, Device, DeviceEvent, LearningStatus
from muster_interfaces.srv import (
    AcquireLock,
    ActivateModel,
    ListDevices,
    ListEvents,
    ListLocks,
    OpenSession,
    ReleaseLock,
    RenewLock,
    SetLearningMode,
)
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters

#: Rounds in which every robot takes the contended lock once.
ROUNDS = 5
#: Seconds that the trained robots drive while their goals are counted.
DRIVE_SECONDS = 15.0
Say = Callable[[str], None]


class Acts:
    """The story of the demo, in order; `summary` grows as it goes."""

    def __init__(self, robots: Robots, observer: Observer, summary: Summary, say: Say) -> None:
        """Prepare; every act is a method."""
        self.robots, self.see, self.summary, self.say = robots, observer, summary, say
        self.names = robots.names
        self._training: subprocess.Popen[bytes] | None = None
        self._trained_in = robots.folder / 'training'

    def play(self) -> None:
        """Run every act."""
        for act in (self.begin_training, self.election, self.contention, self.hardware, self.learning,
                    self.failover):
            act()

    def begin_training(self) -> None:
        """Train off-line meanwhile: real time is too short for learning to show."""
        self._trained_in.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, '-m', 'muster.demo.training', str(self._trained_in)]
        self._training = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
        self.say('off-line training begins in a process of its own, in the same simulated world')

    def close(self) -> None:
        """End what may still train."""
        if self._training is not None and self._training.poll() is None:
            self._training.kill()
            self._training.wait()

    # Election ----------------------------------------------------------------------------------
    def election(self) -> None:
        """Three robots with empty disks found one cluster and elect a leader."""
        started = time.monotonic()
        leader = self.see.wait(lambda: self.see.leader(self.names), 60, 'a leader')
        took = time.monotonic() - started
        processes = self.robots.processes()
        ids = {self._status(name).cluster_id for name in self.names}
        self.say(f"'{leader}' leads cluster {ids.pop()} in term {self._status(leader).term}")
        self.summary.figures |= {'seconds_to_first_leader': round(took, 2), 'first_leader': leader}
        self.summary.claim('election', 'three robots, nine node processes, one leader and one cluster',
                           f'{processes} processes, all follow {leader}, {took:.1f} s after their start',
                           processes == 9 and not ids)

    def _status(self, robot: str) -> ClusterStatus:
        status = self.see.status(robot)
        assert status is not None
        return status

    # Locks -------------------------------------------------------------------------------------
    def contention(self) -> None:
        """All robots want the same lock, each through its own node."""
        self.say(f"all three robots contend for the lock 'dock', {ROUNDS} times each")
        holds: list[tuple[float, float, str, int]] = []
        failures: list[str] = []
        threads = [threading.Thread(target=self._contend, args=(name, holds, failures))
                   for name in self.names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        holds.sort()
        tokens = [token for _, _, _, token in holds]
        overlaps = sum(1 for a, b in itertools.pairwise(holds) if b[0] < a[1])
        self.say('tokens: ' + ', '.join(f'{token} {name}' for _, _, name, token in holds))
        self.summary.figures['contention'] = [
            {'robot': name, 'token': token, 'seconds': round(end - begin, 4)}
            for begin, end, name, token in holds]
        wanted = ROUNDS * len(self.names)
        self.summary.claim(
            'locks', 'one holder at a time, fencing tokens only grow',
            f'{len(holds)} holds of {wanted}, {overlaps} overlapping, tokens {tokens}'
            + ''.join(f'; {failure}' for failure in failures[:1]),
            not failures and len(holds) == wanted and not overlaps and tokens == sorted(set(tokens)))
        self._same_events()

    def _contend(self, robot: str, holds: list[tuple[float, float, str, int]], failures: list[str]) -> None:
        try:
            session = self._session(robot)
            for number in range(ROUNDS):
                answer = self.see.call(
                    AcquireLock, f'/{robot}/cluster/acquire_lock', name='dock', owner=robot,
                    lease=Duration(sec=10), wait_timeout=Duration(sec=20),
                    request_id=f'{session}:{2 * number + 1}', patience=30)
                begin = time.monotonic()
                if not answer.success:
                    failures.append(f'{robot}: {answer.message}')
                    return
                end = time.monotonic()
                released = self.see.call(ReleaseLock, f'/{robot}/cluster/release_lock', name='dock',
                                         fencing_token=answer.fencing_token,
                                         request_id=f'{session}:{2 * number + 2}')
                if not released.success:
                    failures.append(f'{robot}: {released.message}')
                holds.append((begin, end, robot, answer.fencing_token))
        except Missing as error:
            failures.append(str(error))

    def _same_events(self) -> None:
        """Compare what the members say has happened to the lock."""
        def told(robot: str) -> list[tuple[int, int, int, int]]:
            answer = self.see.call(ListEvents, f'/{robot}/cluster/list_events', since_revision=0, limit=1000)
            return [(e.revision, e.ordinal, e.type, e.fencing_token) for e in answer.events
                    if e.subject == 'dock']

        stories = self.see.wait(lambda: self._agree([told(name) for name in self.names]), 10,
                                'the same events on all robots')
        kinds = [kind for _, _, kind, _ in stories]
        kept = [k for k in kinds if k in (ClusterEvent.LOCK_ACQUIRED, ClusterEvent.LOCK_RELEASED,
                                          ClusterEvent.LOCK_EXPIRED)]
        alternating = all(k == (ClusterEvent.LOCK_ACQUIRED if i % 2 == 0 else ClusterEvent.LOCK_RELEASED)
                          for i, k in enumerate(kept))
        self.summary.claim('locks', 'the numbered events are the same on every robot, acquired and released '
                           'in turn', f'{len(stories)} events', alternating and len(kept) >= 2 * ROUNDS)

    @staticmethod
    def _agree(stories: list[Any]) -> Any:
        return stories[0] if all(story == stories[0] for story in stories) else None

    # Hardware ----------------------------------------------------------------------------------
    def hardware(self) -> None:
        """Show this machine's devices, and plug a virtual camera in and out."""
        robot = self.names[0]
        devices = self.see.call(ListDevices, f'/{robot}/hardware/list_devices').devices
        real = [d for d in devices if not d.simulated and d.status != Device.DISCONNECTED]
        missing = [d.path for d in real if d.path.startswith('/sys') and not Path(d.path).exists()]
        kinds = sorted({d.type for d in real})
        self.say(f'{robot} found {len(real)} real devices: {", ".join(kinds)}')
        self.summary.figures['devices'] = [
            {'id': d.id, 'name': d.name, 'type': d.type, 'bus': d.bus, 'confidence': round(d.confidence, 2),
             'simulated': d.simulated} for d in devices]
        self.summary.claim('hardware', 'the real devices of this machine are found, each is there in /sys',
                           f'{len(real)} devices, {len(missing)} not in /sys', bool(real) and not missing)
        plugged = self._plug(robot, ['lidar', f'{robot}/camera'], DeviceEvent.CONNECTED)
        pulled = self._plug(robot, ['lidar'], DeviceEvent.DISCONNECTED)
        self.summary.figures |= {'plug_in_ms': plugged, 'pull_out_ms': pulled}
        self.summary.claim('hardware', 'a virtual camera is plugged in and pulled out, one event each',
                           f'seen after {plugged:.0f} ms, and {pulled:.0f} ms with the grace against '
                           'flapping', True)

    def _plug(self, robot: str, devices: list[str], kind: int) -> float:
        """Change what is plugged into the simulated robots; return milliseconds to the event."""
        seen = self.see.device_events[robot]
        before, begun = len(seen), time.monotonic()
        value = ParameterValue(type=ParameterType.PARAMETER_STRING_ARRAY, string_array_value=devices)
        answer = self.see.call(SetParameters, '/world/set_parameters',
                               parameters=[Parameter(name='virtual_devices', value=value)])
        if not answer.results[0].successful:
            raise Missing(f'the world refused to plug: {answer.results[0].reason}')

        def events() -> list[Seen]:
            return [s for s in seen[before:] if s.message.type == kind and s.message.device.type == 'camera']

        found: list[Seen] = self.see.wait(events, 15, f'event of the camera at {robot}')
        self.say(f"{robot}: camera {'connected' if kind == DeviceEvent.CONNECTED else 'disconnected'}: "
                 f'{found[0].message.reason}')
        return round((found[0].at - begun) * 1e3, 1)

    # Learning ----------------------------------------------------------------------------------
    def learning(self) -> None:
        """Give the robots what was learned off-line, and let them drive."""
        untrained = self._drive('that know nothing', LearningStatus.EXPLORATION)
        self._compare_off_line()
        for robot in self.names:
            models = self.robots.models(robot)
            models.mkdir(parents=True, exist_ok=True)
            shutil.copy(self._trained_in / 'trained.npz', models)
            answer = self.see.call(ActivateModel, f'/{robot}/learning/activate_model', name='trained')
            if not answer.success:
                raise Missing(f'{robot} did not take the model: {answer.message}')
        self.say('the trained model is active on all robots')
        trained = self._drive('with the trained model', LearningStatus.EXPLOITATION)
        self.summary.figures['live'] = {'seconds': DRIVE_SECONDS, 'untrained': untrained, 'trained': trained}
        self.summary.claim(
            'learning', f'live on the robots, {DRIVE_SECONDS:.0f} s of real time each: more reward than '
            'at random',
            f"{untrained['reward']:.1f} -> {trained['reward']:.1f} together, goals {untrained['goals']} -> "
            f"{trained['goals']}, collisions {untrained['collisions']} -> {trained['collisions']}",
            trained['reward'] > untrained['reward'])

    def _compare_off_line(self) -> None:
        """Wait for the off-line training and claim what it brought."""
        assert self._training is not None
        self.say('waiting for the off-line training')
        if self._training.wait(240):
            raise Missing('the off-line training failed')
        result = json.loads((self._trained_in / 'training.json').read_text())
        self.summary.figures['training'] = result
        random, trained = result['random'], result['trained']
        gain = trained['mean_return'] - random['mean_return']
        error = (trained['standard_error'] ** 2 + random['standard_error'] ** 2) ** 0.5
        self.summary.claim(
            'learning', 'Q-learning does better than chance in worlds it has not seen (trained off-line, '
            f"{result['times_real_time']:.0f} x real time)",
            f"mean return {random['mean_return']:.1f} -> {trained['mean_return']:.1f} "
            f'(difference {gain:.1f}, standard error {error:.1f})', gain > 3 * error)

    def _drive(self, who: str, mode: int) -> dict[str, float]:
        """Let all robots drive; return what they earned together."""
        for robot in self.names:
            self.see.call(SetLearningMode, f'/{robot}/learning/set_mode', mode=mode)
        begun = time.monotonic()
        self.see.wait(lambda: time.monotonic() >= begun + DRIVE_SECONDS, 2 * DRIVE_SECONDS, 'the drive')
        rewards = [seen.message.data for robot in self.names for seen in self.see.rewards[robot]
                   if seen.at >= begun]
        # The world gives +10 for a goal and -5 for a collision; anything else is far smaller.
        told = {'reward': round(sum(rewards), 2), 'goals': sum(1 for r in rewards if r > 5),
                'collisions': sum(1 for r in rewards if r < -3)}
        self.say(f"three robots {who}, {DRIVE_SECONDS:.0f} s: reward {told['reward']:.1f}, "
                 f"{told['goals']} goals, {told['collisions']} collisions")
        return told

    # Failover ----------------------------------------------------------------------------------
    def failover(self) -> None:
        """Kill the leader's process while another robot holds a lock."""
        see = self.see
        leader = see.wait(lambda: self._settled_leader(), 30, 'a settled cluster')
        survivors = [name for name in self.names if name != leader]
        holder, other = survivors
        session = self._session(holder)
        held = self._acquire(holder, 'gripper', 60, f'{session}:1')
        old = self._status(holder).term
        process = self.robots.node(leader, 'cluster')
        if process is None:
            raise Missing(f'the cluster process of {leader}')
        self.say(f"'{holder}' holds 'gripper' with token {held.fencing_token}; "
                 f"SIGKILL for '{leader}', the leader")
        killed = time.monotonic()
        process.kill()
        granted = self._acquire(other, 'elevator', 30, f'{session}:2')
        to_lock = (time.monotonic() - killed) * 1e3
        elected = see.wait(lambda: self._elected(survivors, old), 20, 'a new leader')
        to_leader = (elected.at - killed) * 1e3
        new = elected.message.leader
        self.say(f"'{new}' leads after {to_leader:.0f} ms; next lock granted after {to_lock:.0f} ms")
        renewed = see.call(RenewLock, f'/{holder}/cluster/renew_lock', name='gripper',
                           fencing_token=held.fencing_token, request_id=f'{session}:3')
        refused = see.call(AcquireLock, f'/{other}/cluster/acquire_lock', name='gripper', owner=other,
                           lease=Duration(sec=10))
        self.summary.figures |= {'killed': leader, 'new_leader': new, 'next_leader_ms': round(to_leader, 1),
                                 'next_lock_ms': round(to_lock, 1)}
        self.summary.claim('failover', 'after SIGKILL of the leader another robot leads and grants locks',
                           f'next leader after {to_leader:.0f} ms, next lock after {to_lock:.0f} ms',
                           granted.success and new in survivors)
        self.summary.claim('failover', 'the held lock, its token and its exclusion survive',
                           f"token {held.fencing_token} renewed: {renewed.success}; '{other}' was refused: "
                           f'{not refused.success}', renewed.success and not refused.success)
        self._rejoin(leader, new, killed, held.fencing_token)

    def _settled_leader(self) -> str:
        """Return the leader once all members reach one another and have applied the same."""
        statuses = [self.see.status(name) for name in self.names]
        if any(s is None or not all(m.reachable for m in s.members) or len(s.members) < 3 for s in statuses):
            return ''
        return self.see.leader(self.names)

    def _elected(self, among: list[str], old_term: int) -> Seen | None:
        """Return the first status that told of a leader of a later term."""
        told = [seen for name in among for seen in self.see.cluster[name]
                if seen.message.term > old_term and seen.message.leader]
        return min(told, key=lambda seen: seen.at, default=None)

    def _session(self, robot: str) -> str:
        """Open a session: what is asked for in it may be repeated, and through any robot."""
        answer = self.see.call(OpenSession, f'/{robot}/cluster/open_session')
        if not answer.success:
            raise Missing(f'a session for {robot}: {answer.message}')
        return answer.session

    def _acquire(self, robot: str, lock: str, lease: int, request_id: str) -> Any:
        answer = self.see.call(AcquireLock, f'/{robot}/cluster/acquire_lock', name=lock, owner=robot,
                               lease=Duration(sec=lease), request_id=request_id)
        if not answer.success:
            raise Missing(f"lock '{lock}' for {robot}: {answer.message}")
        return answer

    def _rejoin(self, robot: str, leader: str, killed: float, token: int) -> None:
        """Wait until the supervisor has restarted the robot's node and it has caught up."""
        def caught_up() -> Seen | None:
            commit = self._status(leader).commit_index
            told = (seen for seen in self.see.cluster[robot] if seen.at > killed and seen.message.leader)
            return next((seen for seen in told if seen.message.applied_index >= commit > 0), None)

        back = self.see.wait(caught_up, 40, f"'{robot}' restarted and caught up")
        locks = self.see.call(ListLocks, f'/{robot}/cluster/list_locks').locks
        tokens = {lock.name: lock.fencing_token for lock in locks}
        took = back.at - killed
        self.say(f"'{robot}' is back and has caught up after {took:.1f} s")
        self.summary.figures['caught_up_s'] = round(took, 2)
        self.summary.figures['failover_killed_at'] = killed
        self.summary.claim('failover', 'the killed robot is restarted from its disk and catches up',
                           f"after {took:.1f} s it knows 'gripper' with token {tokens.get('gripper')}",
                           tokens.get('gripper') == token)
