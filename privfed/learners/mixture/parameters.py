"""The table of what each parameter of `GaussianMixture` may be, and the checks of given starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation
from privfed.learners.base import check_random_state
from privfed.learners.mixture.initialise import FEDERATED_INIT, INIT_PARAMS
from privfed.mechanism.mapped import parts
from privfed.query import FloatArray
from privfed.statistics.mixture_model import COVARIANCE_TYPES, CovarianceType, covariance_shape

__all__ = [
    "Start",
    "check_bounds",
    "check_parameters",
    "check_share",
    "check_start",
    "refuse_targets",
    "required_bounds",
    "rows_within",
]

LEAST_SHARE: Final = 1e-4  # of a budget: what rounding leaves behind is no budget
ACCELERATIONS: Final = ("squarem", "incremental", "stepwise")
AGGREGATIONS: Final = ("statistics", "parameters", "parameters_by_size")


def _integer(value: object, low: int) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool | np.bool_) and bool(value >= low)


def _real(value: object, low: float) -> bool:
    real = isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool | np.bool_)
    return real and float(value) >= low  # type: ignore[arg-type]  # narrowed by `real`


def _share(value: object) -> bool:
    return value is None or (_real(value, 0.0) and 0.0 < float(value) <= 1.0)  # type: ignore[arg-type]  # a real


def _array_like(value: object) -> bool:
    return value is None or (
        not isinstance(value, str | bytes) and (hasattr(value, "__len__") or hasattr(value, "__array__"))
    )


def _seed(value: object) -> bool:
    try:
        check_random_state(value)
    except UsageError:
        return False
    return True


CONSTRAINTS: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    "n_components": (lambda v: _integer(v, 1), "an int in the range [1, inf)"),
    "covariance_type": (lambda v: isinstance(v, str) and v in COVARIANCE_TYPES, f"a str among {set(COVARIANCE_TYPES)}"),
    "tol": (lambda v: _real(v, 0.0), "a float in the range [0.0, inf)"),
    "reg_covar": (lambda v: _real(v, 0.0) and math.isfinite(v), "a float in the range [0.0, inf)"),
    "max_iter": (lambda v: _integer(v, 0), "an int in the range [0, inf)"),
    "n_init": (lambda v: _integer(v, 1), "an int in the range [1, inf)"),
    "init_params": (
        lambda v: isinstance(v, str) and v in (*INIT_PARAMS, *FEDERATED_INIT),
        f"a str among {set(INIT_PARAMS)}, or for federations also {set(FEDERATED_INIT)}",
    ),
    "weights_init": (_array_like, "an array-like or None"),
    "means_init": (_array_like, "an array-like or None"),
    "precisions_init": (_array_like, "an array-like or None"),
    "random_state": (
        _seed,
        "an int in the range [0, 4294967295], an instance of 'numpy.random.mtrand.RandomState' or None, or a Generator",
    ),
    "warm_start": (lambda v: isinstance(v, bool | np.bool_), "an instance of 'bool'"),
    "verbose": (lambda v: isinstance(v, bool | np.bool_) or _integer(v, 0), "an int in the range [0, inf) or a bool"),
    "verbose_interval": (lambda v: _integer(v, 1), "an int in the range [1, inf)"),
    "rounds": (lambda v: v is None or _integer(v, 1), "an int in the range [1, inf) or None"),
    "share": (_share, "a float in the range (0.0, 1.0] or None"),
    "callback": (lambda v: v is None or callable(v), "a callable or None"),
    "acceleration": (lambda v: v is None or v in ACCELERATIONS, f"a str among {set(ACCELERATIONS)} or None"),
    "clients_per_round": (lambda v: v is None or _integer(v, 2), "an int in the range [2, inf) or None"),
    "aggregation": (lambda v: isinstance(v, str) and v in AGGREGATIONS, f"a str among {set(AGGREGATIONS)}"),
    "personal_weights": (lambda v: isinstance(v, bool | np.bool_), "an instance of 'bool'"),
}


def check_parameters(params: Mapping[str, Any], *, estimator: str) -> None:
    """Check every parameter against the table.

    Raises:
        UsageError: names the parameter, what it must be and what was found.
    """
    for name, (accepts, description) in CONSTRAINTS.items():
        value = params[name]
        if not accepts(value):
            raise UsageError(f"The {name!r} parameter of {estimator} must be {description}. Got {value!r} instead.")


class Start:
    """Given starting values, checked: `weights`, `means` and `precisions`, each None when not given."""

    def __init__(self, weights: FloatArray | None, means: FloatArray | None, precisions: FloatArray | None) -> None:
        self.weights = weights
        self.means = means
        self.precisions = precisions

    @property
    def complete(self) -> bool:
        """Whether nothing is left to initialise."""
        return self.weights is not None and self.means is not None and self.precisions is not None


def check_start(
    weights: npt.ArrayLike | None,
    means: npt.ArrayLike | None,
    precisions: npt.ArrayLike | None,
    *,
    n_components: int,
    n_features: int,
    covariance_type: CovarianceType,
) -> Start:
    """Check weights_init (K,), means_init (K, d) and precisions_init (shape by type), each optional."""
    K, d = n_components, n_features
    checked_weights = None if weights is None else _shaped(weights, (K,), "weights")
    if checked_weights is not None:
        if (checked_weights < 0).any() or (checked_weights > 1).any():
            least, most = checked_weights.min(), checked_weights.max()
            raise UsageError(  # scikit-learn's words up to the dash, which name the least the greatest
                f"The parameter 'weights' should be in the range [0, 1], but got max value {least:.5f}, min value"
                f" {most:.5f} - that is, from {least:.5f} to {most:.5f}"
            )
        if abs(1.0 - checked_weights.sum()) > (1e-6 if getattr(weights, "dtype", None) == np.float32 else 1e-8):
            raise UsageError(
                f"The parameter 'weights' should be normalized, but got sum(weights) = {checked_weights.sum():.5f}"
            )
    checked_means = None if means is None else _shaped(means, (K, d), "means")
    if precisions is None:
        return Start(checked_weights, checked_means, None)
    array = _shaped(precisions, covariance_shape(covariance_type, K, d), f"{covariance_type} precision")
    if covariance_type in ("full", "tied"):
        symmetric = np.allclose(array, np.swapaxes(array, -1, -2))
        if not symmetric or (np.linalg.eigvalsh(array) <= 0).any():
            raise UsageError(f"'{covariance_type} precision' should be symmetric, positive-definite")
    elif (array <= 0).any():
        raise UsageError(f"'{covariance_type} precision' should be positive")
    return Start(checked_weights, checked_means, array)


def _shaped(values: npt.ArrayLike, shape: tuple[int, ...], name: str) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape:
        raise UsageError(f"The parameter '{name}' should have the shape of {shape}, but got {array.shape}")
    if not np.isfinite(array).all():
        what = "NaN" if np.isnan(array).any() else "infinity or a value too large for dtype('float64')"
        raise UsageError(f"Input contains {what}: the parameter '{name}' needs finite numbers.")
    return array


def refuse_targets(federation: Federation) -> None:
    """Refuse a federation whose clients brought targets: a mixture would take them for one more feature.

    Raises:
        UsageError: its clients hold pairs `(X, y)`.
    """
    count = getattr(federation, "n_targets", 0)
    if count:
        raise UsageError(
            f"the clients hold pairs (X, y), and a mixture has no use for the {count} target column(s): open a"
            " federation of X alone, or of numpy.column_stack((X, y)) to have the targets among the features"
        )


def check_bounds(bounds: object, n_features: int) -> tuple[FloatArray, FloatArray]:
    """Return public bounds as two vectors of shape (d,).

    Args:
        bounds: `(low, high)`, each a number for all features or one per feature, in the units of the data. Vectors are
            given as lists or arrays in a tuple, `([0, 18], [1, 99])`: of two features pairs per feature would look the
            same, and what may be either is refused.
        n_features: d.
    """
    pairs = _pairs_per_feature(bounds, n_features)
    if pairs:
        lows, highs = ([float(pair[side]) for pair in pairs] for side in (0, 1))
        raise UsageError(
            f"bounds is {bounds!r}, which looks like one pair per feature: give a tuple of two lists, the low ends and"
            f" the high ends. Of pairs that is bounds=({lows}, {highs})"
        )
    if not isinstance(bounds, tuple | list | np.ndarray) or len(bounds) != 2:
        raise UsageError(f"bounds is {bounds!r}, expected a pair (low, high) of numbers or of vectors of {n_features}")
    try:
        low, high = (np.array(np.broadcast_to(np.asarray(side, dtype=np.float64), (n_features,))) for side in bounds)
    except (TypeError, ValueError):
        raise UsageError(
            f"bounds must be (low, high), each one number or one per feature ({n_features}); found {bounds!r}"
        ) from None
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low < high).all()):
        raise UsageError("bounds must be finite with low < high in every feature; drop features that are constant")
    return low, high


def _pairs_per_feature(bounds: object, n_features: int) -> list[tuple[Any, ...]]:
    """Return bounds that read as (low, high) per feature and are not written as (lows, highs) would be; else none."""
    if n_features < 2 or not isinstance(bounds, tuple | list | np.ndarray) or len(bounds) != n_features:
        return []
    if n_features == 2 and isinstance(bounds, tuple) and not any(isinstance(side, tuple) for side in bounds):
        return []
    pairs = [tuple(side) for side in bounds if isinstance(side, tuple | list | np.ndarray) and len(side) == 2]
    try:
        return pairs if len(pairs) == n_features and all(bool(low < high) for low, high in pairs) else []
    except (TypeError, ValueError):
        return []


def rows_within(rows: FloatArray, bounds: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Return rows cut to bounds as those of a federation are; the rows themselves where none lies beyond."""
    low, high = bounds
    beyond = sum(int(((part < low) | (part > high)).any(axis=1).sum()) for part in parts(rows))
    if not beyond:
        return rows
    warn_caller(f"{beyond} of {len(rows)} rows lie beyond bounds and are cut to them: widen bounds, or leave them out")
    return np.clip(rows, low, high)


def required_bounds(bounds: tuple[FloatArray, FloatArray] | None, n_features: int) -> tuple[FloatArray, FloatArray]:
    """Return checked bounds, which a budget cannot do without.

    Raises:
        UsageError: there are none.
    """
    if bounds is None:
        raise UsageError(
            "a fit under a budget needs public bounds of the data: pass bounds=(low, high), one number for all "
            f"features or one for each of the {n_features}. Take them from what is known of the "
            "features (a pixel lies in 0 to 16), not from the data: looked-up bounds leak. Rows beyond them are cut"
        )
    return bounds


def check_share(share: float | None, remaining: float) -> float:
    """Return the part of the budget to spend: `share`, or what remains.

    Raises:
        UsageError: so much is not left.
    """
    if remaining < LEAST_SHARE:
        raise UsageError(
            f"{remaining:.2g} of the budget is left, too little for a fit or a release: pass share= to earlier "
            "fits and releases, or open a federation with a larger budget"
        )
    if share is not None and share > remaining * (1 + 1e-9):
        raise UsageError(
            f"share is {share:.6g} of the budget, but {remaining:.6g} of it is left: spend less "
            "before, lower share, or open a federation with a larger budget"
        )
    return remaining if share is None else min(share, remaining)
