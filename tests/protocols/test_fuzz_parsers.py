"""Every parser on mutated and hostile bytes: named errors only, nothing read as what it is not, memory in bounds.

The honest messages are those of the test vectors. What happens behind the parsers is in `test_fuzz.py`, and here for
messages that are signed. No test looks at a clock: one that takes too long runs into the limit of every test.
"""

from __future__ import annotations

import random
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
import pytest

from privfed_protocols import Client, CorruptState, ProtocolError, bitmap, packing
from privfed_protocols.identities import read_certificate, verify
from privfed_protocols.messages import Message, Quorum, decode_from_client, decode_from_server, decode_offer
from privfed_protocols.saved import unpack as unpack_saved
from privfed_protocols.signed import read_from_client, read_from_server, statement
from tests.protocols.replay_library import LibraryEpoch
from tests.protocols.replay_refusals import inputs_of, saved_states
from tests.protocols.vector_files import load

LIMIT: Final = 1 << 20
EPOCHS = ("epoch-base-semi-honest", "epoch-base-malicious")
HEADERS: Final = tuple(
    bytes.fromhex(one)
    for one in (
        "c0", "c1", "c2", "c3", "c4ff", "c5ffff", "c6ffffffff", "c6000fffff", "c7ff", "c9ffffffff", "ca", "cb", "cc",
        "cd", "ce", "cf", "d0", "d3", "d4", "d8", "d9ff", "daffff", "dbffffffff", "dcffff", "ddffffffff", "deffff",
        "dfffffffff", "80", "8f", "90", "9f", "a0", "bf", "00", "7f", "e0", "ff",
    )
)  # fmt: skip
Parser = Callable[[bytes], Any]


def honest() -> dict[str, list[bytes]]:
    """Messages by their way, and what else is parsed."""
    found: dict[str, list[bytes]] = {"server": [], "client": [], "other": []}
    for base in EPOCHS:
        told = load(base)["cases"][0]["outputs"]
        first, here = min(told["m1"]), told["rounds"][0]
        found["server"] += [bytes.fromhex(one) for one in (told["m0"], told["m2"][first], told["m4"][first])]
        found["server"] += [bytes.fromhex(here[key]) for key in ("m5", "m7", "m9") if here[key]]
        found["client"] += [bytes.fromhex(told["m1"][first]), bytes.fromhex(told["m3"][first])]
        found["client"] += [bytes.fromhex(here[key][first]) for key in ("m6", "m8", "m10") if here[key]]
    (certificate,) = [one for one in load("signatures")["cases"] if one["function"] == "certificate"]
    found["other"] = [bytes.fromhex(certificate["outputs"]["certificate"]), *saved_states(EPOCHS[1]).values()]
    return found


HONEST: Final = honest()
PARSERS: Final[dict[str, Parser]] = {
    "from a server": lambda data: decode_from_server(data, limit=LIMIT),
    "from a client": lambda data: decode_from_client(data, limit=LIMIT),
    "from a server, signed or not": lambda data: read_from_server(data, limit=LIMIT),
    "from a client, signed or not": lambda data: read_from_client(data, limit=LIMIT),
    "offer": decode_offer,
    "certificate": read_certificate,
    "saved client": unpack_saved,
    "bitmap": lambda data: bitmap.unpack(data, 13),
    "packed vector": lambda data: packing.unpack(data, length=len(data) * 8 // 13, bits=13),
}


def mutated(data: bytes, source: random.Random, others: list[bytes]) -> bytes:
    """Flips, headers, cuts, insertions, repetitions, joints; mostly near the head, where the structure is."""
    raw = bytearray(data)
    for _ in range(1 + int(source.random() * 3)):
        if not raw:
            break
        place = int(source.random() * (min(len(raw), 48) if source.random() < 0.6 else len(raw)))
        kind = int(source.random() * 7)
        if kind < 2:
            raw[place] ^= 1 << int(source.random() * 8)
        elif kind == 2:
            header = HEADERS[int(source.random() * len(HEADERS))]
            raw[place : place + len(header)] = header
        elif kind == 3:
            del raw[place:]
        elif kind == 4:
            raw[place:place] = raw[place : place + 1 + int(source.random() * 40)]
        elif kind == 5:
            del raw[place : place + 1 + int(source.random() * 8)]
        else:
            other = others[int(source.random() * len(others))]
            raw[place:] = other[place:]
    return bytes(raw)


def readings(count: int, seed: int) -> Iterator[tuple[str, bytes, bytes]]:
    """(parser, honest bytes, mutated bytes): every parser its share, on messages for it and on others."""
    source, everything = random.Random(seed), [one for rows in HONEST.values() for one in rows]
    names = list(PARSERS)
    for number in range(count):
        name = names[number % len(names)]
        way = "client" if "client" in name and "saved" not in name else "server"
        rows = HONEST["other"] if name in ("certificate", "saved client") else HONEST[way]
        rows = everything if source.random() < 0.1 else rows
        message = rows[int(source.random() * len(rows))]
        yield name, message, mutated(message, source, everything)


def encoded(value: object) -> bytes:
    return msgspec.msgpack.encode(value)


def same_when_read_again(name: str, found: Any, data: bytes) -> bool:
    """Whether what was read is a message: written in its one form, it reads the same."""
    if name == "saved client":
        return data in HONEST["other"]  # the checksum has to refuse all else
    if name == "bitmap":
        return bitmap.pack(found, 13) == data
    if name == "packed vector":
        return packing.pack(found, 13) == data
    message = found[0] if isinstance(found, tuple) else found
    again = encoded(message)
    return encoded(PARSERS[name.removesuffix(", signed or not")](again)) == again


def fuzz(count: int, seed: int) -> Counter[str]:
    """Read mutated messages; how many were refused and how many are messages still."""
    tally: Counter[str] = Counter()
    for name, message, data in readings(count, seed):
        try:
            found = PARSERS[name](data)
        except ProtocolError as error:
            tally[f"{name}: {type(error).__name__}"] += 1
            continue
        if data != message:
            tally[f"{name}: read"] += 1
            assert same_when_read_again(name, found, data), (name, data.hex())
    return tally


def test_mutations_of_what_is_parsed() -> None:
    tally = fuzz(27_000, 0)
    assert sum(tally.values()) > 25_000
    refused = {name for name in PARSERS if any(key.startswith(name) and "read" not in key for key in tally)}
    assert refused == set(PARSERS)


@pytest.mark.slow
def test_a_million_mutations_of_what_is_parsed() -> None:
    tally = fuzz(1_000_000, 1)
    assert sum(tally.values()) > 950_000


def test_the_honest_messages_are_read() -> None:
    """Or the fuzzing would start behind a closed door."""
    for way, name in (("server", "from a server, signed or not"), ("client", "from a client, signed or not")):
        for message in HONEST[way]:
            assert PARSERS[name](message)
    assert read_certificate(HONEST["other"][0])
    for saved in HONEST["other"][1:]:
        assert unpack_saved(saved)


# --- hostile lengths


def hostile() -> Iterator[tuple[str, bytes]]:
    """Each honest message with each header of the largest length at each of its first places, and nests of arrays."""
    for way, names in (("server", ("from a server", "from a server, signed or not")),
                       ("client", ("from a client", "from a client, signed or not")),
                       ("other", ("certificate",))):  # fmt: skip
        for message in HONEST[way][:8]:
            for place in range(min(len(message), 100)):
                for header in HEADERS:
                    if len(header) > 1:
                        yield names[place % len(names)], message[:place] + header + message[place:]
        for name in names:
            yield name, b"\x91" * 100_000
            yield name, b"\xdd\x00\x0f\xff\xff" + b"\x00" * 200_000
            yield name, b"\xdd\xff\xff\xff\xff" * 1000


def test_hostile_lengths_cost_no_memory() -> None:
    """What is allocated is bounded by what arrived, not by what it says of itself."""
    cases = list(hostile())
    for name, data in cases[:50]:
        with_errors(PARSERS[name], data)
    tracemalloc.start()
    try:
        for name, data in cases:
            before = tracemalloc.get_traced_memory()[0]
            tracemalloc.reset_peak()
            with_errors(PARSERS[name], data)
            assert tracemalloc.get_traced_memory()[1] - before < 64 * 1024 + 24 * len(data), (name, data[:40].hex())
    finally:
        tracemalloc.stop()
    assert len(cases) > 10_000


def with_errors(parser: Parser, data: bytes) -> None:
    try:
        parser(data)
    except ProtocolError:
        return


def test_a_limit_is_kept_before_anything_is_read() -> None:
    for parser in (decode_from_server, decode_from_client, read_from_server, read_from_client):
        for message in HONEST["server"] + HONEST["client"]:
            with pytest.raises(ProtocolError, match="at most"):
                parser(message, limit=len(message) - 1)


# --- signatures behind the parsers


def signed_messages() -> list[tuple[str, bytes, bytes, bytes]]:
    """(way, message, key, epoch) of everything that is signed in malicious mode."""
    epoch = LibraryEpoch(inputs_of(EPOCHS[1]))
    told = epoch.run()
    first, here, bound = min(told["m1"]), told["rounds"][0], bytes.fromhex(told["epoch_id"])
    assert epoch.server_signer is not None
    own = epoch.signers[bytes.fromhex(first)].public_key
    found = [
        ("server", told["m0"], epoch.server_signer.public_key, b""),
        ("server", here["m7"], epoch.server_signer.public_key, bound),
        ("client", told["m1"][first], own, bound),
        ("client", here["m6"][first], own, bound),
    ]
    return [(way, bytes.fromhex(message), key, bound) for way, message, key, bound in found]


@pytest.mark.parametrize("count", [4000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_no_mutation_of_a_signed_message_verifies_as_another(count: int) -> None:
    """What verifies has the body and the signature that were signed; only the envelope's form may be a longer one."""
    source, others = random.Random(3), HONEST["server"] + HONEST["client"]
    read, same = 0, 0
    for way, message, key, epoch in signed_messages():
        reader = read_from_server if way == "server" else read_from_client
        original, proof = reader(message, limit=LIMIT)
        assert proof is not None
        assert verify(key, proof.signature, statement(type(original), proof.fingerprint, epoch=epoch, suite=1))
        for _ in range(count // 4):
            data = mutated(message, source, others)
            try:
                found, told = reader(data, limit=LIMIT)
            except ProtocolError:
                continue
            if told is None or type(found) is not type(original):
                continue  # without its signature, or another message: the mode refuses it
            read += 1
            if verify(key, told.signature, statement(type(found), told.fingerprint, epoch=epoch, suite=1)):
                same += 1
                assert (encoded(found), told.fingerprint, told.signature) == (
                    encoded(original), proof.fingerprint, proof.signature,
                )  # fmt: skip
    assert read > count // 20
    assert same > 0


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.slow)])
def test_a_client_in_malicious_mode_takes_nothing_but_what_was_sent(count: int) -> None:
    """Roster, survivors and quorum: what it accepts says the same as the honest message."""
    inputs = inputs_of(EPOCHS[1])
    epoch = LibraryEpoch(inputs)
    told, states = epoch.run(), saved_states(EPOCHS[1])
    name = min(epoch.clients)
    here = told["rounds"][0]
    source, others = random.Random(4), HONEST["server"]
    stages = {"M1": told["m2"][name.hex()], "M6": here["m7"], "M8": here["m9"], "M3": told["m4"][name.hex()]}
    for state, text in stages.items():
        message, accepted = bytes.fromhex(text), 0
        original, _ = read_from_server(message, limit=LIMIT)
        for _ in range(count):
            data = mutated(message, source, others)
            client = Client.restore(states[state], credentials=epoch.credentials(name))
            try:
                client.receive(data, now=0)
            except ProtocolError:
                continue
            accepted += 1
            found, _ = read_from_server(data, limit=LIMIT)
            assert without_own(found) == without_own(original)
        assert accepted < count


def without_own(message: Message) -> bytes:
    """A message as bytes; of a quorum without the receiver's own signature, which counts for nothing."""
    if isinstance(message, Quorum):
        return encoded(msgspec.structs.replace(message, signatures=memoryview(message.signatures)[64:]))
    return encoded(message)


def test_a_saved_client_that_was_altered_anywhere_is_not_restored() -> None:
    saved = saved_states(EPOCHS[1])["vectors"]
    for place in range(len(saved)):
        altered = bytearray(saved)
        altered[place] ^= 1
        with pytest.raises(CorruptState):
            unpack_saved(bytes(altered))
