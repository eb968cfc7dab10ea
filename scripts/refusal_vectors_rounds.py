"""Negative test vectors of deliveries and rounds, refusals 12 to 22, and of messages out of order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from refusal_messages import OTHER, Base, un
from refusal_vectors import IDS, PLAIN, SIGNED, Case, at, server

from tests.reference import words as w

ALL: Final = (0, 1, 2, 3, 4)
Json = dict[str, Any]


def refusal_12(b: dict[str, Base]) -> Iterator[Case]:
    """Fewer deliveries than the threshold."""
    base = b[PLAIN]
    for count in (0, 1, 2):
        bits = w.bitmap(range(count + 1), 5)
        message = base.delivery(present=bits, sealed=b"".join(base.pieces()[:count]))
        yield f"{count} neighbours", at(PLAIN, "M2", message, "DeliveryBelowThreshold")


def refusal_13(b: dict[str, Base]) -> Iterator[Case]:
    """Another round or epoch."""
    base, signed = b[PLAIN], b[SIGNED]
    yield "roster of another epoch", at(PLAIN, "M0", base.roster({}, epoch=OTHER), "WrongRound")
    leaf = base.m1(1, epoch=OTHER)
    yield "roster with an advertise of another epoch", at(PLAIN, "M0", base.roster({1: leaf}), "WrongRound")
    yield "delivery of another epoch", at(PLAIN, "M2", base.delivery(epoch=OTHER), "WrongRound")
    yield "start of another epoch", at(PLAIN, "M4", base.start(epoch=OTHER), "WrongRound")
    yield "survivors of another epoch", at(PLAIN, "M6", base.survivors(ALL, epoch=OTHER), "WrongRound")
    yield "quorum of another epoch", at(SIGNED, "M7", signed.quorum((1, 2, 3), epoch=OTHER), "WrongRound")
    for r in (3, 2**31 - 1):
        yield f"start of round {r} of 2", at(PLAIN, "M4", base.start(r=r), "WrongRound")
    yield "a second start of the running round", at(PLAIN, "M5", base.start(), "WrongRound")
    yield "a second start with another model", at(PLAIN, "M6", base.start(model=OTHER), "WrongRound")
    later = [base.start(r=2).hex()]
    yield "a start of an earlier round", at(PLAIN, "M4", base.start(), "WrongRound", first=later)
    yield "survivors of a round that never started", at(PLAIN, "M6", base.survivors(ALL, r=2), "WrongRound")
    yield "quorum of a round that never started", at(SIGNED, "M7", signed.quorum((1, 2, 3), r=2), "WrongRound")
    sender = base.names[0]
    yield "server: advertise of another epoch", server(PLAIN, "M0", sender, base.m1(0, epoch=OTHER), "WrongRound")
    for epoch, root in ((OTHER, base.epoch_of.root), (base.epoch, OTHER)):
        message = w.message(3, epoch, root, bytes(640))
        yield (
            f"server: shares for {'a roster' if root == OTHER else 'an epoch'} of others",
            server(PLAIN, "M2", sender, message, "WrongRound"),
        )
    for epoch, r in ((OTHER, 1), (base.epoch, 2)):
        told = "another epoch" if epoch == OTHER else "a round to come"
        yield (
            f"server: masked vectors of {told}",
            server(PLAIN, "M5", sender, w.message(6, epoch, r, bytes(18)), "WrongRound"),
        )
        answer = w.message(10, epoch, r, bytes(144), b"")
        yield f"server: answer of {told}", server(PLAIN, "M7", sender, answer, "WrongRound")


def refusal_14(b: dict[str, Base]) -> Iterator[Case]:
    """The own bit is off."""
    base, signed = b[PLAIN], b[SIGNED]
    yield "delivery", at(PLAIN, "M2", base.delivery(present=b"\x1e"), "OwnBitOff")
    yield "start", at(PLAIN, "M4", base.start(u=b"\x1e"), "OwnBitOff")
    yield "survivors", at(PLAIN, "M6", base.survivors((1, 2, 3, 4)), "OwnBitOff")
    yield "signed survivors", at(SIGNED, "M6", signed.survivors((1, 2, 3, 4)), "OwnBitOff")


def refusal_15(b: dict[str, Base]) -> Iterator[Case]:
    """Bitmaps that are too small or hold strangers."""
    base, signed = b[PLAIN], b[SIGNED]
    yield "too few participants", at(PLAIN, "M4", base.start(u=b"\x01"), "BadBitmap")
    yield "too few survivors", at(PLAIN, "M6", base.survivors((0,)), "BadBitmap")
    yield "too few signed survivors", at(SIGNED, "M6", signed.survivors((0,)), "BadBitmap")
    four = [base.start(u=b"\x0f").hex()]
    yield (
        "survivors who are no participants",
        at(PLAIN, "M4", base.survivors(ALL), "BadBitmap", first=four, submit_first=True),
    )
    lost = [base.delivery(present=b"\x0f", sealed=b"".join(base.pieces()[:3])).hex()]
    yield "a participant who never delivered", at(PLAIN, "M2", base.start(), "BadBitmap", first=lost)


def refusal_16(b: dict[str, Base]) -> Iterator[Case]:
    """Fewer live neighbours than the threshold."""
    base, signed = b[PLAIN], b[SIGNED]
    yield "participants", at(PLAIN, "M4", base.start(u=b"\x07"), "NeighboursBelowThreshold")
    yield "survivors", at(PLAIN, "M6", base.survivors((0, 1, 2)), "NeighboursBelowThreshold")
    yield "signed survivors", at(SIGNED, "M6", signed.survivors((0, 3, 4)), "NeighboursBelowThreshold")


def refusal_17(b: dict[str, Base]) -> Iterator[Case]:
    """Another model or plan than was computed on; the client masks nothing."""
    for name in (PLAIN, SIGNED):
        for field in ("model_digest", "plan_digest"):
            yield f"{b[name].mode}: {field}", at(name, "M5", b"", "DigestMismatch", submit={field: OTHER.hex()})


def refusal_18(b: dict[str, Base]) -> Iterator[Case]:
    """A value out of its bits; noise for another number of shares."""
    rows = b[PLAIN].inputs["rounds"][0]["vectors"][b[PLAIN].names[0]]
    for place in range(5):
        large = [rows[0], [8 if at_ == place else one for at_, one in enumerate(rows[1])]]
        yield f"element {place} of 3 bits is 8", at(PLAIN, "M5", b"", "ValueOutOfRange", submit={"vectors": large})
    base = b[PLAIN]
    for shares in (0, 3, 5):
        yield (
            f"offer for {shares} noise shares, own noise for 4",
            at(PLAIN, "nothing", base.offer(shares=shares), "NoiseBelowFloor", policy={"noise_shares": 4}),
        )


def refusal_19(b: dict[str, Base]) -> Iterator[Case]:
    """A second set of survivors."""
    base, signed = b[PLAIN], b[SIGNED]
    for members in (ALL, (0, 1, 2, 3)):
        yield f"after the answer, {members}", at(PLAIN, "M10", base.survivors(members), "SecondSurvivors")
        yield f"after the signature, {members}", at(SIGNED, "M7", signed.survivors(members), "SecondSurvivors")
        yield f"signed, after the answer, {members}", at(SIGNED, "M10", signed.survivors(members), "SecondSurvivors")


def refusal_20(b: dict[str, Base]) -> Iterator[Case]:
    """No quorum."""
    base = b[SIGNED]
    for signers in ((), (1,), (1, 2), (0, 1, 2)):
        yield f"signers {signers}", at(SIGNED, "M7", base.quorum(signers), "NoQuorum")
    for wrong in (1, 2, 4):
        forged = base.quorum((1, 2, 3, 4), texts={wrong: OTHER})
        yield f"signature of {wrong} is wrong", at(SIGNED, "M7", forged, "NoQuorum")
    others = base.quorum_text((0, 1, 2, 3))
    yield (
        "signatures on other survivors",
        at(SIGNED, "M7", base.quorum((1, 2, 3), texts=dict.fromkeys((1, 2, 3), others)), "NoQuorum"),
    )
    context = base.quorum_text(context=OTHER)
    yield (
        "signatures under another context",
        at(SIGNED, "M7", base.quorum((1, 2, 3), texts=dict.fromkeys((1, 2, 3), context)), "NoQuorum"),
    )
    yield (
        "one neighbour signs for all",
        at(SIGNED, "M7", base.quorum((1, 2, 3), seeds=dict.fromkeys((1, 2, 3), base.seed(1))), "NoQuorum"),
    )
    for cut in (0, 191, 193, 256):
        yield f"{cut} bytes of signatures of three", at(SIGNED, "M7", base.quorum((1, 2, 3), cut=cut), "NoQuorum")
    four = dict.fromkeys((1, 2, 3, 4), others)
    yield (
        "a signer who did not survive",
        at(SIGNED, "M6", base.quorum((1, 2, 3, 4), texts=four), "NoQuorum", first=[base.survivors((0, 1, 2, 3)).hex()]),
    )


def refusal_22(b: dict[str, Base]) -> Iterator[Case]:
    """After the round was burned or set-up was aborted."""
    base, signed = b[PLAIN], b[SIGNED]
    unreadable = [b"\xc1".hex()]
    for after, message in (
        ("nothing", base.offer()), ("M0", base.roster({})), ("M2", base.delivery()), ("M0", b""),
    ):  # fmt: skip
        told = f"after a refusal in set-up, {after}, {len(message)} bytes"
        yield told, at(PLAIN, after, message, "AfterBurned", first=unreadable)
    yield "survivors of a burned round", at(PLAIN, "M6", base.survivors(ALL), "AfterBurned", first=unreadable)
    bad = [base.survivors((1, 2, 3, 4)).hex()]
    yield "good survivors after bad ones", at(PLAIN, "M6", base.survivors(ALL), "AfterBurned", first=bad)
    skipped = [base.start(r=2).hex()]
    yield (
        "survivors of a round that a later one burned",
        at(PLAIN, "M6", base.survivors(ALL), "AfterBurned", first=skipped),
    )
    yield "quorum of a burned round", at(SIGNED, "M7", signed.quorum((1, 2, 3)), "AfterBurned", first=unreadable)
    second = [signed.survivors((0, 1, 2, 3)).hex()]
    yield "quorum after second survivors", at(SIGNED, "M7", signed.quorum((1, 2, 3)), "AfterBurned", first=second)


def refusal_0(b: dict[str, Base]) -> Iterator[Case]:
    """Messages out of order, late, doubled or from strangers: named errors without a number."""
    base, signed, unexpected = b[PLAIN], b[SIGNED], "UnexpectedMessage"
    yield "start to a new client", at(PLAIN, "nothing", base.start(), unexpected)
    yield "a second offer", at(PLAIN, "M0", base.offer(), unexpected)
    yield "delivery before the roster", at(PLAIN, "M0", base.delivery(), unexpected)
    yield "a second roster", at(PLAIN, "M2", base.roster({}), unexpected)
    yield "start before the delivery", at(PLAIN, "M2", base.start(), unexpected)
    for after in ("M4", "M6", "M10"):
        for name, message in (("offer", base.offer()), ("roster", base.roster({})), ("delivery", base.delivery())):
            yield f"{name} after {after}", at(PLAIN, after, message, unexpected)
    yield "survivors before the vector", at(PLAIN, "M5", base.survivors(ALL), unexpected)
    yield "quorum before the survivors", at(SIGNED, "M6", signed.quorum((1, 2, 3)), unexpected)
    for name in (PLAIN, IDS):
        message = w.message(9, b[name].epoch, 1, b"\x1f", bytes(320))
        yield f"{b[name].mode}: quorum where there is none", at(name, "M6", message, unexpected)
    sender, m1 = base.names[0], base.m1(0)
    yield "server: named otherwise", server(PLAIN, "M0", base.names[1], m1, "UnknownSender")
    yield "server: advertise twice", server(PLAIN, "M0", sender, m1, "DuplicateMessage", first=[[sender, m1.hex()]])
    garbage = [[sender, b"\xc1".hex()]]
    yield "server: after garbage", server(PLAIN, "M0", sender, m1, "ExcludedSender", first=garbage)
    shares = w.message(3, base.epoch, base.epoch_of.root, bytes(640))
    yield "server: shares too early", server(PLAIN, "M0", sender, shares, unexpected)
    yield "server: advertise too late", server(PLAIN, "M2", sender, m1, "LateMessage")
    yield "server: a stranger", server(PLAIN, "M2", b"zoe".hex(), shares, "LateMessage")
    yield "server: shares too late", server(PLAIN, "M4", sender, shares, "LateMessage")
    vector = base.masked(0)
    twice = [[sender, vector.hex()]]
    yield "server: masked vectors twice", server(PLAIN, "M5", sender, vector, "DuplicateMessage", first=twice)
    yield "server: masked vectors too late", server(PLAIN, "M7", sender, vector, "LateMessage")
    answer = un(base.round_1["m10"][sender])
    yield "server: answer too early", server(PLAIN, "M5", sender, answer, unexpected)
    yield (
        "server: answer twice",
        server(PLAIN, "M7", sender, answer, "DuplicateMessage", first=[[sender, answer.hex()]]),
    )
    consistency = w.message(8, base.epoch, 1, bytes(64))
    yield "server: a signature where there is none", server(PLAIN, "M5", sender, consistency, unexpected)
    told = un(signed.round_1["m8"][sender])
    yield "server: signature too early", server(SIGNED, "M5", sender, told, unexpected)
    yield (
        "server: signature twice",
        server(SIGNED, "M7", sender, told, "DuplicateMessage", first=[[sender, told.hex()]]),
    )
    yield "server: signature too late", server(SIGNED, "M9", sender, told, "LateMessage")


ROUNDS: Final = (
    refusal_0, refusal_12, refusal_13, refusal_14, refusal_15, refusal_16, refusal_17, refusal_18, refusal_19,
    refusal_20, refusal_22,
)  # fmt: skip
