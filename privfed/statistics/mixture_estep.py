"""The E-step of a Gaussian mixture as one sum over rows: what each client computes, alone, from public parameters.

With responsibilities g_k(x), the sums of g_k, g_k (x - r) and g_k (x - r)(x - r)' about a public reference r give
exactly the pooled M-step, however the rows are spread over clients (Dempster, Laird and Rubin 1977 apply to the
sum).

About one point this is two matrix products a chunk (`privfed.statistics.mixture_kernel`); about the components' own
means, where squares about one point would cancel, each row is whitened under each component.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from privfed.errors import UsageError
from privfed.query import FloatArray
from privfed.statistics.mixture_kernel import PointKernel
from privfed.statistics.mixture_model import CovarianceType, MixtureModel
from privfed.statistics.moments import svec

__all__ = ["MixtureSums", "choose_reference", "client_statistics", "e_step", "second_shape"]

# Above this the expanded square x'Lx - 2x'Lm + m'Lm cancels to fewer than ten digits: whiten row by row instead.
MAX_CONDITION: Final = 1e6


def second_shape(covariance_type: CovarianceType, n_components: int, n_features: int) -> tuple[int, ...]:
    """Return the shape of the second-order block: svec per component, one svec, one vector or one number each."""
    symmetric = n_features * (n_features + 1) // 2
    return {
        "full": (n_components, symmetric),
        "tied": (symmetric,),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }[covariance_type]


@dataclass(frozen=True, eq=False)
class MixtureSums:
    """Sufficient statistics of one E-step: they add up over rows, chunks and clients in any order.

    Attributes:
        counts: sums of responsibilities, shape (K,).
        first: sums of g (x - r), shape (K, d).
        second: sums of g (x - r)(x - r)'; full (K, d(d+1)/2) and tied (d(d+1)/2,) as `svec`, diag (K, d), and spherical
            (K,): sums of g |x - r|^2.
        log_likelihood: sum of the rows' log-likelihoods under the model of the E-step, nats.
        n_rows: number of rows.
        reference: r, shape (d,) for all components, or (K, d).
        covariance_type: decides the shape of `second`.
    """

    counts: FloatArray
    first: FloatArray
    second: FloatArray
    log_likelihood: float
    n_rows: float
    reference: FloatArray
    covariance_type: CovarianceType

    def __add__(self, other: MixtureSums) -> MixtureSums:
        if self.covariance_type != other.covariance_type or not np.array_equal(self.reference, other.reference):
            raise UsageError("statistics of different types or about different references do not add up")
        return MixtureSums(
            self.counts + other.counts,
            self.first + other.first,
            self.second + other.second,
            self.log_likelihood + other.log_likelihood,
            self.n_rows + other.n_rows,
            self.reference,
            self.covariance_type,
        )


def choose_reference(model: MixtureModel, centre: FloatArray) -> FloatArray:
    """Return `centre`, shape (d,), while sums about it keep ten digits of covariances; else the model's means."""
    precisions = model.precisions
    shift = model.means - centre
    if model.covariance_type in ("full", "tied"):
        rows = (
            np.einsum("kd,...de->...ke", shift, precisions)
            if precisions.ndim == 2
            else np.einsum("kd,kde->ke", shift, precisions)
        )
        size = np.einsum("kd,kd->k", rows, shift)
    else:
        size = (shift**2 * (precisions if precisions.ndim == 2 else precisions[:, None])).sum(axis=1)
    return centre if float(size.max()) <= MAX_CONDITION else model.means


def client_statistics(model: MixtureModel, X: FloatArray, *, reference: FloatArray | None = None) -> MixtureSums:
    """Return the sufficient statistics of the rows of `X` under `model`: the E-step, pure.

    Args:
        model: the current mixture, public.
        X: rows, float64, shape (n, d), finite; n may be 0.
        reference: public point about which sums are taken, shape (d,); or (K, d), slower, for components that lie so
            far apart for their width that squares would cancel (see `choose_reference`). Default: the origin.
    """
    return e_step(model, reference=reference)(X)


def e_step(model: MixtureModel, *, reference: FloatArray | None = None) -> Callable[[FloatArray], MixtureSums]:
    """Return `client_statistics` for one model and reference, prepared once: worth it for many chunks of rows."""
    K, d = model.means.shape
    about = np.zeros(d) if reference is None else np.asarray(reference, dtype=np.float64)
    if about.shape not in ((d,), (K, d)):
        raise UsageError(f"reference has shape {about.shape}, expected ({d},) or ({K}, {d})")
    kernel = PointKernel(model, about) if about.ndim == 1 else None

    def statistics(X: FloatArray) -> MixtureSums:
        if X.ndim != 2 or X.shape[1] != d:
            raise UsageError(f"the rows have shape {X.shape}, the model expects (n, {d})")
        if kernel is None:
            return _about_means(model, X, about)
        return _about_point(kernel, X, about, model.covariance_type)

    return statistics


def _about_point(kernel: PointKernel, X: FloatArray, point: FloatArray, kind: CovarianceType) -> MixtureSums:
    """Statistics about one point, as two matrix products a chunk."""
    d = len(point)
    found = kernel.sums(X)
    second = found.products
    if kind == "full":
        second = second * svec(np.ones((d, d)))  # products x_i x_j, i <= j, as an svec
    elif kind == "tied":
        second = svec(found.pooled)
    elif kind == "spherical":
        second = second[:, 0]
    return MixtureSums(found.counts, found.first, second, found.log_likelihood, float(len(X)), point, kind)


def _about_means(model: MixtureModel, X: FloatArray, reference: FloatArray) -> MixtureSums:
    """Statistics about a point for each component, by whitening every row under every component: no cancellation."""
    K, d = model.means.shape
    kind = model.covariance_type
    counts, first, log_likelihood = np.zeros(K), np.zeros((K, d)), 0.0
    matrices, squares = np.zeros((K, d, d)), np.zeros((K, d))
    for start in range(0, len(X), 4096):
        rows = X[start : start + 4096]
        logits = model.weighted_log_densities(rows)
        top = logits.max(axis=1, keepdims=True)
        g = np.exp(logits - top)
        total = g.sum(axis=1, keepdims=True)
        g /= total
        log_likelihood += float(top.sum() + np.log(total).sum())
        counts += g.sum(axis=0)
        for k in range(K):
            diff = rows - reference[k]
            weighted = g[:, k : k + 1] * diff
            first[k] += weighted.sum(axis=0)
            if kind in ("full", "tied"):
                matrices[k] += weighted.T @ diff
            else:
                squares[k] += np.einsum("ij,ij->j", weighted, diff)
    second = squares
    if kind in ("full", "tied"):
        second = svec(matrices if kind == "full" else matrices.sum(axis=0))
    elif kind == "spherical":
        second = squares.sum(axis=1)
    return MixtureSums(counts, first, second, log_likelihood, float(len(X)), reference, kind)
