"""A plan in words: what was chosen, why, and what it costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from privfed.plan.terms import Terms

if TYPE_CHECKING:
    from privfed.plan.made import Plan

__all__ = ["explained"]

_PROTECTIONS = {
    "secure_aggregation": "The server sees masked vectors and their sum.",
    "trusted": "The sum is formed in the clear: for experiments, not for protection from the server.",
    "local": "Every client adds enough noise for itself; the server sees every noised vector.",
    "central": "The operator sees every vector and adds the noise once; only who sees the releases is kept out.",
}


def explained(plan: Plan) -> tuple[str, ...]:
    """Return one sentence or two on each choice of a plan."""
    sentences = [
        _grid(plan),
        _noise(plan),
        _drop_outs(plan),
        _sampling(plan.terms),
        _PROTECTIONS[plan.terms.protection],
    ]
    return tuple(sentence for sentence in sentences if sentence)


def _grid(plan: Plan) -> str:
    size = f"{plan.bits} bits a coordinate, {plan.nbytes:,} bytes from each client"
    price = plan.l2_sensitivity / (plan.scale * plan.unit_bound) - 1.0
    if plan.regime == "fine":
        return f"Fine grid, {size}: {plan.why}. No sum can wrap; rounding costs {price:.2g} of the noise."
    padding = f", padded to {plan.length:,} coordinates" if plan.length != plan.dimension else ""
    return (
        f"Coarse grid, {size}{padding}: {plan.why}. A coordinate of the sum wraps with probability"
        f" {plan.wrap_probability:.1g} a round at most; rounding costs {price:.2g} of the noise."
    )


def _noise(plan: Plan) -> str:
    if plan.mechanism == "none":
        return "No noise: whoever sees the sum sees it exactly."
    name = "discrete Gaussian" if plan.mechanism == "discrete_gaussian" else "Skellam"
    who = "the operator adds" if plan.terms.protection == "central" else "each client adds"
    return (
        f"Noise: {who} {name} noise of {plan.share_sigma:.4g} grid steps; the sum of the fewest survivors carries"
        f" {plan.terms.noise_multiplier:.4g} times what one {plan.terms.unit} can move it."
    )


def _drop_outs(plan: Plan) -> str:
    terms = plan.terms
    if terms.tolerated == 0:
        return f"All {terms.planned} clients are needed."
    common = f"Up to {terms.tolerated} of {terms.planned} clients may be lost"
    if plan.mechanism == "none" or terms.protection == "central":
        return f"{common}."
    if terms.drop_outs == "exact":
        return f"{common}; survivors give surplus noise back, so that the sum carries the same whoever is lost."
    extra = math.sqrt(terms.planned / terms.guaranteed) - 1.0
    return f"{common}; shares are sized for {terms.guaranteed}, and if nobody is lost the noise is {extra:.1%} larger."


def _sampling(terms: Terms) -> str:
    sampling = terms.sampling
    if sampling.kind == "none":
        return ""
    if sampling.unit == "record":
        drawn = f"Each client draws its records with probability {sampling.rate:g}, in secret"
        gains = terms.private and terms.unit == "record"
        return f"{drawn}: every view gains by it." if gains else f"{drawn}: nothing is saved by it."
    how = {"poisson": "by coins", "fixed_size": "as a cohort of fixed size", "round_robin": "in turns"}[sampling.kind]
    if sampling.kind == "round_robin":
        gain = "each cohort counts its own rounds"
    elif terms.unit == "client":
        gain = "only who sees nothing but the sums can gain by it"
    else:
        gain = "nothing is saved by it, for a record's client is seen to take part or not"
    return f"The coordinator draws the clients {how}, {sampling.rate:.3g} of them: {gain}."
