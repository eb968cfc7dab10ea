"""How rows score under a released mixture, and which components they belong to, as sums of bounded rows.

Scores are counted between knots: a row at a fraction t of the way from one knot to the next counts 1 - t at the first
and t at the second. Sums up to a knot then bracket the distribution function, see `bracket`, and rounding in the last
bits of a score moves the counts no more than in proportion, which a histogram with hard edges would not grant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from privfed.errors import UsageError
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray
from privfed.statistics.mixture_model import LOG_2PI, MixtureModel, log_sum_exp
from privfed.statistics.mixture_query import ModelQuery, model_fields

__all__ = ["MixtureScores", "MixtureUse", "ScoreQuery", "bracket"]

# Squared whitened distances beyond this are all alike: the row's score then lies below any knot worth having.
MAX_SQUARED_DISTANCE: Final = 2.0**11
UNIT_ROUNDOFF: Final = 2.0**-53


@dataclass(frozen=True, eq=False)
class ScoreQuery(ModelQuery):
    """Base of both: a public model in units of the data, and knots.

    Args:
        weights, means, precisions_cholesky, covariance_type: the mixture, in units of the data; see `ModelQuery`.
        knots: increasing scores, nats; lower and higher ones count at the first and last knot.
    """

    knots: FloatArray

    def __post_init__(self) -> None:
        super().__post_init__()
        self._freeze_moderate("knots")
        if not np.isfinite(self.model.covariances).all():
            raise UsageError("precisions_cholesky needs factors that can be inverted")
        if self.knots.ndim != 1 or self.knots.size < 2 or not (np.diff(self.knots) > 0).all():
            raise UsageError(f"knots have shape {self.knots.shape}, expected at least two, increasing")

    @property
    def score_error(self) -> float:
        """Bound on how far two computations of one row's score may lie apart, nats.

        A row whitened under a component is off by at most gamma_(d+1) |x - mean| |P| (Higham 2002, section 3.5), and
        |x - mean| <= sqrt(D) |P^-1| while its squared distance is within D = `MAX_SQUARED_DISTANCE`; beyond, it is cut
        to D. Squares, logarithms and exponentials add some roundings of numbers up to D. Norms are Frobenius'.
        """
        factors, d = self.precisions_cholesky, self.n_features
        if self.covariance_type in ("full", "tied"):
            condition = np.linalg.norm(factors, axis=(-2, -1)) * np.linalg.norm(np.linalg.inv(factors), axis=(-2, -1))
            stretch = float(np.max(condition))
        else:
            stretch = float(d)  # entry by entry: each is off by its own size
        reach = math.sqrt(MAX_SQUARED_DISTANCE)
        whitened = 2 * (d + 4) * UNIT_ROUNDOFF * reach * stretch
        return 2 * reach * whitened + 4 * (d + 16) * UNIT_ROUNDOFF * (MAX_SQUARED_DISTANCE + self._height)

    @property
    def _height(self) -> float:
        """The greatest of the constants that scores are sums of, nats."""
        model = self.model
        finite = model.log_weights[self.weights > 0]
        return float(np.abs(model.log_determinants).max() + np.abs(finite).max() + self.n_features * LOG_2PI)

    def _logits(self, model: MixtureModel, rows: FloatArray) -> FloatArray:
        """Return log(weight * density), shape (n, K), of squared distances cut to `MAX_SQUARED_DISTANCE`."""
        distances = np.empty((len(rows), model.n_components))
        with np.errstate(over="ignore"):
            for k in range(model.n_components):
                y = model.whiten(rows, k)
                distances[:, k] = np.einsum("ij,ij->i", y, y)
        heights = model.log_weights + model.log_determinants - 0.5 * self.n_features * LOG_2PI
        return np.asarray(heights - 0.5 * np.minimum(distances, MAX_SQUARED_DISTANCE))

    def count(self, scores: FloatArray) -> FloatArray:
        """Return how many scores lie at each knot, shares of a row at both of its neighbours."""
        knots = self.knots
        inside = np.clip(scores, knots[0], knots[-1])
        at = np.clip(np.searchsorted(knots, inside, side="right") - 1, 0, knots.size - 2)
        along = (inside - knots[at]) / (knots[at + 1] - knots[at])
        counts = np.bincount(at, weights=1.0 - along, minlength=knots.size)
        return np.asarray(counts + np.bincount(at + 1, weights=along, minlength=knots.size))

    @property
    def _count_error(self) -> float:
        return math.sqrt(2.0) * (self.score_error / float(np.diff(self.knots).min()) + 8 * UNIT_ROUNDOFF)


@dataclass(frozen=True, eq=False)
class MixtureScores(ScoreQuery):
    """How many rows score how much under a mixture: block `scores` of shape (knots,). Build it with `of`.

    Args:
        weights, means, precisions_cholesky, covariance_type, knots: see `ScoreQuery`.

    Guarantees:
        A row adds 1 in all, spread over two neighbouring knots: an L2 norm of at most 1, attained at a knot.
    """

    kind: ClassVar[str] = "mixture_scores"

    @classmethod
    def of(cls, model: MixtureModel, knots: FloatArray) -> MixtureScores:
        """Return the query for `model`."""
        return cls(*model_fields(model), knots)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts."""
        return (Block("scores", (self.knots.size,), 1.0),)

    @property
    def row_error(self) -> float:
        """How far rounding in a score may move the counts."""
        return self._count_error

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the counts over the rows of `data`, shape (n, d)."""
        model = self.model
        return chunked_sum(lambda rows: {"scores": self.count(log_sum_exp(self._logits(model, rows)))}, data)


@dataclass(frozen=True, eq=False)
class MixtureUse(ScoreQuery):
    """A mixture in use, in one sum: cluster sizes, scores and their mean. Build it with `of`.

    Blocks: `sizes`, shape (K,), sums of responsibilities; `scores`, see `MixtureScores`; `log_likelihood`, the sum of
    scores less `typical`, each cut to [-likelihood_clip, likelihood_clip].

    Args:
        weights, means, precisions_cholesky, covariance_type, knots: see `ScoreQuery`.
        typical: public reference for scores, nats.
        likelihood_clip: greatest distance from it that a row counts with, nats, > 0.
        shares: relative shares of mu^2 of the three blocks, each > 0.

    Guarantees:
        Responsibilities lie in the simplex, so each block keeps its bound for any row, and jointly a row moves the
        scaled vector by at most 1.
    """

    kind: ClassVar[str] = "mixture_use"
    typical: float
    likelihood_clip: float
    shares: tuple[float, float, float] = (1.0, 1.0, 1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.typical) or not (math.isfinite(self.likelihood_clip) and self.likelihood_clip > 0):
            raise UsageError(
                f"typical is {self.typical!r} and likelihood_clip {self.likelihood_clip!r}, expected finite numbers of "
                "nats, the second above 0"
            )
        if len(self.shares) != 3:
            raise UsageError(f"shares has {len(self.shares)} entries, expected 3: one for each block")

    @classmethod
    def of(cls, model: MixtureModel, knots: FloatArray, *, typical: float, likelihood_clip: float) -> MixtureUse:
        """Return the query for `model`."""
        return cls(*model_fields(model), knots, float(typical), float(likelihood_clip))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Three blocks, see the class."""
        sizes, scores, likelihood = self.shares
        return (
            Block("sizes", (self.weights.size,), 1.0, sizes),
            Block("scores", (self.knots.size,), 1.0, scores),
            Block("log_likelihood", (), self.likelihood_clip, likelihood),
        )

    @property
    def row_error(self) -> float:
        """How far rounding in scores and responsibilities may move a row's blocks."""
        return self._count_error + (2.0 + 1.0 / self.likelihood_clip) * self.score_error

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d)."""
        model = self.model

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            logits = self._logits(model, rows)
            scores = log_sum_exp(logits)
            cut = np.clip(scores - self.typical, -self.likelihood_clip, self.likelihood_clip)
            return {
                "sizes": np.exp(logits - scores[:, None]).sum(axis=0),
                "scores": self.count(scores),
                "log_likelihood": np.array(cut.sum()),
            }

        return chunked_sum(chunk, data)


def bracket(counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return bounds on how many rows score below each knot, without noise: sums before it, and up to it.

    A row between knots j - 1 and j counts partly at each. So the counts before knot j miss what such rows give to j,
    and those up to j hold what rows beyond j give to it.
    """
    total = np.cumsum(counts)
    return np.concatenate([[0.0], total[:-1]]), total
