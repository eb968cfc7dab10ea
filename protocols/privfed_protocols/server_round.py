"""One round on the server: what it keeps while inputs arrive, and how the sum is opened.

Memory is one accumulator per vector; a masked vector is added as it arrives and forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from . import derivation
from .errors import BadShareMessage, RoundFailed
from .graph import CompleteGraph
from .masks import Mask, mask_into
from .primitives import Agreement, equal, public_key
from .robust import recover
from .server_setup import ServerRoster
from .shamir import LIMBS, PRIME, SHARE_BYTES, Field, combine, from_limbs, lagrange_at_zero
from .uncopied import Uncopied
from .vectors import Array, VectorSpec


@dataclass
class ServerRound(Uncopied):
    """A round as the server sees it: public values, accumulators, and who did what so far."""

    number: int
    participants: tuple[int, ...]
    context: bytes = field(repr=False)
    sums: dict[str, Array] = field(repr=False)
    masked: set[int] = field(default_factory=set)
    intact: bool = True  # no addition was interrupted half-way
    survivors: tuple[int, ...] = ()
    answers: dict[int, bytes] = field(default_factory=dict, repr=False)

    def add(self, index: int, payload: memoryview, vectors: Sequence[VectorSpec]) -> None:
        """Add the masked vectors of a client, already checked for length."""
        offset, before = 0, self.intact
        self.intact = False
        for spec in vectors:
            part = np.frombuffer(payload, spec.dtype, count=spec.length, offset=offset)
            np.add(self.sums[spec.name], part, out=self.sums[spec.name])
            offset += spec.nbytes
        self.masked.add(index)
        self.intact = before

    def answer(self, index: int, shares: memoryview, graph: CompleteGraph) -> None:
        """Keep the shares of a client.

        Raises:
            BadShareMessage: wrong length, or a limb outside the field.
        """
        expected = SHARE_BYTES * len(asked_of(index, self.participants, graph))
        if len(shares) != expected:
            raise BadShareMessage(f"answer has {len(shares)} bytes of shares, expected {expected}")
        if (np.frombuffer(shares, "<u4") >= PRIME).any():
            raise BadShareMessage("answer has a limb outside the field")
        self.answers[index] = bytes(shares)


IndexDisputes: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Opened:
    """The secrets of a round, by client, and whose shares did not fit: (dealer, givers) by index."""

    seeds: dict[int, bytes] = field(repr=False)
    keys: dict[int, bytes] = field(repr=False)
    disputes: IndexDisputes


class Unopenable(RoundFailed):
    """The secret of a client cannot be opened.

    Attributes:
        dealer: index of the client whose secret does not open from enough shares, -1 if there are too few shares.
        found: the disputes up to this one and with it, by index.
    """

    def __init__(self, message: str, *, round: int, dealer: int = -1, found: IndexDisputes = ()) -> None:
        super().__init__(message, round=round)
        self.dealer = dealer
        self.found = found


def asked_of(index: int, participants: Iterable[int], graph: CompleteGraph) -> list[int]:
    """Whose shares client `index` gives out in a round, in the order of its answer."""
    invited = set(participants)
    return [neighbour for neighbour in graph.neighbours(index) if neighbour in invited]


def open_secrets(current: ServerRound, *, roster: ServerRoster, epoch: bytes) -> Opened:
    """Open b of each survivor and e of each participant that dropped out, and check each against its commitment.

    Raises:
        Unopenable: fewer shares than the threshold, or shares that do not open what was committed to.
    """
    t = roster.parameters.t
    givers, shares = _collect(current, roster.graph)
    short = [dealer for dealer in current.participants if len(givers[dealer]) < t]
    if short:
        raise Unopenable(
            f"{len(current.answers)} answers leave {len(short)} clients with fewer than {t} shares",
            round=current.number,
        )
    points = np.stack([roster.graph.points(dealer, givers[dealer][:t]) for dealer in current.participants])
    first = np.stack([shares[dealer][:t] for dealer in current.participants])
    candidates = from_limbs(combine(lagrange_at_zero(points), first))
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    disputes: list[tuple[int, tuple[int, ...]]] = []
    alive = set(current.survivors)
    for dealer, candidate in zip(current.participants, candidates, strict=True):
        if candidate is not None and _fits(candidate, dealer, current, roster, epoch):
            secret = candidate
        else:
            found, wrong = _recover(dealer, givers[dealer], shares[dealer], current, roster, epoch)
            disputes.append((dealer, wrong))
            if found is None:
                problem = f"the {len(givers[dealer])} shares of client {dealer} do not open what it committed to"
                raise Unopenable(problem, round=current.number, dealer=dealer, found=tuple(disputes))
            secret = found
        (seeds if dealer in alive else keys)[dealer] = secret
    return Opened(seeds, keys, tuple(disputes))


def _collect(current: ServerRound, graph: CompleteGraph) -> tuple[dict[int, list[int]], dict[int, Field]]:
    """Per dealer, who gave a share, and the shares, shape (given, 9)."""
    givers: dict[int, list[int]] = {dealer: [] for dealer in current.participants}
    rows: dict[int, list[bytes]] = {dealer: [] for dealer in current.participants}
    for giver, answer in current.answers.items():
        for place, dealer in enumerate(asked_of(giver, current.participants, graph)):
            givers[dealer].append(giver)
            rows[dealer].append(answer[SHARE_BYTES * place : SHARE_BYTES * (place + 1)])
    return givers, {
        dealer: np.frombuffer(b"".join(given), "<u4").reshape(-1, LIMBS).astype(np.uint64)
        for dealer, given in rows.items()
    }


def _fits(secret: bytes, dealer: int, current: ServerRound, roster: ServerRoster, epoch: bytes) -> bool:
    """Whether a secret is the one its dealer committed to for this round."""
    if dealer not in current.masked:
        return equal(public_key(secret), roster.round_key(dealer, current.number))
    identity = roster.identities[dealer]
    found = derivation.seed_commitment(secret, epoch=epoch, identity=identity, round=current.number)
    return equal(found, roster.commitment(dealer, current.number))


def _recover(
    dealer: int,
    givers: list[int],
    shares: Field,
    current: ServerRound,
    roster: ServerRoster,
    epoch: bytes,
) -> tuple[bytes | None, tuple[int, ...]]:
    """Open a secret of which some shares are wrong; who gave those, or all givers if it does not open."""
    outcome = recover(
        shares,
        points=roster.graph.points(dealer, givers),
        threshold=roster.parameters.t,
        accept=lambda secret: secret is not None and _fits(secret, dealer, current, roster, epoch),
    )
    if outcome.secret is None:
        return None, tuple(givers)
    return outcome.secret, tuple(givers[place] for place in outcome.wrong)


def remove_masks(current: ServerRound, opened: Opened, *, roster: ServerRoster, vectors: Sequence[VectorSpec]) -> None:
    """Take the self masks of survivors and the half-open pair masks of drop-outs out of the accumulators."""
    rows = _self_rows(current, opened, vectors) + _pair_rows(current, opened, roster, vectors)
    for position, spec in enumerate(vectors):
        mask_into(current.sums[spec.name], current.sums[spec.name], [row[position] for row in rows])


def _self_rows(current: ServerRound, opened: Opened, vectors: Sequence[VectorSpec]) -> list[list[Mask]]:
    return [
        derivation.self_masks(seed, context=current.context, index=index, vectors=vectors, subtract=True)
        for index, seed in opened.seeds.items()
    ]


def _pair_rows(
    current: ServerRound, opened: Opened, roster: ServerRoster, vectors: Sequence[VectorSpec]
) -> list[list[Mask]]:
    """The masks that the drop-outs would have applied: the opposite of what their neighbours did."""
    rows = []
    for index, key in opened.keys.items():
        agreement = Agreement(key)
        for peer in asked_of(index, current.survivors, roster.graph):
            secret = agreement.shared_secret(roster.round_key(peer, current.number))
            rows.append(derivation.pair_masks(secret, context=current.context, index=index, peer=peer, vectors=vectors))
    return rows
