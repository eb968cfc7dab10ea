"""What a learner sees: a `Federation` that it asks, and the `Release` that it gets."""

from __future__ import annotations

from collections.abc import Iterator, KeysView, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypedDict, runtime_checkable

from privfed.plan import Plan
from privfed.plan.terms import Protection
from privfed.query import FloatArray, Query, Unit
from privfed_accounting import Budget, Ledger, Sampling

__all__ = ["Federation", "NoiseOptions", "Protection", "Release", "ReleaseOptions"]


@dataclass(frozen=True)
class Release:
    """The noised sum of one query over the clients that survived the round.

    Everything in it is public, unless the charge counts on a hidden sample of clients (`expected_clients` is given).
    Then `values`, `divisor` and what is computed of them are public; `participants`, `survivors`, `lost`, `bytes_up`,
    `plan` and the ledger's entry tell how many were drawn, and are for the coordinator, who drew them.

    Attributes:
        query: kind of the query.
        round: number of the release in its federation, from 1.
        values: block name -> sum in natural units, float64, read-only.
        noise_std: block name -> standard deviation per coordinate of the noise that `values` carry, in natural units;
            0.0 where there is none. What rounding on a coarse grid adds (half a step per client at most) is not in it.
        participants: clients that were asked.
        survivors: clients whose contribution is in the sum.
        lost: names of clients that dropped out on the way.
        private: whether the sum carries noise that a budget was charged for.
        protection: "secure_aggregation", or a mode for comparisons: "trusted" (the same sum, formed in the clear),
            "local" (each client's noise hides it alone), "central" (the operator saw everything and added the noise).
        entry: number of the ledger entry.
        epsilon: view -> epsilon charged so far, this release included, at the budget's delta: for the fewest survivors
            that the plans allow. The report adds the smaller one that the real survivors gave. Empty without a budget.
        bytes_up: bytes that all clients sent for this round, set-up included when the round opened an epoch.
        plan: what the release was made by: regime, bits, noise, sampling; None where it is not known.
        kept_surplus: drop_outs "exact": survivors whose surplus noise stayed in, because they were lost before they
            could give it back; `noise_std` counts it.
        expected_clients: how many clients are drawn on average, where view "released" must not learn which were, nor
            how many; else None.
    """

    query: str
    round: int
    values: Mapping[str, FloatArray]
    noise_std: Mapping[str, float]
    participants: int
    survivors: int
    lost: tuple[str, ...]
    private: bool
    protection: Protection
    entry: int
    epsilon: Mapping[str, float] = field(default_factory=dict)
    bytes_up: int = 0
    plan: Plan | None = field(default=None, repr=False)
    kept_surplus: int = 0
    expected_clients: float | None = None

    @property
    def divisor(self) -> float:
        """Number of clients by which a sum may be divided in public.

        The survivors; of hidden samples of clients, how many are drawn on average: a quotient by the survivors' number
        would tell it, and so whether somebody was drawn. The mean is then unbiased but for drop-outs, which shrink it.
        """
        return float(self.survivors) if self.expected_clients is None else self.expected_clients

    def __getitem__(self, block: str) -> FloatArray:
        """Return the noised sum of `block`."""
        if block not in self.values:
            raise KeyError(f"no block {block!r} in this release, there are {list(self.values)}")
        return self.values[block]

    def __contains__(self, block: object) -> bool:
        return block in self.values

    def __iter__(self) -> Iterator[str]:
        return iter(self.values)

    def keys(self) -> KeysView[str]:
        """Return the names of the blocks."""
        return self.values.keys()


class NoiseOptions(TypedDict, total=False):
    """What fixes the noise of a release beside query and share, by keyword; see `FederationBase.release`."""

    noise_multiplier: float | None
    sampling: Sampling | None


class ReleaseOptions(NoiseOptions, total=False):
    """What a release takes beside its query, by keyword; see `FederationBase.release`."""

    share: float | None
    purpose: str
    rounds: int


@runtime_checkable
class Federation(Protocol):
    """What a learner may ask of a group of clients. It never sees a client's vector.

    Attributes:
        n_clients: clients in the federation.
        budget: what may be spent; None releases without noise.
        ledger: where every release is written down before it happens.
        unit: what the budget protects.
        records_per_client: unit "client" only: the weight that one client may carry at most, in records.
        total_mu: square root of the total mu^2 that the budget allows; infinity without a budget.
        remaining_share: part of the budget's mu^2 that is not spent, from 1.0 down to 0.0.
    """

    @property
    def n_clients(self) -> int:
        """Clients in the federation."""
        ...

    @property
    def n_features(self) -> int:
        """Columns of the clients' rows."""
        ...

    @property
    def budget(self) -> Budget | None:
        """What may be spent."""
        ...

    @property
    def ledger(self) -> Ledger:
        """Where releases are written down."""
        ...

    @property
    def unit(self) -> Unit:
        """What the budget protects."""
        ...

    @property
    def records_per_client(self) -> float:
        """Weight one client may carry, in records."""
        ...

    @property
    def total_mu(self) -> float:
        """GDP parameter of the whole budget."""
        ...

    @property
    def remaining_share(self) -> float:
        """Part of the budget that is left."""
        ...

    def release(
        self,
        query: Query,
        *,
        share: float | None = None,
        noise_multiplier: float | None = None,
        sampling: Sampling | None = None,
        purpose: str = "",
        rounds: int = 1,
    ) -> Release:
        """Return the noised sum of `query`; see `FederationBase.release`."""
        ...

    def noise_std(
        self,
        query: Query,
        share: float | None = None,
        *,
        noise_multiplier: float | None = None,
        sampling: Sampling | None = None,
    ) -> Mapping[str, float]:
        """Return what a release would carry at the fewest survivors the plan allows; costs nothing."""
        ...
