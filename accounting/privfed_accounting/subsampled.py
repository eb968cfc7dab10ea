"""Renyi divergences of sampled rounds at integer orders: what is proved for each sampler, and no more.

Poisson sampling of a Gaussian (exact at integer orders: Mironov, Talwar and Zhang 2019, arXiv:1908.10530, section 3.3),
Poisson sampling of anything (Zhu and Wang 2019, ICML, theorem 5), cohorts of fixed size without replacement (Wang,
Balle and Kasiviswanathan 2019, arXiv:1808.00087, theorem 9, whose base mechanism is compared under *replacement*).
All three are sums over k of binomial coefficients times excesses; terms are positive and summed in logarithms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import numpy as np
from scipy.special import gammaln, logsumexp

from privfed_accounting.checks import check_positive
from privfed_accounting.errors import ParameterError
from privfed_accounting.rdp import ORDERS, FloatArray

# log of the excess of the k-th term, for k = 2, 3, ..., order
Excess = Callable[[FloatArray], FloatArray]

_LOG_2: Final = math.log(2.0)


def poisson_gaussian_row(rate: float, mu2: float, orders: Sequence[int] = ORDERS) -> FloatArray:
    """Renyi divergences of a Gaussian round that each unit enters with probability `rate`, rounded up.

    A_a = sum over k of C(a, k) (1 - q)^(a - k) q^k exp(k (k - 1) mu2 / 2) is the moment of the mixture against the
    plain Gaussian, and the larger of both directions (arXiv:1908.10530, theorem 5 and corollary 7).

    Args:
        rate: q, 0 < q <= 1.
        mu2: (sensitivity / standard deviation)^2, > 0.
        orders: integers >= 2.

    Guarantees:
        Never above the unsampled round's a mu2 / 2; at tiny rates no digits are lost: A - 1 is summed, not A.
    """
    _check_rate(rate)
    check_positive("mu2", mu2)
    plain = 0.5 * mu2 * _integers(orders)
    if rate == 1.0:
        return np.asarray(plain * (1.0 + 1e-15))
    return _binomial_row(rate, orders, plain, lambda k: _log_expm1(0.5 * mu2 * k * (k - 1.0)), complement=True)


def poisson_row(rate: float, base: Callable[[FloatArray], FloatArray], orders: Sequence[int] = ORDERS) -> FloatArray:
    """Renyi divergences of any round that each unit enters with probability `rate`: an upper bound.

    Zhu and Wang 2019, theorem 5, for neighbours that differ in one unit being there or not:
    (a - 1) D_a <= log(B_0 + B_1 + B_2 e^D(2) + 3 sum over k >= 3 of B_k e^((k - 1) D(k))), B_k binomial probabilities.

    Args:
        rate: q, 0 < q <= 1.
        base: the unsampled round's divergence at each of an array of integer orders, both directions.
        orders: integers >= 2.
    """
    _check_rate(rate)
    plain = base(_integers(orders))
    if rate == 1.0:
        return plain

    def excess(k: FloatArray) -> FloatArray:
        exponents = (k - 1.0) * base(k)
        tripled = exponents + np.log(3.0 - np.exp(-exponents))
        return np.where(k == 2.0, _log_expm1(exponents), tripled)

    return _binomial_row(rate, orders, plain, excess, complement=True)


def fixed_size_row(
    rate: float,
    base: Callable[[FloatArray], FloatArray],
    replaced: Callable[[FloatArray], FloatArray],
    orders: Sequence[int] = ORDERS,
) -> FloatArray:
    """Renyi divergences of a round on a cohort of fixed size, drawn without replacement: an upper bound.

    arXiv:1808.00087, theorem 9: (a - 1) D_a <= log(1 + q^2 C(a, 2) min(4 (e^D(2) - 1), 2 e^D(2))
    + sum over k >= 3 of 2 q^k C(a, k) e^((k - 1) D(k))), with D of the round under replacement of one unit.

    Args:
        rate: q = cohort / population.
        base: the unsampled round's divergences, unit there or not: they hold for any sampler.
        replaced: its divergences when one unit is replaced by another (for bounded contributions: twice as far).
        orders: integers >= 2.
    """
    _check_rate(rate)
    plain = base(_integers(orders))

    def excess(k: FloatArray) -> FloatArray:
        exponents = (k - 1.0) * replaced(k)
        second = np.minimum(2.0 * _LOG_2 + _log_expm1(exponents), _LOG_2 + exponents)
        return np.where(k == 2.0, second, _LOG_2 + exponents)

    return _binomial_row(rate, orders, plain, excess, complement=False)


def _binomial_row(
    rate: float, orders: Sequence[int], plain: FloatArray, excess: Excess, *, complement: bool
) -> FloatArray:
    """log(1 + sum over k of C(a, k) q^k (1 - q)^(a - k) exp(excess_k)) / (a - 1), at most the unsampled value.

    Without `complement` the factor (1 - q)^(a - k) is left out.
    """
    integers = _integers(orders)
    all_k = np.arange(2.0, integers[-1] + 1.0) if integers.size else np.empty(0)
    excesses = excess(all_k)
    log_rate, log_rest = math.log(rate), math.log1p(-rate) if complement else 0.0
    row = np.empty_like(plain)
    for index, order in enumerate(integers):
        count = int(order) - 1
        k = all_k[:count]
        terms = _log_binomials(int(order)) + k * log_rate + (order - k) * log_rest + excesses[:count]
        total = float(logsumexp(terms))
        # Rounding of the logarithms, the largest of which are those of the factorials.
        total += 1e-15 * (4.0 * float(gammaln(order + 1.0)) + abs(total) - order * log_rate + 100.0)
        row[index] = np.logaddexp(0.0, total) / (order - 1.0)
    return np.minimum(row * (1.0 + 1e-14), plain * (1.0 + 1e-14))


@lru_cache(maxsize=512)
def _log_binomials(order: int) -> FloatArray:
    """log C(order, k) for k = 2, ..., order."""
    k = np.arange(2.0, order + 1.0)
    return np.asarray(gammaln(order + 1.0) - gammaln(k + 1.0) - gammaln(order - k + 1.0))


def _log_expm1(x: FloatArray) -> FloatArray:
    """log(exp(x) - 1) for x > 0 without overflow or cancellation."""
    return np.asarray(x + np.log(-np.expm1(-x)))


def _integers(orders: Sequence[int]) -> FloatArray:
    array = np.asarray(orders, dtype=np.float64)
    if array.size and not ((array >= 2.0) & (array == np.floor(array)) & (np.diff(array, prepend=1.0) > 0)).all():
        raise ParameterError("Renyi orders of a sampled round are wanted in increasing order, integers >= 2")
    return array


def _check_rate(rate: float) -> None:
    if not 0.0 < rate <= 1.0:
        raise ParameterError(f"the sampling rate is {rate!r}, expected 0 < rate <= 1")
