"""A convolutional network on digits at 20 silos that differ: what a privacy budget costs.

Every silo holds its own mixture of digits. The network is trained with DP-SGD at record level: the noise of one
curator, in twentieths, under secure aggregation. Many runs are needed, so the sums are formed in the clear
(`mode="trusted"`): the same integers and the same noise, and every ledger entry says so. Federated averaging without
noise stands beside it. Every parameter gets noise: at an epsilon of 1 or less the linear model of
`local_against_distributed.py`, with a third of the parameters and centred images, does better.

    python examples/digits_cnn.py --figure digits_cnn.png
    python examples/digits_cnn.py --epsilons 4 --secure
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import privfed
from privfed.datasets import Dataset, Partition, load_sklearn, partition_dirichlet
from privfed.learners.neural import FederatedAveraging, FederatedSGD

DELTA = 1e-5
WIDTH = 8  # channels: every parameter gets noise, so few of them


@dataclass(frozen=True)
class Schedule:
    """How long and how boldly to train: the more noise, the shorter."""

    rounds: int
    learning_rate: float
    momentum: float


SCHEDULES = (  # (least epsilon, schedule), chosen once by a search over few values
    (3.0, Schedule(100, 2.0, 0.9)),
    (1.5, Schedule(60, 2.0, 0.9)),
    (0.75, Schedule(60, 2.0, 0.8)),
    (0.0, Schedule(30, 2.0, 0.7)),
)


def network(seed: int) -> torch.nn.Module:
    """A small convolutional network; no batch norm, which would mix the records of a batch."""
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, WIDTH, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(WIDTH, 2 * WIDTH, 3, padding=1),
        torch.nn.Tanh(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * WIDTH, 10),
    )


def silos_of(train: Dataset, seed: int) -> tuple[Partition, dict[str, tuple[np.ndarray, np.ndarray]]]:
    """Share the training images out among 20 silos of different mixtures of digits."""
    partition = partition_dirichlet(train.labels, 20, alpha=0.5, min_records=5, random_state=seed)
    images = train.images()
    return partition, {name: (images[rows], train.labels[rows]) for name, rows in partition.indices.items()}


def private(epsilon: float | None, train: Dataset, test: Dataset, seed: int, options: argparse.Namespace) -> float:
    """Return the held-out accuracy of one private training; without noise where epsilon is None."""
    schedule = next(found for least, found in SCHEDULES if (epsilon or np.inf) >= least)
    budget = None if epsilon is None else privfed.Budget(epsilon=epsilon, delta=DELTA, unit="record")
    mode = "secure" if options.secure else "trusted"
    with privfed.LocalFederation(silos_of(train, seed)[1], budget=budget, mode=mode, max_records=512) as federation:
        learner = FederatedSGD(
            network(seed),
            rounds=options.rounds or schedule.rounds,
            clip=0.25,
            learning_rate=schedule.learning_rate,
            momentum=schedule.momentum,
            averaging=0.3,
            expected_records=len(train),  # how many records all silos have together is public here
        ).fit(federation)
    if options.verbose and epsilon is not None:
        views = ", ".join(f"{view} {spent:.2f}" for view, spent in learner.epsilon_.items())
        print(f"  epsilon by adversary at delta {DELTA:g}: {views}; noise {learner.noise_multiplier_:.3g}")
    return learner.score(test.images(), test.labels)


def averaged(train: Dataset, test: Dataset, seed: int, rounds: int) -> float:
    """Return the held-out accuracy of federated averaging without noise."""
    with privfed.LocalFederation(silos_of(train, seed)[1], mode="trusted") as federation:
        learner = FederatedAveraging(
            network(seed),
            rounds=rounds,
            learning_rate=0.1,
            momentum=0.9,
            local_epochs=2,
            batch_size=16,
            random_state=seed,
        ).fit(federation)
    return float(np.mean(learner.predict(test.images()) == test.labels))


def main() -> None:
    """Train at several budgets, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--rounds", type=int, help="instead of the schedules' own")
    parser.add_argument("--secure", action="store_true", help="run secure aggregation, every message of it")
    parser.add_argument("--verbose", action="store_true", help="say what each training spent")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # small budgets warn that noise dominates: the table shows it

    digits = load_sklearn("digits").scaled()
    splits = [digits.split(held_out=0.2, random_state=seed) for seed in range(options.seeds)]
    if not options.json:
        print(silos_of(splits[0][0], 0)[0].summary())
        print(f"{'training':30s} {'accuracy':>8s} {'worst':>6s}")
    scores = {}
    for epsilon in (*options.epsilons, None):
        name = "no noise" if epsilon is None else f"epsilon {epsilon:g}"
        scores[name] = [private(epsilon, *split, seed, options) for seed, split in enumerate(splits)]
        show(f"DP-SGD, {name}", scores[name], options)
    rounds = options.rounds or 40
    scores["averaging"] = [averaged(*split, seed, rounds) for seed, split in enumerate(splits)]
    show("federated averaging, no noise", scores["averaging"], options)
    if options.json:
        print(json.dumps(scores))
    if options.figure:
        draw(options.figure, silos_of(splits[0][0], 0)[0], options.epsilons, scores)


def show(name: str, scores: list[float], options: argparse.Namespace) -> None:
    if not options.json:
        print(f"{name:30s} {np.median(scores):8.3f} {min(scores):6.3f}", flush=True)


def draw(path: Path, partition: Partition, epsilons: list[float], scores: dict[str, list[float]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    partition.plot(left)
    left.set_title("20 silos, each its own mixture of digits")
    found = [scores[f"epsilon {epsilon:g}"] for epsilon in epsilons]
    right.axhline(np.median(scores["averaging"]), color="0.3", linestyle=":", label="federated averaging, no noise")
    right.axhline(np.median(scores["no noise"]), color="0.6", linestyle="--", label="DP-SGD's schedule, no noise")
    right.plot(epsilons, [np.median(runs) for runs in found], "o-", label="DP-SGD, noise in shares")
    right.fill_between(epsilons, [min(runs) for runs in found], [max(runs) for runs in found], alpha=0.2)
    right.set(
        xscale="log", xlabel=f"epsilon (record unit, delta {DELTA:g})", ylabel="held-out accuracy", ylim=(0, 1.02)
    )
    right.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    right.minorticks_off()
    right.set_title("what a budget costs a convolutional network")
    right.legend(loc="lower right")
    figure.savefig(path, dpi=130)


if __name__ == "__main__":
    main()
