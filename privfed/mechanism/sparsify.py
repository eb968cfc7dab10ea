"""Random-k sparsification with a public seed: every client sends the same k of d coordinates.

The coordinates of a round are drawn from a public seed, so that masks and sums line up and no index is sent. Scaled
by d/k after the sum, what comes back is an unbiased estimate of the whole vector.

What it costs: a vector x comes back with variance (d/k - 1) |x|^2 from the choice, and the noise of the k coordinates
is multiplied by d/k, so that its total grows from d v to d v (d/k). It saves traffic, not noise; there is no
amplification, since everybody knows the choice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.randomness import Keystream

__all__ = ["RandomK"]

_PURPOSE: Final = b"random-k v1"


@dataclass(frozen=True)
class RandomK:
    """The choice of k of d coordinates under one public seed.

    Attributes:
        dimension: d.
        keep: k, 1 to d.
        seed: 32 bytes, public and fresh each round; chosen without sight of the data.

    >>> choice = RandomK(dimension=6, keep=3, seed=bytes(32))
    >>> kept = choice.sparsify(np.arange(6.0))
    >>> kept.shape, choice.densify(kept).shape
    ((3,), (6,))
    """

    dimension: int
    keep: int
    seed: bytes

    def __post_init__(self) -> None:
        if not 1 <= self.keep <= self.dimension:
            raise UsageError(f"keep is {self.keep}, expected 1 to the dimension {self.dimension}")
        Keystream.derived(self.seed, purpose=_PURPOSE)  # refuses a seed of another length

    def coordinates(self) -> npt.NDArray[np.intp]:
        """The k coordinates, ascending: those with the smallest of d random 64-bit words.

        Uniform over all choices but for ties, of probability below d^2 2^-65; the same at every party.
        """
        words = Keystream.derived(self.seed, purpose=_PURPOSE).uint64(self.dimension)
        least = np.partition(words, self.keep - 1)[self.keep - 1]
        return np.flatnonzero(words <= least)[: self.keep]

    def sparsify(self, vector: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """The kept coordinates of a vector, unscaled.

        Args:
            vector: shape (dimension,).

        Returns:
            A new array of the same dtype, shape (keep,).

        Guarantees:
            Leaving coordinates out shortens every vector and every difference of vectors: L2 and L1 sensitivities
            are at most those of the whole vector, and equal to them if the difference lies in the kept coordinates. The
            choice being public and independent of the data, the guarantee holds for each choice, hence for the mixture.

        Raises:
            UsageError: another shape.
        """
        if vector.shape != (self.dimension,):
            raise UsageError(f"the vector has shape {vector.shape}, expected ({self.dimension},)")
        return vector[self.coordinates()]

    def densify(self, kept: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.floating[Any]]:
        """An unbiased estimate of the vector, or of a sum of vectors, whose kept coordinates are given.

        Args:
            kept: shape (keep,); noised sums as well.

        Returns:
            A new array of the same dtype, shape (dimension,): d/k times `kept` in place, zero elsewhere.

        Guarantees:
            Over the choice, the mean is the vector: each coordinate is kept with probability k/d. Post-processing.

        Raises:
            UsageError: another shape.
        """
        if kept.shape != (self.keep,):
            raise UsageError(f"the kept coordinates have shape {kept.shape}, expected ({self.keep},)")
        whole = np.zeros(self.dimension, dtype=kept.dtype)
        whole[self.coordinates()] = kept * kept.dtype.type(self.dimension / self.keep)
        return whole
