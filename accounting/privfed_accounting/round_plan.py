"""What a round will do, as it is reserved in the ledger: enough to recompute its cost in every view."""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from privfed_accounting.budget import RELATION, Unit
from privfed_accounting.charge import Charge
from privfed_accounting.checks import check_at_least, check_count
from privfed_accounting.errors import ParameterError
from privfed_accounting.fine_grid import DEFAULT_SAMPLER_DISTANCE, LEAST_SHARE_SIGMA, exact_tau
from privfed_accounting.round_charge import hides_sample, round_charge
from privfed_accounting.sampling import Sampling
from privfed_accounting.skellam import require_meaningful
from privfed_accounting.views import View

Mechanism = Literal["discrete_gaussian", "skellam", "none"]
Protection = Literal["secure_aggregation", "trusted", "local", "central"]
DropOuts = Literal["provision", "exact"]
NoiseSource = Literal["os", "seeded"]

_HEX = re.compile(r"(?:[0-9a-f]{2})*")
_CHOICES = {
    "mechanism": ("discrete_gaussian", "skellam", "none"),
    "protection": ("secure_aggregation", "trusted", "local", "central"),
    "drop_outs": ("provision", "exact"),
    "unit": ("record", "client"),
    "relation": (RELATION,),
    "noise_source": ("os", "seeded"),
}
# Fields later than schema version 1; left out of the written form at these values, which mean what version 1 meant.
_LATER: dict[str, Any] = {"l1_sensitivity": 0.0, "drop_outs": "provision", "sampling": Sampling.none()}


@dataclass(frozen=True, kw_only=True)
class RoundPlan:
    """One round, before it runs.

    Attributes:
        run: name of the run it belongs to.
        purpose: what for, in words.
        query: what is summed, in words or by kind.
        mechanism: "discrete_gaussian" (fine grid), "skellam" (coarse grid), or "none" (no noise: costs infinity,
            refused against a budget).
        protection: "secure_aggregation"; "trusted" (the same noise, but the operator sees every vector: experiments
            only, marked, and its epsilons hold for others); "local" (no masks: every vector carries enough noise for
            itself); "central" (the operator sees everything and adds one noise share to the sum).
        unit, relation: whose presence is hidden, and "add/remove".
        l2_sensitivity: how far one unit moves the integer vector, L2, in grid steps (the D2 of the papers).
        dimension: coordinates of the vector.
        scale: grid steps per natural unit of the encoded vector.
        bits: width of the ring.
        share_sigma: standard deviation parameter of each client's noise share, in grid steps (of the operator's one
            share if central; for skellam the root of its variance); 0 without noise. With drop_outs "exact": the root
            of the sum's variance over guaranteed_shares.
        planned_shares: clients that start.
        guaranteed_shares: fewest survivors the plan allows; the budget is charged for these.
        noise_source: "os", or "seeded" (tests and demonstrations only: no privacy against who knows the seed; marked).
        plan_digest, query_digest: lower-case hexadecimal.
        software: name and version of what runs the round.
        sampler_distance: total variation distance of one drawn number from what it should be; 2^-100 unless said.
        l1_sensitivity: how far one unit moves the integer vector, L1, in grid steps; needed by skellam, else unused.
        drop_outs: "provision" (every share is sized for the fewest survivors; more of them mean more noise), or "exact"
            (surplus components are removed, so that the sum carries guaranteed_shares * share_sigma^2 whoever dropped).
        sampling: how the units of this round were chosen.
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
    l1_sensitivity: float = 0.0
    drop_outs: DropOuts = "provision"
    sampling: Sampling = field(default_factory=Sampling.none)

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
            check_count(f"{name} of a round", getattr(self, name))
        if self.guaranteed_shares > self.planned_shares:
            raise ParameterError(
                f"guaranteed_shares is {self.guaranteed_shares}, more than the {self.planned_shares} planned clients"
            )
        self._check_numbers()

    def _check_numbers(self) -> None:
        least_sigma = LEAST_SHARE_SIGMA if self.mechanism == "discrete_gaussian" else 0.0
        limits = {"scale": 0.0, "l2_sensitivity": 0.0, "l1_sensitivity": 0.0}
        limits |= {"share_sigma": least_sigma, "sampler_distance": 0.0}
        for name, least in limits.items():
            value = getattr(self, name)
            check_at_least(f"{name} of a round", value, least)
            object.__setattr__(self, name, float(value))  # an integer and its float are one plan, with one digest
        if self.scale == 0.0:
            raise ParameterError("scale of a round is 0, expected grid steps per natural unit > 0")
        if self.private and self.l2_sensitivity == 0.0:
            raise ParameterError("l2_sensitivity of a round is 0: a query that no unit can move needs no round")
        if not self.private and self.share_sigma != 0.0:
            raise ParameterError(f"share_sigma is {self.share_sigma!r} although the mechanism is 'none', expected 0")
        if not isinstance(self.sampling, Sampling):
            raise ParameterError(f"sampling of a round is {self.sampling!r}, expected a Sampling")
        if self.drop_outs == "exact" and self.protection in ("local", "central"):
            raise ParameterError(
                f"exact drop-outs under {self.protection!r} protection make no sense: nothing is shared there that "
                "could drop out; use drop_outs='provision'"
            )
        if self.mechanism == "skellam":
            self._check_skellam()
        elif self.private and self.drop_outs == "exact":
            variance = self.share_sigma**2 * self.guaranteed_shares
            exact_tau(total_variance=variance, planned=self.planned_shares, tolerated=self.tolerated)

    def _check_skellam(self) -> None:
        least, most = self.l2_sensitivity, self.l2_sensitivity * math.sqrt(self.dimension)
        if not least * (1.0 - 1e-12) <= self.l1_sensitivity <= most * (1.0 + 1e-12):
            raise ParameterError(
                f"l1_sensitivity of a skellam round is {self.l1_sensitivity!r}, expected between the L2 sensitivity "
                f"{least!r} and its {most!r} for dimension {self.dimension}: Skellam noise is accounted with both"
            )
        require_meaningful(self.share_sigma**2 * self._shares_in_sum)

    @property
    def _shares_in_sum(self) -> int:
        """Noise shares in the sum at the guaranteed survivors."""
        return 1 if self.protection == "central" else self.guaranteed_shares

    @property
    def private(self) -> bool:
        """Whether noise is added at all."""
        return self.mechanism != "none"

    @property
    def noise_multiplier(self) -> float:
        """Noise of the sum at the guaranteed survivors over the sensitivity; 0 without noise."""
        return math.sqrt(self._shares_in_sum) * self.share_sigma / self.l2_sensitivity if self.private else 0.0

    @property
    def tolerated(self) -> int:
        """Drop-outs that the plan allows."""
        return self.planned_shares - self.guaranteed_shares

    def amplified(self, view: str | View) -> bool:
        """Whether sampling lowers the cost in a view: one that cannot see who or what was sampled.

        See accounting/README.md, "Sampling"; where this is false a sampled round costs what an unsampled one does.
        """
        return hides_sample(self, View.parse(view))

    def charge(self, view: str | View, *, survivors: int | None = None) -> Charge:
        """Cost in a view: the most that any number of survivors the plan allows makes it, or at as many as there were.

        Raises:
            ParameterError: the survivors are not an integer >= 0.
        """
        return round_charge(self, View.parse(view), survivors)

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON; those later than schema version 1 only where they say something."""
        fields = dataclasses.asdict(self)
        for name, meaning in _LATER.items():
            if getattr(self, name) == meaning:
                del fields[name]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> Self:
        """Read back what `as_dict` gave; an unknown or missing field is a ParameterError."""
        known = {field.name for field in dataclasses.fields(cls)}
        wrong = (set(fields) - known) | (known - set(fields) - set(_LATER))
        if wrong:
            raise ParameterError(f"fields of a round differ from this schema's: {sorted(wrong)}")
        if "sampling" in fields:
            fields = {**fields, "sampling": Sampling.from_dict(fields["sampling"])}
        return cls(**fields)
