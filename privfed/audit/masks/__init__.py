"""The mask lint: statistical and structural checks of any implementation of secure aggregation.

Wrap the code in a subclass of `Adapter`, and call `lint_masks`. `Sa1` wraps the protocol of this distribution.
"""

from privfed.audit.findings import Finding
from privfed.audit.masks.adapter import Adapter, Kind, NotExposed, Refused, Ring, Setting, Values
from privfed.audit.masks.lint import CHECKS, MaskReport, lint_masks
from privfed.audit.masks.sa1 import Sa1

__all__ = [
    "CHECKS",
    "Adapter",
    "Finding",
    "Kind",
    "MaskReport",
    "NotExposed",
    "Refused",
    "Ring",
    "Sa1",
    "Setting",
    "Values",
    "lint_masks",
]
