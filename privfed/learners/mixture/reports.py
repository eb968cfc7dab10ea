"""What a fit tells its caller while it runs."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from privfed.federation.release import Release

__all__ = ["RoundReport", "caller_level"]


@dataclass(frozen=True)
class RoundReport:
    """One round of a fit, for progress displays. Holds released quantities only.

    Attributes:
        stage: "em" (rows at hand), "range", "moments", "start", "shapes", "judgement" or "mixture".
        round: number of the round in its stage, from 1.
        rounds: most rounds of the stage.
        release: the protected sum; None when the rows are at hand.
        log_likelihood: mean log-likelihood per row of the model before this round's update, nats; under a budget the
            noised and range-clipped one that was released; None where the round released none.
    """

    stage: str
    round: int
    rounds: int
    release: Release | None
    log_likelihood: float | None


def caller_level() -> int:
    """Return the `stacklevel` with which the caller warns at the line, outside this package, that led to it."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and str(frame.f_globals.get("__name__", "")).partition(".")[0] == "privfed":
        level, frame = level + 1, frame.f_back
    return level
