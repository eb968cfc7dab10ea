"""One fault each: what implementations of secure aggregation got wrong in the wild, planted into a sound one.

`FAULTS` names the checks that have to find each, the one made for it first; no others may. Where there are several, the
fault shows in several ways: a mask of one number is no uniform one either.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from privfed.audit.masks import Kind, Refused, Ring, Setting, Values
from tests.audit.sound_masks import Sound


class FoldedSeed(Sound):
    """32 bytes folded into the 32 bits that seed a Mersenne Twister."""

    generator: ClassVar[str] = ""

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        folded = np.bitwise_xor.reduce(np.frombuffer(seed, "<u4"))
        return np.random.RandomState(folded).randint(0, modulus, length, dtype=np.int64)


class CutSeed(Sound):
    """A good generator and a hashed seed of 28 bits: no structure, just too few."""

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        cut = int.from_bytes(hashlib.sha256(seed).digest()[:4], "little") >> 4
        return super().expand(cut.to_bytes(32, "little"), length, modulus)


class ShortSeed(Sound):
    """Seeds of 8 bytes."""

    seed_bytes: ClassVar[int] = 8

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        return super().expand(hashlib.sha256(seed[:8]).digest(), length, modulus)


class MersenneTwister(Sound):
    """All bits of the seed, but a generator whose state follows from its output."""

    generator: ClassVar[str] = ""

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        return np.random.RandomState(np.frombuffer(seed, "<u4")).randint(0, modulus, length, dtype=np.int64)


class HiddenTwister(MersenneTwister):
    """The same, where the lint sees masked vectors only: sums of five masks."""

    expand = Sound.__base__.expand  # type: ignore[misc,assignment]
    pair_mask = Sound.__base__.pair_mask  # type: ignore[misc,assignment]

    def mask(self, seed: bytes) -> Any:
        return MersenneTwister.expand(self, seed, self.setting.length, self.modulus)

    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> Any:
        vector = values + self.mask(self.of_round(self.seeds[client], round))
        for peer in self.present:
            if peer != client:
                seed = self.of_round(self.agree(client, peer), round)
                vector = vector + self.sign(client, peer) * self.mask(seed)
        self.check_once(client, round)
        self.inputs[client, round] = vector % self.modulus
        self.sent[client].append(self.inputs[client, round].tobytes())
        return self.inputs[client, round]


class DeclaredPcg(Sound):
    """A generator of numpy's that no test of its output convicts, but its name does."""

    generator: ClassVar[str] = "numpy PCG64"

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        return np.random.default_rng(list(seed)).integers(0, modulus, length, dtype=np.int64)


class ScalarMask(Sound):
    """One number for the whole vector."""

    def mask(self, seed: bytes) -> Any:
        return np.full(self.setting.length, super().mask(seed)[0])


class ShortMask(Sound):
    """A mask of 64 numbers, over and over."""

    def mask(self, seed: bytes) -> Any:
        return np.resize(super().expand(seed, 64, self.modulus), self.setting.length)


class FloatMask(Sound):
    """Real masks of a bounded size, and no modulus."""

    @property
    def ring(self) -> Ring | None:
        return None

    def mask(self, seed: bytes) -> Any:
        return self.expand(seed, self.setting.length, self.modulus) / 2.0**16

    def pair_mask(self, client: int, peer: int, round: int) -> Any:
        return self.sign(client, peer) * self.mask(self.of_round(self.agree(client, peer), round))

    def reduce(self, vector: Any) -> Any:
        return vector


class NoModulus(FloatMask):
    """Integer masks that are never reduced."""

    def mask(self, seed: bytes) -> Any:
        return self.expand(seed, self.setting.length, self.modulus)


class PublicIsSecret(Sound):
    """The public key is the private one."""

    def public(self, private: bytes) -> bytes:
        return private

    def agree(self, client: int, peer: int) -> bytes:
        return hashlib.sha256(b"".join(sorted((self.privates[client], self.publics[peer])))).digest()


class SecretInMessage(Sound):
    """A seed is written into a message, in hexadecimal digits."""

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        return [b"debug: seed=" + self.seeds[client].hex().encode()]


class RankSeed(Sound):
    """Every client's seed is its number."""

    def draw(self, client: int) -> bytes:
        return client.to_bytes(32, "big")


class FixedSecrets(Sound):
    """Good keys, and the same after every set-up."""

    def draw(self, client: int) -> bytes:
        self.count = (getattr(self, "count", -1) + 1) % (2 * self.setting.clients)
        return hashlib.sha256(b"%d" % self.count).digest()


class RawCount(Sound):
    """The number of examples beside the masked vector."""

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        return [struct.pack(">q", int(side["examples"]))]


class RawLoss(Sound):
    """A metric beside the masked vector, as text."""

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        return [f'{{"loss": {side["loss"]}}}'.encode()]


class RawVector(Sound):
    """The vector itself, too."""

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        return [values.astype("<f4").tobytes()]


class CompressedLength(Sound):
    """A message whose length tells how large the values are."""

    def beside(self, client: int, values: Values, side: Mapping[str, float]) -> Sequence[bytes]:
        return [bytes(1 + int(values.max()).bit_length())]


class NoSelfMaskOfZeros(Sound):
    """Small values are hidden less: a mask as large as the value."""

    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> Any:
        vector = super().masked(client, round, values, side)
        return vector // 2 if values.any() else vector


class BothShares(Sound):
    """Answers whatever it is asked."""

    def reveal(
        self, client: int, round: int, *, alive: Collection[int], dropped: Collection[int]
    ) -> Mapping[int, Collection[Kind]]:
        kinds: dict[int, list[Kind]] = {peer: [] for peer in self.present}
        for peer in alive:
            kinds[peer].append("self")
        for peer in dropped:
            kinds[peer].append("pair")
        return kinds


class BothSharesOnce(BothShares):
    """Answers one request a round, but any."""

    def reveal(
        self, client: int, round: int, *, alive: Collection[int], dropped: Collection[int]
    ) -> Mapping[int, Collection[Kind]]:
        if (client, round) in self.answered:
            raise Refused("answered already")
        self.answered.add((client, round))
        return super().reveal(client, round, alive=alive, dropped=dropped)


class SecondVector(Sound):
    """Masks as often as it is asked, always alike."""

    def check_once(self, client: int, round: int) -> None:
        pass


class RoundForgotten(Sound):
    """The round is no part of the mask."""

    def of_round(self, secret: bytes, round: int) -> bytes:
        return secret


class OneSecret(Sound):
    """One key for everybody, as with homomorphic encryption under a shared key."""

    def agree(self, client: int, peer: int) -> bytes:
        return hashlib.sha256(b"".join(sorted(self.privates.values()))).digest()

    def of_round(self, secret: bytes, round: int) -> bytes:
        return secret if len(secret) == 33 else super().of_round(secret, round)

    def pair_mask(self, client: int, peer: int, round: int) -> Any:
        low, high = sorted((client, peer))
        seed = hashlib.sha256(self.of_round(self.agree(client, peer), round) + bytes((low, high))).digest()
        return self.sign(client, peer) * self.mask(seed) % self.modulus


class OnePairMask(Sound):
    """The pairs' secrets differ, their masks do not."""

    def pair_mask(self, client: int, peer: int, round: int) -> Any:
        seed = hashlib.sha256(b"".join(sorted(self.privates.values())) + bytes((round,))).digest()
        return self.sign(client, peer) * self.mask(seed) % self.modulus


class SilentWrap(Sound):
    """Takes any number of clients."""

    largest: ClassVar[int] = 1 << 22

    def ring_for(self, clients: int) -> Ring:
        return Ring(self.modulus, self.largest)


class SetUpLoss(Sound):
    """Gives up when one client is lost in set-up."""

    def set_up(self, setting: Setting) -> None:
        if setting.lost_in_set_up:
            raise Refused("not everybody sent shares")
        super().set_up(setting)


class MissingTop(Sound):
    """`randint(0, modulus - 1)` where the end is exclusive."""

    def expand(self, seed: bytes, length: int, modulus: int) -> Any:
        return super().expand(seed, length, modulus) % (modulus - 1)


class WrongSign(Sound):
    """Both of a pair add."""

    def sign(self, client: int, peer: int) -> int:
        return 1


class BiasedByte(Sound):
    """One bit of every mask is always set."""

    def mask(self, seed: bytes) -> Any:
        return super().mask(seed) | 1 << 28


FAULTS: dict[type[Sound], set[str]] = {
    FoldedSeed: {"seed_entropy", "generator"},
    CutSeed: {"seed_entropy"},
    ShortSeed: {"seed_entropy"},
    MersenneTwister: {"generator"},
    HiddenTwister: {"generator"},
    DeclaredPcg: {"generator"},
    ScalarMask: {"scalar_mask", "byte_lanes", "generator", "transcript_independence"},
    ShortMask: {"scalar_mask", "byte_lanes", "generator"},
    FloatMask: {"float_masks", "transcript_independence"},
    NoModulus: {"float_masks"},
    PublicIsSecret: {"public_is_secret"},
    SecretInMessage: {"public_is_secret"},
    RankSeed: {"seed_entropy", "mask_reuse", "transcript_independence"},
    FixedSecrets: {"seed_entropy", "mask_reuse", "transcript_independence"},
    RawCount: {"side_values", "transcript_independence"},
    RawLoss: {"side_values", "transcript_independence"},
    RawVector: {"side_values", "transcript_independence"},
    CompressedLength: {"transcript_independence"},
    NoSelfMaskOfZeros: {"transcript_independence"},
    BothShares: {"both_shares"},
    BothSharesOnce: {"both_shares"},
    SecondVector: {"mask_reuse"},
    RoundForgotten: {"mask_reuse"},
    OneSecret: {"shared_secret"},
    OnePairMask: {"distinct_masks"},
    SilentWrap: {"silent_wrap"},
    SetUpLoss: {"set_up_loss"},
    MissingTop: {"full_range"},
    WrongSign: {"pair_cancellation", "set_up_loss"},
    BiasedByte: {"byte_lanes"},
}
