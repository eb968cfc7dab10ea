"""Subgroups of a disease across hospitals: clusters of tumours found without moving a patient's record.

Four hospitals hold scikit-learn's breast cancer measurements, sorted so that each sees another part of the spectrum. A
private mixture of two kinds of tumours is fitted to noised sums, without diagnoses. One more release says how large the
kinds are over all hospitals. Diagnoses stay at home and tell, at the end, what the kinds are.

569 patients are few: at epsilon 1 the noise shows, at 4 the kinds are those of pooled records.

    python examples/disease_subgroups.py --epsilon 4 --figure subgroups.png --report subgroups.html
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import adjusted_rand_score
from sklearn.mixture import GaussianMixture as PooledMixture

import privfed
from privfed.learners.mixture import infer, plot_ellipses, plot_sizes
from privfed.report import write_report
from privfed_accounting import report_data

# Measured features and the range that a textbook gives them, on the scale that is used: public, not looked up.
FEATURES = {"mean radius": (1.8, 3.4), "mean texture": (2.0, 4.0), "mean concave points": (0.0, 0.5)}
HOSPITALS = 4


def patients() -> tuple[np.ndarray, np.ndarray]:
    """Return three features, each brought to [-1, 1] by its public range, and the diagnoses (1 is malignant)."""
    data = load_breast_cancer()
    names = list(data.feature_names)
    radius, texture, points = (data.data[:, names.index(name)] for name in FEATURES)
    raw = np.column_stack([np.log(radius), np.log(texture), np.sqrt(points)])
    low, high = np.array(list(FEATURES.values())).T
    return 2 * (raw - low) / (high - low) - 1, 1 - data.target


def draw(path: Path, mixture, inference, rows: np.ndarray, rates: np.ndarray) -> None:
    """Draw the kinds, their sizes, and the malignant part of each kind as every hospital counts it."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(14, 4.2), layout="constrained")
    plot_ellipses(mixture, rows, features=(0, 2), ax=axes[0])
    axes[0].set(
        xlabel="log radius (scaled)", ylabel="root of concave points (scaled)", title="Kinds, as one hospital sees them"
    )
    plot_sizes(inference, ax=axes[1])
    axes[1].set_title("Sizes over all hospitals")
    for kind, values in enumerate(rates.T):
        axes[2].bar(np.arange(HOSPITALS) + 0.4 * kind - 0.2, values, 0.4, color=f"C{kind}", label=f"component {kind}")
    axes[2].set(
        xlabel="hospital", ylabel="malignant part, counted at home", xticks=np.arange(HOSPITALS), ylim=(0, 1.25)
    )
    axes[2].set_title("What the kinds are")
    axes[2].legend(loc="upper center", ncols=2)
    figure.savefig(path, dpi=130)


def main() -> None:
    """Fit, count, compare with pooled records, draw, and account for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=4.0)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--report", type=Path)
    arguments = parser.parse_args()

    X, malignant = patients()
    # Non-IID: hospitals see tumours of different sizes, with some overlap.
    order = np.argsort(X[:, 0] + 0.3 * np.random.default_rng(0).standard_normal(len(X)))
    parts = np.array_split(order, HOSPITALS)
    hospitals = {f"hospital-{number}": X[part] for number, part in enumerate(parts)}

    budget = privfed.Budget(epsilon=arguments.epsilon, delta=1e-5)
    with privfed.LocalFederation(hospitals, budget=budget) as federation:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            mixture = privfed.GaussianMixture(2, covariance_type="tied", bounds=(-1, 1), share=0.9, random_state=0).fit(
                federation
            )
            inference = infer(federation, mixture)
        if arguments.report is not None:
            write_report(arguments.report, report_data(federation.ledger), title="Subgroups across four hospitals")
        spent = inference.release.epsilon["server"]
    for warning in said:
        print(f"note: {warning.message}")
    print(f"fitted: {mixture.choice_.n_components} kinds, {mixture.choice_.covariance_type} covariance")
    print(inference)

    pooled = PooledMixture(2, covariance_type="tied", n_init=5, random_state=0).fit(X)
    kinds = mixture.predict(X)
    print(f"held by no server: {mixture.score(X):.3f} nats per patient, pooled records {pooled.score(X):.3f}")
    print(f"agreement with pooled clusters: {adjusted_rand_score(pooled.predict(X), kinds):.2f} (1 is the same)")
    rates = np.full((HOSPITALS, mixture.n_components), np.nan)
    for number, part in enumerate(parts):
        counts = []
        for kind in np.unique(kinds[part]):
            mine = malignant[part][kinds[part] == kind]
            rates[number, kind] = mine.mean()
            counts.append(f"{mine.mean():.0%} of {len(mine)} of kind {kind}")
        print(f"hospital-{number} counts at home how many are malignant: {', '.join(counts)}")
    print(f"epsilon spent against the server: {spent:.2f} of {budget.epsilon:g} at delta {budget.delta:g}")
    if arguments.figure is not None:
        draw(arguments.figure, mixture, inference, X[parts[1]], rates)


if __name__ == "__main__":
    main()
