"""Transferability scores from raw features and labels: written from the papers, apart from the library's sums."""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax


def log_evidence(F: np.ndarray, y: np.ndarray, alpha: float, beta: float) -> float:
    """log p(y | F, alpha, beta): y is Gaussian with covariance I/beta + F F'/alpha. No algebra beyond that."""
    covariance = np.eye(len(y)) / beta + F @ F.T / alpha
    _, logdet = np.linalg.slogdet(covariance)
    return float(-0.5 * (y @ np.linalg.solve(covariance, y) + logdet + len(y) * math.log(2 * math.pi)))


def logme(F: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """Maximise each class's evidence with a general optimiser, from several starts, in the eigenbasis of F F'."""
    kernel, basis = np.linalg.eigh(F @ F.T)
    scores = []
    for label in range(n_classes):
        y = (labels == label).astype(float)
        if not y.any():
            continue
        squares = (basis.T @ y) ** 2

        def loss(x: np.ndarray, squares: np.ndarray = squares) -> float:
            variances = math.exp(-x[1]) + np.maximum(kernel, 0.0) * math.exp(-x[0])
            return float(0.5 * (squares / variances + np.log(variances) + math.log(2 * math.pi)).mean())

        starts = [(a, b) for a in (-2.0, 2.0, 8.0) for b in (1.0, 3.0)]
        options = {"xatol": 1e-6, "fatol": 1e-12, "maxiter": 5000}
        found = min(
            (minimize(loss, start, method="Nelder-Mead", options=options) for start in starts), key=lambda one: one.fun
        )
        scores.append(-found.fun)
    return float(np.mean(scores))


def logme_of_the_authors(F: np.ndarray, labels: np.ndarray, n_classes: int) -> float:
    """The published algorithm as it stands: eleven steps at most, 1e-5 in the denominators, a singular value of F."""
    n, d = F.shape
    u, s, _ = np.linalg.svd(F, full_matrices=False)
    sigma = s**2
    scores = []
    for label in range(n_classes):
        y = (labels == label).astype(float)
        z2 = (u.T @ y) ** 2
        delta = y @ y - z2.sum()
        alpha = beta = 1.0
        t = alpha / beta
        for _ in range(11):
            gamma = (sigma / (sigma + t)).sum()
            m2 = (sigma * z2 / (t + sigma) ** 2).sum()
            res2 = (z2 / (1 + sigma / t) ** 2).sum() + delta
            alpha, beta = gamma / (m2 + 1e-5), (n - gamma) / (res2 + 1e-5)
            before, t = t, alpha / beta
            if abs(t - before) / before <= 1e-3:
                break
        evidence = d / 2 * np.log(alpha) + n / 2 * np.log(beta) - 0.5 * np.log(alpha + beta * sigma).sum()
        evidence -= beta / 2 * res2 + alpha / 2 * m2 + n / 2 * np.log(2 * np.pi)
        scores.append(evidence / n)
    return float(np.mean(scores))


def h_score(F: np.ndarray, labels: np.ndarray) -> float:
    """tr(cov(f)^-1 cov(E[f | y])), rows replaced by their class's mean."""
    means = np.stack([F[labels == label].mean(axis=0) for label in labels])
    return float(np.trace(np.linalg.pinv(np.cov(F.T)) @ np.cov(means.T)))


def h_score_shrunk(F: np.ndarray, labels: np.ndarray) -> float:
    """Ibrahim et al.: Ledoit and Wolf's covariance, by scikit-learn; (1 - alpha) on what lies between classes."""
    from sklearn.covariance import LedoitWolf

    fitted = LedoitWolf().fit(F)
    means = np.stack([F[labels == label].mean(axis=0) for label in labels])
    between = np.cov(means.T, ddof=0)
    return float(np.trace(np.linalg.inv(fitted.covariance_) @ between) * (1 - fitted.shrinkage_))


def leep(theta: np.ndarray, labels: np.ndarray) -> float:
    """The average log-likelihood of the expected empirical predictor, one record at a time."""
    n_classes = int(labels.max()) + 1
    joint = np.zeros((n_classes, theta.shape[1]))
    for row, label in zip(theta, labels, strict=True):
        joint[label] += row / len(theta)
    conditional = joint / joint.sum(axis=0)
    return float(np.mean([math.log(conditional[label] @ row) for row, label in zip(theta, labels, strict=True)]))


def nce(theta: np.ndarray, labels: np.ndarray) -> float:
    """Minus the conditional entropy of the class given the source label."""
    n_classes = int(labels.max()) + 1
    joint = np.stack([theta[labels == label].sum(axis=0) for label in range(n_classes)]) / len(theta)
    return float((joint * np.log(joint / joint.sum(axis=0))).sum())


class Task:
    """A small task with two hidden layers' worth of structure, and a random source model for it."""

    def __init__(self, seed: int, *, n: int = 160, inputs: int = 6, classes: int = 4, width: int = 5, labels: int = 3):
        rng = np.random.default_rng(seed)
        self.n_classes = classes
        self.labels = rng.integers(0, classes, n)
        centres = rng.standard_normal((classes, inputs))
        self.X = centres[self.labels] + rng.standard_normal((n, inputs))
        self.W = rng.standard_normal((inputs, width))
        self.head = rng.standard_normal((inputs, labels))
        self.rows = np.column_stack([self.X, self.labels])

    def features(self, inputs: np.ndarray) -> np.ndarray:
        return np.tanh(inputs @ self.W)

    def probabilities(self, inputs: np.ndarray) -> np.ndarray:
        return softmax(inputs @ self.head, axis=1)

    def silos(self, count: int = 4) -> list[np.ndarray]:
        return np.array_split(self.rows, count)
