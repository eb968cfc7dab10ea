"""Transferability scores as functions of sums over records: what a source model's features say about a task's labels.

Every function takes sums, not rows: the second moments F'F of features, their sums F'Y by class, and the counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.query import FloatArray

__all__ = ["Moments", "h_score", "likely_tables", "log_evidence", "logme", "shrinkage"]

ITERATIONS: Final = 500
TOLERANCE: Final = 1e-7  # of the ratio; the evidence is flat at its maximum, so that its own error is the square
RESIDUAL: Final = 1e-12  # of y'y: a perfect fit has no finite evidence
RANK: Final = 1e-12  # of the largest eigenvalue: below it a direction is rounding


@dataclass(frozen=True, eq=False)
class Moments:
    """What the scores of one source are computed from: sums, as they are or repaired after noise.

    Attributes:
        counts: records of each class, float64 of shape `(classes,)`, > 0 in total.
        cross: F'Y, sums of features by class, shape `(d, classes)`.
        values, vectors: eigenvalues >= 0 and eigenvectors (columns) of F'F, shapes `(m,)` and `(d, m)`, m <= d.
            Directions left out carry nothing that can be told from noise.
        cross_noise: standard deviation of the noise on an entry of `cross`, 0.0 where there is none.
    """

    counts: FloatArray
    cross: FloatArray
    values: FloatArray
    vectors: FloatArray
    cross_noise: float = 0.0

    @property
    def n(self) -> float:
        """Number of records."""
        return float(self.counts.sum())


def logme(moments: Moments) -> float:
    """Return the logarithm of the maximum evidence per record, averaged over the classes.

    For each class, its indicator vector y is explained by a Bayesian linear model on the features with prior variance
    1/alpha and noise variance 1/beta, both at the maximum of the evidence.

    Source: You, Liu, Wang and Long 2021, LogME, arXiv:2102.11005, equation 2 and algorithm 1. The authors' code adds
    1e-5 to two denominators and stops early; this is the maximum itself.
    """
    projected = np.square(moments.vectors.T @ moments.cross)
    projected = np.maximum(projected - moments.cross_noise**2, 0.0)
    evidences = [
        log_evidence(moments.values, projected[:, label], float(count), moments.n)
        for label, count in enumerate(moments.counts)
        if count > 0
    ]
    return float(np.mean(evidences)) if evidences else -math.inf


def log_evidence(values: FloatArray, projected: FloatArray, total: float, n: float) -> float:
    """Return the maximum of log p(y | F, alpha, beta) / n over alpha and beta.

    Args:
        values: eigenvalues of F'F, shape `(m,)`.
        projected: squared coordinates of F'y along its eigenvectors, shape `(m,)`.
        total: y'y, > 0.
        n: number of records.
    """
    kept = values > RANK * max(float(values.max(initial=0.0)), 1e-300)
    values, projected = values[kept], projected[kept]
    explained = projected / values  # of y'y, direction by direction
    excess = float(explained.sum()) / max(total * (1.0 - RESIDUAL), 1e-300)
    if excess > 1.0:  # by rounding, or because what noise is left does not fit together
        explained, projected = explained / excess, projected / excess
    rest = max(total - float(explained.sum()), RESIDUAL * total)
    ratio = 1.0  # alpha / beta
    for _ in range(ITERATIONS):
        alpha, beta, *_ = _precisions(values, projected, explained, rest, n, ratio)
        following = min(max(alpha / beta, 1e-300), 1e12 * max(float(values.max(initial=0.0)), 1.0))
        if abs(following - ratio) <= TOLERANCE * ratio:
            break
        ratio = following
    alpha, beta, size, residual = _precisions(values, projected, explained, rest, n, ratio)
    evidence = (
        n / 2 * math.log(beta)
        - 0.5 * float(np.log1p(values * (beta / alpha)).sum())
        - beta / 2 * residual
        - alpha / 2 * size
        - n / 2 * math.log(2 * math.pi)
    )
    return evidence / n


def _precisions(
    values: FloatArray, projected: FloatArray, explained: FloatArray, rest: float, n: float, ratio: float
) -> tuple[float, float, float, float]:
    """Return alpha, beta, |m|^2 and |y - F m|^2 after one step of the fixed point at `ratio` = alpha / beta."""
    size = float((projected / np.square(values + ratio)).sum())
    residual = float((explained * np.square(ratio / (values + ratio))).sum()) + rest
    effective = float((values / (values + ratio)).sum())
    alpha = effective / max(size, 1e-300) if effective > 0 else 1.0
    beta = max(n - effective, 1e-3) / max(residual, 1e-300)
    return max(alpha, 1e-300), beta, size, residual


def h_score(moments: Moments, alpha: float = 0.0) -> float:
    """Return tr(cov(f)^-1 cov(E[f | y])), with `alpha` of shrinkage towards a multiple of the identity.

    With alpha, cov(f) is (1 - alpha) cov(f) + alpha tr(cov(f))/d I, and cov(E[f | y]) counts by (1 - alpha).

    Sources: Bao et al. 2019, An information-theoretic approach to transferability in task transfer learning; Ibrahim,
    Ponomareva and Mazumder 2021, Newer is not always better, arXiv:2110.06893, equation 5. Covariances divide by n.
    """
    between, covariance = _covariances(moments)
    values, vectors = np.linalg.eigh(covariance)
    d = len(moments.cross)
    if alpha > 0.0:
        values = (1 - alpha) * np.maximum(values, 0.0) + alpha * max(float(np.trace(covariance)), 0.0) / d
    kept = values > RANK * max(float(values.max(initial=0.0)), 1e-300)
    white = vectors[:, kept] / np.sqrt(values[kept])
    inside = np.linalg.eigvalsh(white.T @ between @ white) * (1 - alpha)
    return float(np.clip(inside, 0.0, 1.0).sum())


def _covariances(moments: Moments) -> tuple[FloatArray, FloatArray]:
    """Return cov(E[f | y]) and cov(f), in the coordinates of the eigenvectors that were kept."""
    n, basis = max(moments.n, 1e-300), moments.vectors
    sums = basis.T @ moments.cross
    mean = sums.sum(axis=1) / n
    counts = np.maximum(moments.counts, 1e-300)
    present = moments.counts > 0
    between = (sums[:, present] / counts[present]) @ sums[:, present].T / n - np.outer(mean, mean)
    if moments.cross_noise > 0:
        noise = moments.cross_noise**2 * float((1.0 / counts[present]).sum()) / n
        between = _positive(between - noise * np.eye(len(between)))
    covariance = np.diag(moments.values) / n - np.outer(mean, mean)
    if moments.cross_noise > 0:
        # What lies between classes is part of the whole: noise must not make it more.
        covariance = between + _positive(covariance - between)
    return between, covariance


def _positive(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, 0.0)) @ vectors.T)


def shrinkage(moments: Moments, third: FloatArray, fourth: float) -> float:
    """Return Ledoit and Wolf's shrinkage of cov(f), from sums of |f|^2 f `(d,)` and of |f|^4; in [0, 1].

    Source: Ledoit and Wolf 2004, A well-conditioned estimator for large-dimensional covariance matrices, Journal of
    Multivariate Analysis 88, section 3.3.
    """
    n, d = max(moments.n, 1e-300), len(moments.cross)
    mean = moments.cross.sum(axis=1) / n
    second = (moments.vectors * (moments.values / n)) @ moments.vectors.T
    covariance = second - np.outer(mean, mean)
    length = float(mean @ mean)
    spread = (
        fourth / n
        - 4.0 * float(mean @ third) / n
        + 4.0 * float(mean @ second @ mean)
        + 2.0 * length * float(np.trace(second))
        - 3.0 * length**2
    )  # mean of |f - mean|^4
    squares = float(np.square(covariance).sum())
    trace = float(np.trace(covariance))
    distance = (squares - trace**2 / d) / d
    error = max(spread - squares, 0.0) / (d * n)
    return 1.0 if error >= distance else float(error / distance)


def likely_tables(table: FloatArray) -> FloatArray:
    """Return P(class | source label), shape `(classes, labels)`, of a table of sums with negative entries cut.

    Labels that nobody has say nothing: all classes are as likely.

    Args:
        table: sums of source label distributions by class, shape `(classes, labels)`.

    Source: Nguyen, Hassner, Seeger and Archambeau 2020, LEEP, arXiv:2002.12462, section 3.
    """
    table = np.maximum(table, 0.0)
    total = table.sum(axis=0)
    even = np.full(table.shape, 1.0 / len(table))
    return np.asarray(np.clip(np.where(total > 0, table / np.where(total > 0, total, 1.0), even), 0.0, 1.0))
