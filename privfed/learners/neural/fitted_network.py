"""A trained network as an estimator: what it predicts, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.learners.base import Estimator
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.state import HistoryRow, TrainingState
from privfed.learners.validation import as_rows, check_feature_names, refuse_federation, refuse_turned
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["FittedNetwork"]

BINARY: Final = ("BCEWithLogitsLoss", "BCELoss")


class FittedNetwork(Estimator):
    """Base of learners whose result is a torch module.

    Attributes:
        model_: trained copy of the model, in evaluation mode.
        parameters_: its trainable parameters, float64.
        program_: the model as clients have it installed; held here for their sake.
        history_: one row per round.
        epsilon_: view -> epsilon that the federation has charged so far; empty without a budget.
        n_rounds_: rounds done, earlier runs' included.
        stop_reason_: "rounds", "budget", or what a callback said.
        state_: the last `TrainingState`; hand it to `fit(resume_from=)` to go on. An interrupted fit leaves this alone.
        n_features_in_: features of a row.
        feature_names_in_: names of the features, where clients brought frames with such; other columns are refused.
    """

    def decision_function(self, X: Any) -> FloatArray:
        """Return the model's outputs, float64, one per row of `X`, shape `(rows, *feature_shape)` or flat."""
        self._check_is_fitted()
        refuse_federation(X, estimator=type(self).__name__)
        check_feature_names(X, getattr(self, "feature_names_in_", None), estimator=type(self).__name__)
        rows = np.asarray(X)
        refuse_turned(rows.shape[1:], self.program_.feature_shape, what="X")
        rows = as_rows(rows.reshape(len(rows), -1) if rows.ndim > 2 else rows, estimator=type(self).__name__)
        if rows.shape[1] != self.n_features_in_:
            raise UsageError(f"X has {rows.shape[1]} features, {type(self).__name__} expects {self.n_features_in_}")
        self.program_.load(self.parameters_)
        return self.program_.predict(rows)

    def predict(self, X: Any) -> Any:
        """Return class numbers where targets are classes, 0 or 1 for binary cross-entropy, else the model's outputs.

        Args:
            X: features, shape `(rows, *feature_shape)` or `(rows, n_features)`.
        """
        outputs = self.decision_function(X)
        if self.program_.n_classes is not None:
            return outputs.argmax(axis=1)
        flat = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
        if not _is_binary(self.program_):
            return flat
        return (flat > (0.5 if _gives_probabilities(self.program_) else 0.0)).astype(np.int64)

    def predict_proba(self, X: Any) -> FloatArray:
        """Return the probability of each class, float64 of shape `(rows, classes)`; 1 - p and p for one yes or no.

        Softmax of the outputs of "cross_entropy" and `NLLLoss`, over axis 1; of several yes or no at once their p,
        shape `(rows, labels)`. They are what the model says: nobody has calibrated them.

        Raises:
            UsageError: the loss does not make its outputs probabilities.
        """
        self._check_is_fitted()
        kind = type(self.program_.loss.function).__name__
        if kind not in ("CrossEntropyLoss", "NLLLoss", *BINARY):
            raise UsageError(
                f"predict_proba needs a loss whose outputs stand for probabilities: cross_entropy, NLLLoss or"
                f" binary_cross_entropy, not {self.program_.loss.description}. decision_function(X) has the outputs"
            )
        outputs = self.decision_function(X)
        if kind in BINARY:
            probable = _gives_probabilities(self.program_)
            positive = np.asarray(outputs if probable else 0.5 * (1.0 + np.tanh(0.5 * outputs)))
            if positive.size == len(positive):
                positive = positive.reshape(-1, 1)
                return np.hstack([1.0 - positive, positive])
            return positive
        powers = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))

    @property
    def classes_(self) -> npt.NDArray[np.int64]:
        """Numbers of the classes, in the order of `predict_proba`'s columns; models of numbers have none."""
        self._check_is_fitted()
        count = self.program_.n_classes
        if count is None and _is_binary(self.program_):
            count = 2
        if count is None:
            raise AttributeError("the model gives numbers, not classes")
        return np.arange(count)

    def score(self, X: Any, y: Any = None) -> float:
        """Return the accuracy; of models without classes, minus the mean loss.

        Raises:
            UsageError: `y` holds no numbers, or more or fewer than the model predicts; or `X` is a federation.
        """
        refuse_federation(X, estimator=type(self).__name__)
        if y is None:
            raise UsageError("score(X, y) holds predictions against the truth: give y, the targets of the rows")
        targets = np.asarray(y)
        predicted = self.predict(X)
        if targets.size != predicted.size or targets.dtype.kind not in "biuf":
            raise UsageError(
                f"y has shape {targets.shape} and dtype {targets.dtype}, expected {predicted.size} numbers, as the"
                " targets of training"
            )
        if np.issubdtype(np.asarray(predicted).dtype, np.integer):
            return float(np.mean(predicted == targets.reshape(predicted.shape)))
        outputs = self.decision_function(X)
        losses = self.program_.per_sample_losses(self._tensor(outputs), self._tensor(targets.reshape(outputs.shape)))
        return -float(losses.mean())

    def _tensor(self, values: Any) -> torch.Tensor:
        import torch

        return torch.tensor(values, dtype=self.program_.dtype, device=self.program_.device)

    def _keep(self, state: TrainingState) -> None:
        """Remember where an interrupted run stood."""
        self.state_ = state

    def _finish(self, program: TorchProgram, state: TrainingState, reason: str) -> None:
        self.program_ = program
        self.state_ = state
        self.parameters_ = state.parameters
        self.model_ = program.to_model(state.parameters)
        self.history_: list[HistoryRow] = list(state.history)
        self.epsilon_ = dict(state.releases[-1].epsilon) if state.releases else {}
        self.n_rounds_ = state.round
        self.stop_reason_ = reason
        self.n_features_in_ = program.n_features
        names = getattr(state.federation, "feature_names", None)
        if names is not None:
            self.feature_names_in_ = np.asarray(names[: program.n_features], dtype=object)
        elif hasattr(self, "feature_names_in_"):  # of an earlier fit
            del self.feature_names_in_


def _is_binary(program: TorchProgram) -> bool:
    """Return whether outputs say yes or no, whether the loss was given by name or as torch's module."""
    return type(program.loss.function).__name__ in BINARY


def _gives_probabilities(program: TorchProgram) -> bool:
    """Return whether outputs that say yes or no are probabilities, and not logits."""
    return type(program.loss.function).__name__ == "BCELoss"
