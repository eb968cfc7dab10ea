"""Noise from everybody against noise from each: the same training, the same budget, and very different networks.

Twenty clinics train on scikit-learn's digits with DP-SGD at record level. With distributed noise, each clinic adds a
twentieth of the noise under secure aggregation, and the sum carries what a trusted curator would have added. With local
noise nobody needs secure aggregation, but each clinic adds enough for itself, twenty times the variance in the sum.

    python examples/local_against_distributed.py --figure local_against_distributed.png
"""

from __future__ import annotations

import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import privfed
from privfed.datasets import Dataset, load_sklearn, partition_dirichlet
from privfed.learners.neural import FederatedSGD

MODES = {"trusted": "distributed", "local": "local", "central": "central"}
# The more noise, the shorter and the calmer the training: each kind gets a schedule that suits it.
QUIET, LOUD = {"rounds": 40, "learning_rate": 30.0}, {"rounds": 10, "learning_rate": 10.0}


def shapes_alone(data: Dataset) -> Dataset:
    """Centre each image and give it length 1: a public map of single records, which leaves their shapes."""
    centred = data.X - data.X.mean(axis=1, keepdims=True)
    return replace(data, X=centred / np.linalg.norm(centred, axis=1, keepdims=True), bounds=None)


def accuracy(
    mode: str, epsilon: float | None, train: Dataset, test: Dataset, seed: int, rounds: int | None
) -> tuple[float, float]:
    """Return held-out accuracy, and the standard deviation of the noise in the mean gradient."""
    silos = partition_dirichlet(train.labels, 20, alpha=0.5, min_records=10, random_state=seed).clients(train)
    # With a trusted operator, only those who see the releases are kept out.
    view = "released" if mode == "central" else "server"
    budget = None if epsilon is None else privfed.Budget(epsilon=epsilon, delta=1e-5, unit="record", view=view)
    torch.manual_seed(seed)
    with privfed.LocalFederation(silos, budget=budget, mode=mode, max_records=512) as federation:
        training = dict(LOUD if mode == "local" else QUIET)
        training["rounds"] = rounds or training["rounds"]
        learner = FederatedSGD(
            torch.nn.Linear(64, 10), clip=0.1, momentum=0.9, averaging=0.5, expected_records=len(train), **training
        ).fit(federation)
    return learner.score(test.X, test.y), float(learner.history_[-1]["noise_std"])


def main() -> None:
    """Train in every mode at every budget, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, help="for all alike, instead of the schedules' own")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)  # small budgets warn that noise dominates: the table shows it

    digits, found = shapes_alone(load_sklearn("digits")), {}
    splits = [digits.split(random_state=seed) for seed in range(options.seeds)]
    print(
        f"{'noise':12s} {'epsilon':>7s} {'accuracy':>8s} {'worst':>6s} {'best':>6s} {'noise of a mean gradient':>24s}"
    )
    for mode, name in MODES.items():
        for epsilon in options.epsilons:
            runs = [accuracy(mode, epsilon, *split, seed, options.rounds) for seed, split in enumerate(splits)]
            found[name, epsilon] = scores = [score for score, _ in runs]
            print(
                f"{name:12s} {epsilon:7g} {np.median(scores):8.3f} {min(scores):6.3f} {max(scores):6.3f}"
                f" {runs[0][1]:24.3g}"
            )
    runs = [accuracy("trusted", None, *split, seed, options.rounds) for seed, split in enumerate(splits)]
    none = np.median([score for score, _ in runs])
    print(f"{'none':12s} {'':7s} {none:8.3f}")
    if options.figure:
        draw(options.figure, found, options.epsilons, float(none))


def draw(path: Path, found: dict[tuple[str, float], list[float]], epsilons: list[float], none: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axhline(none, color="0.5", linewidth=1, label="no noise")
    for name, style in (("central", "s--"), ("distributed", "o-"), ("local", "^-")):
        scores = [found[name, epsilon] for epsilon in epsilons]
        axis.plot(epsilons, [np.median(runs) for runs in scores], style, label=f"{name} noise", markersize=5)
        axis.fill_between(epsilons, [min(runs) for runs in scores], [max(runs) for runs in scores], alpha=0.15)
    axis.set(xscale="log", xlabel="epsilon (record unit, delta 1e-5)", ylabel="held-out accuracy", ylim=(0, 1))
    axis.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
    axis.minorticks_off()
    axis.set_title("Digits at 20 clinics: whose noise is it?")
    axis.legend(loc="lower right")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
