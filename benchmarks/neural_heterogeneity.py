"""Federated averaging and its relatives on clients whose labels differ: one table, each client tested on its own rows.

    python benchmarks/neural_heterogeneity.py                              # digits, 5 seeds: a few minutes
    python benchmarks/neural_heterogeneity.py --seeds 1 --rounds 10        # a look
    python benchmarks/neural_heterogeneity.py --data mnist70k.npz --records 20000 --alpha 0.1
    python benchmarks/neural_heterogeneity.py --json

20 clients share the records out by a Dirichlet over labels; each holds out a fifth of its own to be tested on. All
methods have the same network, rounds, local epochs and batches, and start from the same weights; what is their own is
in METHODS. Sums carry no noise here, they are those of secure aggregation without masks. "pooled" trains on all records
in one place, for as many epochs. The rows below the line start from the federated model and train at home, each client
for itself: nothing leaves it. Accuracies are of all held-out records together, of the mean client and of the worst
tenth of clients; medians over seeds, the range beside the first.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from privfed import LocalFederation
from privfed.datasets import load_npz, load_sklearn, partition_dirichlet
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.averaging.local import LocalTraining, proximal_term, train
from privfed.learners.neural.program import TorchProgram

CLIENTS, EPOCHS, BATCH, RATE = 20, 5, 32, 0.1
METHODS: Mapping[str, Mapping[str, Any]] = {
    "FedAvg": {},
    "FedAvg, momentum .9 at the server": {"server_momentum": 0.9, "server_learning_rate": 0.3},
    "FedProx, mu .1": {"proximal": 0.1},
    "FedNova": {"normalisation": "fednova"},
    "SCAFFOLD": {"control_variates": True},
    "FedAdam": {"server_optimizer": "adam", "server_learning_rate": 0.02},
}
PERSONAL: Mapping[str, float | None] = {
    "personal, prox 1 to the global model": 1.0,
    "personal, prox .1 to the global model": 0.1,
    "personal, no prox": 0.0,
}
HOME_EPOCHS = 20
Pair = tuple[np.ndarray, np.ndarray]


def network(shape: tuple[int, ...], seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(shape[0], shape[1]), torch.nn.ReLU(), torch.nn.Linear(shape[1], 10))


def data_of(options: argparse.Namespace, seed: int) -> tuple[dict[str, Pair], dict[str, Pair]]:
    """Return what every client trains on, and what it is tested on."""
    found = load_sklearn("digits") if options.data is None else load_npz(options.data, bounds=(0.0, 255.0))
    if options.data is not None and options.records < len(found):
        found = found.subset(np.sort(np.random.default_rng(0).permutation(len(found))[: options.records]))
    found = found.scaled()
    parts = partition_dirichlet(found.labels, CLIENTS, alpha=options.alpha, min_records=10, random_state=seed)
    return parts.split_clients(found, held_out=0.2, random_state=seed)


def scores(right: list[np.ndarray]) -> tuple[float, float, float]:
    """Return the accuracy on all records, of the mean client, and of the worst tenth."""
    each = np.sort([100.0 * one.mean() for one in right])
    return 100.0 * float(np.concatenate(right).mean()), float(each.mean()), float(each[: max(1, CLIENTS // 10)].mean())


def one_seed(options: argparse.Namespace, seed: int) -> dict[str, tuple[float, float, float, float]]:
    """Return for every method its three scores and seconds."""
    training, test = data_of(options, seed)
    shape = (next(iter(training.values()))[0].shape[1], options.width)
    found = {}

    def note(name: str, right: list[np.ndarray], began: float) -> None:
        found[name] = (*scores(right), time.process_time() - began)

    began = time.process_time()
    program = TorchProgram(network(shape, seed), feature_shape=shape[:1])
    everybody = np.concatenate([np.column_stack(pair) for pair in training.values()])
    pooled = program.parameters()
    pooled = (
        pooled + train(program, pooled, everybody, LocalTraining(RATE, options.rounds * EPOCHS, BATCH), seed=seed).delta
    )
    note("pooled", [correct(program, pooled, pair) for pair in test.values()], began)
    learners = []
    for name, settings in METHODS.items():
        began = time.process_time()
        learner = FederatedAveraging(
            network(shape, seed),
            rounds=options.rounds,
            local_epochs=EPOCHS,
            batch_size=BATCH,
            learning_rate=RATE,
            random_state=seed,
            **settings,
        ).fit(LocalFederation(training, mode="trusted"))
        note(name, [np.asarray(learner.predict(X) == y) for X, y in test.values()], began)
        learners.append(learner)
    best = learners[0].parameters_  # of plain federated averaging
    for name, strength in PERSONAL.items():
        began = time.process_time()
        right = []
        for client, pair in training.items():
            term = [proximal_term(program, best, strength)] if strength else []
            home = LocalTraining(RATE, HOME_EPOCHS, BATCH)
            moved = train(program, best, np.column_stack(pair), home, seed=seed, objectives=term)
            right.append(correct(program, best + moved.delta, test[client]))
        note(name, right, began)
    return found


def correct(program: TorchProgram, parameters: np.ndarray, pair: Pair) -> np.ndarray:
    program.load(parameters)
    return np.asarray(program.predict(pair[0].astype(np.float64)).argmax(axis=1) == pair[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="an .npz of images X and labels y; scikit-learn's digits if left out")
    parser.add_argument("--records", type=int, default=20_000, help="of --data, drawn at random")
    parser.add_argument("--alpha", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--width", type=int, default=64, help="hidden units")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    runs = [one_seed(options, seed) for seed in range(options.seeds)]
    table = {name: [run[name] for run in runs] for name in runs[0]}
    if options.json:
        print(json.dumps({"options": vars(options), "rows": table}))
        return
    what = "digits" if options.data is None else f"{options.records} records of {options.data}"
    print(f"{what}, {CLIENTS} clients by Dirichlet({options.alpha:g}), {options.rounds} rounds of {EPOCHS} epochs")
    print(f"{'':40}{'all records':>18}{'mean client':>13}{'worst tenth':>13}{'CPU s':>8}")
    for name, rows in table.items():
        if name == next(iter(PERSONAL)):
            print("-" * 92)
        whole, mean, worst, seconds = (list(column) for column in zip(*rows, strict=True))
        spread = f"{statistics.median(whole):.1f} ({min(whole):.1f}-{max(whole):.1f})"
        print(
            f"{name:40}{spread:>18}{statistics.median(mean):13.1f}{statistics.median(worst):13.1f}"
            f"{statistics.median(seconds):8.1f}"
        )


if __name__ == "__main__":
    main()
