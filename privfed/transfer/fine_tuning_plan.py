"""The settings of a fine-tuning run, checked before anybody is asked for anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, Self, get_args

from privfed.errors import UsageError, checked_integer
from privfed.federation.release import Federation
from privfed.learners.neural.averaging.parameter_names import patterns_of
from privfed.learners.neural.losses import require_torch
from privfed.learners.neural.private_sgd.learner import COUNT_SHARE
from privfed.learners.neural.state import Callbacks
from privfed.transfer.schedule import Stage, gradual_unfreezing, head_of

if TYPE_CHECKING:
    from privfed.transfer.fine_tuning import FineTuning

__all__ = ["Learner", "Mode", "Plan"]

Mode = Literal["all", "head", "gradual", "adapters"]
Learner = Literal["averaging", "sgd"]
REFERENCES: Final = ("source", "scratch")
OWN: Final = ("anchor", "callbacks", "device", "dtype", "loss", "model", "personal", "random_state", "rounds", "share")
SAFE_SIDE: Final = 1.0 - 2.0**-40  # of a share, so that the last round does not fail for a rounding


@dataclass(frozen=True)
class Plan:
    """The settings, checked."""

    stages: tuple[Stage, ...]
    cycles: int
    head: tuple[str, ...]
    personal: tuple[str, ...]
    references: tuple[str, ...]
    private: bool
    share: float | None

    @classmethod
    def of(cls, given: FineTuning, federation: Federation) -> Self:
        """Check the settings.

        Raises:
            UsageError: one is wrong.
        """
        require_torch()
        import torch

        if not isinstance(given.source, torch.nn.Module):
            raise UsageError(f"source is a {type(given.source).__name__}, expected a torch.nn.Module")
        for name, value, known in (("mode", given.mode, Mode), ("learner", given.learner, Learner)):
            if value not in get_args(known):
                raise UsageError(f"{name} is {value!r}, expected one of {', '.join(get_args(known))}")
        personal, asked = patterns_of(given.personal), given.compare_with
        references = (asked,) if isinstance(asked, str) else tuple(asked)
        if personal and given.learner == "sgd":
            raise UsageError("personal parameters need learner='averaging': gradients per record have no client")
        if not set(references) <= set(REFERENCES):
            raise UsageError(f"compare_with is {references!r}, expected some of {REFERENCES}")
        if given.mode == "adapters" and given.stages is not None:
            raise UsageError("mode 'adapters' has one stage: leave stages= out, or choose another mode")
        own = sorted(set(OWN) & set(given.training or {}))
        if own:
            raise UsageError(f"training holds {', '.join(own)}: those are arguments of FineTuning itself")
        head = (head_of(given.source),) if given.head is None else patterns_of(given.head)
        stages = _stages(given, checked_integer("rounds", given.rounds, least=1), head)
        cycles = checked_integer("cycles", given.cycles, least=1)
        private = federation.budget is not None
        plan = cls(stages, cycles, head, personal, references, private, None)
        return replace(plan, share=_share(given, federation, plan))

    @property
    def rounds(self) -> int:
        """Rounds of everything that is trained."""
        once = sum(stage.rounds for stage in self.stages) * self.cycles
        return 2 * once if "scratch" in self.references else once

    def watched(self, callbacks: Callbacks) -> float:
        """Return what part of the whole budget callbacks ask for in all stages, each of which is a run of its own."""
        once = sum(callbacks.budget_share(stage.rounds) for stage in self.stages) * self.cycles
        return once + (callbacks.budget_share(self.rounds // 2) if "scratch" in self.references else 0.0)


def _stages(given: FineTuning, rounds: int, head: tuple[str, ...]) -> tuple[Stage, ...]:
    if given.stages is not None:
        stages = tuple(given.stages)
        if not stages or not all(isinstance(stage, Stage) for stage in stages):
            raise UsageError(f"stages are {given.stages!r}, expected at least one Stage(rounds, trainable)")
        return stages
    if given.mode == "head":
        return (Stage(rounds, head),)
    if given.mode == "gradual":
        return gradual_unfreezing(given.source, rounds, head=head)
    return (Stage(rounds),)


def _share(given: FineTuning, federation: Federation, plan: Plan) -> float | None:
    """Return the part of the whole budget that all training may cost; None where nothing or something else says it."""
    if federation.budget is None or "noise_multiplier" in (given.training or {}):
        return None
    checks = given.check_share if plan.references else 0.0
    if plan.references and not 0.0 < checks < 1.0:
        raise UsageError(f"check_share is {checks!r}, expected a fraction in (0, 1)")
    left = federation.remaining_share - checks - plan.watched(Callbacks(given.callbacks))
    share = left if given.share is None else given.share
    if given.learner == "sgd" and "expected_records" not in (given.training or {}):
        share -= COUNT_SHARE  # it counts the records first
    if not 0.0 < share <= 1.0:
        raise UsageError(
            f"training would get {share:.3g} of the budget, expected a fraction in (0, 1]:"
            f" {federation.remaining_share:.3g} of it is left, {checks:.3g} is for comparisons"
        )
    return share * SAFE_SIDE
