"""A fitted mixture in use: predictions, scores, samples and criteria, in scikit-learn's conventions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.learners.base import Estimator, check_random_state
from privfed.learners.validation import as_rows, check_feature_names
from privfed.mechanism.mapped import by_parts
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel, n_parameters

if TYPE_CHECKING:
    from privfed.learners.mixture.use.explain import Explanation

__all__ = ["FittedMixture", "IntArray"]

IntArray = npt.NDArray[np.int64]


class FittedMixture(Estimator):
    """What a mixture can do once its parameters are there, however they were fitted."""

    covariance_type: CovarianceType
    random_state: int | Generator | None
    weights_: FloatArray
    means_: FloatArray
    covariances_: FloatArray
    precisions_cholesky_: FloatArray
    n_features_in_: int

    def _model(self) -> MixtureModel:
        self._check_is_fitted()
        return MixtureModel(
            self.weights_, self.means_, self.covariances_, self.precisions_cholesky_, self.covariance_type
        )

    def _rows(self, X: Any) -> FloatArray:
        self._check_is_fitted()
        name = type(self).__name__
        check_feature_names(X, getattr(self, "feature_names_in_", None), estimator=name)
        rows = as_rows(X, estimator=name)
        if rows.shape[1] != self.n_features_in_:
            raise UsageError(
                f"X has {rows.shape[1]} features, but {name} is expecting {self.n_features_in_} features as input."
            )
        return rows

    def _keep_precision(self, X: Any) -> None:
        """Round the parameters to float32 where the rows were float32, as scikit-learn has it."""
        if _single(X):
            for name in ("weights_", "means_", "covariances_", "precisions_", "precisions_cholesky_"):
                setattr(self, name, getattr(self, name).astype(np.float32))

    def _in_precision_of(self, X: Any, values: FloatArray) -> FloatArray:
        """Return float32 where both the parameters and the rows are; all computing is done in float64."""
        return values.astype(np.float32) if _single(X) and _single(self.means_) else values

    def predict(self, X: Any) -> IntArray:
        """Return each row's most probable component, shape (n,)."""
        rows = self._rows(X)
        model = self._model()
        return np.asarray(by_parts(lambda part: model.weighted_log_densities(part).argmax(axis=1), rows))

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the components' posterior probabilities, shape (n, K)."""
        rows = self._rows(X)
        return self._in_precision_of(X, self._model().responsibilities(rows))

    def score_samples(self, X: Any) -> FloatArray:
        """Return each row's log-likelihood in nats, shape (n,)."""
        rows = self._rows(X)
        return self._in_precision_of(X, by_parts(self._model().log_likelihoods, rows))

    def score(self, X: Any, y: object = None) -> float:
        """Return the mean log-likelihood per row in nats."""
        return float(self.score_samples(X).mean())

    def sample(self, n_samples: int = 1) -> tuple[FloatArray, IntArray]:
        """Draw synthetic rows from the fitted mixture.

        Guarantees:
            Draws are a function of the fitted parameters and `random_state` alone. Of a fit under a budget those are
            functions of private releases, so any number of draws keeps the fit's guarantee and costs no more budget
            (post-processing: Dwork and Roth 2014, Proposition 2.1). Draws from a fit without a budget, or from
            personal weights, protect nobody.

        Returns:
            rows of shape (n_samples, d), grouped by component, and their components of shape (n_samples,).
        """
        model = self._model()
        if n_samples < 1:
            raise UsageError(f"Invalid value for 'n_samples': {n_samples} . The sampling requires at least one sample.")
        return model.sample(n_samples, check_random_state(self.random_state))

    def explain(self, X: Any, *, names: Sequence[str] | None = None) -> Explanation:
        """Return why the rows of `X` score as they do, see `Explanation`; `names` of features are for its table."""
        from privfed.learners.mixture.use.explain import explain_scores

        return explain_scores(self, X, names=names)

    def bic(self, X: Any) -> float:
        """Return the Bayesian information criterion on the rows of `X`; lower is better."""
        scores = self.score_samples(X)
        return -2.0 * float(scores.sum()) + self._n_parameters() * math.log(len(scores))

    def aic(self, X: Any) -> float:
        """Return the Akaike information criterion on the rows of `X`; lower is better."""
        return -2.0 * float(self.score_samples(X).sum()) + 2.0 * self._n_parameters()

    def _n_parameters(self) -> int:
        return n_parameters(self.covariance_type, *self.means_.shape)


def _single(X: Any) -> bool:
    """Whether `X` is an array, or a frame of columns, of float32."""
    dtypes = [getattr(X, "dtype", None)] if not hasattr(X, "dtypes") else list(X.dtypes)
    return bool(dtypes) and all(dtype == np.float32 for dtype in dtypes)
