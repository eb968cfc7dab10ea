"""The client's side of a release: check the terms, compute, clip, encode, add noise. One integer vector comes out.

Nothing else that depends on the data leaves this module, but for errors: they tell the client's own operator what is
wrong with its rows, and an engine that spans machines must not send their text on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, FederationError, PrivfedError
from privfed.mechanism.clip import clip_l2
from privfed.mechanism.discrete_gaussian import discrete_gaussian
from privfed.mechanism.encode import encode, to_ring
from privfed.mechanism.randomness import Keystream
from privfed.plan import Plan, Terms, decode_terms, make_plan
from privfed.query import FloatArray, Query, decode_query, query_digest

__all__ = ["ClientSide", "Task"]

RingArray = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Task:
    """What the coordinator sends to every client: the query and the terms, as bytes."""

    query: bytes
    terms: bytes


class ClientSide:
    """One holder of data.

    Args:
        name: how the client is called in logs, errors and the release.
        load: returns the client's rows, float64 of shape `(rows, features)`; called at least once per release.
        terms: what this client has agreed to. A task's terms must equal them but for `mu2`.
        max_mu2: most that one release may cost, in squared GDP; a task beyond it is refused.
        keystream: makes a fresh source of noise for a release; the operating system's by default.

    Guarantees:
        The vector that `contribution` returns carries the noise share of the plan that this client derived itself from
        the query and the agreed terms, not one that it was told.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], FloatArray],
        *,
        terms: Terms,
        max_mu2: float,
        keystream: Callable[[], Keystream] = Keystream,
    ) -> None:
        self.name = name
        self._load = load
        self._terms = terms
        self._max_mu2 = max_mu2
        self._keystream = keystream

    def agree(self, task: Task) -> tuple[Query, Plan]:
        """Return query and plan of `task` as this client derives them.

        Raises:
            FederationError: the terms are not those agreed on, or the release would cost more than allowed.
            UsageError: the task is malformed.
        """
        terms = decode_terms(task.terms)
        if msgspec.structs.replace(terms, mu2=self._terms.mu2) != self._terms:
            raise FederationError(
                f"client {self.name!r} refuses the terms {terms}, it agreed to {self._terms} but for mu2"
            )
        if not 0.0 <= terms.mu2 <= self._max_mu2 or (self._max_mu2 < np.inf and terms.mu2 == 0.0):
            raise FederationError(
                f"client {self.name!r} refuses noise for mu^2 = {terms.mu2:.6g}, it allows at most {self._max_mu2:.6g}"
                " and never none"
            )
        query = decode_query(task.query)
        return query, make_plan(query, query_digest(task.query), terms)

    def admit(self, query: Query) -> FloatArray:
        """Load this client's rows and refuse those that no query could use.

        Failing here tells nothing that a query could steer: the checks are about the rows alone, the same each time.

        Raises:
            DataError: the rows cannot be used; names the client.
        """
        rows = self._load()
        if len(rows) > self._terms.max_records:
            raise DataError(
                f"client {self.name!r}: {len(rows)} rows: raise max_records, now {self._terms.max_records}",
                client=self.name,
            )
        try:
            query.admit(rows)
        except DataError as error:
            raise DataError(f"client {self.name!r}: {error}", client=self.name) from error
        return rows

    def contribution(self, query: Query, plan: Plan, rows: FloatArray) -> RingArray:
        """Return this client's noised vector in the ring, uint64 of shape `(dimension,)`, from admitted rows.

        Raises:
            FederationError: the query broke its promise to be defined and bounded on all admitted rows. That it did
                tells something about them, so that an engine must leave the round charged.
        """
        try:
            vector = query.checked_contribution(rows)
            if plan.terms.unit == "client":
                limit = plan.terms.records_per_client
                # The weight keeps the norm within the limit if the query keeps its bounds; the clip holds it if not.
                vector = clip_l2(vector * min(1.0, limit / max(len(rows), 1)), limit)
            encoded = encode(vector, scale=plan.scale)
        except (PrivfedError, ArithmeticError, ValueError) as error:
            raise FederationError(f"client {self.name!r}: query {query.kind!r} failed on its rows: {error}") from error
        if np.abs(encoded).max(initial=0) > plan.bound:
            raise FederationError(f"client {self.name!r}: an encoded value is beyond the plan's bound {plan.bound:.6g}")
        if plan.share_sigma > 0:
            encoded += discrete_gaussian(plan.share_sigma, encoded.size, self._keystream())
        return to_ring(encoded)
