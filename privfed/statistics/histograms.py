"""Histograms: counts per bin and feature, and the magnitudes that tell a range without showing a value."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Release
from privfed.query import Block, FloatArray, Query, frozen_array, require_moderate

__all__ = ["Histogram", "Magnitudes", "radius_of"]


@dataclass(frozen=True, eq=False)
class Histogram(Query):
    """Counts of records per feature and bin: block `counts` of shape `(d, bins)`.

    Values outside the outer edges fall into the first or last bin: every record counts once per feature.

    Args:
        edges: bin edges, float64 of shape `(d, bins + 1)`, increasing along each row.

    Guarantees:
        A record adds exactly one to one bin of each feature: an L2 norm of `sqrt(d)`.
    """

    kind: ClassVar[str] = "histogram"
    edges: FloatArray

    def __post_init__(self) -> None:
        edges = frozen_array(self.edges)
        require_moderate("edges", edges)
        if edges.ndim != 2 or edges.shape[1] < 2 or not (np.diff(edges) > 0).all():
            raise UsageError(f"edges have shape {edges.shape}, expected (d, bins + 1), increasing in each row")
        object.__setattr__(self, "edges", edges)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts."""
        d, n_edges = self.edges.shape
        return (Block("counts", (d, n_edges - 1), math.sqrt(d)),)

    @property
    def n_features(self) -> int:
        """Rows of `edges`."""
        return int(self.edges.shape[0])

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the counts; sums of ones, exact in float64."""
        d, n_edges = self.edges.shape
        bins = n_edges - 1
        counts = np.empty((d, bins))
        for feature, edges in enumerate(self.edges):
            index = np.searchsorted(edges, data[:, feature], side="right") - 1
            counts[feature] = np.bincount(np.clip(index, 0, bins - 1), minlength=bins)
        return {"counts": counts}


@dataclass(frozen=True, eq=False)
class Magnitudes(Query):
    """How many records have which power of two as their size: block `counts` of shape `(1024,)`.

    A row falls into bin e + 512 where 2^e is the least power of two not below its L2 norm, e from -512 to 511: rows up
    to 1e100 in every feature have a bin of their own, rows below 1e-154 share the first.
    It is how a federation learns a radius for its data when nobody knows one in public.
    """

    kind: ClassVar[str] = "magnitudes"
    bins: ClassVar[int] = 1024

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The counts."""
        return (Block("counts", (self.bins,), 1.0),)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Return the counts."""
        largest = np.abs(data).max(axis=1, initial=0.0)
        safe = np.where(largest > 0, largest, 1.0)
        norms = largest * np.linalg.norm(data / safe[:, None], axis=1)
        _, exponents = np.frexp(np.where(np.isfinite(norms), norms, np.finfo(np.float64).max))
        index = np.clip(exponents + self.bins // 2, 0, self.bins - 1)
        index[largest == 0] = 0
        return {"counts": np.bincount(index, minlength=self.bins).astype(np.float64)}


def radius_of(release: Release) -> float:
    """Return a power of two that holds the rows which a released `Magnitudes` counted.

    Without noise it holds every row. With noise, a bin counts as taken when it stands 4 standard deviations out: about
    one in 30 releases then shows a radius that no row needs, and a handful of outliers may be clipped.

    Raises:
        UsageError: no bin stands out of the noise.
    """
    counts = release["counts"]
    taken = np.flatnonzero(counts > max(0.5, 4.0 * release.noise_std["counts"]))
    if taken.size == 0:
        raise UsageError(
            "no magnitude stands out of the noise: give public bounds=(low, high), or spend more on the range"
        )
    return float(2.0 ** (int(taken[-1]) - Magnitudes.bins // 2))
