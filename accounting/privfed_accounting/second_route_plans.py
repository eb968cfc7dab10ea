"""The second route for rounds that are no plain Gaussians: from a plan's written fields, no code shared with the first.

Who knows which noise and who cannot see the sample is written out again from accounting/README.md. Sampled Gaussians
are integrated by the trapezoidal rule where the first route sums binomial terms in logarithms; the bounds that are sums
go over exact integers; divergences become epsilon by bisection on delta.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Final

import numpy as np

from privfed_accounting.second_route import Cost, bisected, delta_by_quadrature, lowest, round_cost, slack_of

Base = Callable[[int], float]

_INFINITE: Final = math.inf


@dataclass(frozen=True)
class PlanCost(Cost):
    """Cost of a round: the four numbers, and the Renyi divergences and the cohort where there are any."""

    rdp: tuple[float, ...] = ()
    cohort: str = ""


def plan_cost(
    plan: Mapping[str, Any], view: str, survivors: int | None, *, exponent: float, orders: tuple[int, ...]
) -> PlanCost | None:
    """Cost of a round to a view, from the plan's written fields; None if it is infinite.

    Args:
        plan: what `RoundPlan.as_dict` gives, fields later than schema version 1 present or not.
        view: its name.
        survivors: as many as there were; None for what the plan guarantees.
        exponent: tail exponent of the fine grid.
        orders: of the Renyi divergences.
    """
    shares, share_variance = _unknown(plan, view, survivors)
    if plan["mechanism"] == "none" or shares == 0:
        return None
    sampling = plan.get("sampling", {"kind": "none", "unit": "record", "rate": 1.0, "turn": 0})
    hidden = _hidden(plan, sampling, view)
    # A client's rows are spread over all cohorts of rows: only rows, or whole clients, have one turn each.
    by_turns = sampling["kind"] == "round_robin" and (sampling["unit"], plan["unit"]) != ("record", "client")
    cohort = f"{sampling['unit']}:{sampling['size']}/{sampling['population']}:{sampling['turn']}" if by_turns else ""
    exact = plan.get("drop_outs", "provision") == "exact"
    tolerated = plan["planned_shares"] - plan["guaranteed_shares"]
    if plan["mechanism"] == "skellam":
        draws = shares * (tolerated + 1) if exact else shares
        distance = float(Fraction(plan["sampler_distance"]) * draws * plan["dimension"])
        row = _skellam_row(
            Fraction(plan["l1_sensitivity"]),
            Fraction(plan["l2_sensitivity"]),
            shares * share_variance,
            sampling["kind"] if hidden else "none",
            sampling["rate"],
            orders,
        )
        return PlanCost(0.0, 0.0, 0.0, distance, row, cohort)
    cost = _grid_cost(plan, shares, share_variance, tolerated, exponent=exponent, exact=exact)
    if not hidden:
        return PlanCost(cost.mu2, cost.epsilon_slack, cost.delta_tail, cost.sampler_distance, (), cohort)
    row = _gaussian_row(cost.mu2, sampling["kind"], sampling["rate"], orders)
    return PlanCost(0.0, cost.epsilon_slack, cost.delta_tail, cost.sampler_distance, row, cohort)


def joint_epsilon(costs: Iterable[PlanCost], delta: float, *, orders: tuple[int, ...]) -> float:
    """Least epsilon at which all rounds together stay within delta, by bisection on the whole bound, or infinity."""
    mu2, slack, tail, distance, row = _summed(list(costs), len(orders))
    if not any((mu2, slack, tail, distance, *row)):
        return 0.0
    if not all(map(math.isfinite, (mu2, slack, tail, distance))) or slack > 600.0 or mu2 > 1e6:
        return _INFINITE
    mu = math.sqrt(mu2)
    divergences = [a * mu2 / 2.0 + r for a, r in zip(orders, row, strict=True)] if any(row) else []

    def ideal(epsilon: float) -> float:
        if not divergences:
            return delta_by_quadrature(epsilon, mu)
        return min(
            math.exp(min(0.0, (a - 1) * (r - epsilon))) * (1.0 - 1.0 / a) ** a / (a - 1) if r < epsilon + 600.0 else 1.0
            for a, r in zip(orders, divergences, strict=True)
        )

    def ideal_high() -> float:
        if not divergences:
            return 0.5 * mu2 + mu * math.sqrt(2.0 * (math.log(4.0 / delta) + slack))
        return min(r + (math.log(4.0 / delta) + slack) / (a - 1) for a, r in zip(orders, divergences, strict=True))

    def bound(epsilon: float) -> float:
        grown = math.exp(epsilon) if epsilon <= 700.0 else _INFINITE
        leak = grown * tail + (1.0 + grown) * distance if tail + distance > 0.0 else 0.0
        return ideal(epsilon - slack) * math.exp(slack) + leak

    high = slack + ideal_high()
    if bound(high) > delta:
        if tail + distance == 0.0 or not delta - distance > math.exp(slack) * (tail + distance):
            return _INFINITE
        high = lowest(bound, low=slack, high=min(high, math.log((delta - distance) / (tail + distance))))
        if bound(high) > delta:
            return _INFINITE
    return bisected(bound, low=slack, high=high, delta=delta)


def _summed(costs: list[PlanCost], width: int) -> tuple[float, float, float, float, list[float]]:
    """All numbers added; of cohorts that take turns, the largest of each number."""
    groups: dict[str, list[PlanCost]] = {}
    for cost in costs:
        groups.setdefault(getattr(cost, "cohort", ""), []).append(cost)
    rotas: dict[str, list[list[float]]] = {}
    for name, members in groups.items():
        columns = [[c.mu2, c.epsilon_slack, c.delta_tail, c.sampler_distance, *_padded(c, width)] for c in members]
        rotas.setdefault(name.rpartition(":")[0], []).append(
            [math.fsum(column) for column in zip(*columns, strict=True)]
        )
    largest = [[max(column) for column in zip(*members, strict=True)] for members in rotas.values()]
    numbers = [math.fsum(column) for column in zip(*largest, strict=True)]
    numbers = numbers or [0.0] * (4 + width)
    return numbers[0], numbers[1], numbers[2], numbers[3], numbers[4:]


def _padded(cost: Cost, width: int) -> tuple[float, ...]:
    return getattr(cost, "rdp", ()) or (0.0,) * width


# --- who knows what ---------------------------------------------------------------------------------------------------


def _unknown(plan: Mapping[str, Any], view: str, survivors: int | None) -> tuple[int, Fraction]:
    """Noise shares that a view does not know, and the variance of each."""
    planned, fewest = plan["planned_shares"], plan["guaranteed_shares"]
    alive = fewest if survivors is None else survivors
    variance = Fraction(plan["share_sigma"]) ** 2
    colluders = re.fullmatch(r"colluders\((\d+)\)", view)
    if plan["protection"] == "central":
        return (1 if view in ("released", "client") else 0), variance
    if plan["protection"] == "local" and (view == "server" or colluders):
        return min(alive, 1), variance
    if view == "unmasked":
        shares = min(alive, 1)
    else:
        known = int(colluders.group(1)) if colluders else {"released": 0, "server": 0, "client": 1}[view]
        shares = max(alive - known, 0)
    if plan.get("drop_outs", "provision") == "exact":
        # v = fewest * share_sigma^2 in all, and the same part of it from everybody who stayed.
        everybody = planned if survivors is None and view == "unmasked" else max(alive, fewest)
        variance = variance * fewest / everybody
    return shares, variance


def _hidden(plan: Mapping[str, Any], sampling: Mapping[str, Any], view: str) -> bool:
    if sampling["kind"] not in ("poisson", "fixed_size") or sampling["rate"] == 1.0:
        return False
    if sampling["unit"] == "record":
        return bool(plan["unit"] == "record")
    # One row of a client that was not drawn stays away together with all the others.
    constant = plan.get("drop_outs", "provision") == "exact" or plan["protection"] == "central"
    return bool(plan["unit"] == "client") and constant and view == "released"


# --- divergences ------------------------------------------------------------------------------------------------------


def _grid_cost(
    plan: Mapping[str, Any], shares: int, share_variance: Fraction, tolerated: int, *, exponent: float, exact: bool
) -> Cost:
    if not exact:
        return round_cost(
            l2_sensitivity=plan["l2_sensitivity"],
            dimension=plan["dimension"],
            share_sigma=plan["share_sigma"],
            shares=shares,
            sampler_distance=plan["sampler_distance"],
            exponent=exponent,
        )
    planned, fewest, dimension = plan["planned_shares"], plan["guaranteed_shares"], plan["dimension"]
    total = fewest * Fraction(plan["share_sigma"]) ** 2
    parts = [total / planned] + [total / ((planned - k) * (planned - k + 1)) for k in range(1, tolerated + 1)]
    tau = 10.0 * planned * len(parts) * math.exp(-(math.pi**2) * float(min(parts)))
    unknown = shares * share_variance
    return Cost(
        mu2=float(Fraction(plan["l2_sensitivity"]) ** 2 / unknown),
        epsilon_slack=slack_of(dimension, unknown, exponent) + dimension * tau,
        delta_tail=math.exp(-exponent),
        sampler_distance=float(Fraction(plan["sampler_distance"]) * planned * len(parts) * dimension),
    )


@lru_cache(maxsize=1024)
def _skellam_row(
    l1: Fraction, l2: Fraction, variance: Fraction, kind: str, rate: float, orders: tuple[int, ...]
) -> tuple[float, ...]:
    base = _skellam_base(l1, l2, variance)
    if kind == "poisson":
        return tuple(_any_poisson(base, a, rate) for a in orders)
    if kind == "fixed_size":
        replaced = _skellam_base(2 * l1, 2 * l2, variance)
        return tuple(_any_fixed_size(base, replaced, a, rate) for a in orders)
    return tuple(base(a) for a in orders)


def _skellam_base(l1: Fraction, l2: Fraction, mu: Fraction) -> Base:
    """The branch of arXiv:2110.04995, corollary 3.6, that is smaller at order 16, in rational arithmetic."""

    def first(a: int) -> Fraction:
        return a * l2**2 / (2 * mu) + max(a * l2**2 / (2 * mu**2), ((2 * a - 1) * l2**2 + 6 * l1) / (4 * mu**2))

    def second(a: int) -> Fraction:
        return a * l2**2 / (2 * mu) + 3 * l1 / (2 * mu)

    chosen = first if first(16) <= second(16) else second
    # Affine in the order: two values give all of them.
    slope = chosen(3) - chosen(2)
    offset = chosen(2) - 2 * slope
    rho, xi = float(slope), float(offset)
    return lambda a: xi + rho * a


@lru_cache(maxsize=1024)
def _gaussian_row(mu2: float, kind: str, rate: float, orders: tuple[int, ...]) -> tuple[float, ...]:
    if kind == "poisson":
        return tuple(min(sampled_gaussian_divergence(a, rate, mu2), a * mu2 / 2.0) for a in orders)
    return tuple(_any_fixed_size(lambda a: a * mu2 / 2.0, lambda a: a * 2.0 * mu2, a, rate) for a in orders)


def sampled_gaussian_divergence(order: float, rate: float, mu2: float) -> float:
    """Renyi divergence of any order > 1 of (1 - q) N(0, 1) + q N(mu, 1) from N(0, 1), by the trapezoidal rule.

    With w the ratio of densities and E w = 1, the mean of w^a - 1 - a (w - 1) is A - 1: all of it positive. The
    integrand is analytic around the real line, and the rule's error falls like exp(-2 pi^2 / (mu step)).
    """
    mu = math.sqrt(mu2)
    step = min(0.25, 0.5 / mu)
    z = np.arange(-14.0, order * mu + 14.0, step)
    exponents = mu * z - 0.5 * mu2
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        x = rate * np.expm1(np.minimum(exponents, 600.0))
        log_w = np.where(
            exponents > 30.0,
            exponents + math.log(rate) + np.log1p((1.0 - rate) / rate * np.exp(-exponents)),
            np.log1p(x),
        )
        power = order * log_w
        direct = np.expm1(np.minimum(power, 600.0)) - order * x
        small = np.abs(order * x) < 1e-3
        series = (
            0.5
            * order
            * (order - 1.0)
            * x
            * x
            * (1.0 + (order - 2.0) / 3.0 * x * (1.0 + (order - 3.0) / 4.0 * x * (1.0 + (order - 4.0) / 5.0 * x)))
        )
        logs = np.where(power > 60.0, power, np.log(np.maximum(np.where(small, series, direct), 1e-320)))
    logs = logs - 0.5 * z * z
    top = float(logs.max())
    total = top + math.log(math.fsum(np.exp(logs - top).tolist())) + math.log(step / math.sqrt(2.0 * math.pi))
    moment = math.log1p(math.exp(total)) if total < 30.0 else total + math.log1p(math.exp(-total))
    return moment / (order - 1.0)


def _any_poisson(base: Base, order: int, rate: float) -> float:
    """Zhu and Wang 2019, theorem 5, over exact binomial coefficients; at most the unsampled divergence."""
    logs = [
        log_choices
        + k * math.log(rate)
        + (order - k) * math.log1p(-rate)
        + _minus_one((k - 1) * base(k), 1.0 if k == 2 else 3.0)
        for k, log_choices in _choices(order)
    ]
    return min(_from_excess(logs, order), base(order))


def _any_fixed_size(base: Base, replaced: Base, order: int, rate: float) -> float:
    """arXiv:1808.00087, theorem 9, over exact binomial coefficients; at most the unsampled divergence."""
    logs = []
    for k, log_choices in _choices(order):
        exponent = (k - 1) * replaced(k)
        factor = math.log(2.0) + exponent
        if k == 2:
            factor = min(factor, math.log(4.0) + _minus_one(exponent, 1.0))
        logs.append(log_choices + k * math.log(rate) + factor)
    return min(_from_excess(logs, order), base(order))


@lru_cache(maxsize=128)
def _choices(order: int) -> tuple[tuple[int, float], ...]:
    """For k = 2, ..., order: k and log C(order, k), of exact integers."""
    found, choices = [], order
    for k in range(2, order + 1):
        choices = choices * (order - k + 1) // k
        found.append((k, math.log(choices)))
    return tuple(found)


def _minus_one(exponent: float, factor: float) -> float:
    """log(factor e^exponent - 1)."""
    rest = -math.expm1(-exponent) if factor == 1.0 else factor - math.exp(-exponent)
    return exponent + math.log(rest)


def _from_excess(logs: list[float], order: int) -> float:
    top = max(logs)
    total = top + math.log(math.fsum(math.exp(each - top) for each in logs))
    return (math.log1p(math.exp(total)) if total < 30.0 else total + math.log1p(math.exp(-total))) / (order - 1)
