# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""A fleet of three robots that shows, and checks, what Muster does (`make demo`)."""
