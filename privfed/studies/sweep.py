"""Differential privacy against utility: one learner over a grid of budgets, modes and seeds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from privfed.datasets import Dataset
from privfed.datasets.dataset import split_rows
from privfed.demo.data import dirichlet_silos, load_data
from privfed.engines import LocalFederation
from privfed.errors import UsageError
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType
from privfed.studies.tasks import LEARNERS, Learner, Setting
from privfed_accounting import Budget

__all__ = ["NOISE", "Mode", "Outcome", "Summary", "Sweep", "SweepOptions", "run_sweep"]

Mode = Literal["trusted", "secure", "local", "central"]
NOISE: dict[str, str] = {
    "trusted": "distributed noise",
    "secure": "distributed noise, under secure aggregation",
    "local": "local noise, enough at each client",
    "central": "central noise, by a trusted server",
}
NOT_PRIVATE = "no noise"
ALPHA = 0.5  # of the Dirichlet that makes silos differ
HELD_OUT = 0.2
MAX_RECORDS = 100_000
MAX_RUNS = 10_000


@dataclass(frozen=True)
class SweepOptions:
    """What to sweep over.

    Attributes:
        data: an `.npz` or `.csv` file, or None for scikit-learn's digits.
        learner: "mixture" or "mean".
        epsilons: budgets, record unit, each > 0.
        modes: "trusted" (the integers of secure aggregation, formed in the clear: as private and faster), "secure",
            "local" and "central".
        seeds: runs per budget and mode, >= 1.
        delta: of every budget, in (0, 1).
        clients: silos, >= 3.
        components, covariance_type: of the mixture.
        project: principal axes to keep before the mixture; 0 keeps the columns; None keeps 8 where there are more.
        bounds: public `(low, high)` of every value; None takes the digits' own, or spends a part on a range query.
        seed: first seed, of splits, silos and learners; never of the noise.
    """

    data: Path | None = None
    learner: Learner = "mixture"
    epsilons: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0)
    modes: tuple[Mode, ...] = ("trusted",)
    seeds: int = 3
    delta: float = 1e-5
    clients: int = 20
    components: int = 10
    covariance_type: CovarianceType = "tied"
    project: int | None = None
    bounds: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.learner not in LEARNERS:
            raise UsageError(f"learner is {self.learner!r}, expected one of {', '.join(LEARNERS)}")
        if not self.epsilons or len(set(self.epsilons)) < len(self.epsilons):
            raise UsageError(f"epsilons are {self.epsilons}, expected distinct numbers above 0: name at least one")
        for epsilon in self.epsilons:
            Budget(epsilon=epsilon, delta=self.delta)  # refuses what is no budget
        if not self.modes or not set(self.modes) <= set(get_args(Mode)) or len(set(self.modes)) < len(self.modes):
            raise UsageError(f"modes are {', '.join(self.modes)}, expected some of {', '.join(get_args(Mode))}")
        if self.covariance_type not in get_args(CovarianceType):
            expected = ", ".join(get_args(CovarianceType))
            raise UsageError(f"covariance_type is {self.covariance_type!r}, expected one of {expected}")
        for name, least in (("seeds", 1), ("clients", 3), ("components", 1), ("seed", 0)):
            if getattr(self, name) < least:
                raise UsageError(f"{name} is {getattr(self, name)}, expected at least {least}")
        if self.project is not None and self.project < 0:
            raise UsageError(f"project is {self.project}, expected 0 to keep the columns, or a number of axes")
        if self.bounds is not None and not (-math.inf < self.bounds[0] < self.bounds[1] < math.inf):
            raise UsageError(f"bounds are {self.bounds}, expected a lower and a larger upper number")
        if self.runs > MAX_RUNS:
            raise UsageError(f"{self.runs} runs are too many, expected at most {MAX_RUNS}: lower seeds")

    @property
    def runs(self) -> int:
        """Number of trainings: each budget in each mode, and one without noise, for every seed."""
        return self.seeds * (len(self.epsilons) * len(self.modes) + 1)


@dataclass(frozen=True)
class Outcome:
    """One training.

    Attributes:
        mode: as in `NOISE`, or "no noise".
        epsilon: the budget; None without noise.
        seed: of the split, the silos and the learner.
        score: of the federated model on held-out rows; larger is better.
        pooled: the same for training on all rows in one place, without privacy.
        epsilons: view -> epsilon that was spent.
        error: why the training was refused, or "": an outcome like any other at small budgets.
    """

    mode: str
    epsilon: float | None
    seed: int
    score: float | None
    pooled: float | None
    epsilons: dict[str, float] = field(default_factory=dict)
    error: str = ""

    @property
    def gap(self) -> float | None:
        """Score less that of pooled training."""
        return None if self.score is None or self.pooled is None else self.score - self.pooled


@dataclass(frozen=True)
class Summary:
    """All seeds of one mode and budget: gaps to pooled training, and how many trainings were refused."""

    mode: str
    epsilon: float | None
    median: float
    worst: float
    best: float
    runs: int
    failed: int


@dataclass(frozen=True)
class Sweep:
    """What a sweep found."""

    options: SweepOptions
    data: str
    metric: str
    unit: str
    outcomes: tuple[Outcome, ...]

    def summaries(self) -> list[Summary]:
        """Return one line per mode and budget, in the order of the sweep; no noise comes last."""
        groups: dict[tuple[str, float | None], list[Outcome]] = {}
        for outcome in self.outcomes:
            groups.setdefault((outcome.mode, outcome.epsilon), []).append(outcome)
        return [_summary(mode, epsilon, group) for (mode, epsilon), group in groups.items()]

    def refusals(self) -> list[str]:
        """Return why trainings were refused, each reason once."""
        return list(dict.fromkeys(outcome.error for outcome in self.outcomes if outcome.error))

    def as_dict(self) -> dict[str, Any]:
        """Return options, outcomes and summaries as JSON values."""
        options = asdict(self.options) | {"data": None if self.options.data is None else str(self.options.data)}
        return {
            "format": "privfed-sweep",
            "version": 1,
            "data": self.data,
            "metric": self.metric,
            "metric_unit": self.unit,
            "unit": "record",
            "relation": "add/remove",
            "options": options,
            "summaries": [_finite(asdict(summary)) for summary in self.summaries()],
            "outcomes": [asdict(outcome) | {"gap": outcome.gap} for outcome in self.outcomes],
        }


def _summary(mode: str, epsilon: float | None, outcomes: list[Outcome]) -> Summary:
    gaps = [outcome.gap for outcome in outcomes if outcome.gap is not None]
    failed = len(outcomes) - len(gaps)
    if not gaps:
        return Summary(mode, epsilon, math.nan, math.nan, math.nan, len(outcomes), failed)
    return Summary(mode, epsilon, statistics.median(gaps), min(gaps), max(gaps), len(outcomes), failed)


def _finite(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in fields.items()}


def run_sweep(options: SweepOptions, *, progress: Callable[[int, int, str], object] | None = None) -> Sweep:
    """Train at every budget, mode and seed; each run has a federation and a budget of its own.

    The table tells what budgets would cost on data like these. It is computed from the rows themselves, without noise:
    on private data its numbers are for whoever may see the rows.

    Args:
        options: what to sweep over.
        progress: called before each run with its number, the number of runs and what it is.

    Raises:
        UsageError: the data or a choice cannot be used.
    """
    data = load_data(options.data)
    outcomes = []
    for number, (mode, epsilon, seed) in enumerate(_grid(options)):
        if progress is not None:
            progress(number, options.runs, f"{mode}, epsilon {'none' if epsilon is None else f'{epsilon:g}'}")
        outcomes.append(_train(options, data, mode, epsilon, seed))
    task = LEARNERS[options.learner]
    return Sweep(options, data.name, task.metric, task.unit, tuple(outcomes))


def _grid(options: SweepOptions) -> Iterator[tuple[str, float | None, int]]:
    seeds = range(options.seed, options.seed + options.seeds)
    for mode in options.modes:
        for epsilon in options.epsilons:
            yield from ((mode, epsilon, seed) for seed in seeds)
    yield from ((NOT_PRIVATE, None, seed) for seed in seeds)


def _train(options: SweepOptions, data: Dataset, mode: str, epsilon: float | None, seed: int) -> Outcome:
    rng = np.random.default_rng(seed)
    train, test = split_rows(len(data), held_out=HELD_OUT, random_state=rng)
    silos = [data.X[rows] for rows in dirichlet_silos(data.y, train, options.clients, alpha=ALPHA, rng=rng)]
    setting = Setting(
        components=options.components,
        covariance_type=options.covariance_type,
        project=_axes(options, data.X),
        bounds=options.bounds or data.bounds,
        seed=seed,
    )
    # A trusted server sees everything: what it adds protects from the readers of its releases.
    view = "released" if mode == "central" else "server"
    budget = None if epsilon is None else Budget(epsilon=epsilon, delta=options.delta, unit="record", view=view)
    engine: Any = "trusted" if epsilon is None else mode
    with LocalFederation(silos, budget=budget, mode=engine, max_records=MAX_RECORDS) as federation:
        try:
            score, pooled = LEARNERS[options.learner].run(federation, silos, data.X[test], setting)
        except UsageError as error:
            return Outcome(mode, epsilon, seed, None, None, error=str(error))
        return Outcome(mode, epsilon, seed, score, pooled, epsilons=_spent(federation))


def _axes(options: SweepOptions, rows: FloatArray) -> int:
    if options.project is not None:
        return options.project
    return 8 if rows.shape[1] > 8 else 0


def _spent(federation: LocalFederation) -> dict[str, float]:
    if federation.budget is None:
        return {}
    views = ("released", "server", "client", "unmasked")
    return {view: value for view in views if math.isfinite(value := federation.ledger.epsilon(view))}
