"""What a round will do, as it is reserved in the ledger: enough to recompute its cost in every view."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass
from typing import Any, Literal, Self

from privfed_accounting.budget import RELATION, Unit
from privfed_accounting.charge import Charge
from privfed_accounting.errors import ParameterError
from privfed_accounting.fine_grid import DEFAULT_SAMPLER_DISTANCE, LEAST_SHARE_SIGMA, fine_grid_charge
from privfed_accounting.views import View

Mechanism = Literal["discrete_gaussian", "none"]
Protection = Literal["secure_aggregation", "trusted"]
NoiseSource = Literal["os", "seeded"]

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_CHOICES = {
    "mechanism": ("discrete_gaussian", "none"),
    "protection": ("secure_aggregation", "trusted"),
    "unit": ("record", "client"),
    "relation": (RELATION,),
    "noise_source": ("os", "seeded"),
}


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """One round, before it runs.

    Attributes:
        run: name of the run it belongs to.
        purpose: what for, in words.
        query: what is summed, in words or by kind.
        mechanism: "discrete_gaussian", or "none" (no noise: costs infinity, refused against a budget).
        protection: "secure_aggregation", or "trusted" (the operator sees every vector: experiments only, marked).
        unit, relation: whose presence is hidden, and "add/remove".
        l2_sensitivity: how far one unit moves the integer vector, L2, in grid steps (the D2 of the papers).
        dimension: coordinates of the vector.
        scale: grid steps per natural unit of the encoded vector.
        bits: width of the ring.
        share_sigma: standard deviation parameter of each client's noise share, in grid steps; 0 without noise.
        planned_shares: clients that start.
        guaranteed_shares: fewest survivors the plan allows; the budget is charged for these.
        noise_source: "os", or "seeded" (tests and demonstrations only: no privacy against who knows the seed; marked).
        plan_digest, query_digest: lower-case hexadecimal.
        software: name and version of what runs the round.
        sampler_distance: total variation distance of one drawn number from the discrete Gaussian; 2^-100 unless said.
    """

    run: str
    purpose: str
    query: str
    mechanism: Mechanism
    protection: Protection
    unit: Unit
    l2_sensitivity: float
    dimension: int
    scale: float
    bits: int
    share_sigma: float
    planned_shares: int
    guaranteed_shares: int
    noise_source: NoiseSource = "os"
    relation: str = RELATION
    plan_digest: str = ""
    query_digest: str = ""
    software: str = ""
    sampler_distance: float = DEFAULT_SAMPLER_DISTANCE

    def __post_init__(self) -> None:
        for name in ("run", "purpose", "query", "software"):
            if not isinstance(getattr(self, name), str):
                raise ParameterError(f"{name} of a round is {getattr(self, name)!r}, expected a string")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                found = getattr(self, name)
                raise ParameterError(f"{name} of a round is {found!r}, expected one of {', '.join(choices)}")
        for name in ("plan_digest", "query_digest"):
            text = getattr(self, name)
            if not isinstance(text, str) or _HEX.fullmatch(text) is None:
                raise ParameterError(f"{name} of a round is {text!r}, expected lower-case hexadecimal")
        for name in ("dimension", "bits", "planned_shares", "guaranteed_shares"):
            _check_count(name, getattr(self, name))
        if self.guaranteed_shares > self.planned_shares:
            raise ParameterError(
                f"guaranteed_shares is {self.guaranteed_shares}, more than the {self.planned_shares} planned clients"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        least_sigma = LEAST_SHARE_SIGMA if self.private else 0.0
        limits = {"scale": 0.0, "l2_sensitivity": 0.0, "share_sigma": least_sigma, "sampler_distance": 0.0}
        for name, least in limits.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
                raise ParameterError(f"{name} of a round is {value!r}, expected a finite number >= {least:g}")
            object.__setattr__(self, name, float(value))  # an integer and its float are one plan, with one digest
        if self.scale == 0.0:
            raise ParameterError("scale of a round is 0, expected grid steps per natural unit > 0")
        if self.private and self.l2_sensitivity == 0.0:
            raise ParameterError("l2_sensitivity of a round is 0: a query that no unit can move needs no round")
        if not self.private and self.share_sigma != 0.0:
            raise ParameterError(f"share_sigma is {self.share_sigma!r} although the mechanism is 'none', expected 0")

    @property
    def private(self) -> bool:
        """Whether noise is added at all."""
        return self.mechanism != "none"

    @property
    def noise_multiplier(self) -> float:
        """Noise of the sum at the guaranteed survivors over the sensitivity; 0 without noise."""
        return math.sqrt(self.guaranteed_shares) * self.share_sigma / self.l2_sensitivity if self.private else 0.0

    def charge(self, view: str | View, *, survivors: int | None = None) -> Charge:
        """Cost in a view: at the guaranteed survivors, or at as many as there really were.

        Raises:
            ParameterError: the survivors are not an integer >= 0.
        """
        shares = View.parse(view).noise_shares(self.guaranteed_shares if survivors is None else survivors)
        if not self.private:
            return Charge.non_private()
        return fine_grid_charge(
            l2_sensitivity=self.l2_sensitivity,
            dimension=self.dimension,
            share_sigma=self.share_sigma,
            shares=shares,
            sampler_distance=self.sampler_distance,
        )

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read back what `as_dict` gave; an unknown or missing field is a ParameterError."""
        expected = {field.name for field in dataclasses.fields(cls)}
        if set(fields) != expected:
            raise ParameterError(f"fields of a round differ from this schema's: {sorted(set(fields) ^ expected)}")
        return cls(**fields)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ParameterError(f"{name} of a round is {value!r}, expected an integer >= 1")
