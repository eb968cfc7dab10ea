"""MNIST over 20 silos: fixed scattering features, a linear head, full batches, records protected.

    python benchmarks/mnist_scattering.py --data mnist70k.npz --epsilons 0.5 1 3 --json out.json

The data are 70 000 images `X` of 784 pixels and labels `y`, train and test together. Where the file keeps LeCun's order
(its last 10 000 labels have his test set's counts) the original split is used, else a fixed random one of 60 000 and
10 000. The model is `scattering` and a linear layer: 3969 features, normalised by groups so that every image's have
length 63; gradients are clipped by their length |p - y| |(x, 1)| without being formed. Silos are non-IID (labels by a
Dirichlet of 0.5).

Each epsilon is a federation of its own with a new budget; features are computed once for each. Mode "trusted"
sums the same integers as secure aggregation; `--mode secure` masks them.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from privfed import Budget, LocalFederation
from privfed.datasets import partition_dirichlet
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.state import TrainingState
from privfed.learners.neural.wavelets import scattering

DELTA, SILOS, TRAIN = 1e-5, 20, 60_000
ORIGINAL_TEST = (980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009)  # labels of LeCun's test set


def load(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, str]:
    """Return training and test images in [0, 1], their labels, and how they were split."""
    if not path.is_file():
        sys.exit(f"there is no file {path}: give --data the path of an .npz with X (70000, 784) and y (70000,)")
    with np.load(path) as file:
        X, y = file["X"].reshape(-1, 784) / np.float32(255), file["y"].astype(np.int64)
    split = "original"
    if tuple(np.bincount(y[TRAIN:], minlength=10)) != ORIGINAL_TEST:
        split, order = "random, seed 0", np.random.default_rng(0).permutation(len(X))
        X, y = X[order], y[order]
    return X[:TRAIN], y[:TRAIN], X[TRAIN:], y[TRAIN:], split


def train(
    clients: dict[str, tuple[np.ndarray, np.ndarray]],
    epsilon: float,
    seed: int,
    given: argparse.Namespace,
    test: np.ndarray,
    y_test: np.ndarray,
) -> dict[str, float]:
    """Return the accuracy at one epsilon, and what it took, features of the training records included."""
    started = time.perf_counter(), time.process_time()
    features = test.shape[1]
    head = nn.Linear(features, 10)
    with torch.no_grad():
        head.weight.zero_()
        head.bias.zero_()
    length = float(np.sqrt(features))
    budget = Budget(epsilon, DELTA)
    federation = LocalFederation(clients, budget=budget, mode=given.mode, max_records=20_000, noise_seed=seed)
    learner = FederatedSGD(
        nn.Sequential(scattering((28, 28)), head),
        rounds=given.rounds,
        clip=given.clip * length,
        learning_rate=given.rate / length**2,
        momentum=0.9,
        averaging=given.averaging,
        expected_records=sum(len(y) for _, y in clients.values()),
        callbacks=_tell,
    )
    fitted = learner.fit(federation)
    weights, bias = np.split(fitted.parameters_, [10 * features])
    scores = test @ weights.reshape(10, features).T.astype(np.float32) + bias
    return {
        "epsilon": epsilon,
        "spent": fitted.epsilon_["server"],
        "seed": seed,
        "accuracy": 100.0 * float(np.mean(scores.argmax(axis=1) == y_test)),
        "seconds": time.perf_counter() - started[0],
        "cpu": time.process_time() - started[1],
    }


def _tell(state: TrainingState) -> None:
    if state.round % 10 == 0:
        print(f"  round {state.round}: {state.history[-1]['seconds']:.1f} s", flush=True)


def main() -> None:
    """Train at each epsilon and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--epsilons", type=float, nargs="*", default=[1.0, 3.0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--clip", type=float, default=0.0016, help="of a gradient, in units of the features' length")
    parser.add_argument("--rate", type=float, default=100_000.0, help="learning rate, for features of length 1")
    parser.add_argument("--averaging", type=float, default=0.5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--mode", default="trusted", choices=["trusted", "secure"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--records", type=int, default=TRAIN, help="use fewer training records")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    X, y, X_test, y_test, split = load(given.data)
    X, y = X[: given.records], y[: given.records]
    silos = partition_dirichlet(y, SILOS, alpha=0.5, random_state=0)
    clients = {name: (X[rows].reshape(-1, 28, 28), y[rows]) for name, rows in silos.indices.items()}
    sizes = silos.sizes
    print(f"split: {split}; {len(X)} records at {SILOS} silos of {sizes.min()} to {sizes.max()}", flush=True)

    began = time.perf_counter(), time.process_time()
    test = _features(scattering((28, 28)), X_test)
    lines = []
    for epsilon in given.epsilons:
        for seed in given.seeds:
            lines.append(train(clients, epsilon, seed, given, test, y_test))
            print(
                "epsilon {epsilon:g} (spent {spent:.4f}), seed {seed}: {accuracy:.2f} % in {seconds:.0f} s"
                " ({cpu:.0f} s of CPU, features included)".format(**lines[-1]),
                flush=True,
            )
    total, cpu = time.perf_counter() - began[0], time.process_time() - began[1]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"all: {total:.0f} s, {cpu:.0f} s of CPU, {memory:.1f} GiB at most")
    if given.json:
        settings = {name: str(value) for name, value in vars(given).items()}
        given.json.write_text(json.dumps({"settings": settings, "split": split, "lines": lines}, indent=2))


def _features(module: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        parts = [
            module(torch.tensor(images[start : start + 256].reshape(-1, 28, 28))).numpy()
            for start in range(0, len(images), 256)
        ]
    return np.concatenate(parts)


if __name__ == "__main__":
    main()
