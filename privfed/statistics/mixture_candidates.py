"""Several mixtures judged by one sum: how much better each explains the rows than one of them does.

Models that might be chosen are close to one another, so their log-likelihoods of one row differ by little, however low
they are: differences have a small range, and noise sized for it tells candidates apart that noise on the likelihoods
themselves would drown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np

from privfed.errors import UsageError
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate
from privfed.statistics.mixture_model import COVARIANCE_TYPES, LOG_2PI, CovarianceType, MixtureModel, log_sum_exp

__all__ = ["CandidateLikelihoods", "candidate_block", "capped_log_likelihoods"]

MAX_CANDIDATES: Final = 400
MAX_SQUARED_DISTANCE: Final = 2.0**10  # beyond, a row is as far from every component as can be
LEAST_REACH: Final = 2.0**-7  # nats: what rounding does to a likelihood of 2^10 nats stays far below


def candidate_block(index: int) -> str:
    """Return the name of the block of the candidate of that number."""
    return f"candidate_{index}"


def capped_log_likelihoods(model: MixtureModel, rows: FloatArray, largest: float = MAX_SQUARED_DISTANCE) -> FloatArray:
    """Return each row's log-likelihood in nats, shape (n,), with squared distances cut to `largest`.

    The same bits wherever a row stands, but for the last ones of exp and log: no matrix product of BLAS.
    """
    logits = np.empty((len(rows), model.n_components))
    constants = model.log_weights + model.log_determinants - 0.5 * model.n_features * LOG_2PI
    for k in range(model.n_components):
        centred, factor = rows - model.means[k], model.factor(k)
        with np.errstate(over="ignore", invalid="ignore"):
            if factor.ndim == 2:
                y = np.einsum("ij,kj->ik", np.ascontiguousarray(centred), np.ascontiguousarray(factor.T))
            else:
                y = centred * factor
            squares = np.einsum("ij,ij->i", y, y)
        squares = np.where(np.isnan(squares), np.inf, squares)
        logits[:, k] = constants[k] - 0.5 * np.minimum(squares, largest)
    return log_sum_exp(logits)


@dataclass(frozen=True, eq=False)
class CandidateLikelihoods(Query):
    """How well each of C mixtures explains the rows: blocks `rows`, `reference` and `candidate_0` to `candidate_<C-1>`.

    With l_c(x) the log-likelihood of a row, cut to the box, under candidate c, and r the reference among them,
        rows           1
        reference      l_r - typical_r,         cut to [-reach_r, reach_r]
        candidate_c    l_c - l_r - typical_c,   cut to [-reach_c, reach_c]; 0 for c = r

    Args:
        types: covariance type of each candidate.
        weights, means, precisions_cholesky: one array for each, in units of the data; public.
        low, high: public bounds, shape (d,), that rows are cut to; infinite ones leave a side open.
        reference: number of the candidate that the others are compared with.
        typical: what to expect, shape (C,), nats; public.
        reach: how far from it a row counts, shape (C,), nats, >= 2^-7; public.
        shares: relative shares of mu^2, shape (C,), > 0; that of the reference is for its own level.
        largest_distance: squared whitened distances are cut to it, > 0.

    Guarantees:
        Each block is one number within its reach for any row, so one row moves the scaled vector by at most 1.
    """

    kind: ClassVar[str] = "candidate_likelihoods"
    types: tuple[CovarianceType, ...]
    weights: tuple[FloatArray, ...]
    means: tuple[FloatArray, ...]
    precisions_cholesky: tuple[FloatArray, ...]
    low: FloatArray
    high: FloatArray
    reference: int
    typical: FloatArray
    reach: FloatArray
    shares: FloatArray
    largest_distance: float = MAX_SQUARED_DISTANCE
    _models: tuple[MixtureModel, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        C = len(self.types)
        if not 1 <= C <= MAX_CANDIDATES:
            raise UsageError(f"there are {C} candidates, expected 1 to {MAX_CANDIDATES}")
        if not len(self.weights) == len(self.means) == len(self.precisions_cholesky) == C:
            raise UsageError("each candidate needs its weights, means and precisions_cholesky")
        for name in ("low", "high", "typical", "reach", "shares"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        object.__setattr__(self, "_models", tuple(self._model(c) for c in range(C)))
        shapes = {model.n_features for model in self._models} | {self.low.size, self.high.size}
        if len(shapes) != 1 or self.low.ndim != 1 or self.high.ndim != 1:
            raise UsageError(f"candidates and bounds have {sorted(shapes)} features, expected one number")
        if np.isnan(self.low).any() or np.isnan(self.high).any() or (self.low > self.high).any():
            raise UsageError("low and high need low <= high in every feature")
        if not (self.typical.shape == self.reach.shape == self.shares.shape == (C,)):
            raise UsageError(f"typical, reach and shares need one number for each of {C} candidates")
        for name in ("typical", "reach", "shares"):
            require_moderate(name, getattr(self, name))
        if (self.reach < LEAST_REACH).any() or (self.shares <= 0).any() or not 0 <= self.reference < C:
            raise UsageError(f"expected reach >= {LEAST_REACH}, shares > 0 and a reference from 0 to {C - 1}")
        if not self.largest_distance > 0:
            raise UsageError(f"largest_distance is {self.largest_distance!r}, expected a number above 0")

    def _model(self, c: int) -> MixtureModel:
        if self.types[c] not in COVARIANCE_TYPES:
            raise UsageError(f"covariance type {self.types[c]!r} of candidate {c}, expected one of {COVARIANCE_TYPES}")
        for name in ("weights", "means", "precisions_cholesky"):
            require_moderate(name, getattr(self, name)[c])
        model = MixtureModel.from_factors(self.weights[c], self.means[c], self.precisions_cholesky[c], self.types[c])
        if (model.weights < 0).any() or not math.isfinite(float(model.log_determinants.sum())):
            raise UsageError(f"candidate {c} needs weights of at least 0 and factors whose determinants are finite")
        return model

    @classmethod
    def of(
        cls,
        models: Sequence[MixtureModel],
        *,
        low: FloatArray,
        high: FloatArray,
        reference: int,
        typical: FloatArray,
        reach: FloatArray,
        shares: FloatArray,
        largest_distance: float = MAX_SQUARED_DISTANCE,
    ) -> CandidateLikelihoods:
        """Return the query for models in units of the data."""
        return cls(
            tuple(model.covariance_type for model in models),
            tuple(model.weights for model in models),
            tuple(model.means for model in models),
            tuple(model.precisions_cholesky for model in models),
            low,
            high,
            reference,
            typical,
            reach,
            shares,
            largest_distance,
        )

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.low.size)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One number each, see the class."""
        total = float(self.shares.sum())
        others = [
            Block(candidate_block(c), (), float(self.reach[c]), float(self.shares[c]))
            for c in range(len(self.types))
            if c != self.reference
        ]
        level = Block("reference", (), float(self.reach[self.reference]), float(self.shares[self.reference]))
        return (Block("rows", (), 1.0, 0.02 * total), level, *others)

    @property
    def row_error(self) -> float:
        """The default, for distances of up to 2^10; infinite beyond, where rounding is not counted."""
        return super().row_error if self.largest_distance <= MAX_SQUARED_DISTANCE else math.inf

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d)."""
        return chunked_sum(self._chunk, data)

    def _chunk(self, rows: FloatArray) -> dict[str, FloatArray]:
        cut = np.clip(rows, self.low, self.high)
        reference = capped_log_likelihoods(self._models[self.reference], cut, self.largest_distance)
        sums = {"rows": np.array(float(len(rows)))}
        for c, model in enumerate(self._models):
            if c == self.reference:
                sums["reference"] = self._within(c, reference)
            else:
                likelihoods = capped_log_likelihoods(model, cut, self.largest_distance)
                sums[candidate_block(c)] = self._within(c, likelihoods - reference)
        return sums

    def _within(self, c: int, values: FloatArray) -> FloatArray:
        values = np.where(np.isfinite(values), values - self.typical[c], -self.reach[c])
        return np.array(np.clip(values, -self.reach[c], self.reach[c]).sum())
