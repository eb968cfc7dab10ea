"""What the lint needs to know of an implementation: the one class that a stranger writes.

Two methods are required. Every other one opens further checks, and raises `NotExposed` as it stands: a check that
needs it is then reported as not examined, never as passed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["Adapter", "Kind", "NotExposed", "Refused", "Ring", "Setting", "Values"]

Values = npt.NDArray[np.int64]
Kind = Literal["self", "pair"]


class NotExposed(NotImplementedError):  # noqa: N818 - an answer, not a fault
    """The adapter does not offer this; what needs it is not examined."""


class Refused(Exception):  # noqa: N818 - an answer, not a fault: often the right one
    """The audited code refused what it was asked to do. Adapters raise it for the refusals of their code, no others."""


@dataclass(frozen=True)
class Setting:
    """What to set up.

    Attributes:
        clients: how many, numbered from 0.
        threshold: fewest clients with which a round has to complete.
        rounds: rounds to come, numbered from 1.
        length: coordinates of a client's vector.
        lost_in_set_up: clients that fall silent after their first message of the set-up, or never send one.
    """

    clients: int = 5
    threshold: int = 3
    rounds: int = 2
    length: int = 8
    lost_in_set_up: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Ring:
    """The arithmetic of a round: sums modulo `modulus` of values from 0 to `largest` (the width of a signed range)."""

    modulus: int
    largest: int


class Adapter(ABC):
    """Wraps one implementation of secure aggregation for `lint_masks`.

    A fresh object is made for every check, `set_up` may be called several times on one. Everything runs in this
    process, on made-up data: keys that an adapter shows to the lint protect nothing.

    Attributes:
        name: of the implementation, for the report.
        generator: what stretches a seed into a mask, as the code's author would put it ("AES-256-CTR", "MT19937");
            empty if unknown.
        seed_bytes: length of the seeds that `expand` takes.
    """

    name: ClassVar[str] = "unnamed"
    generator: ClassVar[str] = ""
    seed_bytes: ClassVar[int] = 32

    @abstractmethod
    def set_up(self, setting: Setting) -> None:
        """Make fresh clients and a server, with fresh keys, and bring them to where rounds can start.

        Raises:
            Refused: the implementation does not go on in this setting.
        """

    @property
    @abstractmethod
    def ring(self) -> Ring | None:
        """The ring that `masked` lives in, after `set_up`; None if masks are floats or integers without a modulus."""

    @abstractmethod
    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> npt.NDArray[Any]:
        """Let `client` mask `values` for `round`, and return the vector that the server receives.

        The lint asks once for each client and round, and on purpose a second time. Rounds ascend. Clients that were
        not asked yet count as present: a client masks towards all that completed the set-up.

        Args:
            client: its number.
            round: from 1.
            values: already encoded, int64 in [0, ring.largest], shape `(length,)`.
            side: what a client knows beside its vector: "examples" (a count) and "loss". Hand it to the client where
                its code takes such things; else ignore it.

        Raises:
            Refused: the client does not mask (again).
        """

    def total(self, round: int) -> npt.NDArray[Any]:
        """Return the sum that the server opens for `round`, after `masked` was called for every client in it."""
        raise NotExposed("total")

    def wire(self, client: int) -> Sequence[bytes]:
        """Return every message that `client` has sent since `set_up`, in order, as bytes."""
        raise NotExposed("wire")

    def public_keys(self, client: int) -> Sequence[bytes]:
        """Return what `client` published of its keys."""
        raise NotExposed("public_keys")

    def secrets(self, client: int) -> Sequence[bytes]:
        """Return the secrets that `client` can compute masks from: private keys, seeds, keys agreed with peers.

        In the same order for every client. Shares that it holds for others do not belong here.
        """
        raise NotExposed("secrets")

    def pair_mask(self, client: int, peer: int, round: int) -> npt.NDArray[Any]:
        """Return what `client` adds on account of `peer` in `round`, sign included, before `masked` is called."""
        raise NotExposed("pair_mask")

    def expand(self, seed: bytes, length: int, modulus: int) -> npt.NDArray[Any]:
        """Return the mask of `seed`, `seed_bytes` long: `length` elements below `modulus` (2^8, 2^16 or 2^32)."""
        raise NotExposed("expand")

    def reveal(
        self, client: int, round: int, *, alive: Collection[int], dropped: Collection[int]
    ) -> Mapping[int, Collection[Kind]]:
        """Ask `client` to help unmask `round`, as a malicious server might, and return what it gave of whom.

        Called several times for one round, with a peer among the alive, among the dropped, and among both.

        Returns:
            Peer -> kinds of shares in the answer: "self" opens the peer's self mask, "pair" its pairwise masks.

        Raises:
            Refused: the client does not answer (this time), or the request cannot be put into its protocol.
        """
        raise NotExposed("reveal")

    def ring_for(self, clients: int) -> Ring:
        """Return the ring that the implementation would use for so many clients, computed, not run; up to 2^20.

        Raises:
            Refused: it would refuse so many.
        """
        raise NotExposed("ring_for")
