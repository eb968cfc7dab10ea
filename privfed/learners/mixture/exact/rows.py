"""Rows at hand: how a start is made of them, in scikit-learn's ways, and what only a federation can do."""

from __future__ import annotations

from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.learners.mixture.em import model_from_responsibilities
from privfed.learners.mixture.exact.fit import Algorithm
from privfed.learners.mixture.initialise import RowsInit, initial_responsibilities
from privfed.learners.mixture.parameters import Start
from privfed.mechanism.mapped import is_mapped, parts
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["check_algorithm_of_rows", "start_from_rows"]

MOST_MAPPED: Final = 100_000  # rows of a file that a start is made of


def start_from_rows(
    rows: FloatArray,
    start: Start,
    n_components: int,
    covariance_type: CovarianceType,
    *,
    init: RowsInit,
    reg_covar: float,
    random: Generator,
) -> MixtureModel:
    """Return the start of EM: the given parts, and the rest from responsibilities that `init` gives the rows.

    Of a memory-mapped file, evenly spaced rows are looked at, `MOST_MAPPED` at most.
    """
    if start.weights is not None and start.means is not None and start.precisions is not None:
        return MixtureModel.from_precisions(start.weights, start.means, start.precisions, covariance_type)
    if is_mapped(rows):
        every = -(-len(rows) // MOST_MAPPED)
        rows = np.concatenate([part[::every].copy() for part in parts(rows)])
    responsibilities = initial_responsibilities(rows, n_components, init, random)
    model = model_from_responsibilities(rows, responsibilities, covariance_type, reg_covar=reg_covar)
    weights = start.weights
    if weights is None:
        weights = model.weights * (responsibilities.sum() / len(rows))  # as scikit-learn: not renormalised
    means = model.means if start.means is None else start.means
    if start.precisions is not None:
        return MixtureModel.from_precisions(weights, means, start.precisions, covariance_type)
    return MixtureModel.from_covariances(weights, means, model.covariances, covariance_type)


def check_algorithm_of_rows(algorithm: Algorithm) -> None:
    """Refuse what has no meaning for one array of rows.

    Raises:
        UsageError: with the remedy.
    """
    if algorithm.personal_weights:
        raise UsageError(
            "personal_weights is for a federation: rows in one array have one owner, whose weights are weights_. Set"
            " personal_weights=False"
        )
    if algorithm.aggregation != "statistics":
        raise UsageError(
            f"aggregation={algorithm.aggregation!r} averages over the clients of a federation: for one array use"
            " aggregation='statistics'"
        )
    if algorithm.clients_per_round is not None:
        raise UsageError(
            f"acceleration={algorithm.acceleration!r} takes turns among the clients of a federation: for one array use"
            " acceleration='squarem' or None, and leave clients_per_round out"
        )
