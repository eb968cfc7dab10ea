"""Differentially private gradient descent over silos: records protected, noise as if one curator held all of them."""

from __future__ import annotations

import math
import time
from dataclasses import KW_ONLY, dataclass, replace
from typing import Final, Self

import numpy as np

from privfed.errors import UsageError, checked_integer, checked_number, warn_caller
from privfed.federation.release import Federation, Release
from privfed.learners.neural.network_learner import NetworkLearner
from privfed.learners.neural.per_sample.gradients import GradientSum, per_sample
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.running import run_rounds
from privfed.learners.neural.schedule import Schedule, check_budget_for, schedule_of, warn_if_drowned
from privfed.learners.neural.state import HistoryRow, TrainingState
from privfed.statistics.moments import Count
from privfed.statistics.programs import install
from privfed_accounting import Sampling
from privfed_accounting.tight import tight_bounds

__all__ = ["FederatedSGD"]

COUNT_SHARE: Final = 0.01  # of the budget: what the number of records costs where nobody gives it


@dataclass(eq=False, repr=False)
class FederatedSGD(NetworkLearner):
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
        callbacks: one or several, see `Callback`.
        verbose: show every round as it ends, by `Progress`; an integer shows every so many.
        random_state: seed that callbacks find in the state. Training itself draws nothing but secret samples and noise,
            which come from the operating system.
        device: "cpu", "cuda", ...
        dtype: of weights and gradients; sums are always float64.
        feature_shape, n_targets: of the rows, where the federation does not say, or says otherwise.
        class_targets: whether a callable loss takes class numbers.

    Attributes:
        model_, parameters_, program_, history_, epsilon_, n_rounds_, stop_reason_, state_, n_features_in_: see
            `FittedNetwork`.
        schedule_: rounds, rate and noise, and what they cost in all.
        tight_epsilon_: epsilon in the guarded view of all that is in the ledger, had it been fixed in advance, by
            privacy loss distributions; None where unknown. In mode "trusted" the server saw vectors without masks, and
            this is what it learned.
        noise_multiplier_, expected_records_: as used.

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

    _: KW_ONLY
    rounds: int | None = None
    epochs: float | None = None
    sampling_rate: float = 1.0
    clip: float = 1.0
    learning_rate: float = 0.5
    averaging: float = 0.0
    expected_records: float | None = None

    def plan(self, federation: Federation) -> Schedule:
        """Return rounds, noise and cost of a fit on this federation, before anything is spent. Costs nothing.

        Where the records are still to be counted, the schedule leaves room for that, and does not know what the noise
        is against.

        Raises:
            UsageError: as `fit` would, before it asks anybody.
        """
        settings, program = self._checked(federation)
        name = install(program)
        per_sample(name)  # refuses a model without gradients per sample
        query = GradientSum(name, program.parameters(), settings.clip)
        return self._schedule(federation, settings, query, settings.rounds, records=settings.expected_records)

    def fit(self, federation: Federation, y: None = None, *, resume_from: TrainingState | None = None) -> Self:
        """Train on the federation's records and return the estimator.

        Args:
            federation: whose clients' records are trained on.
            y: ignored, for scikit-learn's sake.
            resume_from: the state of an earlier run with the same settings. It goes on after the rounds that are done,
                with the least noise with which the rest of them fit what is left of the budget.

        Raises:
            UsageError, BudgetExhausted: see the class.
            DataError, FederationError: see `Federation.release`. The callbacks have seen the last state.
        """
        settings, program = self._checked(federation)
        state = self._state(
            program,
            federation,
            settings=settings.public(),
            rounds=settings.rounds,
            arrays={"velocity": np.zeros(program.n_parameters)},
            earlier=resume_from,
        )
        left = settings.rounds - state.round
        if left < 1:
            raise UsageError(
                f"all {settings.rounds} rounds of the run are done, and a run keeps the number it began with: its model"
                " is in the state; for more rounds fit anew, from that model"
            )
        per_sample(state.program)  # refuses a model without gradients per sample before anything is spent
        query = GradientSum(state.program, state.parameters, settings.clip)
        if "records" not in state.arrays:
            self._schedule(federation, settings, query, left, records=settings.expected_records)
            records = settings.expected_records or _counted(federation)
            state = replace(state, arrays={**state.arrays, "records": np.array(records)})
        schedule = self._schedule(federation, settings, query, left, records=float(state.arrays["records"]))
        warn_if_drowned(
            schedule, remedy="fewer parameters (layers that are fixed, a linear head), more records a round"
        )
        state, reason = run_rounds(
            lambda now: _one_round(now, query, schedule, settings),
            state,
            self._lookers_on(),
            interrupted=self._keep,
        )
        self._finish(program, state, reason)
        if self.history_ and all(row["gradient_norm"] == row["noise_std"] == 0.0 for row in self.history_):
            warn_caller(
                "no record gave a gradient, and the model is what it was: records on which a model fails, or whose"
                " gradient is not finite, add zero. Look for that in the model, its loss and the scale of the features"
            )
        self.schedule_, self.noise_multiplier_ = schedule, schedule.noise_multiplier
        self.expected_records_ = float(state.arrays["records"])
        self.tight_epsilon_ = _tight(federation)
        return self

    def _checked(self, federation: Federation) -> tuple[_Settings, TorchProgram]:
        """Return the checked arguments and the program, refusing what cannot be trained here."""
        settings = _Settings.of(self)
        if isinstance(federation, Federation):
            check_budget_for(federation, settings.sampling.rate, settings.noise_multiplier)
        return settings, self._program(federation, per_sample=True)[1]

    def _schedule(
        self, federation: Federation, settings: _Settings, query: GradientSum, rounds: int, *, records: float | None
    ) -> Schedule:
        """Return the schedule; where the number of records is None, there is room for counting them."""
        reserved = self._lookers_on().budget_share(rounds) + (COUNT_SHARE if records is None else 0.0)
        return schedule_of(
            federation,
            query,
            rounds=rounds,
            sampling=settings.sampling,
            noise_multiplier=settings.noise_multiplier,
            share=settings.share,
            reserved=reserved,
            divisor=None if records is None else settings.sampling.rate * records,
        )


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
            "rounds": self.rounds,  # the tail that is averaged hangs on it
            "sampling_rate": self.sampling.rate,
            "clip": self.clip,
            "learning_rate": self.learning_rate,
            "momentum": self.momentum,
            "weight_decay": self.weight_decay,
            "averaging": self.averaging,
        }


def _one_round(state: TrainingState, query: GradientSum, schedule: Schedule, settings: _Settings) -> TrainingState:
    """Ask for the gradients at the state's parameters and return the state after a step."""
    began = time.perf_counter()
    if state.federation is None:
        raise UsageError("a state without a federation cannot be trained on")
    release = state.federation.release(
        replace(query, parameters=state.parameters),
        **schedule.payment,
        sampling=settings.sampling,
        purpose=f"gradients of round {state.round + 1}",
        rounds=settings.rounds - state.round,
    )
    return _stepped(state, release, settings, view=schedule.view, began=began)


def _stepped(
    state: TrainingState, release: Release, settings: _Settings, *, view: str | None, began: float
) -> TrainingState:
    """Return the state after one step of SGD with momentum on a released sum: post-processing.

    After the last round the parameters are the mean of those of the tail, if there is one.
    """
    expected = settings.sampling.rate * float(state.arrays["records"])
    gradient = release["gradient"] / expected
    velocity = settings.momentum * state.arrays["velocity"] + gradient + settings.weight_decay * state.parameters
    parameters = state.parameters - settings.learning_rate * velocity
    arrays, done = {**state.arrays, "velocity": velocity}, state.round + 1
    tail = math.ceil(settings.averaging * settings.rounds - 1e-9)
    if tail > 0 and done > settings.rounds - tail:
        arrays["tail_sum"] = state.arrays.get("tail_sum", 0.0) + parameters
        if done == settings.rounds:
            parameters = arrays["tail_sum"] / tail
    row: HistoryRow = {
        "round": done,
        "clients": release.divisor,
        "lost": len(release.lost),
        "bytes_up": release.bytes_up,
        "gradient_norm": float(np.linalg.norm(gradient)),
        "noise_std": release.noise_std["gradient"] / expected,
        "epsilon": None if view is None else release.epsilon.get(view),
        "seconds": time.perf_counter() - began,
    }
    return replace(
        state,
        round=done,
        parameters=parameters,
        arrays=arrays,
        history=(*state.history, row),
        releases=(release,),  # each is as long as the model: the last one will do
    )


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


def _fraction(name: str, value: object, *, most: float) -> float:
    """Return `value` as a float from 0 to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.floating) or not 0.0 <= value <= most:
        raise UsageError(f"{name} is {value!r}, expected a number from 0 to {most:g}")
    return float(value)
