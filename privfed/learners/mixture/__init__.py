"""Federated Gaussian mixtures: exact from sums, and under differential privacy."""

from privfed.learners.mixture.estimator import GaussianMixture
from privfed.learners.mixture.planning import expected_excess_nats
from privfed.learners.mixture.reports import RoundReport
from privfed.statistics.mixture_model import MixtureModel

__all__ = ["GaussianMixture", "MixtureModel", "RoundReport", "expected_excess_nats"]
