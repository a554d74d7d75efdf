# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""Off-line training: the command `muster train`, and how a policy of the simulated world is judged."""
