"""A trained network as an estimator: what it predicts, and how well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.errors import UsageError
from privfed.learners.base import Estimator
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.state import HistoryRow, TrainingState
from privfed.learners.validation import as_rows
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["FittedNetwork"]


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
    """

    def decision_function(self, X: Any) -> FloatArray:
        """Return the model's outputs, float64, one per row of `X`, shape `(rows, *feature_shape)` or flat."""
        self._check_is_fitted()
        rows = np.asarray(X)
        rows = as_rows(rows.reshape(len(rows), -1) if rows.ndim > 2 else rows, estimator=type(self).__name__)
        if rows.shape[1] != self.n_features_in_:
            raise UsageError(f"X has {rows.shape[1]} features, {type(self).__name__} expects {self.n_features_in_}")
        self.program_.load(self.parameters_)
        return self.program_.predict(rows)

    def predict(self, X: Any) -> Any:
        """Return class numbers where targets are classes, 0 or 1 for "binary_cross_entropy", else the model's outputs.

        Args:
            X: features, shape `(rows, *feature_shape)` or `(rows, n_features)`.
        """
        outputs = self.decision_function(X)
        if self.program_.n_classes is not None:
            return outputs.argmax(axis=1)
        flat = outputs[:, 0] if outputs.ndim == 2 and outputs.shape[1] == 1 else outputs
        return (flat > 0).astype(np.int64) if self.program_.loss.description == "binary_cross_entropy" else flat

    def score(self, X: Any, y: Any) -> float:
        """Return the accuracy; of models without classes, minus the mean loss.

        Raises:
            UsageError: `y` holds no numbers, or more or fewer than the model predicts.
        """
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
