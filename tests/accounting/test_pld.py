"""Privacy losses in the Fourier domain: two-sided, both directions, any order of rounds, and the traps of others."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from privfed_accounting import (
    LossLedger,
    NumericalError,
    ParameterError,
    Sampling,
    calibrate,
    gaussian_delta,
    gaussian_epsilon,
    rdp_epsilon,
    schedule_bounds,
)
from privfed_accounting.loss_profile import SampledGaussian, optimistic_cells, pessimistic_cells
from privfed_accounting.pld import DIRECTIONS
from privfed_accounting.subsampled import poisson_gaussian_row
from tests.accounting.plans import plan

SMALL = {"step": 1e-3, "size": 2**15}


def composed(*rounds: tuple[float, float, int], replacing: bool = False, **settings: float | int | bool) -> LossLedger:
    ledger = LossLedger(**{**SMALL, **settings})  # type: ignore[arg-type]
    for rate, mu, count in rounds:
        ledger.compose(rate=rate, mu=mu, rounds=count, replacing=replacing)
    return ledger


@given(st.floats(0.05, 1.0), st.floats(0.02, 4.0), st.floats(0.0, 6.0))
@settings(max_examples=60, deadline=None)
def test_profile_of_one_round_is_the_integral(rate: float, mu: float, epsilon: float) -> None:
    """The closed form against the integral of the positive part, and both directions against each other."""
    z = np.linspace(-12.0, mu + 12.0, 40_001)
    base = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    mixed = (1 - rate) * base + rate * np.exp(-0.5 * (z - mu) ** 2) / math.sqrt(2 * math.pi)
    pair, at = SampledGaussian(rate, mu), np.array([epsilon])
    for direction, upper, lower in (("remove", mixed, base), ("add", base, mixed)):
        expected = np.trapezoid(np.maximum(upper - math.exp(epsilon) * lower, 0.0), z)
        assert pair.above(at, direction)[0] == pytest.approx(expected, rel=1e-4, abs=1e-9)  # type: ignore[arg-type]
        mirrored = np.trapezoid(np.maximum(upper - math.exp(-epsilon) * lower, 0.0), z) - (1 - math.exp(-epsilon))
        assert pair.below(at, direction)[0] == pytest.approx(mirrored, rel=1e-4, abs=1e-8)  # type: ignore[arg-type]


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("rate", "mu"), [(0.01, 1.0), (0.3, 0.2), (1.0, 2.0)])
def test_cells_are_distributions_above_and_below_the_truth(direction: str, rate: float, mu: float) -> None:
    pair, step = SampledGaussian(rate, mu), 0.01
    high = pessimistic_cells(pair, direction, step=step, reach=2000)  # type: ignore[arg-type]
    low, shift = optimistic_cells(pair, direction, step=step, reach=2000)  # type: ignore[arg-type]
    assert high.mass.sum() + high.infinite == pytest.approx(1.0, abs=1e-10)
    assert 0.999 < low.mass.sum() <= 1.0 + 1e-10
    losses = step * (high.first + np.arange(high.mass.size))
    assert np.dot(high.mass, np.exp(-losses)) <= 1.0 + 1e-9, "the other side's probabilities"
    lower_losses = step * (low.first + np.arange(low.mass.size)) + shift
    for epsilon in np.arange(0.005, 3.0, 0.0771):
        truth = float(pair.above(np.array([epsilon]), direction)[0])  # type: ignore[arg-type]
        above = float(np.sum(high.mass * np.maximum(-np.expm1(epsilon - losses), 0.0))) + high.infinite
        below = float(np.sum(low.mass * np.maximum(-np.expm1(epsilon - lower_losses), 0.0)))
        assert below - 1e-12 <= truth <= above + 1e-12


@pytest.mark.parametrize("mu", [0.1, 1.0, 2.5])
@pytest.mark.parametrize("rounds", [1, 30])
def test_plain_gaussians_are_bracketed(mu: float, rounds: int) -> None:
    each = mu / math.sqrt(rounds)
    pair = SampledGaussian(1.0, each)
    ledgers = [LossLedger(step=1e-3, size=2**16, optimistic=optimistic) for optimistic in (False, True)]
    for ledger in ledgers:
        ledger._multiply(ledger._sides, pair, rounds)  # not through mu^2: the convolution itself
        ledger.rounds = rounds
    exact = gaussian_epsilon(1e-5, mu)
    assert ledgers[1].epsilon(1e-5) <= exact <= ledgers[0].epsilon(1e-5)
    assert ledgers[0].epsilon(1e-5) == pytest.approx(exact, rel=1e-3)
    assert ledgers[1].epsilon(1e-5) == pytest.approx(exact, rel=1e-2)
    assert ledgers[0].delta(1.0) == pytest.approx(gaussian_delta(1.0, mu), rel=1e-3, abs=1e-12)


def test_order_does_not_matter_and_every_round_costs() -> None:
    rounds = [(0.02, 1.0, 10), (0.5, 0.3, 2), (1.0, 0.4, 1), (0.1, 0.7, 3)]
    values = [composed(*order).epsilon(1e-6) for order in itertools.permutations(rounds, 4)]
    assert values == pytest.approx([values[0]] * 24, rel=1e-9)
    for left_out in range(4):
        assert composed(*(rounds[:left_out] + rounds[left_out + 1 :])).epsilon(1e-6) < values[0] * (1 - 1e-3)
    assert composed((0.02, 1.0, 3)).epsilon(1e-6) == pytest.approx(
        composed((0.02, 1.0, 1), (0.02, 1.0, 1), (0.02, 1.0, 1)).epsilon(1e-6), rel=1e-9
    )


def test_both_directions_are_kept() -> None:
    """Neither bounds the other once rounds are many and delta small or large: the larger is told."""
    ledger = composed((0.4, 2.0, 4), step=2e-3)
    sides = [ledger._tails(ledger._sides[direction]).epsilon(1e-6) for direction in DIRECTIONS]
    assert ledger.epsilon(1e-6) == max(sides)
    assert sides[0] != pytest.approx(sides[1], rel=1e-3)


@pytest.mark.parametrize(("rate", "mu", "rounds", "delta"), [(0.05, 0.8, 40, 1e-6), (0.2, 0.5, 10, 1e-4)])
def test_peer(rate: float, mu: float, rounds: int, delta: float) -> None:
    accountant = PLDAccountant(value_discretization_interval=1e-3)
    accountant.compose(PoissonSampledDpEvent(rate, GaussianDpEvent(1 / mu)), rounds)
    upper = composed((rate, mu, rounds)).epsilon(delta)
    assert upper == pytest.approx(accountant.get_epsilon(delta), rel=1e-6)
    lower = composed((rate, mu, rounds), optimistic=True).epsilon(delta)
    assert 0.98 * upper < lower < upper
    assert upper < rdp_epsilon(rounds * poisson_gaussian_row(rate, mu * mu), delta)


def test_a_delta_too_small_to_tell_is_infinite() -> None:
    ledger = composed((0.01, 1.0, 100))
    assert ledger.epsilon(1e-18) == math.inf
    assert ledger.numerical_error < 1e-10
    assert ledger.epsilon(1e-5) < ledger.epsilon(1e-9) < math.inf
    assert ledger.delta(0.0) > ledger.delta(1.0) > ledger.delta(5.0) > 0.0


def test_losses_beyond_the_grid_count_as_infinite() -> None:
    tight = LossLedger(step=1e-3, size=2**13)  # up to 4.1
    tight.compose(rate=0.9, mu=1.0, rounds=4)
    assert tight.epsilon(1e-6) == math.inf
    wide = composed((0.9, 1.0, 4), step=2e-3)
    assert 4.1 < wide.epsilon(1e-6) < math.inf


def test_sums_beyond_the_grid_do_not_fold_back() -> None:
    """Each round's losses fit, their sum does not: what the transform wraps around must not count as harmless."""
    narrow = LossLedger(step=1e-3, size=2**12)  # up to 2.0, where the mean of the sum is 4
    narrow.compose(rate=0.9, mu=0.3, rounds=100)
    assert narrow._sides["remove"].infinite < 1e-3
    assert narrow.epsilon(1e-5) == math.inf
    assert narrow.delta(1.0) == 1.0


def test_the_central_limit_would_tell_too_little() -> None:
    """The normal approximation to one sampled round: epsilon .037 where .199 is the truth."""
    q, delta = 0.01, 1e-5
    limit = q * math.sqrt(math.expm1(1.0))
    assert gaussian_epsilon(delta, limit) == pytest.approx(0.037, abs=5e-4)
    both = [composed((q, 1.0, 1), optimistic=optimistic).epsilon(delta) for optimistic in (False, True)]
    assert both == pytest.approx([0.199, 0.199], abs=2e-3)


def exact_fixed_size(sigma: float, others: tuple[float, ...], epsilon: float) -> float:
    """Larger direction of the exact divergence of a cohort of 2 of 4 with one contribution 1 or 0, in one dimension."""
    grid = np.linspace(-20.0, 20.0, 20_001)

    def density(values: tuple[float, ...]) -> np.ndarray:
        sums = [sum(pair) for pair in itertools.combinations(values, 2)]
        mixture = sum(np.exp(-0.5 * ((grid - s) / sigma) ** 2) for s in sums)
        return np.asarray(mixture / np.trapezoid(mixture, grid))

    there, gone = density((1.0, *others)), density((0.0, *others))
    sticks = [np.maximum(a - math.exp(epsilon) * b, 0.0) for a, b in ((there, gone), (gone, there))]
    return max(float(np.trapezoid(stick, grid)) for stick in sticks)


def test_fixed_size_cohorts_stay_under_their_profile_and_above_poisson() -> None:
    """Poisson at the same rate is no bound for them: a replacement shows more than an absence."""
    sigma, beaten = 1.0, False
    bound, poisson = composed((0.5, 1 / sigma, 1), replacing=True), composed((0.5, 1 / sigma, 1))
    for epsilon in (0.1, 0.5, 1.0, 1.5):
        for others in itertools.product((-1.0, 0.0, 1.0), repeat=3):
            exact = exact_fixed_size(sigma, others, epsilon)
            assert exact <= bound.delta(epsilon) + 1e-9
            beaten = beaten or exact > 1.01 * poisson.delta(epsilon)
    assert beaten


def test_every_sampler_is_accounted_as_what_it_is() -> None:
    """100 of 1000, 1000 rounds, noise multiplier 5: Poisson, a cohort of fixed size, a rota, nobody sampled."""
    common: dict[str, Any] = {"mu2": 0.04, "drop_outs": "exact", "unit": "client", "sampler_distance": 0.0}
    poisson = plan(sampling=Sampling.poisson(0.1, unit="client"), **common)
    cohort = plan(sampling=Sampling.fixed_size(100, 1000, unit="client"), **common)
    found = {}
    for name, each in (("poisson", poisson), ("cohort", cohort), ("all", plan(**common))):
        bounds = schedule_bounds([(each, None, 1000)], "released", 1e-5)
        assert bounds is not None
        assert bounds.lower <= bounds.upper
        found[name] = bounds.upper
    found["rota"] = gaussian_epsilon(1e-5, 0.2 * math.sqrt(100))
    page = (Path(__file__).resolve().parents[2] / "accounting" / "README.md").read_text(encoding="utf-8")
    told = f"Poisson {found['poisson']:.2f}, cohorts of fixed size {found['cohort']:.2f}, a rota {found['rota']:.2f}."
    assert told in page
    assert found["poisson"] < 0.55 * found["cohort"] < 0.55 * found["rota"] < 0.5 * found["all"]
    assert poisson.charge("server").rdp == (), "the server sees the sample"


@pytest.mark.slow
def test_calibrated_noise_for_a_fixed_schedule() -> None:
    sampling = Sampling.poisson(0.05, unit="record")
    arguments = {"shares": 20, "sampling": sampling, "l2_sensitivity": 2.0**24}
    fixed = calibrate(2.0, 1e-6, 50, "server", schedule="fixed", **arguments)  # type: ignore[arg-type]
    adaptive = calibrate(2.0, 1e-6, 50, "server", **arguments)  # type: ignore[arg-type]
    assert 0.7 * adaptive < fixed < adaptive
    each = plan(sampling=sampling, shares=20, l2_sensitivity=2.0**24, share_sigma=fixed * 2.0**24 / math.sqrt(20))
    bounds = schedule_bounds([(each, None, 50)], "server", 1e-6)
    assert bounds is not None
    assert 1.99 < bounds.lower <= bounds.upper <= 2.0


def test_schedules_without_a_tight_method() -> None:
    skellam = plan(mechanism="skellam", mu2=0.04, sigma=1000.0, l1_sensitivity=1500.0)
    rota = plan(sampling=Sampling.round_robin(5, 50, unit="client", turn=3))
    for each in (skellam, rota, plan(mu2=400.0), plan(protection="central")):
        assert schedule_bounds([(each, None, 3)], "server", 1e-6) is None
    plain = schedule_bounds([(plan(mu2=0.1), None, 10)], "server", 1e-6)
    assert plain is not None
    assert plain.lower == pytest.approx(plain.upper, rel=1e-6)
    cohort = plan(sampling=Sampling.fixed_size(5, 50, unit="client"), drop_outs="exact", unit="client")
    one_sided = schedule_bounds([(cohort, None, 3)], "released", 1e-6)
    assert one_sided is not None
    assert one_sided.lower == 0.0 < one_sided.upper


def test_nonsense() -> None:
    for settings_ in ({"step": 0.0}, {"step": 1.0}, {"size": 100}, {"size": 32}):
        with pytest.raises(ParameterError):
            LossLedger(**settings_)  # type: ignore[arg-type]
    ledger = LossLedger(**SMALL)  # type: ignore[arg-type]
    for rate, mu, rounds in ((0.0, 1.0, 1), (1.5, 1.0, 1), (0.5, 0.0, 1), (0.5, 50.0, 1), (0.5, 1.0, 0)):
        with pytest.raises(ParameterError):
            ledger.compose(rate=rate, mu=mu, rounds=rounds)
    assert ledger.epsilon(1e-5) == ledger.delta(1.0) == 0.0
    for delta in (0.0, 1.0):
        with pytest.raises(ParameterError):
            ledger.epsilon(delta)
    with pytest.raises(ParameterError):
        ledger.delta(-1.0)
    with pytest.raises(ParameterError, match="no lower bound"):
        LossLedger(optimistic=True).compose(rate=0.1, mu=1.0, replacing=True)


def test_negative_cells_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SampledGaussian, x: np.ndarray, direction: str) -> np.ndarray:
        return np.where(x > 0.5, 0.3, 0.01)

    monkeypatch.setattr(SampledGaussian, "above", broken)
    with pytest.raises(NumericalError, match="expected >= 0"):
        pessimistic_cells(SampledGaussian(0.5, 1.0), "remove", step=0.01, reach=200)


def test_half_of_the_mass_is_where_it_belongs() -> None:
    """A coarse check by hand: the chance of a positive loss in one plain round."""
    cells = pessimistic_cells(SampledGaussian(1.0, 1.0), "remove", step=0.001, reach=30_000)
    losses = cells.first + np.arange(cells.mass.size)
    assert cells.mass[losses > 0].sum() == pytest.approx(ndtr(0.5), abs=1e-3)
