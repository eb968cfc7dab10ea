"""Federated Gaussian mixtures: exact from sums, and under differential privacy."""

from privfed.learners.mixture.estimator import GaussianMixture
from privfed.learners.mixture.planning import expected_excess_nats
from privfed.learners.mixture.reports import RoundReport
from privfed.learners.mixture.select import select_mixture
from privfed.learners.mixture.selection import Candidate, MixtureSelection
from privfed.statistics.mixture_model import MixtureModel

__all__ = [
    "Candidate",
    "GaussianMixture",
    "MixtureModel",
    "MixtureSelection",
    "RoundReport",
    "expected_excess_nats",
    "select_mixture",
]
