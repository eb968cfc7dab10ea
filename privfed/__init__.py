"""Privacy-preserving federated learning: secure aggregation, distributed differential privacy, and an accountant.

Names are loaded on first use, so that `import privfed` costs next to nothing.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from privfed._version import __version__

if TYPE_CHECKING:
    from privfed import datasets, transfer
    from privfed.engines import LocalFederation, Loss
    from privfed.errors import DataError, FederationError, PrivfedError, UsageError
    from privfed.federation import Federation, Release
    from privfed.learners.mixture import GaussianMixture, expected_excess_nats, select_mixture
    from privfed.learners.neural import (
        Checkpoint,
        EarlyStopping,
        FederatedAveraging,
        FederatedSGD,
        Progress,
        evaluate,
    )
    from privfed.pipeline import protected_mean, protected_sum
    from privfed.query import Block, ClientQuery, Query
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
    "Checkpoint": "privfed.learners.neural",
    "ClientGuard": "privfed_accounting",
    "ClientQuery": "privfed.query",
    "Count": "privfed.statistics.moments",
    "DataError": "privfed.errors",
    "EarlyStopping": "privfed.learners.neural",
    "FederatedAveraging": "privfed.learners.neural",
    "FederatedSGD": "privfed.learners.neural",
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
    "Progress": "privfed.learners.neural",
    "Query": "privfed.query",
    "Release": "privfed.federation",
    "Sampling": "privfed_accounting",
    "UsageError": "privfed.errors",
    "VectorSum": "privfed.statistics.moments",
    "View": "privfed_accounting",
    "WeightedSum": "privfed.statistics.vectors",
    "evaluate": "privfed.learners.neural",
    "expected_excess_nats": "privfed.learners.mixture",
    "moments_of": "privfed.statistics.moments",
    "protected_mean": "privfed.pipeline",
    "protected_sum": "privfed.pipeline",
    "select_mixture": "privfed.learners.mixture",
}
_PACKAGES = ("datasets", "transfer")

__all__ = [
    "AccountingError",
    "AdaptiveSum",
    "Block",
    "Budget",
    "BudgetExhausted",
    "Checkpoint",
    "ClientGuard",
    "ClientQuery",
    "Count",
    "DataError",
    "EarlyStopping",
    "FederatedAveraging",
    "FederatedSGD",
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
    "Progress",
    "Query",
    "Release",
    "Sampling",
    "UsageError",
    "VectorSum",
    "View",
    "WeightedSum",
    "__version__",
    "datasets",
    "evaluate",
    "expected_excess_nats",
    "moments_of",
    "protected_mean",
    "protected_sum",
    "select_mixture",
    "transfer",
]


logging.getLogger("privfed").addHandler(logging.NullHandler())  # an application says whether it wants to hear


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"privfed.{name}")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'privfed' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
