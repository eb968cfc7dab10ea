"""One round on the server while it runs: what it keeps of the messages.

Memory is one accumulator per vector; a masked vector is added as it arrives and forgotten.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import BadShareMessage, UnknownFormat
from .packing import add_packed, check_packed
from .shamir import PRIME, SHARE_BYTES
from .uncopied import Uncopied
from .vectors import Array, VectorSpec, total_bytes


@dataclass
class ServerRound(Uncopied):
    """A round as the server sees it: public values, accumulators, and who did what so far.

    Attributes:
        number: of the round.
        participants: indices, ascending.
        invited: the same as a mask over the roster.
        context: what all masks are bound to.
        sums: accumulators by name.
        masked: who handed in a vector.
        intact: no addition was interrupted half-way.
        survivors: indices, ascending, once the inputs are closed.
        survivors_bitmap: the same as bitmap V.
        signatures: M8s, by index; malicious mode only.
        answers: shares, by index.
        surplus: seeds of surplus noise, by index.
    """

    number: int
    participants: tuple[int, ...]
    invited: npt.NDArray[np.bool_] = field(repr=False)
    context: bytes = field(repr=False)
    sums: dict[str, Array] = field(repr=False)
    masked: set[int] = field(default_factory=set)
    intact: bool = True
    survivors: tuple[int, ...] = ()
    survivors_bitmap: bytes = b""
    signatures: dict[int, bytes] = field(default_factory=dict, repr=False)
    answers: dict[int, bytes] = field(default_factory=dict, repr=False)
    surplus: dict[int, bytes] = field(default_factory=dict, repr=False)

    def add(self, index: int, payload: memoryview, vectors: Sequence[VectorSpec]) -> None:
        """Add the masked vectors of a client.

        Raises:
            UnknownFormat: wrong length, or padding that is not zero; nothing was added.
        """
        parts = _split(payload, vectors)
        for spec, part in zip(vectors, parts, strict=True):
            check_packed(part, length=spec.length, bits=spec.bits)
        before, self.intact = self.intact, False
        for spec, part in zip(vectors, parts, strict=True):
            add_packed(part, self.sums[spec.name], spec.bits)
        self.masked.add(index)
        self.intact = before

    def answer(self, index: int, shares: memoryview, *, asked: int, surplus: bytes, surplus_bytes: int) -> None:
        """Keep the shares of a client, for `asked` dealers, and its seed of `surplus_bytes` bytes.

        Raises:
            BadShareMessage: wrong length, or a limb outside the field.
        """
        if len(shares) != SHARE_BYTES * asked:
            raise BadShareMessage(f"answer has {len(shares)} bytes of shares, expected {SHARE_BYTES * asked}")
        if (np.frombuffer(shares, "<u4") >= PRIME).any():
            raise BadShareMessage("answer has a limb outside the field")
        if len(surplus) != surplus_bytes:
            raise BadShareMessage(f"answer has a surplus seed of {len(surplus)} bytes, expected {surplus_bytes}")
        self.answers[index] = bytes(shares)
        if surplus:
            self.surplus[index] = bytes(surplus)


def _split(payload: memoryview, vectors: Sequence[VectorSpec]) -> list[memoryview]:
    expected = total_bytes(vectors)
    if len(payload) != expected:
        raise UnknownFormat(f"masked vectors have {len(payload)} bytes, expected {expected}")
    ends = np.cumsum([spec.nbytes for spec in vectors]).tolist()
    return [payload[end - spec.nbytes : end] for end, spec in zip(ends, vectors, strict=True)]
