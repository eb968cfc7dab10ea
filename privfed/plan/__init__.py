"""The plan of a release: scale, bits, noise and sensitivity made together, so that they cannot disagree.

The coordinator sends `Terms`; each client derives the `Plan` from terms and query by the same function and binds
its masks to the digest. A coordinator that tells two clients different terms gets masks that do not cancel.
"""

from privfed.plan.made import Plan, make_plan
from privfed.plan.outlook import Preview, preview
from privfed.plan.terms import SamplingTerms, Terms, decode_terms, tolerated_losses

__all__ = ["Plan", "Preview", "SamplingTerms", "Terms", "decode_terms", "make_plan", "preview", "tolerated_losses"]
