"""What a fit tells its caller while it runs."""

from __future__ import annotations

from dataclasses import dataclass

from privfed.federation.release import Release

__all__ = ["RoundReport"]


@dataclass(frozen=True)
class RoundReport:
    """One round of a fit, for progress displays. Holds released quantities only.

    Attributes:
        stage: "em" (rows at hand), "range", "moments", "start" or "mixture".
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
