"""The exact Gaussian mechanism: digits against mpmath, safe sides, inverses, nonsense."""

from __future__ import annotations

import math

import dp_accounting
import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    NumericalError,
    ParameterError,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    log_gaussian_delta,
)
from privfed_accounting import gaussian as module
from privfed_accounting.normal_tails import mills, mills_difference, mills_slope
from tests.accounting import reference

DIGITS = 1e-11

# Normal arguments, tails down to 1e-300, tiny and large mu, epsilon at and near zero, epsilon near mu^2/2.
CASES = [
    (a, mu)
    for mu in (1e-6, 3e-4, 0.01, 0.1, 0.5, 1.0, 2.5, 7.0, 20.0, 60.0)
    for a in (-7.5, -4.9, -1.0, -0.1, 0.0, 0.2, 1.0, 3.0, 8.0, 19.0, 20.1, 30.0, 36.5)
]


@pytest.mark.parametrize(("a", "mu"), CASES)
def test_delta_has_eleven_digits_and_is_never_too_small(a: float, mu: float) -> None:
    epsilon = max(0.0, (a + mu / 2) * mu)
    exact = reference.gaussian_delta(epsilon, mu)
    excess = float((mpmath.mpf(gaussian_delta(epsilon, mu)) - exact) / exact)
    assert 0.0 <= excess < DIGITS


@given(st.floats(0.0, 60.0), st.floats(0.02, 12.0))
@settings(max_examples=60, deadline=None)
def test_delta_everywhere(epsilon: float, mu: float) -> None:
    exact = reference.gaussian_delta(epsilon, mu)
    if exact < 1e-305:
        return
    excess = float((mpmath.mpf(gaussian_delta(epsilon, mu)) - exact) / exact)
    assert 0.0 <= excess < DIGITS


@pytest.mark.parametrize("x", [-6.0, -5.0, 0.0, 1e-9, 2.0, 19.99, 20.0, 33.0, 500.0, 1e6])
def test_the_mills_ratio_and_its_slope(x: float) -> None:
    """The slope loses all digits to cancellation at large x unless it is taken from its series."""
    with mpmath.workdps(60):
        ratio = mpmath.erfc(x / mpmath.sqrt(2)) / 2 / mpmath.npdf(x)
        slope = 1 - x * ratio
        apart = ratio - mpmath.erfc((x + mpmath.mpf(1) / 16) / mpmath.sqrt(2)) / 2 / mpmath.npdf(x + mpmath.mpf(1) / 16)
    assert mills(x) == pytest.approx(float(ratio), rel=1e-14, abs=0.0)
    assert mills_slope(x) == pytest.approx(float(slope), rel=2e-13, abs=0.0)
    assert mills_difference(x, 1 / 16) == pytest.approx(float(apart), rel=4e-13, abs=0.0)


def test_far_beyond_the_floats_the_logarithm_still_holds() -> None:
    for epsilon, mu in ((50.0, 0.05), (3.0, 1e-3)):
        exact = float(mpmath.log(reference.gaussian_delta(epsilon, mu)))
        assert exact < -400_000
        assert 0.0 <= log_gaussian_delta(epsilon, mu) - exact < 1e-8


def test_the_printed_formula_would_not_do() -> None:
    """What is lost without the Mills ratio: the whole of a far tail."""
    epsilon, mu = 12.0, 0.5
    phi = lambda x: math.erfc(-x / math.sqrt(2)) / 2  # noqa: E731
    naive = phi(-epsilon / mu + mu / 2) - math.exp(epsilon) * phi(-epsilon / mu - mu / 2)
    exact = reference.gaussian_delta(epsilon, mu)
    assert abs(naive / float(exact) - 1) > 1e-12
    assert abs(gaussian_delta(epsilon, mu) / float(exact) - 1) < DIGITS


def test_log_delta_where_delta_underflows() -> None:
    assert gaussian_delta(100.0, 0.1) == 5e-324  # not zero
    exact = mpmath.log(reference.gaussian_delta(100.0, 0.1))
    assert abs(log_gaussian_delta(100.0, 0.1) - float(exact)) < 1e-9


@pytest.mark.parametrize("delta", [0.4, 1e-2, 1e-5, 1e-6, 1e-9, 1e-15, 1e-30, 1e-100, 1e-300])
@pytest.mark.parametrize("mu", [1e-3, 0.05, 0.3, 1.0, 4.0, 15.0])
def test_epsilon_is_the_root_from_above(delta: float, mu: float) -> None:
    epsilon = gaussian_epsilon(delta, mu)
    if epsilon == 0.0:
        assert reference.gaussian_delta(0.0, mu) <= delta
        return
    assert reference.gaussian_delta(epsilon, mu) <= delta
    assert reference.gaussian_delta(epsilon * (1 - DIGITS) - 1e-15, mu) > delta


@pytest.mark.parametrize("delta", [0.4, 1e-2, 1e-5, 1e-9, 1e-15, 1e-100, 1e-300])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 0.01, 0.5, 1.0, 4.0, 30.0, 600.0])
def test_mu_is_the_root_from_below(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    assert mu > 0
    assert reference.gaussian_delta(epsilon, mu) <= delta
    assert reference.gaussian_delta(epsilon, mu * (1 + DIGITS)) > delta


@given(st.floats(1e-3, 50.0), st.floats(-60.0, -0.7).map(math.exp))
@settings(max_examples=200, deadline=None)
def test_mu_and_epsilon_are_inverse_and_safe(epsilon: float, delta: float) -> None:
    mu = gaussian_mu(epsilon, delta)
    again = gaussian_epsilon(delta, mu)
    assert again <= epsilon * (1 + 1e-12)
    assert again == pytest.approx(epsilon, rel=1e-10, abs=0.0)


@given(st.floats(1e-4, 40.0), st.floats(1e-4, 40.0), st.floats(1e-12, 0.4))
@settings(max_examples=100, deadline=None)
def test_more_mu_never_costs_less(mu: float, other: float, delta: float) -> None:
    low, high = sorted((mu, other))
    assert gaussian_epsilon(delta, low) <= gaussian_epsilon(delta, high)


@pytest.mark.parametrize(("mu", "delta"), [(0.2, 1e-5), (1.0, 1e-6), (4.0, 1e-9)])
def test_agrees_with_dp_accounting(mu: float, delta: float) -> None:
    theirs = dp_accounting.get_epsilon_gaussian(1.0 / mu, delta)
    assert gaussian_epsilon(delta, mu) == pytest.approx(theirs, rel=1e-9, abs=0.0)
    assert 1.0 / gaussian_mu(theirs, delta) == pytest.approx(
        dp_accounting.get_sigma_gaussian(theirs, delta), rel=1e-6, abs=0.0
    )


def test_ends() -> None:
    assert gaussian_delta(1.0, 0.0) == 0.0
    assert gaussian_delta(math.inf, 1.0) == 0.0
    assert gaussian_delta(1.0, math.inf) == 1.0
    assert gaussian_delta(math.inf, math.inf) == 1.0
    assert gaussian_epsilon(1e-5, 0.0) == 0.0
    assert gaussian_epsilon(1e-5, math.inf) == math.inf
    assert log_gaussian_delta(1.0, 0.0) == -math.inf
    assert gaussian_delta(0.0, 100.0) == 1.0
    assert gaussian_epsilon(0.5, 1e-3) == 0.0


@pytest.mark.parametrize("epsilon", [-1e-9, math.nan, -math.inf])
def test_nonsense_epsilon(epsilon: float) -> None:
    for call in (lambda: gaussian_delta(epsilon, 1.0), lambda: gaussian_mu(epsilon, 1e-5)):
        with pytest.raises(ParameterError, match="epsilon is"):
            call()
    with pytest.raises(ParameterError, match="epsilon is"):
        gaussian_delta(epsilon, math.inf)


@pytest.mark.parametrize("mu", [-1.0, math.nan, 1e5])
def test_nonsense_mu(mu: float) -> None:
    for call in (lambda: gaussian_delta(1.0, mu), lambda: gaussian_epsilon(1e-5, mu)):
        with pytest.raises(ParameterError, match="mu is"):
            call()


@pytest.mark.parametrize("mu", [-1.0, math.nan])
def test_nonsense_mu_at_infinite_epsilon(mu: float) -> None:
    with pytest.raises(ParameterError, match="mu is"):
        gaussian_delta(math.inf, mu)


@pytest.mark.parametrize("delta", [0.0, 1.0, -1e-5, math.nan, 2.0])
def test_nonsense_delta(delta: float) -> None:
    for call in (lambda: gaussian_epsilon(delta, 1.0), lambda: gaussian_mu(1.0, delta)):
        with pytest.raises(ParameterError, match="0 < delta < 1"):
            call()


def test_a_divergence_that_is_not_positive_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong in (0.0, -1e-20, math.nan, math.inf):
        monkeypatch.setattr(module, "mills_difference", lambda *_, wrong=wrong: wrong)
        with pytest.raises(NumericalError, match="divergence"):
            gaussian_delta(1.0, 1.0)


def test_a_search_without_a_safe_end_is_an_error() -> None:
    with pytest.raises(NumericalError, match="safe side"):
        module._until(lambda value: False, start=1.0, direction=1.0)
