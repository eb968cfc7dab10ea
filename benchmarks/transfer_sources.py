"""Does the ranking find the right source? Seven small networks, one target task, with and without a budget.

The target task is to tell the digits 5 to 9 apart, held by 20 silos. The sources were trained on other writers' digits:
the same task, other digits, parity, turned images, shuffled labels, or not at all. The truth is the accuracy after
fine-tuning each of them on a few hundred rows of the target, averaged over seeds. The table shows how the scores order
the sources (Kendall's and Spearman's tau against the truth) and how often the best comes first.

    python benchmarks/transfer_sources.py                              scikit-learn's digits: few rows, for a quick look
    python benchmarks/transfer_sources.py --data mnist70k.npz          MNIST, 14 x 14: the figures in the manual

The file holds arrays `X` (or `x`) of images and `y` of labels.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from scipy.special import softmax
from scipy.stats import kendalltau, spearmanr

import privfed
from privfed.transfer import Candidate, rank_sources

METHODS = ("logme", "h_score", "h_score_shrunk", "leep", "nce")
TARGET = (5, 6, 7, 8, 9)
HIDDEN, WIDTH = 64, 32
Arrays = tuple[np.ndarray, np.ndarray]


def load(path: Path | None) -> tuple[Arrays, int]:
    """Return images in [0, 1], flat, with labels, in a random order, and their side."""
    if path is None:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        X, side = X / 16.0, 8
    else:
        if not path.exists():
            raise SystemExit(f"{path} is not there: give the MNIST arrays with --data, or leave it out for digits")
        with np.load(path) as file:
            names = {name.lower(): name for name in file.files}
            X, y = file[names["x"]], file[names["y"]]
        X = X.reshape(-1, 28, 28)[:40000].astype(np.float64) / max(float(X.max()), 1.0)
        y = y[:40000]
        X, side = X.reshape(-1, 14, 2, 14, 2).mean(axis=(2, 4)).reshape(len(X), -1), 14
    order = np.random.default_rng(0).permutation(len(X))
    return (X[order].astype(np.float64), y[order].astype(int)), side


def network(inputs: int, labels: int, seed: int) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        torch.nn.Linear(inputs, HIDDEN),
        torch.nn.ReLU(),
        torch.nn.Linear(HIDDEN, WIDTH),
        torch.nn.ReLU(),
        torch.nn.Linear(WIDTH, labels),
    )


def train(model: torch.nn.Module, X: np.ndarray, y: np.ndarray, *, steps: int, rate: float, seed: int) -> None:
    inputs, targets = torch.tensor(X, dtype=torch.float32), torch.tensor(y)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    draw = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(inputs), (64,), generator=draw)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs[batch]), targets[batch]).backward()
        optimizer.step()


def sources(X: np.ndarray, y: np.ndarray, side: int, steps: int, seed: int) -> dict[str, torch.nn.Sequential]:
    """Return the trained candidates."""
    rng = np.random.default_rng(seed)
    turned = np.rot90(X.reshape(-1, side, side), axes=(1, 2)).reshape(len(X), -1).copy()
    late, early = y >= 5, y < 5
    tasks = {
        "5 to 9": (X[late], y[late] - 5),
        "0 to 4": (X[early], y[early]),
        "parity": (X, y % 2),
        "turned": (turned, y),
        "8 or not": (X, (y == 8).astype(int)),
        "shuffled": (X, rng.permutation(y)),
    }
    models = {}
    for name, (inputs, labels) in tasks.items():
        models[name] = network(X.shape[1], int(labels.max()) + 1, seed)
        train(models[name], inputs, labels, steps=steps, rate=0.05, seed=seed)
    models["random"] = network(X.shape[1], 10, seed)
    return models


def truth(model: torch.nn.Sequential, train_set: Arrays, test: Arrays, *, rows: int, seeds: int) -> float:
    """Return the mean accuracy after fine-tuning with a fresh head on a few rows."""
    accuracies = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        few = rng.permutation(len(train_set[0]))[:rows]
        tuned = network(train_set[0].shape[1], len(TARGET), seed)
        for k in (0, 2):
            tuned[k].load_state_dict(model[k].state_dict())
        train(tuned, train_set[0][few], train_set[1][few], steps=60, rate=0.02, seed=seed)
        with torch.no_grad():
            found = tuned(torch.tensor(test[0], dtype=torch.float32)).argmax(dim=1).numpy()
        accuracies.append(float((found == test[1]).mean()))
    return float(np.mean(accuracies))


def candidate(name: str, model: torch.nn.Sequential) -> Candidate:
    """Return the network as a function of arrays: many runs, and no need of torch's overhead for each row."""
    weights = [
        (layer.weight.detach().double().numpy().T.copy(), layer.bias.detach().double().numpy())
        for layer in (model[0], model[2], model[4])
    ]

    def features(inputs: np.ndarray) -> np.ndarray:
        for matrix, bias in weights[:2]:
            inputs = np.maximum(inputs @ matrix + bias, 0.0)
        return inputs

    def labels(inputs: np.ndarray) -> np.ndarray:
        return softmax(features(inputs) @ weights[2][0] + weights[2][1], axis=1)

    return Candidate(name, features, source_head=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="npz file of MNIST")
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, default=5, help="noise draws at each budget")
    parser.add_argument("--rows", type=int, default=10000, help="rows of the target task, at most")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--out", type=Path, help="figure of the ranking at the last budget")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)

    (X, y), side = load(arguments.data)
    half = len(X) // 2
    few, steps = (100, 300) if arguments.data is None else (200, 1500)
    models = sources(X[:half], y[:half], side, steps, seed=0)
    target = np.isin(y[half:], TARGET)
    inputs, classes = X[half:][target], y[half:][target] - TARGET[0]
    test = inputs[: len(inputs) // 4], classes[: len(inputs) // 4]
    inputs, classes = inputs[len(inputs) // 4 :][: arguments.rows], classes[len(inputs) // 4 :][: arguments.rows]
    accuracy = {name: truth(model, (inputs, classes), test, rows=few, seeds=10) for name, model in models.items()}
    right = max(accuracy, key=lambda name: accuracy[name])
    candidates = [candidate(name, model) for name, model in models.items()]
    silos = [
        np.column_stack(parts) for parts in zip(np.array_split(inputs, 20), np.array_split(classes, 20), strict=True)
    ]
    started = time.perf_counter()

    def run(epsilon: float | None, seed: int) -> privfed.transfer.SourceRanking:
        budget = None if epsilon is None else privfed.Budget(epsilon=epsilon, delta=1e-5)
        most = max(len(silo) for silo in silos)
        with (
            privfed.LocalFederation(silos, budget=budget, mode="trusted", max_records=most) as federation,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")
            return rank_sources(
                federation, candidates, n_classes=len(TARGET), methods=arguments.methods, share=1.0, bootstrap=20,
                random_state=seed,
            )  # fmt: skip

    table: dict[str, dict[str, dict[str, float]]] = {}
    shown = None
    for epsilon in (None, *arguments.epsilons):
        runs = [run(epsilon, seed) for seed in range(1 if epsilon is None else arguments.seeds)]
        shown = runs[-1]
        table["none" if epsilon is None else f"{epsilon:g}"] = {
            method: {
                "kendall": float(np.median([tau(one, method, accuracy, kendalltau) for one in runs])),
                "spearman": float(np.median([tau(one, method, accuracy, spearmanr) for one in runs])),
                "right_first": float(np.mean([one.order(method)[0] == right for one in runs])),
            }
            for method in arguments.methods
        }
    seconds = time.perf_counter() - started
    if arguments.out is not None and shown is not None:
        shown.plot().savefig(arguments.out, dpi=120)
    if arguments.json:
        print(json.dumps({"rows": len(inputs), "accuracy": accuracy, "table": table, "seconds": seconds}))
        return
    print(f"{len(inputs)} rows in 20 silos; accuracy after fine-tuning on {few} of them:")
    for name in sorted(accuracy, key=lambda name: -accuracy[name]):
        print(f"  {name:10} {accuracy[name]:.3f}")
    print(f"Kendall's tau / Spearman's / right source first; delta 1e-5, record unit, {arguments.seeds} draws")
    print(f"{'epsilon':>8}  " + "  ".join(f"{method:>18}" for method in arguments.methods))
    for epsilon_name, row in table.items():
        cells = [f"{c['kendall']:5.2f} {c['spearman']:5.2f} {c['right_first']:5.0%}" for c in row.values()]
        print(f"{epsilon_name:>8}  " + "  ".join(f"{cell:>18}" for cell in cells))
    print(f"{seconds:.0f} s")


def tau(ranking: privfed.transfer.SourceRanking, method: str, accuracy: dict[str, float], measure) -> float:
    """Return the rank correlation of the scores with the truth."""
    scores = [score.scores[method] for score in ranking.scores]
    return float(measure(scores, [accuracy[score.name] for score in ranking.scores]).statistic)


if __name__ == "__main__":
    main()
