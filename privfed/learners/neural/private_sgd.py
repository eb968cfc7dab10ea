"""Differentially private gradient descent over silos: records protected, noise as if one curator held all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.federation.release import Federation, Release
from privfed.learners.base import Estimator
from privfed.learners.neural.losses import LossLike
from privfed.learners.neural.per_sample import GradientSum, per_sample
from privfed.learners.neural.private_sgd_schedule import Schedule, check_budget_for, schedule_of
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.refusals import refuse_unsuitable
from privfed.learners.neural.state import Callbacks, HistoryRow, TrainingState
from privfed.query import FloatArray
from privfed.statistics.moments import Count
from privfed.statistics.programs import install
from privfed_accounting import Sampling
from privfed_accounting.tight import tight_bounds

if TYPE_CHECKING:
    import torch

__all__ = ["FederatedSGD"]

COUNT_SHARE: Final = 0.01  # of the budget: what the number of records costs where nobody gives it


class FederatedSGD(Estimator):
    """DP-SGD over the records of all silos: the noise of one curator, and no curator.

    In each round every silo draws its records by coins of its own, in secret, clips the gradient of each record's loss
    to length `clip` and adds them up. The protected sum over silos carries the noise that one holder of all records
    would have added, once. What follows is public arithmetic: division by the EXPECTED number of records, and a step of
    SGD with momentum.

    Args:
        model: a torch module whose trainable parameters are trained; it is copied, the caller's stays as it is.
        loss: "cross_entropy", "binary_cross_entropy", "mse", a torch loss, or a callable without reduction.
        rounds: steps, >= 1.
        epochs: instead of `rounds`, the expected number of times a record is drawn.
        sampling_rate: probability that a record takes part in a round, in (0, 1]. 1.0 takes all records in all rounds:
            fewest rounds, exact Gaussian accounting. Below 1 the budget needs `accounting="renyi"`.
        clip: longest gradient of one record, > 0.
        learning_rate: > 0; of gradients averaged over the expected number of records.
        momentum: in [0, 1), as in `torch.optim.SGD`.
        weight_decay: >= 0, likewise.
        averaging: part of the rounds, from the end, over which weights are averaged, in [0, 1]. 0 takes the last.
        noise_multiplier: standard deviation of the noise of the summed gradient over `clip`; None takes the least with
            which all rounds fit the budget.
        share: part of the WHOLE budget that training may cost; None for all that is left.
        expected_records: records of all silos together, a number that is public anyway. None has it counted first, with
            noise, for 0.01 of the budget.
        random_state: of nothing here that protects: secret samples and noise come from the operating system. An int
            gives every layer that can be reset new weights from this seed; None starts from the weights of `model`.
        callbacks: see `privfed.learners.neural.state.Callback`.
        device: "cpu", "cuda", ...
        dtype: of weights and gradients; sums are always float64.

    Attributes:
        model_: the trained module, in evaluation mode.
        parameters_: its trainable parameters, float64 of shape `(n_parameters,)`.
        schedule_: rounds, rate and noise, and what they cost in all.
        epsilon_: view -> guaranteed epsilon of everything in the ledger after the last round.
        tight_epsilon_: epsilon in the guarded view had all been fixed in advance, by privacy loss distributions; None
            where unknown.
        noise_multiplier_, expected_records_: as used.
        history_: one row per round.
        n_rounds_: rounds done.
        stop_reason_: why a callback stopped the run, or "".
        n_features_in_: features of a row.

    Guarantees:
        All releases together stay within the federation's budget for records, add/remove. One record moves a round's
        sum by at most `clip`, float error counted. The number of records, the samples and their sizes stay secret.

    Raises:
        UsageError: from `fit`, before anything is sent or charged: a model that cannot be private
            (`refuse_unsuitable`), a budget that cannot count the schedule, or arguments out of range.
        BudgetExhausted: from `fit`: somebody else spent the budget meanwhile.

    Sources:
        Abadi et al. 2016, arXiv:1607.00133, algorithm 1; the noise of the sum in shares: Kairouz, Liu and Steinke 2021,
        arXiv:2102.06387.

    Examples:
        >>> import numpy as np, torch
        >>> from privfed import Budget, LocalFederation
        >>> rng = np.random.default_rng(0)
        >>> X = rng.normal(size=(2000, 4))
        >>> y = (X @ [1.0, -2.0, 0.5, 1.0] > 0).astype(int)
        >>> silos = [(X[i::5], y[i::5]) for i in range(5)]
        >>> federation = LocalFederation(silos, budget=Budget(2.0, 1e-5), max_records=1000)
        >>> model = torch.nn.Linear(4, 2)
        >>> fitted = FederatedSGD(model, rounds=20, clip=1.0, learning_rate=1.0, expected_records=2000).fit(federation)
        >>> bool(fitted.score(X, y) > 0.9), round(fitted.epsilon_["server"], 3)
        (True, 2.0)
    """  # fmt: skip

    def __init__(
        self,
        model: torch.nn.Module,
        loss: LossLike = "cross_entropy",
        *,
        rounds: int | None = None,
        epochs: float | None = None,
        sampling_rate: float = 1.0,
        clip: float = 1.0,
        learning_rate: float = 0.5,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        averaging: float = 0.0,
        noise_multiplier: float | None = None,
        share: float | None = None,
        expected_records: float | None = None,
        random_state: int | None = None,
        callbacks: Any = None,
        device: str = "cpu",
        dtype: str = "float32",
    ) -> None:
        self.model = model
        self.loss = loss
        self.rounds = rounds
        self.epochs = epochs
        self.sampling_rate = sampling_rate
        self.clip = clip
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.averaging = averaging
        self.noise_multiplier = noise_multiplier
        self.share = share
        self.expected_records = expected_records
        self.random_state = random_state
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype

    def plan(self, federation: Federation) -> Schedule:
        """Return rounds, noise and cost of a fit on this federation, before anything is spent. Costs nothing.

        Where the records are still to be counted, the schedule leaves room for that.
        """
        settings, program = self._checked(federation)
        return self._schedule(federation, settings, self._query(program, install(program), settings), counted=False)

    def fit(self, federation: Federation) -> Self:
        """Train on the federation's records and return the estimator."""
        settings, program = self._checked(federation)
        name = install(program)
        per_sample(name)  # refuses a model without gradients per sample before anything is spent
        callbacks = Callbacks(self.callbacks)
        query = self._query(program, name, settings)
        self._schedule(federation, settings, query, counted=False)
        records = settings.expected_records or _counted(federation)
        schedule = self._schedule(federation, settings, query, counted=True)
        start = TrainingState(
            learner=type(self).__name__,
            settings=settings.public(),
            program=name,
            seed=0 if self.random_state is None else int(self.random_state),
            round=0,
            rounds=settings.rounds,
            parameters=query.parameters,
            arrays=_no_moments(query.parameters),
            model=program,
            federation=federation,
        )
        state, reason = self._train(start, query, schedule, settings, records, callbacks)
        self._keep(state, program, schedule, records, reason, federation)
        return self

    def decision_function(self, X: Any) -> FloatArray:
        """Return the trained model's outputs, float64 of shape `(rows, ...)`."""
        self._check_is_fitted()
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim < 2 or math.prod(rows.shape[1:]) != self.n_features_in_:
            raise UsageError(f"X has shape {rows.shape}, expected rows of {self.n_features_in_} features")
        self._program.load(self.parameters_)
        return self._program.predict(rows.reshape(len(rows), -1))

    def predict(self, X: Any) -> Any:
        """Return the class of each row, int64; the outputs themselves where targets are no classes."""
        outputs = self.decision_function(X)
        return outputs if self._program.n_classes is None else outputs.argmax(axis=1)

    def score(self, X: Any, y: Any) -> float:
        """Return the accuracy on labelled rows; of models without classes, the mean of the negative loss."""
        if self._program.n_classes is not None:
            return float(np.mean(self.predict(X) == np.asarray(y)))
        outputs = self._tensor(self.decision_function(X))
        targets = self._tensor(np.asarray(y, dtype=np.float64).reshape(outputs.shape))
        return -float(self._program.per_sample_losses(outputs, targets).mean())

    def _tensor(self, values: FloatArray) -> torch.Tensor:
        import torch

        return torch.tensor(values, dtype=self._program.dtype, device=self._program.device)

    def _checked(self, federation: Federation) -> tuple[_Settings, TorchProgram]:
        """Return the checked arguments and the program, refusing what cannot be trained here."""
        settings = _Settings.of(self)
        check_budget_for(federation, settings.sampling.rate, settings.noise_multiplier)
        refuse_unsuitable(self.model, per_sample=True)
        n_targets = getattr(federation, "n_targets", 0)
        shape = getattr(federation, "feature_shape", None) if n_targets else None
        program = TorchProgram(
            _reset(self.model, self.random_state),
            self.loss,
            feature_shape=(federation.n_features - 1,) if shape is None else shape,
            n_targets=n_targets or 1,
            dtype=self.dtype,
            device=self.device,
        )
        return settings, program

    def _query(self, program: TorchProgram, name: str, settings: _Settings) -> GradientSum:
        return GradientSum(name, program.parameters(), settings.clip)

    def _schedule(self, federation: Federation, settings: _Settings, query: GradientSum, *, counted: bool) -> Schedule:
        reserved = Callbacks(self.callbacks).budget_share(settings.rounds)
        if not counted and settings.expected_records is None:
            reserved += COUNT_SHARE
        return schedule_of(
            federation,
            query,
            rounds=settings.rounds,
            sampling=settings.sampling,
            noise_multiplier=settings.noise_multiplier,
            share=settings.share,
            reserved=reserved,
        )

    def _train(
        self,
        state: TrainingState,
        query: GradientSum,
        schedule: Schedule,
        settings: _Settings,
        records: float,
        callbacks: Callbacks,
    ) -> tuple[TrainingState, str]:
        """Return the state after the last round, and why it was the last if a callback said so."""
        federation, reason = state.federation, ""
        if federation is None:
            raise UsageError("a state without a federation cannot be trained on")
        callbacks.begin(state)
        try:
            while state.round < settings.rounds and not reason:
                release = federation.release(
                    replace(query, parameters=state.parameters),
                    **schedule.payment,
                    sampling=settings.sampling,
                    purpose=f"gradients of round {state.round + 1}",
                    rounds=settings.rounds - state.round,
                )
                state = _stepped(state, release, settings, records)
                state, verdict = callbacks.round_end(state)
                reason = verdict.reason if verdict.stop else ""
        except BaseException:
            callbacks.end(state)
            raise
        averaged = replace(state, parameters=_averaged(state))
        return callbacks.end(averaged), reason

    def _keep(
        self,
        state: TrainingState,
        program: TorchProgram,
        schedule: Schedule,
        records: float,
        reason: str,
        federation: Federation,
    ) -> None:
        self._program = program
        self.parameters_ = state.parameters
        self.model_ = program.to_model(state.parameters)
        self.schedule_ = schedule
        self.noise_multiplier_ = schedule.noise_multiplier
        self.expected_records_ = records
        self.history_ = list(state.history)
        self.n_rounds_ = state.round
        self.stop_reason_ = reason
        self.epsilon_ = dict(state.releases[-1].epsilon)
        self.tight_epsilon_ = _tight(federation)
        self.n_features_in_ = program.n_features


@dataclass(frozen=True)
class _Settings:
    """The constructor's arguments, checked."""

    rounds: int
    sampling: Sampling
    clip: float
    learning_rate: float
    momentum: float
    weight_decay: float
    averaging: float
    noise_multiplier: float | None
    share: float | None
    expected_records: float | None

    @classmethod
    def of(cls, given: FederatedSGD) -> _Settings:
        """Check the arguments of an estimator.

        Raises:
            UsageError: one is out of range, or rounds and epochs are not exactly one.
        """
        rate = checked_number("sampling_rate", given.sampling_rate)
        if rate > 1.0:
            raise UsageError(f"sampling_rate is {rate:g}, expected a probability in (0, 1]")
        if (given.rounds is None) == (given.epochs is None):
            raise UsageError("rounds and epochs are two ways to say one thing: give exactly one of them")
        rounds = given.rounds
        if given.epochs is not None:
            rounds = math.ceil(checked_number("epochs", given.epochs) / rate - 1e-9)
        optional = {
            name: None if getattr(given, name) is None else checked_number(name, getattr(given, name))
            for name in ("noise_multiplier", "share", "expected_records")
        }
        return cls(
            rounds=checked_integer("rounds", rounds, least=1),
            sampling=Sampling.none() if rate == 1.0 else Sampling.poisson(rate, unit="record"),
            clip=checked_number("clip", given.clip),
            learning_rate=checked_number("learning_rate", given.learning_rate),
            momentum=_fraction("momentum", given.momentum, most=math.nextafter(1.0, 0.0)),
            weight_decay=_fraction("weight_decay", given.weight_decay, most=math.inf),
            averaging=_fraction("averaging", given.averaging, most=1.0),
            **optional,
        )

    def public(self) -> HistoryRow:
        """Return what a run that goes on must have in common."""
        return {
            "rounds": self.rounds,
            "sampling_rate": self.sampling.rate,
            "clip": self.clip,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "averaging": self.averaging,
        }


def _stepped(state: TrainingState, release: Release, settings: _Settings, records: float) -> TrainingState:
    """Return the state after one step of SGD with momentum on a released sum: post-processing."""
    gradient = release["gradient"] / (settings.sampling.rate * records)
    velocity = settings.momentum * state.arrays["velocity"] + gradient + settings.weight_decay * state.parameters
    parameters = state.parameters - settings.learning_rate * velocity
    done = state.round + 1
    total, count = state.arrays["average_sum"], float(state.arrays["average_count"])
    if done > settings.rounds - settings.averaging * settings.rounds:
        total, count = total + parameters, count + 1.0
    row: HistoryRow = {
        "round": done,
        "gradient_norm": float(np.linalg.norm(gradient)),
        "noise_std": release.noise_std["gradient"] / (settings.sampling.rate * records),
        "survivors": release.survivors,
        "bytes_up": release.bytes_up,
        **{f"epsilon_{view}": epsilon for view, epsilon in release.epsilon.items()},
    }
    return replace(
        state,
        round=done,
        parameters=parameters,
        arrays={"velocity": velocity, "average_sum": total, "average_count": np.array(count)},
        history=(*state.history, row),
        releases=(release,),  # each is as long as the model: the last one will do
    )


def _no_moments(parameters: FloatArray) -> dict[str, FloatArray]:
    zeros = np.zeros_like(parameters)
    return {"velocity": zeros, "average_sum": zeros, "average_count": np.array(0.0)}


def _averaged(state: TrainingState) -> FloatArray:
    """Return the mean of the weights of the last rounds, or the last weights where none were collected."""
    count = float(state.arrays["average_count"])
    return state.parameters if count == 0.0 else np.asarray(state.arrays["average_sum"] / count)


def _counted(federation: Federation) -> float:
    """Return the noised number of records, at least 1."""
    share = None if federation.budget is None else COUNT_SHARE
    release = federation.release(Count(), share=share, sampling=Sampling.none(), purpose="number of records")
    return max(1.0, float(release["count"]))


def _tight(federation: Federation) -> float | None:
    """Return the tight epsilon of all that is in the ledger."""
    budget = federation.budget
    if budget is None:
        return None
    bounds = tight_bounds(federation.ledger.rounds(), budget.view, budget.delta)
    return None if bounds is None else bounds.upper


def _reset(model: torch.nn.Module, seed: int | None) -> torch.nn.Module:
    """Return the model, or a copy with new weights from a seed."""
    if seed is None:
        return model
    import copy

    import torch

    model = copy.deepcopy(model)
    with torch.random.fork_rng():
        torch.manual_seed(checked_integer("random_state", seed, least=0, most=2**32 - 1))
        for module in model.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset) and any(value.requires_grad for value in module.parameters(recurse=False)):
                reset()
    return model


def _fraction(name: str, value: object, *, most: float) -> float:
    """Return `value` as a float from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0.0 <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected a number from 0 to {most:g}")
    return float(value)
