"""The client's side of a release: check the terms, compute, clip, encode, add noise. One integer vector comes out.

Nothing else that depends on the data leaves this module, but for errors: they tell the client's own operator what is
wrong with its rows, and an engine that spans machines must not send their text on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy.typing as npt

from privfed.errors import DataError, FederationError, PrivfedError, warn_caller
from privfed.federation.agreement import Agreement
from privfed.federation.memory import StagedMemory
from privfed.federation.sampling import check_remembered, poisson
from privfed.federation.vector import Contribution, noised_vector
from privfed.mechanism.clip import clip_l2
from privfed.mechanism.randomness import Keystream
from privfed.plan import Plan, decode_terms, make_plan
from privfed.plan.entry import round_plan
from privfed.query import FloatArray, Query, decode_query, query_digest
from privfed_accounting import AccountingError, RoundPlan

__all__ = ["ClientSide", "Guard", "Task"]

logger = logging.getLogger(__name__)

WHATEVER = (Exception,)  # that a query of somebody's own may raise over rows


@dataclass(frozen=True)
class Task:
    """What the coordinator sends to every client: the query and the terms, as bytes."""

    query: bytes
    terms: bytes


@lru_cache(maxsize=2)
def _derived(query: bytes, terms: bytes) -> tuple[Query, bytes, Plan]:
    """Return query, digest and plan: a pure function of the bytes, worked out once for all clients of a process."""
    decoded, digest = decode_query(query), query_digest(query)
    return decoded, digest, make_plan(decoded, digest, decode_terms(terms))


class Guard(Protocol):
    """What a client's guard does, such as `privfed_accounting.ClientGuard`."""

    def admit(self, plan: RoundPlan) -> int:
        """Charge the client's own ledger for `plan` and return the entry, or raise an `AccountingError`."""
        ...

    def settle(self, entry: int, *, participants: int, survivors: int) -> None:
        """Record how the round of `entry` ended."""
        ...

    def void(self, entry: int, *, reason: str) -> None:
        """Give the charge of `entry` back."""
        ...


class ClientSide:
    """One holder of data.

    Args:
        name: how the client is called in logs, errors and the release.
        load: returns the client's rows, float64 of shape `(rows, features)`; called at least once per release.
        agreement: what this client has agreed to; a task beyond it is refused.
        guard: this client's own policy and ledger, or None.
        memory: where this client keeps arrays from one release to the next, see `ClientQuery`; None for this process.
        keystream: makes a fresh source of noise for a release; the operating system's by default.

    Guarantees:
        The vector that `contribution` returns carries the noise share of the plan that this client derived itself from
        the query and the agreed terms, not one that it was told. With a guard, nothing is computed before the client's
        own ledger holds the charge, and the charge stays once the query has begun on the rows, whether it fails or not.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], FloatArray],
        *,
        agreement: Agreement,
        guard: Guard | None = None,
        memory: MutableMapping[str, npt.NDArray[Any]] | None = None,
        keystream: Callable[[], Keystream] = Keystream,
    ) -> None:
        self.name = name
        self._load = load
        self._agreement = agreement
        self._guard = guard
        self._memory = StagedMemory({} if memory is None else memory)
        self._scanned: FloatArray | None = None
        self._vetted: set[str] = set()
        self._keystream = keystream
        self._entry: int | None = None
        self._computed = False

    @property
    def remembers(self) -> bool:
        """Whether the client's memory holds anything; for its own operator, and for a simulation."""
        return len(self._memory) > 0

    def agree(self, task: Task) -> tuple[Query, Plan]:
        """Return query and plan of `task` as this client derives them.

        Raises:
            FederationError: the terms are not those agreed on, or the release would cost more than allowed.
            UsageError: the task is malformed.
        """
        self._agreement.check(decode_terms(task.terms), self.name)
        query, digest, plan = _derived(task.query, task.terms)
        check_remembered(query, plan.terms.sampling, plan.terms, private=plan.terms.private)
        entry = round_plan(
            plan,
            run=self._agreement.run,
            purpose=query.kind,
            query=query.kind,
            query_digest=digest,
            noise_source=self._agreement.noise_source,
        )
        self._agreement.check_cost(entry, self.name)
        if self._guard is not None:
            try:
                self._entry, self._computed = self._guard.admit(entry), False
            except AccountingError as error:
                raise FederationError(f"the guard of client {self.name!r} refuses: {error}") from error
        return query, plan

    def admit(self, query: Query) -> FloatArray:
        """Load this client's rows and refuse those that no query could use.

        Failing here tells nothing that a query could steer: the checks are about the rows alone, the same each time.
        Rows of which only this query makes nothing are refused without a budget; under one the client is warned, once
        for each kind of query, and nobody else learns of it.

        Raises:
            DataError: the rows cannot be used; names the client.
        """
        rows, most = self._load(), self._agreement.terms.max_records
        if len(rows) > most:
            raise DataError(f"client {self.name!r}: {len(rows)} rows: raise max_records, now {most}", client=self.name)
        try:
            query.admit(rows, scanned=rows is self._scanned)
            self._vet(query, rows)
        except DataError as error:
            raise DataError(f"client {self.name!r}: {error}", client=self.name) from error
        self._scanned = None if rows.flags.writeable else rows  # frozen rows need no second look at their values
        return rows

    def _vet(self, query: Query, rows: FloatArray) -> None:
        if self._agreement.budget is None:
            query.vet(rows)
        elif query.kind not in self._vetted:
            self._vetted.add(query.kind)
            try:
                query.vet(rows)
            except WHATEVER as error:
                what = error if isinstance(error, DataError) else f"looking at the rows failed: {type(error).__name__}"
                self._tell(f"client {self.name!r}: {what}; under a budget such rows count for nothing")

    @staticmethod
    def _tell(message: str) -> None:
        """Warn whoever runs this client; where warnings are made errors, one would tell the coordinator as well."""
        try:
            warn_caller(message)
        except UserWarning:
            logger.warning(message)

    def contribution(self, query: Query, plan: Plan, rows: FloatArray) -> Contribution:
        """Return this client's noised vector in the ring, from admitted rows, and the seed of its surplus noise.

        Raises:
            FederationError: the query broke its promise to be defined and bounded on all admitted rows. That it did
                tells something about them, so that an engine must leave the round charged.
        """
        keystream, terms = self._keystream(), plan.terms
        self._computed = True  # before the query: that it fails on the rows tells something about them as well
        self._memory.discard()  # of a round that an engine broke off, or asks for anew
        try:
            if terms.sampling.kind == "poisson" and terms.sampling.unit == "record":
                rows = rows[poisson(len(rows), terms.sampling.rate, keystream)]
            vector = query.checked_contribution(rows, self._memory if query.remembers else None)
            if query.per_client:
                vector = clip_l2(vector, 1.0)
            elif terms.unit == "client":
                limit = terms.records_per_client
                # The weight keeps the norm within the limit if the query keeps its bounds; the clip holds it if not.
                vector = clip_l2(vector * min(1.0, limit / max(len(rows), 1)), limit)
            return noised_vector(vector, plan, keystream)
        except (PrivfedError, ArithmeticError, ValueError) as error:
            raise FederationError(f"client {self.name!r}: query {query.kind!r} failed on its rows: {error}") from error

    def renew(self, agreement: Agreement) -> None:
        """Take another agreement from the next release on, as when clients join or leave."""
        self._agreement = agreement

    def close(self, *, participants: int = 0, survivors: int = 0, summed: bool = True) -> None:
        """Record in the guard's ledger how a release ended: with these numbers, or with none if it failed.

        The charge of a failed one is given back only if this client had not begun to compute anything for it. What the
        query put into the client's memory stays if the release completed and this client is in the sum (`summed`).
        """
        if survivors > 0 and summed:
            self._memory.commit()
        else:
            self._memory.discard()
        entry, self._entry = self._entry, None
        if self._guard is None or entry is None:
            return
        if survivors > 0:
            self._guard.settle(entry, participants=participants, survivors=survivors)
        elif not self._computed:
            self._guard.void(entry, reason="the release failed before this client computed anything")
