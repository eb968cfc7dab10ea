"""Shamir secret sharing over GF(2^31 - 1) in numpy, many secrets at once (Shamir, "How to share a secret", 1979).

A 32-byte secret is nine limbs of 30 bits, least significant first, each shared by a polynomial of its own. The field
is a Mersenne prime just above the limbs: products fit into 64 bits and reduction is a shift and an addition.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from .suites import AES, Suite

Field = npt.NDArray[np.uint64]

PRIME: Final = 2**31 - 1
LIMBS: Final = 9
LIMB_BITS: Final = 30
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 4 * LIMBS
_P: Final = np.uint64(PRIME)
_SHIFT: Final = np.uint64(31)
_BLOCK_ELEMENTS: Final = 16_384  # accumulators of 128 KiB stay in the second-level cache
_LAGRANGE_ELEMENTS: Final = 1 << 20  # 8 MiB of differences at once


def to_limbs(secrets: bytes | bytearray) -> Field:
    """Split 32-byte secrets, one behind the other, into limbs, shape (secrets, 9), each below 2^30."""
    raw = np.frombuffer(secrets, np.uint8).reshape(-1, SECRET_BYTES)
    bits = np.zeros((len(raw), LIMBS * LIMB_BITS), np.uint8)
    bits[:, : 8 * SECRET_BYTES] = np.unpackbits(raw, axis=1, bitorder="little")
    weights = np.uint64(1) << np.arange(LIMB_BITS, dtype=np.uint64)
    limbs: Field = (bits.reshape(-1, LIMBS, LIMB_BITS) * weights).sum(axis=2, dtype=np.uint64)
    return limbs


def from_limbs(limbs: Field) -> list[bytes | None]:
    """Join limbs, shape (secrets, 9), to 32-byte secrets; None where they are no encoding of 32 bytes."""
    return [_join(row.tolist()) for row in limbs]


def _join(limbs: list[int]) -> bytes | None:
    value = sum(limb << (LIMB_BITS * place) for place, limb in enumerate(limbs))
    if max(limbs) >= 1 << LIMB_BITS or value >= 1 << (8 * SECRET_BYTES):
        return None
    return value.to_bytes(SECRET_BYTES, "little")


def reduce(values: Field) -> Field:
    """Bring values below 2^63 into [0, p)."""
    once = (values & _P) + (values >> _SHIFT)
    twice = (once & _P) + (once >> _SHIFT)
    return np.where(twice >= _P, twice - _P, twice)


class FieldStream:
    """Uniform field elements from a keystream: its 31-bit words in order, without those that equal p."""

    __slots__ = ("_stream",)

    def __init__(self, key: bytes, *, suite: Suite = AES) -> None:
        self._stream = suite.keystream(key)

    def draw(self, count: int) -> npt.NDArray[np.uint32]:
        """Draw `count` elements of [0, p); rejection, never a remainder, so that each is exactly equally likely."""
        kept: npt.NDArray[np.uint32] = np.empty(0, np.uint32)
        while kept.size < count:
            words = self._words(count - kept.size)
            kept = np.concatenate([kept, words[words != PRIME]])
        return kept

    def _words(self, count: int) -> npt.NDArray[np.uint32]:
        words = np.empty(count, "<u4")
        self._stream.update_into(bytes(4 * count), words.view(np.uint8).data)
        return words & np.uint32(PRIME)


def share(secrets: Field, *, points: Field, threshold: int, stream: FieldStream) -> npt.NDArray[np.uint32]:
    """Share limbs so that `threshold` points give them back and fewer tell nothing.

    Args:
        secrets: field elements, shape (secrets, 9).
        points: distinct, nonzero and below 2^30, shape (n,).
        threshold: number of shares that open a secret, 1 to n; the polynomials have this many coefficients.
        stream: source of the other coefficients: secret by secret, from the highest power down, nine limbs each.

    Returns:
        Shares, shape (n, secrets, 9), below p.
    """
    shares = np.empty((len(points), *secrets.shape), np.uint32)
    block = max(1, _BLOCK_ELEMENTS // (len(points) * LIMBS))
    for start in range(0, len(secrets), block):
        part = secrets[start : start + block]
        drawn = stream.draw((threshold - 1) * part.size).reshape(len(part), threshold - 1, LIMBS)
        coefficients = drawn.swapaxes(0, 1).reshape(threshold - 1, part.size)
        shares[:, start : start + block] = _evaluate(part, coefficients, points)
    return shares


def _evaluate(secrets: Field, coefficients: npt.NDArray[np.uint32], points: Field) -> Field:
    """Horner's rule at all points, folding only as often as their size asks for.

    With s steps between folds and s * width <= 30, a value below B grows to less than 2^30 (B + p) and folds to less
    than 2^31 + (B + p) / 2. So what is folded stays below 3 * 2^31, and nothing passes 2^63.
    """
    x = points[:, None]
    every = 30 // int(points.max()).bit_length()
    values = np.zeros((len(points), secrets.size), np.uint64)
    for step, row in enumerate(coefficients, start=1):
        np.multiply(values, x, out=values)
        np.add(values, row, out=values)
        if step % every == 0:
            values = (values & _P) + (values >> _SHIFT)
    values = (values & _P) + (values >> _SHIFT)
    return reduce(values * x + secrets.reshape(-1)).reshape(len(points), *secrets.shape)


def lagrange_at_zero(points: Field) -> Field:
    """Lagrange coefficients at 0, for many sets of points at once.

    Args:
        points: shape (sets, t); distinct and nonzero within a row, below p.

    Returns:
        Shape (sets, t), below p.
    """
    block = max(1, _LAGRANGE_ELEMENTS // points.shape[1] ** 2)
    return np.concatenate([_lagrange(points[start : start + block]) for start in range(0, len(points), block)])


def _lagrange(x: Field) -> Field:
    difference = x[:, None, :] + _P - x[:, :, None]  # [row, i, j] = x_j - x_i
    difference = np.where(difference >= _P, difference - _P, difference)
    diagonal = np.arange(x.shape[1])
    difference[:, diagonal, diagonal] = 1
    denominator = reduce(_product(difference) * x)
    return reduce(_inverse(denominator) * _product(x)[:, None])


def _product(values: Field) -> Field:
    """Product along the last axis modulo p, in a tree."""
    while values.shape[-1] > 1:
        if values.shape[-1] % 2:
            values = np.concatenate([values, np.ones((*values.shape[:-1], 1), np.uint64)], axis=-1)
        values = reduce(values[..., 0::2] * values[..., 1::2])
    return values[..., 0]


def _inverse(values: Field) -> Field:
    """Inverse modulo p, by Fermat."""
    result, power, exponent = np.ones_like(values), values, PRIME - 2
    while exponent:
        if exponent & 1:
            result = reduce(result * power)
        power = reduce(power * power)
        exponent >>= 1
    return result


def combine(coefficients: Field, shares: Field) -> Field:
    """Open secrets from exactly t shares each.

    Args:
        coefficients: Lagrange coefficients at 0, shape (secrets, t).
        shares: shape (secrets, t, 9), below p.

    Returns:
        Limbs, shape (secrets, 9), below p.
    """
    products = reduce(coefficients[:, :, None] * shares)
    return reduce(products.sum(axis=1, dtype=np.uint64))
