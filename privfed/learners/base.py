"""What every learner shares with scikit-learn's estimators, without importing scikit-learn.

Constructor arguments are stored as given and checked in `fit`; names that end in `_` exist once fitted. Errors and
warnings are also scikit-learn's own classes wherever scikit-learn is loaded, so its tools recognise them.
"""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from privfed.errors import PrivfedError, UsageError
from privfed.statistics.mixture_model import Generator

if TYPE_CHECKING:
    from sklearn.utils import Tags

__all__ = ["ConvergenceWarning", "Estimator", "NotFittedError", "check_random_state", "recognised"]


class NotFittedError(PrivfedError, ValueError, AttributeError):
    """The estimator is used before `fit`."""


class ConvergenceWarning(UserWarning):
    """EM stopped at `max_iter` before its likelihood settled."""


_JOINED: dict[tuple[type[Any], type[Any]], type[Any]] = {}


def recognised(ours: type[Any]) -> type[Any]:
    """Return `ours`, joined with scikit-learn's class of the same name where scikit-learn is loaded already."""
    theirs = getattr(sys.modules.get("sklearn.exceptions"), ours.__name__, None)
    if theirs is None:
        return ours
    namespace = {"__module__": ours.__module__, "__doc__": ours.__doc__}
    return _JOINED.setdefault((ours, theirs), type(ours.__name__, (ours, theirs), namespace))


def check_random_state(seed: object) -> Generator:
    """Return a generator for `seed`: None (from the system), an int in [0, 2^32), a RandomState or a Generator.

    Never used for noise that protects anybody: that comes from the operating system alone.
    """
    if seed is None:
        return np.random.RandomState()
    if isinstance(seed, np.random.RandomState | np.random.Generator):
        return seed
    if isinstance(seed, int | np.integer) and not isinstance(seed, bool) and 0 <= seed < 2**32:
        return np.random.RandomState(int(seed))
    raise UsageError(f"random_state is {seed!r}, expected None, an int in [0, 2**32), a RandomState or a Generator")


class Estimator:
    """Base of the learners: parameters in and out, as `sklearn.base.BaseEstimator` has them."""

    @classmethod
    def _parameter_names(cls) -> list[str]:
        return sorted(name for name in inspect.signature(cls).parameters)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments by name; `deep` is accepted for scikit-learn's sake."""
        return {name: getattr(self, name) for name in self._parameter_names()}

    def set_params(self, **params: Any) -> Self:
        """Set constructor arguments by name and return the estimator.

        Raises:
            UsageError: no such parameter; nothing is changed.
        """
        known = self._parameter_names()
        for name in params:
            if name not in known:
                raise UsageError(
                    f"Invalid parameter {name!r} for estimator {type(self).__name__}. Valid parameters are: {known!r}."
                )
        for name, value in params.items():
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        defaults = inspect.signature(type(self)).parameters
        shown = []
        for name, value in self.get_params().items():
            default = defaults[name].default
            if value is not default and not (np.isscalar(value) and value == default):
                text = f"array of shape {value.shape}" if isinstance(value, np.ndarray) else repr(value)
                shown.append(f"{name}={text}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def _check_is_fitted(self) -> None:
        if not self.__sklearn_is_fitted__():
            raise recognised(NotFittedError)(
                f"This {type(self).__name__} instance is not fitted yet. Call 'fit' with appropriate arguments before "
                "using this estimator."
            )

    def __sklearn_tags__(self) -> Tags:
        from sklearn.utils import InputTags, Tags, TargetTags

        return Tags(
            estimator_type=None,
            target_tags=TargetTags(required=False),
            transformer_tags=None,
            classifier_tags=None,
            regressor_tags=None,
            input_tags=InputTags(),
        )
