"""Fine-tuning a source model on everybody's rows: stay near it, train some of it, keep some of it at home."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy.typing as npt

from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed.learners.neural.fitted_network import FittedNetwork
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.program import TorchProgram
from privfed.statistics.hold_out import HoldOut
from privfed.transfer.check import Comparison, check_comparison, compare_models
from privfed.transfer.fine_tuning_plan import Learner, Mode, Plan
from privfed.transfer.fine_tuning_run import Run
from privfed.transfer.provenance import mark_home_rows
from privfed.transfer.schedule import Proximal, Stage

if TYPE_CHECKING:
    import torch

__all__ = ["FineTuning"]


class FineTuning(FittedNetwork):
    """Fine-tune a source model across clients, near where it started.

    The objective is `sum_k n_k/n L_k(w) + sum_j lambda_j |w_j - w0_j|^2` (L2-SP; Li, Grandvalet and Davoine 2018,
    arXiv:1802.01483), j over the model's tensors and w0 the source. Training itself is `FederatedAveraging`, or
    `FederatedSGD` where each record is protected.

    Args:
        source: torch module to start from, with a head that fits the target task; it is copied.
        loss: as for `FederatedAveraging`.
        rounds: of one cycle, in all stages together.
        learner: "averaging" (clients train for a while), or "sgd" (clipped gradients per record).
        training: further settings of the learner by name, such as `{"learning_rate": 0.1, "local_epochs": 2}`.
        proximal: lambda for all tensors, or pattern of parameter names -> lambda; the first match counts, tensors
            without one are free. A fresh head is best left free: `{"head.*": 0.0, "*": 0.01}`.
        mode: "all" trains everything; "head" only the head; "gradual" unfreezes from the head downwards, see
            `gradual_unfreezing`; "adapters" trains low-rank adapters and the head, see `with_adapters`.
        head: patterns of the head's parameters; None for the last layer.
        stages: instead of a mode's own schedule, which parameters are trained in which rounds.
        rank, adapter_scale, adapter_layers, adapter_seed: of "adapters".
        personal: patterns of parameters that each client trains for itself and keeps at home, see
            `FederatedAveraging`; needs learner "averaging".
        cycles: how often the flow source, share, fine-tune, aggregate is gone through; what one cycle made is the
            source that the next one stays near.
        share: part of the WHOLE budget for all training, comparisons with "scratch" included; None for what is left
            after `check_share` and what callbacks ask for.
        compare_with: "source" (as it is) and "scratch" (the same schedule from a random start), or one of them, or
            none: what the tuned model is held against afterwards, by protected sums over rows held out.
        check_share: part of the WHOLE budget for that comparison.
        largest_loss: to which it cuts each row's loss, see `evaluate`; needed under a budget where the model gives
            numbers.
        hold_out: fraction of rows, or a `HoldOut`: kept from training, for the comparison; None compares on the
            training rows, which flatters whatever was trained on them.
        callbacks: handed to the learner; in every stage rounds are counted from 1.
        random_state: seed of what is public and random: the order of rows, and the start of "scratch".
        device, dtype: of training.

    Attributes:
        model_: the tuned model, adapters merged, in evaluation mode.
        source_model_: the source as the last cycle saw it.
        scratch_model_: the model from a random start, if it was compared with; else None.
        comparison_: `Comparison`, or None.
        history_: one row per round, with "cycle" and "stage".
        releases_: those of training, as far as the learner keeps them.
        epsilon_: view -> epsilon charged at the end.
        learners_: the learner of each stage. They hold the programs that clients have installed.
        program_, parameters_: the tuned model with its loss: what `predict`, `decision_function` and `score` go by.
        n_rounds_: rounds done in all cycles and stages.
        feature_shape_, n_features_in_: of a row's features.

    Guarantees:
        Everything that leaves a client goes through the learner's protected sums. The source and the strengths are
        public. Personal parameters stay in the client's memory. With learner "sgd" the pull towards the source is
        post-processing at the server.

    Examples:
        >>> import numpy as np, torch
        >>> from privfed import LocalFederation
        >>> from privfed.transfer import FineTuning
        >>> rng = np.random.default_rng(0)
        >>> X = [rng.normal(size=(40, 2)) for _ in range(3)]
        >>> clients = LocalFederation([(x, (x.sum(axis=1) > 0).astype(float)) for x in X])
        >>> settings = {"learning_rate": 0.5}
        >>> tuned = FineTuning(torch.nn.Linear(2, 2), rounds=5, training=settings, random_state=0).fit(clients)
        >>> tuned.predict(X[0]).shape, tuned.score(X[0], X[0].sum(axis=1) > 0) > 0.9
        ((40,), True)
    """

    def __init__(
        self,
        source: torch.nn.Module,
        loss: LossLike = "cross_entropy",
        *,
        rounds: int = 20,
        learner: Learner = "averaging",
        training: Mapping[str, Any] | None = None,
        proximal: Proximal = 0.0,
        mode: Mode = "all",
        head: str | Iterable[str] | None = None,
        stages: Sequence[Stage] | None = None,
        rank: int = 4,
        adapter_scale: float = 1.0,
        adapter_layers: str | Iterable[str] = "*",
        adapter_seed: int = 0,
        personal: str | Iterable[str] = (),
        cycles: int = 1,
        share: float | None = None,
        compare_with: Sequence[str] = (),
        check_share: float = 0.05,
        largest_loss: float | None = None,
        hold_out: HoldOut | float | None = None,
        callbacks: Any = None,
        random_state: int | None = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.source = source
        self.loss = loss
        self.rounds = rounds
        self.learner = learner
        self.training = training
        self.proximal = proximal
        self.mode = mode
        self.head = head
        self.stages = stages
        self.rank = rank
        self.adapter_scale = adapter_scale
        self.adapter_layers = adapter_layers
        self.adapter_seed = adapter_seed
        self.personal = personal
        self.cycles = cycles
        self.share = share
        self.compare_with = compare_with
        self.check_share = check_share
        self.largest_loss = largest_loss
        self.hold_out = hold_out
        self.callbacks = callbacks
        self.random_state = random_state
        self.device = device
        self.dtype = dtype

    def fit(self, federation: Federation, y: None = None) -> Self:
        """Tune the source on the clients of `federation`.

        Args:
            federation: whose clients train.
            y: ignored, for scikit-learn's sake.

        Raises:
            UsageError: a setting is wrong; nothing was asked of anybody.
            BudgetExhausted, FederationError, DataError: see `Federation.release`.
        """
        if not isinstance(federation, Federation):
            raise UsageError(
                f"fit takes a federation, such as privfed.LocalFederation, not {type(federation).__name__}"
            )
        plan = Plan.of(self, federation)
        hold_out = HoldOut.of(self.hold_out)
        view: Federation = federation if hold_out is None else hold_out.training(federation)
        held: Federation = federation if hold_out is None else hold_out.evaluation(federation)
        if plan.references:  # refused now, not when training is paid for
            share = self.check_share / (1 + len(plan.references)) if plan.private else None
            sources = {"source": self.source}
            check_comparison(held, sources, loss=self.loss, share=share, largest_loss=self.largest_loss)
        run = Run(self, plan, view)
        tuned, source = copy.deepcopy(self.source), self.source
        for cycle in range(plan.cycles):
            source = tuned
            tuned = run.tune(source, cycle)
        self.model_, self.source_model_ = tuned, copy.deepcopy(source).train(False)
        self.learners_, self.history_, self.releases_ = list(run.learners), run.history, run.releases
        self.scratch_model_ = None
        if "scratch" in plan.references:
            self.scratch_model_ = run.from_scratch(self.source)
        last = self.learners_[-1]
        self.epsilon_ = dict(run.learners[-1].epsilon_)
        self.program_ = TorchProgram(
            copy.deepcopy(tuned).requires_grad_(True),
            self.loss,
            feature_shape=last.program_.feature_shape,
            n_targets=last.program_.n_targets,
            dtype=self.dtype,
            device=self.device,
        )
        self.parameters_ = self.program_.parameters()
        self.n_rounds_ = len(self.history_)
        self.feature_shape_ = last.program_.feature_shape
        self.n_features_in_ = math.prod(self.feature_shape_)
        self._compare(plan, held)
        return self

    def personal_model(self, memory: MutableMapping[str, npt.NDArray[Any]]) -> torch.nn.Module:
        """Return the tuned model with one client's own parameters in their places; for that client to call.

        It is marked as such: `export` refuses to claim a federation's budget for it.

        Args:
            memory: where that client keeps arrays, see `LocalFederation(memories=)`.

        Raises:
            UsageError: it keeps none of this model.
        """
        import torch

        self._check_is_fitted()
        model, found = copy.deepcopy(self.model_), 0
        with torch.no_grad():
            for name, value in model.named_parameters():
                kept = memory.get(f"personal:{name}")
                if kept is not None and kept.shape == tuple(value.shape):
                    value.copy_(torch.tensor(kept))
                    found += 1
        if not found:
            raise UsageError("this memory holds no parameters of the model: fit with personal=, and memories= at home")
        return mark_home_rows(model.train(False), "holds parameters that one client trained and kept for itself")

    def _compare(self, plan: Plan, rows: Federation) -> None:
        """Hold the tuned model against the references, on rows that training did not see where there are such."""
        self.comparison_: Comparison | None = None
        if not plan.references:
            return
        models = {"tuned": self.model_}
        if "source" in plan.references:
            models["source"] = self.source
        if self.scratch_model_ is not None:
            models["scratch"] = self.scratch_model_
        self.comparison_ = compare_models(
            rows,
            models,
            loss=self.loss,
            share=self.check_share if plan.private else None,
            held_out=self.hold_out is not None,
            largest_loss=self.largest_loss,
        )
        self.epsilon_ = dict(self.comparison_.epsilon)
