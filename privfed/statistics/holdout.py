"""Rows that are kept back: each client leaves out of a sum the part of its rows that another sum is over.

Which part a row belongs to is a pure function of the row and of a public number: a hash of its bytes. So a client keeps
no list, every round agrees with every other, equal rows fall to one side together, and one record moves a sum by no
more than it did. Whoever can choose a row can choose its side; no guarantee rests on that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.federation.release import Federation
from privfed.federation.view import FederationView
from privfed.query import Block, ClientQuery, FloatArray, Query, decode_query, encode_query

__all__ = ["PartFederation", "PartOfRows", "held_out_rows"]

_STEP: Final = np.uint64(0x9E3779B97F4A7C15)  # the increment and multipliers of splitmix64 (Steele, Lea, Flood 2014)
_MIX: Final = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


def held_out_rows(rows: FloatArray, salt: int, fraction: float) -> npt.NDArray[np.bool_]:
    """Return which rows are held out, shape (n,): about `fraction` of distinct rows, chosen by a hash.

    Args:
        rows: float64, shape (n, d).
        salt: public, 0 to 2^63 - 1: another one makes another choice.
        fraction: in (0, 1).

    >>> held_out_rows(np.arange(8.0)[:, None], salt=1, fraction=0.5).sum() in range(1, 8)
    True
    """
    bits = np.ascontiguousarray(rows + 0.0).view(np.uint64)  # one zero only
    state = np.full(len(rows), np.uint64(salt))
    with np.errstate(over="ignore"):
        for column in bits.T:
            state = _mixed((state + _STEP) ^ column)
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * 2.0**-53 < fraction)


def _mixed(state: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * _MIX[0]
    state = (state ^ (state >> np.uint64(27))) * _MIX[1]
    return np.asarray(state ^ (state >> np.uint64(31)))


@dataclass(frozen=True, eq=False)
class PartOfRows(Query):
    """Another query, asked of part of the rows.

    Args:
        inner: the other query, as `encode_query` gives it; a sum over rows.
        salt, fraction: see `held_out_rows`.
        held_out: whether the rows that are held out are meant, or the others.

    Guarantees:
        A row contributes what it does to the other query, or zeros; which of the two depends on the row alone. Bounds
        and sensitivity are the other query's.
    """

    kind: ClassVar[str] = "part_of_rows"
    inner: bytes
    salt: int
    fraction: float
    held_out: bool
    _query: Query = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not (isinstance(self.salt, int) and 0 <= self.salt < 2**63):
            raise UsageError(f"salt is {self.salt!r}, expected an integer from 0 to 2^63 - 1")
        if not 0 < self.fraction < 1:
            raise UsageError(f"fraction is {self.fraction!r}, expected a number between 0 and 1")
        query = decode_query(self.inner)
        if isinstance(query, ClientQuery | PartOfRows):
            raise UsageError(f"a query of kind {query.kind!r} is no sum over rows of which a part could be taken")
        object.__setattr__(self, "_query", query)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of the other query."""
        return self._query.blocks

    @property
    def n_features(self) -> int | None:
        """Columns that the other query needs."""
        return self._query.n_features

    @property
    def row_error(self) -> float:
        """That of the other query."""
        return self._query.row_error

    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return the other query's contribution of the part."""
        return self._query.contribution(data[held_out_rows(data, self.salt, self.fraction) == self.held_out])


class PartFederation(FederationView):
    """A federation of which only a part of the rows is seen; budget and ledger are those of the one below.

    Args:
        federation: the whole.
        salt, fraction, held_out: see `PartOfRows`.
    """

    def __init__(self, federation: Federation, *, salt: int, fraction: float, held_out: bool) -> None:
        super().__init__(federation)
        self._part = (salt, float(fraction), held_out)

    def asked(self, query: Query) -> Query:
        """Return the query of the part."""
        return PartOfRows(encode_query(query), *self._part)
