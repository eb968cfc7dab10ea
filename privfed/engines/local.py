"""All clients in this process: the engine for experiments, tests and single-machine pipelines."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from privfed.engines.faults import Loss, Step, check_losses
from privfed.engines.secure import Lost, SecureEpoch
from privfed.engines.sources import named_sources
from privfed.errors import DataError, FederationError, UsageError
from privfed.federation import FederationBase
from privfed.federation.client import ClientSide
from privfed.federation.door import RoundOutcome, RoundTask, check_budget
from privfed.mechanism.randomness import Keystream
from privfed_accounting import Budget, Ledger, View
from privfed_protocols.parameters import MAX_COMPLETE

__all__ = ["LocalFederation"]

MAX_EPOCH_ROUNDS = 64


class LocalFederation(FederationBase):
    """A federation whose clients all live in this process, each behind the protocol's bytes.

    Args:
        clients: one entry per client: array `(rows, features)`, data frame, or a callable that loads either, called
            once or twice per release; a dict gives the clients their names.
        budget: `Budget(epsilon, delta, unit, view)`; None releases sums without noise.
        ledger: path of the SQLite ledger, an open `Ledger`, or None for one in memory. An existing ledger of the same
            budget goes on from what it has spent.
        mode: "secure" runs secure aggregation; "trusted" forms the same integers in the clear, without masks: for
            experiments with many runs, and marked in every release and entry.
        dropout: fraction of clients that may be lost in a round, in [0, 1). Noise is sized for it.
        max_records: most rows a client may hold; sizes the grid and the float-summation term. Public.
        records_per_client: unit "client": the weight, in records, that one client may carry at most.
        losses: clients to lose on purpose, see `Loss`.
        noise_seed: for tests only: noise from a seed instead of the operating system; the ledger records it.

    Guarantees:
        Every number that a release shows was clipped, encoded, noised and (in mode "secure") masked before it left its
        client. The noise suffices for the budget in the guarded view whatever `floor(dropout * n)` clients are lost.

    Examples:
        >>> import numpy as np
        >>> from privfed import Budget, LocalFederation
        >>> from privfed.statistics.moments import Count
        >>> hospitals = [np.ones((100, 2)), np.ones((150, 2)), np.ones((50, 2))]
        >>> federation = LocalFederation(hospitals)
        >>> int(federation.release(Count())["count"])
        300
        >>> guarded = LocalFederation(hospitals, budget=Budget(epsilon=1.0, delta=1e-6))
        >>> release = guarded.release(Count(), share=1.0)
        >>> abs(release["count"] - 300) < 10 * release.noise_std["count"]
        np.True_
    """

    def __init__(
        self,
        clients: Mapping[str, Any] | Sequence[Any],
        *,
        budget: Budget | None = None,
        ledger: str | Path | Ledger | None = None,
        mode: Literal["secure", "trusted"] = "secure",
        dropout: float = 0.0,
        max_records: int = 1_000_000,
        records_per_client: float = 1.0,
        losses: Iterable[Loss] = (),
        noise_seed: int | None = None,
    ) -> None:
        if mode not in ("secure", "trusted"):
            raise UsageError(f"mode is {mode!r}, expected 'secure' or 'trusted'")
        self._sources, self._columns = named_sources(clients)
        if mode == "secure" and len(self._sources) > MAX_COMPLETE:
            raise UsageError(
                f"{len(self._sources)} clients: secure aggregation carries at most {MAX_COMPLETE} so far;"
                " use mode='trusted' to experiment with more"
            )
        for source in self._sources.values():
            if source.in_memory and len(source.load()) > max_records:
                raise DataError(
                    f"client {source.name!r} has {len(source.load())} rows: raise max_records, now {max_records}",
                    client=source.name,
                )
        self._losses = check_losses(losses, self._sources)
        check_budget(budget)
        opened = ledger if isinstance(ledger, Ledger) else Ledger.open(_expanded(ledger), budget=budget)
        super().__init__(
            budget=budget,
            ledger=opened,
            planned=len(self._sources),
            dropout=dropout,
            max_records=max_records,
            records_per_client=records_per_client,
            trusted=mode == "trusted",
            noise_source="os" if noise_seed is None else "seeded",
        )
        view = View.parse(self._terms.view)
        if mode == "secure" and view.t > self.guaranteed_survivors - 2:
            raise UsageError(
                f"view {view}: {self.guaranteed_survivors} guaranteed survivors keep a secret from at most"
                f" {max(self.guaranteed_survivors - 2, 0)} colluders; bring more clients, or tolerate fewer losses"
            )
        self._dropout = dropout
        self._noise_seed = noise_seed
        self._drawn: dict[str, int] = dict.fromkeys(self._sources, 0)
        self._epoch: SecureEpoch | None = None
        max_mu2 = math.inf if budget is None else self.ledger.total_mu2()
        self._sides = {
            name: ClientSide(
                name, source.load, terms=self._terms, max_mu2=max_mu2, keystream=functools.partial(self._noise, name)
            )
            for name, source in self._sources.items()
        }

    @property
    def clients(self) -> tuple[str, ...]:
        """The clients' names."""
        return tuple(self._sources)

    @property
    def n_features(self) -> int:
        """Columns of the clients' rows; loads one client if all are callables."""
        if self._columns.width is None:
            next(iter(self._sources.values())).load()
        return self._columns.width or 0

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Column names, where a client brought a frame; callables tell theirs when they are first loaded."""
        return self._columns.names

    def close(self) -> None:
        """Close the ledger; also done at the end of a `with` block."""
        self.ledger.close()

    def __repr__(self) -> str:
        mode = "trusted" if self.trusted else "secure"
        left = "" if self.budget is None else f", {self.remaining_share:.1%} of it left"
        return f"<LocalFederation: {self.n_clients} clients, {mode}, budget {self.budget or 'none (no DP)'}{left}>"

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _noise(self, name: str) -> Keystream:
        if self._noise_seed is None:
            return Keystream()
        self._drawn[name] += 1
        return Keystream.seeded(hashlib.sha256(f"{self._noise_seed}/{name}/{self._drawn[name]}".encode()).digest())

    def _lost(self, round: int) -> Lost:
        def lost(client: str, step: Step) -> bool:
            return any(loss.strikes(client, step, round) for loss in self._losses)

        return lost

    def _run(self, task: RoundTask) -> RoundOutcome:
        lost = self._lost(self._rounds_done + 1)
        if self.trusted:
            return self._run_trusted(task, lost)
        try:
            if self._epoch is None or self._epoch.rounds_left < 1 or self._epoch.dimension != task.plan.dimension:
                self._epoch = self._new_epoch(task, lost)
            return self._epoch.run(task, lost)
        except BaseException:
            self._epoch = None  # clients and server may stand at different messages: the next release sets up anew
            raise

    def _new_epoch(self, task: RoundTask, lost: Lost) -> SecureEpoch:
        view = View.parse(self._terms.view)
        return SecureEpoch(
            self._sides,
            dimension=task.plan.dimension,
            guaranteed=self.guaranteed_survivors,
            rounds=min(task.expected_rounds, MAX_EPOCH_ROUNDS),
            colluders=max(view.t if view.kind == "colluders" else 0, min(1, self.guaranteed_survivors - 2)),
            dropout=self._dropout,
            plan_digest=hashlib.sha256(self._terms.encode()).digest(),
            lost=lost,
        )

    def _run_trusted(self, task: RoundTask, lost: Lost) -> RoundOutcome:
        """Form the same sum without masks. A loss before the input counts; a later one leaves the sum whole."""
        total = np.zeros(task.plan.dimension, dtype=np.uint64)
        invited = [name for name in self._sides if not (lost(name, "advertise") or lost(name, "shares"))]
        survivors = [name for name in invited if not lost(name, "masked")]
        if len(survivors) < self.guaranteed_survivors:
            raise FederationError(
                f"{len(survivors)} of {self.n_clients} clients are left, the plan needs {self.guaranteed_survivors}:"
                " tolerate more drop-outs with a larger dropout="
            )
        agreed = {name: self._sides[name].agree(task.task) for name in survivors}
        for name, (query, _) in agreed.items():
            self._sides[name].admit(query)
        task.about_to_reveal()  # from here on the server sees vectors
        for name, (query, plan) in agreed.items():
            side = self._sides[name]
            total += side.contribution(query, plan, side.admit(query))
        lost_names = tuple(sorted(set(self._sides) - set(survivors)))
        return RoundOutcome(total, len(invited), len(survivors), lost_names, 0)


def _expanded(ledger: str | Path | None) -> Path | None:
    """Return the path of a ledger with `~` filled in."""
    if ledger is None:
        return None
    if not isinstance(ledger, str | Path) or not str(ledger):
        raise UsageError(f"ledger is {ledger!r}, expected a path, an open Ledger, or None for one in memory")
    return Path(ledger).expanduser()
