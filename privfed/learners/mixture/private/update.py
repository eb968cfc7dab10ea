"""The M-step that knows its noise: from an `Estimate` to the next model, without ever collapsing.

What it does, in order of worth:
1. Updates are shrunk towards the old value by the part of them that noise explains.
2. A component whose mass does not rise above its noise stays where it is.
3. Full covariances are shrunk to the pooled one, scaled to the component's own size, by James and Stein's rule with the
   known noise variance, in the component's own whitened frame: there the noise is isotropic and thin directions
   stay thin.
4. Steps are limited. The noise of a d x d matrix reaches sqrt(2 d) standard deviations (Wigner's semicircle), and no
   eigenvalue falls further in one round than that leaves open.
5. The pooled covariance has a prior of the size that K equal components of the whole would have, weighted by the
   square of the noise; eigenvalues have a floor.

Everything is in working coordinates, where the released global covariance is about the identity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from privfed.learners.mixture.private.estimates import Estimate
from privfed.query import FloatArray
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["Prior", "private_update"]

BoolArray = npt.NDArray[np.bool_]

MEAN_STEP: Final = 1.0  # how far means are expected to move in a round, whitened units
COVARIANCE_STEP: Final = 0.5  # the same for entries of a whitened covariance
LARGEST_MEAN_STEP: Final = 3.0  # times sqrt(d)
LEAST_EIGENVALUE, GREATEST_EIGENVALUE = 0.08, 4.0  # of one step, whitened units
NOISE_EIGENVALUE: Final = 0.9  # noise alone never narrows a direction by more than this in a round
LEAST_WEIGHT: Final = 0.05  # of the average weight
FLOOR: Final = 1e-4  # least eigenvalue: 1 % of the global standard deviation


@dataclass(frozen=True, eq=False)
class Prior:
    """What is expected before a round: the global covariance (d, d) in working coordinates, released or public."""

    covariance: FloatArray

    def component(self, K: int) -> FloatArray:
        """The covariance of one of K equal parts of the whole: K^(-2/d) of it."""
        return np.asarray(self.covariance * K ** (-2.0 / len(self.covariance)))


def private_update(estimate: Estimate, prior: Prior) -> MixtureModel:
    """Return the next model. Never singular, whatever the noise."""
    model = estimate.model
    weights, frozen = _weights(estimate), estimate.counts < estimate.noise.counts
    counts = np.maximum(estimate.counts, 1e-3)
    shifts = _shifts(estimate, counts, frozen)
    means = model.means + _unwhitened(model, shifts)
    step = {"full": _full, "tied": _tied, "diag": _diagonal, "spherical": _spherical}[model.covariance_type]
    covariances = step(_Parts(estimate, prior, weights, counts, shifts, frozen))
    return MixtureModel.from_covariances(weights, means, covariances, model.covariance_type)


@dataclass(frozen=True, eq=False)
class _Parts:
    estimate: Estimate
    prior: Prior
    weights: FloatArray
    counts: FloatArray  # positive
    shifts: FloatArray  # of the means, whitened; zero where frozen
    frozen: BoolArray

    @property
    def model(self) -> MixtureModel:
        return self.estimate.model

    @property
    def noise(self) -> FloatArray:
        """Noise of each component's covariance per entry, whitened units, shape (K,)."""
        return np.asarray(np.minimum(self.estimate.noise.squares / self.counts, 1e3))

    @property
    def typical_noise(self) -> float:
        """Noise of an average component's second-order sums, per entry."""
        return math.sqrt(float(np.mean(np.square(self.estimate.noise.squares))))

    @property
    def mass(self) -> FloatArray:
        """Counts of the components that are updated, zero for the frozen."""
        return np.where(self.frozen, 0.0, self.counts)


def _weights(estimate: Estimate) -> FloatArray:
    """James-Stein: counts are pulled to their average by the part of their spread that noise explains."""
    counts = estimate.counts
    K, mean = len(counts), max(float(counts.mean()), 1e-3)
    spread = float(((counts - counts.mean()) ** 2).sum())
    kept = max(0.0, 1.0 - (K - 1) * estimate.noise.counts**2 / max(spread, 1e-12))
    weights = np.maximum(mean + kept * (counts - counts.mean()), 0.0)
    weights = np.maximum(weights, LEAST_WEIGHT * weights.mean())
    return np.asarray(weights / weights.sum())


def _shifts(estimate: Estimate, counts: FloatArray, frozen: BoolArray) -> FloatArray:
    d = estimate.shifts.shape[1]
    noise = estimate.noise.shifts / counts
    shifts = estimate.shifts / counts[:, None] / (1 + (noise / MEAN_STEP) ** 2)[:, None]
    lengths = np.linalg.norm(shifts, axis=1, keepdims=True)
    shifts = shifts * np.minimum(1.0, LARGEST_MEAN_STEP * math.sqrt(d) / np.maximum(lengths, 1e-12))
    return np.where(frozen[:, None], 0.0, shifts)


def _unwhitened(model: MixtureModel, shifts: FloatArray) -> FloatArray:
    """Return whitened shifts, shape (K, d), in working coordinates."""
    factors = model.precisions_cholesky
    if model.covariance_type == "full":
        return np.asarray(np.linalg.solve(np.swapaxes(factors, 1, 2), shifts[:, :, None])[:, :, 0])
    if model.covariance_type == "tied":
        return np.asarray(np.linalg.solve(factors.T, shifts.T).T)
    return np.asarray(shifts / (factors if model.covariance_type == "diag" else factors[:, None]))


def _shrink(noise: FloatArray | float) -> FloatArray:
    """How much of a covariance step survives noise of that size per entry."""
    return np.asarray(1.0 / (1.0 + (np.asarray(noise) / COVARIANCE_STEP) ** 2))


def _limited(matrix: FloatArray, least: float) -> FloatArray:
    """Return the symmetric `matrix` with eigenvalues within [least, GREATEST_EIGENVALUE]."""
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.clip(values, least, GREATEST_EIGENVALUE)) @ vectors.T)


def _floored(matrix: FloatArray) -> FloatArray:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    return np.asarray((vectors * np.maximum(values, FLOOR)) @ vectors.T)


def _least_eigenvalue(noise: float, d: int) -> float:
    return max(LEAST_EIGENVALUE, min(NOISE_EIGENVALUE, noise * math.sqrt(2 * d)))


def _towards(covariance: FloatArray, target: FloatArray, error: FloatArray | float) -> FloatArray:
    """Return the posterior mean under a prior about `target` for a covariance known up to a relative `error`.

    The weight of the prior is error^2 / (1 + error^2), as for any Gaussian measurement with prior variance 1: it
    saves a covariance drowned in noise and leaves one that is known alone, even where the target is many times too
    wide.
    """
    weight = np.asarray(error) ** 2 / (1 + np.asarray(error) ** 2)
    return np.asarray(covariance + weight * (target - covariance))


def _kept(difference: FloatArray, noise: float, free: int) -> float:
    """James and Stein's factor for a difference of `free` coordinates with noise of that size in each."""
    return max(0.0, 1.0 - noise**2 * free / max(float((difference**2).sum()), 1e-300))


# --- by type ---------------------------------------------------------------------------------------------------------


def _tied(parts: _Parts) -> FloatArray:
    estimate, model, d = parts.estimate, parts.model, parts.shifts.shape[1]
    noise = parts.typical_noise / estimate.total
    weighted = np.maximum(estimate.counts, 0.0)[:, None] * parts.shifts
    step = (estimate.squares - weighted.T @ parts.shifts) / estimate.total - np.eye(d)
    inner = _limited(np.eye(d) + _shrink(noise) * step, LEAST_EIGENVALUE)
    covariance = _in_frame(inner, model.precisions_cholesky)
    return _floored(_towards(covariance, parts.prior.component(model.n_components), noise * math.sqrt(d)))


def _full(parts: _Parts) -> FloatArray:
    model, d = parts.model, parts.shifts.shape[1]
    K, noise = model.n_components, parts.noise
    own = parts.estimate.squares / parts.counts[:, None, None] - parts.shifts[:, :, None] * parts.shifts[:, None, :]
    own[parts.frozen] = np.eye(d)
    pooled = _pooled(parts, own)
    factors = model.precisions_cholesky
    targets = np.swapaxes(factors, 1, 2) @ pooled @ factors  # the pooled covariance in each component's frame
    sizes = _sizes(parts, own, targets)
    covariances = np.array(model.covariances)
    for k in range(K):
        if parts.frozen[k]:
            continue
        target = sizes[k] * targets[k]
        difference = own[k] - target
        kept = _kept(difference, float(noise[k]), d * (d + 1) // 2 - 1)
        left = kept * float(noise[k])
        estimate = target + kept * difference
        estimate = np.eye(d) + _shrink(left) * (estimate - np.eye(d))
        covariances[k] = _floored(_in_frame(_limited(estimate, _least_eigenvalue(left, d)), factors[k]))
    return covariances


def _pooled(parts: _Parts, own: FloatArray) -> FloatArray:
    """The average covariance of the components: shrunk to the old one, limited, with the prior."""
    model, d = parts.model, parts.shifts.shape[1]
    old = np.einsum("k,kij->ij", parts.weights, model.covariances)
    total, squares = max(float(parts.mass.sum()), 1.0), parts.typical_noise
    covariance = old
    if parts.mass.any():
        inner = np.einsum("k,kij->ij", parts.mass / parts.mass.sum(), _in_frame(own, model.precisions_cholesky))
        root = np.linalg.cholesky(old)
        whitened = np.linalg.solve(root, np.linalg.solve(root, inner).T)
        noise = squares * math.sqrt(float((~parts.frozen).sum())) / total
        step = np.eye(d) + _shrink(noise) * (whitened - np.eye(d))
        covariance = root @ _limited(step, LEAST_EIGENVALUE) @ root.T
    error = squares * math.sqrt(model.n_components * d) / total
    return _floored(_towards(covariance, parts.prior.component(model.n_components), error))


def _sizes(parts: _Parts, own: FloatArray, targets: FloatArray) -> FloatArray:
    """Return by how much each component is larger than the pooled covariance, shape (K,), shrunk to 1."""
    d = parts.shifts.shape[1]
    inverses = np.linalg.inv(targets)
    sizes = np.einsum("kij,kji->k", inverses, own) / d
    noise = parts.noise / math.sqrt(d) * np.trace(inverses, axis1=1, axis2=2) / d
    weights = np.where(parts.frozen, 0.0, parts.weights)
    spread = float((weights * ((sizes - 1) ** 2 - noise**2)).sum()) / max(float(weights.sum()), 1e-12)
    spread = max(spread, 0.0)
    shrunk = 1 + spread / np.maximum(spread + noise**2, 1e-300) * (sizes - 1)
    return np.where(parts.frozen, 1.0, np.clip(shrunk, 0.1, 10.0))


def _diagonal(parts: _Parts) -> FloatArray:
    model, d = parts.model, parts.shifts.shape[1]
    K, noise = model.n_components, parts.noise
    own = parts.estimate.squares / parts.counts[:, None] - parts.shifts**2
    own[parts.frozen] = 1.0
    old = parts.weights @ model.covariances
    total = max(float(parts.mass.sum()), 1.0)
    pooled = old
    if parts.mass.any():
        step = (parts.mass / parts.mass.sum()) @ (own * model.covariances) / old - 1
        error = parts.typical_noise * math.sqrt(float((~parts.frozen).sum())) / total
        pooled = old * np.clip(1 + _shrink(error) * step, LEAST_EIGENVALUE, GREATEST_EIGENVALUE)
    error = parts.typical_noise * math.sqrt(K) / total
    pooled = _towards(pooled, np.diag(parts.prior.component(K)), error)
    covariances = np.array(model.covariances)
    for k in range(K):
        if parts.frozen[k]:
            continue
        target = pooled / model.covariances[k]
        size = float((own[k] / target).mean())
        spread = max((size - 1) ** 2 - (noise[k] * float((1 / target).mean())) ** 2 / d, 0.0)
        target = target * min(max(1 + spread / max((size - 1) ** 2, 1e-300) * (size - 1), 0.1), 10.0)
        difference = own[k] - target
        kept = _kept(difference, float(noise[k]), max(d - 1, 1))
        left = kept * float(noise[k])
        step = 1 + _shrink(left) * (target + kept * difference - 1)
        least = max(LEAST_EIGENVALUE, min(NOISE_EIGENVALUE, 2.0 * left))
        covariances[k] = model.covariances[k] * np.clip(step, least, GREATEST_EIGENVALUE)
    return np.maximum(covariances, FLOOR)


def _spherical(parts: _Parts) -> FloatArray:
    model, d = parts.model, parts.shifts.shape[1]
    own = parts.estimate.squares / parts.counts - (parts.shifts**2).mean(axis=1)
    step = np.where(parts.frozen, 1.0, 1 + _shrink(parts.noise) * (own - 1))
    covariances = model.covariances * np.clip(step, LEAST_EIGENVALUE, GREATEST_EIGENVALUE)
    target = float(np.trace(parts.prior.component(model.n_components))) / d
    return np.maximum(_towards(covariances, np.full(len(covariances), target), parts.noise), FLOOR)


def _in_frame(inner: FloatArray, factor: FloatArray) -> FloatArray:
    """Return L inner L' with L the inverse transpose of a precision factor: from whitened to working coordinates."""
    root = np.swapaxes(np.linalg.inv(factor), -1, -2)
    return np.asarray(root @ inner @ np.swapaxes(root, -1, -2))
