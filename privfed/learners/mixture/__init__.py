"""Federated Gaussian mixtures: exact from sums, and under differential privacy."""

from privfed.learners.mixture.estimator import GaussianMixture
from privfed.learners.mixture.private.planning import expected_excess_nats
from privfed.learners.mixture.reports import RoundReport
from privfed.learners.mixture.select.search import select_mixture
from privfed.learners.mixture.select.selection import Candidate, MixtureSelection
from privfed.learners.mixture.use.anomaly import AnomalyThreshold, anomaly_threshold
from privfed.learners.mixture.use.explain import Explanation, explain_scores
from privfed.learners.mixture.use.inference import FederatedInference, infer
from privfed.learners.mixture.use.plots import (
    plot_contributions,
    plot_ellipses,
    plot_likelihood,
    plot_scores,
    plot_sizes,
    plot_threshold,
    plot_weights,
)
from privfed.statistics.mixture_model import MixtureModel

__all__ = [
    "AnomalyThreshold",
    "Candidate",
    "Explanation",
    "FederatedInference",
    "GaussianMixture",
    "MixtureModel",
    "MixtureSelection",
    "RoundReport",
    "anomaly_threshold",
    "expected_excess_nats",
    "explain_scores",
    "infer",
    "plot_contributions",
    "plot_ellipses",
    "plot_likelihood",
    "plot_scores",
    "plot_sizes",
    "plot_threshold",
    "plot_weights",
    "select_mixture",
]
