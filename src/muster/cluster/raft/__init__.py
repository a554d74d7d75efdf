# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""The consensus core: Raft (Ongaro and Ousterhout 2014; Ongaro's thesis 2014) as a pure state machine."""
