"""What queries of a mixture have in common: a public model, and its working coordinates, as fields that travel."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from privfed.errors import UsageError
from privfed.query import FloatArray, Query, frozen_array, require_moderate
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import COVARIANCE_TYPES, CovarianceType, MixtureModel

__all__ = ["LocatedModelQuery", "ModelQuery", "located_fields", "model_fields"]

ModelFields = tuple[FloatArray, FloatArray, FloatArray, CovarianceType]
LocatedFields = tuple[*ModelFields, FloatArray, FloatArray, FloatArray, FloatArray]


def model_fields(model: MixtureModel) -> ModelFields:
    """Return the fields of a `ModelQuery` under `model`, in their order."""
    return model.weights, model.means, model.precisions_cholesky, model.covariance_type


def located_fields(model: MixtureModel, coordinates: Coordinates) -> LocatedFields:
    """Return the fields of a `LocatedModelQuery` under `model`, in their order."""
    return *model_fields(model), coordinates.low, coordinates.high, coordinates.centre, coordinates.transform


@dataclass(frozen=True, eq=False)
class ModelQuery(Query):
    """Base of queries under one public mixture. A server may send any numbers: these are checked at the client.

    Args:
        weights: shape (K,), each at least 0 and one above; means: shape (K, d).
        precisions_cholesky: shape by type, see `MixtureModel`, with positive diagonals and finite determinants.
        covariance_type: "full", "tied", "diag" or "spherical".

    Raises:
        UsageError: the fields are no mixture, or hold NaN, infinity or values beyond 1e100.
    """

    weights: FloatArray
    means: FloatArray
    precisions_cholesky: FloatArray
    covariance_type: CovarianceType

    def __post_init__(self) -> None:
        if self.covariance_type not in COVARIANCE_TYPES:
            raise UsageError(f"covariance_type is {self.covariance_type!r}, expected one of {COVARIANCE_TYPES}")
        for name in ("weights", "means", "precisions_cholesky"):
            self._freeze_moderate(name)
        if (self.weights < 0).any() or not self.weights.any():
            raise UsageError("weights need entries of at least 0, one of them above")
        diagonals = self.precisions_cholesky
        if self.covariance_type in ("full", "tied") and diagonals.ndim >= 2:
            diagonals = np.diagonal(diagonals, axis1=-2, axis2=-1)
        if not (diagonals > 0).all():
            raise UsageError("precisions_cholesky needs factors with positive diagonals")
        if not math.isfinite(float(self.model.log_determinants.sum())):
            raise UsageError("precisions_cholesky needs factors whose determinants are finite")

    def _freeze_moderate(self, name: str) -> None:
        array = frozen_array(getattr(self, name))
        require_moderate(name, array)
        object.__setattr__(self, name, array)

    @property
    def model(self) -> MixtureModel:
        """The mixture under which rows are taken."""
        return MixtureModel.from_factors(self.weights, self.means, self.precisions_cholesky, self.covariance_type)

    @property
    def n_features(self) -> int:
        """d."""
        return int(self.means.shape[1])


@dataclass(frozen=True, eq=False)
class LocatedModelQuery(ModelQuery):
    """Base of queries under a mixture in working coordinates `z = (clip(x, low, high) - centre) @ transform`.

    Args:
        weights, means, precisions_cholesky, covariance_type: the model in working coordinates, see `ModelQuery`.
        low, high, centre, transform: see `Coordinates`.
    """

    low: FloatArray
    high: FloatArray
    centre: FloatArray
    transform: FloatArray

    def __post_init__(self) -> None:
        super().__post_init__()
        coordinates = Coordinates(self.low, self.high, self.centre, self.transform)
        if coordinates.centre.shape != (self.n_features,):
            raise UsageError(f"centre has shape {coordinates.centre.shape}, the model has {self.n_features} features")
        for name in ("low", "high", "centre", "transform"):
            object.__setattr__(self, name, getattr(coordinates, name))

    @property
    def coordinates(self) -> Coordinates:
        """The working coordinates of the model."""
        return Coordinates(self.low, self.high, self.centre, self.transform)
