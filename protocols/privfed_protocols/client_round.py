"""What a client computes and checks in a round: M5, M6, M7 to M8 or M10, M9 to M10. No state is changed here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from . import bitmap, derivation
from .errors import BadBitmap, NeighboursBelowThreshold, NoQuorum, OverBound, OwnBitOff, WrongRound
from .identities import Signer, verify
from .labels import VERSION
from .masked_writer import MaskedWriter
from .masks import Mask, mask_into
from .messages import Consistency, Masked, Offer, Quorum, Start, Survivors, Unmask, encode
from .packing import pack_into
from .primitives import Agreement
from .roster import RosterView
from .shamir import SHARE_BYTES
from .signed import is_signed, statement
from .suites import suite
from .surplus import lost_shares, opens_surplus, surplus_seed
from .uncopied import Uncopied
from .vault import Vault
from .vectors import Array, VectorSpec, total_bytes
from .workers import Workers

SIGNATURE_BYTES = 64


@dataclass(frozen=True)
class Round(Uncopied):
    """A round that a client agreed to take part in.

    Attributes:
        number: of the round.
        participants: bitmap U.
        model_digest: of the model, as the server told it.
        plan_digest: of the plan, as the server told it.
        deadline: Unix seconds, 0 for none.
        context: what all masks of the round are bound to.
        survivors: bitmap V that this client signed; empty until then.
    """

    number: int
    participants: bytes
    model_digest: bytes
    plan_digest: bytes
    deadline: int
    context: bytes = field(repr=False)
    survivors: bytes = b""


def check_start(
    start: Start, *, offer: Offer, epoch: bytes, view: RosterView, present: frozenset[int], last: int, now: int
) -> Round:
    """Check M5; refusals 4 and 13 to 16."""
    if not last < start.round <= offer.rounds:
        raise WrongRound(f"round {start.round}, expected one after {last} and at most {offer.rounds}")
    _check_deadline(start.round, start.deadline, now)
    invited = _check_bitmap(start.participants, "participants", view)
    strangers = sorted(set(invited) - present)
    if strangers:
        raise BadBitmap(f"participants {strangers} never delivered shares")
    context = derivation.round_context(
        epoch=epoch,
        round=start.round,
        root=view.root,
        participants=start.participants,
        model_digest=start.model_digest,
        plan_digest=start.plan_digest,
        suite=offer.suite,
    )
    return Round(start.round, start.participants, start.model_digest, start.plan_digest, start.deadline, context)


def check_survivors(survivors: Survivors, *, view: RosterView, current: Round, now: int) -> None:
    """Check M7 for the current round; refusals 4 and 13 to 16."""
    _check_current(survivors, current, now)
    bitmap.check(survivors.survivors, view.n)
    if not bitmap.within(survivors.survivors, current.participants):
        raise BadBitmap("survivors who are no participants")
    _check_bitmap(survivors.survivors, "survivors", view)


def check_quorum(quorum: Quorum, *, offer: Offer, view: RosterView, current: Round, now: int) -> None:
    """Check M9 for the survivors that this client signed; refusals 4, 13 and 20.

    At least t *neighbours* have to have signed: the client's own signature does not count. With 2t > k + C, two
    honest clients that each saw t neighbours sign, and signed themselves, signed the same survivors; counting the own
    signature among the t would leave room for two quorums when 2t = k + C + 1.
    """
    _check_current(quorum, current, now)
    bitmap.check(quorum.signers, view.n)
    if not bitmap.within(quorum.signers, current.survivors):
        raise NoQuorum("signers who are no survivors")
    signers = bitmap.unpack(quorum.signers, view.n)
    if len(quorum.signatures) != SIGNATURE_BYTES * len(signers):
        raise NoQuorum(f"{len(quorum.signatures)} bytes of signatures for {len(signers)} signers")
    told = derivation.consistency_statement(context=current.context, survivors=current.survivors, suite=offer.suite)
    keys = dict(zip(view.neighbours, view.signature_keys, strict=True))
    counted = 0
    for place, signer in enumerate(signers):
        if signer in keys:
            signature = bytes(quorum.signatures[SIGNATURE_BYTES * place : SIGNATURE_BYTES * (place + 1)])
            if not verify(keys[signer], signature, told):
                raise NoQuorum(f"{view.name(signer)} did not sign the survivors that this client was told")
            counted += 1
    if counted < view.t:
        raise NoQuorum(f"{counted} neighbours signed the survivors, threshold is {view.t}")


def _check_current(message: Survivors | Quorum, current: Round, now: int) -> None:
    if message.round != current.number:
        raise WrongRound(f"{message} of round {message.round} while round {current.number} runs")
    _check_deadline(current.number, current.deadline, now)


def _check_deadline(number: int, deadline: int, now: int) -> None:
    if deadline and now > deadline:
        raise OverBound(f"round {number} had to be answered by {deadline}, it is {now}")


def _check_bitmap(members: bytes, name: str, view: RosterView) -> list[int]:
    """Check a U or V for this client; its neighbours in it."""
    bitmap.check(members, view.n)
    if not bitmap.has(members, view.index):
        raise OwnBitOff(f"own bit is off in the {name}")
    found = bitmap.count(members)
    if found < view.fewest:
        raise BadBitmap(f"{found} {name}, at least {view.fewest} are needed")
    live: list[int] = np.asarray(view.neighbours)[bitmap.on(members, view.neighbours)].tolist()
    if len(live) < view.t:
        raise NeighboursBelowThreshold(f"{len(live)} neighbours among the {name}, threshold is {view.t}")
    return live


def make_masked(
    arrays: Sequence[Array],
    *,
    offer: Offer,
    epoch: bytes,
    view: RosterView,
    current: Round,
    vault: Vault,
    signer: Signer | None,
    workers: Workers = None,
) -> bytes:
    """Make M6: every vector plus its self mask and its pair masks towards all participating neighbours."""
    writer = MaskedWriter(
        epoch=epoch,
        round=current.number,
        payload_bytes=total_bytes(offer.vectors),
        sign=None
        if signer is None or not is_signed(Masked, offer.mode)
        else lambda fingerprint: signer.sign(statement(Masked, fingerprint, epoch=epoch, suite=offer.suite)),
    )
    masks = _masks(offer, view=view, current=current, vault=vault)
    offset = 0
    for position, (spec, array) in enumerate(zip(offer.vectors, arrays, strict=True)):
        _write_masked(array, spec, [row[position] for row in masks], writer, offset, offer.suite, workers)
        offset += spec.nbytes
    return writer.finish()


def _write_masked(
    array: Array, spec: VectorSpec, masks: list[Mask], writer: MaskedWriter, offset: int, number: int, workers: Workers
) -> None:
    """Mask one vector into the message: in place where its width is native, through a packed copy where not."""
    ciphers = suite(number)
    if spec.native:
        mask_into(array, writer.array(spec, offset=offset), masks, suite=ciphers, workers=workers)
        return
    wide = np.empty_like(array)
    mask_into(array, wide, masks, suite=ciphers, workers=workers)
    pack_into(wide, writer.octets(spec, offset=offset), spec.bits)


def _masks(offer: Offer, *, view: RosterView, current: Round, vault: Vault) -> list[list[Mask]]:
    """One row per mask source (the client itself, then its peers), one column per vector."""
    context, index, vectors, suite_id = current.context, view.index, offer.vectors, offer.suite
    rows = [
        derivation.self_masks(vault.seed(current.number), context=context, index=index, vectors=vectors, suite=suite_id)
    ]
    agreement = Agreement(vault.key(current.number))
    for position in np.flatnonzero(bitmap.on(current.participants, view.neighbours)).tolist():
        secret = agreement.shared_secret(view.round_key(position, current.number))
        peer = view.neighbours[position]
        rows.append(
            derivation.pair_masks(secret, context=context, index=index, peer=peer, vectors=vectors, suite=suite_id)
        )
    return rows


def make_consistency(survivors: bytes, *, offer: Offer, epoch: bytes, current: Round, signer: Signer) -> bytes:
    """Make M8: sign the survivors under the context of the round."""
    told = derivation.consistency_statement(context=current.context, survivors=survivors, suite=offer.suite)
    return encode(Consistency(VERSION, epoch, current.number, signer.sign(told)))


def make_unmask(
    survivors: bytes, *, offer: Offer, epoch: bytes, view: RosterView, current: Round, vault: Vault
) -> bytes:
    """Make M10: for each participating neighbour the share of b if it survived, of e if not; never both.

    One bitmap decides, one slice of each pair is taken: a message that holds both shares cannot be expressed.
    """
    survived = bitmap.on(survivors, view.neighbours)
    asked = bitmap.on(current.participants, view.neighbours)
    pairs = vault.held[current.number - 1].reshape(-1, 2, SHARE_BYTES)
    chosen = pairs[np.flatnonzero(asked), survived[asked].astype(np.intp)]
    surplus = _surplus(bitmap.count(survivors), offer=offer, vault=vault)
    return encode(Unmask(VERSION, epoch, current.number, memoryview(chosen.tobytes()), surplus))


def _surplus(survivors: int, *, offer: Offer, vault: Vault) -> bytes:
    """Seed of the surplus noise that these survivors do not need, or nothing."""
    if not opens_surplus(shares=offer.shares, n_min=offer.n_min, survivors=survivors):
        return b""
    return surplus_seed(vault.surplus, lost_shares(shares=offer.shares, survivors=survivors) + 1)
