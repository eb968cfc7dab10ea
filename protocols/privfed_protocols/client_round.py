"""What a client computes and checks in a round: M5, M6, M7 to M10. No state is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import bitmap, derivation
from .client_setup import RosterView
from .errors import BadBitmap, NeighboursBelowThreshold, OverBound, OwnBitOff, WrongRound
from .labels import VERSION
from .masks import Mask, mask_into
from .messages import MaskedWriter, Offer, Start, Survivors, Unmask, encode
from .primitives import Agreement
from .shamir import SHARE_BYTES
from .vault import Vault
from .vectors import Array, VectorSpec, total_bytes


@dataclass(frozen=True)
class Round:
    """A round that a client agreed to take part in."""

    number: int
    participants: tuple[int, ...]
    model_digest: bytes
    plan_digest: bytes
    deadline: int
    context: bytes = field(repr=False)


def check_start(
    start: Start, *, offer: Offer, epoch: bytes, view: RosterView, present: frozenset[int], last: int, now: int
) -> Round:
    """Check M5; refusals 4 and 13 to 16."""
    if not last < start.round <= offer.rounds:
        raise WrongRound(f"round {start.round}, expected one after {last} and at most {offer.rounds}")
    _check_deadline(start.round, start.deadline, now)
    participants = bitmap.unpack(start.participants, view.n)
    _check_bitmap(participants, "participants", offer=offer, view=view)
    strangers = set(participants) & set(view.neighbours) - present
    if strangers:
        raise BadBitmap(f"participants {sorted(strangers)} never delivered shares")
    context = derivation.round_context(
        epoch=epoch,
        round=start.round,
        root=view.root,
        participants=start.participants,
        model_digest=start.model_digest,
        plan_digest=start.plan_digest,
    )
    return Round(start.round, participants, start.model_digest, start.plan_digest, start.deadline, context)


def check_survivors(
    survivors: Survivors, *, offer: Offer, view: RosterView, current: Round, now: int
) -> tuple[int, ...]:
    """Check M7 for the current round; refusals 4 and 14 to 16."""
    _check_deadline(current.number, current.deadline, now)
    alive = bitmap.unpack(survivors.survivors, view.n)
    if not set(alive) <= set(current.participants):
        raise BadBitmap("survivors who are no participants")
    _check_bitmap(alive, "survivors", offer=offer, view=view)
    return alive


def _check_deadline(number: int, deadline: int, now: int) -> None:
    if deadline and now > deadline:
        raise OverBound(f"round {number} had to be answered by {deadline}, it is {now}")


def _check_bitmap(members: tuple[int, ...], name: str, *, offer: Offer, view: RosterView) -> None:
    if view.index not in members:
        raise OwnBitOff(f"own bit is off in the {name}")
    if len(members) < offer.n_min:
        raise BadBitmap(f"{len(members)} {name}, offered at least {offer.n_min}")
    live = len(set(members) & set(view.neighbours))
    if live < view.t:
        raise NeighboursBelowThreshold(f"{live} neighbours among the {name}, threshold is {view.t}")


def make_masked(
    arrays: Sequence[Array], *, offer: Offer, epoch: bytes, view: RosterView, current: Round, vault: Vault
) -> bytes:
    """Make M6: every vector plus its self mask and its pair masks towards all participating neighbours."""
    writer = MaskedWriter(epoch=epoch, round=current.number, payload_bytes=total_bytes(offer.vectors))
    masks = _masks(offer.vectors, view=view, current=current, vault=vault)
    offset = 0
    for position, (spec, array) in enumerate(zip(offer.vectors, arrays, strict=True)):
        mask_into(array, writer.array(spec, offset=offset), [row[position] for row in masks])
        offset += spec.nbytes
    return writer.finish()


def _masks(vectors: Sequence[VectorSpec], *, view: RosterView, current: Round, vault: Vault) -> list[list[Mask]]:
    """One row per mask source (the client itself, then its peers), one column per vector."""
    rows = [
        derivation.self_masks(vault.seed(current.number), context=current.context, index=view.index, vectors=vectors)
    ]
    agreement = Agreement(vault.key(current.number))
    participants = set(current.participants)
    for position, peer in enumerate(view.neighbours):
        if peer in participants:
            secret = agreement.shared_secret(view.round_key(position, current.number))
            rows.append(
                derivation.pair_masks(secret, context=current.context, index=view.index, peer=peer, vectors=vectors)
            )
    return rows


def make_unmask(alive: tuple[int, ...], *, epoch: bytes, view: RosterView, current: Round, vault: Vault) -> bytes:
    """Make M10: for each participating neighbour the share of b if it survived, of e if not; never both.

    One bitmap decides, one slice of each pair is taken: a message that holds both shares cannot be expressed.
    """
    survived = np.isin(view.neighbours, alive)
    asked = np.isin(view.neighbours, current.participants)
    pairs = vault.held[current.number - 1].reshape(-1, 2, SHARE_BYTES)
    chosen = pairs[np.flatnonzero(asked), survived[asked].astype(np.intp)]
    return encode(Unmask(VERSION, epoch, current.number, memoryview(chosen.tobytes())))
