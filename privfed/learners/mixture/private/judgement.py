"""Which of several refits to go on from: one released sum says how much better each explains the rows.

What a refit draws from is a noisy model, so the refit that explains the draws best need not explain the rows best: a
cluster may be lost on the way. Rows themselves tell. The sum holds, for each candidate, the difference of a row's
log-likelihood to that of the first one, cut to a few nats on either side: a vote whose range is small, so that it costs
little.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np

from privfed.learners.mixture.private.frames import Box, likelihood_range
from privfed.learners.mixture.private.rounds import Run
from privfed.statistics.mixture_candidates import LEAST_REACH, CandidateLikelihoods, candidate_block
from privfed.statistics.mixture_model import Generator, MixtureModel

__all__ = ["JUDGE_SHARE", "best_of"]

JUDGE_SHARE: Final = 0.03
AUDIBLE: Final = 0.1  # nats per row: where the noise of a difference is expected to be louder, nothing is asked
DRAWS: Final = 2000  # of each of the two
REACH, MOST_REACH = 0.995, 3.0  # quantile of the draws' differences that rows may reach in full, and nats at most
LEVEL: Final = 0.02  # of the shares, for the first candidate's own likelihood, which no choice rests on


def best_of(run: Run, candidates: Sequence[MixtureModel], box: Box, *, share: float, mu2: float) -> int:
    """Return the number of the candidate that rows prefer; 0 unless another is ahead by more than noise.

    Args:
        candidates: in units of the data.
        box: rows are cut to it.
        share: what may be spent, of the whole budget; nothing is where one candidate is left, or noise would decide.
        mu2: that share's.
    """
    first, *others = candidates
    if not others:
        return 0
    reaches = [_reach(first, other, box, run.random) for other in others]
    C, n = len(candidates), run.count.value
    typical_noise = float(np.median(reaches)) * math.sqrt((C - 1) / mu2) / n
    if typical_noise > AUDIBLE:
        return 0
    typical, level = likelihood_range(first, run.random)
    query = CandidateLikelihoods.of(
        candidates,
        low=box.low,
        high=box.high,
        reference=0,
        typical=np.array([typical, *[0.0] * (C - 1)]),
        reach=np.array([level, *reaches]),
        shares=np.array([LEVEL * (C - 1), *[1.0] * (C - 1)]),
    )
    place = ("judgement", 1, 1)
    release = run.release(query, place, share)
    run.tell(place)
    blocks = [candidate_block(c) for c in range(1, C)]
    ahead = np.array([float(release[block]) for block in blocks])
    error = np.array([release.noise_std[block] for block in blocks])
    best = int(np.argmax(ahead))
    return best + 1 if ahead[best] > error[best] else 0


def _reach(first: MixtureModel, other: MixtureModel, box: Box, random: Generator) -> float:
    """Return how far apart, in nats, the two likelihoods of most rows are, were the rows drawn from either."""
    draws = np.concatenate([model.sample(DRAWS, random)[0] for model in (first, other)])
    rows = np.clip(draws, box.low, box.high)
    apart = other.log_likelihoods(rows) - first.log_likelihoods(rows)
    return min(max(float(np.quantile(np.abs(apart), REACH)), LEAST_REACH), MOST_REACH)
