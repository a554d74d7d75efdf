# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Known problems: small deterministic worlds whose exact values dynamic programming gives."""
from __future__ import annotations

from collections.abc import Callable

State = tuple[int, int]
#: (state, action) → next state, reward, whether the task ended.
Rules = Callable[[State, int], tuple[State, float, bool]]
MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))


def chain(state: State, action: int) -> tuple[State, float, bool]:
    """Walk right (1) five times for a reward of 1; left (0) goes back."""
    position = max(0, state[1] + (1 if action == 1 else -1))
    return (0, position), float(position == 5), position == 5


def cliff(state: State, action: int) -> tuple[State, float, bool]:
    """Walk along a cliff, 4 x 12 cells (Sutton & Barto 2018, example 6.6)."""
    row = min(3, max(0, state[0] + MOVES[action][0]))
    column = min(11, max(0, state[1] + MOVES[action][1]))
    if row == 3 and 0 < column < 11:
        return (3, 0), -100.0, False
    return (row, column), -1.0, (row, column) == (3, 11)


def exact_values(rules: Rules, start: State, actions: int, discount: float) -> dict[State, list[float]]:
    """Return the optimal action values of every reachable state, by value iteration."""
    values: dict[State, list[float]] = {start: [0.0] * actions}
    while True:
        change, known = 0.0, len(values)
        for state in list(values):
            for action in range(actions):
                following, reward, done = rules(state, action)
                if not done:
                    reward += discount * max(values.setdefault(following, [0.0] * actions))
                change = max(change, abs(reward - values[state][action]))
                values[state][action] = reward
        if change < 1e-12 and len(values) == known:
            return values
