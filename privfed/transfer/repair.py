"""A noisy Gram matrix made usable: what is known of the noise is taken out, what drowns in it is left out.

The noise is Gaussian with a standard deviation that the release states. Everything here is post-processing.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from privfed.query import FloatArray
from privfed.statistics.moments import unsvec
from privfed.transfer.scores import Moments

__all__ = ["noise_edge", "repaired", "shrunk_spectrum"]

MARGIN: Final = 1.1  # beyond the edge of the noise's spectrum: at these sizes it scatters by a few per cent


def noise_edge(d: int, noise: float) -> float:
    """Return where the spectrum of the noise alone ends: noise sqrt(2 d).

    Args:
        d: size of the matrix.
        noise: standard deviation of each coordinate of its `svec`; an off-diagonal entry carries noise / sqrt 2.

    Source: Wigner's law: a symmetric matrix with off-diagonal variance v has eigenvalues up to 2 sqrt(v d).
    """
    return noise * math.sqrt(2.0 * d)


def shrunk_spectrum(matrix: FloatArray, noise: float) -> tuple[FloatArray, FloatArray]:
    """Return eigenvalues `(m,)` and eigenvectors `(d, m)` of a symmetric matrix freed of noise, m <= d.

    Directions within the noise's spectrum, or with negative eigenvalues, are left out: the matrix is projected on the
    positive ones above a known floor. An eigenvalue l beyond it is what a true x became, l = x + e^2 / (4 x) with e the
    edge, and is taken back to x = (l + sqrt(l^2 - e^2)) / 2.

    Args:
        matrix: shape `(d, d)`.
        noise: as for `noise_edge`; 0.0 leaves all positive eigenvalues as they are.

    Source: Benaych-Georges and Nadakuditi 2011, The eigenvalues and eigenvectors of finite, low rank perturbations of
    large random matrices, arXiv:0910.2120, section 3.1.
    """
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    edge = noise_edge(len(matrix), noise)
    kept = values > MARGIN * edge
    values, vectors = values[kept], vectors[:, kept]
    return np.asarray((values + np.sqrt(np.square(values) - edge**2)) / 2), vectors


def repaired(
    counts: FloatArray, cross: FloatArray, gram: FloatArray, *, cross_noise: float = 0.0, gram_noise: float = 0.0
) -> Moments:
    """Return released sums as `Moments`.

    Args:
        counts: records of each class, `(classes,)`; negative ones count as none.
        cross: F'Y, `(d, classes)`.
        gram: svec of F'F, `(d (d + 1) / 2,)`.
        cross_noise, gram_noise: standard deviation per coordinate, as the release states.
    """
    values, vectors = shrunk_spectrum(unsvec(gram, len(cross)), gram_noise)
    floor = 1.0 if gram_noise > 0 else 0.0
    counts = np.maximum(counts, floor)
    return Moments(counts, np.asarray(cross), values, vectors, cross_noise)
