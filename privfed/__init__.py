"""Privacy-preserving federated learning: secure aggregation, distributed differential privacy, and an accountant.

Names are loaded on first use, so that `import privfed` costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from privfed._version import __version__

if TYPE_CHECKING:
    from privfed.engines import LocalFederation, Loss
    from privfed.errors import DataError, FederationError, PrivfedError, UsageError
    from privfed.federation import Federation, Release
    from privfed.learners.mixture import GaussianMixture, expected_excess_nats
    from privfed.pipeline import protected_mean, protected_sum
    from privfed.query import Block, Query
    from privfed.statistics.histograms import Histogram, Magnitudes
    from privfed.statistics.moments import Count, Moments, VectorSum, moments_of
    from privfed.statistics.vectors import AdaptiveSum, WeightedSum
    from privfed_accounting import (
        AccountingError,
        Budget,
        BudgetExhausted,
        ClientGuard,
        GuardPolicy,
        Ledger,
        Sampling,
        View,
    )

_HOMES = {
    "AccountingError": "privfed_accounting",
    "AdaptiveSum": "privfed.statistics.vectors",
    "Block": "privfed.query",
    "Budget": "privfed_accounting",
    "BudgetExhausted": "privfed_accounting",
    "ClientGuard": "privfed_accounting",
    "Count": "privfed.statistics.moments",
    "DataError": "privfed.errors",
    "Federation": "privfed.federation",
    "FederationError": "privfed.errors",
    "GaussianMixture": "privfed.learners.mixture",
    "GuardPolicy": "privfed_accounting",
    "Histogram": "privfed.statistics.histograms",
    "Ledger": "privfed_accounting",
    "LocalFederation": "privfed.engines",
    "Loss": "privfed.engines",
    "Magnitudes": "privfed.statistics.histograms",
    "Moments": "privfed.statistics.moments",
    "PrivfedError": "privfed.errors",
    "Query": "privfed.query",
    "Release": "privfed.federation",
    "Sampling": "privfed_accounting",
    "UsageError": "privfed.errors",
    "VectorSum": "privfed.statistics.moments",
    "View": "privfed_accounting",
    "WeightedSum": "privfed.statistics.vectors",
    "expected_excess_nats": "privfed.learners.mixture",
    "moments_of": "privfed.statistics.moments",
    "protected_mean": "privfed.pipeline",
    "protected_sum": "privfed.pipeline",
}

__all__ = [
    "AccountingError",
    "AdaptiveSum",
    "Block",
    "Budget",
    "BudgetExhausted",
    "ClientGuard",
    "Count",
    "DataError",
    "Federation",
    "FederationError",
    "GaussianMixture",
    "GuardPolicy",
    "Histogram",
    "Ledger",
    "LocalFederation",
    "Loss",
    "Magnitudes",
    "Moments",
    "PrivfedError",
    "Query",
    "Release",
    "Sampling",
    "UsageError",
    "VectorSum",
    "View",
    "WeightedSum",
    "__version__",
    "expected_excess_nats",
    "moments_of",
    "protected_mean",
    "protected_sum",
]


logging.getLogger("privfed").addHandler(logging.NullHandler())  # an application says whether it wants to hear


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'privfed' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
