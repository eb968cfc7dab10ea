"""Reference values of others, at the tolerances given with them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS, RdpAccountant

from privfed_accounting import LossLedger, ddg_tau, gaussian_epsilon, rdp_epsilon, skellam_rdp
from privfed_accounting.loss_profile import Direction, SampledGaussian
from privfed_accounting.rdp import ORDERS, FloatArray
from privfed_accounting.second_route_plans import sampled_gaussian_divergence
from privfed_accounting.skellam import skellam_branches
from privfed_accounting.subsampled import poisson_gaussian_row, poisson_row

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "accounting" / "golden.json").read_text(encoding="utf-8"))
DISTRIBUTED_ORDERS = (*range(2, 129), 256)
# Held with the auditor.
ELSEWHERE = ("audit_one_run",)


def cases(*prefixes: str) -> list[Any]:
    found = [pytest.param(case, id=case["id"]) for case in GOLDEN if case["id"].startswith(prefixes)]
    if not found:
        raise LookupError(f"no golden value starts with {prefixes}")
    return found


def holds(value: float, case: dict[str, Any], key: str | None = None) -> bool:
    expected = case["value"] if key is None else case["value"][key]
    return value == pytest.approx(expected, rel=case["rel_tol"], abs=0.0)


def test_every_value_is_held_somewhere() -> None:
    text = Path(__file__).read_text(encoding="utf-8")
    prefixes = {part for line in text.splitlines() if "cases(" in line for part in line.split('"')[1::2]}
    left = [case["id"] for case in GOLDEN if not case["id"].startswith((*prefixes, *ELSEWHERE))]
    assert left == []


@pytest.mark.parametrize("case", cases("gauss_exact_"))
def test_exact_gaussian(case: dict[str, Any]) -> None:
    mu = math.sqrt(case["params"]["T"]) / case["params"]["sigma"]
    assert holds(gaussian_epsilon(case["params"]["delta"], mu), case)


@pytest.mark.parametrize("case", cases("gauss_rdp_"))
def test_gaussian_by_renyi(case: dict[str, Any]) -> None:
    params = case["params"]
    row = [a * params["T"] / params["sigma"] ** 2 / 2.0 for a in DEFAULT_RDP_ORDERS]
    assert holds(rdp_epsilon(row, params["delta"], orders=DEFAULT_RDP_ORDERS), case)


@lru_cache
def rows(rate: float, sigma: float) -> tuple[FloatArray, FloatArray]:
    """Renyi divergences at dp-accounting's orders: its own, and exact ones."""
    accountant = RdpAccountant(DEFAULT_RDP_ORDERS)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(sigma)))
    return np.array(accountant._rdp), np.array(
        [sampled_gaussian_divergence(a, rate, sigma**-2) for a in DEFAULT_RDP_ORDERS]
    )


@pytest.mark.parametrize("case", cases("pois_rdp_"))
def test_poisson_by_renyi(case: dict[str, Any]) -> None:
    """The value is that of its divergences; exact ones give the same, or a hair less at fractional orders.

    There dp-accounting adds the terms of an alternating series by their size, and is up to 1e-4 above the integral.
    """
    q, sigma, rounds, delta = (case["params"][name] for name in ("q", "sigma", "T", "delta"))
    theirs, exact = (rounds * row for row in rows(q, sigma))
    assert holds(rdp_epsilon(theirs, delta, orders=DEFAULT_RDP_ORDERS), case)
    each = theirs + np.array(
        [rdp_epsilon([r], delta, orders=(a,)) - r for a, r in zip(DEFAULT_RDP_ORDERS, theirs, strict=True)]
    )
    fractional = DEFAULT_RDP_ORDERS[int(np.argmin(each))] % 1 != 0
    again = rdp_epsilon(exact, delta, orders=DEFAULT_RDP_ORDERS)
    assert again == pytest.approx(case["value"], rel=2e-5 if fractional else case["rel_tol"], abs=0.0)
    assert again <= case["value"] * (1 + 1e-10)
    ours = rdp_epsilon(rounds * poisson_gaussian_row(q, sigma**-2), delta)
    assert again * (1 - 1e-10) <= ours <= again * 1.04, "integer orders cost a little, and never give less"


@pytest.mark.parametrize("case", cases("pois_pld_"))
def test_poisson_by_privacy_losses(case: dict[str, Any]) -> None:
    ledger = LossLedger(step=1e-4, size=2**18)
    ledger.compose(rate=case["params"]["q"], mu=1.0 / case["params"]["sigma"], rounds=case["params"]["T"])
    assert holds(ledger.epsilon(case["params"]["delta"]), case)


@pytest.mark.parametrize("case", cases("pois_tight_"))
def test_poisson_within_the_certified_bracket(case: dict[str, Any]) -> None:
    params = case["params"]
    fine = LossLedger(step=1e-5, size=2**20)
    low = LossLedger(step=1e-4, size=2**17, optimistic=True)
    for ledger in (fine, low):
        ledger.compose(rate=params["q"], mu=1.0 / params["sigma"], rounds=params["T"])
    upper, lower = fine.epsilon(params["delta"]), low.epsilon(params["delta"])
    assert holds(upper, case, "upper")
    assert case["value"]["prv_lower"] < lower < upper < case["value"]["prv_upper"]
    assert lower > upper * (1 - 5e-4)


@pytest.mark.parametrize("case", cases("hetero_pld_"))
def test_rounds_that_each_differ(case: dict[str, Any]) -> None:
    ledger = LossLedger(step=1e-4, size=2**18)
    for r in range(1, case["params"]["rounds"] + 1):
        ledger.compose(rate=0.01 * (1 + 0.1 * math.sin(r)), mu=1.0 / (1 + 1e-4 * r))
    assert holds(ledger.epsilon(case["params"]["delta"]), case)


@dataclass(frozen=True)
class Laplace:
    """A mechanism that is not ours, put through the same machinery: its profile is 1 - exp((x - 1/b)/2)."""

    loss: float

    def above(self, x: FloatArray, direction: Direction) -> FloatArray:
        return np.maximum(-np.expm1(0.5 * (x - self.loss)), 0.0)

    def below(self, x: FloatArray, direction: Direction) -> FloatArray:
        return np.exp(-x) * self.above(x, direction)


@pytest.mark.parametrize("case", cases("laplace_"))
def test_laplace(case: dict[str, Any]) -> None:
    ledger = LossLedger(step=1e-4, size=2**18)
    ledger.rounds = case["params"]["T"]
    ledger._multiply(ledger._sides, Laplace(1.0 / case["params"]["b"]), case["params"]["T"])  # type: ignore[arg-type]
    assert holds(ledger.epsilon(case["params"]["delta"]), case)


@dataclass(frozen=True)
class DiscreteGaussian:
    """One discrete Gaussian on the integers, moved by `shift`; both directions are one."""

    sigma: float
    shift: int

    def above(self, x: FloatArray, direction: Direction) -> FloatArray:
        reach = int(40 * self.sigma) + self.shift
        k = np.arange(-reach, reach + 1.0)
        here = np.exp(-0.5 * (k / self.sigma) ** 2)
        here /= here.sum()
        losses = (k - 0.5 * self.shift) * self.shift / self.sigma**2  # of k under here moved up
        moved = here * np.exp(losses)
        heavy = np.append(np.cumsum(moved[::-1])[::-1], 0.0)
        light = np.append(np.cumsum(here[::-1])[::-1], 0.0)
        first = np.searchsorted(losses, x, side="right")
        return heavy[first] - np.exp(x) * light[first]

    def below(self, x: FloatArray, direction: Direction) -> FloatArray:
        return np.exp(-x) * self.above(x, direction)


@pytest.mark.parametrize("case", cases("dgauss1d_"))
def test_discrete_gaussian_in_one_dimension(case: dict[str, Any]) -> None:
    params = case["params"]
    # At sigma = 1 all losses are halves, and a wide grid holds them exactly.
    ledger = LossLedger(step=1e-4 if params["sigma"] > 1.0 else 5e-3, size=2**18)
    ledger.rounds = params["T"]
    pair = DiscreteGaussian(params["sigma"], params["sens"])
    ledger._multiply(ledger._sides, pair, params["T"])  # type: ignore[arg-type]
    assert holds(ledger.epsilon(params["delta"]), case)


@pytest.mark.parametrize("case", cases("tree_"))
def test_tree_aggregation(case: dict[str, Any]) -> None:
    """Each value is in ceil(log2(steps + 1)) nodes of the tree, each a Gaussian release."""
    params = case["params"]
    mu2 = params["epochs"] * math.ceil(math.log2(params["steps"] + 1)) / params["sigma"] ** 2
    assert holds(gaussian_epsilon(params["delta"], math.sqrt(mu2)), case, "exact_gdp")
    row = [a * mu2 / 2.0 for a in DEFAULT_RDP_ORDERS]
    assert holds(rdp_epsilon(row, params["delta"], orders=DEFAULT_RDP_ORDERS), case, "rdp")


@pytest.mark.parametrize("case", cases("replace_one"))
def test_replace_one(case: dict[str, Any]) -> None:
    """Replacing moves the sum by up to twice the bound."""
    params = case["params"]
    mu = 2.0 * math.sqrt(params["T"]) / params["sigma"]
    epsilon = gaussian_epsilon(params["delta"], mu)
    assert holds(epsilon, case, "exact")
    assert epsilon > 2 * case["value"]["dpa_rdp_WRONG"]
    ledger = LossLedger(step=2e-4, size=2**18)
    ledger._multiply(ledger._sides, SampledGaussian(1.0, mu), 1)
    ledger.rounds = 1
    assert ledger.epsilon(params["delta"]) == pytest.approx(case["value"]["dpa_pld"], rel=1e-7, abs=0.0)


@pytest.mark.parametrize("case", cases("skellam_rdp_"))
def test_skellam_divergence(case: dict[str, Any]) -> None:
    order, l1, l2, mu = (case["params"][name] for name in ("alpha", "l1", "l2", "mu"))
    assert holds(skellam_rdp(order, l1_sensitivity=l1, l2_sensitivity=l2, variance=mu), case)


@pytest.mark.parametrize("case", cases("ddg_tau_"))
def test_tau(case: dict[str, Any]) -> None:
    assert holds(ddg_tau(share_sigma=case["params"]["sigma_int"], shares=case["params"]["n"]), case)


def rounded_norm(*, clip: float, scale: float, dimension: int) -> float:
    """L2 sensitivity on the grid after conditional stochastic rounding, beta = exp(-1/2) (arXiv:2102.06387)."""
    c, d = clip * scale, dimension
    return min(c + math.sqrt(d), math.sqrt(c**2 + d / 4 + math.sqrt(2.0 * 0.5) * (c + math.sqrt(d) / 2)))


def distributed_base(noise: str, *, l2: float, share_sigma: float, clients: int, dimension: int) -> Any:
    """Renyi divergence of the sum of `clients` shares: arXiv:2102.06387, theorem 1, or 2110.04995, corollary 3.6."""
    variance = clients * share_sigma**2
    if noise == "skellam":
        l1 = l2 * min(math.sqrt(dimension), l2)
        first, second = skellam_branches(l1_sensitivity=l1, l2_sensitivity=l2, variance=variance)
        return lambda a: np.minimum(first.xi + first.rho * a, second.xi + second.rho * a)
    tau = ddg_tau(share_sigma=share_sigma, shares=clients)
    ratio = l2 / math.sqrt(variance)
    return lambda a: np.minimum(
        0.5 * a * ratio**2 + tau * dimension, 0.5 * a * (ratio + math.sqrt(dimension) * tau) ** 2
    )


@pytest.mark.parametrize("case", cases("ddg_eps_", "skellam_eps_"))
def test_distributed_noise(case: dict[str, Any]) -> None:
    params = case["params"]
    n, d, scale = params["n"], params["d"], params["scale"]
    share = params["central_noise_multiplier"] * params["c"] * scale / math.sqrt(n)
    l2 = rounded_norm(clip=params["c"], scale=scale, dimension=d)
    base = distributed_base(case["id"].split("_")[0], l2=l2, share_sigma=share, clients=n, dimension=d)
    row = params["T"] * base(np.array(DISTRIBUTED_ORDERS, dtype=float))
    assert holds(rdp_epsilon(row, params["delta"], orders=DISTRIBUTED_ORDERS), case, "eps")
    each = [
        rdp_epsilon([value], params["delta"], orders=(a,)) for a, value in zip(DISTRIBUTED_ORDERS, row, strict=True)
    ]
    assert DISTRIBUTED_ORDERS[int(np.argmin(each))] == case["value"]["order"]


@pytest.mark.parametrize("case", cases("emnist_"))
def test_compressed_training(case: dict[str, Any]) -> None:
    """At their scale, noise found for their epsilon is theirs, and the ring holds k standard deviations."""
    _, noise, target, bits = case["id"].split("_")
    params, value = case["params"], case["value"]
    n, d, clip, scale = params["n"], params["d"], params["clip"], value["scale"]
    l2, orders = rounded_norm(clip=clip, scale=scale, dimension=d), tuple(range(2, 49))

    def epsilon(local: float) -> float:
        base = distributed_base(noise, l2=l2, share_sigma=local * scale, clients=n, dimension=d)
        row = params["T"] * poisson_row(n / params["N"], base, orders)
        return rdp_epsilon(row, 1 / 3400, orders=orders)

    low, high = 0.5 * value["local_std"], 2.0 * value["local_std"]
    for _ in range(14):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if epsilon(middle) <= float(target[3:]) else (middle, high)
    assert holds(high, case, "local_std")
    assert holds(high * math.sqrt(n) / clip, case, "central_noise_multiplier")
    spread = math.sqrt((clip * n) ** 2 / d + (0.25 / scale**2 + high**2) * n)
    assert holds(2.0 ** int(bits[1:]) / (2 * params["k"] * spread), case, "scale")


@pytest.mark.parametrize("case", cases("toeplitz_"))
def test_correlated_noise_is_one_gaussian(case: dict[str, Any]) -> None:
    """Square-root Toeplitz noise, one participation: a Gaussian of mu^2 = sum of squared coefficients / sigma^2."""
    mu2, coefficient = 0.0, 1.0
    for k in range(1, case["params"]["n"] + 1):
        mu2 += coefficient**2
        coefficient *= (2 * k - 1) / (2 * k)
    assert holds(mu2, case)
    row = [a * mu2 / 2.0 for a in ORDERS]
    assert (
        gaussian_epsilon(1e-5, math.sqrt(mu2)) < rdp_epsilon(row, 1e-5) < 1.2 * gaussian_epsilon(1e-5, math.sqrt(mu2))
    )
