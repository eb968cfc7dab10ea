"""Negative test vectors: for each refusal of the protocol text, messages that must be refused by exactly that name.

A case says who receives (the first client of an epoch, or its server), what has happened before, and what arrives.
Messages are built with the slow reference; `make_vectors.py` writes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from refusal_messages import OTHER, Base, un

from tests.reference import words as w

Json = dict[str, Any]
Case = tuple[str, Json]
PLAIN, IDS, SIGNED = "epoch-base-semi-honest", "epoch-base-semi-malicious", "epoch-base-malicious"


def at(base: str, after: str, message: bytes, error: str, **more: object) -> Json:
    """Return a case of the first client."""
    return {"base": base, "after": after, "message": message.hex(), "error": error, **more}


def server(base: str, after: str, sender: str, message: bytes, error: str, **more: object) -> Json:
    """Return a case of the server."""
    return at(base, after, message, error, receiver="server", sender=sender, **more)


def refusal_1(b: dict[str, Base]) -> Iterator[Case]:
    """A message of the server without its signature."""
    for base in (b[IDS], b[SIGNED]):
        body = base.offer()
        yield f"{base.mode}: offer without signature", at(base.name, "nothing", body, "BadServerSignature")
        yield (
            f"{base.mode}: offer under another key",
            at(base.name, "nothing", base.wrap(0, body, b"", OTHER), "BadServerSignature"),
        )
        good = base.wrap(0, body, b"")
        yield (
            f"{base.mode}: altered signature",
            at(base.name, "nothing", good[:-1] + bytes([good[-1] ^ 1]), "BadServerSignature"),
        )
        yield (
            f"{base.mode}: signed as survivors",
            at(base.name, "nothing", base.wrap(7, body, b""), "BadServerSignature"),
        )
        yield (
            f"{base.mode}: signed for an epoch",
            at(base.name, "nothing", base.wrap(0, body, OTHER), "BadServerSignature"),
        )
        yield (
            f"{base.mode}: signed under another suite's label",
            at(base.name, "nothing", base.wrap(0, body, b"", suite=2), "BadServerSignature"),
        )
        swapped = base.wrap(0, body, b"", signed=base.offer(nonce=OTHER))
        yield f"{base.mode}: another body under the signature", at(base.name, "nothing", swapped, "BadServerSignature")
        yield (
            f"{base.mode}: a client that pins no key",
            at(base.name, "nothing", good, "BadServerSignature", credentials="none"),
        )
    base = b[SIGNED]
    body = base.survivors_body((0, 1, 2, 3, 4))
    for name, message in {
        "survivors without signature": body,
        "survivors under another key": base.wrap(7, body, base.epoch, OTHER),
        "survivors signed by a client": base.wrap(7, body, base.epoch, base.seed(1)),
        "survivors signed for another epoch": base.wrap(7, body, OTHER),
        "survivors signed as an offer": base.wrap(0, body, base.epoch),
    }.items():
        yield name, at(SIGNED, "M6", message, "BadServerSignature")


def _with_raw(fields: list[Any], place: int, raw: bytes) -> bytes:
    """Return an offer of which one field is other bytes."""
    parts = [w.pack(one) for one in fields]
    parts[place] = raw
    return b"\xdc" + len(parts).to_bytes(2, "big") + b"".join(parts)


def refusal_2(b: dict[str, Base]) -> Iterator[Case]:
    """What cannot be read."""
    base = b[PLAIN]
    fields = base.offer_fields()
    keys = list(base.inputs["offer"])
    good = w.pack(fields)

    def offer(**changes: object) -> bytes:
        return w.pack([changes.get(key, one) for key, one in zip(["number", "version", *keys], fields, strict=True)])

    vector = ["x", 4, 32]
    wrong = {
        "another version": offer(version="sa2"),
        "unknown number": offer(number=12),
        "number of a client's message": offer(number=1),
        "number as text": offer(number="0"),
        "unknown mode": offer(mode="covert"),
        "mode as a number": offer(mode=1),
        "a field more": w.pack([*fields, 0]),
        "a field less": w.pack(fields[:-1]),
        "trailing byte": good + b"\0",
        "cut": good[:-1],
        "empty": b"",
        "an opcode that is none": b"\xc1",
        "a map": b"\x80",
        "only a number": w.pack([0]),
        "suite of two bytes": offer(suite=256),
        "nonce of 31 bytes": offer(nonce=bytes(31)),
        "nonce of 33 bytes": offer(nonce=bytes(33)),
        "plan digest of 31 bytes": offer(plan_digest=bytes(31)),
        "nonce as text": offer(nonce="x" * 32),
        "n_min 1": offer(n_min=1),
        "n_max over 2^31": offer(n_max=2**31),
        "n_min over n_max": offer(n_min=6),
        "a float for a count": offer(n_min=2.0),
        "corrupt 1": offer(corrupt=1.0),
        "corrupt below 0": offer(corrupt=-0.5),
        "corrupt not a number": offer(corrupt=float("nan")),
        "dropout 1": offer(dropout=1.0),
        "sigma over 2^31": offer(sigma=2**31),
        "eta over 2^31": offer(eta=2**31),
        "no rounds": offer(rounds=0),
        "rounds over 2^31": offer(rounds=2**31),
        "expiry over 2^62": offer(expiry=2**62 + 1),
        "shares below n_min": offer(shares=1),
        "shares over n_max": offer(shares=6),
        "no vectors": offer(vectors=[]),
        "65 vectors": offer(vectors=[[f"v{i}", 1, 1] for i in range(65)]),
        "two vectors of one name": offer(vectors=[vector, vector]),
        "a vector without name": offer(vectors=[["", 4, 32]]),
        "a name of 65 characters": offer(vectors=[["x" * 65, 4, 32]]),
        "a vector without elements": offer(vectors=[["x", 0, 32]]),
        "2^32 elements": offer(vectors=[["x", 2**32, 1]]),
        "0 bits": offer(vectors=[["x", 4, 0]]),
        "65 bits": offer(vectors=[["x", 4, 65]]),
        "a vector with a field more": offer(vectors=[[*vector, 0]]),
        "vectors of 4 GiB": offer(vectors=[["x", 2**29, 64], ["y", 1, 1]]),
        "a boolean for a count": _with_raw(fields, 5, b"\xc3"),
        "suite below 0": _with_raw(fields, 3, b"\xff"),
        "sigma below 0": _with_raw(fields, 9, b"\xff"),
        "expiry below 0": _with_raw(fields, 12, b"\xff"),
        "a name that is no UTF-8": offer(vectors=[["?", 4, 32]]).replace(b"\xa1?", b"\xa1\xff"),
        "signed, which the mode does not know": base.wrap(0, good, b"", OTHER),
    }
    for name, message in wrong.items():
        yield f"offer: {name}", at(PLAIN, "nothing", message, "UnknownFormat")
    yield "offer: oversize", at(PLAIN, "nothing", good, "UnknownFormat", append_zeros=1 << 16)
    for suite in (0, 3, 255):
        yield f"offer: suite {suite}", at(PLAIN, "nothing", offer(suite=suite), "UnknownSuite")
    signed = b[SIGNED]
    good = signed.wrap(0, signed.offer(), b"")
    certificate = signed.certificate()
    body = signed.offer()
    yield "an envelope in an envelope", at(SIGNED, "nothing", signed.wrap(0, good, b""), "UnknownFormat")
    yield (
        "an offer with a certificate",
        at(SIGNED, "nothing", signed.wrap(0, body, b"", certificate=certificate), "UnknownFormat"),
    )
    yield (
        "a certificate of 513 bytes",
        at(SIGNED, "nothing", signed.wrap(0, body, b"", certificate=bytes(513)), "UnknownFormat"),
    )
    yield "a signature of 63 bytes", at(SIGNED, "nothing", w.message(11, body, b"", bytes(63)), "UnknownFormat")
    yield (
        "roster: keys for another number of rounds",
        at(PLAIN, "M0", base.roster({1: base.m1(1, keys=base.keys(1)[:32])}), "UnknownFormat"),
    )
    yield (
        "roster: commitments for another number of rounds",
        at(PLAIN, "M0", base.roster({1: base.m1(1, commitments=bytes(96))}), "UnknownFormat"),
    )
    other = w.message(6, base.epoch, 1, bytes(200))
    yield "roster: another message for an advertise", at(PLAIN, "M0", base.roster({1: other}), "UnknownFormat")
    yield (
        "roster: an advertise with a signature",
        at(PLAIN, "M0", base.roster({1: base.wrap(1, base.m1(1), base.epoch, OTHER)}), "UnknownFormat"),
    )
    yield (
        "roster: an identity of 129 bytes",
        at(PLAIN, "M0", base.roster({4: base.m1(4, identity=b"z" * 129)}), "UnknownFormat"),
    )
    yield "roster: a path of 31-byte hashes", at(PLAIN, "M0", base.roster({}, path=[bytes(31)] * 3), "UnknownFormat")
    for name, bits in (("beyond the last client", b"\x3f"), ("of two bytes", b"\x1f\0"), ("empty", b"")):
        yield f"delivery: bitmap {name}", at(PLAIN, "M2", base.delivery(present=bits), "UnknownFormat")
        yield f"start: bitmap {name}", at(PLAIN, "M4", base.start(u=bits), "UnknownFormat")
        yield f"survivors: bitmap {name}", at(PLAIN, "M6", w.message(7, base.epoch, 1, bits), "UnknownFormat")
        yield f"quorum: bitmap {name}", at(SIGNED, "M7", signed.quorum((1, 2, 3), bits=bits), "UnknownFormat")
    yield "start: round 0", at(PLAIN, "M4", base.start(r=0), "UnknownFormat")
    yield "start: model digest of 31 bytes", at(PLAIN, "M4", base.start(model=bytes(31)), "UnknownFormat")
    yield "start: deadline over 2^62", at(PLAIN, "M4", base.start(deadline=2**62 + 1), "UnknownFormat")
    yield "survivors: epoch id of 31 bytes", at(PLAIN, "M6", w.message(7, bytes(31), 1, b"\x1f"), "UnknownFormat")
    yield "unreadable in a round", at(PLAIN, "M6", b"\xc1", "UnknownFormat")
    yield "start: deadline below 0", at(PLAIN, "M4", base.start()[:-3] + b"\xff", "UnknownFormat")
    short = base.m1(1, keys=base.keys(1)[:32], commitments=bytes(32))
    yield "roster: keys and commitments for one round less", at(PLAIN, "M0", base.roster({1: short}), "UnknownFormat")
    yield "roster: an empty identity", at(PLAIN, "M0", base.roster({1: base.m1(1, identity=b"")}), "UnknownFormat")
    longer = [[*base.entries()[0], 0], *base.entries()[1:]]
    yield "roster: a neighbour with a field more", at(PLAIN, "M0", base.roster({}, entries=longer), "UnknownFormat")
    invalid = signed.wrap(0, signed.offer(n_min=6), b"")
    yield "signed offer: n_min over n_max", at(SIGNED, "nothing", invalid, "UnknownFormat")
    yield "a signature of 65 bytes", at(SIGNED, "nothing", w.message(11, body, b"", bytes(65)), "UnknownFormat")
    certificates: dict[str, dict[str, Any]] = {
        "that never ends": {"expiry": 2**62 + 1}, "that has ended before it began": {"expiry": 0},
        "with a field more": {"surplus": [0]}, "of another version": {"version": "privfed-certificate-2"},
    }  # fmt: skip
    for told, changes in certificates.items():
        certificate = signed.certificate(2, **changes)
        message = signed.wrap(1, signed.m1(2), signed.epoch, signed.seed(2), certificate=certificate)
        forged = signed.roster({2: message})
        yield f"a certificate {told}", at(SIGNED, "M0", forged, "UnknownFormat", unpinned=[signed.names[2]])
    message = signed.wrap(1, signed.m1(2), signed.epoch, signed.seed(2), certificate=bytes(513))
    yield "roster: a certificate of 513 bytes", at(SIGNED, "M0", signed.roster({2: message}), "UnknownFormat")
    yield from _refusal_2_of_the_server(b)


def _refusal_2_of_the_server(b: dict[str, Base]) -> Iterator[Case]:
    base, signed = b[PLAIN], b[SIGNED]
    sender, body = base.names[0], base.m1(0)
    yield "server: an empty identity", server(PLAIN, "M0", "", base.m1(0, identity=b""), "UnknownFormat")
    short = base.m1(0, keys=base.keys(0)[:32], commitments=bytes(32))
    yield "server: keys and commitments for one round less", server(PLAIN, "M0", sender, short, "UnknownFormat")
    for size in (63, 65):
        told = w.message(8, signed.epoch, 1, bytes(size))
        yield f"server: a signature of {size} bytes", server(SIGNED, "M7", sender, told, "UnknownFormat")
    yield "server: unreadable", server(PLAIN, "M0", sender, b"\xc1", "UnknownFormat")
    yield "server: trailing byte", server(PLAIN, "M0", sender, body + b"\0", "UnknownFormat")
    yield "server: a message of servers", server(PLAIN, "M0", sender, base.offer(), "UnknownFormat")
    yield (
        "server: keys for another number of rounds",
        server(PLAIN, "M0", sender, base.m1(0, keys=base.keys(0)[:32]), "UnknownFormat"),
    )
    yield (
        "server: a signature too many",
        server(PLAIN, "M0", sender, base.wrap(1, body, base.epoch, OTHER), "UnknownFormat"),
    )
    yield "server: masked vectors too short", server(PLAIN, "M5", sender, base.masked(0)[:-1], "UnknownFormat")
    for size in (17, 19):
        short = w.message(6, base.epoch, 1, bytes(size))
        yield f"server: masked vectors of {size} bytes", server(PLAIN, "M5", sender, short, "UnknownFormat")
    dirty = w.message(6, base.epoch, 1, bytes(17) + b"\x80")
    yield "server: padding that is not zero", server(PLAIN, "M5", sender, dirty, "UnknownFormat")
    yield (
        "server: a surplus seed of 33 bytes",
        server(PLAIN, "M7", sender, w.message(10, base.epoch, 1, bytes(144), bytes(33)), "UnknownFormat"),
    )
    yield "server: oversize", server(PLAIN, "M0", sender, body, "UnknownFormat", append_zeros=1 << 14)


def refusal_3(b: dict[str, Base]) -> Iterator[Case]:
    """Weak parameters."""
    base = b[PLAIN]
    for policy in (
        {"n_min": 3}, {"min_corrupt": 0.1}, {"max_dropout": 0.1}, {"min_sigma": 41}, {"modes": ["malicious"]},
        {"plan_digests": [OTHER.hex()]},
    ):  # fmt: skip
        yield f"policy {policy}", at(PLAIN, "nothing", base.offer(), "WeakParameters", policy=policy)
    for field, value in (("k", 3), ("k", 5), ("t", 2), ("t", 4), ("t", 0)):
        yield f"roster with {field}={value}", at(PLAIN, "M0", base.roster({}, **{field: value}), "WeakParameters")
    yield (
        "more colluders than the threshold stands",
        at(PLAIN, "M0", base.roster({}), "WeakParameters", policy={"min_colluders": 3}),
    )
    for name, colluders in ((IDS, 1), (SIGNED, 2)):
        yield (
            f"{b[name].mode}: parameters for fewer colluders",
            at(name, "M0", b[name].roster({}), "WeakParameters", policy={"min_colluders": colluders}),
        )
    yield "no parameters for so few", at(SIGNED, "M0", b[SIGNED].roster({}, n=2, k=1, t=1), "WeakParameters")
    yield "talked out of its credentials", at(SIGNED, "nothing", base.offer(), "WeakParameters")


def refusal_4(b: dict[str, Base]) -> Iterator[Case]:
    """Over a bound."""
    base, signed = b[PLAIN], b[SIGNED]
    bounds: list[dict[str, Any]] = [{"max_rounds": 1}, {"max_vector_bytes": 17}, {"max_lifetime": 999}]
    for policy in bounds:
        yield f"policy {policy}", at(PLAIN, "nothing", base.offer(), "OverBound", policy=policy)
    for policy in ({"require_expiry": True}, bounds[-1]):
        yield f"policy {policy}, no expiry", at(PLAIN, "nothing", base.offer(expiry=0), "OverBound", policy=policy)
    steps = [("nothing", base.offer()), ("M0", base.roster({})), ("M2", base.delivery()), ("M4", base.start()),
             ("M6", base.survivors((0, 1, 2, 3, 4)))]  # fmt: skip
    for after, message in steps:
        yield f"expired, after {after}", at(PLAIN, after, message, "OverBound", now=1001)
    quorum = signed.quorum((1, 2, 3))
    yield "expired, after M7", at(SIGNED, "M7", quorum, "OverBound", now=1001)
    yield "start after its deadline", at(PLAIN, "M4", base.start(), "OverBound", now=501)
    yield "survivors after the deadline", at(PLAIN, "M6", base.survivors((0, 1, 2, 3, 4)), "OverBound", now=501)
    yield "quorum after the deadline", at(SIGNED, "M7", quorum, "OverBound", now=501)
    offer = signed.wrap(0, signed.offer(), b"")
    for expiry in (999, 1):
        yield (
            f"own certificate until {expiry}",
            at(SIGNED, "nothing", offer, "OverBound", credentials=signed.certified(expiry)),
        )
    yield (
        "own certificate for another key",
        at(SIGNED, "nothing", offer, "OverBound", credentials=signed.certified(1000, key=OTHER)),
    )


FIRST: Final = (refusal_1, refusal_2, refusal_3, refusal_4)


def shortened(case: Json, base: Base | None) -> Json:
    """Return a case whose long message is told by how it differs from an honest one of the same epoch."""
    raw = un(case["message"])
    if base is None or len(raw) < 300:
        return case
    shortest: Json = {"message": case["message"]}
    for like, honest in base.honest().items():
        told = {"like": like, "splices": splices(honest, raw)}
        if len(str(told)) < len(str(shortest)):
            shortest = told
    return {key: value for key, value in case.items() if key != "message"} | shortest


def splices(honest: bytes, raw: bytes) -> list[tuple[int, int, str]]:
    """Return (offset in the honest message, bytes taken out there, what stands in their place)."""
    if len(honest) == len(raw):
        runs: list[list[int]] = []
        for place in (at for at in range(len(raw)) if raw[at] != honest[at]):
            if runs and place - runs[-1][1] < 8:
                runs[-1][1] = place + 1
            else:
                runs.append([place, place + 1])
        return [(start, stop - start, raw[start:stop].hex()) for start, stop in runs]
    least = min(len(raw), len(honest))
    head = next((at for at in range(least) if raw[at] != honest[at]), least)
    tail = next((at for at in range(least - head) if raw[-1 - at] != honest[-1 - at]), least - head)
    return [(head, len(honest) - head - tail, raw[head : len(raw) - tail].hex())]


def numbered(makers: Sequence[Any], bases: dict[str, Base]) -> dict[str, Json]:
    """Return one scenario a refusal."""
    made: dict[str, Json] = {}
    for maker in makers:
        number = int(maker.__name__.rpartition("_")[2])
        cases = [
            {"name": name, "refusal": number} | shortened(case, bases[case["base"]]) for name, case in maker(bases)
        ]
        about = f"Refusal {number}: {(maker.__doc__ or '').strip()}"
        made[f"refusal-{number:02}"] = {"kind": "negative", "about": about, "cases": cases}
    return made
