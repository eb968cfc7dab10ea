"""What a release says about a mixture: unbiased statistics with the noise they carry, averaged over rounds.

The server's side of a budgeted fit knows data only through `Estimate`, and only `Estimate.of` makes one, from a
`Release` and the public query that it answers. The functions here and in `private_update` take estimates, models
made from them and public constants, nothing else: what is not in a release cannot enter a model. All of it is
post-processing, free of charge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Release
from privfed.query import FloatArray
from privfed.statistics.mixture import WhitenedMixtureStatistics
from privfed.statistics.mixture_clipping import Clipping, block_costs, clipping, clipping_at
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.moments import unsvec

__all__ = ["Estimate", "Noise", "RowCount", "average", "whitened_query"]

LEAST_RESPONSE: Final = 0.02  # a mean square below this is noise: clipped whitened rows are far longer


@dataclass(frozen=True)
class Noise:
    """Standard deviations per entry of the noise in an estimate: counts, shifts, and squares (per svec entry).

    Those of shifts and squares are one number, or one for each component, shape (K,).
    """

    counts: float
    shifts: FloatArray | float
    squares: FloatArray | float


@dataclass(frozen=True, eq=False)
class Estimate:
    """Statistics of one or several rounds about `model`, in its whitened frames y = P'(z - mean); clipping is undone.

    Attributes:
        model: the model, in working coordinates, whose frames these are.
        counts: sums of responsibilities, shape (K,), noised: may be negative.
        shifts: sums of g y, shape (K, d).
        squares: sums of g y y': full (K, d, d), tied (d, d); of g y*y: diag (K, d); of g |y|^2/d: spherical (K,).
        noise: what they carry.
    """

    model: MixtureModel
    counts: FloatArray
    shifts: FloatArray
    squares: FloatArray
    noise: Noise

    @classmethod
    def of(cls, query: WhitenedMixtureStatistics, release: Release, *, rows: RowCount | None = None) -> Estimate:
        """Read a release: divide by what clipping is known to do to a Gaussian, and put the identity back.

        Args:
            query: what was asked.
            release: what came back.
            rows: what earlier releases tell about the number of rows; the counts are moved, all alike, to sum to it.
        """
        if release.query != query.kind or release["counts"].shape != query.weights.shape:
            raise UsageError(f"release {release.round} of {release.query!r} does not answer this query")
        model = query.model
        clips = _clips(query)
        std = release.noise_std
        noise = Noise(std["counts"], std["means"] / clips.mean_slope, std["second"])
        counts = release["counts"]
        if rows is not None:
            counts = counts + (rows.value - float(counts.sum())) / len(counts)
        squares = _squares(query, release, counts, least=max(3.0 * noise.counts, 1e-3) if len(counts) > 1 else 1e-3)
        return cls(model, counts, release["means"] / clips.mean_slope, squares, noise)

    @property
    def total(self) -> float:
        """Number of rows, at least 1."""
        return max(float(self.counts.sum()), 1.0)

    @property
    def relative_noise(self) -> float:
        """Noise on an entry of an average component's shift or covariance, whichever is louder, in whitened units."""
        each, tied = max(float(self.counts.mean()), 1.0), self.model.covariance_type == "tied"
        loudest = float(np.max(self.noise.shifts)), float(np.max(self.noise.squares))
        return max(loudest[0] / each, loudest[1] / (self.total if tied else each))


@dataclass(frozen=True)
class RowCount:
    """The number of rows as releases tell it, weighted by their precision: `value` at least 1, `std` its noise."""

    weighted: float = 0.0
    precision: float = 0.0

    def add(self, release: Release) -> RowCount:
        """Return the count with one more release of mixture statistics taken in."""
        counts = release["counts"]
        variance = counts.size * max(release.noise_std["counts"], 1e-9) ** 2
        return RowCount(self.weighted + float(counts.sum()) / variance, self.precision + 1.0 / variance)

    @property
    def value(self) -> float:
        """Rows, >= 1."""
        return max(self.weighted / self.precision, 1.0) if self.precision else 1.0

    @property
    def std(self) -> float:
        """Standard deviation of its noise; infinite before the first release."""
        return 1.0 / math.sqrt(self.precision) if self.precision else math.inf


def whitened_query(
    model: MixtureModel,
    coordinates: Coordinates,
    *,
    quantile: float,
    likelihood_share: float,
    typical: float,
    likelihood_clip: float,
) -> WhitenedMixtureStatistics:
    """Return the query for `model` whose bounds leave `quantile` of a Gaussian's rows alone; the rest as in `of`."""
    query = WhitenedMixtureStatistics.of(
        model, coordinates, likelihood_share=likelihood_share, typical=typical, likelihood_clip=likelihood_clip
    )
    clips = clipping(model.covariance_type, model.n_features, quantile)
    roots = np.sqrt(block_costs(model.covariance_type, model.n_components, model.n_features, clips))
    counts, means, second = (float(share) for share in (1 - likelihood_share) * roots / roots.sum())
    return dataclasses.replace(
        query,
        mean_clip=clips.mean_clip,
        second_clip=clips.second_clip,
        shares=(counts, means, second, likelihood_share),
    )


def average(estimates: Sequence[Estimate], model: MixtureModel) -> Estimate:
    """Return the mean of several rounds' statistics, carried over to the frames of `model`.

    Statistics are averaged, not parameters: ratios of averages have less bias than averages of ratios, and the
    noise of m rounds falls by sqrt(m). Noise of a round whose frames were wider than the model's is louder in these,
    and the round counts less.
    """
    moved = [_moved(estimate, model) for estimate in estimates]
    weights = np.array(
        [1.0 / float(np.mean(e.noise.squares) / e0.noise.squares) ** 2 for e, e0 in zip(moved, estimates, strict=True)]
    )
    weights /= weights.sum()

    def mean(parts: Iterable[FloatArray]) -> FloatArray:
        return np.asarray(sum(w * part for w, part in zip(weights, parts, strict=True)))

    def together(noises: Iterable[FloatArray | float]) -> FloatArray:
        return np.asarray(np.sqrt(sum((w * np.asarray(noise)) ** 2 for w, noise in zip(weights, noises, strict=True))))

    noise = Noise(
        float(together(e.noise.counts for e in moved)),
        together(e.noise.shifts for e in moved),
        together(e.noise.squares for e in moved),
    )
    counts, shifts, squares = (mean(getattr(e, name) for e in moved) for name in ("counts", "shifts", "squares"))
    return Estimate(model, counts, shifts, squares, noise)


def _clips(query: WhitenedMixtureStatistics) -> Clipping:
    return clipping_at(query.covariance_type, query.n_features, query.mean_clip, query.second_clip)


def _squares(query: WhitenedMixtureStatistics, release: Release, counts: FloatArray, *, least: float) -> FloatArray:
    """Return the second-order sums with clipping undone: scaled so that an isotropic Gaussian comes out right.

    Components of fewer rows than `least` are read as if they had so many.
    """
    d = query.n_features
    kind, second, clips = query.covariance_type, release["second"], _clips(query)
    divisor = np.maximum(counts, least)
    if kind == "full":
        mean = unsvec(second, d) / divisor[:, None, None] + np.eye(d)
        response = np.trace(mean, axis1=1, axis2=2) / d
        return np.asarray(mean * (_gain(clips, response) * counts)[:, None, None])
    if kind == "tied":
        total = max(float(counts.sum()), 1.0)
        mean = unsvec(second, d) / total + np.eye(d)
        return np.asarray(mean * _gain(clips, np.trace(mean) / d) * total)
    if kind == "diag":
        mean = second / divisor[:, None] + 1.0
        return np.asarray(mean * (_gain(clips, mean.mean(axis=1)) * counts)[:, None])
    return np.asarray(clips.variance(second / divisor + 1.0) * counts)


def _gain(clips: Clipping, response: FloatArray) -> FloatArray:
    return np.asarray(clips.variance(response) / np.maximum(response, LEAST_RESPONSE))


def _moved(estimate: Estimate, model: MixtureModel) -> Estimate:
    """Return the statistics in the frames of another model: y' = A y + b for each component."""
    old = estimate.model
    counts, shifts, squares = estimate.counts, estimate.shifts, estimate.squares
    change = old.means - model.means
    if model.covariance_type in ("full", "tied"):
        A = np.swapaxes(np.linalg.solve(old.precisions_cholesky, model.precisions_cholesky), -1, -2)
        stretch = np.maximum((A * A).sum(axis=(-2, -1)) / model.n_features, 1.0)
        A = np.broadcast_to(A, (model.n_components, *A.shape[-2:]))
        factors = np.broadcast_to(model.precisions_cholesky, A.shape)
        b = np.einsum("kji,kj->ki", factors, change)
        moved = np.einsum("kij,kj->ki", A, shifts)
        cross = moved[:, :, None] * b[:, None, :]
        extra = cross + np.swapaxes(cross, 1, 2) + counts[:, None, None] * b[:, :, None] * b[:, None, :]
        if model.covariance_type == "tied":
            squares = A[0] @ squares @ A[0].T + extra.sum(axis=0)
        else:
            squares = A @ squares @ np.swapaxes(A, 1, 2) + extra
    else:
        scale, factor = model.precisions_cholesky / old.precisions_cholesky, model.precisions_cholesky
        if model.covariance_type == "spherical":
            scale, factor = scale[:, None], factor[:, None]
        stretch = np.maximum((scale * scale).mean(axis=1), 1.0)
        b = change * factor
        moved = scale * shifts
        extra = 2 * moved * b + counts[:, None] * b**2
        if model.covariance_type == "spherical":
            squares = scale[:, 0] ** 2 * squares + extra.mean(axis=1)
        else:
            squares = scale**2 * squares + extra
    noise = Noise(estimate.noise.counts, estimate.noise.shifts * np.sqrt(stretch), estimate.noise.squares * stretch)
    return Estimate(model, counts, moved + counts[:, None] * b, squares, noise)
