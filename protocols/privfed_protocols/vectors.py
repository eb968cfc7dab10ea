"""What a vector looks like in the ring: name, length and bits of one element."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import LocalProtocolError, ValueOutOfRange

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Length = Annotated[int, msgspec.Meta(ge=1, le=2**32 - 1)]
Bits = Annotated[int, msgspec.Meta(ge=1, le=64)]

Array = npt.NDArray[np.unsignedinteger[Any]]
MAX_VECTORS: Final = 64
MAX_PAYLOAD_BYTES: Final = 2**32 - 1  # what a MessagePack binary holds


class VectorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One named vector of a round: `length` elements of the ring Z / 2^`bits`.

    Attributes:
        name: 1 to 64 characters, unique within the offer; bound into every mask key.
        length: number of elements, at least 1.
        bits: 1 to 64.
    """

    name: Name
    length: Length
    bits: Bits

    @property
    def dtype(self) -> np.dtype[np.unsignedinteger[Any]]:
        """Unsigned little-endian dtype of an element in memory: the smallest that holds its bits."""
        return np.dtype(f"<u{next(size for size in (1, 2, 4, 8) if self.bits <= 8 * size)}")

    @property
    def native(self) -> bool:
        """Whether elements have all bits of their dtype, so that memory and wire look the same."""
        return self.bits == 8 * self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        """Bytes of the whole vector on the wire, packed."""
        return (self.length * self.bits + 7) // 8


def total_bytes(vectors: Sequence[VectorSpec]) -> int:
    """Bytes of all vectors of a round, one behind the other."""
    return sum(spec.nbytes for spec in vectors)


def check_layout(vectors: Sequence[VectorSpec]) -> str | None:
    """Say what is wrong with a list of vectors, or None."""
    if not 1 <= len(vectors) <= MAX_VECTORS:
        return f"{len(vectors)} vectors, expected 1 to {MAX_VECTORS}"
    names = [spec.name for spec in vectors]
    if len(set(names)) != len(names):
        return "two vectors share a name; names must be unique"
    if total_bytes(vectors) > MAX_PAYLOAD_BYTES:
        return f"vectors have {total_bytes(vectors)} bytes together, expected at most {MAX_PAYLOAD_BYTES}"
    return None


def check_vectors(vectors: Mapping[str, Array], specs: Sequence[VectorSpec]) -> list[Array]:
    """Bring the caller's arrays into the order of the offer, refusing whatever is not exactly as it says.

    Raises:
        LocalProtocolError: a vector is missing or unknown, or its dtype, shape or memory order differs.
        ValueOutOfRange: an element does not fit into the bits that were offered for it.
    """
    missing = [spec.name for spec in specs if spec.name not in vectors]
    unknown = sorted(set(vectors) - {spec.name for spec in specs})
    if missing or unknown:
        raise LocalProtocolError(f"vectors missing: {missing}, not in the offer: {unknown}; pass exactly those offered")
    return [_checked(vectors[spec.name], spec) for spec in specs]


def _checked(array: Array, spec: VectorSpec) -> Array:
    if not isinstance(array, np.ndarray) or array.dtype != spec.dtype:
        found = array.dtype if isinstance(array, np.ndarray) else type(array).__name__
        raise LocalProtocolError(
            f"vector {spec.name!r} is {found}, expected {spec.dtype}; encode it into the ring first"
        )
    if array.shape != (spec.length,):
        raise LocalProtocolError(
            f"vector {spec.name!r} has shape {array.shape}, expected ({spec.length},); flatten it first"
        )
    if not array.flags.c_contiguous:
        raise LocalProtocolError(f"vector {spec.name!r} is not contiguous; pass numpy.ascontiguousarray of it")
    if not spec.native and int(array.max()) >> spec.bits:
        raise ValueOutOfRange(f"vector {spec.name!r} has an element of more than {spec.bits} bits; clip or encode it")
    return array
