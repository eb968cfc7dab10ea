"""Negative test vectors of rosters and of what is shared under them, refusals 5 to 11."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from refusal_messages import OTHER, Base, changed, un
from refusal_vectors import IDS, PLAIN, SIGNED, Case, at, server

from tests.reference import numbers as n
from tests.reference import words as w

FIELD: Final = 2**255 - 19
LOW_ORDER: Final = (
    0,
    1,
    325606250916557431795983626356110631294008115727848805560023387167927233504,
    39382357235489614581723060781553021112529911719440698176882885853963445705823,
    FIELD - 1,
)


def refusal_5(b: dict[str, Base]) -> Iterator[Case]:
    """The wrong number of clients."""
    base = b[PLAIN]
    for n_ in (0, 1, 6, 2**31 - 1):
        yield f"roster of {n_}", at(PLAIN, "M0", base.roster({}, n=n_), "RosterSize")
    yield "policy of fewer", at(PLAIN, "nothing", base.offer(), "RosterSize", policy={"n_max": 4})
    full = [[name, base.m1(i).hex()] for i, name in enumerate(base.names)]
    late = base.m1(0, identity=b"zoe", channel=w.public_of(OTHER), keys=base.fresh(2))
    yield "server: one more than n_max", server(PLAIN, "M0", b"zoe".hex(), late, "RosterSize", first=full)


def refusal_6(b: dict[str, Base]) -> Iterator[Case]:
    """The own leaf."""
    for name in (PLAIN, SIGNED):
        base = b[name]
        altered = base.roster({0: base.m1(0, commitments=bytes(64))})
        yield f"{base.mode}: own advertise altered", at(name, "M0", altered, "BadOwnLeaf")
        for field, value in (("index", 1), ("index", 5), ("path", []), ("path", [OTHER] * 3), ("root", OTHER)):
            forged = base.roster({}, **{field: value})
            yield f"{base.mode}: another {field} {value!r:.12}", at(name, "M0", forged, "BadOwnLeaf")
    base = b[PLAIN]
    doubled = base.roster({1: base.m1(1, identity=un(base.names[0]))})
    yield "own identity twice", at(PLAIN, "M0", doubled, "BadOwnLeaf")


def refusal_7(b: dict[str, Base]) -> Iterator[Case]:
    """A roster that does not hash to its root, or is not sorted."""
    base = b[PLAIN]
    honest = base.entries()
    strange = changed(honest, 2, [3, base.m1(3, commitments=bytes(64)), []])
    yield "an advertise that the root does not hold", at(PLAIN, "M0", base.roster({}, entries=strange), "BadRoster")
    swapped = base.roster({1: base.m1(2), 2: base.m1(1)})
    yield "unsorted", at(PLAIN, "M0", swapped, "BadRoster")
    for one in range(4):
        with_path = changed(honest, one, [*honest[one][:2], [OTHER]])
        yield f"a path on the complete graph, {one}", at(PLAIN, "M0", base.roster({}, entries=with_path), "BadRoster")


def refusal_8(b: dict[str, Base]) -> Iterator[Case]:
    """Neighbours that the graph does not give."""
    base = b[PLAIN]
    honest = base.entries()
    wrong = {
        "fewer": honest[:-1], "more": [*honest, honest[0]], "none": [], "out of order": honest[::-1],
        "itself": [[0, *honest[0][1:]], *honest[1:]], "outside": [*honest[:3], [5, *honest[3][1:]]],
        "one twice": [*honest[:3], honest[2]],
    }  # fmt: skip
    for name, entries in wrong.items():
        yield name, at(PLAIN, "M0", base.roster({}, entries=entries), "WrongNeighbours")


def refusal_9(b: dict[str, Base]) -> Iterator[Case]:
    """Identities, repeated keys, and signatures of clients."""
    base, signed = b[PLAIN], b[SIGNED]
    known = base.names[:4]
    yield "not on the policy's list", at(PLAIN, "M0", base.roster({}), "BadNeighbour", policy={"identities": known})
    twice = base.roster({2: base.m1(2, identity=un(base.names[1]))})
    yield "an identity twice", at(PLAIN, "M0", twice, "BadNeighbour")
    for giver in (0, 1):
        channel, keys = base.channel(giver), base.keys(giver)
        for name, change in {
            "channel key as channel key": {"channel": channel}, "round key as channel key": {"channel": keys[32:]},
            "channel key as round key": {"keys": channel + base.keys(2)[32:]},
            "round key as round key": {"keys": base.keys(2)[:32] + keys[:32]},
        }.items():  # fmt: skip
            forged = base.roster({2: base.m1(2, **change)})
            yield f"{name} of client {giver}", at(PLAIN, "M0", forged, "BadNeighbour")
    yield (
        "one key for two rounds",
        at(PLAIN, "M0", base.roster({2: base.m1(2, keys=base.keys(2)[:32] * 2)}), "BadNeighbour"),
    )
    for name in (IDS, SIGNED):
        base = b[name]
        body = base.m1(2)
        lies = {
            "keys put into a neighbour's mouth": base.wrap(
                1, base.m1(2, channel=w.public_of(OTHER)), base.epoch, base.seed(2), signed=body
            ),
            "signed by a stranger": base.wrap(1, body, base.epoch, OTHER),
            "signed by the server": base.wrap(1, body, base.epoch),
            "signed by another client": base.wrap(1, body, base.epoch, base.seed(1)),
            "not signed": body,
            "signed for another epoch": base.wrap(1, body, OTHER, base.seed(2)),
            "signed as a masked vector": base.wrap(6, body, base.epoch, base.seed(2)),
        }
        for told, message in lies.items():
            yield f"{base.mode}: {told}", at(name, "M0", base.roster({2: message}), "BadSignature")
        sybil = base.wrap(1, base.m1(4, identity=b"sybil"), base.epoch, OTHER)
        yield f"{base.mode}: an identity without a key", at(name, "M0", base.roster({4: sybil}), "BadNeighbour")
        yield (
            f"{base.mode}: neither pinned nor certified",
            at(name, "M0", base.roster({}), "BadNeighbour", unpinned=[base.names[2]]),
        )
        both = base.wrap(1, body, base.epoch, base.seed(2), certificate=base.certificate(2))
        beside: list[tuple[str, dict[str, Any]]] = [("", {}), (" of a believed authority", {"unpinned": []})]
        for told, more in beside:
            yield (
                f"{base.mode}: a certificate{told} beside a pinned key",
                at(name, "M0", base.roster({2: both}), "BadNeighbour", **more),
            )
    certificates: dict[str, dict[str, Any]] = {
        "for another identity": {"identity": b"x"}, "of another authority": {"authority": b"\x07" * 32},
        "that ends before the epoch": {"expiry": 999}, "that is not signed": {"spoiled": True},
    }  # fmt: skip
    for told, changes in certificates.items():
        message = signed.wrap(
            1, signed.m1(2), signed.epoch, signed.seed(2), certificate=signed.certificate(2, **changes)
        )
        yield (
            f"a certificate {told}",
            at(SIGNED, "M0", signed.roster({2: message}), "BadNeighbour", unpinned=[signed.names[2]]),
        )
    one_key = signed.wrap(
        1, signed.m1(2), signed.epoch, signed.seed(1), certificate=signed.certificate(2, key=signed.seed(1))
    )
    yield (
        "two identities with one key",
        at(SIGNED, "M0", signed.roster({2: one_key}), "BadNeighbour", unpinned=[signed.names[2]]),
    )
    yield from _refusal_9_of_the_server(b)


def _refusal_9_of_the_server(b: dict[str, Base]) -> Iterator[Case]:
    base, signed = b[PLAIN], b[SIGNED]
    sender, other = base.names[0], [[base.names[1], base.m1(1).hex()]]
    stolen = base.m1(0, channel=base.channel(1))
    yield "server: another client's key", server(PLAIN, "M0", sender, stolen, "BadNeighbour", first=other)
    twice = base.m1(0, keys=base.keys(0)[:32] * 2)
    yield "server: one key for two rounds", server(PLAIN, "M0", sender, twice, "BadNeighbour")
    body = signed.m1(0)
    yield "server: advertise not signed", server(SIGNED, "M0", sender, body, "BadSignature")
    wrong = signed.wrap(1, body, signed.epoch, signed.seed(1))
    yield "server: advertise signed by another", server(SIGNED, "M0", sender, wrong, "BadSignature")
    sybil = signed.wrap(1, signed.m1(0, identity=b"sybil"), signed.epoch, OTHER)
    yield "server: an identity without a key", server(SIGNED, "M0", b"sybil".hex(), sybil, "BadNeighbour")
    vector = signed.masked_body(0)
    yield "server: masked vectors not signed", server(SIGNED, "M5", sender, vector, "BadSignature")
    wrong = signed.wrap(6, vector, signed.epoch, signed.seed(1))
    yield "server: masked vectors signed by another", server(SIGNED, "M5", sender, wrong, "BadSignature")
    for told, text in (("by another", signed.quorum_text()), ("on other survivors", signed.quorum_text((0, 1, 2, 3)))):
        seed = signed.seed(1 if told == "by another" else 0)
        wrong = w.message(8, signed.epoch, 1, w.sign(seed, text))
        yield f"server: survivors signed {told}", server(SIGNED, "M7", sender, wrong, "BadSignature")


def refusal_10(b: dict[str, Base]) -> Iterator[Case]:
    """Low order, and other forms of the same key."""
    base = b[PLAIN]
    values = {f"low order {value:x}"[:20]: value for value in LOW_ORDER}
    values |= {"p": FIELD, "p + 1": FIELD + 1, "bit 255": 9 + 2**255, "all bits": 2**256 - 1, "2 p": 2 * FIELD}
    for name, value in values.items():
        key = value.to_bytes(32, "little")
        yield f"channel key, {name}", at(PLAIN, "M0", base.roster({3: base.m1(3, channel=key)}), "LowOrderPoint")
        keys = base.keys(3)[:32] + key
        yield f"round key, {name}", at(PLAIN, "M0", base.roster({3: base.m1(3, keys=keys)}), "LowOrderPoint")
    bad = base.m1(0, channel=bytes(32))
    yield "server: low order", server(PLAIN, "M0", base.names[0], bad, "LowOrderPoint")


def refusal_11(b: dict[str, Base]) -> Iterator[Case]:
    """Shares that do not authenticate, or are none."""
    for name in (PLAIN, SIGNED):
        base = b[name]
        pieces = base.pieces()
        whole = b"".join(pieces)
        for place in (0, len(pieces[0]) - 1, len(pieces[0]), len(whole) - 1):
            raw = bytearray(whole)
            raw[place] ^= 1
            yield (
                f"{base.mode}: byte {place} altered",
                at(name, "M2", base.delivery(sealed=bytes(raw)), "BadShareMessage"),
            )
    base = b[PLAIN]
    whole = b"".join(base.pieces())
    for size in (0, 1, len(whole) - len(pieces[0]), len(whole) - 1, len(whole) + 1):
        cut = (whole + whole)[:size]
        yield f"{size} bytes", at(PLAIN, "M2", base.delivery(sealed=cut), "BadShareMessage")
    pieces = base.pieces()
    for told, piece in {
        "of another sender": pieces[2], "to another receiver": base.epoch_of.sealed(1, 2),
        "of the other direction": base.epoch_of.sealed(0, 1), "under another root": base.sealed_under(root=OTHER),
        "for another number of clients": base.sealed_under(n=6),
    }.items():  # fmt: skip
        forged = base.delivery(sealed=b"".join([piece, *pieces[1:]]))
        yield f"shares {told}", at(PLAIN, "M2", forged, "BadShareMessage")
    for value in (n.P, n.P + 1, 2**32 - 1):
        for place in (0, 35):
            limbs = [0] * 36
            limbs[place] = value
            plain = b"".join(one.to_bytes(4, "little") for one in limbs)
            forged = base.delivery(sealed=b"".join([base.sealed_under(plaintext=plain), *pieces[1:]]))
            yield f"limb {place} is {value}", at(PLAIN, "M2", forged, "BadShareMessage")
    sender = base.names[0]
    for size in (0, len(whole) - 1, len(whole) + 1):
        message = w.message(3, base.epoch, base.epoch_of.root, bytes(size))
        yield f"server: shares of {size} bytes", server(PLAIN, "M2", sender, message, "BadShareMessage")
    for size in (0, 143, 145):
        message = w.message(10, base.epoch, 1, bytes(size), b"")
        yield f"server: answer of {size} bytes", server(PLAIN, "M7", sender, message, "BadShareMessage")
    message = w.message(10, base.epoch, 1, b"\xff" * 144, b"")
    yield "server: answer with limbs outside the field", server(PLAIN, "M7", sender, message, "BadShareMessage")
    message = w.message(10, base.epoch, 1, bytes(144), bytes(32))
    yield "server: a surplus seed that nobody asked for", server(PLAIN, "M7", sender, message, "BadShareMessage")


ROSTER: Final = (refusal_5, refusal_6, refusal_7, refusal_8, refusal_9, refusal_10, refusal_11)
