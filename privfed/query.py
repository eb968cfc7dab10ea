"""What a client computes, and how far one unit of privacy can move it.

A query is a frozen record of numbers, strings and arrays: it travels as data (`encode_query`, `decode_query`), never as
code. Its blocks carry a bound each; the federation scales them so that one record moves the whole vector by at most 1.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError
from privfed.mechanism.mapped import parts
from privfed.mechanism.sensitivity import ROW_ERROR

__all__ = [
    "LARGEST_VALUE",
    "RELATION",
    "Block",
    "ClientQuery",
    "FloatArray",
    "Layout",
    "Query",
    "Sensitivity",
    "Unit",
    "decode_query",
    "encode_query",
    "frozen_array",
    "query_digest",
    "require_moderate",
]

FloatArray = npt.NDArray[np.float64]
Unit = Literal["record", "client"]
RELATION: Literal["add/remove"] = "add/remove"

MAX_QUERY_BYTES = 256 * 2**20  # a client refuses larger tasks before it parses them
MAX_DIMENSION = 2**28
LARGEST_VALUE = 1e100  # of an admitted row: no query's arithmetic on it can then overflow, whatever the query asks
_ARRAY_DTYPES = ("<f8", "<i8")


@dataclass(frozen=True)
class Block:
    """One named part of a query's vector.

    Args:
        name: identifier, unique in the query.
        shape: shape of the block's array; `()` is one number.
        bound: L2 norm that ONE record's contribution to this block never exceeds, in natural units, > 0.
        share: relative part of the query's privacy cost (of its mu^2) that this block takes, > 0.
    """

    name: str
    shape: tuple[int, ...]
    bound: float
    share: float = 1.0

    def __post_init__(self) -> None:
        if not self.name.isidentifier():
            raise UsageError(f"block name {self.name!r} is not an identifier")
        if any(side < 1 for side in self.shape) or self.size > MAX_DIMENSION:
            raise UsageError(
                f"block {self.name!r} has shape {self.shape}, expected sides >= 1, size <= {MAX_DIMENSION}"
            )
        for what in ("bound", "share"):
            value = getattr(self, what)
            if not (math.isfinite(value) and value > 0):
                raise UsageError(f"block {self.name!r} has {what} {value!r}, expected a finite number above 0")

    @property
    def size(self) -> int:
        """Number of coordinates."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Sensitivity:
    """How far one unit can move a query's scaled vector: `l2` in the L2 norm, under `relation`, for one `unit`."""

    l2: float
    unit: Unit
    relation: Literal["add/remove"] = RELATION


class Layout:
    """The vector of a query: where each block lies and by how much it is scaled.

    Block b is multiplied by `sqrt(share_b / sum of shares) / bound_b`. A record's contribution then has norm
    `sqrt(sum_b share_b (norm_b / bound_b)^2) <= 1`, whatever the blocks are.
    """

    def __init__(self, blocks: tuple[Block, ...]) -> None:
        names = [block.name for block in blocks]
        if not blocks or len(set(names)) != len(names):
            raise UsageError(f"a query needs at least one block and distinct names, found {names}")
        total = math.fsum(block.share for block in blocks)
        self.blocks = blocks
        self.scales = {block.name: math.sqrt(block.share / total) / block.bound for block in blocks}
        self.size = sum(block.size for block in blocks)
        if self.size > MAX_DIMENSION:
            raise UsageError(f"the query's vector has {self.size} coordinates, at most {MAX_DIMENSION} are supported")

    def flatten(self, values: Mapping[str, npt.ArrayLike]) -> FloatArray:
        """Return the scaled vector, float64 of shape `(size,)`, of block arrays in natural units."""
        if set(values) != set(self.scales):
            raise UsageError(f"the contribution has blocks {sorted(values)}, expected {sorted(self.scales)}")
        parts = []
        for block in self.blocks:
            array = np.asarray(values[block.name], dtype=np.float64)
            if array.shape != block.shape:
                raise UsageError(f"block {block.name!r} has shape {array.shape}, expected {block.shape}")
            parts.append(array.ravel() * self.scales[block.name])
        return np.concatenate(parts)

    def unflatten(self, vector: FloatArray) -> dict[str, FloatArray]:
        """Undo `flatten`: read-only arrays in natural units."""
        if vector.shape != (self.size,):
            raise UsageError(f"the vector has shape {vector.shape}, expected {(self.size,)}")
        values, start = {}, 0
        for block in self.blocks:
            part = vector[start : start + block.size].reshape(block.shape) / self.scales[block.name]
            values[block.name] = frozen_array(part)
            start += block.size
        return values

    def noise_std(self, std: float) -> dict[str, float]:
        """Return the standard deviation per coordinate, in natural units, of noise of `std` on the scaled vector."""
        return {name: std / scale for name, scale in self.scales.items()}


class Query(ABC):
    """A sum over records that a federation may release.

    Subclasses are frozen dataclasses (`eq=False`) of numbers, strings, tuples and arrays, with a class attribute `kind`
    that names them on the wire.

    Guarantees that every subclass owes, held by `tests/privfed/query_contract.py`:
        The contribution of a set of rows is the sum of the contributions of its rows, up to float error.
        No single row's contribution to a block exceeds the block's bound in the L2 norm, whatever the row holds.
        `contribution` is total: it raises for no rows that `admit` lets pass. A query that fails on some rows and not
        on others would tell which rows there are, without any noise.
        A row's contribution is the same wherever the row stands among others, up to `row_error`.
    """

    kind: ClassVar[str]
    per_client: ClassVar[bool] = False  # see `ClientQuery`
    _registry: ClassVar[dict[str, type[Query]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if inspect.isabstract(cls) or "kind" not in cls.__dict__:
            return
        known = Query._registry.setdefault(cls.kind, cls)
        if known.__qualname__ != cls.__qualname__ or known.__module__ != cls.__module__:
            raise UsageError(f"query kind {cls.kind!r} is taken by {known.__qualname__}")
        Query._registry[cls.kind] = cls

    @property
    @abstractmethod
    def blocks(self) -> tuple[Block, ...]:
        """The parts of the vector, each with the bound that one record obeys."""

    @property
    def n_features(self) -> int | None:
        """Number of columns that the rows must have; None accepts any."""
        return None

    @property
    def remembers(self) -> bool:
        """Whether clients keep anything from one release of this query to the next."""
        return False

    @property
    def row_error(self) -> float:
        """How far a row's contribution may move with its place among other rows, relative to its bound.

        Matrix products round differently for different numbers of rows. The default allows 2^21 roundings; a query
        that is worse conditioned says so, and one that cannot bound it says infinity: no budget then admits it.
        """
        return ROW_ERROR

    @abstractmethod
    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return each block's sum over the rows of `data`, float64 of shape `(rows, features)`, in natural units."""

    @property
    def layout(self) -> Layout:
        """The scaled vector that travels."""
        return Layout(self.blocks)

    def sensitivity(self, unit: Unit, *, records_per_client: float = 1.0) -> Sensitivity:
        """Return the L2 sensitivity of the scaled vector under add/remove of one `unit`.

        One record moves it by at most 1 (see `Layout`). One client's contribution is weighted down to that of at most
        `records_per_client` records, and moves it by at most that much.
        """
        return Sensitivity(l2=1.0 if unit == "record" else float(records_per_client), unit=unit)

    def admit(self, data: FloatArray, *, scanned: bool = False) -> None:
        """Refuse rows that no query could use, or that have other columns than this one needs.

        Guarantees are about rows that pass, and that some do not pass is no secret. So nothing that a question could
        steer belongs here: what only this query cannot use is for `vet`.

        Args:
            data: the rows.
            scanned: whether the values were found in order before and cannot have changed.

        Raises:
            DataError: not two axes, the wrong number of features, NaN, infinity, or values beyond 1e100.
        """
        if data.ndim != 2:
            raise DataError(f"the data have {data.ndim} dimensions, expected 2: rows and features")
        if self.n_features is not None and data.shape[1] != self.n_features:
            raise DataError(f"the data have {data.shape[1]} features, query {self.kind!r} expects {self.n_features}")
        if not scanned and not all(np.abs(part).max(initial=0.0) <= LARGEST_VALUE for part in parts(data)):
            raise DataError(
                "the data hold NaN, infinity or values beyond 1e100: impute, drop or rescale those rows first"
            )

    def vet(self, data: FloatArray) -> None:  # noqa: B027  # most queries can use all that is admitted
        """Refuse admitted rows that this query has no use for, such as labels that are no classes of a model.

        It helps where nothing is protected. Under a budget it is no more than a warning to the client itself, and the
        rows add what `contribution` says, zeros as a rule: a refusal would tell the coordinator what rows there are,
        free of charge, and whoever chooses the classes could ask for any label.

        Raises:
            DataError: such rows.
        """

    def checked_contribution(
        self, data: FloatArray, memory: MutableMapping[str, npt.NDArray[Any]] | None = None
    ) -> FloatArray:
        """Return the scaled contribution of admitted rows.

        Args:
            data: admitted rows.
            memory: what the client keeps at home, for queries that are `per_client`.

        Raises:
            UsageError: the query broke its own declared layout, or computed something that is not finite.
        """
        if memory is not None and isinstance(self, ClientQuery):
            values = self.client_contribution(data, memory)
        else:
            values = self.contribution(data)
        vector = self.layout.flatten(values)
        if not np.isfinite(vector).all():
            raise UsageError(f"the query {self.kind!r} computed NaN or infinity from admitted rows")
        return vector


class ClientQuery(Query):
    """A query to which every client adds ONE vector, made of all its rows by any computation, such as a model's update.

    Its sum is one over clients, not over records, and the sensitivities are those of whole vectors: 1 for unit
    "client", and 2 for unit "record", since one record can turn a vector of norm 1 into any other. How many rows a
    client holds makes no difference; `records_per_client` has no effect.

    Subclasses compute in `client_contribution`, which may keep arrays at home from one release to the next.

    Guarantees that every subclass owes:
        A contribution to a block does not exceed the block's bound. The client's side clips the whole vector again, so
        that a subclass that breaks this loses accuracy, not privacy.
        `client_contribution` is total, for no rows as well: it raises for no rows that `admit` lets pass.
    """

    per_client: ClassVar[bool] = True

    @property
    def remembers(self) -> bool:
        """Whether `client_contribution` uses its `memory`; a query that says no gets an empty one each time."""
        return True

    @abstractmethod
    def client_contribution(
        self, data: FloatArray, memory: MutableMapping[str, npt.NDArray[Any]]
    ) -> Mapping[str, npt.ArrayLike]:
        """Return the client's vector, block by block, in natural units.

        Args:
            data: the client's rows, float64 of shape `(rows, features)`; there may be none.
            memory: arrays that this client keeps under names of its own and shows nobody. What is put there stays if
                the release completes with this client in the sum. Put new arrays; those that are there do not change.
        """

    def contribution(self, data: FloatArray) -> Mapping[str, npt.ArrayLike]:
        """Return the vector of a client that remembers nothing."""
        return self.client_contribution(data, {})

    def sensitivity(self, unit: Unit, *, records_per_client: float = 1.0) -> Sensitivity:
        """Return 1 for unit "client"; 2, the diameter of the unit ball, for unit "record"."""
        return Sensitivity(l2=1.0 if unit == "client" else 2.0, unit=unit)


def frozen_array(values: npt.ArrayLike) -> FloatArray:
    """Return a read-only float64 copy of `values`, contiguous: what queries and releases hold."""
    array = np.array(values, dtype=np.float64, order="C")
    array.setflags(write=False)
    return array


def require_moderate(what: str, values: npt.ArrayLike) -> None:
    """Refuse public numbers of a query with which arithmetic on admitted rows could overflow.

    Raises:
        UsageError: NaN, infinity, or absolute values beyond 1e100.
    """
    if not np.abs(np.asarray(values, dtype=np.float64)).max(initial=0.0) <= LARGEST_VALUE:
        raise UsageError(f"{what} holds NaN, infinity or values beyond 1e100, expected finite moderate numbers")


def encode_query(query: Query) -> bytes:
    """Return the query as MessagePack: its kind and its fields, arrays as (dtype, shape, bytes)."""
    fields = {name: _to_wire(getattr(query, name)) for name in _field_names(type(query))}
    return msgspec.msgpack.encode({"kind": query.kind, "fields": fields}, order="deterministic")


@lru_cache(maxsize=2)  # every client of a process asks for the same one, of up to a model's size
def query_digest(encoded: bytes) -> bytes:
    """Return the 32-byte digest that binds a round of the protocol to its query."""
    digest = hashlib.sha256(b"privfed query v1\x00")
    digest.update(encoded)
    return digest.digest()


class _Envelope(msgspec.Struct, forbid_unknown_fields=True):
    kind: str
    fields: dict[str, Any]


def decode_query(data: bytes) -> Query:
    """Rebuild a query from `encode_query`'s bytes; nothing in them is executed.

    Raises:
        UsageError: too large, malformed, of unknown kind, or refused by the query's own checks.
    """
    if len(data) > MAX_QUERY_BYTES:
        raise UsageError(f"the query has {len(data)} bytes, at most {MAX_QUERY_BYTES} are read")
    try:
        envelope = msgspec.msgpack.decode(data, type=_Envelope)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the query is malformed: {error}") from None
    cls = Query._registry.get(envelope.kind)
    if cls is None:
        raise UsageError(f"unknown query kind {envelope.kind!r}, expected one of {sorted(Query._registry)}")
    expected = set(_field_names(cls))
    if set(envelope.fields) != expected:
        raise UsageError(f"query {envelope.kind!r} has fields {sorted(envelope.fields)}, expected {sorted(expected)}")
    try:
        return cls(**{name: _from_wire(value) for name, value in envelope.fields.items()})
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"query {envelope.kind!r} refuses its fields: {error}") from error


def _field_names(cls: type[Query]) -> list[str]:
    """Return the names of the fields that make a query; what it derives from them does not travel."""
    if not dataclasses.is_dataclass(cls):
        raise UsageError(f"query {cls.__name__} is not a dataclass")
    return [field.name for field in dataclasses.fields(cls) if field.init]


def _to_wire(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        array = np.ascontiguousarray(value, dtype="<f8" if value.dtype.kind == "f" else "<i8")
        return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, tuple):
        return [_to_wire(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str | bytes):
        return value
    raise UsageError(f"a query holds numbers, strings, bytes, tuples and arrays, not {type(value).__name__}")


def _from_wire(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_wire(item) for item in value)
    if not isinstance(value, dict):
        return value
    dtype, shape, data = value.get("dtype"), value.get("shape"), value.get("data")
    if set(value) != {"dtype", "shape", "data"} or dtype not in _ARRAY_DTYPES or not isinstance(data, bytes):
        raise ValueError("an array is malformed")
    if not (isinstance(shape, list) and all(type(side) is int and side >= 0 for side in shape)):
        raise ValueError("an array's shape is malformed")
    if math.prod(shape) * 8 != len(data):
        raise ValueError(f"an array of shape {shape} has {len(data)} bytes")
    array = np.frombuffer(data, dtype=dtype).reshape(shape)
    array.setflags(write=False)
    return array
