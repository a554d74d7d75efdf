# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
