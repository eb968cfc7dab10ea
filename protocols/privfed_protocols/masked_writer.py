"""An M6 under construction, written in place."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable

import numpy as np

from .labels import VERSION
from .messages import Masked
from .signed import envelope_header, envelope_trailer
from .vectors import Array, VectorSpec
from .wire import binary_header, encode


class MaskedWriter:
    """An M6 whose payload is written in place, behind a header that fits it, signed or not.

    The bytes of the finished message are handed over without a copy where the interpreter can (CPython's `BytesIO`),
    so a vector of 400 MB costs 400 MB beside the caller's, not 800.

    Args:
        epoch: epoch id.
        round: number of the round.
        payload_bytes: bytes of all vectors on the wire.
        sign: gives the signature for the SHA-256 of the body; None for a message that is not signed.
    """

    def __init__(
        self, *, epoch: bytes, round: int, payload_bytes: int, sign: Callable[[bytes], bytes] | None = None
    ) -> None:
        empty = encode(Masked(VERSION, epoch, round, memoryview(b"")))
        head = empty[:-2] + binary_header(payload_bytes)  # the empty payload is the two bytes C4 00
        self._body = len(head) + payload_bytes
        outer = b"" if sign is None else envelope_header(self._body)
        self._start = len(outer)
        self._payload = self._start + len(head)
        self._sign = sign
        trailer = 0 if sign is None else len(envelope_trailer(bytes(64)))
        self._buffer = io.BytesIO()
        self._buffer.write(outer + head)
        self._buffer.seek(self._payload + payload_bytes + trailer - 1)
        self._buffer.write(b"\x00")

    def array(self, spec: VectorSpec, *, offset: int) -> Array:
        """Writable view of the elements of one vector of native width, `offset` bytes into the payload."""
        view: Array = np.frombuffer(
            self._buffer.getbuffer(), spec.dtype, count=spec.length, offset=self._payload + offset
        )
        return view

    def octets(self, spec: VectorSpec, *, offset: int) -> memoryview:
        """Writable view of the packed bytes of one vector."""
        return self._buffer.getbuffer()[self._payload + offset : self._payload + offset + spec.nbytes]

    def finish(self) -> bytes:
        """Sign, if asked to, and take the message. All views must be dropped before."""
        if self._sign is not None:
            with self._buffer.getbuffer() as whole, whole[self._start : self._start + self._body] as body:
                fingerprint = hashlib.sha256(body).digest()
            self._buffer.seek(self._start + self._body)
            self._buffer.write(envelope_trailer(self._sign(fingerprint)))
        return self._buffer.getvalue()
