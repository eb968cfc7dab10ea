"""A small, real secure aggregation: X25519, HMAC-SHA256, AES-256-CTR, double masks in one process.

Sound as far as the lint looks; every step is a method of its own, so that `faulty_masks.py` can get one of them wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privfed.audit.masks import Adapter, Kind, Refused, Ring, Setting, Values

_draws = itertools.count()


def reseed(seed: int) -> None:
    """Make everything that the implementations below draw reproducible."""
    global _draws
    _draws = itertools.count(seed << 40)


class Sound(Adapter):
    name: ClassVar[str] = "sound"
    generator: ClassVar[str] = "AES-256-CTR"
    modulus: ClassVar[int] = 1 << 32
    largest: ClassVar[int] = 1 << 20

    def draw(self, client: int) -> bytes:
        """32 secret bytes. A seeded stand-in for the operating system, in tests only."""
        return hashlib.sha256(b"drawn %d" % next(_draws)).digest()

    def public(self, private: bytes) -> bytes:
        return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()

    def agree(self, client: int, peer: int) -> bytes:
        public = X25519PublicKey.from_public_bytes(self.publics[peer])
        return X25519PrivateKey.from_private_bytes(self.privates[client]).exchange(public)

    def of_round(self, secret: bytes, round: int) -> bytes:
        return hmac.digest(secret, b"round %d" % round, "sha256")

    def sign(self, client: int, peer: int) -> int:
        return 1 if client < peer else -1

    def check_once(self, client: int, round: int) -> None:
        if (client, round) in self.inputs:
            raise Refused("this round was masked already")

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        """What is sent beside the masked vector."""
        return ()

    def set_up(self, setting: Setting) -> None:
        self.setting = setting
        self.present = [client for client in range(setting.clients) if client not in setting.lost_in_set_up]
        if len(self.present) < setting.threshold:
            raise Refused("too few clients")
        self.privates = {client: self.draw(client) for client in self.present}
        self.seeds = {client: self.draw(client) for client in self.present}
        self.publics = {client: self.public(private) for client, private in self.privates.items()}
        self.sent = {client: [self.publics[client]] for client in self.present}
        self.inputs: dict[tuple[int, int], np.ndarray] = {}
        self.answered: set[tuple[int, int]] = set()

    @property
    def ring(self) -> Ring | None:
        return Ring(self.modulus, self.largest)

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        bits = modulus.bit_length() - 1
        stream = Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor().update(bytes(length * bits // 8))
        return np.frombuffer(stream, f"<u{bits // 8}").astype(np.int64)

    def mask(self, seed: bytes) -> Any:
        return self.expand(seed, self.setting.length, self.modulus)

    def pair_mask(self, client: int, peer: int, round: int) -> Any:
        return self.sign(client, peer) * self.mask(self.of_round(self.agree(client, peer), round)) % self.modulus

    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> Any:
        self.check_once(client, round)
        vector = values + self.mask(self.of_round(self.seeds[client], round))
        for peer in self.present:
            if peer != client:
                vector = vector + self.pair_mask(client, peer, round)
        vector = self.reduce(vector)
        self.inputs[client, round] = vector
        self.sent[client] += [vector.tobytes(), *self.beside(client, values, side)]
        return vector

    def reduce(self, vector: Any) -> Any:
        return vector % self.modulus

    def total(self, round: int) -> Any:
        """Everybody present has answered: what is left to remove are the self masks."""
        masks = [self.mask(self.of_round(self.seeds[client], round)) for client in self.present]
        return self.reduce(sum(self.inputs[client, round] for client in self.present) - sum(masks))

    def wire(self, client: int) -> Sequence[bytes]:
        return self.sent[client]

    def public_keys(self, client: int) -> Sequence[bytes]:
        return [self.publics[client]]

    def secrets(self, client: int) -> Sequence[bytes]:
        pairs = [self.agree(client, peer) for peer in self.present if peer != client]
        return [self.privates[client], self.seeds[client], *pairs]

    def reveal(
        self, client: int, round: int, *, alive: Collection[int], dropped: Collection[int]
    ) -> Mapping[int, Collection[Kind]]:
        if (client, round) in self.answered or set(alive) & set(dropped):
            raise Refused("one answer a round, and each peer is alive or dropped")
        self.answered.add((client, round))
        return {peer: ["self"] if peer in alive else ["pair"] for peer in self.present if peer != client}

    def ring_for(self, clients: int) -> Ring:
        if clients * self.largest >= self.modulus:
            raise Refused("the sum would not fit")
        return Ring(self.modulus, self.largest)
