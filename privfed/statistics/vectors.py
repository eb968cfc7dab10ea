"""Sums of other people's vectors: model updates, gradients, any row as it comes, with a weight or a moving clip.

Everything rides in one protected vector: weights and counts are blocks of it, so that nobody learns a single client's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from privfed.errors import UsageError, checked_integer, checked_number, warn_caller
from privfed.federation.release import Release
from privfed.mechanism.adaptive_clip import COUNT_SHARE, RATE, next_bound, split
from privfed.mechanism.clip import clip_rows
from privfed.mechanism.sensitivity import chunked_sum
from privfed.query import Block, FloatArray, Query

__all__ = ["AdaptiveSum", "WeightedSum"]

DROWNED = 0.5  # of the clients: noise on their count beyond which it says next to nothing


@dataclass(frozen=True, eq=False)
class WeightedSum(Query):
    """The weighted sum of clipped rows, and the sum of the weights: blocks `sum` `(dimension,)` and `weight`.

    A row holds its weight first and its vector behind: w, x_1, ..., x_d. It adds w' clip(x) and w', where w' is w cut
    to [0, largest_weight]. The quotient of the two blocks is the weighted mean.

    Args:
        dimension: length of a row's vector, >= 1.
        clip: L2 bound of a row's vector, > 0.
        largest_weight: public bound on a weight, > 0.
        weight_share: part of the privacy cost that the sum of weights takes, in (0, 1).

    Guarantees:
        A row moves `sum` by at most `clip * largest_weight` and `weight` by at most `largest_weight`.
    """

    kind: ClassVar[str] = "weighted_sum"
    dimension: int
    clip: float
    largest_weight: float
    weight_share: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", checked_integer("dimension", self.dimension, least=1))
        for name in ("clip", "largest_weight"):
            object.__setattr__(self, name, checked_number(name, getattr(self, name)))
        if not 0.0 < self.weight_share < 1.0:
            raise UsageError(f"weight_share is {self.weight_share!r}, expected a fraction in (0, 1)")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The sum, and the weights' own sum."""
        return (
            Block("sum", (self.dimension,), self.clip * self.largest_weight, 1.0 - self.weight_share),
            Block("weight", (), self.largest_weight, self.weight_share),
        )

    @property
    def n_features(self) -> int:
        """A weight and a vector."""
        return self.dimension + 1

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the weighted sum and the weight of the rows."""

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            weights = np.clip(rows[:, 0], 0.0, self.largest_weight)
            clipped = clip_rows(rows[:, 1:], self.clip) * weights[:, None]
            return {"sum": clipped.sum(axis=0), "weight": np.asarray(weights.sum())}

        return chunked_sum(chunk, data)


@dataclass(frozen=True, eq=False)
class AdaptiveSum(Query):
    """The sum of rows clipped to a norm that moves: blocks `sum` `(dimension,)` and `unclipped`, which moves it.

    `unclipped` sums 1/2 for each row within the norm and -1/2 for each that was cut. `following` makes the next
    release's query of it: the norm goes towards the quantile of the rows' norms (Andrew, Thakkar, McMahan and Ramaswamy
    2021, arXiv:1905.03871). The count takes its part of the one noise, a few per cent as a rule. Made for one row per
    client: budgets for records do not admit it.

    Args:
        dimension: number of columns, >= 1.
        clip: L2 bound of a row, in the units of the data, > 0.
        count_weight: part of the vector's length that the count takes, in (0, 1); see `for_noise`.

    Guarantees:
        A row moves the scaled vector by at most 1, sum and count together.

    Examples:
        >>> import numpy as np
        >>> from privfed import LocalFederation
        >>> updates = [np.full((1, 4), size) for size in (0.5, 1.0, 2.0)]
        >>> query = AdaptiveSum(4, clip=8.0)
        >>> release = LocalFederation(updates).release(query)
        >>> round(query.unclipped(release), 6), query.following(release).clip < 8.0
        (1.0, True)
    """

    kind: ClassVar[str] = "adaptive_sum"
    dimension: int
    clip: float
    count_weight: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimension", checked_integer("dimension", self.dimension, least=1))
        object.__setattr__(self, "clip", checked_number("clip", self.clip))
        if not 0.0 < self.count_weight < 1.0:
            raise UsageError(f"count_weight is {self.count_weight!r}, expected a fraction in (0, 1)")

    @classmethod
    def for_noise(cls, dimension: int, clip: float, *, noise_multiplier: float, clients: int) -> Self:
        """Return the query whose count carries noise of a twentieth of `clients`, at the given noise multiplier."""
        weights = split(multiplier=noise_multiplier, count_deviation=clients * COUNT_SHARE)
        return cls(dimension, clip, weights.count_weight)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The clipped sum, and the count; their shares are the squares of the weights."""
        count = self.count_weight**2
        return (Block("sum", (self.dimension,), self.clip, 1.0 - count), Block("unclipped", (), 0.5, count))

    @property
    def n_features(self) -> int:
        """The dimension of the rows."""
        return self.dimension

    @property
    def row_error(self) -> float:
        """Infinite: whether a row at the very norm counts as short may hang on rounding. For unit "client" only."""
        return math.inf

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the sum of the clipped rows, and how many were short enough less how many were not, halved."""

        def chunk(rows: FloatArray) -> dict[str, FloatArray]:
            clipped = clip_rows(rows, self.clip)
            short = (clipped == rows).all(axis=1)
            return {"sum": clipped.sum(axis=0), "unclipped": np.asarray(np.where(short, 0.5, -0.5).sum())}

        return chunked_sum(chunk, data)

    def unclipped(self, release: Release) -> float:
        """Return the noised fraction of rows that were short enough, where each survivor has one row; in [0, 1].

        Of hidden samples of clients it is the estimate that divides by how many are drawn on average.
        """
        fraction = 0.5 + float(release["unclipped"]) / release.divisor
        return min(max(fraction, 0.0), 1.0)

    def following(self, release: Release, *, quantile: float = 0.5, rate: float = RATE) -> Self:
        """Return the next release's query: the norm times exp(-rate (unclipped - quantile)). Post-processing, free.

        Args:
            release: of this query; a `UserWarning` says so if its count drowns in noise.
            quantile: which fraction of rows should go unclipped.
            rate: step of the norm's logarithm.

        Raises:
            UsageError: the release is of another query.
        """
        if release.query != self.kind or np.shape(release["sum"]) != (self.dimension,):
            raise UsageError(
                f"the release is of query {release.query!r}, expected one of this {self.kind!r} of dimension"
                f" {self.dimension}: pass what release(query) returned"
            )
        noise = release.noise_std["unclipped"]
        if noise > DROWNED * release.divisor:
            warn_caller(
                f"the fraction drowns in noise: standard deviation {noise:.3g} on a count of {release.divisor:g}"
                f" clients moves the norm at random. Use AdaptiveSum.for_noise or a larger count_weight, now"
                f" {self.count_weight:g}; a larger share; or more clients"
            )
        clip = next_bound(self.clip, self.unclipped(release), quantile=quantile, rate=rate)
        return replace(self, clip=clip)
