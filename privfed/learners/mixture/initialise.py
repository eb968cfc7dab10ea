"""Starts for EM by name. On rows at hand: k-means, random responsibilities, k-means++, random rows.

The draws from `random_state` are made in scikit-learn's order, so that one seed gives one start in both.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.query import FloatArray
from privfed.statistics.mixture_model import Generator

__all__ = [
    "FEDERATED_INIT",
    "INIT_PARAMS",
    "FederatedInit",
    "InitParams",
    "RowsInit",
    "federated_init",
    "initial_responsibilities",
    "kmeans",
    "kmeans_plusplus",
    "rows_init",
]

RowsInit = Literal["kmeans", "k-means++", "random", "random_from_data"]
FederatedInit = Literal["cells", "moments", "dp-kmeans"]
InitParams = RowsInit | FederatedInit
INIT_PARAMS: Final[tuple[RowsInit, ...]] = get_args(RowsInit)
FEDERATED_INIT: Final[tuple[FederatedInit, ...]] = get_args(FederatedInit)
IndexArray = npt.NDArray[np.int64]


def rows_init(init_params: InitParams) -> RowsInit:
    """Return `init_params` where it makes a start of rows at hand.

    Raises:
        UsageError: it is one of a federation's.
    """
    if init_params == "cells" or init_params == "moments" or init_params == "dp-kmeans":
        raise UsageError(
            f"init_params={init_params!r} finds a start by protected sums over a federation. For rows at hand use one "
            f"of {list(INIT_PARAMS)}"
        )
    return init_params


def federated_init(init_params: InitParams) -> FederatedInit:
    """Return how a federation finds a start; "kmeans" are the cells of a k-means quantiser of the released Gaussian.

    Raises:
        UsageError: it puts rows into the start, which a federation shows none of.
    """
    if init_params == "kmeans":
        return "cells"
    if init_params == "k-means++" or init_params == "random" or init_params == "random_from_data":
        reason = "gives every row responsibilities" if init_params == "random" else "puts rows into the model"
        raise UsageError(
            f"init_params={init_params!r} {reason}, but a federation shows no rows: use one of "
            f"{['kmeans', *FEDERATED_INIT]}, or give means_init"
        )
    return init_params


def initial_responsibilities(X: FloatArray, n_components: int, init_params: RowsInit, random: Generator) -> FloatArray:
    """Return responsibilities, shape (n, K), to start EM from.

    "random" gives every row random ones; "kmeans" the k-means clusters; "k-means++" and "random_from_data" put one
    chosen row into each component and leave the others out.
    """
    n = len(X)
    responsibilities = np.zeros((n, n_components))
    if init_params == "random":
        responsibilities = np.asarray(random.uniform(size=(n, n_components)))
        return np.asarray(responsibilities / responsibilities.sum(axis=1, keepdims=True))
    if init_params == "kmeans":
        responsibilities[np.arange(n), kmeans(X, n_components, random)] = 1.0
    elif init_params == "k-means++":
        responsibilities[kmeans_plusplus(X, n_components, random), np.arange(n_components)] = 1.0
    else:
        chosen = random.choice(n, size=n_components, replace=False)
        responsibilities[chosen, np.arange(n_components)] = 1.0
    return responsibilities


def kmeans_plusplus(X: FloatArray, n_clusters: int, random: Generator) -> IndexArray:
    """Choose `n_clusters` rows of `X` far from one another; return their indices.

    Arthur and Vassilvitskii 2007, greedy: of 2 + log(K) candidates drawn by squared distance, the best is kept.
    """
    n = len(X)
    norms = np.einsum("ij,ij->i", X, X)
    trials = 2 + int(np.log(n_clusters))
    chosen = np.empty(n_clusters, dtype=np.int64)
    chosen[0] = random.choice(n, p=np.full(n, 1.0) / n)
    closest = _squared_distances(X, norms, chosen[:1])[0]
    potential = float(closest.sum())
    for c in range(1, n_clusters):
        values = random.uniform(size=trials) * potential
        candidates = np.minimum(np.searchsorted(np.cumsum(closest), values), n - 1)
        distances = np.minimum(closest, _squared_distances(X, norms, candidates))
        potentials = distances.sum(axis=1)
        best = int(np.argmin(potentials))
        potential, closest, chosen[c] = float(potentials[best]), distances[best], candidates[best]
    return chosen


def kmeans(X: FloatArray, n_clusters: int, random: Generator, *, max_iter: int = 300, tol: float = 1e-4) -> IndexArray:
    """Return the cluster of each row by Lloyd's algorithm from a k-means++ start, shape (n,).

    Stops when no label changes, or when the centres' squared moves sum to at most `tol` times the mean variance of the
    features. A cluster that loses all rows is put on the row farthest from its centre.
    """
    tolerance = tol * float(X.var(axis=0).mean())
    X = X - X.mean(axis=0)
    centres = X[kmeans_plusplus(X, n_clusters, random)]
    labels = np.full(len(X), -1)
    for _ in range(max_iter):
        previous, labels = labels, _nearest(X, centres)
        moved = _cluster_means(X, labels, centres)
        shift = float(((moved - centres) ** 2).sum())
        centres = moved
        if np.array_equal(labels, previous):
            return labels
        if shift <= tolerance:
            break
    return _nearest(X, centres)


def _squared_distances(X: FloatArray, norms: FloatArray, chosen: IndexArray) -> FloatArray:
    distances = norms[chosen][:, None] - 2.0 * (X[chosen] @ X.T) + norms
    return np.asarray(np.maximum(distances, 0.0))


def _nearest(X: FloatArray, centres: FloatArray) -> IndexArray:
    return np.asarray(np.argmin(np.einsum("ij,ij->i", centres, centres) - 2.0 * (X @ centres.T), axis=1))


def _cluster_means(X: FloatArray, labels: IndexArray, centres: FloatArray) -> FloatArray:
    K = len(centres)
    sizes = np.bincount(labels, minlength=K).astype(np.float64)
    sums = np.stack([np.bincount(labels, weights=column, minlength=K) for column in X.T], axis=1)
    empty = np.flatnonzero(sizes == 0)
    if empty.size:
        distances = ((X - centres[labels]) ** 2).sum(axis=1)
        if distances.max() > 0:
            farthest = np.argpartition(distances, -empty.size)[: -empty.size - 1 : -1]
            for cluster, row in zip(empty, farthest, strict=True):
                sums[labels[row]] -= X[row]
                sizes[labels[row]] -= 1
                sums[cluster], sizes[cluster] = X[row], 1
    return np.where(sizes[:, None] > 0, sums / np.maximum(sizes, 1.0)[:, None], centres)
