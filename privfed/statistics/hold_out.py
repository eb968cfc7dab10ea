"""Rows that training never sees: split at each client by a public rule, so that evaluation is honest.

`HoldOut(0.2).training(federation)` is the federation without a fifth of every client's rows, and
`HoldOut(0.2).evaluation(federation)` is that fifth. Both are views of one federation, on one budget and ledger.
"""

from __future__ import annotations

import hashlib
import weakref
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer
from privfed.federation.release import Federation
from privfed.federation.view import FederationView
from privfed.query import Block, ClientQuery, FloatArray, Query, decode_query, encode_query

__all__ = ["ClientPart", "FederationPart", "HoldOut", "RowPart", "held_out_mask"]


def held_out_mask(rows: FloatArray, fraction: float, seed: int = 0) -> npt.NDArray[np.bool_]:
    """Return which rows are held out, shape `(rows,)`: about `fraction` of them.

    A row is held out if a hash of its numbers, keyed by the seed, falls into the lowest `fraction` of all values. So it
    does not matter which rows stand beside it: adding or removing one record moves that record alone. Equal rows go
    together, which keeps copies of a training row out of the evaluation.

    Args:
        rows: float64 of shape `(rows, columns)`.
        fraction: in [0, 1].
        seed: public; another seed is another split.

    Examples:
        >>> rows = np.arange(2000.0).reshape(1000, 2)
        >>> held = held_out_mask(rows, 0.2)
        >>> bool(0.15 < held.mean() < 0.25), bool((held_out_mask(rows[::-1], 0.2) == held[::-1]).all())
        (True, True)
    """
    limit = int(fraction * 2.0**64)
    key = f"privfed hold-out v1 {seed}".encode()
    plain = np.ascontiguousarray(rows, dtype="<f8") + 0.0  # one zero, whatever its sign
    numbers = [hashlib.blake2b(row.data, digest_size=8, key=key).digest() for row in plain]
    return np.array([int.from_bytes(number, "little") < limit for number in numbers], dtype=np.bool_)


@dataclass(frozen=True)
class HoldOut:
    """A public rule that splits every client's rows into training and evaluation.

    Args:
        fraction: part of the rows that is held out, in (0, 1).
        seed: public; the same seed is the same split, in every run and at every client.

    Guarantees:
        Which part a record is in depends on the record and the seed alone. A record is never in both.

    Examples:
        >>> from privfed import Count, LocalFederation
        >>> federation = LocalFederation([np.arange(2000.0).reshape(1000, 2), np.ones((10, 2))])
        >>> hold_out = HoldOut(0.2)
        >>> views = hold_out.training(federation), hold_out.evaluation(federation)
        >>> round(sum(float(view.release(Count())["count"]) for view in views))
        1010
    """

    fraction: float
    seed: int = 0

    def __post_init__(self) -> None:
        real = isinstance(self.fraction, int | float) and not isinstance(self.fraction, bool)
        if not (real and 0.0 < self.fraction < 1.0):
            raise UsageError(f"hold_out is {self.fraction!r}, expected a fraction in (0, 1), such as 0.2")
        checked_integer("seed", self.seed, least=0, most=2**63 - 1)

    @classmethod
    def of(cls, given: HoldOut | float | None) -> HoldOut | None:
        """Return a fraction as the split of seed 0; a split or None as it is.

        Raises:
            UsageError: no fraction in (0, 1).
        """
        return given if given is None or isinstance(given, HoldOut) else cls(given)

    def training(self, federation: Federation) -> FederationPart:
        """Return the federation without the rows that are held out."""
        return FederationPart(federation, self, held=False)

    def evaluation(self, federation: Federation) -> FederationPart:
        """Return the federation of the rows that are held out."""
        return FederationPart(federation, self, held=True)


_Split = tuple[weakref.ref[FloatArray], FloatArray]
_SPLITS: dict[tuple[int, float, int, bool], _Split] = {}


def _part_of(rows: FloatArray, fraction: float, seed: int, held: bool) -> FloatArray:
    """Return one part of the rows; of frozen rows it is kept for as long as they live."""
    key = (id(rows), fraction, seed, held)
    known = _SPLITS.get(key)
    if known is not None and known[0]() is rows:
        return known[1]
    part = np.ascontiguousarray(rows[held_out_mask(rows, fraction, seed) == held])
    part.setflags(write=False)
    if not rows.flags.writeable:
        _SPLITS[key] = weakref.ref(rows, lambda _: _SPLITS.pop(key, None)), part
    return part


@dataclass(frozen=True, eq=False)
class _Part(Query):
    """What queries of one part of a split have in common: bounds and columns are the inner query's."""

    inner: bytes
    fraction: float
    seed: int
    held: bool
    _query: Query = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_query", _inner(self.inner, self.fraction, self.seed, per_client=self.per_client))

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of the inner query."""
        return self._query.blocks

    @property
    def n_features(self) -> int | None:
        """That of the inner query."""
        return self._query.n_features

    @property
    def row_error(self) -> float:
        """That of the inner query."""
        return self._query.row_error

    def admit(self, data: FloatArray, *, scanned: bool = False) -> None:
        """Refuse rows that the inner query could not use, whichever part they are in."""
        self._query.admit(data, scanned=scanned)

    def vet(self, data: FloatArray) -> None:
        """Refuse rows that the inner query has no use for, whichever part they are in."""
        self._query.vet(data)


@dataclass(frozen=True, eq=False)
class RowPart(_Part):
    """A query of records, asked of one part of a split.

    Args:
        inner: the query, as `encode_query` gives it.
        fraction, seed: of the `HoldOut`.
        held: whether the part that is held out is asked, or the rest.

    Guarantees:
        A row of the other part adds nothing, a row of this one what it adds to the inner query: bounds are the same.
    """

    kind: ClassVar[str] = "row_part"

    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return the inner query's contribution of this part's rows."""
        return self._query.contribution(_part_of(data, self.fraction, self.seed, self.held))


@dataclass(frozen=True, eq=False)
class ClientPart(_Part, ClientQuery):
    """A query of whole clients, asked of one part of a split: as `RowPart`.

    Guarantees:
        What a client adds is one vector of the inner query, and costs as much.
    """

    kind: ClassVar[str] = "client_part"
    _query: ClientQuery = field(init=False, repr=False)

    @property
    def remembers(self) -> bool:
        """As the inner query."""
        return self._query.remembers

    def client_contribution(
        self, data: FloatArray, memory: MutableMapping[str, npt.NDArray[Any]]
    ) -> Mapping[str, npt.ArrayLike]:
        """Return the inner query's vector of this part's rows."""
        return self._query.client_contribution(_part_of(data, self.fraction, self.seed, self.held), memory)


def _inner(encoded: bytes, fraction: float, seed: int, *, per_client: bool) -> Query:
    HoldOut(fraction, seed)
    query = decode_query(encoded)
    if isinstance(query, RowPart | ClientPart):
        raise UsageError("the query is of a part of the rows already: split the federation itself, once")
    if not isinstance(query, ClientQuery) == query.per_client == per_client:
        raise UsageError(f"query {query.kind!r} adds up {'records' if per_client else 'clients'}: use the other class")
    return query


class FederationPart(FederationView):
    """One part of every client's rows, as a federation; budget, ledger and clients are those of the one below.

    Attributes:
        below: the whole federation.
        hold_out: the split.
        held: whether this is the part that is held out.
    """

    def __init__(self, below: Federation, hold_out: HoldOut, *, held: bool) -> None:
        if isinstance(below, FederationPart):
            raise UsageError("this is a part of a federation already: split the whole one (.below)")
        super().__init__(below)
        self.hold_out = hold_out
        self.held = held

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name == "below":
            raise AttributeError(name)
        return getattr(self.below, name)  # feature_shape, n_targets, clients, join, leave, ...

    def asked(self, query: Query) -> Query:
        """Return `query`, asked of this part's rows."""
        made = ClientPart if query.per_client else RowPart
        return made(encode_query(query), self.hold_out.fraction, self.hold_out.seed, self.held)

    def plan(self, query: Query, **options: Any) -> Any:
        """Return the plan that a release would have; see `FederationBase.plan`."""
        return getattr(self.below, "plan")(self.asked(query), **options)  # noqa: B009  # not every federation has one

    def __repr__(self) -> str:
        part = "held out" if self.held else "for training"
        return f"<FederationPart: {self.hold_out.fraction:g} of the rows held out, those {part}, of {self.below!r}>"
