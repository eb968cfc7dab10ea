"""Both parsers and all behind them, on mutated messages: only ProtocolError comes out, in bounded time and memory."""

from __future__ import annotations

import copy
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from unittest import mock

import msgspec
import numpy as np
import pytest

from privfed_protocols import Client, ProtocolError, Server
from privfed_protocols.messages import decode_from_client, decode_from_server
from privfed_protocols.uncopied import Uncopied
from tests.protocols.harness import MODEL, PLAN, Network, identities, random_vectors

A = identities(1)[0]
INTERESTING = bytes(
    [0x00, 0x01, 0x7F, 0x80, 0x90, 0x9F, 0xA0, 0xC0, 0xC1, 0xC4, 0xC6, 0xCB, 0xCF, 0xDB, 0xDD, 0xDF, 0xFF]
)


def flipped(message: bytes, rng: np.random.Generator) -> bytes:
    """Flips, interesting bytes, cuts, insertions, repetitions; mostly near the head, where the structure is."""
    raw = bytearray(message)
    for _ in range(int(rng.integers(1, 4))):
        head = max(1, min(len(raw), 48 if rng.random() < 0.6 else len(raw)))
        place = int(rng.integers(0, head))
        kind = int(rng.integers(0, 6))
        if kind == 0 and raw:
            raw[place % len(raw)] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and raw:
            raw[place % len(raw)] = INTERESTING[int(rng.integers(0, len(INTERESTING)))]
        elif kind == 2:
            del raw[place:]
        elif kind == 3:
            raw[place:place] = rng.bytes(int(rng.integers(1, 9)))
        elif kind == 4:
            raw[place:place] = raw[place : place + int(rng.integers(1, 40))]
        else:
            del raw[place : place + int(rng.integers(1, 9))]
    return bytes(raw)


def altered(value: object, rng: np.random.Generator) -> object:
    """Another value of the same kind, mostly: gets past the parser, to the checks behind it."""
    match value:
        case bool() | None:
            return 1
        case int():
            return [0, 1, min(value + 1, 2**64 - 1), max(value - 1, 0), 2**31 - 1, 2**32, -1, 2**64 - 1][
                int(rng.integers(8))
            ]
        case float():
            return [0.0, 0.5, 0.999, 1.0, -1.0, float("nan"), float("inf")][int(rng.integers(0, 7))]
        case str():
            return value[:-1] if rng.random() < 0.5 else value + "\u00e9"
        case bytes() if value and rng.random() < 0.6:
            raw = bytearray(value)
            raw[int(rng.integers(0, len(raw)))] ^= 1 << int(rng.integers(0, 8))
            return bytes(raw)
        case bytes():
            return flipped(value, rng)
        case list() if value:
            place = int(rng.integers(0, len(value)))
            other = int(rng.integers(0, len(value)))
            kind = int(rng.integers(0, 8))
            if kind == 0:
                return value[:place] + value[place + 1 :]
            if kind == 1:
                return [*value[:place], value[other], *value[place:]]
            if kind == 2:
                return [*value[:place], value[other], *value[place + 1 :]]
            return [*value[:place], altered(value[place], rng), *value[place + 1 :]]
        case _:
            return b""


def mutations(message: bytes, rng: np.random.Generator, count: int) -> Iterator[bytes]:
    """Half of them in the bytes, half in the fields."""
    fields = msgspec.msgpack.decode(message)
    for _ in range(count):
        if rng.random() < 0.5:
            yield flipped(message, rng)
            continue
        changed = fields
        for _ in range(int(rng.integers(1, 3))):
            changed = altered(changed, rng)
        yield msgspec.msgpack.encode(changed)


class Stage:
    """A receiver just before a message, and that message."""

    def __init__(self, name: str, fresh: Callable[[], Client | Server], message: bytes) -> None:
        self.name = name
        self.message = message
        self.fresh = fresh

    def feed(self, message: bytes) -> bool:
        """Give the message to a fresh receiver; whether it was accepted."""
        receiver = self.fresh()
        try:
            if isinstance(receiver, Client):
                receiver.receive(message, now=0)
            else:
                receiver.receive(A, message)
        except ProtocolError:
            return False
        return True


def at_client(name: str, client: Client, message: bytes) -> Stage:
    data = client.save()
    return Stage(name, lambda: Client.restore(data), message)


def at_server(name: str, server: Server, message: bytes) -> Stage:
    frozen = duplicate(server)
    return Stage(name, lambda: duplicate(frozen), message)


def duplicate(server: Server) -> Server:
    """A copy in spite of the refusal, so that each mutation meets the same server."""
    with mock.patch.object(Uncopied, "__reduce_ex__", object.__reduce_ex__):
        return copy.deepcopy(server, {id(server._lock): threading.Lock()})  # locks are not copied


def stages() -> list[Stage]:
    """One per message of the protocol."""
    net = Network.make(3, rounds=2)
    found = [at_client("M0", net.clients[A], net.server.offer)]
    replies = {identity: net.tell(identity, net.server.offer) or b"" for identity in net.clients}
    found.append(at_server("M1", net.server, replies[A]))
    for identity, reply in replies.items():
        net.send(identity, reply)
    mail = net.server.close_advertise()
    found.append(at_client("M2", net.clients[A], mail[A]))
    replies = {identity: net.tell(identity, message) or b"" for identity, message in mail.items()}
    found.append(at_server("M3", net.server, replies[A]))
    for identity, reply in replies.items():
        net.send(identity, reply)
    mail = net.server.close_shares()
    found.append(at_client("M4", net.clients[A], mail[A]))
    for identity, message in mail.items():
        net.tell(identity, message)
    mail = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    found.append(at_client("M5", net.clients[A], mail[A]))
    rng = np.random.default_rng(0)
    for identity, message in mail.items():
        net.tell(identity, message)
        replies[identity] = net.submit(identity, random_vectors(net.offer.vectors, rng))
    found.append(at_server("M6", net.server, replies[A]))
    for identity, reply in replies.items():
        net.send(identity, reply)
    mail = net.server.close_inputs()
    found.append(at_client("M7", net.clients[A], mail[A]))
    replies = {identity: net.tell(identity, message) or b"" for identity, message in mail.items()}
    found.append(at_server("M10", net.server, replies[A]))
    return found


STAGES = stages()


def fuzz(stage: Stage, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    assert stage.feed(stage.message), "the honest message must pass, or the fuzzing starts behind a closed door"
    started = time.process_time()
    for message in mutations(stage.message, rng, count):
        stage.feed(message)
    assert time.process_time() - started < 0.02 * count


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_mutated_messages(stage: Stage) -> None:
    fuzz(stage, 1500, 0)


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_mutated_messages_for_long(stage: Stage) -> None:
    fuzz(stage, 20_000, 1)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_no_mutation_costs_memory(stage: Stage) -> None:
    decode = decode_from_server if stage.name in {"M0", "M2", "M4", "M5", "M7"} else decode_from_client
    rng = np.random.default_rng(2)
    tracemalloc.start()
    for message in mutations(stage.message, rng, 500):
        try:
            decode(message, limit=1 << 20)
        except ProtocolError:
            continue
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_cut_and_every_message_of_another_step(stage: Stage) -> None:
    for size in range(min(len(stage.message), 400)):
        assert not stage.feed(stage.message[:size])
    for other in STAGES:
        if other is not stage:
            assert not stage.feed(other.message)
