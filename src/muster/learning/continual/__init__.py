# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Continual learning: a sequence of tasks, of which the earlier ones are not to be forgotten."""
