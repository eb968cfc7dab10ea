"""Public working coordinates of a mixture: where rows are cut, centred and scaled before any statistic is taken."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privfed.errors import UsageError
from privfed.query import FloatArray, frozen_array, require_moderate
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["Coordinates"]


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Public working coordinates: rows are cut to a box, shifted and mapped linearly before anything else.

    Attributes:
        low, high: the box, shape (d,), in units of the data; infinite entries leave a side open.
        centre: shape (d,), in units of the data.
        transform: shape (d, d), invertible.
    """

    low: FloatArray
    high: FloatArray
    centre: FloatArray
    transform: FloatArray

    def __post_init__(self) -> None:
        for name in ("low", "high", "centre", "transform"):
            object.__setattr__(self, name, frozen_array(getattr(self, name)))
        d = self.centre.size
        if (
            self.centre.shape != (d,)
            or self.low.shape != (d,)
            or self.high.shape != (d,)
            or self.transform.shape != (d, d)
        ):
            raise UsageError(
                "working coordinates need low, high and centre of shape (d,) and a transform of shape (d, d)"
            )
        if np.isnan(self.low).any() or np.isnan(self.high).any() or (self.low > self.high).any():
            raise UsageError("working coordinates need low <= high in every feature")
        require_moderate("centre", self.centre)
        require_moderate("transform", self.transform)

    @classmethod
    def shifted(cls, centre: FloatArray) -> Coordinates:
        """Return coordinates that only move the origin to `centre`."""
        d = centre.size
        return cls(np.full(d, -np.inf), np.full(d, np.inf), centre, np.eye(d))

    def apply(self, rows: FloatArray) -> FloatArray:
        """Return rows, shape (n, d), in working coordinates."""
        cut = np.clip(rows, self.low, self.high) - self.centre
        if np.array_equal(self.transform, np.eye(self.centre.size)):
            return np.asarray(cut)
        return np.asarray(cut @ self.transform)

    def to_working(self, model: MixtureModel) -> MixtureModel:
        """Return a model of the data as one of the working coordinates; see `to_data`."""
        return _mapped(model, (model.means - self.centre) @ self.transform, self.transform)

    def to_data(self, model: MixtureModel) -> MixtureModel:
        """Return a model of the working coordinates as one of the data, of the same type.

        Raises:
            UsageError: the transform does not keep the type: diag needs a diagonal one, spherical a multiple of one.
        """
        inverse: FloatArray = np.asarray(np.linalg.inv(self.transform), dtype=np.float64)
        return _mapped(model, model.means @ inverse + self.centre, inverse)

    @property
    def log_volume(self) -> float:
        """Nats to add to a log-density in working coordinates to make it one of the data."""
        return float(np.linalg.slogdet(self.transform)[1])


def _mapped(model: MixtureModel, means: FloatArray, matrix: FloatArray) -> MixtureModel:
    """Return the model of rows `z @ matrix` (and moved, so that the means come to lie at `means`)."""
    kind, scale = model.covariance_type, np.diag(matrix)
    if kind in ("full", "tied"):
        covariances = matrix.T @ model.covariances @ matrix
        covariances = (covariances + np.swapaxes(covariances, -1, -2)) / 2
    elif not np.array_equal(np.diag(scale), matrix) or (kind == "spherical" and np.ptp(np.abs(scale)) > 0):
        raise UsageError(f"the transform does not keep {kind} covariances")
    else:
        covariances = model.covariances * (scale**2 if kind == "diag" else scale[0] ** 2)
    return MixtureModel.from_covariances(model.weights, means, covariances, kind)
