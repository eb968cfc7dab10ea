"""Parameters, graph, secret sharing and packing of the protocol text, in exact integers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from tests.reference.words import stream

P = 2**31 - 1
MOST_NEIGHBOURS = 16_384


def worst(fraction: float, n: int) -> int:
    return math.floor(fraction * n + 1e-9)


def tail(population: int, marked: int, drawn: int) -> list[Fraction]:
    """P[X >= x] for x = 0, 1, ... of the marked ones among those drawn without replacement; the last is 0."""
    least = max(0, marked + drawn - population)
    term, terms = math.comb(marked, least) * math.comb(population - marked, drawn - least), []
    for x in range(least, min(marked, drawn) + 1):
        terms.append(term)
        term = term * (marked - x) * (drawn - x) // ((x + 1) * max(1, population - marked - drawn + x + 1))
    total, sums = math.comb(population, drawn), [0]
    for term in reversed(terms):
        sums.append(sums[-1] + term)
    return [Fraction(1)] * least + [Fraction(one, total) for one in reversed(sums)]


def parameters(
    n: int, n_min: int, n_max: int, corrupt: float, dropout: float, sigma: int, eta: int, mode: str
) -> tuple[int, int] | None:
    """(k, t), or None where nothing fits."""
    bad, gone = worst(corrupt, n_max), min(worst(dropout, n), n - n_min)
    if n > 300 and mode != "malicious" and (found := _ring(n, bad, gone, sigma, eta, mode != "semi-honest")):
        return found
    k = n - 1
    t = max(-(-(k + bad + 1) // 2), bad + 1)
    if mode == "semi-honest" and bad + 1 <= k - gone:
        t = min(t, k - gone)
    return (k, t) if t <= k - gone and k <= MOST_NEIGHBOURS else None


def _ring(n: int, bad: int, gone: int, sigma: int, eta: int, splits: bool) -> tuple[int, int] | None:
    if bad + gone >= n - 1:
        return None
    secrecy, liveness = Fraction(1, n << (sigma + 1)), Fraction(1, n << eta)
    for k in range(2, min(n - 1, MOST_NEIGHBOURS + 1), 2):
        cut = Fraction(n * (n - k - 1) * math.comb(bad + gone, k), 2 * math.comb(n, k))
        if cut > Fraction(1, 1 << (sigma + 1)):
            continue
        a = next(x for x, chance in enumerate(tail(n - 1, bad, k)) if chance <= secrecy)
        q = next(x for x, chance in enumerate(tail(n - 1, gone, k)) if chance <= liveness) - 1
        t = max(-(-(k + a) // 2) if splits else a, 2)
        if t <= k - q:
            return k, t
    return None


def neighbours(n: int, k: int, seed: bytes, index: int) -> list[int]:
    """Neighbour list of a client on the complete graph or on the ring that the seed gives."""
    if k == n - 1:
        return [other for other in range(n) if other != index]
    drawn, at = [0] * n, 0
    while len(set(drawn)) < n:
        words, at = stream(1, seed, 8 * n * (at + 1))[8 * n * at :], at + 1
        drawn = [int.from_bytes(words[8 * i : 8 * i + 8], "little") for i in range(n)]
    order = sorted(range(n), key=lambda client: drawn[client])
    place = order.index(index)
    return sorted(order[(place + step) % n] for step in range(-k // 2, k // 2 + 1) if step)


def limbs(secret: bytes) -> list[int]:
    return [int.from_bytes(secret, "little") >> (30 * place) & (2**30 - 1) for place in range(9)]


def share(secrets: Sequence[bytes], n: int, t: int, suite: int, key: bytes) -> list[bytes]:
    """For points 1 to n, the shares of all secrets, 36 bytes each."""
    words = stream(suite, key, 36 * len(secrets) * (t - 1) + 256)
    drawn = [int.from_bytes(words[at : at + 4], "little") & P for at in range(0, len(words), 4)]
    supply = iter([word for word in drawn if word != P])
    rows = [[[next(supply) for _ in range(9)] for _ in range(t - 1)] + [limbs(secret)] for secret in secrets]
    return [b"".join(_value(row, x) for row in rows) for x in range(1, n + 1)]


def _value(polynomials: Sequence[Sequence[int]], x: int) -> bytes:
    values = [0] * 9
    for row in polynomials:
        values = [(value * x + one) % P for value, one in zip(values, row, strict=True)]
    return b"".join(value.to_bytes(4, "little") for value in values)


def combine(points: Sequence[int], shares: Sequence[bytes]) -> bytes:
    """The secret behind t shares of 36 bytes: Lagrange at zero."""
    weights = []
    for own in points:
        others = [other for other in points if other != own]
        weights.append(math.prod(others) * pow(math.prod(other - own for other in others), -1, P))
    columns = [[int.from_bytes(one[at : at + 4], "little") for one in shares] for at in range(0, 36, 4)]
    found = [sum(weight * part for weight, part in zip(weights, column, strict=True)) % P for column in columns]
    return sum(limb << (30 * place) for place, limb in enumerate(found)).to_bytes(32, "little")


def packed(values: Sequence[int], bits: int) -> bytes:
    whole = sum((value % (1 << bits)) << (bits * place) for place, value in enumerate(values))
    return whole.to_bytes(-(-bits * len(values) // 8), "little")


def unpacked(data: bytes, length: int, bits: int) -> list[int]:
    whole = int.from_bytes(data, "little")
    return [whole >> (bits * place) & ((1 << bits) - 1) for place in range(length)]


def elements(suite: int, key: bytes, length: int, bits: int) -> list[int]:
    size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    words = stream(suite, key, size * length)
    return [int.from_bytes(words[size * at : size * at + size], "little") for at in range(length)]
