"""How much a privacy budget costs: held-out log-likelihood of a federated mixture against epsilon, as a figure.

Many runs are needed, so the sums are formed in the clear (`mode="trusted"`): the same integers and the same noise as
under secure aggregation, and every release and ledger entry says so.

    python examples/dp_vs_utility.py --out dp_vs_utility.png
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path

import matplotlib as mpl
import numpy as np
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture as PooledMixture

import privfed

mpl.use("Agg")
import matplotlib.pyplot as plt

BOUNDS = (-15.0, 15.0)


def gap(epsilon: float, silos: list[np.ndarray], test: np.ndarray, reference: float, seed: int) -> float:
    """Return held-out nats per row of one private fit, minus those of pooled training."""
    budget = privfed.Budget(epsilon=epsilon, delta=1e-5)
    with privfed.LocalFederation(silos, budget=budget, mode="trusted") as federation, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small budgets warn that noise dominates: that is what the figure shows
        mixture = privfed.GaussianMixture(5, bounds=BOUNDS, random_state=seed).fit(federation)
    return float(mixture.score(test)) - reference


def main() -> None:
    """Fit at several budgets and seeds, print the table, draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilons", type=float, nargs="+", default=[0.5, 1.0, 2.0, 4.0, 8.0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--out", type=Path, default=Path("dp_vs_utility.png"))
    parser.add_argument("--json", action="store_true", help="print the table as JSON")
    arguments = parser.parse_args()

    X, _ = make_blobs(arguments.rows + 2000, n_features=4, centers=5, cluster_std=1.0, random_state=1)
    train, test = X[: arguments.rows], X[arguments.rows :]
    silos = np.array_split(train, 20)
    reference = float(PooledMixture(5, n_init=5, random_state=0).fit(train).score(test))

    table = {
        epsilon: [gap(epsilon, silos, test, reference, seed) for seed in range(arguments.seeds)]
        for epsilon in arguments.epsilons
    }
    if arguments.json:
        print(json.dumps({"pooled": reference, "gaps": {str(epsilon): gaps for epsilon, gaps in table.items()}}))
    else:
        print(f"pooled, not private: {reference:.4f} nats per row\n{'epsilon':>8} {'median gap':>11} {'worst':>8}")
        for epsilon, gaps in table.items():
            print(f"{epsilon:8g} {np.median(gaps):11.4f} {min(gaps):8.4f}")

    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    axis.axhline(0.0, color="0.5", linewidth=1, label="pooled, not private")
    axis.plot(list(table), [np.median(gaps) for gaps in table.values()], marker="o", label="median of seeds")
    axis.fill_between(
        list(table), [min(g) for g in table.values()], [max(g) for g in table.values()], alpha=0.2, label="range"
    )
    axis.set(xscale="log", xlabel="epsilon (record unit, delta 1e-5)", ylabel="held-out nats per row, minus pooled")
    axis.set_xticks(list(table), [f"{epsilon:g}" for epsilon in table])
    axis.set_title("What a budget costs: 20 silos, 5 components, 4 features")
    axis.legend()
    figure.savefig(arguments.out, dpi=150)


if __name__ == "__main__":
    main()
