"""Did the transfer help? Models held against each other by protected sums, with the error that noise and rows give."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed.learners.neural.evaluation.evaluation import Measured, evaluate
from privfed.learners.neural.evaluation.question import check_evaluation
from privfed.learners.neural.evaluation.scores import task_of
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.running import program_for

if TYPE_CHECKING:
    import torch

__all__ = ["Comparison", "ModelFigures", "check_comparison", "compare_models"]

DECIDED = 2.0  # standard errors between two models before one is called better


@dataclass(frozen=True)
class ModelFigures:
    """What one model does on the clients' rows.

    Attributes:
        name: of the model.
        loss, accuracy: with the standard error that the protecting noise gives; the accuracy is None where the model
            gives numbers instead of classes.
        sampling_error: standard error that so many rows, drawn at random, give the accuracy.
    """

    name: str
    loss: Measured
    accuracy: Measured | None
    sampling_error: float


@dataclass(frozen=True)
class Comparison:
    """Models on the same rows; the first one is held against the others.

    Attributes:
        models: figures of each; the first is the one in question.
        records: number of rows, noised.
        held_out: whether training had not seen these rows. If not, whatever was trained on them is flattered.
        share: part of the budget that was paid; None without a budget.
        epsilon: view -> epsilon charged so far, this comparison included.
    """

    models: tuple[ModelFigures, ...]
    records: Measured
    held_out: bool
    share: float | None
    epsilon: Mapping[str, float]

    def __getitem__(self, name: str) -> ModelFigures:
        """Return the figures of the model called `name`."""
        for model in self.models:
            if model.name == name:
                return model
        raise UsageError(f"no model {name!r} was compared, only {', '.join(model.name for model in self.models)}")

    def gain(self, reference: str) -> Measured:
        """Return how much more accurate the first model is than the reference (how much lower its loss is, where there
        are no classes), with the standard error of noise and rows, as if they erred independently.
        """  # fmt: skip
        one, other = self.models[0], self[reference]
        if one.accuracy is None or other.accuracy is None:
            error = math.hypot(one.loss.standard_error, other.loss.standard_error)
            return Measured(other.loss.value - one.loss.value, error)
        error = math.hypot(
            one.accuracy.standard_error, other.accuracy.standard_error, one.sampling_error, other.sampling_error
        )
        return Measured(one.accuracy.value - other.accuracy.value, error)

    def verdict(self, reference: str) -> str:
        """Return "better", "worse" or "undecided" of the first model against the reference, at two standard errors."""
        gain = self.gain(reference)
        if not abs(gain.value) > DECIDED * gain.standard_error:
            return "undecided"
        return "better" if gain.value > 0 else "worse"

    @property
    def negative_transfer(self) -> bool | None:
        """Whether the first model is worse than some reference beyond doubt; None where nothing is beyond doubt."""
        verdicts = [self.verdict(model.name) for model in self.models[1:]]
        if "worse" in verdicts:
            return True
        return None if not verdicts or "undecided" in verdicts else False

    def as_dict(self) -> dict[str, Any]:
        """Return everything as numbers, texts and dicts; NaN and infinity are None."""
        return {
            "models": {
                model.name: {
                    "loss": _plain(model.loss.value),
                    "loss_standard_error": _plain(model.loss.standard_error),
                    "accuracy": None if model.accuracy is None else _plain(model.accuracy.value),
                    "accuracy_standard_error": None
                    if model.accuracy is None
                    else _plain(model.accuracy.standard_error),
                    "sampling_error": _plain(model.sampling_error),
                }
                for model in self.models
            },
            "gains": {
                model.name: {
                    "gain": _plain(self.gain(model.name).value),
                    "standard_error": _plain(self.gain(model.name).standard_error),
                    "verdict": self.verdict(model.name),
                }
                for model in self.models[1:]
            },
            "negative_transfer": self.negative_transfer,
            "records": _plain(self.records.value),
            "held_out": self.held_out,
            "share": self.share,
            "epsilon": dict(self.epsilon),
        }

    def __str__(self) -> str:
        lines = [f"{'model':10} {'accuracy':>9} {'+-':>7} {'loss':>8}   gain of {self.models[0].name!r}"]
        for model in self.models:
            accuracy = math.nan if model.accuracy is None else model.accuracy.value
            error = 0.0 if model.accuracy is None else math.hypot(model.accuracy.standard_error, model.sampling_error)
            line = f"{model.name:10} {accuracy:9.4f} {error:7.4f} {model.loss.value:8.4f}"
            if model is not self.models[0]:
                line += f"   {self.gain(model.name).value:+.4f}, {self.verdict(model.name)}"
            lines.append(line)
        rows = "rows held out" if self.held_out else "the training rows"
        return "\n".join([*lines, f"on about {max(self.records.value, 0):.0f} of {rows}"])


def compare_models(
    federation: Federation,
    models: Mapping[str, torch.nn.Module],
    *,
    loss: LossLike = "cross_entropy",
    share: float | None = None,
    held_out: bool = False,
    largest_loss: float | None = None,
) -> Comparison:
    """Evaluate models on the same rows by protected sums.

    Args:
        federation: whose rows; best ones that no model was trained on, such as `HoldOut(0.2).evaluation(federation)`.
        models: name -> torch module; the first is held against the others.
        loss: as for `evaluate`.
        share: part of the WHOLE budget for all of them together; needed under a budget.
        held_out: whether the rows were kept from training; for the record.
        largest_loss: to which each row's loss is cut, see `evaluate`; needed under a budget where models give numbers.

    Raises:
        UsageError: fewer than two models, or one that cannot be evaluated; see `evaluate`. Nothing was asked of
            anybody.
        BudgetExhausted, FederationError, DataError: see `Federation.release`.
    """
    if len(models) < 2:
        raise UsageError(f"{len(models)} model(s) to compare, expected at least 2")
    figures, part = [], None if share is None or federation.budget is None else share / len(models)
    programs = check_comparison(federation, models, loss=loss, share=part, largest_loss=largest_loss)
    for name, program in programs.items():
        found = evaluate(
            federation,
            program,
            metrics=_metrics(program),
            share=part,
            largest_loss=largest_loss,
            purpose=f"compare: {name}",
        )
        if found.loss is None:
            raise UsageError(f"the evaluation of {name!r} gave no loss")
        sampling = 0.0
        if found.accuracy is not None:
            rate = min(max(found.accuracy.value, 0.0), 1.0)
            sampling = math.sqrt(rate * (1.0 - rate) / max(found.records.value, 1.0))
        figures.append(ModelFigures(name, found.loss, found.accuracy, sampling))
    return Comparison(
        models=tuple(figures),
        records=found.records,
        held_out=held_out,
        share=None if part is None else share,
        epsilon=dict(found.epsilon),
    )


def check_comparison(
    federation: Federation,
    models: Mapping[str, torch.nn.Module],
    *,
    loss: LossLike,
    share: float | None,
    largest_loss: float | None,
) -> dict[str, TorchProgram]:
    """Return the models on the federation's rows, refusing what cannot be evaluated; nobody is asked.

    Args:
        federation, models, loss, largest_loss: see `compare_models`.
        share: part of the WHOLE budget for each.

    Raises:
        UsageError: see `evaluate`.
    """
    programs = {name: program_for(federation, model, loss) for name, model in models.items()}
    for program in programs.values():
        metrics = _metrics(program)
        check_evaluation(federation, program, metrics=metrics, share=share, largest_loss=largest_loss)
    return programs


def _metrics(program: TorchProgram) -> tuple[str, ...]:
    return ("loss",) if task_of(program) == "numbers" else ("loss", "accuracy")


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None
