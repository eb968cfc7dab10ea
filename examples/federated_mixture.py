"""A Gaussian mixture over silos that show nothing, with and without a privacy budget, beside pooled training.

python examples/federated_mixture.py --epsilon 1
"""

from __future__ import annotations

import argparse

import numpy as np
from sklearn.datasets import make_blobs
from sklearn.mixture import GaussianMixture as PooledMixture

import privfed

BOUNDS = (-15.0, 15.0)  # known in public: the sensor's range


def main() -> None:
    """Fit three times and compare held-out log-likelihoods."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epsilon", type=float, default=1.0)
    parser.add_argument("--rows", type=int, default=8000)
    arguments = parser.parse_args()

    X, cluster = make_blobs(arguments.rows + 2000, n_features=4, centers=5, cluster_std=1.0, random_state=1)
    train, test = X[: arguments.rows], X[arguments.rows :]
    order = np.argsort(
        cluster[: arguments.rows], kind="stable"
    )  # every silo sees one or two clusters: as non-IID as can be
    silos = np.array_split(train[order], 20)

    pooled = PooledMixture(5, n_init=5, random_state=0).fit(train)
    print(f"pooled, not private:        {pooled.score(test):.4f} nats per row")

    exact = privfed.GaussianMixture(5, random_state=0).fit(privfed.LocalFederation(silos))
    print(f"federated, no noise:        {exact.score(test):.4f}")

    budget = privfed.Budget(epsilon=arguments.epsilon, delta=1e-5, unit="record")
    with privfed.LocalFederation(silos, budget=budget, dropout=0.1) as federation:
        private = privfed.GaussianMixture(5, bounds=BOUNDS, random_state=0).fit(federation)
        views = ", ".join(f"{view} {epsilon:.2f}" for view, epsilon in private.epsilon_.items())
        print(f"federated, epsilon {arguments.epsilon:g}:       {private.score(test):.4f}")
        print(f"epsilon by adversary at delta {budget.delta:g}: {views}")
        print(f"rounds: {len(private.releases_)}, of the budget {1 - federation.remaining_share:.1%} is spent")


if __name__ == "__main__":
    main()
