"""What a round costs in a view: the noise the view does not know, the mechanism's divergence, and the sampler's share.

One place for all of it, in three steps: `unknown_noise` (protection, drop-outs, view), the cost of the round as if
everybody took part, and, only in views that cannot see the sample (`hides_sample`), the amplified cost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from privfed_accounting.charge import Charge
from privfed_accounting.errors import ParameterError
from privfed_accounting.fine_grid import exact_drop_out_charge, fine_grid_charge
from privfed_accounting.rdp import FloatArray
from privfed_accounting.skellam import skellam_event
from privfed_accounting.subsampled import fixed_size_row, poisson_gaussian_row, poisson_row
from privfed_accounting.views import View
from privfed_accounting.zcdp import ZCdp

if TYPE_CHECKING:
    from privfed_accounting.round_plan import RoundPlan

_ROUND_UP = 1.0 + 1e-14


@dataclass(frozen=True)
class UnknownNoise:
    """Noise of the sum that a view does not know.

    Attributes:
        shares: number of shares; 0 leaves no privacy.
        share_variance: of each, in grid steps^2.
    """

    shares: int
    share_variance: float

    @property
    def variance(self) -> float:
        """Of all of it."""
        return self.shares * self.share_variance


def unknown_noise(plan: RoundPlan, view: View, survivors: int | None) -> UnknownNoise:
    """Noise that a view does not know, at as many survivors, or at the number the plan allows that is worst for it."""
    surviving = plan.guaranteed_shares if survivors is None else survivors
    shares = view.noise_shares(surviving)
    variance = plan.share_sigma * plan.share_sigma
    if plan.protection == "central":
        # One share, the operator's own; who sees with the operator's eyes sees the data.
        return UnknownNoise(1 if view.kind in ("released", "client") else 0, variance)
    if plan.protection == "local" and view.kind in ("server", "colluders"):
        return UnknownNoise(min(1, surviving), variance)
    if plan.drop_outs == "exact":
        # The sum carries v whoever dropped, v/s from each survivor: one survivor's part is least when all survive.
        if survivors is None and view.kind == "unmasked":
            surviving = plan.planned_shares
        variance = variance * plan.guaranteed_shares / max(surviving, plan.guaranteed_shares)
    return UnknownNoise(shares, variance)


def hides_sample(plan: RoundPlan, view: View) -> bool:
    """Whether a view learns nothing of who or what was sampled, and the noise does not tell either.

    Records drawn in secret at the clients: every view, if a record is what is protected. Clients drawn by the
    coordinator: only if a client is what is protected, only who sees nothing but the sums, and only if the sum's noise
    is the same whoever was drawn. For a record, a round without its client is a third case: it differs from a round
    with it by all the rest of the client's rows, tells which of the two took place, and leaves nothing to amplify.
    """
    sampling = plan.sampling
    if sampling.kind not in ("poisson", "fixed_size") or sampling.rate == 1.0:
        return False
    if sampling.unit != plan.unit:
        return False
    if sampling.unit == "record":
        return True
    return view.kind == "released" and (plan.drop_outs == "exact" or plan.protection == "central")


def round_charge(plan: RoundPlan, view: View, survivors: int | None = None) -> Charge:
    """Cost of a round in a view; see `RoundPlan.charge`."""
    noise = unknown_noise(plan, view, survivors)
    if not plan.private or noise.shares == 0:
        return Charge.non_private()
    hidden = hides_sample(plan, view)
    if plan.mechanism == "skellam":
        charge = _skellam_charge(plan, noise, hidden=hidden)
    else:
        charge = _grid_charge(plan, noise)
        if hidden:
            row = _gaussian_row(charge.mu2, plan.sampling.kind, plan.sampling.rate)
            charge = replace(charge, mu2=0.0, rdp=row)
    return replace(charge, cohort=plan.sampling.cohort) if _takes_turns(plan) else charge


def round_event(plan: RoundPlan, view: View, survivors: int | None = None) -> ZCdp | None:
    """(rho, xi) of a Skellam round in a view, as if nothing were sampled; None for every other round."""
    noise = unknown_noise(plan, view, survivors)
    if plan.mechanism != "skellam" or noise.shares == 0:
        return None
    return skellam_event(
        l1_sensitivity=plan.l1_sensitivity, l2_sensitivity=plan.l2_sensitivity, variance=noise.variance
    )


def _takes_turns(plan: RoundPlan) -> bool:
    """Whether the protected unit is in one cohort of a rota only."""
    sampling = plan.sampling
    return sampling.kind == "round_robin" and (sampling.unit == "client" or plan.unit == "record")


def _grid_charge(plan: RoundPlan, noise: UnknownNoise) -> Charge:
    if plan.drop_outs == "exact":
        return exact_drop_out_charge(
            l2_sensitivity=plan.l2_sensitivity,
            dimension=plan.dimension,
            total_variance=plan.share_sigma * plan.share_sigma * plan.guaranteed_shares,
            unknown_variance=noise.variance,
            planned=plan.planned_shares,
            tolerated=plan.tolerated,
            sampler_distance=plan.sampler_distance,
        )
    return fine_grid_charge(
        l2_sensitivity=plan.l2_sensitivity,
        dimension=plan.dimension,
        share_sigma=plan.share_sigma,
        shares=noise.shares,
        sampler_distance=plan.sampler_distance,
    )


def _skellam_charge(plan: RoundPlan, noise: UnknownNoise, *, hidden: bool) -> Charge:
    """Cost under Skellam noise: sums of shares are Skellam again, so there is no slack and no tail."""
    l1, l2, variance = plan.l1_sensitivity, plan.l2_sensitivity, noise.variance
    draws = noise.shares * (plan.tolerated + 1 if plan.drop_outs == "exact" else 1)
    distance = plan.sampler_distance * draws * plan.dimension * _ROUND_UP
    if hidden:
        row = _sampled_skellam_row(l1, l2, variance, plan.sampling.kind, plan.sampling.rate)
    else:
        row = tuple(skellam_event(l1_sensitivity=l1, l2_sensitivity=l2, variance=variance).row().tolist())
    return Charge(mu2=0.0, sampler_distance=distance, rdp=row)


@lru_cache(maxsize=1024)
def _gaussian_row(mu2: float, kind: str, rate: float) -> tuple[float, ...]:
    if kind == "poisson":
        return tuple(poisson_gaussian_row(rate, mu2).tolist())
    if kind != "fixed_size":
        raise ParameterError(f"sampling {kind!r} has no amplified cost")
    row = fixed_size_row(rate, _affine(ZCdp(mu2 / 2.0)), _affine(ZCdp(2.0 * mu2)))
    return tuple(row.tolist())


@lru_cache(maxsize=1024)
def _sampled_skellam_row(l1: float, l2: float, variance: float, kind: str, rate: float) -> tuple[float, ...]:
    base = _affine(skellam_event(l1_sensitivity=l1, l2_sensitivity=l2, variance=variance))
    if kind == "poisson":
        return tuple(poisson_row(rate, base).tolist())
    replaced = _affine(skellam_event(l1_sensitivity=2.0 * l1, l2_sensitivity=2.0 * l2, variance=variance))
    return tuple(fixed_size_row(rate, base, replaced).tolist())


def _affine(event: ZCdp) -> Callable[[FloatArray], FloatArray]:
    """Divergence of an event at each of an array of orders, rounded up."""
    return lambda orders: np.asarray((event.xi + event.rho * orders) * _ROUND_UP)
