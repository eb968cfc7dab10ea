"""What a series of releases would cost and carry, before anything is run: pure numbers for whoever plans a study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from privfed.errors import UsageError, checked_integer
from privfed.plan.checks import check_budget, check_colluders, check_sample
from privfed.plan.entry import affordable_noise, round_plan
from privfed.plan.made import Plan, make_plan
from privfed.plan.terms import DropOuts, Noise, Protection, SamplingTerms, Terms, require_choice, tolerated_losses
from privfed.query import Block, FloatArray, Query, Unit
from privfed_accounting import Budget, RoundPlan, Sampling, Total, View

__all__ = ["Preview", "preview"]

VIEWS = ("released", "server", "client", "unmasked")


@dataclass(frozen=True)
class Preview:
    """A planned series of equal releases.

    Attributes:
        epsilon, delta, unit, view: the budget.
        rounds: releases that spend it.
        plan: of each of them.
        noise_std: standard deviation per coordinate of the sum's noise at the fewest survivors, where the vector of
            one unit has norm 1 at most.
        mean_noise_std: the same of the mean over those survivors.
        bytes_per_client: bytes of one client's vector in one release; keys and shares come on top.
        total_bytes: of all clients' vectors in all releases.
        epsilons: view -> epsilon after all releases, at the fewest survivors.
        epsilons_if_nobody_is_lost: the same if all clients survive all releases.
    """

    epsilon: float
    delta: float
    unit: Unit
    view: str
    rounds: int
    plan: Plan
    noise_std: float
    mean_noise_std: float
    bytes_per_client: int
    total_bytes: int
    epsilons: Mapping[str, float]
    epsilons_if_nobody_is_lost: Mapping[str, float]

    def explain(self) -> tuple[str, ...]:
        """Return sentences on what each release does and why."""
        return self.plan.explain()

    def as_dict(self) -> dict[str, Any]:
        """Return all numbers, fit for JSON; infinite epsilons as None."""
        plan, terms = self.plan, self.plan.terms
        return {
            "budget": {"epsilon": self.epsilon, "delta": self.delta, "unit": self.unit, "view": self.view},
            "rounds": self.rounds,
            "clients": {"planned": terms.planned, "guaranteed": terms.guaranteed},
            "regime": plan.regime,
            "mechanism": plan.mechanism,
            "protection": terms.protection,
            "drop_outs": terms.drop_outs,
            "sampling": terms.sampling.sampling().as_dict(),
            "bits": plan.bits,
            "dimension": plan.dimension,
            "length": plan.length,
            "scale": plan.scale,
            "wrap_probability": plan.wrap_probability,
            "noise_multiplier": terms.noise_multiplier,
            "share_sigma": plan.share_sigma,
            "noise_std": self.noise_std,
            "mean_noise_std": self.mean_noise_std,
            "bytes_per_client": self.bytes_per_client,
            "total_bytes": self.total_bytes,
            "epsilons": _finite(self.epsilons),
            "epsilons_if_nobody_is_lost": _finite(self.epsilons_if_nobody_is_lost),
            "explanation": list(self.explain()),
        }


def preview(
    *,
    epsilon: float,
    delta: float,
    rounds: int,
    clients: int,
    dropout: float = 0.0,
    colluders: int = 0,
    dimension: int = 1,
    bits: int | None = None,
    noise: Noise = "auto",
    drop_outs: DropOuts = "provision",
    protection: Protection = "secure_aggregation",
    unit: Unit = "client",
    view: str | View = "server",
    max_records: int = 1_000_000,
    sampling: Sampling | None = None,
) -> Preview:
    """Plan `rounds` equal releases that together spend a budget; what a federation would refuse is refused here.

    Args:
        epsilon, delta, unit, view: the budget.
        rounds: releases, >= 1.
        clients: in the federation, >= 2.
        dropout: fraction of a release's clients that may be lost.
        colluders: clients whose view with the server is shown beside the others, 0 (none shown) to clients - 1.
        dimension: coordinates of the vector.
        bits, noise, drop_outs, protection, sampling: as for a federation.
        max_records: unit "record": most rows that a client may hold.

    Raises:
        UsageError: there is no such plan; the message names the remedy.

    Examples:
        >>> outlook = preview(epsilon=2.0, delta=1e-6, rounds=100, clients=50, dropout=0.2, dimension=10_000)
        >>> outlook.plan.bits, round(outlook.epsilons["server"], 2)
        (32, 2.0)
    """
    rounds = checked_integer("rounds", rounds, least=1)
    clients = checked_integer("clients", clients, least=2)
    if not (isinstance(dropout, int | float) and 0.0 <= dropout < 1.0):
        raise UsageError(f"dropout is {dropout!r}, expected a fraction in [0, 1)")
    for name, chosen, choices in (
        ("protection", protection, Protection),
        ("noise", noise, Noise),
        ("drop_outs", drop_outs, DropOuts),
        ("unit", unit, Unit),
    ):
        require_choice(name, chosen, choices)
    budget = Budget(epsilon=epsilon, delta=delta, unit=unit, view=view)
    check_budget(budget)
    colluders = checked_integer("colluders", colluders, least=0, most=clients - 1)
    sampling = Sampling.none() if sampling is None else sampling
    check_sample(sampling, clients=clients, dropout=dropout, budget=budget)
    if protection == "secure_aggregation":
        check_colluders(budget.view, clients - tolerated_losses(clients, dropout))
    planned = clients
    if sampling.unit == "client" and sampling.kind != "none":
        planned = max(2, int(sampling.rate * clients))
    guaranteed = planned - tolerated_losses(planned, dropout)
    if guaranteed < 2:
        raise UsageError(
            f"dropout={dropout} of {planned} clients may leave {guaranteed}: tolerate fewer, or bring more"
        )
    terms = Terms(
        unit=unit,
        view=str(budget.view),
        noise_multiplier=0.0,
        noise=noise,
        bits=0 if bits is None else checked_integer("bits", bits, least=8, most=64),
        planned=planned,
        guaranteed=guaranteed,
        drop_outs=drop_outs,
        population=clients,
        dropout=dropout,
        max_records=checked_integer("max_records", max_records, least=1),
        records_per_client=1.0,
        protection=protection,
        sampling=SamplingTerms.of(sampling),
    )
    query = _Vector(checked_integer("dimension", dimension, least=1))

    def make(multiplier: float) -> tuple[Plan, RoundPlan]:
        plan = make_plan(query, bytes(32), msgspec.structs.replace(terms, noise_multiplier=multiplier))
        return plan, round_plan(
            plan, run="preview", purpose="preview", query="vector", query_digest=bytes(32), noise_source="os"
        )

    if make(1.0)[1].charge(budget.view).rdp:
        budget = Budget(epsilon=epsilon, delta=delta, unit=unit, view=view, accounting="renyi")
    plan, entry = make(affordable_noise(1.0 / rounds, budget, budget.allowance().mu2, terms, make))
    views = [*VIEWS, str(budget.view)] + ([f"colluders({colluders})"] if colluders > 0 else [])
    noise_std = plan.noise_std(guaranteed)
    return Preview(
        epsilon=budget.epsilon,
        delta=budget.delta,
        unit=unit,
        view=str(budget.view),
        rounds=rounds,
        plan=plan,
        noise_std=noise_std,
        mean_noise_std=noise_std / guaranteed,
        bytes_per_client=plan.nbytes,
        total_bytes=plan.nbytes * planned * rounds,
        epsilons=_epsilons(entry, views, rounds, budget.delta, guaranteed),
        epsilons_if_nobody_is_lost=_epsilons(entry, views, rounds, budget.delta, planned),
    )


def _epsilons(entry: RoundPlan, views: list[str], rounds: int, delta: float, survivors: int) -> dict[str, float]:
    count = entry.sampling.participations(rounds)
    charges = {view: entry.charge(view, survivors=survivors) for view in dict.fromkeys(views)}
    return {view: Total.of([charge]).times(count).epsilon(delta) for view, charge in charges.items()}


def _finite(epsilons: Mapping[str, float]) -> dict[str, float | None]:
    return {view: epsilon if epsilon < float("inf") else None for view, epsilon in epsilons.items()}


class _Vector(Query):
    """Any query whose vector has norm 1 at most; it is planned, never asked."""

    def __init__(self, dimension: int) -> None:
        self._dimension = dimension

    @property
    def blocks(self) -> tuple[Block, ...]:
        """One block."""
        return (Block("vector", (self._dimension,), 1.0),)

    def contribution(self, data: FloatArray) -> Mapping[str, FloatArray]:
        """Refuse: there are no data in a preview."""
        raise UsageError("a preview computes nothing")
