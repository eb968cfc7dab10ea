"""What every learner of networks does around its rounds: fit the model to the rows, share the budget, go on, stop."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import numpy as np

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation
from privfed.learners.base import check_random_state
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import RowShapeError, TorchProgram
from privfed.learners.neural.state import Callbacks, TrainingState
from privfed.learners.validation import refuse_turned
from privfed_accounting import BudgetExhausted

if TYPE_CHECKING:
    import torch

__all__ = ["LEAST_SHARE", "draw_seed", "going_on", "nothing_left", "program_for", "round_share", "run_rounds"]

LEAST_SHARE: Final = 1e-6  # of a budget: what rounding leaves behind is no budget
SAFE_SIDE: Final = 1.0 - 2.0**-40  # of a share, so that the last round does not fail for a rounding


def program_for(
    federation: Federation,
    model: torch.nn.Module,
    loss: LossLike,
    *,
    feature_shape: tuple[int, ...] | None = None,
    n_targets: int | None = None,
    dtype: str | torch.dtype = "float32",
    device: str | torch.device = "cpu",
    class_targets: bool | None = None,
) -> TorchProgram:
    """Return the model as a program on the federation's rows.

    Args:
        federation: says what its rows hold, where it knows; plain rows have one target, in the last column.
        model, loss, dtype, device, class_targets: see `TorchProgram`.
        feature_shape, n_targets: where the federation does not say, or says otherwise.

    Raises:
        UsageError: the rows cannot hold that, or the model cannot be used.
    """
    if not isinstance(federation, Federation):
        raise UsageError(f"expected a federation, such as privfed.LocalFederation, not {type(federation).__name__}")
    targets = n_targets if n_targets is not None else getattr(federation, "n_targets", 0) or 1
    columns, shape = federation.n_features, feature_shape
    if shape is None:
        shape = tuple(getattr(federation, "feature_shape", (columns,)))
        if math.prod(shape) == columns:  # plain rows: their last columns are the targets
            shape = (columns - targets,)
    else:
        refuse_turned(tuple(getattr(federation, "feature_shape", ())), tuple(shape), what="X")
    if math.prod(shape) + targets != columns or math.prod(shape) < 1:
        raise UsageError(
            f"rows of {columns} columns cannot hold features of shape {shape} and {targets} target(s): give"
            " feature_shape= and n_targets=, or clients as pairs (X, y)"
        )
    try:
        return TorchProgram(
            model, loss, feature_shape=shape, n_targets=targets, dtype=dtype, device=device, class_targets=class_targets
        )
    except RowShapeError as error:
        if getattr(federation, "n_targets", None) != 0 or n_targets is not None:
            raise
        raise UsageError(
            f"{error}. The clients brought plain rows, so their last column was taken for the target: bring pairs"
            " (X, y) if it is a feature"
        ) from error


def draw_seed(random_state: object) -> int:
    """Return the seed of a run, in [0, 2^31); see `check_random_state`."""
    random = check_random_state(random_state)
    return int(random.integers(2**31) if isinstance(random, np.random.Generator) else random.randint(2**31))


def round_share(federation: Federation, share: float | None, *, rounds: int, left: int, reserved: float) -> float:
    """Return the part of the WHOLE budget that each round may cost.

    Args:
        federation: with a budget.
        share: what all rounds may cost together; None spreads what is left.
        rounds: of the whole run.
        left: of them, to come.
        reserved: part of the whole budget that others ask for.

    Raises:
        UsageError: nothing is left, or less than the rounds to come are to cost.
    """
    there = federation.remaining_share - reserved
    if there < LEAST_SHARE:
        raise UsageError(nothing_left(federation, reserved))
    if share is None:
        return there / left * SAFE_SIDE
    if share / rounds * left > there * (1.0 + 1e-9):
        raise UsageError(
            f"share is {share:g}: the {left} round(s) to come are to cost {share / rounds * left:.3g} of the budget, of"
            f" which {there:.3g} is left for them: ask for less, or start with a larger budget"
        )
    return share / rounds * SAFE_SIDE


def nothing_left(federation: Federation, reserved: float) -> str:
    """Return what to say where callbacks, for which `reserved` is kept, leave training no part of the budget."""
    found = f"{federation.remaining_share:.3g} of the budget is left"
    remedy = "open a federation with a larger budget, or pass share= to what was trained or released before"
    if reserved <= 0.0:
        return f"{found}, too little to train: {remedy}"
    return f"{found}, of which callbacks ask for {reserved:.3g}: none is for training. Let them take less, or {remedy}"


def going_on(earlier: TrainingState, fresh: TrainingState) -> TrainingState:
    """Return the state of an earlier run, in the place of one that would begin.

    Raises:
        UsageError: they are of different learners, models or settings; names the first difference.
    """
    if not isinstance(earlier, TrainingState):
        raise UsageError(
            f"resume_from is a {type(earlier).__name__}, expected the state_ of an earlier fit; from a checkpoint on"
            " disk go on with privfed.learners.neural.resume(path, learner, federation)"
        )
    if (earlier.learner, earlier.program) != (fresh.learner, fresh.program):
        raise UsageError(
            f"the state is of {earlier.learner} and model {earlier.program}, this is {fresh.learner} and"
            f" {fresh.program}: bring the model, loss and shape of data that the run began with"
        )
    for name, value in fresh.settings.items():
        if name != "run" and earlier.settings.get(name) != value:
            raise UsageError(
                f"the state's run had {name} {earlier.settings.get(name)!r}, this learner has {value!r}: use the same"
            )
    if "run" not in earlier.settings:
        raise UsageError("the state does not name its run: use one that a learner made, or a checkpoint of one")
    return replace(earlier, rounds=fresh.rounds, releases=(), model=fresh.model, federation=fresh.federation)


def run_rounds(
    one_round: Callable[[TrainingState], TrainingState],
    state: TrainingState,
    callbacks: Callbacks,
    *,
    interrupted: Callable[[TrainingState], None],
) -> tuple[TrainingState, str]:
    """Do rounds until all are done, the budget is spent, or a callback says stop.

    Args:
        one_round: from a state to the next; what it raises leaves the state that it was given.
        state: where the run stands.
        callbacks: who looks on.
        interrupted: gets the last state if an error or Ctrl-C ends the run: what was paid for is not lost.

    Returns:
        The last state, and why it is the last: "rounds", "budget", or the callbacks' reason.

    Raises:
        BudgetExhausted: before a single round was done. Errors of a round pass through; `callbacks.end` comes first.
    """
    callbacks.begin(state)
    reason, first = "rounds", state.round
    try:
        while state.round < state.rounds:
            try:
                state = one_round(state)
            except BudgetExhausted:
                if state.round == first:
                    raise
                warn_caller(f"the budget is spent after {state.round} of {state.rounds} rounds: training ends here")
                reason = "budget"
                break
            state, verdict = callbacks.round_end(state)
            if verdict.stop:
                reason = verdict.reason
                break
    except BaseException:
        interrupted(state)
        callbacks.end(state)
        raise
    return callbacks.end(state), reason
