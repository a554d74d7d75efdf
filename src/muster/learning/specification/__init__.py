# Copyright 2026 Muster maintainers
# SPDX-License-Identifier: Apache-2.0
"""
The specification file: which sensors become the observation, and what the actions command.

It is read strictly (`document.py`), checked against the message classes before anything runs, and
its meaning is stored in every model: a model never acts through another specification.
"""
from muster.learning.document import SpecificationError
from muster.learning.specification.loader import load_specification
from muster.learning.specification.messages import check_messages
from muster.learning.specification.parts import (
    ActionSpecification, difference, digest, Formula, Source, Specification, Term)

__all__ = ['ActionSpecification', 'check_messages', 'difference', 'digest', 'Formula', 'load_specification',
           'Source', 'Specification', 'SpecificationError', 'Term']
