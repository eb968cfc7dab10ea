"""The lower bound on epsilon from one run with many canaries (Steinke, Nasr and Jagielski 2023, arXiv:2305.08846).

Each of m canaries was put in or left out by a fair coin of its own. Whoever sees the output guesses the coins of some
and abstains from the others. Under (epsilon, delta)-DP the number of correct guesses is hardly larger than that of
randomized response, which gives a test of every epsilon, and so a bound with a confidence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import bdtrc, gammaln, log_expit

from privfed.errors import UsageError

__all__ = ["Guesses", "guess", "one_run_epsilon", "one_run_p_value"]

_LARGEST_EPSILON = 500.0
_HALVINGS = 60


@dataclass(frozen=True)
class Guesses:
    """How an attacker fared who guessed which canaries were in.

    Attributes:
        canaries: how many there were, each in or out by a fair coin.
        guesses: for how many of them a guess was ventured.
        correct: how many guesses were right.
    """

    canaries: int
    guesses: int
    correct: int

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as JSON types."""
        return {"canaries": self.canaries, "guesses": self.guesses, "correct": self.correct}


def guess(scores: npt.NDArray[np.float64], present: npt.NDArray[np.bool_], *, guesses: int) -> Guesses:
    """Guess "in" for the largest scores and "out" for the smallest, half of `guesses` each, and count.

    Args:
        scores: one per canary, larger if it seems to be in, shape `(canaries,)`.
        present: the coins.
        guesses: even, 2 to the number of canaries; has to be fixed before the scores are seen.
    """
    if not (2 <= guesses <= len(scores) and guesses % 2 == 0):
        raise UsageError(f"guesses is {guesses!r}, expected an even number from 2 to {len(scores)} canaries")
    order = np.argsort(scores, kind="stable")
    half = guesses // 2
    correct = int(np.count_nonzero(present[order[-half:]]) + np.count_nonzero(~present[order[:half]]))
    return Guesses(len(scores), guesses, correct)


def one_run_p_value(guesses: Guesses, *, epsilon: float, delta: float) -> float:
    """Return a bound on the chance of as many correct guesses under any (epsilon, delta)-DP mechanism.

    Args:
        guesses: what was counted.
        epsilon: >= 0.
        delta: in [0, 1].

    Source: arXiv:2305.08846v1, theorem 5.2 and appendix D: with G binomial(r, e^eps/(1 + e^eps)) correct guesses,
    P <= P[G >= v] + 2 m delta max over i of P[v > G >= v - i] / i.
    """
    m, r, v = _checked(guesses)
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise UsageError(f"epsilon is {epsilon!r}, delta {delta!r}: expected at least 0, and a number from 0 to 1")
    beta = 1.0 if v == 0 else float(bdtrc(v - 1, r, 1.0 / (1.0 + math.exp(-epsilon))))
    if delta == 0 or v == 0:
        return min(1.0, beta)
    below = np.arange(v - 1, -1, -1, dtype=np.float64)
    mass = np.exp(
        gammaln(r + 1) - gammaln(below + 1) - gammaln(r - below + 1)
        + below * log_expit(epsilon) + (r - below) * log_expit(-epsilon)
    )  # fmt: skip
    alpha = float((np.cumsum(mass) / np.arange(1, v + 1)).max())
    return min(1.0, beta + 2.0 * m * delta * alpha)


def one_run_epsilon(guesses: Guesses, *, delta: float, confidence: float = 0.95) -> float:
    """Return the largest epsilon that the guesses refute: a lower bound with the given confidence.

    Args:
        guesses: what was counted.
        delta: of the claim, in [0, 1].
        confidence: in (0, 1).

    Guarantees:
        If the mechanism is (epsilon, delta)-DP, the result exceeds epsilon with a chance of at most 1 - confidence.
        The search returns the lower side of its bracket.
    """
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence!r}, expected a number between 0 and 1")
    level = 1.0 - confidence

    def refuted(epsilon: float) -> bool:
        return one_run_p_value(guesses, epsilon=epsilon, delta=delta) < level

    if not refuted(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while refuted(high):
        if high > _LARGEST_EPSILON:
            return high
        low, high = high, 2 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _checked(guesses: Guesses) -> tuple[int, int, int]:
    m, r, v = guesses.canaries, guesses.guesses, guesses.correct
    if not 0 <= v <= r <= m or r < 1:
        raise UsageError(f"{v} of {r} guesses about {m} canaries: expected 0 <= correct <= guesses <= canaries")
    return m, r, v
