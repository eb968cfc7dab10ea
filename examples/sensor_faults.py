"""Sensor faults across sites: shared operating states, and weights of its own for every site.

Machines at a dozen sites run in the same few states, but each site in its own proportions: what is daily routine at one
is unheard of at another. The states are learned together, under a budget. The weights are re-estimated at each site,
for nothing, since they are never sent. A fault is a reading in a state that this site does not run in, or in none at
all: under the sites' average weights the first kind looks ordinary.

The readings are synthetic, made by the law below.

    python examples/sensor_faults.py --epsilon 2 --figure faults.png --report faults.html
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score, roc_curve

import privfed
from privfed.report import write_report
from privfed_accounting import report_data

SITES = 12
STATES = np.array(  # temperature, pressure, vibration, current, in sensor units
    [(20, 1.0, 0.1, 2), (60, 2.0, 0.5, 8), (90, 4.0, 0.6, 9), (60, 4.5, 1.5, 12), (35, 1.2, 1.8, 5)], dtype=float
)
SPREAD = np.array([4.0, 0.25, 0.12, 0.7])
LOW, HIGH = (0.0, 0.0, 0.0, 0.0), (120.0, 6.0, 3.0, 16.0)  # public: the sensors' ranges
SCALE = np.array(HIGH)


def readings(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Return `count` readings of a site that runs in the states with `weights`, in parts of the sensors' ranges."""
    chosen = STATES[rng.choice(len(STATES), size=count, p=weights)]
    return np.clip(chosen + SPREAD * rng.standard_normal((count, 4)), LOW, HIGH) / SCALE


def faults(rng: np.random.Generator, weights: np.ndarray, count: int) -> np.ndarray:
    """Return readings in the site's two rarest states, and some that are stuck between states."""
    rare = np.zeros(len(STATES))
    rare[np.argsort(weights)[:2]] = 0.5
    stuck = readings(rng, weights, count // 4) + rng.normal(0, 0.15, (count // 4, 4))
    return np.concatenate([readings(rng, rare, count - count // 4), stuck])


def draw(path: Path, weights: np.ndarray, personal: np.ndarray, curves: dict[str, tuple]) -> None:
    """Draw the sites' weights as they are and as found, and what they are worth."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained", width_ratios=(1, 1, 1.2))
    for axis, values, title in (
        (axes[0], weights, "Weights that made the data"),
        (axes[1], personal, "Weights found at home"),
    ):
        image = axis.imshow(values, vmin=0, vmax=1, cmap="Blues", aspect="auto")
        axis.set(xlabel="state", ylabel="site", title=title)
    figure.colorbar(image, ax=axes[1])
    for name, (false, true, area) in curves.items():
        axes[2].plot(false, true, label=f"{name}: area {area:.3f}")
    axes[2].set(xlabel="false alarms", ylabel="faults found", xscale="log", xlim=(1e-3, 1))
    axes[2].set_title("All sites, readings to come")
    axes[2].legend()
    figure.savefig(path, dpi=130)


def main() -> None:
    """Learn the states together, the weights at home, and look for faults with either."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=2.0)
    parser.add_argument("--rows", type=int, default=18_000, help="readings of all sites together")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()

    rng = np.random.default_rng(7)
    weights = rng.dirichlet(np.full(len(STATES), 0.35), size=SITES)
    history = {f"site-{site:02d}": readings(rng, w, arguments.rows // SITES) for site, w in enumerate(weights)}

    budget = privfed.Budget(epsilon=arguments.epsilon, delta=1e-6)
    with privfed.LocalFederation(history, budget=budget, dropout=0.1) as federation:
        shared = privfed.GaussianMixture(len(STATES), covariance_type="diag", bounds=(0, 1), random_state=0)
        shared.fit(federation)
        if arguments.report is not None:
            write_report(arguments.report, report_data(federation.ledger), title="States of machines at twelve sites")

    scores: dict[str, list[np.ndarray]] = {"shared weights": [], "weights of the site": []}
    labels, personal = [], []
    for rows, w in zip(history.values(), weights, strict=True):
        mine = shared.personalise(rows)  # at the site: nothing is sent, nothing is spent
        personal.append(mine.weights_)
        to_come = np.concatenate([readings(rng, w, 600), faults(rng, w, 60)])
        labels.append(np.repeat([0, 1], [600, 60]))
        scores["shared weights"].append(-shared.score_samples(to_come))
        scores["weights of the site"].append(-mine.score_samples(to_come))

    truth, curves = np.concatenate(labels), {}
    for name, values in scores.items():
        found = np.concatenate(values)
        false, true, _ = roc_curve(truth, found)
        curves[name] = (false, true, float(roc_auc_score(truth, found)))
        caught = true[np.searchsorted(false, 0.01, side="right") - 1]
        print(f"{name:20s} area {curves[name][2]:.3f}, faults found at 1 % false alarms: {caught:.1%}")

    # Match each found state with the one that made the data, for the figure.
    nearest = ((shared.means_[:, None] - STATES / SCALE) ** 2).sum(axis=2).argmin(axis=1)
    matched = np.zeros((SITES, len(STATES)))
    for component, state in enumerate(nearest):
        matched[:, state] += np.array(personal)[:, component]
    print(f"weights at the sites are off by {np.abs(matched - weights).mean():.3f} on average")
    print(f"epsilon against the server: {shared.epsilon_['server']:.2f} at delta {budget.delta:g}; at home: nothing")
    if arguments.figure is not None:
        draw(arguments.figure, weights, matched, curves)


if __name__ == "__main__":
    main()
