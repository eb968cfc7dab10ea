"""All clients in this process: the engine for experiments, tests and single-machine pipelines."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy.typing as npt

from privfed.engines.clear import run_in_clear
from privfed.engines.faults import Loss, Lost, Step, check_losses
from privfed.engines.keys import Keys, Security
from privfed.engines.options import check_guards, check_memories, check_security, ledger_location
from privfed.engines.secure import SecureEpoch
from privfed.engines.sources import Source, named_sources
from privfed.errors import DataError, UsageError, checked_integer
from privfed.federation import FederationBase
from privfed.federation.agreement import Agreement
from privfed.federation.client import ClientSide, Guard
from privfed.federation.rounds import RoundOutcome, RoundTask
from privfed.mechanism.randomness import Keystream
from privfed.plan.checks import check_budget, check_colluders
from privfed.plan.terms import DropOuts, Noise, Protection, require_choice
from privfed_accounting import Budget, Ledger, Sampling, View

__all__ = ["LocalFederation"]

MAX_EPOCH_ROUNDS = 64
MAX_EPOCHS = 3  # set up at a time: training and evaluation take turns with vectors of their own

Mode = Literal["secure", "trusted", "local", "central"]
_PROTECTIONS: Final[dict[Mode, Protection]] = {
    "secure": "secure_aggregation",
    "trusted": "trusted",
    "local": "local",
    "central": "central",
}


class LocalFederation(FederationBase):
    """A federation whose clients all live in this process, each behind the protocol's bytes.

    Args:
        clients: one entry per client: array `(rows, features)`, data frame, pair `(X, y)` of features and targets, or a
            callable that loads any of these, called once or twice per release; a dict gives the clients their names.
            Rows of a read-only memory-mapped file (`numpy.load(path, mmap_mode="r")`) are read from it in each release.
        budget: `Budget(epsilon, delta, unit, view)`; None releases sums without noise.
        ledger: path of the SQLite ledger, URL of a database (`sqlite:///path`, `postgresql+psycopg://user@host/name`),
            an open `Ledger`, or None for one in memory. An existing ledger of the same budget goes on from what it has
            spent.
        mode: "secure" runs secure aggregation. The others are for comparisons, marked as such in every release and
            entry: "trusted" forms the same integers in the clear, without masks; "local" has each client add enough
            noise for itself (local DP); "central" has a trusted operator add the noise once.
        security: mode "secure": what the server is trusted with. "semi-honest" (it follows the protocol and looks), or
            "malicious" (it does what it likes), for which each client signs with a key of its own, pinned by all.
        noise: "discrete_gaussian" (fine grid), "skellam" (coarse grid), or "auto".
        bits: width of the ring, 8 to 64; None lets the plan choose. Few bits make a coarse grid.
        drop_outs: "provision" sizes every share for the fewest survivors; "exact" has the survivors give surplus noise
            back, so that the sum carries the same noise whoever is lost.
        sampling: who takes part in each release, `Sampling.poisson(...)` and the like; None for everybody.
        dropout: fraction of a release's clients that may be lost, in [0, 1). Noise is sized for it.
        max_records: most rows a client may hold; sizes the grid and the float-summation term. Public.
        records_per_client: unit "client": the weight, in records, that one client may carry at most.
        losses: clients to lose on purpose, see `Loss`.
        guards: name -> the `ClientGuard` of that client: its own policy and ledger.
        memories: name -> mapping in which that client keeps arrays at home (control variates, personal layers); those
            who have none keep them in this process.
        noise_seed: for tests only: noise from a seed instead of the operating system; the ledger records it.

    Guarantees:
        Every number that a release shows was clipped, encoded, noised and (in mode "secure") masked before it left its
        client. The noise suffices for the budget in the guarded view whatever `floor(dropout * n)` clients are lost.
        With drop_outs "exact" this rests on all survivors being told the same of who was lost: security "malicious"
        enforces it; "semi-honest" takes it from the server, which could get some noise back by telling them different
        things. With t losses tolerated of n, (n - t)/n of the variance is left, or more.

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
        mode: Mode = "secure",
        security: Security = "semi-honest",
        noise: Noise = "auto",
        bits: int | None = None,
        drop_outs: DropOuts = "provision",
        sampling: Sampling | None = None,
        dropout: float = 0.0,
        max_records: int = 1_000_000,
        records_per_client: float = 1.0,
        losses: Iterable[Loss] = (),
        guards: Mapping[str, Guard] | None = None,
        memories: Mapping[str, MutableMapping[str, npt.NDArray[Any]]] | None = None,
        noise_seed: int | None = None,
    ) -> None:
        require_choice("mode", mode, Mode)
        check_security(security, mode)
        self._sources, self._columns = named_sources(clients)
        self._keys = Keys.generate(security, [name.encode() for name in self._sources])
        check_budget(budget)
        max_records = checked_integer("max_records", max_records, least=1)
        self._check_rows(self._sources.values(), max_records, None if budget is None else budget.unit)
        self._losses = check_losses(losses, self._sources)
        guarded = check_guards(guards, self._sources)
        remembered = check_memories(memories, self._sources)
        opened = ledger if isinstance(ledger, Ledger) else Ledger.open(ledger_location(ledger), budget=budget)
        self._noise_seed = noise_seed
        self._drawn: dict[str, int] = {}
        super().__init__(
            clients=tuple(self._sources),
            budget=budget,
            ledger=opened,
            dropout=dropout,
            max_records=max_records,
            records_per_client=records_per_client,
            protection=_PROTECTIONS[mode],
            noise=noise,
            bits=bits,
            drop_outs=drop_outs,
            sampling=sampling,
            noise_source="os" if noise_seed is None else "seeded",
        )
        if mode == "secure":
            check_colluders(View.parse(self._terms.view), self.guaranteed_survivors)
        self._epochs: list[SecureEpoch] = []  # the one set up last comes first
        self._memories = remembered
        self._sides: dict[str, ClientSide] = {}
        self._seat(guarded)

    def _seat(self, guards: Mapping[str, Guard]) -> None:
        """Give every client its side of the door, under the agreement on all who are here now."""
        agreement = Agreement(self._terms, self.budget, self.run, self._noise_source, clients=tuple(self._sources))
        seated, self._sides = self._sides, {}
        for name, source in self._sources.items():
            side = seated.get(name)
            if side is None:
                side = ClientSide(
                    name,
                    source.load,
                    agreement=agreement,
                    guard=guards.get(name),
                    memory=self._memories.get(name),
                    keystream=functools.partial(self._keystream, name),
                )
            side.renew(agreement)
            self._sides[name] = side

    def _check_rows(self, sources: Iterable[Source], max_records: int, unit: str | None) -> None:
        for source in sources:
            if source.n_rows is not None and source.n_rows > max_records:
                also = "; records_per_client says how much one client may weigh" if unit == "client" else ""
                raise DataError(
                    f"client {source.name!r} has {source.n_rows} rows: raise max_records, now {max_records}{also}",
                    client=source.name,
                )

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

    @property
    def n_memories(self) -> int:
        """Clients whose memory holds something: of earlier releases here, or brought along. No server would know."""
        return sum(side.remembers for side in self._sides.values())

    @property
    def feature_shape(self) -> tuple[int, ...]:
        """Shape of one row's features: `(n_features,)`, or what `X` of pairs `(X, y)` has."""
        width = self.n_features  # loads one client if all are callables
        return self._columns.shape or (width,)

    @property
    def n_targets(self) -> int:
        """Last columns of the rows that hold targets: those of `y` where clients brought `(X, y)`, else 0."""
        return self._columns.n_targets if self.n_features else 0

    def join(
        self,
        clients: Mapping[str, Any],
        *,
        guards: Mapping[str, Guard] | None = None,
        memories: Mapping[str, MutableMapping[str, npt.NDArray[Any]]] | None = None,
    ) -> None:
        """Let more clients in, from the next release on. Who is in a federation is public.

        Args:
            clients: name -> data, as for the constructor.
            guards, memories: of those who join, by name.

        Raises:
            UsageError: a name is taken; nothing has changed.
            DataError: data that cannot be used, or other features than the others have; nothing has changed.
        """
        if not isinstance(clients, Mapping):
            raise UsageError(f"clients is a {type(clients).__name__}, expected a dict of name to data")
        taken = sorted(set(map(str, clients)) & set(self._sources))
        if taken:
            raise UsageError(f"the federation has {', '.join(map(repr, taken))} already: choose other names")
        with self._columns.unless_it_fails():
            sources, _ = named_sources(clients, self._columns)
            self._check_rows(sources.values(), self._terms.max_records, self.unit)
            guarded, remembered = check_guards(guards, sources), check_memories(memories, sources)
            self._change_clients({**self._sources, **sources}, guarded, remembered)

    def leave(self, names: Iterable[str]) -> None:
        """Let clients go, from the next release on. What they spent stays in the ledger.

        Raises:
            UsageError: nobody of that name, or too few clients would be left; nothing has changed.
        """
        going = {names} if isinstance(names, str) else set(names)
        unknown = sorted(going - set(self._sources))
        if unknown:
            raise UsageError(f"there is no client {', '.join(map(repr, unknown))} to leave")
        self._change_clients({name: self._sources[name] for name in self._sources if name not in going}, {}, {})

    def _change_clients(
        self,
        sources: dict[str, Source],
        guards: Mapping[str, Guard],
        memories: Mapping[str, MutableMapping[str, npt.NDArray[Any]]],
    ) -> None:
        terms = self._terms_of(tuple(sources))
        if self.protection == "secure_aggregation":
            check_colluders(View.parse(terms.view), terms.guaranteed)
        self._keys = Keys.generate(self._keys.mode, [name.encode() for name in sources])
        self._memories = {**self._memories, **memories}
        self._sources, self._epochs = sources, []
        self._take_clients(tuple(sources), terms)
        self._seat(guards)

    def close(self) -> None:
        """Close the ledger; also done at the end of a `with` block."""
        self.ledger.close()

    def __repr__(self) -> str:
        mode = next(mode for mode, protection in _PROTECTIONS.items() if protection == self.protection)
        left = "" if self.budget is None else f", {self.remaining_share:.1%} of it left"
        return f"<LocalFederation: {self.n_clients} clients, {mode}, budget {self.budget or 'none (no DP)'}{left}>"

    def __enter__(self) -> LocalFederation:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _keystream(self, purpose: str) -> Keystream:
        if self._noise_seed is None:
            return Keystream()
        number = self._drawn[purpose] = self._drawn.get(purpose, 0) + 1
        return Keystream.seeded(hashlib.sha256(f"{self._noise_seed}/{purpose}/{number}".encode()).digest())

    def _lost(self, round: int) -> Lost:
        def lost(client: str, step: Step) -> bool:
            return any(loss.strikes(client, step, round) for loss in self._losses)

        return lost

    def _run(self, task: RoundTask) -> RoundOutcome:
        sides = [self._sides[name] for name in task.cohort]
        try:
            outcome = self._run_round(task)
        except BaseException:
            for side in sides:
                side.close()
            raise
        lost = set(outcome.lost)
        for side in sides:
            summed = side.name not in lost
            side.close(participants=outcome.participants, survivors=outcome.survivors, summed=summed)
        return outcome

    def _run_round(self, task: RoundTask) -> RoundOutcome:
        lost = self._lost(self._rounds_done + 1)
        if self.trusted:
            return run_in_clear(self._sides, task, lost)
        try:
            epoch = next((epoch for epoch in self._epochs if epoch.carries(task)), None)
            if epoch is None:
                epoch = self._new_epoch(task, lost)
                self._epochs = [epoch, *self._epochs][:MAX_EPOCHS]
            return epoch.run(task, lost)
        except BaseException:
            self._epochs = []  # clients and server may stand at different messages: the next release sets up anew
            raise

    def _new_epoch(self, task: RoundTask, lost: Lost) -> SecureEpoch:
        view = View.parse(self._terms.view)
        guaranteed = task.plan.terms.guaranteed
        return SecureEpoch(
            {name: self._sides[name] for name in task.cohort},
            plan=task.plan,
            keys=self._keys,
            rounds=min(task.expected_rounds, MAX_EPOCH_ROUNDS),
            colluders=max(view.t if view.kind == "colluders" else 0, min(1, guaranteed - 2)),
            dropout=self._terms.dropout,
            lost=lost,
        )
