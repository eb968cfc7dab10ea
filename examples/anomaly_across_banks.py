"""Fraud across banks that share no payment: a private mixture of ordinary behaviour, and a protected threshold.

Ten banks hold payments of different customers in different proportions; fraud is rare, and four banks have never seen
any. Nothing is labelled while fitting. The mixture and the threshold, below which one payment in a hundred lies, come
from noised sums over all banks. Labels serve only to measure, at the end. Then customers of kinds that a bank hardly
knew move to it: a bank that learned from its own payments alone takes them for thieves.

The payments are synthetic, made by the law below: no figure here says anything about real fraud.

    python examples/anomaly_across_banks.py --epsilon 1 --figure banks.png --report banks.html
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np

import privfed
from privfed.learners.mixture import anomaly_threshold, plot_contributions, plot_threshold
from privfed.report import write_report
from privfed_accounting import report_data

FEATURES = ("log amount", "log pace", "distance", "night", "new payee")
LOW, HIGH = (-3.0, -3.0, -4.0, -4.0, -4.0), (9.0, 7.0, 8.0, 8.0, 8.0)  # public: what the systems can record
BANKS = 10
KINDS = 4  # of ordinary customers


def payments(rng: np.random.Generator, counts: np.ndarray, frauds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return payments of `counts` customers of each kind and of `frauds` fraudsters, with their labels."""
    centres = np.array([(1.0, 0, 0, -1, -1), (4.0, -1, 1, 0, -1), (2.0, 2.5, 0, 2, 0), (0.0, 3, -1, -1, 1)])
    parts = []
    for kind, count in enumerate(counts):
        mix = 0.5 * np.eye(5) + 0.12 * np.roll(np.eye(5), kind, axis=1)
        parts.append(centres[kind] + rng.standard_normal((count, 5)) @ mix)
    # A fraud looks like some customer's payment, but is larger, farther away and to a new payee.
    chosen = centres[rng.integers(KINDS, size=frauds)]
    parts.append(chosen + (1.3, 0.5, 1.8, 0.5, 1.6) + 0.6 * rng.standard_normal((frauds, 5)))
    labels = np.repeat([0, 1], [int(counts.sum()), frauds])
    order = rng.permutation(len(labels))
    return np.concatenate(parts)[order], labels[order]


def banks(rng: np.random.Generator, rows: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return each bank's payments: sizes from small to large, customers by a Dirichlet law, fraud in six of ten."""
    found = []
    for bank in range(BANKS):
        size = int(rows * (0.2 + 1.6 * bank / (BANKS - 1)) / BANKS)
        frauds = 0 if bank % 5 in (1, 3) else max(1, int(0.004 * size))
        found.append(payments(rng, rng.multinomial(size, rng.dirichlet(np.full(KINDS, 0.6))), frauds))
    return found


def held_out(rng: np.random.Generator, rows: np.ndarray, count: int) -> np.ndarray:
    """Return payments to come of the customers that a bank has: its own, slightly moved."""
    return rows[rng.integers(len(rows), size=count)] + 0.05 * rng.standard_normal((count, rows.shape[1]))


def draw(path: Path, threshold, explanation, alarms: np.ndarray) -> None:
    """Draw the threshold, the false alarms at the banks, and why one fraud was caught."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plot_threshold(threshold, ax=axes[0])
    axes[0].set_title("False positives: asked for, released, bounded")
    at = np.arange(BANKS)
    axes[1].bar(at - 0.2, alarms[:, 0], 0.4, label="all banks, private")
    axes[1].bar(at + 0.2, alarms[:, 1], 0.4, label="own payments only")
    axes[1].axhline(threshold.requested, color="0.4", linestyle="--", linewidth=1, label="asked for")
    axes[1].set(xlabel="bank, small to large", ylabel="false alarms on payments to come", xticks=at)
    axes[1].set_title("When customers of other kinds arrive")
    axes[1].legend()
    plot_contributions(explanation, ax=axes[2])
    figure.savefig(path, dpi=130)


def main() -> None:
    """Fit, find the threshold, measure, draw, and account for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=20_000, help="payments of all banks together")
    parser.add_argument("--rate", type=float, default=0.01, help="false-positive rate")
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()

    rng = np.random.default_rng(5)
    held = banks(rng, arguments.rows)
    budget = privfed.Budget(epsilon=arguments.epsilon, delta=1e-6)
    clients = {f"bank-{bank}": rows for bank, (rows, _) in enumerate(held)}
    with privfed.LocalFederation(clients, budget=budget) as federation:
        mixture = privfed.GaussianMixture(KINDS, bounds=(LOW, HIGH), share=0.8, random_state=0).fit(federation)
        threshold = anomaly_threshold(federation, mixture, false_positive_rate=arguments.rate)
        if arguments.report is not None:
            write_report(arguments.report, report_data(federation.ledger), title="Fraud across ten banks")
        views = ", ".join(f"{view} {epsilon:.2f}" for view, epsilon in threshold.release.epsilon.items())
    print(threshold)
    print(f"epsilon by adversary at delta {budget.delta:g}: {views}")

    # What each bank measures at home, on payments to come, with its labels: columns are all banks, and it alone.
    recalls, alarms = np.empty((BANKS, 2)), np.empty((BANKS, 2))
    for bank, (rows, known) in enumerate(held):
        newcomers = rng.multinomial(800, np.full(KINDS, 1 / KINDS))
        ordinary = np.concatenate([held_out(rng, rows[known == 0], 3200), payments(rng, newcomers, 0)[0]])
        fraud, _ = payments(rng, np.zeros(KINDS, dtype=int), 300)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            alone = privfed.GaussianMixture(KINDS, random_state=0).fit(rows)
        own = np.quantile(alone.score_samples(rows), arguments.rate)
        recalls[bank] = threshold.is_anomaly(fraud).mean(), (alone.score_samples(fraud) < own).mean()
        alarms[bank] = threshold.is_anomaly(ordinary).mean(), (alone.score_samples(ordinary) < own).mean()
    print(f"fraud found, all banks together: {recalls[:, 0].mean():.1%}; each by itself: {recalls[:, 1].mean():.1%}")
    print(f"false alarms, all banks together: {alarms[:, 0].mean():.2%}; each by itself: {alarms[:, 1].mean():.2%}")

    caught = fraud[np.argsort(mixture.score_samples(fraud))[len(fraud) // 3]][None, :]
    explanation = mixture.explain(caught, names=FEATURES)
    print("\nwhy one of them was found:\n" + explanation.table())
    if arguments.figure is not None:
        draw(arguments.figure, threshold, explanation, alarms)


if __name__ == "__main__":
    main()
