"""The Gaussian mechanism, exactly: delta from (epsilon, mu), and the two inverses, always on the safe side.

mu is the sensitivity divided by the noise's standard deviation; rounds compose exactly to the root of the sum of mu^2
(Dong, Roth and Su 2022, arXiv:1905.02383, section 3), also when each round's mu is chosen after seeing earlier answers
as long as the sum stays under a cap fixed beforehand (Smith and Thakurta 2022, arXiv:2210.17520). All of it is the
exact trade-off of Balle and Wang 2018, arXiv:1805.06530v2, theorem 8; nothing here is a bound on it. With
a = epsilon/mu - mu/2 and b = epsilon/mu + mu/2,

    delta = Phi(-a) - exp(epsilon) Phi(-b) = phi(a) (m(a) - m(b)),   m the Mills ratio,

which is computed in logarithms and without cancellation, so that delta = 1e-300 has eleven digits like delta = 0.1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from scipy.special import ndtri

from privfed_accounting.checks import check_at_least
from privfed_accounting.errors import NumericalError, ParameterError
from privfed_accounting.normal_tails import log_normal_density, mills, mills_difference

_ULP: Final = 2.0**-52
_LEAST_FLOAT: Final = 5e-324
_MU_LARGEST: Final = 1e4
_MAX_STEPS: Final = 200

# Below this, Phi(-a) is within 3e-7 of 1, and log(delta) is taken from 1 - delta.
_NEARLY_CERTAIN: Final = -5.0


def log_gaussian_delta(epsilon: float, mu: float) -> float:
    """Natural logarithm of the least delta of a mu-GDP Gaussian mechanism at epsilon, never too small.

    Args:
        epsilon: >= 0, finite.
        mu: sensitivity over standard deviation of the noise, 0 <= mu <= 1e4.

    Returns:
        log(delta) <= 0; -inf for mu = 0.

    Raises:
        ParameterError: an argument out of range.
        NumericalError: the divergence came out non-positive or not a number.
    """
    check_at_least("epsilon", epsilon)
    _check_mu(mu)
    return -math.inf if mu == 0 else min(0.0, _log_delta(epsilon, mu))


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Least delta of a mu-GDP Gaussian mechanism at epsilon: exact, rounded up (relative error below 1e-11).

    Args:
        epsilon: >= 0; infinity gives 0.
        mu: sensitivity over standard deviation of the noise, >= 0; infinity (no noise) gives 1.

    Guarantees:
        Never below the true value, unless that is under 5e-324, the least positive float, which is then returned:
        an underflow does not turn into a zero.

    >>> f"{gaussian_delta(4.3771780956812245, 1.0):.10e}"
    '1.0000000000e-05'
    >>> gaussian_delta(1.0, 0.0)
    0.0
    """
    if epsilon == math.inf and mu != math.inf:
        check_at_least("mu", mu)
        return 0.0
    if mu == math.inf:
        check_at_least("epsilon", 0.0 if epsilon == math.inf else epsilon)
        return 1.0
    log_delta = log_gaussian_delta(epsilon, mu)
    return 0.0 if mu == 0 else max(math.exp(log_delta), _LEAST_FLOAT)


def gaussian_epsilon(delta: float, mu: float, *, guess: float | None = None) -> float:
    """Least epsilon >= 0 of a mu-GDP Gaussian mechanism at delta: exact, rounded up.

    Args:
        delta: 0 < delta < 1.
        mu: sensitivity over standard deviation of the noise, >= 0; infinity (no noise) gives infinity.
        guess: where to start looking; a close one saves time and changes nothing else.

    >>> round(gaussian_epsilon(1e-5, 1.0), 10)
    4.3771780957
    """
    target = _log_target(delta)
    if mu == math.inf:
        return math.inf
    _check_mu(mu)
    # delta(0) = 2 Phi(mu/2) - 1 is above 0.38 mu up to mu = 1 and above 0.38 from there on: mostly no need to ask.
    if (mu <= 2.5 * delta or delta > 0.38) and log_gaussian_delta(0.0, mu) <= target:
        return 0.0
    # delta < Phi(-a) makes this start safe. log delta is concave in epsilon (a Gaussian convolved with the log-concave
    # (1 - exp(-u))_+), so Newton's steps come down towards the root and do not pass it.
    # From below the root, a tangent leads to a point above it.
    epsilon = mu * (0.5 * mu - float(ndtri(delta))) if guess is None else guess
    epsilon = max(0.0, epsilon)
    for _ in range(_MAX_STEPS):
        log_delta = _log_delta(epsilon, mu)
        step = (target - log_delta) * _mills_gap(epsilon, mu, log_delta) / mills(epsilon / mu + 0.5 * mu)
        if abs(step) <= 4 * _ULP * epsilon or (step < 0.0 and guess is None):
            if log_delta <= target:
                return epsilon
            break
        epsilon = max(0.0, epsilon - step)
    return _until(lambda value: _log_delta(value, mu) <= target, start=epsilon, direction=1.0)


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Largest mu whose Gaussian mechanism is (epsilon, delta)-DP: exact, rounded down.

    Args:
        epsilon: >= 0, finite.
        delta: 0 < delta < 1.

    >>> round(gaussian_mu(4.3771780956812245, 1e-5), 10)
    1.0
    """
    target = _log_target(delta)
    check_at_least("epsilon", epsilon)
    # Two safe starts: the bound used in gaussian_epsilon, and delta(epsilon) <= delta(0) <= mu / sqrt(2 pi).
    root = math.sqrt(-2.0 * target)
    mu = max(2.0 * epsilon / (math.sqrt(root * root + 2.0 * epsilon) + root), 2.5 * delta) * (1.0 - 1e-9)
    for _ in range(_MAX_STEPS):
        log_delta = _log_delta(epsilon, mu)
        step = (target - log_delta) * _mills_gap(epsilon, mu, log_delta)  # d delta / d mu = phi(a)
        if not step > 4 * _ULP * mu:
            break
        mu += step
    return _until(lambda value: _log_delta(epsilon, value) <= target, start=mu, direction=-1.0)


def _log_delta(epsilon: float, mu: float) -> float:
    """Log delta for checked arguments, mu > 0, plus a margin above every rounding error on the way (may exceed 0)."""
    a, b = epsilon / mu - 0.5 * mu, epsilon / mu + 0.5 * mu
    if a < _NEARLY_CERTAIN and mills(b) <= 0.5 * mills(max(a, -30.0)):
        log_delta = math.log1p(-math.exp(log_normal_density(a)) * (mills(-a) + mills(b)))
    else:
        gap = mills_difference(a, mu)
        if not gap > 0 or not math.isfinite(gap):
            raise NumericalError(
                f"the divergence at epsilon={epsilon!r}, mu={mu!r} came out as {gap!r}, expected above 0"
            )
        log_delta = log_normal_density(a) + math.log(gap)
    # Rounding of a and of a^2/2, and a relative 4e-13 for the Mills ratios (measured: below 2e-13).
    return log_delta + 4e-13 + 2.0 * _ULP * b * (abs(a) + 2.0)


def _mills_gap(epsilon: float, mu: float, log_delta: float) -> float:
    """Return m(a) - m(b), recovered from log delta."""
    return math.exp(min(log_delta - log_normal_density(epsilon / mu - 0.5 * mu), 700.0))


def _until(accept: Callable[[float], bool], *, start: float, direction: float) -> float:
    """First value accepted, from `start` upwards (direction 1) or downwards (-1) in growing relative steps."""
    value, step = start, 2.0 * _ULP
    for _ in range(60):
        if accept(value):
            return value
        value = value * (1.0 + direction * step) + direction * _LEAST_FLOAT
        step *= 2.0
    raise NumericalError(f"a search that started at {start!r} found no value on the safe side")


def _log_target(delta: float) -> float:
    if not 0.0 < delta < 1.0:
        raise ParameterError(
            f"delta is {delta!r}, expected 0 < delta < 1 as Gaussian noise guarantees nothing at 0: "
            "take one far below 1/records"
        )
    return math.log(delta) if delta < 0.5 else math.log1p(-(1.0 - delta))


def _check_mu(mu: float) -> None:
    check_at_least("mu", mu)
    if mu > _MU_LARGEST:
        raise ParameterError(f"mu is {mu!r}, above {_MU_LARGEST:g} where noise hides nothing: use more of it")
