"""How often `select_mixture` finds the number of components that the data were drawn with, and what the choice costs.

For each budget: the fraction of seeds with the right K, the mean number chosen, and the held-out log-likelihood of the
mixture that it fits, against scikit-learn's fit of the right K to all rows without privacy; median and worst.

    python benchmarks/mixture_selection.py --seeds 20 --json selection.json
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture as Peer

from privfed import Budget, LocalFederation
from privfed.learners.mixture import select_mixture

FloatArray = npt.NDArray[np.float64]
TEST = 2000
SILOS = 20


@dataclass(frozen=True)
class Line:
    """One set at one budget; epsilon 0 stands for none."""

    set: str
    components: int
    criterion: str
    epsilon: float
    seeds: int
    right: float
    mean: float
    median: float
    worst: float
    seconds: float


def blobs(seed: int) -> tuple[FloatArray, int]:
    """Five round clusters in four dimensions; some seeds put two of them close together."""
    rows, _ = make_blobs(8000 + TEST, n_features=4, centers=5, random_state=seed)
    return rows, 5


def general(seed: int) -> tuple[FloatArray, int]:
    """Four clusters of any shape in three dimensions."""
    random = np.random.default_rng(seed)
    A = random.standard_normal((4, 3, 3))
    roots = np.linalg.cholesky(A @ np.swapaxes(A, 1, 2) / 3 + 0.3 * np.eye(3))
    centres, labels = 4 * random.standard_normal((4, 3)), random.integers(0, 4, 8000 + TEST)
    noise = random.standard_normal((8000 + TEST, 3))
    return centres[labels] + np.einsum("nij,nj->ni", roots[labels], noise), 4


SETS: dict[str, Callable[[int], tuple[FloatArray, int]]] = {"blobs": blobs, "general": general}


def measure(name: str, epsilon: float, seeds: int, criterion: str) -> Line:
    """Return the line of one set and budget."""
    found, gaps, start, K = [], [], time.perf_counter(), 0
    for seed in range(seeds):
        rows, K = SETS[name](seed)
        train, test = rows[:-TEST], rows[-TEST:]
        reference = Peer(K, n_init=5, random_state=0).fit(train).score(test)
        budget = Budget(epsilon, 1e-5) if epsilon else None
        noise = {"noise_seed": seed} if epsilon else {}
        with LocalFederation(np.array_split(train, SILOS), mode="trusted", budget=budget, **noise) as silos:
            chosen = select_mixture(silos, range(1, 11), criterion=criterion, bounds=(-20, 20), random_state=seed)
        found.append(chosen.chosen.n_components)
        gaps.append(chosen.mixture.score(test) - reference)
    seconds = (time.perf_counter() - start) / seeds
    right = float(np.mean(np.array(found) == K))
    return Line(
        name, K, criterion, epsilon, seeds, right, float(np.mean(found)), float(np.median(gaps)), min(gaps), seconds
    )


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    parser.add_argument("--epsilons", nargs="*", type=float, default=[1.0, 2.0, 4.0, 8.0], help="0 is no budget")
    parser.add_argument("--criterion", choices=["bic", "aic", "held_out"], default="bic")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lines = []
    print(f"{'set':9s} {'K':>2s} {'criterion':9s} epsilon seeds  right   mean K   median    worst  s/choice")
    for name in options.sets:
        for epsilon in options.epsilons:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                line = measure(name, epsilon, options.seeds, options.criterion)
            lines.append(line)
            print(
                f"{line.set:9s} {line.components:2d} {line.criterion:9s} {line.epsilon:7g} {line.seeds:5d} "
                f"{line.right:6.2f} {line.mean:8.2f} {line.median:8.4f} {line.worst:8.3f} {line.seconds:9.1f}",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps([asdict(line) for line in lines], indent=1))


if __name__ == "__main__":
    main()
