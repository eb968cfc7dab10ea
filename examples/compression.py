"""Shorter updates: what clients save on the way up, and what it costs in accuracy.

Federated averaging of one network over silos that differ, with secure aggregation. The updates travel whole, in fewer
bits, as random coordinates, as low-rank sketches, or in part; each goes through the same masks.

    python examples/compression.py --figure compression.png
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch

import privfed
from privfed.datasets import Dataset, load_sklearn, partition_dirichlet
from privfed.learners.neural import Compression, FederatedAveraging

TICKS = (1, 2, 5, 10, 20, 50, 100)  # kilobytes
CLIP = 1.0  # of an update; together with `bits` it sets the grid
CHOICES: dict[str, tuple[int | None, Compression | None]] = {
    "whole, as fine as can be": (None, None),
    "16 bits": (16, None),
    "a quarter of the coordinates": (16, Compression(keep=0.25)),
    "a tenth of the coordinates": (16, Compression(keep=0.1)),
    "rank 8": (16, Compression(rank=8)),
    "rank 4": (16, Compression(rank=4)),
    "rank 8, half of the coordinates": (16, Compression(rank=8, keep=0.5)),
    "a tenth, the rest kept at home": (16, Compression(keep=0.1, error_feedback=True)),
    "the last layer alone": (16, Compression(parameters=("2.*",))),
}


def network(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))


def run(
    train: Dataset, test: Dataset, bits: int | None, compression: Compression | None, *, rounds: int, silos: int
) -> tuple[float, float]:
    """Return held-out accuracy, and kilobytes that a client sends a round."""
    clients = partition_dirichlet(train.labels, silos, alpha=0.5, min_records=10, random_state=0).clients(train)
    with privfed.LocalFederation(clients, bits=bits, max_records=2048) as federation:
        learner = FederatedAveraging(
            network(0), rounds=rounds, learning_rate=0.2, local_epochs=2, batch_size=16, weighting="uniform",
            clip=CLIP, compression=compression, random_state=0,
        ).fit(federation)  # fmt: skip
    sent = [release.bytes_up for release in learner.releases_]
    accuracy = float(np.mean(learner.predict(test.X) == test.labels))
    return accuracy, float(np.median(sent)) / silos / 1e3


def main() -> None:
    """Train once for each choice, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--silos", type=int, default=10)
    parser.add_argument("--choices", type=int, default=len(CHOICES), help="how many of the choices to try")
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", UserWarning)

    train, test = load_sklearn("digits").scaled().split(random_state=0)
    found = {}
    print(f"{'what travels':32s} {'accuracy':>8s} {'kB up':>8s} {'saved':>7s}")
    for name, (bits, compression) in list(CHOICES.items())[: options.choices]:
        found[name] = run(train, test, bits, compression, rounds=options.rounds, silos=options.silos)
        whole = next(iter(found.values()))[1]
        print(f"{name:32s} {found[name][0]:8.3f} {found[name][1]:8.2f} {whole / found[name][1]:6.1f}x", flush=True)
    if options.figure:
        draw(options.figure, found)


def draw(path: Path, found: dict[str, tuple[float, float]]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for number, (name, (score, kilobytes)) in enumerate(found.items()):
        axis.plot(kilobytes, score, "o", color=plt.get_cmap("tab10")(number % 10), label=name)
    axis.set(xscale="log", xlabel="kilobytes a client sends a round", ylabel="held-out accuracy")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.set_title("Shorter updates under the same masks")
    axis.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize="small")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
