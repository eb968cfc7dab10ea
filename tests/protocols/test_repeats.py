"""Messages that arrive twice, byte for byte: the second is refused, and the client goes on as if it had not come."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from privfed_protocols import Client, ClientState, PeerProtocolError
from privfed_protocols.labels import SAVED_CLIENT
from privfed_protocols.messages import Start
from privfed_protocols.primitives import digest
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace


class Repeating(Network):
    """Delivers to clients every message three times, and once more after the vector was handed in."""

    def tell(self, identity: bytes, message: bytes) -> bytes | None:
        reply = super().tell(identity, message)
        self.last = {**getattr(self, "last", {}), identity: message}
        self.repeat(identity)
        return reply

    def submit(self, identity: bytes, vectors: object) -> bytes:
        message = super().submit(identity, vectors)  # type: ignore[arg-type]
        self.repeat(identity)
        return message

    def repeat(self, identity: bytes) -> None:
        """Nothing of the client changes, in any state."""
        for _ in range(2):
            before = self.clients[identity].save()
            with pytest.raises(PeerProtocolError):
                self.clients[identity].receive(self.last[identity], now=0)
            assert self.clients[identity].save() == before


@pytest.mark.parametrize("mode", ["semi-honest", "malicious"])
@pytest.mark.parametrize("restart", [False, True])
def test_an_epoch_over_a_transport_that_repeats_everything(mode: str, restart: bool) -> None:
    net = Repeating.make(4, mode=mode, dropout=0.2, rounds=2, restart_always=restart)  # type: ignore[arg-type]
    net.set_up()
    for number in range(2):
        vectors = net.vectors(number)
        result = net.round(vectors)
        assert set(result.survivors) == set(net.clients)
        assert_exact(result, vectors, net.offer.vectors)


def test_only_the_last_message_byte_for_byte_is_a_repeat() -> None:
    name = identities(1)[0]
    net = Network.make(4, rounds=3).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[name]
    net.tell(name, start)
    other = replace(start, Start, deadline=7)
    client = net.clients[name]
    with pytest.raises(PeerProtocolError):
        client.receive(start, now=0)
    assert client.state is ClientState.STARTED
    with pytest.raises(PeerProtocolError):
        client.receive(other + b"\0", now=0)
    assert client.state is ClientState.READY
    assert client._accepted == hashlib.sha256(start).digest()


def test_a_state_saved_before_repeats_were_known_is_restored() -> None:
    net = Network.make(4).set_up()
    data = net.clients[identities(1)[0]].save()
    body = msgspec.msgpack.decode(data[32:])
    assert body[-1]
    older = msgspec.msgpack.encode(body[:-1])
    client = Client.restore(digest(SAVED_CLIENT, older) + older)
    assert client.state is ClientState.READY
    assert client._accepted == b""
