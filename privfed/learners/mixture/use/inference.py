"""A mixture in use over silos that show no rows: how large its clusters are, how well it fits, in one release."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from privfed.errors import UsageError, warn_caller
from privfed.federation.release import Federation, Release
from privfed.learners.mixture.fitted import FittedMixture
from privfed.learners.mixture.use.scoring import Z_95, checked_share, knots_at, model_to_send, scores_of_draws
from privfed.query import FloatArray
from privfed.statistics.mixture_scores import MixtureUse

__all__ = ["FederatedInference", "infer"]

KNOTS: Final = 24
BELOW: Final = 8
REACH: Final = 4.0  # of the range that 98 % of the mixture's own draws take: farther scores count with that distance


@dataclass(frozen=True, eq=False)
class FederatedInference:
    """What a mixture finds in a federation's rows.

    Attributes:
        rows: estimated number of rows (of unit "client": of weights).
        rows_std: standard deviation of its noise.
        sizes: estimated part of the rows in each component, shape (K,); sums to 1, noise may take one below 0.
        sizes_std: standard deviation of their noise, shape (K,).
        mean_log_likelihood: mean score, nats, of scores cut to `score_range`.
        mean_log_likelihood_std: standard deviation of its noise, nats.
        score_range: scores beyond it count as its nearer end.
        knots: scores at which rows were counted, shape (m,).
        scores: estimated part of the rows at each knot, shape (m,); a row between two knots counts partly at each.
        scores_std: standard deviation of their noise.
        expected_scores: the same of the mixture's own draws, shape (m,): how scores would spread if it were true.
        release: the protected sum.
    """

    rows: float
    rows_std: float
    sizes: FloatArray
    sizes_std: FloatArray
    mean_log_likelihood: float
    mean_log_likelihood_std: float
    score_range: tuple[float, float]
    knots: FloatArray = field(repr=False)
    scores: FloatArray = field(repr=False)
    scores_std: float = field(repr=False)
    expected_scores: FloatArray = field(repr=False)
    release: Release = field(repr=False)

    def __str__(self) -> str:
        lines = [
            f"rows {self.rows:.0f} +- {Z_95 * self.rows_std:.0f}",
            f"mean log-likelihood {self.mean_log_likelihood:.4f} +- {Z_95 * self.mean_log_likelihood_std:.4f} nats",
            "component   part of the rows",
        ]
        lines += [
            f"{k:>9}   {size:7.2%} +- {Z_95 * std:.2%}"
            for k, (size, std) in enumerate(zip(self.sizes, self.sizes_std, strict=True))
        ]
        return "\n".join(lines)


def infer(
    federation: Federation, mixture: FittedMixture, *, share: float | None = None, public: bool = False
) -> FederatedInference:
    """Return cluster sizes, the spread of scores and their mean over a federation's rows. Costs one release.

    Args:
        federation: holds the rows; need not be the one that the mixture was fitted to.
        mixture: fitted; under a budget, under a budget or to public data (`public`).
        share: federation under a budget: part of the whole budget to spend; None spends what remains.
        public: the mixture was made of public data only.

    Guarantees:
        One row moves the released vector by at most 1 (`MixtureUse`). Nobody's labels or scores leave a client.

    Raises:
        UsageError: an argument is out of range, or nothing stands out of the noise.
    """
    model = model_to_send(federation, mixture, public=public)
    part = checked_share(federation, share)
    draws = scores_of_draws(model)
    knots = knots_at(np.linspace(0.001, 0.999, KNOTS), draws, below=BELOW)
    typical = float(np.median(draws))
    clip = REACH * float(np.quantile(draws, 0.99) - np.quantile(draws, 0.01)) + 1e-3
    query = MixtureUse.of(model, knots, typical=typical, likelihood_clip=clip)
    release = federation.release(query, share=part, purpose="mixture: inference")
    noise = release.noise_std
    sizes, scores = release["sizes"], release["scores"]
    # Both blocks sum to the number of rows: weigh the sums by their noise.
    n, m = sizes.size, scores.size
    rows = float((m * sizes.sum() + n * scores.sum()) / (n + m))
    rows_std = noise["sizes"] * math.sqrt(n * m / (n + m))
    if rows <= 3 * rows_std or rows <= 0:
        raise UsageError(
            f"about {max(rows, 0.0):.0f} rows are counted with noise of {rows_std:.0f}: nothing stands out of it: "
            "spend a larger share, or bring more rows"
        )
    parts = sizes / float(sizes.sum()) if sizes.sum() > 0 else sizes / rows
    sizes_std = noise["sizes"] / rows * np.sqrt(1 - 2 * parts + n * parts**2)
    excess = float(release["log_likelihood"]) / rows
    mean_std = math.hypot(noise["log_likelihood"] / rows, excess * rows_std / rows)
    if noise["sizes"] > 0 and float(sizes_std.max()) > 1 / n:
        warn_caller(
            f"the noise of a component's part is {float(sizes_std.max()):.2g}, as large as an average component: spend "
            "spend a larger share, or bring more rows"
        )
    return FederatedInference(
        rows=rows,
        rows_std=rows_std,
        sizes=parts,
        sizes_std=sizes_std,
        mean_log_likelihood=typical + excess,
        mean_log_likelihood_std=mean_std,
        score_range=(typical - clip, typical + clip),
        knots=knots,
        scores=scores / rows,
        scores_std=noise["scores"] / rows,
        expected_scores=query.count(draws) / draws.size,
        release=release,
    )
