"""Sums, counts and second moments: the statistics that most pipelines start from.

Rows are clipped before anything is summed, so the bounds hold for any row whatever it holds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.federation.release import Release
from privfed.mechanism.clip import clip_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate

__all__ = ["Count", "Moments", "VectorSum", "moments_of", "svec", "unsvec"]


def svec(matrices: FloatArray) -> FloatArray:
    """Stack the upper triangle of symmetric `matrices`, shape `(..., d, d)`, off-diagonals times sqrt 2.

    The L2 norm of the result, shape `(..., d (d + 1) / 2)`, is the Frobenius norm of the matrix.
    """
    rows, columns = np.triu_indices(matrices.shape[-1])
    weights = np.where(rows == columns, 1.0, math.sqrt(2.0))
    return np.asarray(matrices[..., rows, columns] * weights)


def unsvec(vectors: FloatArray, d: int) -> FloatArray:
    """Undo `svec`: symmetric matrices of shape `(..., d, d)`."""
    rows, columns = np.triu_indices(d)
    values = vectors / np.where(rows == columns, 1.0, math.sqrt(2.0))
    matrices = np.zeros((*vectors.shape[:-1], d, d))
    matrices[..., rows, columns] = values
    matrices[..., columns, rows] = values
    return matrices


@dataclass(frozen=True, eq=False)
class Count(Query):
    """How many records there are: one block, `count`, of bound 1."""

    kind: ClassVar[str] = "count"

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One number."""
        return (Block("count", (), 1.0),)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the number of rows."""
        return {"count": np.array(float(len(data)))}


@dataclass(frozen=True, eq=False)
class VectorSum(Query):
    """The sum of rows clipped to an L2 norm of `clip`: block `sum` of shape `(dimension,)`.

    Args:
        dimension: number of columns, >= 1.
        clip: L2 bound of a row, in the units of the data, > 0.
    """

    kind: ClassVar[str] = "vector_sum"
    dimension: int
    clip: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", checked_integer("dimension", self.dimension, least=1))
        unit = "a finite number above 0, in the units of the data"
        object.__setattr__(self, "clip", checked_number("clip", self.clip, what=unit))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The clipped sum."""
        return (Block("sum", (self.dimension,), self.clip),)

    @property
    def n_features(self) -> int:
        """The dimension of the rows."""
        return self.dimension

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sum of the clipped rows."""
        return chunked_sum(lambda rows: {"sum": clip_rows(rows, self.clip).sum(axis=0)}, data)


@dataclass(frozen=True, eq=False)
class Moments(Query):
    """Count, sum and second moments of rows about a public centre: blocks `count`, `sum` and `second`.

    A row x counts as z = clip(x - center, radius). `sum` is the sum of z, `second` the sum of svec(z z'), or of |z|^2.

    Args:
        center: public reference point, float64 of shape `(d,)`.
        radius: L2 radius about it to which rows are clipped, in the units of the data, > 0.
        second: "full" for all second moments, "trace" for the squared norm alone, "none" to leave the block out.

    Guarantees:
        A record's contribution has norms of at most 1, `radius` and `radius**2`; the last two are attained.
    """

    kind: ClassVar[str] = "moments"
    center: FloatArray
    radius: float
    second: Literal["full", "trace", "none"] = "full"

    def __post_init__(self) -> None:
        center = frozen_array(self.center)
        require_moderate("center", center)
        if center.ndim != 1 or center.size < 1:
            raise UsageError(f"center has shape {center.shape}, expected a vector (d,)")
        object.__setattr__(self, "radius", checked_number("radius", self.radius))
        if self.second not in ("full", "trace", "none"):
            raise UsageError(f"second is {self.second!r}, expected 'full', 'trace' or 'none'")
        object.__setattr__(self, "center", center)

    @classmethod
    def in_box(cls, low: FloatArray, high: FloatArray) -> Moments:
        """Return the query whose ball just holds the box from `low` to `high`, both of shape `(d,)`."""
        low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
        if low.shape != high.shape or not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
            raise UsageError("bounds must be two finite vectors of one length with low < high in every feature")
        return cls(center=(low + high) / 2, radius=float(np.linalg.norm(high - low)) / 2)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Shares go as the square root of each block's size: what least-squares error at one budget asks for."""
        d = self.center.size
        first = (Block("count", (), 1.0, 1.0), Block("sum", (d,), self.radius, math.sqrt(d)))
        if self.second == "none":
            return first
        shape = (d * (d + 1) // 2,) if self.second == "full" else ()
        return (*first, Block("second", shape, self.radius**2, math.sqrt(math.prod(shape))))

    @property
    def n_features(self) -> int:
        """The length of `center`."""
        return int(self.center.size)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sums."""

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            z = clip_rows(rows - self.center, self.radius)
            sums: dict[str, FloatArray] = {"count": np.array(float(len(z))), "sum": z.sum(axis=0)}
            if self.second == "full":
                sums["second"] = svec(z.T @ z)
            elif self.second == "trace":
                sums["second"] = np.array(np.einsum("ij,ij->i", z, z).sum())
            return sums

        return chunked_sum(chunk, data)


def moments_of(query: Moments, release: Release) -> tuple[float, FloatArray, FloatArray]:
    """Return count, mean `(d,)` and covariance `(d, d)` of released `Moments`: post-processing, no further cost.

    The count is at least 1; the covariance is symmetric and its eigenvalues are at least the noise of one of them,
    never below 1e-12 of the largest, so that it can be factored however noisy the release is.

    Raises:
        UsageError: the query did not ask for all second moments.
    """
    if query.second != "full":
        raise UsageError(f"the query has second={query.second!r}, a covariance needs 'full'")
    d = query.center.size
    count = max(float(release["count"]), 1.0)
    shift = release["sum"] / count
    covariance = unsvec(release["second"], d) / count - np.outer(shift, shift)
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    floor = max(release.noise_std["second"] / count, 1e-12 * max(values[-1], 1e-300))
    covariance = (vectors * np.maximum(values, floor)) @ vectors.T
    return count, query.center + shift, (covariance + covariance.T) / 2
