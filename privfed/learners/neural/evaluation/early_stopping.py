"""Stopping when a model no longer gets better, as far as noisy evaluations can tell."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Final, Literal

from privfed.errors import UsageError, checked_integer, checked_number, warn_caller
from privfed.learners.neural.evaluation.evaluation import Evaluation, Measured, evaluate
from privfed.learners.neural.evaluation.question import check_evaluation
from privfed.learners.neural.state import Callback, TrainingState, Verdict
from privfed.query import FloatArray, frozen_array
from privfed.statistics.hold_out import HoldOut

__all__ = ["EarlyStopping"]

Watched = Literal["loss", "accuracy"]
BEST: Final = "best_parameters"


class EarlyStopping(Callback):
    """Evaluates the model on the way, stops when it no longer improves, and brings the best one back.

    Every evaluation is a release with noise of known size. A difference within `standard_errors` of it is taken for
    nothing: no improvement, so that the run does not go on for luck, and no decline, so that later parameters are not
    given up for it. Improvements are measured from the best evaluation so far, so that many small ones add up.

    Args:
        every: rounds from one evaluation to the next; the last planned round is evaluated as well.
        patience: evaluations without improvement after which the run stops.
        min_delta: improvement below which nothing counts, in the units of the metric, >= 0.
        share: part of the WHOLE budget for each evaluation; needed under a budget.
        metric: "loss", which should fall, or "accuracy", which should rise.
        hold_out: evaluate on the rows that this split holds out. Training must not see them: fit to
            `HoldOut(...).training(federation)`, and leave this None. None without such a federation evaluates on the
            rows of training, with a warning.
        largest_loss: see `evaluate`.
        standard_errors: how many make a difference, >= 0.
        restore_best: whether the run ends with the best parameters if the last ones are clearly worse.

    Attributes:
        evaluations_: round -> what was found there, of this run.
        best_round_: the round of the best evaluation; None before the first.
        best_: its figure; None before the first.
        waited_: evaluations without improvement since.
        restored_: whether the run ended with the best parameters in place of the last.

    Examples:
        >>> import numpy as np, torch
        >>> from privfed import LocalFederation
        >>> from privfed.learners.neural import FederatedAveraging
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(60, 2)) for _ in range(3)]
        >>> federation = LocalFederation([(x, (x.sum(axis=1) > 0).astype(float)) for x in X])
        >>> stopper = EarlyStopping(patience=2, min_delta=0.01)
        >>> learner = FederatedAveraging(torch.nn.Linear(2, 2), rounds=200, random_state=0, callbacks=stopper)
        >>> learner.fit(HoldOut(0.3).training(federation)).n_rounds_ < 200
        True
    """

    def __init__(
        self,
        *,
        every: int = 1,
        patience: int = 3,
        min_delta: float = 0.0,
        share: float | None = None,
        metric: Watched = "loss",
        hold_out: HoldOut | float | None = None,
        largest_loss: float | None = None,
        standard_errors: float = 2.0,
        restore_best: bool = True,
    ) -> None:
        self._every = checked_integer("every", every, least=1)
        self._patience = checked_integer("patience", patience, least=1)
        self._min_delta = _not_negative("min_delta", min_delta)
        self._errors = _not_negative("standard_errors", standard_errors)
        self._share = None if share is None else checked_number("share", share, what="a fraction in (0, 1)")
        if metric not in ("loss", "accuracy"):
            raise UsageError(f"metric is {metric!r}, expected 'loss' or 'accuracy'")
        self._metric = metric
        self._hold_out = HoldOut.of(hold_out)
        self._largest_loss = largest_loss
        self._restore_best = bool(restore_best)
        self._resumed = False
        self._stand = (0, 0)
        self._forget()

    def _forget(self) -> None:
        self.evaluations_: dict[int, Evaluation] = {}
        self.best_round_: int | None = None
        self.best_: Measured | None = None
        self.waited_ = 0
        self.restored_ = False
        self._last: Measured | None = None
        self._best_parameters: FloatArray | None = None

    def budget_share(self, rounds: int) -> float:
        """Return what evaluations in the next `rounds` rounds cost together; those of a run that goes on are counted
        from where `check` saw it.
        """  # fmt: skip
        if self._share is None:
            return 0.0
        done, planned = self._stand
        first, last = (done + 1, planned) if planned - done == rounds else (1, rounds)
        return sum(self._is_due(number, last) for number in range(first, last + 1)) * self._share

    def check(self, state: TrainingState) -> None:
        """Refuse, before anything is spent, evaluations that would be refused later.

        Raises:
            UsageError: there is a budget and no share of it, or the model cannot be evaluated so.
        """
        federation = state.federation
        if federation is None or state.model is None:
            raise UsageError("the state names no federation or model to evaluate: early stopping needs both")
        if federation.budget is not None and self._share is None:
            raise UsageError(
                "under a budget every evaluation needs its share of it: give EarlyStopping(share=0.002) for two"
                " thousandths each"
            )
        check_evaluation(federation, state.model, **self._asked(state))
        self._stand = state.round, state.rounds

    def on_train_begin(self, state: TrainingState) -> None:
        """Forget an earlier run, unless this one goes on with it.

        Raises:
            UsageError: see `check`.
        """
        self.check(state)
        if not self._resumed:
            self._forget()
        self._resumed = False
        if self._hold_out is None and not hasattr(state.federation, "hold_out"):
            warn_caller(
                "early stopping evaluates on the rows of training, which says little about others: fit to"
                " HoldOut(0.2).training(federation)"
            )

    def on_round_end(self, state: TrainingState) -> Verdict | None:
        """Evaluate if it is time, and say whether to stop."""
        if not self._is_due(state.round, state.rounds):
            return None
        found = self._evaluated(state)
        self.evaluations_[state.round] = found
        figures = {name: figure for name, figure in found.figures().items() if name != "records"}
        metrics = {f"eval_{name}": _known(figure.value) for name, figure in figures.items()}
        metrics |= {f"eval_{name}_se": _known(figure.standard_error) for name, figure in figures.items()}
        return Verdict(
            stop=self._noted(state, figures[self._metric]),
            reason=f"no better {self._metric} in {self._patience} evaluations",
            metrics=metrics,
        )

    def on_train_end(self, state: TrainingState) -> Verdict | None:
        """Bring the best parameters back if the last ones evaluated are clearly worse."""
        if not self._restore_best or self.best_ is None or self._last is None or self._best_parameters is None:
            return None
        if not self._clearly_better(self.best_, self._last):
            return None
        self.restored_ = True
        return Verdict(parameters=self._best_parameters)

    def saved(self) -> tuple[dict[str, FloatArray], dict[str, float | int | str | None]]:
        """Return arrays and figures from which a run goes on, for `Checkpoint`."""
        arrays = {} if self._best_parameters is None else {BEST: self._best_parameters}
        figures: dict[str, float | int | str | None] = {"waited": self.waited_, "best_round": self.best_round_}
        for name, found in (("best", self.best_), ("last", self._last)):
            figures[name] = None if found is None else found.value
            figures[f"{name}_error"] = None if found is None else found.standard_error
        return arrays, figures

    def restore(self, arrays: Mapping[str, FloatArray], figures: Mapping[str, Any]) -> None:
        """Take up what `saved` returned; the next run goes on from there.

        Raises:
            UsageError: it is not of that kind.
        """
        self._forget()
        try:
            self.waited_ = checked_integer("waited", figures["waited"], least=0)
            self.best_round_ = figures["best_round"]
            self.best_, self._last = (
                None if figures[name] is None else Measured(float(figures[name]), float(figures[f"{name}_error"]))
                for name in ("best", "last")
            )
        except (KeyError, TypeError) as error:
            raise UsageError(f"what was saved is not early stopping's: {error}") from None
        self._best_parameters = frozen_array(arrays[BEST]) if BEST in arrays else None
        self._resumed = True

    def _evaluated(self, state: TrainingState) -> Evaluation:
        if state.federation is None or state.model is None:
            raise UsageError("the state names no federation or model to evaluate: early stopping needs both")
        left = max(1, (state.rounds - state.round) // self._every)
        return evaluate(
            state.federation,
            state.model,
            **self._asked(state),
            purpose=f"evaluation after round {state.round}",
            rounds=left,
        )

    def _is_due(self, number: int, last: int) -> bool:
        return number % self._every == 0 or number == last

    def _asked(self, state: TrainingState) -> dict[str, Any]:
        """Return what is asked of a state."""
        return {
            "parameters": state.parameters,
            "metrics": (self._metric,),
            "share": self._share,
            "hold_out": self._hold_out,
            "largest_loss": self._largest_loss,
        }

    def _noted(self, state: TrainingState, found: Measured) -> bool:
        """Take one more figure, and return whether it is time to stop."""
        if math.isnan(found.value):
            warn_caller(
                f"the evaluation after round {state.round} drowns in its noise and tells nothing: give a larger share,"
                " or evaluate less often"
            )
            return False
        self._last = found
        if self.best_ is None or self._clearly_better(found, self.best_):
            self.best_, self.best_round_, self.waited_ = found, state.round, 0
            self._best_parameters = state.parameters
            return False
        self.waited_ += 1
        return self.waited_ >= self._patience

    def _clearly_better(self, one: Measured, other: Measured) -> bool:
        """Return whether `one` beats `other` by more than the noise of both and `min_delta`."""
        gain = other.value - one.value if self._metric == "loss" else one.value - other.value
        noise = self._errors * math.hypot(one.standard_error, other.standard_error)
        return gain > self._min_delta + noise


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _not_negative(name: str, value: object) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return 0.0
    return checked_number(name, value, what="a finite number of at least 0")
