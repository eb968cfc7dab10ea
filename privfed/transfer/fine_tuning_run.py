"""One fine-tuning run: the stages of a cycle, each a learner of its own, and the pull towards the source."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from privfed.errors import UsageError
from privfed.federation.release import Federation, Release
from privfed.learners.neural.averaging.learner import FederatedAveraging
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.parameter_names import matches
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.state import Callback, HistoryRow, TrainingState, Verdict
from privfed.transfer.adapters import merge_adapters, with_adapters
from privfed.transfer.fine_tuning_plan import Plan
from privfed.transfer.schedule import Stage, anchor_for, freeze_all_but, strengths_of

if TYPE_CHECKING:
    import torch

    from privfed.transfer.fine_tuning import FineTuning

__all__ = ["ProximalStep", "Run"]

SGD_RATE = 0.5  # learning rate of FederatedSGD where nobody gives one


class ProximalStep(Callback):
    """After each round, a step towards an anchor: the prox of `eta sum_j strength_j |w_j - anchor_j|^2`.

    Forward-backward splitting: the learner's step goes down the loss, this one down the penalty, exactly:
    w <- (w + 2 eta strength anchor) / (1 + 2 eta strength). It is post-processing of what was released.

    Args:
        anchor: where to, and how hard.
        learning_rate: eta, of the learner's step.

    Source: Parikh and Boyd 2014, Proximal algorithms, Foundations and Trends in Optimization 1, section 4.2.
    """

    def __init__(self, anchor: Anchor, learning_rate: float) -> None:
        self._weights = anchor.weights
        self._pull = 2.0 * learning_rate * np.repeat(anchor.strengths, anchor.sizes)

    def on_round_end(self, state: TrainingState) -> Verdict:
        """Return the parameters after the step."""
        return Verdict(parameters=(state.parameters + self._pull * self._weights) / (1.0 + self._pull))


class Run:
    """One way through all stages, from a source to a tuned model."""

    def __init__(self, given: FineTuning, plan: Plan, federation: Federation) -> None:
        self._given, self._plan, self._federation = given, plan, federation
        self.learners: list[Any] = []
        self.history: list[HistoryRow] = []
        self.releases: list[Release] = []
        self._records: float | None = None

    def tune(self, source: torch.nn.Module, cycle: int, *, proximal: bool = True) -> torch.nn.Module:
        """Return `source` after all stages of one cycle."""
        given, plan = self._given, self._plan
        adapters = given.mode == "adapters"
        model = copy.deepcopy(source)
        if adapters:
            model = with_adapters(
                source,
                given.adapter_layers,
                rank=given.rank,
                scale=given.adapter_scale,
                seed=given.adapter_seed,
                also_train=plan.head,
            )
        allowed = [name for name, value in model.named_parameters() if value.requires_grad]
        if adapters:
            self._check_personal(set(allowed) - {name for name, _ in source.named_parameters()})
        start = {name: value.detach().cpu().double().numpy().copy() for name, value in model.named_parameters()}
        strengths = dict(zip(allowed, strengths_of(allowed, given.proximal).tolist(), strict=True)) if proximal else {}
        for number, stage in enumerate(plan.stages):
            freeze_all_but(model, stage.trainable, allowed)
            learner = self._learner(model, stage, anchor_for(model, start, strengths))
            learner.fit(self._federation)
            self.learners.append(learner)
            self.history += [{**row, "cycle": cycle, "stage": number} for row in learner.history_]
            self.releases += getattr(learner, "releases_", [])
            self._records = getattr(learner, "expected_records_", None)
            model = learner.model_
        return (merge_adapters(model) if adapters else model.requires_grad_(True)).train(False)

    def _check_personal(self, adapted: set[str]) -> None:
        """Refuse personal adapters: they would be gone once the shared ones are folded in."""
        own = sorted(name for name in adapted if matches(name, self._plan.personal))
        if own:
            raise UsageError(f"personal= names adapters, {', '.join(own)}: keep a head at home instead, such as head=")

    def from_scratch(self, source: torch.nn.Module) -> torch.nn.Module:
        """Return what as many rounds make of a random start, all of it trained and pulled nowhere."""
        import torch

        fresh = copy.deepcopy(source).requires_grad_(True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0 if self._given.random_state is None else self._given.random_state)
            for module in fresh.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()
        rounds = sum(stage.rounds for stage in self._plan.stages) * self._plan.cycles
        learner = self._learner(fresh, Stage(rounds), None)
        learner.fit(self._federation)
        self.learners.append(learner)
        scratch: torch.nn.Module = learner.model_
        return scratch

    def _learner(self, model: torch.nn.Module, stage: Stage, anchor: Anchor | None) -> Any:
        """Return the learner of one stage, which pays its part of the share."""
        given, plan = self._given, self._plan
        callbacks = _listed(given.callbacks)
        settings: dict[str, Any] = {"rounds": stage.rounds, "device": given.device, "dtype": given.dtype}
        settings |= dict(given.training or {})
        part = None if plan.share is None else plan.share / plan.rounds * stage.rounds
        if given.learner == "averaging":
            names = [name for name, value in model.named_parameters() if value.requires_grad]
            kept = tuple(one for one in plan.personal if any(matches(name, (one,)) for name in names))
            settings |= {"share": part, "anchor": anchor, "personal": kept, "random_state": given.random_state}
            return FederatedAveraging(model, given.loss, callbacks=callbacks, **settings)
        settings["share"] = part
        if self._records is not None:
            settings.setdefault("expected_records", self._records)
        if anchor is not None:
            callbacks = [ProximalStep(anchor, settings.get("learning_rate", SGD_RATE)), *callbacks]
        return FederatedSGD(model, given.loss, callbacks=callbacks, **settings)


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    return list(callbacks) if isinstance(callbacks, Iterable) else [callbacks]
