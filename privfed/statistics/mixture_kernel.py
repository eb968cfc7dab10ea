"""The E-step about one point at the speed of its two matrix products.

Layout: features run along rows. With phi(x) = [1, x, x_i x_j (i <= j)] the log-densities of a chunk of rows are one
matrix product `W phi`, and the statistics one more, `responsibilities phi'`; nothing of size n x K x d is ever formed.
What else is done to a chunk is kept to a few passes over memory that a cache holds:

- Products are formed diagonal by diagonal: x_i x_(i+o) for all i is one multiplication of two contiguous stretches.
- Log-densities are counted from the highest peak of any component. They are then at most zero, so that `exp` needs no
  row maximum beforehand; a chunk with a row that underflows is done again with one.
- Matrix products are cut to `SMALL_PRODUCT` multiplications, up to which BLAS works without packing its operands first.
- Where rows turn out to be near few components, the statistics are summed over those pairs alone
  (`privfed.statistics.mixture_nearby`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.query import FloatArray
from privfed.statistics.mixture_model import LOG_2PI, CovarianceType, MixtureModel
from privfed.statistics.mixture_nearby import FEWEST_FEATURES, FEWEST_ROWS, NearMoments, few_are_near

__all__ = ["KernelSums", "PointKernel", "n_products"]

SMALL_PRODUCT: Final = 1_000_000  # multiplications: OpenBLAS's bound for matrices it does not pack
SMALL_TRANSPOSED: Final = 1_200  # entries of the result, where one operand is transposed
LEAST_CHUNK: Final = 128  # rows: below, numpy's calls cost more than what they compute
MOST_CHUNK: Final = 3_072
CACHE_VALUES: Final = 2**17  # of phi: a megabyte
LOWEST: Final = -600.0  # exp of it is 1e-261, a normal number: below -708 exp is slow, and nobody sees the difference
LOOK_EVERY: Final = 16  # chunks: whether log-densities go below that, and how many components are near, is looked up
NOWHERE: Final = -1e100  # log-density of a component of weight zero: infinity has no place in a matrix product
LEAST_TOTAL: Final = 1e-200  # of a row's densities, in units of the highest peak: below, count from the row's own


def n_products(covariance_type: CovarianceType, n_features: int) -> int:
    """Return the number of second-order features of a row that a matrix product takes."""
    return {"full": n_features * (n_features + 1) // 2, "tied": 0, "diag": n_features, "spherical": 1}[covariance_type]


@dataclass
class KernelSums:
    """Totals over rows about the kernel's point.

    Attributes:
        counts, first: sums of responsibilities, shape (K,), and of responsibility times row, shape (K, d).
        products: sums of responsibility times second-order features, shape (K, products), i <= j in row order.
        pooled: tied only: the sum of outer products of rows, shape (d, d).
        log_likelihood: nats.
    """

    counts: FloatArray
    first: FloatArray
    products: FloatArray
    pooled: FloatArray
    log_likelihood: float


class PointKernel:
    """The E-step of one model about one point: prepared once, called for any number of rows.

    Args:
        model: the mixture, public.
        point: shape (d,).
    """

    def __init__(self, model: MixtureModel, point: FloatArray) -> None:
        self._kind = model.covariance_type
        self._point = point[:, None]
        self._factor = model.precisions_cholesky.T if self._kind == "tied" else None
        W, self._peak = _design(model.shifted(-point))
        self._n_components, self._size = W.shape
        self._order = _diagonal_order(len(point)) if self._kind == "full" else None
        if self._order is not None:
            W[:, 1 + len(point) :] = W[:, 1 + len(point) :][:, self._order]
        self._direct = W.size <= SMALL_TRANSPOSED
        self._pairs = self._kind == "full" and len(point) >= FEWEST_FEATURES
        self._most = max(min(max(min(SMALL_PRODUCT // W.size, CACHE_VALUES // self._size), LEAST_CHUNK), MOST_CHUNK), 1)
        width = max(SMALL_PRODUCT // (self._n_components * self._most), 16)
        self._cuts = [slice(at, min(at + width, self._size)) for at in range(0, self._size, width)]
        self._parts = [np.ascontiguousarray(W[:, cut]) for cut in self._cuts]

    def sums(self, X: FloatArray) -> KernelSums:
        """Return the totals over the rows of `X`, shape (n, d)."""
        n, d, K = len(X), len(self._point), self._n_components
        total = np.zeros((K, self._size) if self._direct else (self._size, K))
        near = NearMoments(K, d) if self._pairs and n >= FEWEST_ROWS else None
        pooled, log_likelihood = np.zeros((d, d)), self._peak * n
        chunks = -(-n // self._most)
        step = -(-n // max(chunks, 1))
        space = _Workspace.of(self, step)
        for chunk, start in enumerate(range(0, n, max(step, 1))):
            rows = X[start : start + step]
            if len(rows) < step:
                space = _Workspace.of(self, len(rows), deep=space.deep)
            look = chunk % LOOK_EVERY == 0
            log_likelihood += self._responsibilities(rows, space, look=look)
            if near is not None:
                if look:
                    space.few = few_are_near(space.logits * space.scale)
                if space.few:
                    near.add(space.x.T, space.logits, space.scale)
                    continue
            self._statistics(space)
            total += space.sums
            if self._kind == "tied":
                pooled += space.x @ space.x.T
        sums = total if self._direct else total.T
        counts, first, products = sums[:, 0], sums[:, 1 : 1 + d], sums[:, 1 + d :]
        if self._order is not None:
            products = np.empty_like(products)
            products[:, self._order] = sums[:, 1 + d :]
        if near is not None:
            moments = near.totals()
            counts, first = counts + moments[:, 0, 0], first + moments[:, 0, 1:]
            products += moments[:, 1:, 1:][:, *np.triu_indices(d)]
        return KernelSums(counts, first, products, pooled, log_likelihood)

    def _responsibilities(self, rows: FloatArray, space: _Workspace, *, look: bool) -> float:
        """Return the log-likelihood of `rows`, counted from the peak.

        Afterwards `space` has phi, densities in place of logits, and the scale that makes responsibilities of them.
        """
        np.subtract(rows.T, self._point, out=space.x)
        if self._kind == "spherical":
            np.einsum("ij,ij->j", space.x, space.x, out=space.phi[-1])
        for left, right, out in space.products:
            np.multiply(left, right, out=out)
        logits, total = space.logits, space.scale
        self._log_densities(space)
        if look:
            space.deep = bool(logits.min() < LOWEST)
        if space.deep:
            np.maximum(logits, LOWEST, out=logits)
        np.exp(logits, out=logits)
        np.add.reduce(logits, axis=0, out=total)
        log_likelihood = 0.0
        if total.min() < LEAST_TOTAL:
            self._log_densities(space)
            top = logits.max(axis=0)
            logits -= top
            np.exp(logits, out=logits)
            np.add.reduce(logits, axis=0, out=total)
            log_likelihood = float(top.sum())
        log_likelihood += float(np.log(total).sum())
        np.divide(1.0, total, out=total)
        return log_likelihood

    def _statistics(self, space: _Workspace) -> None:
        """Fill the sums: responsibilities times phi, over the rows of the chunk."""
        if self._direct:
            np.multiply(space.logits, space.scale, out=space.logits)
            np.matmul(space.logits, space.phi.T, out=space.sums)
        else:
            np.multiply(space.logits.T, space.scale[:, None], out=space.turned)
            for cut in self._cuts:
                np.matmul(space.phi[cut], space.turned, out=space.sums[cut])

    def _log_densities(self, space: _Workspace) -> None:
        """Fill the logits: log(weight * density) of every component and row, counted from the peak."""
        logits = space.logits
        np.matmul(self._parts[0], space.phi[self._cuts[0]], out=logits)
        for part, cut in zip(self._parts[1:], self._cuts[1:], strict=True):
            np.matmul(part, space.phi[cut], out=space.more)
            np.add(logits, space.more, out=logits)
        if self._factor is not None:  # the square is the same under all components: kept out of W
            whitened = self._factor @ space.x
            logits -= 0.5 * np.einsum("ij,ij->j", whitened, whitened)


@dataclass
class _Workspace:
    """Buffers for one chunk of `n` rows: phi and views into it, logits and what becomes of them.

    What the last look found: log-densities are `deep`, so low that `exp` is slow; `few` components are near a row.
    """

    phi: FloatArray
    logits: FloatArray
    scale: FloatArray
    sums: FloatArray
    n_features: int
    kind: CovarianceType
    deep: bool = False
    few: bool = False

    @classmethod
    def of(cls, kernel: PointKernel, n: int, *, deep: bool = False) -> _Workspace:
        K, size = kernel._n_components, kernel._size
        phi = np.empty((size, n))
        phi[0] = 1.0
        sums = np.empty((K, size) if kernel._direct else (size, K))
        return cls(phi, np.empty((K, n)), np.empty(n), sums, len(kernel._point), kernel._kind, deep)

    @cached_property
    def x(self) -> FloatArray:
        """Rows about the point, features-major, shape (d, n)."""
        return self.phi[1 : 1 + self.n_features]

    @cached_property
    def more(self) -> FloatArray:
        """Logits from a further block of features."""
        return np.empty_like(self.logits)

    @cached_property
    def turned(self) -> FloatArray:
        """Responsibilities, shape (n, K)."""
        return np.empty(self.logits.shape[::-1])

    @cached_property
    def products(self) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
        """Pairs of contiguous stretches of x and the stretch of phi that their product fills."""
        d, x = self.n_features, self.x
        if self.kind == "diag":
            return [(x.reshape(-1), x.reshape(-1), self.phi[1 + d :].reshape(-1))]
        if self.kind != "full":
            return []
        found, at = [], 1 + d
        for offset in range(d):
            out = self.phi[at : at + d - offset]
            found.append((x[: d - offset].reshape(-1), x[offset:].reshape(-1), out.reshape(-1)))
            at += d - offset
        return found


def _diagonal_order(d: int) -> npt.NDArray[np.int64]:
    """Return, for products taken diagonal by diagonal, their places in row order (`numpy.triu_indices`)."""
    rows = np.concatenate([np.arange(d - offset) for offset in range(d)])
    offsets = np.repeat(np.arange(d), np.arange(d, 0, -1))
    return np.asarray(rows * d - rows * (rows - 1) // 2 + offsets, dtype=np.int64)


def _design(model: MixtureModel) -> tuple[FloatArray, float]:
    """Return W, shape (K, size), and the peak: `W phi(x) + peak` = log(weight * density); tied: without the square.

    The peak is the highest log-density of any component at its own mean.
    """
    K, d = model.means.shape
    kind, precisions, means = model.covariance_type, model.precisions, model.means
    if kind in ("full", "tied"):
        linear = means @ precisions if kind == "tied" else np.einsum("kij,kj->ki", precisions, means)
        if kind == "full":
            rows, columns = np.triu_indices(d)
            quadratic = precisions[:, rows, columns] * np.where(rows == columns, -0.5, -1.0)
        else:
            quadratic = np.empty((K, 0))
    else:
        matrix = precisions if kind == "diag" else precisions[:, None]
        linear, quadratic = matrix * means, -0.5 * matrix
    heights = model.log_weights + model.log_determinants - 0.5 * d * LOG_2PI
    heights = np.maximum(heights, NOWHERE)
    peak = float(heights.max())
    constant = heights - peak - 0.5 * (linear * means).sum(axis=1)
    return np.concatenate([constant[:, None], linear, quadratic], axis=1), peak
