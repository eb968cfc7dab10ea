"""Exact drop-outs: which seed of which client comes out when, and what happens to those that are lost first."""

from __future__ import annotations

import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols import BadShareMessage, Client, LocalProtocolError, SlotState, surplus_seed
from privfed_protocols.messages import Unmask
from privfed_protocols.surplus import lost_shares, opens_surplus
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace, surplus_of

NAMES = A, B, C, D, E, F, G, H = identities(8)


def by_hand(seed: bytes, index: int) -> bytes:
    """The chain as the protocol text has it, in plain Python."""
    label = b"privfed/sa1/surplus noise seed"
    for _ in range(index - 1):
        seed = hashlib.sha256(bytes([len(label)]) + label + (32).to_bytes(8, "little") + seed).digest()
    return seed


@given(st.binary(min_size=32, max_size=32), st.integers(1, 50))
def test_the_chain(seed: bytes, index: int) -> None:
    assert surplus_seed(seed, index) == by_hand(seed, index)
    assert surplus_seed(surplus_seed(seed, index), 3) == surplus_seed(seed, index + 2)


@pytest.mark.parametrize(("seed", "index"), [(bytes(31), 1), (bytes(33), 1), (b"", 1), (bytes(32), 0), (bytes(32), -1)])
def test_seeds_and_indices_out_of_range(seed: bytes, index: int) -> None:
    with pytest.raises(LocalProtocolError):
        surplus_seed(seed, index)


@given(st.integers(2, 50), st.integers(0, 50), st.integers(0, 60))
def test_what_opens_is_what_is_not_needed(n_min: int, spare: int, more: int) -> None:
    """With N shares and s survivors, components 1 to N - s stay, and a seed goes out while one is left to take out."""
    shares, survivors = n_min + spare, n_min + more
    dropped = lost_shares(shares=shares, survivors=survivors)
    assert dropped == max(0, shares - survivors)
    assert opens_surplus(shares=shares, n_min=n_min, survivors=survivors) == (dropped < spare)


def test_without_shares_nothing_opens() -> None:
    assert not opens_surplus(shares=0, n_min=2, survivors=9)
    net = Network.make(4, dropout=0.2).set_up()
    result = net.round(net.vectors())
    assert (dict(result.surplus), result.dropped) == ({}, 0)


@pytest.mark.parametrize("mode", ["semi-honest", "semi-malicious", "malicious"])
@pytest.mark.parametrize(
    ("lost", "answers_lost", "dropped", "index"),
    [([], [], 0, 1), ([B], [], 1, 2), ([A, B], [], 2, None), ([], [C], 0, 1), ([B], [C], 1, 2)],
)
def test_each_survivor_that_answers_gives_the_seed_after_the_last_that_is_needed(
    mode: str, lost: list[bytes], answers_lost: list[bytes], dropped: int, index: int | None
) -> None:
    net = Network.make(8, n_min=6, dropout=0.3, shares=8, mode=mode).set_up()  # type: ignore[arg-type]
    vectors = net.vectors()
    result = net.round(vectors, lost_input=lost, lost_unmask=answers_lost)
    assert_exact(result, vectors, net.offer.vectors)
    assert result.dropped == dropped
    answered = [name for name in result.survivors if name not in answers_lost]
    assert dict(result.surplus) == (
        {} if index is None else {name: by_hand(surplus_of(name), index) for name in answered}
    )
    assert len(result.survivors) - len(result.surplus) == (len(answers_lost) if index else len(result.survivors))


def test_more_survivors_than_shares_need_no_surplus() -> None:
    net = Network.make(8, n_min=5, dropout=0.3, shares=6).set_up()
    result = net.round(net.vectors(), lost_input=[A])
    assert result.dropped == 0
    assert result.surplus[B] == surplus_of(B)


def test_a_seed_goes_out_only_with_the_answer_and_only_forward() -> None:
    """What the server holds after a round with a drop-out says nothing about the component that is needed."""
    net = Network.make(8, n_min=6, dropout=0.3, shares=8).set_up()
    vectors = net.vectors()
    mail = net.inputs(vectors, lost_input=[H])
    replies = {identity: net.tell(identity, message) or b"" for identity, message in mail.items()}
    for identity, reply in replies.items():
        assert surplus_of(identity) not in reply
        assert by_hand(surplus_of(identity), 2) in reply


class TestSecrecy:
    @pytest.fixture
    def net(self) -> Network:
        return Network.make(8, n_min=6, dropout=0.3, shares=8, mode="malicious").set_up()

    def test_the_seed_is_kept_through_a_restart_and_erased_with_the_round(self, net: Network) -> None:
        vectors = net.vectors()
        mail = net.inputs(vectors, lost_input=[H])
        assert surplus_of(A) in net.saved[A]
        quorum = net.quorum(mail)
        assert surplus_of(A) in net.saved[A]
        net.clients[A] = net.restored(A)
        for identity, message in quorum.items():
            net.send(identity, net.tell(identity, message))
        assert net.server.close_unmask().surplus[A] == by_hand(surplus_of(A), 2)
        for identity in quorum:
            vault = net.clients[identity]._vault
            assert vault is not None
            assert not any(vault.surplus)
            for index in (1, 2):
                assert by_hand(surplus_of(identity), index) not in net.saved[identity]

    @pytest.mark.parametrize("how", ["burn", "refusal", "later start"])
    def test_a_burned_round_leaves_no_seed(self, net: Network, how: str) -> None:
        start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
        net.tell(A, start)
        net.submit(A, net.vectors()[A])
        client = net.clients[A]
        assert surplus_of(A) in client.save()
        if how == "burn":
            client.burn()
        elif how == "refusal":
            with pytest.raises(Exception, match="cannot be read"):
                client.receive(b"\xc1", now=0)
        else:
            from privfed_protocols.messages import Start

            client.receive(replace(start, Start, round=2), now=0)
        assert surplus_of(A) not in client.save()
        assert client._vault is not None
        assert not any(client._vault.surplus)

    def test_it_does_not_show(self, net: Network) -> None:
        net.tell(A, net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A])
        net.submit(A, net.vectors()[A])
        client = net.clients[A]
        for text in (repr(client), repr(vars(client)), repr(client._vault)):
            assert surplus_of(A).hex() not in text
            assert repr(surplus_of(A))[2:-1] not in text


@pytest.mark.parametrize(("shares", "seed"), [(0, bytes(32)), (8, None), (8, bytes(31)), (8, b"")])
def test_a_seed_that_is_missing_or_out_of_place_is_the_callers_mistake(shares: int, seed: bytes | None) -> None:
    net = Network.make(8, n_min=6, dropout=0.3, shares=shares).set_up()
    net.tell(A, net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A])
    before = net.clients[A].save()
    with pytest.raises(LocalProtocolError, match="surplus_seed"):
        net.clients[A].submit(net.vectors()[A], model_digest=MODEL, plan_digest=PLAN, surplus_seed=seed)
    assert net.clients[A].save() == before


@pytest.mark.parametrize("lost", [[], [A, B]])
@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(32)])
def test_answers_with_a_seed_too_many_or_too_few_are_refused(lost: list[bytes], seed: bytes) -> None:
    net = Network.make(8, n_min=6, dropout=0.3, shares=8).set_up()
    vectors = net.vectors()
    mail = net.inputs(vectors, lost_input=lost)
    replies = {identity: net.tell(identity, message) or b"" for identity, message in mail.items()}
    right = 0 if lost else 32
    forged = replace(replies[C], Unmask, surplus=seed)
    if len(seed) == right:
        net.server.receive(C, forged)
    else:
        with pytest.raises(BadShareMessage):
            net.server.receive(C, forged)
        assert net.server.slots[C].state is SlotState.BAD
    for identity in set(replies) - {C}:
        net.server.receive(identity, replies[identity])
    result = net.server.close_unmask()
    assert_exact(result, vectors, net.offer.vectors)
    assert set(result.surplus) == ({name for name in replies if name != C or len(seed) == 32} if right else set())


def test_the_seed_is_not_in_any_message_but_the_answer() -> None:
    net = Network.make(8, n_min=6, dropout=0.3, shares=8).set_up()
    net.tell(A, net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A])
    message = net.submit(A, net.vectors()[A])
    assert surplus_of(A) not in message
    assert msgspec.msgpack.decode(message)[0] == 6


def test_seeds_of_a_restored_client_are_those_it_was_given() -> None:
    net = Network.make(8, n_min=6, dropout=0.3, shares=8).set_up()
    net.tell(A, net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A])
    net.submit(A, net.vectors()[A])
    vault = Client.restore(net.saved[A])._vault
    assert vault is not None
    assert bytes(vault.surplus) == surplus_of(A)
