"""One call inside somebody's pipeline: scikit-learn standardises with means and scales that no hospital has shown.

Three hospitals hold parts of the breast cancer data. They agree on a mean and a scale by two protected sums, each
adds them to its own scikit-learn pipeline, and a classifier trained at one works at the others.

    python examples/protected_mean_pipeline.py
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import privfed

# What a radiologist knows without looking at a patient: no log-feature leaves this range.
LOW, HIGH = -8.0, 9.0


def main() -> None:
    """Agree on means and scales, then train and test across hospitals."""
    X, y = load_breast_cancer(return_X_y=True)
    X = np.clip(np.log(X + 1e-3), LOW, HIGH)
    rng = np.random.default_rng(0)
    hospitals = np.array_split(rng.permutation(len(X)), 3)

    # Each hospital contributes two vectors: the mean of its rows, and of their squares. One call each; the unit of
    # privacy is a whole hospital here, so this example adds no noise: three hospitals are too few to hide among.
    means = [X[rows].mean(axis=0) for rows in hospitals]
    squares = [(X[rows] ** 2).mean(axis=0) for rows in hospitals]
    mean = privfed.protected_mean(means)
    scale = np.sqrt(privfed.protected_mean(squares) - mean**2)

    # With a budget, the unit is a record and the door is the same: release sums of rows, not of means.
    budget = privfed.Budget(epsilon=1.0, delta=1e-6)
    with privfed.LocalFederation([X[rows] for rows in hospitals], budget=budget) as federation:
        query = privfed.Moments(center=np.full(X.shape[1], 0.5), radius=30.0, second="none")
        release = federation.release(query, share=1.0, purpose="means for standardisation")
        private_mean = query.center + release["sum"] / max(float(release["count"]), 1.0)
        error, spent = np.abs(private_mean - mean).mean(), release.epsilon["server"]
        print(f"private mean: off by {error:.3f} on average, epsilon {spent:.2f}")

    pipeline = make_pipeline(FunctionTransformer(lambda rows: (rows - mean) / scale), LogisticRegression())
    pipeline.fit(X[hospitals[0]], y[hospitals[0]])
    for number, rows in enumerate(hospitals[1:], start=1):
        print(f"trained at hospital 0, accuracy at hospital {number}: {pipeline.score(X[rows], y[rows]):.3f}")
    print(f"agreed mean of the first three features: {mean[:3].round(3).tolist()}")


if __name__ == "__main__":
    main()
