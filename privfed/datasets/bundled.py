"""The data sets that lie inside the scikit-learn wheel: nothing is fetched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from privfed.datasets.dataset import Dataset
from privfed.errors import UsageError, needs_extra

__all__ = ["BUNDLED", "load_sklearn"]

_UCI = "CC BY 4.0, UCI Machine Learning Repository"


@dataclass(frozen=True)
class _Facts:
    """What scikit-learn does not say of a set."""

    title: str
    licence: str
    bounds: tuple[float, float] | None = None
    image_shape: tuple[int, int] | None = None


BUNDLED: dict[str, _Facts] = {
    "breast_cancer": _Facts("breast cancer, Wisconsin diagnostic (UCI, 569 x 30)", _UCI),
    "diabetes": _Facts("diabetes progression (442 x 10)", ""),  # Efron et al. 2004 state no terms
    "digits": _Facts("handwritten digits (UCI, 1797 images of 8 x 8)", _UCI, (0.0, 16.0), (8, 8)),
    "iris": _Facts("iris (UCI, 150 x 4)", _UCI),
    "wine": _Facts("wine cultivars (UCI, 178 x 13)", _UCI),
}


def load_sklearn(name: str) -> Dataset:
    """Return one of scikit-learn's own data sets: "breast_cancer", "diabetes", "digits", "iris" or "wine".

    Only the digits have public bounds: 0 to 16, by how they were made. `X` is float64; `y` int64, of diabetes float64.

    Raises:
        UsageError: scikit-learn is missing, or has no such set in its wheel.

    Examples:
        >>> digits = load_sklearn("digits")
        >>> digits.X.shape, digits.bounds, digits.images().shape
        ((1797, 64), (0.0, 16.0), (1797, 1, 8, 8))
    """
    if name not in BUNDLED:
        raise UsageError(f"name is {name!r}, expected one of {', '.join(BUNDLED)}: nothing is downloaded")
    with needs_extra("sklearn", f"the set {name!r} comes with scikit-learn"):
        from sklearn import datasets
    found = getattr(datasets, f"load_{name}")()
    facts, classes = BUNDLED[name], getattr(found, "target_names", None)
    return Dataset(
        name=facts.title,
        X=np.asarray(found.data, dtype=np.float64),
        y=np.asarray(found.target, dtype=np.float64 if classes is None else np.int64),
        feature_names=tuple(str(feature) for feature in found.feature_names),
        target_names=None if classes is None else tuple(str(label) for label in classes),
        bounds=facts.bounds,
        image_shape=facts.image_shape,
        licence=facts.licence,
    )
