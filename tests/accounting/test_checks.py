"""Numbers that callers give: what is none, what is out of range, and what the message says."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from privfed_accounting import ParameterError
from privfed_accounting.checks import check_at_least, check_count, check_positive

NO_NUMBERS = (True, "3", None, [1], 1j, math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0, 0, -1, np.int64(3)])
def test_counts_are_pythons_integers_from_the_least_on(value) -> None:
    with pytest.raises(ParameterError, match=r"^rounds of a plan is .*, expected an integer >= 1$"):
        check_count("rounds of a plan", value)
    check_count("rounds", 1)
    check_count("losses", 0, least=0)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -1e-300])
def test_numbers_are_real_finite_and_in_range(value) -> None:
    with pytest.raises(ParameterError, match=r"^mu2 is .*, expected a finite number > 0$"):
        check_positive("mu2", value)
    with pytest.raises(ParameterError, match=r"^mu is .*, expected a finite number >= 0$"):
        check_at_least("mu", value)


def test_the_ends_of_the_ranges() -> None:
    with pytest.raises(ParameterError, match="mu2 is 0"):
        check_positive("mu2", 0)
    check_at_least("mu", 0)
    with pytest.raises(ParameterError, match=r"sigma is 0\.4, expected a finite number >= 0\.5"):
        check_at_least("sigma", 0.4, 0.5)
    for value in (1, 0.5, np.float32(0.5), np.float64(2), Fraction(1, 2), 5e-324):
        check_positive("mu2", value)
