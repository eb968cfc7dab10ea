"""Queries of a Gaussian mixture: the E-step of one EM round as a sum of bounded rows.

Both queries carry the current model and its working coordinates as plain arrays: public numbers that a server chose,
checked by `LocatedModelQuery`. `MixtureStatistics` gives the exact sums and is meant for
federations without a budget; `WhitenedMixtureStatistics` clips each row under each component and is what a budget
buys most with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Final

import numpy as np

from privfed.errors import UsageError
from privfed.mechanism.clip import clip_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray
from privfed.statistics.mixture_clipping import block_costs, clipping
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_estep import MixtureSums, choose_reference, e_step, second_shape
from privfed.statistics.mixture_model import LOG_2PI, MixtureModel
from privfed.statistics.mixture_query import LocatedModelQuery, located_fields
from privfed.statistics.moments import svec

__all__ = ["MixtureStatistics", "WhitenedMixtureStatistics"]

# Squared distances beyond this are all alike: no row's responsibility depends on the last bits of a huge exponent.
MAX_SQUARED_DISTANCE: Final = 2.0**10
UNIT_ROUNDOFF: Final = 2.0**-53


@dataclass(frozen=True, eq=False)
class MixtureStatistics(LocatedModelQuery):
    """Exact statistics of one E-step: blocks `counts`, `first`, `second` and `log_likelihood`.

    Build it with `of`. The bounds hold for any row, since rows are cut to `radius`; but they are those of the raw
    moments, and noise sized for them costs about fifty times what `WhitenedMixtureStatistics` pays.

    Args:
        weights, means, precisions_cholesky, covariance_type: the model in working coordinates.
        low, high, centre, transform: see `Coordinates`.
        radius: L2 norm in working coordinates that rows are cut to, > 0; public.
    """

    kind: ClassVar[str] = "mixture_statistics"
    radius: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.radius) and self.radius > 0):
            raise UsageError(f"radius is {self.radius!r}, expected a finite number above 0")

    @classmethod
    def of(cls, model: MixtureModel, coordinates: Coordinates, *, radius: float) -> MixtureStatistics:
        """Return the query for `model`."""
        return cls(*located_fields(model, coordinates), float(radius))

    @property
    def row_error(self) -> float:
        """Infinite: rounding in the expanded squares is not bounded, so no budget admits this query."""
        return math.inf

    @property
    def reference(self) -> FloatArray:
        """The point in working coordinates, shape (d,), or points (K, d), about which sums are taken."""
        return choose_reference(self.model, np.zeros(self.n_features))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Bounds of rows within `radius`."""
        K, d = self.means.shape
        reach = self.radius + float(np.linalg.norm(np.atleast_2d(self.reference), axis=1).max())
        return (
            Block("counts", (K,), 1.0),
            Block("first", (K, d), reach),
            Block("second", second_shape(self.covariance_type, K, d), reach**2),
            Block("log_likelihood", (), self._log_likelihood_bound),
        )

    @property
    def _log_likelihood_bound(self) -> float:
        """No row within the radius has a log-likelihood of a greater absolute value."""
        model = self.model
        constants = model.log_determinants - 0.5 * self.n_features * LOG_2PI
        factors = model.precisions_cholesky
        if self.covariance_type in ("full", "tied"):
            stretch = np.broadcast_to(np.linalg.norm(factors, ord=2, axis=(-2, -1)), constants.shape)
        else:
            stretch = factors.max(axis=1) if self.covariance_type == "diag" else factors
        reach = stretch * (self.radius + np.linalg.norm(self.means, axis=1))
        lowest = float((constants + model.log_weights - 0.5 * reach**2).max())
        highest = float(constants.max()) + math.log(max(float(self.weights.sum()), 1.0))
        return max(abs(lowest), abs(highest), 1.0) * (1 + 1e-9)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d)."""
        coordinates, statistics = self.coordinates, e_step(self.model, reference=self.reference)
        bound = self._log_likelihood_bound

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            z = clip_rows(coordinates.apply(rows), self.radius)
            sums = statistics(z)
            likelihood = min(max(sums.log_likelihood, -bound * len(rows)), bound * len(rows))
            return {
                "counts": sums.counts,
                "first": sums.first,
                "second": sums.second,
                "log_likelihood": np.array(likelihood),
            }

        return chunked_sum(chunk, data)

    def sums_of(self, values: Mapping[str, FloatArray]) -> MixtureSums:
        """Return a release's values as the sums that `server_update` takes, in working coordinates."""
        return MixtureSums(
            values["counts"],
            values["first"],
            values["second"],
            float(values["log_likelihood"]),
            float(values["counts"].sum()),
            self.reference,
            self.covariance_type,
        )


@dataclass(frozen=True, eq=False)
class WhitenedMixtureStatistics(LocatedModelQuery):
    """Component-whitened, clipped statistics of one E-step: the query for federations under a budget.

    Build it with `of`. With responsibilities g_k and y_k the row whitened under component k and cut to |y_k| <= B, a
    row contributes
        counts   g_k                           (K,)     bound 1
        means    g_k y_k                       (K, d)   bound B
        second   g_k svec(y_k y_k' - I)        full     bound sqrt(G); tied: the sum over k
                 g_k (y_k*y_k - 1)             diag     cut to norm C, of the row before it is cut to B
                 g_k (|y_k|^2/d - 1)           spherical, cut to [-C, C]
        log_likelihood   log p(z) - typical, cut to [-likelihood_clip, likelihood_clip]

    Args:
        weights, means, precisions_cholesky, covariance_type: the model in working coordinates.
        low, high, centre, transform: see `Coordinates`.
        mean_clip: B, > 0.
        second_clip: bound of the second-order block: sqrt(G) (at least what `mean_clip` implies) or C, > 0.
        typical: public reference for log-likelihoods, nats.
        likelihood_clip: greatest distance from it that a row counts with, nats, > 0.
        shares: relative shares of mu^2 of the four blocks, each > 0.

    Guarantees:
        g lies in the simplex, so whatever K is, a row's block never exceeds the block's bound; with the layout's scales
        the joint sensitivity is 1 under add/remove of one row, and is attained. Any row obeys this, NaN and infinity
        included (they contribute zeros), and whatever the model is.
    """

    kind: ClassVar[str] = "whitened_mixture_statistics"
    mean_clip: float
    second_clip: float
    typical: float
    likelihood_clip: float
    shares: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mean_clip", "second_clip", "likelihood_clip"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"{name} is {value!r}, expected a finite number above 0")
        if not math.isfinite(self.typical):
            raise UsageError(f"typical is {self.typical!r}, expected a finite number of nats")
        if len(self.shares) != 4:
            raise UsageError(f"shares has {len(self.shares)} entries, expected 4: one for each block")

    @classmethod
    def of(
        cls,
        model: MixtureModel,
        coordinates: Coordinates,
        *,
        likelihood_share: float = 0.02,
        typical: float = 0.0,
        likelihood_clip: float = 20.0,
    ) -> WhitenedMixtureStatistics:
        """Return the query for `model` with bounds and shares that suit it.

        Args:
            model: in working coordinates.
            coordinates: the working coordinates.
            likelihood_share: part of the round's mu^2 that the log-likelihood gets, in (0, 1).
            typical, likelihood_clip: public range of a row's log-likelihood, nats.
        """
        bounds = clipping(model.covariance_type, model.n_features)
        costs = block_costs(model.covariance_type, model.n_components, model.n_features, bounds)
        roots = [math.sqrt(cost) for cost in costs]
        counts, means, second = ((1 - likelihood_share) * root / sum(roots) for root in roots)
        return cls(
            *located_fields(model, coordinates),
            bounds.mean_clip,
            bounds.second_clip,
            float(typical),
            float(likelihood_clip),
            (counts, means, second, likelihood_share),
        )

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Four blocks, see the class."""
        K, d = self.means.shape
        counts, means, second, likelihood = self.shares
        return (
            Block("counts", (K,), 1.0, counts),
            Block("means", (K, d), self.mean_clip, means),
            Block("second", second_shape(self.covariance_type, K, d), self.second_clip, second),
            Block("log_likelihood", (), self.likelihood_clip, likelihood),
        )

    @property
    def row_error(self) -> float:
        """How far a row's contribution may move with its place among other rows, relative to its bound.

        Rows lie in the box, so a whitened row is off by at most e (`_whitening_error`) and its clipped self by no more;
        a log-density within `MAX_SQUARED_DISTANCE` = D is off by sqrt(D) e and D roundings, a responsibility by
        twice that. Infinite where the box is open: such a query is no good under a budget.
        """
        error = self._whitening_error(np.maximum(np.abs(self.low - self.centre), np.abs(self.high - self.centre)))
        logit = math.sqrt(MAX_SQUARED_DISTANCE) * error + (self.n_features + 8) * UNIT_ROUNDOFF * MAX_SQUARED_DISTANCE
        clips = 1 / self.mean_clip + 1 / self.second_clip + 2 * max(self.mean_clip / self.second_clip, 1.0)
        return (4 + 1 / self.likelihood_clip) * logit + error * clips

    def _whitening_error(self, corner: FloatArray) -> float:
        """Greatest L2 distance between two evaluations of a whitened row, for rows within `corner` of the centre.

        y = (c T - m) P with |c| <= corner, entry by entry. A product of d terms is off by at most gamma_d |a||B|,
        whatever the order of its sums (Higham 2002, section 3.5), so with Z = corner |T| + |m| the first product moves
        y by at most gamma_d Z |P|, the second by as much, and two evaluations lie at most 4 gamma_d Z |P| apart.

        Bounds by norms would not do: features in units 1e-3 and 1e3 have a large |corner| and a large |T|, and
        moderate products.
        """
        if not np.isfinite(corner).all():
            return math.inf
        factors, kind = np.abs(self.precisions_cholesky), self.covariance_type
        moved = corner @ np.abs(self.transform) + np.abs(self.means)
        if kind in ("full", "tied"):
            stretched = np.einsum("kj,ji->ki" if kind == "tied" else "kj,kji->ki", moved, factors)
        else:
            stretched = moved * (factors if kind == "diag" else factors[:, None])
        return 4 * (self.n_features + 8) * UNIT_ROUNDOFF * float(np.linalg.norm(stretched, axis=1).max())

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums over the rows of `data`, shape (n, d)."""
        return self._sums(self.model, data)

    def _sums(self, model: MixtureModel, data: FloatArray) -> Mapping[str, FloatArray]:
        coordinates = self.coordinates
        return chunked_sum(lambda rows: self._chunk(model, coordinates.apply(rows)), data)

    def _chunk(self, model: MixtureModel, z: FloatArray) -> dict[str, FloatArray]:
        K, d = self.means.shape
        n = len(z)
        distances, whitened = np.empty((n, K)), []
        with np.errstate(over="ignore", invalid="ignore"):
            for k in range(K):
                y = model.whiten(z, k)
                distances[:, k] = np.einsum("ij,ij->i", y, y)
                whitened.append(y)
        # A row that overflows under one component has no defined direction there: it counts nowhere.
        usable = np.isfinite(distances).all(axis=1)
        distances[~usable] = 0.0
        logits = model.log_weights + model.log_determinants - 0.5 * np.minimum(distances, MAX_SQUARED_DISTANCE)
        top = logits.max(axis=1, initial=-np.inf)
        usable &= np.isfinite(top)
        g = np.exp(logits - np.where(usable, top, 0.0)[:, None])
        total = g.sum(axis=1)
        g /= np.where(usable, total, 1.0)[:, None]
        g[~usable] = 0.0
        with np.errstate(divide="ignore", invalid="ignore"):
            likelihood = top + np.log(total) - 0.5 * d * LOG_2PI - self.typical
        likelihood = np.clip(np.where(usable, likelihood, 0.0), -self.likelihood_clip, self.likelihood_clip)
        means, second = np.zeros((K, d)), []
        for k in range(K):
            y = np.where(usable[:, None], whitened[k], 0.0)
            norms = np.sqrt(distances[:, k])
            short = y * np.minimum(1.0, self.mean_clip / np.maximum(norms, self.mean_clip))[:, None]
            means[k] = g[:, k] @ short
            second.append(self._second(y, short, distances[:, k], g[:, k]))
        pooled = np.sum(second, axis=0) if self.covariance_type == "tied" else np.stack(second)
        if self.covariance_type in ("full", "tied"):
            pooled = svec(pooled)
        return {
            "counts": g.sum(axis=0),
            "means": means,
            "second": pooled,
            "log_likelihood": np.array(likelihood.sum()),
        }

    def _second(self, y: FloatArray, short: FloatArray, squares: FloatArray, g: FloatArray) -> FloatArray:
        """One component's second-order sum: matrix (d, d), vector (d,) or number ()."""
        d = y.shape[1]
        if self.covariance_type in ("full", "tied"):
            # Where second_clip is below what mean_clip implies, the whole term is scaled: the bound is a promise.
            norms = np.sqrt(np.maximum(_matrix_norms(np.minimum(squares, self.mean_clip**2), d), 1e-300))
            scaled = g * np.minimum(1.0, self.second_clip / norms)
            return np.asarray((scaled[:, None] * short).T @ short - scaled.sum() * np.eye(d))
        if self.covariance_type == "diag":
            return np.asarray(g @ clip_rows(y * y - 1.0, self.second_clip))
        return np.asarray(g @ np.clip(squares / d - 1.0, -self.second_clip, self.second_clip))


def _matrix_norms(squares: FloatArray, d: int) -> FloatArray:
    """|yy' - I|_F^2 for rows of squared length `squares`."""
    return np.asarray(squares * squares - 2.0 * squares + d)
