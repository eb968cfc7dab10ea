"""The codec accepts exactly the messages of the protocol: every field needed, typed and bounded, nothing after it."""

from __future__ import annotations

import time
import tracemalloc

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols import LocalProtocolError, Offer, PeerProtocolError, UnknownFormat, VectorSpec, bitmap
from privfed_protocols.errors import InfeasibleParameters
from privfed_protocols.masked_writer import MaskedWriter
from privfed_protocols.messages import (
    OFFER_LIMIT,
    Advertise,
    Consistency,
    Delivery,
    Masked,
    Message,
    Neighbour,
    Quorum,
    Roster,
    Shares,
    Start,
    Survivors,
    Unmask,
    decode_advertise,
    decode_from_client,
    decode_from_server,
    decode_offer,
    encode,
    roster_limit,
)
from privfed_protocols.parameters import select_parameters
from tests.protocols.harness import PLAN

D = bytes(range(32))
OFFER = Offer.new(vectors=[VectorSpec("x", 4, 32)], n_min=2, n_max=9, rounds=2, plan_digest=PLAN, nonce=D)
ADVERTISE = Advertise("sa1", D, b"me", D, D * 2, D * 2)
FROM_SERVER: list[Message] = [
    OFFER,
    Roster("sa1", D, 2, 1, 1, D, 0, (D,), (Neighbour(1, encode(ADVERTISE), (D,)),)),
    Delivery("sa1", D, b"\x03", memoryview(b"ciphertexts")),
    Start("sa1", D, 1, b"\x03", D, D, 0),
    Survivors("sa1", D, 1, b"\x03"),
    Quorum("sa1", D, 1, b"\x03", memoryview(b"signatures")),
]
FROM_CLIENT: list[Message] = [
    ADVERTISE,
    Shares("sa1", D, D, memoryview(b"ciphertexts")),
    Masked("sa1", D, 1, memoryview(b"masked")),
    Consistency("sa1", D, 1, bytes(64)),
    Unmask("sa1", D, 1, memoryview(b"shares"), b""),
]
BOTH = [(message, decode_from_server) for message in FROM_SERVER] + [
    (message, decode_from_client) for message in FROM_CLIENT
]
LIMIT = 1 << 16


@pytest.mark.parametrize(("message", "decode"), BOTH, ids=lambda value: type(value).__name__)
class TestEveryMessage:
    def test_survives(self, message: Message, decode) -> None:
        assert decode(encode(message), limit=LIMIT) == message

    def test_is_refused_by_the_wrong_side(self, message: Message, decode) -> None:
        other = decode_from_client if decode is decode_from_server else decode_from_server
        with pytest.raises(UnknownFormat):
            other(encode(message), limit=LIMIT)

    def test_is_refused_when_longer_shorter_or_oversize(self, message: Message, decode) -> None:
        raw = encode(message)
        for altered in (raw + b"\x00", raw + raw, raw[:-1], raw[:1], b""):
            with pytest.raises(UnknownFormat):
                decode(altered, limit=LIMIT)
        assert decode(raw, limit=len(raw)) == message
        with pytest.raises(UnknownFormat, match="at most"):
            decode(raw, limit=len(raw) - 1)

    def test_is_refused_with_another_version_or_type(self, message: Message, decode) -> None:
        fields = msgspec.msgpack.decode(encode(message))
        for tag, version in ((fields[0], "sa2"), (fields[0], 1), (12, "sa1"), (99, "sa1"), ("0", "sa1"), (None, "sa1")):
            with pytest.raises(UnknownFormat):
                decode(msgspec.msgpack.encode([tag, version, *fields[2:]]), limit=LIMIT)

    def test_is_refused_with_a_field_more_or_less(self, message: Message, decode) -> None:
        fields = msgspec.msgpack.decode(encode(message))
        for altered in ([*fields, None], [*fields, 0], fields[:-1], fields[:2], []):
            with pytest.raises(UnknownFormat):
                decode(msgspec.msgpack.encode(altered), limit=LIMIT)

    def test_is_refused_with_a_field_of_another_type(self, message: Message, decode) -> None:
        """Also what a lenient decoder takes for a number: booleans, whole floats, digits in a string."""
        fields = msgspec.msgpack.decode(encode(message))
        for place in range(1, len(fields)):
            strangers: list[object] = [None, True, {}, "1"]
            if isinstance(fields[place], int):
                strangers += [-1, 2**63, b"1", 1.5, float(fields[place])]
            if isinstance(fields[place], bytes):
                strangers += [1, [], fields[place].hex()]
            for stranger in strangers:
                altered = [*fields[:place], stranger, *fields[place + 1 :]]
                with pytest.raises(UnknownFormat):
                    decode(msgspec.msgpack.encode(altered), limit=LIMIT)

    def test_digests_have_32_bytes(self, message: Message, decode) -> None:
        fields = msgspec.msgpack.decode(encode(message))
        for place, value in enumerate(fields):
            if value == D:
                for size in (0, 31, 33):
                    altered = [*fields[:place], bytes(size), *fields[place + 1 :]]
                    with pytest.raises(UnknownFormat):
                        decode(msgspec.msgpack.encode(altered), limit=LIMIT)

    def test_shows_its_kind_only(self, message: Message, decode) -> None:
        assert repr(message) == f"<{type(message).__name__}>"

    def test_hostile_lengths_cost_no_memory_and_no_time(self, message: Message, decode) -> None:
        """Headers that promise 4 GiB, in place of every field."""
        fields = msgspec.msgpack.decode(encode(message))
        tracemalloc.start()
        started = time.process_time()
        for place in range(len(fields)):
            head = b"".join(msgspec.msgpack.encode(field) for field in fields[:place])
            for promise in (
                b"\xc6\xff\xff\xff\xff",
                b"\xdb\xff\xff\xff\xff",
                b"\xdd\xff\xff\xff\xff",
                b"\xdf\xff\xff\xff\xff",
            ):
                for tail in (b"", b"\x00" * 100, b"\x91" * 5000, b"\xdd\xff\xff\xff\xff" * 200):
                    with pytest.raises(UnknownFormat):
                        decode(bytes([0x90 + len(fields)]) + head + promise + tail, limit=LIMIT)
        assert time.process_time() - started < 5
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
        tracemalloc.stop()


def test_nested_hostile_lengths_cost_no_memory() -> None:
    """Arrays inside messages: the roster's neighbours and path, the offer's vectors."""
    tracemalloc.start()
    for message, place in ((FROM_SERVER[1], 8), (FROM_SERVER[1], 9), (OFFER, 13)):
        fields = msgspec.msgpack.decode(encode(message))
        raw = [msgspec.msgpack.encode(field) for field in fields]
        for content in (b"", b"\x90" * 1000, b"\xc4\x00" * 1000, b"\x93\xa1x\x01\x08" * 200):
            raw[place] = b"\xdd\xff\xff\xff\xff" + content
            with pytest.raises(UnknownFormat):
                decode_from_server(bytes([0x90 + len(fields)]) + b"".join(raw), limit=LIMIT)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_deep_nesting_is_refused() -> None:
    for opening in (b"\x91", b"\x81"):
        with pytest.raises(UnknownFormat):
            decode_from_server(opening * (LIMIT - 1), limit=LIMIT)


def test_payloads_are_views_not_copies() -> None:
    raw = encode(Masked("sa1", D, 1, memoryview(bytes(1000))))
    decoded = decode_from_client(raw, limit=LIMIT)
    assert isinstance(decoded, Masked)
    assert isinstance(decoded.payload, memoryview)
    assert decoded.payload.obj is raw


@pytest.mark.parametrize("bits", [8, 64])
@pytest.mark.parametrize("length", [1, 31, 32, 255, 256, 257, 8191, 8192, 65535, 65536, 70000])
def test_a_masked_message_written_in_place_is_the_encoded_one(bits: int, length: int) -> None:
    spec = VectorSpec("x", length, bits)  # type: ignore[arg-type]
    writer = MaskedWriter(epoch=D, round=300, payload_bytes=spec.nbytes)
    values = np.frombuffer(np.random.default_rng(length).bytes(spec.nbytes), spec.dtype)
    writer.array(spec, offset=0)[:] = values
    assert writer.finish() == encode(Masked("sa1", D, 300, memoryview(values.tobytes())))


@pytest.mark.parametrize(
    "changes",
    [
        {"n_min": 1},
        {"n_min": 10},
        {"rounds": 0},
        {"corrupt": 1.0},
        {"corrupt": -0.1},
        {"corrupt": float("nan")},
        {"dropout": float("inf")},
        {"expiry": -1},
        {"dropout": float("nan")},
        {"plan_digest": b"short"},
        {"nonce": b"short"},
        {"vectors": []},
        {"vectors": [VectorSpec("x", 1, 8), VectorSpec("x", 2, 8)]},
        {"vectors": [VectorSpec(f"x{number}", 1, 8) for number in range(65)]},
        {"vectors": [VectorSpec("", 1, 8)]},
        {"vectors": [VectorSpec("x" * 65, 1, 8)]},
        {"vectors": [VectorSpec("x", 0, 8)]},
        {"vectors": [VectorSpec("x", 1, 65)]},  # type: ignore[arg-type]
        {"vectors": [VectorSpec("x", 2**31, 64)]},
    ],
)
def test_offers_out_of_range_are_refused_by_both_ends(changes: dict[str, object]) -> None:
    arguments: dict[str, object] = {
        "vectors": [VectorSpec("x", 4, 32)],
        "n_min": 2,
        "n_max": 9,
        "rounds": 2,
        "plan_digest": PLAN,
    }
    with pytest.raises(LocalProtocolError):
        Offer.new(**(arguments | changes))  # type: ignore[arg-type]
    changes = {name: tuple(value) if name == "vectors" else value for name, value in changes.items()}
    with pytest.raises(UnknownFormat):
        decode_offer(encode(msgspec.structs.replace(OFFER, **changes)))


@pytest.mark.parametrize("changes", [{"expiry": 2**70}, {"plan_digest": object()}, {"n_max": 2.5}, {"rounds": True}])
def test_offers_of_strange_things_are_the_callers_mistake(changes: dict[str, object]) -> None:
    arguments: dict[str, object] = {"vectors": [VectorSpec("x", 4, 32)], "n_min": 2, "n_max": 9, "rounds": 2}
    with pytest.raises(LocalProtocolError, match="not valid"):
        Offer.new(**(arguments | {"plan_digest": PLAN} | changes))  # type: ignore[arg-type]


def test_offers_that_no_number_of_clients_can_meet() -> None:
    with pytest.raises(InfeasibleParameters, match="the nearest that work"):
        Offer.new(
            vectors=[VectorSpec("x", 1, 8)], n_min=2, n_max=9, rounds=1, plan_digest=PLAN, corrupt=0.6, dropout=0.6
        )
    with pytest.raises(InfeasibleParameters):
        Offer.new(
            vectors=[VectorSpec("x", 1, 8)], n_min=40, n_max=500, rounds=1, plan_digest=PLAN, corrupt=0.5, dropout=0.6
        )


def test_oversize_offers_are_refused_unread() -> None:
    with pytest.raises(UnknownFormat, match="at most"):
        decode_offer(bytes(OFFER_LIMIT + 1))


@pytest.mark.parametrize("n_max", [3, 300, 16_385, 16_386, 1_000_000])
def test_a_roster_is_read_up_to_the_largest_number_of_neighbours(n_max: int) -> None:
    """A million clients do not make a roster of a million: no parameters give a client more than 2^14 neighbours."""
    offer = Offer.new(vectors=[VectorSpec("x", 1, 8)], n_min=3, n_max=n_max, rounds=2, plan_digest=PLAN)
    one = 64 * 2 + 512 + 2 * 512 + 34 * (n_max - 1).bit_length()
    assert roster_limit(offer) == min(n_max, 16_385) * one + 512
    largest = select_parameters(n_max, corrupt=0.3, dropout=0.3)
    assert largest.k <= min(n_max - 1, 16_384)


@pytest.mark.parametrize("sizes", [(64, 32), (32, 64), (96, 96), (63, 64), (64, 65)])
def test_an_advertise_holds_keys_for_exactly_its_rounds(sizes: tuple[int, int]) -> None:
    altered = msgspec.structs.replace(ADVERTISE, round_keys=bytes(sizes[0]), commitments=bytes(sizes[1]))
    with pytest.raises(UnknownFormat, match="2 rounds"):
        decode_advertise(encode(altered), rounds=2)


@given(st.integers(1, 70), st.data())
def test_bitmaps(n: int, data: st.DataObject) -> None:
    members = data.draw(st.sets(st.integers(0, n - 1)))
    packed = bitmap.pack(members, n)
    assert bitmap.unpack(packed, n) == tuple(sorted(members))
    for index in range(n):
        assert bool(packed[index // 8] >> (index % 8) & 1) == (index in members)
    for wrong in (packed + b"\x00", packed[:-1]):
        with pytest.raises(UnknownFormat):
            bitmap.unpack(wrong, n)
    for beyond in range(n, 8 * len(packed)):
        with pytest.raises(UnknownFormat):
            bitmap.unpack(packed[:-1] + bytes([packed[-1] | 1 << (beyond % 8)]), n)


@given(st.binary(max_size=300))
def test_noise_is_refused(noise: bytes) -> None:
    for decode in (decode_from_server, decode_from_client):
        with pytest.raises(PeerProtocolError):
            decode(noise, limit=LIMIT)
