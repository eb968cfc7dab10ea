"""What an evaluation asks of a federation, checked before it asks: arguments, model, and how the two fit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from privfed.errors import UsageError, checked_number
from privfed.federation.release import Federation
from privfed.learners.neural.evaluation.scores import ModelScores, SiloAccuracies, check_scores, task_of
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.running import program_for
from privfed.query import FloatArray
from privfed.statistics.hold_out import FederationPart, HoldOut
from privfed.statistics.programs import install

if TYPE_CHECKING:
    import torch

__all__ = ["Asked", "check_evaluation"]

METRICS: Final[tuple[str, ...]] = ("loss", "accuracy", "calibration", "confusion", "silos")
OF_CLASSES: Final = ("loss", "accuracy", "calibration")
SUM_OF: Final = {"loss": "loss", "accuracy": "correct", "calibration": "calibration", "confusion": "confusion"}
UNCLIPPED: Final = 1e3  # largest loss without a budget: cuts off what has diverged


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks, checked.

    Attributes:
        part: whose rows.
        program: the model; clients know it by name, and weakly.
        scores, silos: the questions; `silos` is None where nobody asks for them.
    """

    part: Federation
    program: TorchProgram
    scores: ModelScores
    silos: SiloAccuracies | None


def check_evaluation(
    federation: Federation,
    model: torch.nn.Module | TorchProgram | Any,
    *,
    loss: LossLike = "cross_entropy",
    parameters: FloatArray | None = None,
    metrics: tuple[str, ...] | str | None = None,
    share: float | None = None,
    hold_out: HoldOut | float | None = None,
    largest_loss: float | None = None,
    n_bins: int = 10,
    silo_quantile: float = 0.1,
    silo_bins: int = 20,
) -> Asked:
    """Return what `evaluate` would ask, and ask nobody: whoever is to evaluate later refuses now what cannot be.

    Args:
        federation, model, loss, parameters, metrics, share, hold_out, largest_loss, n_bins: see `evaluate`.
        silo_quantile, silo_bins: see `evaluate`.

    Raises:
        UsageError: an argument is wrong or does not fit the model, or the model cannot be evaluated; it was tried on
            rows that belong to nobody.
    """
    part = _evaluated_part(federation, HoldOut.of(hold_out))
    program, vector = _program_of(part, model, loss, parameters)
    wanted = _wanted(program, metrics)
    limit = _largest_loss(program, largest_loss, private=federation.budget is not None)
    if not 0.0 < silo_quantile < 1.0:
        raise UsageError(f"silo_quantile is {silo_quantile!r}, expected a fraction in (0, 1), such as 0.1")
    if share is not None:
        checked_number("share", share, what="a fraction in (0, 1]")
    name = install(program)
    scores = ModelScores(name, vector, tuple(SUM_OF[one] for one in wanted if one in SUM_OF), limit, n_bins)
    silos = SiloAccuracies(name, vector, silo_bins) if "silos" in wanted else None
    check_scores(program)
    return Asked(part, program, scores, silos)


def _evaluated_part(federation: Federation, hold_out: HoldOut | None) -> Federation:
    if isinstance(federation, FederationPart):
        if hold_out not in (None, federation.hold_out):
            raise UsageError(
                f"hold_out is {hold_out}, but the federation is part of one split by {federation.hold_out}:"
                " leave it out"
            )
        return federation if federation.held else federation.hold_out.evaluation(federation.below)
    return federation if hold_out is None else hold_out.evaluation(federation)


def _program_of(
    federation: Federation, model: Any, loss: LossLike, parameters: FloatArray | None
) -> tuple[TorchProgram, FloatArray]:
    """Return the program and the parameters to evaluate.

    Raises:
        UsageError: the model is none of those that can be evaluated, or the parameters are of another number.
    """
    program = getattr(model, "program_", getattr(model, "_program", None))  # of a fitted learner
    found = getattr(model, "parameters_", None)
    if isinstance(model, TorchProgram):
        program = model
    elif not isinstance(program, TorchProgram):
        program, found = program_for(federation, model, loss), None
    vector = parameters if parameters is not None else program.parameters() if found is None else found
    if np.shape(vector) != (program.n_parameters,):
        raise UsageError(f"parameters have shape {np.shape(vector)}, the model has {program.n_parameters}")
    return program, np.asarray(vector, dtype=np.float64)


def _wanted(program: TorchProgram, metrics: tuple[str, ...] | str | None) -> tuple[str, ...]:
    numbers = task_of(program) == "numbers"
    if metrics is None:
        return ("loss",) if numbers else OF_CLASSES
    wanted = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    if not wanted or set(wanted) - set(METRICS):
        raise UsageError(f"metrics is {metrics!r}, expected some of {', '.join(METRICS)}")
    if numbers and set(wanted) != {"loss"}:
        raise UsageError(f"metrics is {metrics!r}, but the model gives numbers and no classes: ask for 'loss' alone")
    return tuple(dict.fromkeys(wanted))


def _largest_loss(program: TorchProgram, given: float | None, *, private: bool) -> float:
    if given is not None:
        return checked_number("largest_loss", given)
    if not private:
        return UNCLIPPED
    if task_of(program) == "numbers":
        raise UsageError("the loss of a model that gives numbers has no natural bound: give largest_loss= in its units")
    classes = 2 if program.n_classes is None else program.n_classes
    return max(2.0, 2.0 * math.log(classes))
