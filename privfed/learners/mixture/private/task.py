"""What a fit under a budget is asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from privfed.federation.release import Federation, Release
from privfed.learners.mixture.parameters import Start
from privfed.learners.mixture.private.planning import Choice
from privfed.learners.mixture.reports import RoundReport
from privfed.query import FloatArray
from privfed.statistics.mixture_model import CovarianceType, Generator, MixtureModel

__all__ = ["PrivateFit", "Task"]


@dataclass(frozen=True, eq=False)
class Task:
    """One fit: of what, to whom, and for how much.

    Attributes:
        federation: with a budget.
        n_components, covariance_type: what is wanted.
        low, high: public bounds of the rows, shape (d,): rows are cut to them.
        share: part of the whole budget's mu^2 to spend.
        rounds: rounds of the last stage; None chooses.
        start: given starting values, public, in units of the data.
        warm: a released model to go on from, or None.
        random: every choice but the noise.
        report: called after each round.
    """

    federation: Federation
    n_components: int
    covariance_type: CovarianceType
    low: FloatArray
    high: FloatArray
    share: float
    rounds: int | None
    start: Start
    warm: MixtureModel | None
    random: Generator
    report: Callable[[RoundReport], object]

    @property
    def d(self) -> int:
        """Features."""
        return len(self.low)

    @property
    def given(self) -> bool:
        """Whether the caller says where components start."""
        return self.start.means is not None or self.warm is not None


@dataclass(frozen=True, eq=False)
class PrivateFit:
    """What a fit under a budget ends with.

    Attributes:
        model: in the units of the data, of the type asked for; with fewer components where the choice says so.
        choice: what was fitted, and the expected excess loss.
        log_likelihoods: the released mean log-likelihood of each round of the last stage, nats per row.
        releases: every release, in order.
    """

    model: MixtureModel
    choice: Choice
    log_likelihoods: tuple[float, ...]
    releases: tuple[Release, ...]
