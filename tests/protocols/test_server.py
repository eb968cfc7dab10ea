"""The server against clients that are late, doubled, garbled or strange: refused, noted, and no sum changed."""

from __future__ import annotations

import msgspec
import pytest

from privfed_protocols import (
    BadNeighbour,
    BadShareMessage,
    Client,
    DuplicateMessage,
    ExcludedSender,
    LateMessage,
    LowOrderPoint,
    PeerProtocolError,
    RosterSize,
    RoundFailed,
    Server,
    ServerState,
    SlotState,
    UnexpectedMessage,
    UnknownFormat,
    UnknownSender,
    WrongRound,
)
from privfed_protocols.messages import Advertise, Masked, Shares, Unmask
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace, seeded

A, B, C, D, E = identities(5)


def refused(net: Network, sender: bytes, message: bytes | None, error: type[PeerProtocolError]) -> None:
    """Refused with exactly this class, and nothing but the slot of the sender may have changed."""
    assert message is not None
    others = {identity: slot for identity, slot in net.server.slots.items() if identity != sender}
    state, number = net.server.state, net.server.round
    with pytest.raises(error) as caught:
        net.server.receive(sender, message)
    assert type(caught.value) is error
    assert {identity: slot for identity, slot in net.server.slots.items() if identity != sender} == others
    assert (net.server.state, net.server.round) == (state, number)


def slot(net: Network, identity: bytes) -> SlotState:
    return net.server.slots[identity].state


class TestSetUp:
    @pytest.fixture
    def net(self) -> Network:
        return Network.make(5, dropout=0.4)

    def test_pending_knows_who_is_invited(self) -> None:
        offer = Network.make(3).offer
        server = Server(offer, invited=[A, B, C])
        clients = {identity: Client(identity) for identity in (A, B, C)}
        assert server.pending == {A, B, C}
        for identity in (A, B):
            server.receive(identity, clients[identity].receive(server.offer, now=0).reply or b"")
        assert server.pending == {C}
        stranger = Client(D).receive(server.offer, now=0).reply or b""
        with pytest.raises(UnknownSender):
            server.receive(D, stranger)
        assert D not in server.slots
        assert set(server.close_advertise()) == server.pending == {A, B}
        assert server.slots[C].state is SlotState.ABSENT

    def test_without_invitations_pending_is_empty_while_clients_advertise(self, net: Network) -> None:
        assert net.server.pending == frozenset()

    def test_second_advertise_is_refused_and_the_first_stands(self, net: Network) -> None:
        first = net.tell(A, net.server.offer)
        net.send(A, first)
        other = Client(A, randomness=seeded("other")).receive(net.server.offer, now=0).reply
        for message in (first, other):
            refused(net, A, message, DuplicateMessage)
            assert slot(net, A) is SlotState.ADVERTISED
        for identity in (B, C, D, E):
            net.send(identity, net.tell(identity, net.server.offer))
        assert net.clients[A].receive(net.server.close_advertise()[A], now=0).reply

    def test_advertising_as_another_is_refused(self, net: Network) -> None:
        refused(net, B, net.tell(A, net.server.offer), UnknownSender)
        assert slot(net, B) is SlotState.BAD

    @pytest.mark.parametrize(
        ("changes", "error"),
        [
            ({"epoch": bytes(32)}, WrongRound),
            ({"channel_key": bytes(32)}, LowOrderPoint),
            ({"channel_key": b"\xff" * 32}, LowOrderPoint),
            ({"round_keys": bytes(96)}, LowOrderPoint),
            ({"round_keys": b"\x09" * 64}, UnknownFormat),
            ({"round_keys": b"\x09" * 97}, UnknownFormat),
            ({"round_keys": b"\x09" * 96}, BadNeighbour),
            ({"commitments": b"\x09" * 64}, UnknownFormat),
            ({"version": "sa2"}, UnknownFormat),
        ],
    )
    def test_an_advertise_that_others_would_refuse_does_not_reach_them(
        self, net: Network, changes: dict[str, object], error: type[PeerProtocolError]
    ) -> None:
        message = net.tell(A, net.server.offer)
        assert message is not None
        refused(net, A, replace(message, Advertise, **changes), error)
        assert slot(net, A) is SlotState.BAD
        assert net.server.slots[A].reason
        refused(net, A, message, ExcludedSender)
        for identity in (B, C, D, E):
            net.send(identity, net.tell(identity, net.server.offer))
        for identity, roster in net.server.close_advertise().items():
            net.send(identity, net.tell(identity, roster))
        assert net.server.pending == frozenset()

    def test_a_key_of_another_client_is_refused(self, net: Network) -> None:
        message = net.tell(A, net.server.offer)
        net.send(A, message)
        key = msgspec.msgpack.decode(message, type=Advertise).channel_key
        stolen = net.tell(B, net.server.offer)
        assert stolen is not None
        refused(net, B, replace(stolen, Advertise, channel_key=key), BadNeighbour)
        keys = bytearray(msgspec.msgpack.decode(stolen, type=Advertise).round_keys)
        keys[32:64] = key
        refused(net, C, replace(stolen, Advertise, identity=C, round_keys=bytes(keys)), BadNeighbour)

    def test_a_full_roster_takes_nobody_more(self) -> None:
        net = Network.make(3)
        for identity in (A, B, C):
            net.send(identity, net.tell(identity, net.server.offer))
        stranger = Client(D).receive(net.server.offer, now=0).reply
        refused(net, D, stranger, RosterSize)

    def test_late_advertises_and_shares(self, net: Network) -> None:
        late = net.tell(E, net.server.offer)
        rosters = net.advertise(lost=[E])
        refused(net, E, late, LateMessage)
        replies = {identity: net.tell(identity, roster) for identity, roster in rosters.items()}
        for identity in (A, B, C):
            net.send(identity, replies[identity])
        assert net.server.pending == {D}
        net.server.close_shares()
        refused(net, D, replies[D], LateMessage)
        assert slot(net, D) is SlotState.LATE
        refused(net, A, replies[A], LateMessage)
        assert slot(net, A) is SlotState.SHARED

    def test_copies_of_set_up_messages_change_nothing_later(self, net: Network) -> None:
        first = {identity: net.tell(identity, net.server.offer) for identity in net.clients}
        for identity, message in first.items():
            net.send(identity, message)
        rosters = net.server.close_advertise()
        refused(net, A, first[A], LateMessage)
        assert slot(net, A) is SlotState.ADVERTISED
        shares = {identity: net.tell(identity, roster) for identity, roster in rosters.items()}
        for identity, message in shares.items():
            net.send(identity, message)
        for identity, delivery in net.server.close_shares().items():
            net.tell(identity, delivery)
        vectors = net.vectors()
        started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        for identity, start in started.items():
            net.tell(identity, start)
            for copy in (first[identity], shares[identity]):
                refused(net, identity, copy, LateMessage)
                assert slot(net, identity) is SlotState.INVITED
            net.send(identity, net.submit(identity, vectors[identity]))
        for identity, mail in net.server.close_inputs().items():
            refused(net, identity, shares[identity], LateMessage)
            assert slot(net, identity) is SlotState.MASKED
            net.send(identity, net.tell(identity, mail))
        result = net.server.close_unmask()
        assert result.survivors == tuple(net.clients)
        assert_exact(result, vectors, net.offer.vectors)

    def test_garbage_from_strangers_takes_a_bounded_number_of_slots(self, net: Network) -> None:
        for number in range(50):
            refused(net, b"stranger-%d" % number, b"garbage", UnknownFormat)
        assert len(net.server.slots) == net.offer.n_max
        for identity in net.clients:
            net.send(identity, net.tell(identity, net.server.offer))
        assert set(net.server.close_advertise()) == set(net.clients), "they keep nobody out"

    def test_shares_for_another_roster_or_of_wrong_length(self, net: Network) -> None:
        rosters = net.advertise()
        replies = {identity: net.tell(identity, roster) or b"" for identity, roster in rosters.items()}
        refused(net, A, replace(replies[A], Shares, root=bytes(32)), WrongRound)
        refused(net, B, replace(replies[B], Shares, epoch=bytes(32)), WrongRound)
        refused(net, C, replace(replies[C], Shares, ciphertexts=memoryview(bytes(10))), BadShareMessage)
        net.send(D, replies[D])
        refused(net, D, replies[D], DuplicateMessage)
        assert [slot(net, identity) for identity in (A, B, C, D)] == [SlotState.BAD] * 3 + [SlotState.SHARED]
        assert net.server.pending == {E}

    def test_strangers(self, net: Network) -> None:
        shares = net.tell(A, net.advertise()[A])
        refused(net, b"stranger", shares, LateMessage)
        assert b"stranger" not in net.server.slots

    def test_messages_before_their_step(self, net: Network) -> None:
        refused(net, A, msgspec.msgpack.encode(Masked("sa1", net.server._epoch, 1, memoryview(b""))), WrongRound)
        refused(
            net,
            B,
            msgspec.msgpack.encode(Shares("sa1", net.server._epoch, bytes(32), memoryview(b""))),
            UnexpectedMessage,
        )


class TestRounds:
    @pytest.fixture
    def net(self) -> Network:
        return Network.make(5, dropout=0.4, rounds=3).set_up()

    def start(self, net: Network, participants: list[bytes] | None = None) -> dict[bytes, bytes]:
        """Start a round; the masked vectors of the participants."""
        started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=participants)
        self.vectors = net.vectors(net.server.round)
        masked = {}
        for identity, message in started.items():
            net.tell(identity, message)
            masked[identity] = net.submit(identity, self.vectors[identity])
        return masked

    def finish(self, net: Network) -> None:
        mail = net.server.close_inputs()
        for identity, survivors in mail.items():
            net.send(identity, net.tell(identity, survivors))
        assert net.server.pending == frozenset()
        assert_exact(net.server.close_unmask(), self.vectors, net.offer.vectors)

    def test_doubled_vectors_count_once(self, net: Network) -> None:
        masked = self.start(net)
        for identity, message in masked.items():
            net.send(identity, message)
            refused(net, identity, message, DuplicateMessage)
            assert slot(net, identity) is SlotState.MASKED
        self.finish(net)

    def test_garbage_after_a_vector_does_not_take_it_out_again(self, net: Network) -> None:
        masked = self.start(net)
        for identity, message in masked.items():
            net.send(identity, message)
            refused(net, identity, b"garbage", UnknownFormat)
            assert slot(net, identity) is SlotState.MASKED
        self.finish(net)

    def test_late_vectors_do_not_count(self, net: Network) -> None:
        masked = self.start(net)
        for identity in (A, B, C, D):
            net.send(identity, masked[identity])
        assert net.server.pending == {E}
        mail = net.server.close_inputs()
        assert E not in mail
        refused(net, E, masked[E], LateMessage)
        assert slot(net, E) is SlotState.LATE
        for identity, survivors in mail.items():
            net.send(identity, net.tell(identity, survivors))
        result = net.server.close_unmask()
        assert E not in result.survivors
        assert_exact(result, self.vectors, net.offer.vectors)
        refused(net, E, masked[E], LateMessage)

    @pytest.mark.parametrize("size", [0, 19, 21, 40])
    def test_vectors_of_wrong_size_count_as_dropped(self, net: Network, size: int) -> None:
        masked = self.start(net)
        for identity in (A, B, C, D):
            net.send(identity, masked[identity])
        refused(net, E, replace(masked[E], Masked, payload=memoryview(bytes(size))), UnknownFormat)
        assert slot(net, E) is SlotState.BAD
        assert net.server.pending == frozenset()
        refused(net, E, masked[E], ExcludedSender)
        self.finish(net)
        assert E in self.start(net), "a bad message costs one round, not the epoch"

    def test_vectors_of_other_rounds_and_epochs(self, net: Network) -> None:
        old = self.start(net)
        for identity in old:
            net.send(identity, old[identity])
        self.finish(net)
        masked = self.start(net)
        refused(net, A, old[A], LateMessage)
        assert slot(net, A) is SlotState.INVITED
        refused(net, B, replace(masked[B], Masked, round=3), WrongRound)
        refused(net, C, replace(masked[C], Masked, epoch=bytes(32)), WrongRound)
        assert {slot(net, B), slot(net, C)} == {SlotState.BAD}
        for identity in (A, D, E):
            net.send(identity, masked[identity])
        self.finish(net)

    def test_vectors_of_clients_that_sit_out(self, net: Network) -> None:
        masked = self.start(net, [A, B, C, D])
        assert slot(net, E) is SlotState.SHARED
        refused(net, E, masked[A], UnexpectedMessage)
        assert slot(net, E) is SlotState.SHARED
        for identity in (A, B, C, D):
            net.send(identity, masked[identity])
        self.finish(net)

    def test_answers_before_the_inputs_are_closed(self, net: Network) -> None:
        masked = self.start(net)
        net.send(A, masked[A])
        early = msgspec.msgpack.encode(Unmask("sa1", net.server._epoch, 1, memoryview(bytes(36 * 4)), b""))
        refused(net, A, early, UnexpectedMessage)
        assert slot(net, A) is SlotState.MASKED
        for identity in (B, C, D, E):
            net.send(identity, masked[identity])
        self.finish(net)

    def test_answers_doubled_late_or_from_drop_outs(self, net: Network) -> None:
        masked = self.start(net)
        for identity in (A, B, C, D):
            net.send(identity, masked[identity])
        replies = {identity: net.tell(identity, mail) for identity, mail in net.server.close_inputs().items()}
        net.send(A, replies[A])
        refused(net, A, replies[A], DuplicateMessage)
        assert slot(net, A) is SlotState.UNMASKED
        refused(net, E, replies[A], UnexpectedMessage)  # never masked, so it has nothing to answer
        for identity in (B, C, D):
            net.send(identity, replies[identity])
        assert net.server.pending == frozenset()
        assert_exact(net.server.close_unmask(), self.vectors, net.offer.vectors)
        refused(net, D, replies[D], LateMessage)

    @pytest.mark.parametrize(
        "change",
        [
            lambda shares: shares[:-1],
            lambda shares: shares + bytes(36),
            lambda shares: b"",
            lambda shares: b"\xff\xff\xff\x7f" + shares[4:],
            lambda shares: shares[:-4] + b"\xff" * 4,
        ],
        ids=["short", "long", "none", "limb p", "limb 2^32 - 1"],
    )
    def test_answers_of_wrong_form_count_as_missing(self, net: Network, change) -> None:
        masked = self.start(net)
        for identity, message in masked.items():
            net.send(identity, message)
        for identity, mail in net.server.close_inputs().items():
            reply = net.tell(identity, mail)
            assert reply is not None
            if identity == B:
                shares = bytes(msgspec.msgpack.decode(reply, type=Unmask).shares)
                refused(net, B, replace(reply, Unmask, shares=memoryview(change(shares))), BadShareMessage)
                assert slot(net, B) is SlotState.BAD
                refused(net, B, reply, ExcludedSender)
            else:
                net.send(identity, reply)
        assert_exact(net.server.close_unmask(), self.vectors, net.offer.vectors)

    def test_messages_of_a_failed_round(self, net: Network) -> None:
        masked = self.start(net)
        net.send(A, masked[A])
        with pytest.raises(RoundFailed):
            net.server.close_inputs()
        assert net.server.state is ServerState.READY
        refused(net, B, masked[B], LateMessage)
        self.start(net)
        refused(net, B, masked[B], LateMessage)

    def test_oversize_is_refused_unread(self, net: Network) -> None:
        self.start(net)
        refused(net, A, bytes(1 << 20), UnknownFormat)


def test_a_server_says_where_it_stands() -> None:
    net = Network.make(4, rounds=2)
    assert repr(net.server) == "<Server ADVERTISE round 0 of 2>"
    net.set_up()
    assert (net.server.round, net.server.rounds_left) == (0, 2)
    net.round(net.vectors())
    assert (net.server.round, net.server.rounds_left) == (1, 1)
    assert [slot.index for slot in net.server.slots.values()] == [0, 1, 2, 3]
