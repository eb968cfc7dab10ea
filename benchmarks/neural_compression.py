"""Bytes up against accuracy: shorter model updates under masks, without noise and under client-level privacy.

    python benchmarks/neural_compression.py --seeds 5 --json out.json
    python benchmarks/neural_compression.py --private --seeds 5

Digits at silos of different label mixtures (Dirichlet 0.5), federated averaging, a fifth held out, median of the seeds.
Without a budget: a network of 4810 parameters at 20 silos; updates travel whole, in 16 bits a value, as random
coordinates, as low-rank sketches, with and without memory at the clients. With `--private`: softmax regression at 150
clients, epsilon 8 at delta 1e-5 for whole clients, few bits a value by the coarse grid and the Hadamard rotation.

Accuracies come from the trusted mode (the same integers, no masks); bytes from rounds of secure aggregation.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privfed import Budget, LocalFederation
from privfed.datasets import Dataset, load_sklearn, partition_dirichlet
from privfed.learners.neural import Compression, FederatedAveraging

MEASURED_ROUNDS = 3  # the first opens an epoch, and sends keys as well


@dataclass(frozen=True)
class Choice:
    """How updates travel."""

    name: str
    bits: int | None = None
    compression: Compression | None = None


@dataclass(frozen=True)
class Line:
    """One choice over all seeds."""

    name: str
    coordinates: int
    bytes_up: float
    accuracies: list[float]
    seconds: float


EXACT = (
    Choice("whole"),
    Choice("16 bits", 16),
    *(Choice(f"random {keep:.0%}", 16, Compression(keep=keep)) for keep in (0.25, 0.1, 0.03)),
    *(Choice(f"rank {rank}", 16, Compression(rank=rank)) for rank in (16, 8, 4)),
    Choice("rank 8, random 50%", 16, Compression(rank=8, keep=0.5)),
    Choice("random 10%, memory", 16, Compression(keep=0.1, error_feedback=True)),
    Choice("rank 8, memory", 16, Compression(rank=8, error_feedback=True)),
    Choice("last layer alone", 16, Compression(parameters=("2.*",))),
)
PRIVATE = (
    Choice("whole"),
    *(Choice(f"{bits} bits", bits) for bits in (16, 12, 11)),
    Choice("12 bits, random 50%", 12, Compression(keep=0.5)),
    Choice("12 bits, random 25%", 12, Compression(keep=0.25)),
    Choice("12 bits, rank 4", 12, Compression(rank=4)),
)


@dataclass(frozen=True)
class Task:
    """What is trained."""

    choices: tuple[Choice, ...]
    clients: int
    least: int
    rounds: int
    hidden: bool
    epsilon: float | None
    settings: dict[str, Any]

    def network(self, seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        if not self.hidden:
            return torch.nn.Linear(64, 10)
        return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))

    def fit(self, choice: Choice, train: Dataset, seed: int, *, mode: Any, rounds: int) -> FederatedAveraging:
        split = partition_dirichlet(train.labels, self.clients, alpha=0.5, min_records=self.least, random_state=seed)
        budget = (
            None if self.epsilon is None else Budget(self.epsilon, 1e-5, unit="client", accounting="renyi")
        )  # few bits carry Skellam noise
        with LocalFederation(
            split.clients(train), mode=mode, bits=choice.bits, budget=budget, max_records=2048
        ) as federation:
            return FederatedAveraging(
                self.network(seed), rounds=rounds, weighting="uniform", compression=choice.compression,
                random_state=seed, **self.settings,
            ).fit(federation)  # fmt: skip


def task_of(private: bool, rounds: int | None) -> Task:
    if private:
        settings = {"learning_rate": 0.3, "local_epochs": 2, "batch_size": 8, "clip": 0.5}
        return Task(PRIVATE, 150, 3, rounds or 15, False, 8.0, settings)
    settings = {"learning_rate": 0.2, "local_epochs": 2, "batch_size": 16, "clip": 2.0}
    return Task(EXACT, 20, 5, rounds or 40, True, None, settings)


def measure(task: Task, choice: Choice, splits: list[tuple[Dataset, Dataset]]) -> Line:
    started, accuracies = time.process_time(), []
    for seed, (train, test) in enumerate(splits):
        learner = task.fit(choice, train, seed, mode="trusted", rounds=task.rounds)
        accuracies.append(float(np.mean(learner.predict(test.X) == test.labels)))
    seconds = (time.process_time() - started) / len(splits)
    secure = task.fit(choice, splits[0][0], 0, mode="secure", rounds=MEASURED_ROUNDS)
    sent = statistics.median(release.bytes_up for release in secure.releases_) / task.clients
    layout = tuple((name, tuple(value.shape)) for name, value in task.network(0).named_parameters())
    coordinates = (choice.compression or Compression()).over(layout).compressed_length
    return Line(choice.name, coordinates, sent, accuracies, seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--private", action="store_true", help="client-level privacy, few bits")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)

    task, digits = task_of(options.private, options.rounds), load_sklearn("digits").scaled()
    splits = [digits.split(held_out=0.2, random_state=seed) for seed in range(options.seeds)]
    lines: list[Line] = []
    print(f"{task.clients} clients, {task.rounds} rounds, epsilon {task.epsilon or 'none'}, {options.seeds} seeds")
    print(
        f"{'updates':22s} {'numbers':>8s} {'bytes up':>9s} {'saved':>6s} {'accuracy':>9s} {'worst':>6s} {'CPU s':>6s}"
    )
    for choice in task.choices:
        line = measure(task, choice, splits)
        lines.append(line)
        print(
            f"{line.name:22s} {line.coordinates:8d} {line.bytes_up:9.0f} {lines[0].bytes_up / line.bytes_up:5.1f}x"
            f" {statistics.median(line.accuracies):9.3f} {min(line.accuracies):6.3f} {line.seconds:6.1f}",
            flush=True,
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
