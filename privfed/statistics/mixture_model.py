"""The Gaussian mixture as a value: parameters, densities, responsibilities, samples.

Conventions and shapes are those of `sklearn.mixture.GaussianMixture`. A precision Cholesky factor P is upper triangular
with `precision = P P'`, so that `(x - mean) @ P` is x whitened under the component.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.query import FloatArray, frozen_array

__all__ = ["COVARIANCE_TYPES", "CovarianceType", "Generator", "MixtureModel", "covariance_shape", "n_parameters"]

CovarianceType = Literal["full", "tied", "diag", "spherical"]
COVARIANCE_TYPES: Final[tuple[CovarianceType, ...]] = get_args(CovarianceType)
Generator: TypeAlias = np.random.RandomState | np.random.Generator

LOG_2PI: Final = math.log(2 * math.pi)
CHUNK: Final = 4096  # rows at a time: temporaries stay within a megabyte per ten features

ILL_DEFINED: Final = (
    "Fitting the mixture model failed because some components have ill-defined empirical covariance (for instance "
    "caused by singleton or collapsed samples). Try to decrease the number of components, increase reg_covar, or scale "
    "the input data."
)


def covariance_shape(covariance_type: CovarianceType, n_components: int, n_features: int) -> tuple[int, ...]:
    """Return the shape of covariances, precisions and their factors: (K, d, d), (d, d), (K, d) or (K,)."""
    return {
        "full": (n_components, n_features, n_features),
        "tied": (n_features, n_features),
        "diag": (n_components, n_features),
        "spherical": (n_components,),
    }[covariance_type]


def n_parameters(covariance_type: CovarianceType, n_components: int, n_features: int) -> int:
    """Return the number of free parameters: weights, means and covariances."""
    symmetric = n_features * (n_features + 1) // 2
    covariance = {
        "full": n_components * symmetric,
        "tied": symmetric,
        "diag": n_components * n_features,
        "spherical": n_components,
    }[covariance_type]
    return covariance + n_features * n_components + n_components - 1


@dataclass(frozen=True, eq=False)
class MixtureModel:
    """A Gaussian mixture of K components in d features. Build it with `from_covariances` or `from_precisions`.

    Attributes:
        weights: float64, shape (K,), sums to 1.
        means: float64, shape (K, d).
        covariances: float64, shape by type: full (K, d, d), tied (d, d), diag (K, d), spherical (K,).
        precisions_cholesky: factors of the inverse covariances, same shape.
        covariance_type: "full", "tied", "diag" or "spherical".
    """

    weights: FloatArray
    means: FloatArray
    covariances: FloatArray
    precisions_cholesky: FloatArray
    covariance_type: CovarianceType

    def __post_init__(self) -> None:
        if self.covariance_type not in COVARIANCE_TYPES:
            raise UsageError(f"covariance_type is {self.covariance_type!r}, expected one of {COVARIANCE_TYPES}")
        for name in ("weights", "means", "covariances", "precisions_cholesky"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        if self.means.ndim != 2 or self.weights.shape != self.means.shape[:1] or self.means.size == 0:
            raise UsageError(
                f"weights {self.weights.shape} and means {self.means.shape} do not fit: expected (K,), (K, d)"
            )
        expected = covariance_shape(self.covariance_type, *self.means.shape)
        if self.precisions_cholesky.shape != expected or self.covariances.shape != expected:
            raise UsageError(
                f"{self.covariance_type} covariances have shapes {self.covariances.shape} and "
                f"{self.precisions_cholesky.shape}, expected {expected}"
            )

    @classmethod
    def from_covariances(
        cls, weights: npt.ArrayLike, means: npt.ArrayLike, covariances: npt.ArrayLike, covariance_type: CovarianceType
    ) -> MixtureModel:
        """Build the model from covariances.

        Raises:
            UsageError: a covariance is not positive definite.
        """
        array = np.asarray(covariances, dtype=np.float64)
        factors = _cholesky_of_covariances(array, covariance_type)
        return cls(np.asarray(weights), np.asarray(means), array, factors, covariance_type)

    @classmethod
    def from_matrices(
        cls, weights: npt.ArrayLike, means: npt.ArrayLike, matrices: npt.ArrayLike, covariance_type: CovarianceType
    ) -> MixtureModel:
        """Build the model of `covariance_type` nearest to one covariance matrix for each component, shape (K, d, d).

        Tied takes their weighted mean, diag the diagonals, spherical the mean variances; one matrix (d, d) serves all.
        """
        w = np.asarray(weights, dtype=np.float64)
        d = np.shape(matrices)[-1]
        each = np.broadcast_to(np.asarray(matrices, dtype=np.float64), (len(w), d, d))
        diagonals = np.diagonal(each, axis1=1, axis2=2)
        covariances = {
            "full": each,
            "tied": np.tensordot(w / w.sum(), each, axes=1),
            "diag": diagonals,
            "spherical": diagonals.mean(axis=1),
        }[covariance_type]
        return cls.from_covariances(w, means, covariances, covariance_type)

    @classmethod
    def from_precisions(
        cls, weights: npt.ArrayLike, means: npt.ArrayLike, precisions: npt.ArrayLike, covariance_type: CovarianceType
    ) -> MixtureModel:
        """Build the model from inverse covariances."""
        array = np.asarray(precisions, dtype=np.float64)
        if covariance_type in ("full", "tied"):
            # The exchange of rows and columns turns numpy's lower factor into the upper one.
            factors = np.linalg.cholesky(array[..., ::-1, ::-1])[..., ::-1, ::-1]
            covariances = np.linalg.inv(array)
        else:
            factors, covariances = np.sqrt(array), 1.0 / array
        return cls(
            np.asarray(weights), np.asarray(means), frozen_array(covariances), frozen_array(factors), covariance_type
        )

    @classmethod
    def from_factors(
        cls,
        weights: npt.ArrayLike,
        means: npt.ArrayLike,
        precisions_cholesky: npt.ArrayLike,
        covariance_type: CovarianceType,
    ) -> MixtureModel:
        """Build the model from precision Cholesky factors: what a query carries."""
        factors = np.asarray(precisions_cholesky, dtype=np.float64)
        if covariance_type in ("full", "tied"):
            inverse = np.linalg.inv(factors)
            covariances = np.swapaxes(inverse, -1, -2) @ inverse
        else:
            covariances = factors**-2.0
        return cls(np.asarray(weights), np.asarray(means), covariances, factors, covariance_type)

    @property
    def n_components(self) -> int:
        """K."""
        return int(self.means.shape[0])

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.means.shape[1])

    @property
    def precisions(self) -> FloatArray:
        """Inverse covariances, shape by type."""
        factors = self.precisions_cholesky
        if self.covariance_type in ("full", "tied"):
            return np.asarray(factors @ np.swapaxes(factors, -1, -2))
        return np.asarray(factors**2)

    @property
    def log_determinants(self) -> FloatArray:
        """Half the log-determinant of each precision, shape (K,)."""
        factors = self.precisions_cholesky
        if self.covariance_type in ("full", "tied"):
            half = np.log(np.diagonal(factors, axis1=-2, axis2=-1)).sum(axis=-1)
        elif self.covariance_type == "diag":
            half = np.log(factors).sum(axis=1)
        else:
            half = self.n_features * np.log(factors)
        return np.broadcast_to(half, (self.n_components,))

    @property
    def log_weights(self) -> FloatArray:
        """Logarithm of the weights, shape (K,); minus infinity for a weight of zero."""
        with np.errstate(divide="ignore"):
            return cast(FloatArray, np.log(self.weights))

    def full_covariances(self) -> FloatArray:
        """Return every component's covariance as a matrix, shape (K, d, d), whatever the type."""
        K, d = self.means.shape
        if self.covariance_type == "full":
            return self.covariances
        if self.covariance_type == "tied":
            return np.broadcast_to(self.covariances, (K, d, d))
        diagonal = (
            self.covariances if self.covariance_type == "diag" else np.repeat(self.covariances[:, None], d, axis=1)
        )
        return np.asarray(diagonal[:, :, None] * np.eye(d))

    def factor(self, k: int) -> FloatArray:
        """Return component k's precision Cholesky factor: (d, d), (d,) or () by type."""
        return self.precisions_cholesky if self.covariance_type == "tied" else np.asarray(self.precisions_cholesky[k])

    def whiten(self, X: FloatArray, k: int) -> FloatArray:
        """Return the rows of `X`, shape (n, d), centred and whitened under component k."""
        centred, factor = X - self.means[k], self.factor(k)
        return np.asarray(centred @ factor if factor.ndim == 2 else centred * factor)

    def log_densities(self, X: FloatArray) -> FloatArray:
        """Return log N(x | component), shape (n, K), by whitening: accurate however far the components lie apart."""
        out = np.empty((len(X), self.n_components))
        constants = self.log_determinants - 0.5 * self.n_features * LOG_2PI
        for start in range(0, len(X), CHUNK):
            rows = X[start : start + CHUNK]
            for k in range(self.n_components):
                y = self.whiten(rows, k)
                out[start : start + CHUNK, k] = constants[k] - 0.5 * np.einsum("ij,ij->i", y, y)
        return out

    def weighted_log_densities(self, X: FloatArray) -> FloatArray:
        """Return log(weight * density), shape (n, K)."""
        return np.asarray(self.log_densities(X) + self.log_weights)

    def log_likelihoods(self, X: FloatArray) -> FloatArray:
        """Return each row's log-likelihood in nats, shape (n,)."""
        return log_sum_exp(self.weighted_log_densities(X))

    def responsibilities(self, X: FloatArray) -> FloatArray:
        """Return the posterior probabilities of the components, shape (n, K); rows sum to 1."""
        logits = self.weighted_log_densities(X)
        return np.asarray(np.exp(logits - log_sum_exp(logits)[:, None]))

    def sample(self, n_samples: int, random: Generator) -> tuple[FloatArray, npt.NDArray[np.int64]]:
        """Draw `n_samples` rows, grouped by component as scikit-learn does.

        Returns:
            rows of shape (n_samples, d) and their components of shape (n_samples,).
        """
        counts = random.multinomial(n_samples, self.weights / self.weights.sum())
        covariances = self.full_covariances()
        if self.covariance_type in ("full", "tied"):
            parts = [
                random.multivariate_normal(mean, covariance, int(count))
                for mean, covariance, count in zip(self.means, covariances, counts, strict=True)
            ]
        else:
            parts = [
                mean + random.standard_normal(size=(int(count), self.n_features)) * np.sqrt(np.diagonal(covariance))
                for mean, covariance, count in zip(self.means, covariances, counts, strict=True)
            ]
        return np.vstack(parts), np.repeat(np.arange(self.n_components), counts)

    def shifted(self, offset: FloatArray) -> MixtureModel:
        """Return the model of rows moved by `offset`, shape (d,)."""
        return MixtureModel(
            self.weights, self.means + offset, self.covariances, self.precisions_cholesky, self.covariance_type
        )


def log_sum_exp(logits: FloatArray) -> FloatArray:
    """Return log(sum(exp(row))) of each row, shape (n,); minus infinity where a whole row is."""
    top = logits.max(axis=1)
    safe = np.where(np.isfinite(top), top, 0.0)
    with np.errstate(divide="ignore"):
        return cast(FloatArray, safe + np.log(np.exp(logits - safe[:, None]).sum(axis=1)))


def _cholesky_of_covariances(covariances: FloatArray, covariance_type: CovarianceType) -> FloatArray:
    """Return the precision Cholesky factors of `covariances`, refusing what is not positive definite."""
    if covariance_type not in ("full", "tied"):
        if not (covariances > 0.0).all():
            raise UsageError(ILL_DEFINED)
        return np.asarray(1.0 / np.sqrt(covariances))
    if not np.isfinite(covariances).all():
        raise UsageError(ILL_DEFINED)
    try:
        lower = np.linalg.cholesky(covariances)
    except np.linalg.LinAlgError:
        raise UsageError(ILL_DEFINED) from None
    identity = np.broadcast_to(np.eye(covariances.shape[-1]), lower.shape)
    return np.triu(np.swapaxes(np.linalg.solve(lower, identity), -1, -2))
