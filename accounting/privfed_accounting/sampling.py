"""How the units of a round were chosen: all of them, by Poisson coins, as a cohort of fixed size, or in turn."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

from privfed_accounting.checks import check_count
from privfed_accounting.errors import ParameterError

SamplingKind = Literal["none", "poisson", "fixed_size", "round_robin"]
KINDS: Final[tuple[str, ...]] = get_args(SamplingKind)
UNITS: Final = ("record", "client")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """The sampler that a round really runs; what it saves depends on the view (accounting/README.md, "Sampling").

    Attributes:
        kind: "none" (everybody, every round) | "poisson" (each unit by a coin of its own, anew every round) |
            "fixed_size" (`size` of `population` without replacement, anew every round) | "round_robin" (fixed disjoint
            cohorts that take turns: nothing is hidden, but a unit is in one cohort only).
        unit: what is sampled: "record" (by each client among its own rows, in secret) or "client" (by the coordinator).
        rate: probability that a unit takes part, 0 < rate <= 1; for poisson. Given for the others, it must agree.
        size, population: units a round and units in all; for fixed_size and round_robin.
        turn: which of the `period` cohorts this round is, from 0; for round_robin.

    >>> Sampling.fixed_size(100, 3400, unit="client").rate
    0.029411764705882353
    >>> Sampling.round_robin(100, 950, unit="client", turn=12).turn
    2
    """

    kind: SamplingKind = "none"
    unit: Literal["record", "client"] = "record"
    rate: float = 1.0
    size: int = 0
    population: int = 0
    turn: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError(f"sampling is {self.kind!r}, expected one of {', '.join(KINDS)}")
        if self.unit not in UNITS:
            raise ParameterError(f"sampling is of unit {self.unit!r}, expected 'record' or 'client'")
        if isinstance(self.rate, bool) or not isinstance(self.rate, int | float) or not 0.0 < self.rate <= 1.0:
            raise ParameterError(f"the sampling rate is {self.rate!r}, expected 0 < rate <= 1")
        object.__setattr__(self, "rate", float(self.rate))
        for name in ("size", "population", "turn"):
            check_count(f"{name} of a sampling", getattr(self, name), least=0)
        self._check_kind()

    def _check_kind(self) -> None:
        counted = self.kind in ("fixed_size", "round_robin")
        if counted and not 1 <= self.size <= self.population:
            raise ParameterError(
                f"{self.kind} sampling takes {self.size} of {self.population} units, expected 1 <= size <= population"
            )
        if counted and self.rate != self.size / self.population:
            raise ParameterError(
                f"{self.kind} sampling of {self.size} of {self.population} has rate {self.rate!r}, expected their "
                "ratio: use Sampling.fixed_size or Sampling.round_robin"
            )
        if not counted and (self.size or self.population):
            raise ParameterError(f"{self.kind} sampling takes no size and no population")
        if self.kind == "none" and self.rate != 1.0:
            raise ParameterError(f"sampling 'none' has rate {self.rate!r}, expected 1: name the sampler that runs")
        if self.turn >= self.period:
            raise ParameterError(f"turn {self.turn} of {self.period} does not exist, expected turns from 0")

    @classmethod
    def none(cls) -> Self:
        """Every unit takes part in every round."""
        return cls()

    @classmethod
    def poisson(cls, rate: float, *, unit: Literal["record", "client"]) -> Self:
        """Each unit takes part with probability `rate`, independently of all others and of other rounds."""
        return cls(kind="poisson", unit=unit, rate=rate)

    @classmethod
    def fixed_size(cls, size: int, population: int, *, unit: Literal["record", "client"]) -> Self:
        """`size` of `population` units, uniformly without replacement, independently every round."""
        _check_ratio(size, population)
        return cls(kind="fixed_size", unit=unit, rate=size / population, size=size, population=population)

    @classmethod
    def round_robin(cls, size: int, population: int, *, unit: Literal["record", "client"], turn: int) -> Self:
        """Fixed disjoint cohorts of `size`, one after the other; `turn` may be the number of the round, from 0."""
        _check_ratio(size, population)
        period = math.ceil(population / size)
        rate = size / population
        return cls(kind="round_robin", unit=unit, rate=rate, size=size, population=population, turn=turn % period)

    @property
    def period(self) -> int:
        """Rounds from one participation of a unit to its next in round_robin; 1 for every other kind."""
        return math.ceil(self.population / self.size) if self.kind == "round_robin" else 1

    @property
    def cohort(self) -> str:
        """Name of the round's cohort in round_robin: charges of other cohorts of the schedule do not add to it."""
        return f"{self.unit}:{self.size}/{self.population}:{self.turn}" if self.kind == "round_robin" else ""

    def participations(self, rounds: int) -> int:
        """Most rounds of `rounds` that one unit can be in: all of them, or ceil(rounds / period) in round_robin."""
        return math.ceil(rounds / self.period)

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read back what `as_dict` gave; an unknown field is a ParameterError."""
        known = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(fields, dict) or not set(fields) <= known:
            raise ParameterError(f"a sampling is {fields!r}, expected the fields {sorted(known)}")
        return cls(**fields)


def _check_ratio(size: object, population: object) -> None:
    for name, value in (("size", size), ("population", population)):
        check_count(f"{name} of a sampling", value)
