"""Anomalies: rows that score lower than all but a known part of the federation's rows.

The threshold is a protected quantile. Clients score their rows under the released mixture, the federation sums how many
score how much, and the threshold is where the sums pass the wanted rate. One release, whose noise is known: it comes
with an interval for the rate that the threshold really has.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation, Release
from privfed.learners.mixture.fitted import FittedMixture
from privfed.learners.mixture.use.scoring import Z_95, checked_share, knots_at, model_to_send, scores_of_draws
from privfed.query import FloatArray
from privfed.statistics.mixture_scores import MixtureScores, bracket

__all__ = ["AnomalyThreshold", "anomaly_threshold"]

LEVELS: Final = 40  # knots above the lowest, at quantiles of the mixture's own draws
BELOW: Final = 10  # knots for rows that the mixture does not know


@dataclass(frozen=True, eq=False)
class AnomalyThreshold:
    """A score below which a row is an anomaly, and what is known of how often that strikes ordinary rows.

    Attributes:
        threshold: log-likelihood, nats.
        requested: the false-positive rate that was asked for.
        false_positive_rate: best estimate of the part of the federation's rows below the threshold.
        interval: 95 % interval of the rate among rows like the federation's: noise, the spacing of the knots, and how
            much a rate among that many rows varies.
        rows: estimated number of rows (of unit "client": of weights) that the estimate rests on.
        knots: scores at which rows were counted, shape (m,).
        rates: estimated part of rows below each knot, shape (m,), increasing.
        release: the protected sum.
        mixture: the mixture that scores.
    """

    threshold: float
    requested: float
    false_positive_rate: float
    interval: tuple[float, float]
    rows: float
    knots: FloatArray = field(repr=False)
    rates: FloatArray = field(repr=False)
    release: Release = field(repr=False)
    mixture: FittedMixture = field(repr=False)

    def score(self, X: Any) -> FloatArray:
        """Return by how many nats each row lies below the threshold, shape (n,): above 0 for anomalies."""
        return np.asarray(self.threshold - self.mixture.score_samples(X))

    def is_anomaly(self, X: Any) -> npt.NDArray[np.bool_]:
        """Return which rows score below the threshold, shape (n,)."""
        return np.asarray(self.mixture.score_samples(X) < self.threshold)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"anomalies score below {self.threshold:.4f} nats; {self.false_positive_rate:.3%} of ordinary rows do "
            f"(asked for {self.requested:.3%}, 95 % interval {low:.3%} to {high:.3%})"
        )


def anomaly_threshold(
    federation: Federation,
    mixture: FittedMixture,
    *,
    false_positive_rate: float = 0.01,
    share: float | None = None,
    public: bool = False,
) -> AnomalyThreshold:
    """Return the score below which about `false_positive_rate` of the federation's rows lie. Costs one release.

    Args:
        federation: its rows count as ordinary. Anomalies among them raise the rate by their part.
        mixture: fitted; under a budget, to the federation itself or to public data (`public`).
        false_positive_rate: in (0, 0.5].
        share: federation under a budget: part of the whole budget to spend; None spends what remains.
        public: the mixture was made of public data only.

    Guarantees:
        One row adds 1 to the counts, split between two neighbouring knots: a sensitivity of 1 whatever the row holds.
        Knots are a function of the mixture; threshold and interval are functions of the release.

    Raises:
        UsageError: an argument is out of range, or nothing stands out of the noise.
    """
    if not (isinstance(false_positive_rate, int | float) and 0.0 < false_positive_rate <= 0.5):
        raise UsageError(f"false_positive_rate is {false_positive_rate!r}, expected a number in (0, 0.5]")
    model = model_to_send(federation, mixture, public=public)
    part = checked_share(federation, share)
    levels = np.geomspace(false_positive_rate / 32, 0.9, LEVELS)
    knots = knots_at(levels, scores_of_draws(model), below=BELOW)
    release = federation.release(MixtureScores.of(model, knots), share=part, purpose="mixture: anomaly threshold")
    counts, std = release["scores"], release.noise_std["scores"]
    rows = float(counts.sum())
    rows_std = std * math.sqrt(counts.size)
    if rows <= 3 * rows_std or rows <= 0:
        raise UsageError(
            f"about {max(rows, 0.0):.0f} rows are counted with noise of {rows_std:.0f}: no threshold stands out of it. "
            "Spend a larger share, or bring more rows"
        )
    lower, upper = bracket(counts)
    rates = _increasing((lower + upper) / 2) / rows
    at = int(np.argmin(np.abs(rates - false_positive_rate)))
    rate = float(np.clip(rates[at], 0.0, 1.0))
    interval = _interval(lower[at], upper[at], at, rows, rows_std, std, rate)
    if std > 0 and interval[1] - interval[0] > 2 * false_positive_rate:
        warn_caller(
            f"noise leaves the false-positive rate between {interval[0]:.2%} and {interval[1]:.2%} where "
            f"{false_positive_rate:.2%} was asked for: spend a larger share, bring more rows, or ask for a higher rate"
        )
    return AnomalyThreshold(
        float(knots[at]), float(false_positive_rate), rate, interval, rows, knots, rates, release, mixture
    )


def _interval(
    lower: float, upper: float, at: int, rows: float, rows_std: float, std: float, rate: float
) -> tuple[float, float]:
    """Return the 95 % interval of the rate below knot `at`."""
    sampling = math.sqrt(max(rate * (1 - rate), 1 / rows) / rows)

    def spread(knots: int) -> float:
        # The sum up to a knot carries the noise of as many counts, and the number of rows its own.
        return Z_95 * math.hypot(std * math.sqrt(knots) / rows, rate * rows_std / rows, sampling)

    low, high = lower / rows - spread(at), upper / rows + spread(at + 1)
    return float(np.clip(low, 0.0, 1.0)), float(np.clip(high, 0.0, 1.0))


def _increasing(values: FloatArray) -> FloatArray:
    """Return the increasing sequence nearest to `values` in squares: pool adjacent violators."""
    blocks: list[list[float]] = []  # mean, length
    for value in values:
        blocks.append([float(value), 1.0])
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            mean, length = blocks.pop()
            before = blocks[-1]
            before[0] = (before[0] * before[1] + mean * length) / (before[1] + length)
            before[1] += length
    return np.concatenate([np.full(int(length), mean) for mean, length in blocks])
