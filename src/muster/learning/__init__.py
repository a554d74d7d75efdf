# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Learning: from sensors to actions by configuration; importable without ROS."""
from muster.learning.agent import ReinforcementLearningAgent
from muster.learning.agents.base import LearningMode
from muster.learning.continual_system import ContinualLearningSystem

__all__ = ['ContinualLearningSystem', 'LearningMode', 'ReinforcementLearningAgent']
