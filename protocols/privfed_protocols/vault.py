"""The secrets of one client in one epoch, kept where they can be overwritten.

Rounds burn in ascending order, so two pointers say what is left: own secrets from `own_from` on, shares held for
others from `held_from` on. What lies before them is zeros, and is not in what `dump` gives.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import numpy.typing as npt

from .errors import CorruptState, LocalProtocolError
from .primitives import KEY_BYTES, Agreement
from .shamir import SHARE_BYTES
from .uncopied import Uncopied

PAIR_BYTES = 2 * SHARE_BYTES  # share of e, then share of b


class SavedVault(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What is left of a vault, as bytes. Its repr shows nothing."""

    rounds: int
    channel: bytes
    sharing_seed: bytes
    own_from: int
    keys: bytes
    seeds: bytes
    neighbours: int
    held_from: int
    held: bytes
    surplus: bytes

    def __repr__(self) -> str:
        return "<SavedVault>"


class Vault(Uncopied):
    """Channel key, sharing seed; for each round the mask key e, the self-mask seed b and the shares held.

    For the round that runs also the seed of the client's surplus noise, if it has any.
    """

    def __init__(self, rounds: int, randomness: Callable[[int], bytes]) -> None:
        self.rounds = rounds
        self.channel = _fresh(randomness)
        self.sharing_seed = _fresh(randomness)
        self.keys = bytearray().join(_fresh(randomness) for _ in range(rounds))
        self.seeds = bytearray().join(_fresh(randomness) for _ in range(rounds))
        self.own_from = 1
        self.held: npt.NDArray[np.uint8] = np.zeros((rounds, 0, PAIR_BYTES), np.uint8)
        self.held_from = 1
        self.surplus = bytearray(KEY_BYTES)
        self._agreed: dict[bytes, bytearray] = {}
        self._channel: Agreement | None = None

    def agree(self, public: bytes) -> bytearray:
        """Shared secret of the channel key with a peer's; M3 and M4 need the same, so it is kept between them.

        It is erased with the channel key and never saved: a restored client agrees anew.
        """
        found = self._agreed.get(public)
        if found is None:
            if self._channel is None:
                self._channel = Agreement(self.channel)
            found = self._agreed[public] = bytearray(self._channel.shared_secret(public))
        return found

    def key(self, round: int) -> memoryview:
        """X25519 private key e of a round."""
        return memoryview(self.keys)[KEY_BYTES * (round - 1) : KEY_BYTES * round]

    def seed(self, round: int) -> memoryview:
        """Self-mask seed b of a round."""
        return memoryview(self.seeds)[KEY_BYTES * (round - 1) : KEY_BYTES * round]

    def erase_sharing_seed(self) -> None:
        """Overwrite what the sharing polynomials came from, once the shares are made."""
        _zero(self.sharing_seed)

    def erase_channel(self) -> None:
        """Overwrite the channel key, once the delivery is opened."""
        _zero(self.channel)
        self._channel = None
        while self._agreed:
            _zero(self._agreed.popitem()[1])

    def erase_own(self, *, through: int) -> None:
        """Overwrite e and b of all rounds up to and with `through`."""
        end = min(through, self.rounds)
        size = KEY_BYTES * (end - self.own_from + 1)
        if size > 0:
            start = KEY_BYTES * (self.own_from - 1)
            self.keys[start : start + size] = bytes(size)
            self.seeds[start : start + size] = bytes(size)
            self.own_from = end + 1

    def erase_round(self, *, through: int) -> None:
        """Overwrite everything about all rounds up to and with `through`, the last that ran."""
        _zero(self.surplus)
        self.erase_own(through=through)
        end = min(through, self.rounds)
        if end >= self.held_from:
            self.held[self.held_from - 1 : end] = 0
            self.held_from = end + 1

    def erase(self) -> None:
        """Overwrite everything."""
        self.erase_sharing_seed()
        self.erase_channel()
        self.erase_round(through=self.rounds)

    def dump(self) -> SavedVault:
        """What is left, as bytes; an erased key is an empty one."""
        return SavedVault(
            rounds=self.rounds,
            channel=bytes(self.channel) if any(self.channel) else b"",
            sharing_seed=bytes(self.sharing_seed) if any(self.sharing_seed) else b"",
            own_from=self.own_from,
            keys=bytes(self.keys[KEY_BYTES * (self.own_from - 1) :]),
            seeds=bytes(self.seeds[KEY_BYTES * (self.own_from - 1) :]),
            neighbours=self.held.shape[1],
            held_from=self.held_from,
            held=self.held[self.held_from - 1 :].tobytes(),
            surplus=bytes(self.surplus) if any(self.surplus) else b"",
        )

    @classmethod
    def load(cls, saved: SavedVault) -> Vault:
        """Inverse of `dump`.

        Raises:
            CorruptState: sizes do not fit each other.
        """
        if not _consistent(saved):
            raise CorruptState("saved client state does not fit together")
        vault = cls.__new__(cls)
        vault.rounds = saved.rounds
        vault.channel = bytearray(saved.channel or KEY_BYTES)
        vault.sharing_seed = bytearray(saved.sharing_seed or KEY_BYTES)
        vault.own_from = saved.own_from
        gone = bytes(KEY_BYTES * (saved.own_from - 1))
        vault.keys = bytearray(gone + saved.keys)
        vault.seeds = bytearray(gone + saved.seeds)
        vault.held_from = saved.held_from
        vault.held = np.zeros((saved.rounds, saved.neighbours, PAIR_BYTES), np.uint8)
        vault.surplus = bytearray(saved.surplus or KEY_BYTES)
        vault._agreed, vault._channel = {}, None
        left = vault.held[saved.held_from - 1 :]
        left[...] = np.frombuffer(saved.held, np.uint8).reshape(left.shape)
        return vault

    def __repr__(self) -> str:
        return "<Vault>"


def _fresh(randomness: Callable[[int], bytes]) -> bytearray:
    secret = randomness(KEY_BYTES)
    if len(secret) != KEY_BYTES:
        raise LocalProtocolError(f"randomness gave {len(secret)} bytes, expected {KEY_BYTES}")
    return bytearray(secret)


def _consistent(saved: SavedVault) -> bool:
    own, held = saved.rounds - saved.own_from + 1, saved.rounds - saved.held_from + 1
    return (
        saved.held_from >= 1
        and saved.own_from >= saved.held_from
        and min(own, held, saved.neighbours) >= 0
        and len(saved.channel) in (0, KEY_BYTES)
        and len(saved.sharing_seed) in (0, KEY_BYTES)
        and len(saved.surplus) in (0, KEY_BYTES)
        and len(saved.keys) == len(saved.seeds) == KEY_BYTES * own
        and len(saved.held) == held * saved.neighbours * PAIR_BYTES
    )


def _zero(secret: bytearray) -> None:
    secret[:] = bytes(len(secret))
