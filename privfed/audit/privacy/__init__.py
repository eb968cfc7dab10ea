"""Empirical audits of differential privacy: lower bounds and known answers through the real path of a release.

Smoke tests that the noise is there, and is what was promised; never a proof.
"""

from privfed.audit.findings import Finding
from privfed.audit.privacy.audit import CAVEAT, FederationFactory, PrivacyAudit, audit_privacy
from privfed.audit.privacy.cosine import (
    CanaryClients,
    canary_clients,
    canary_epsilon,
    cosine_p_value,
    gaussian_pair_epsilon,
)
from privfed.audit.privacy.one_run import Guesses, guess, one_run_epsilon, one_run_p_value

__all__ = [
    "CAVEAT",
    "CanaryClients",
    "FederationFactory",
    "Finding",
    "Guesses",
    "PrivacyAudit",
    "audit_privacy",
    "canary_clients",
    "canary_epsilon",
    "cosine_p_value",
    "gaussian_pair_epsilon",
    "guess",
    "one_run_epsilon",
    "one_run_p_value",
]
