"""Lint somebody else's secure aggregation: a small one with a common fault, wrapped in a page of code and caught.

`Pairwise` below is the foreign code. It looks right: keys agreed by Diffie and Hellman, masks that cancel, a modulus.
But its masks come from a Mersenne Twister whose seed has 32 bits, as in several published libraries: whoever sees one
masked vector tries all seeds in minutes, or solves for the generator's state. `PairwiseAdapter` is what one writes.

    python examples/audit_foreign_masks.py
    privfed audit masks examples/audit_foreign_masks.py:PairwiseAdapter
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from privfed.audit.masks import Adapter, NotExposed, Ring, Setting, Values, lint_masks

MODULUS = 2**32


def stretch(secret: bytes, length: int, modulus: int) -> np.ndarray:
    """The foreign code's mask: the fault is here."""
    generator = np.random.RandomState(int.from_bytes(secret[:4], "little"))
    return generator.randint(0, modulus, length, dtype=np.int64)


class Pairwise:
    """A client of the foreign code: it adds one mask for each peer with a larger number, and takes the others away."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.private = X25519PrivateKey.generate()
        self.public = self.private.public_key().public_bytes_raw()

    def agree(self, other: Pairwise) -> bytes:
        return self.private.exchange(X25519PublicKey.from_public_bytes(other.public))

    def pair_mask(self, other: Pairwise, round: int, length: int) -> np.ndarray:
        secret = bytes(a ^ b for a, b in zip(self.agree(other), round.to_bytes(32, "little"), strict=True))
        sign = 1 if self.number < other.number else -1
        return sign * stretch(secret, length, MODULUS) % MODULUS

    def mask(self, values: np.ndarray, others: Sequence[Pairwise], round: int) -> np.ndarray:
        return (values + sum(self.pair_mask(other, round, len(values)) for other in others)) % MODULUS


class PairwiseAdapter(Adapter):
    """All that the lint needs; what is left out is reported as not examined."""

    name = "a pairwise-mask example"

    def set_up(self, setting: Setting) -> None:
        self.length = setting.length
        numbers = [n for n in range(setting.clients) if n not in setting.lost_in_set_up]
        self.clients = {number: Pairwise(number) for number in numbers}
        self.received: dict[tuple[int, int], np.ndarray] = {}

    @property
    def ring(self) -> Ring:
        return Ring(MODULUS, 2**20)

    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> Any:
        others = [other for number, other in self.clients.items() if number != client]
        self.received[client, round] = self.clients[client].mask(values, others, round)
        return self.received[client, round]

    def total(self, round: int) -> Any:
        return sum(self.received[client, round] for client in self.clients) % MODULUS

    def wire(self, client: int) -> Sequence[bytes]:
        vectors = [vector.tobytes() for (sender, _), vector in self.received.items() if sender == client]
        return [self.clients[client].public, *vectors]

    def public_keys(self, client: int) -> Sequence[bytes]:
        return [self.clients[client].public]

    def secrets(self, client: int) -> Sequence[bytes]:
        own = self.clients[client]
        agreed = [own.agree(other) for number, other in self.clients.items() if number != client]
        return [own.private.private_bytes_raw(), *agreed]

    def pair_mask(self, client: int, peer: int, round: int) -> Any:
        return self.clients[client].pair_mask(self.clients[peer], round, self.length)

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        return stretch(seed, length, modulus)

    def reveal(self, client: int, round: int, **request: Any) -> Any:
        raise NotExposed("reveal: this code recovers no drop-outs")


def main() -> None:
    """Lint the foreign code and show what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=50_000, help="random seeds to expand in search of a collision")
    arguments = parser.parse_args()
    report = lint_masks(PairwiseAdapter, seeds=arguments.seeds, random_state=random.randrange(2**32))
    for finding in report.findings:
        print(f"{finding.status:>12}  {finding.check:<24} {finding.what}")
    print(f"\nfound: {', '.join(report.failed)}")
    if not {"seed_entropy", "generator"} <= set(report.failed):
        raise SystemExit("the lint missed the weak seed or the weak generator")


if __name__ == "__main__":
    main()
