"""What the protocol is for: the sum, bit for bit, through every allowed loss, and nothing at all beyond them."""

from __future__ import annotations

import collections
import itertools
import os
import tracemalloc
from collections.abc import Callable
from unittest import mock

import msgspec
import numpy as np
import pytest

from privfed_protocols import (
    Client,
    ClientState,
    EpochFailed,
    LocalProtocolError,
    Offer,
    RoundFailed,
    Server,
    ServerState,
    SlotState,
    VectorSpec,
    client_setup,
    opening,
)
from privfed_protocols import server as server_module
from privfed_protocols.messages import Unmask
from privfed_protocols.robust import recover
from privfed_protocols.shamir import PRIME, share
from privfed_protocols.states import SlotTrigger
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, random_vectors, replace

A, B, C, D, E, F, G, H = identities(8)


@pytest.mark.parametrize("bits", [8, 16, 32, 64])
@pytest.mark.parametrize("n", [2, 3, 7])
def test_sums_are_exact_in_every_ring(bits: int, n: int) -> None:
    specs = [VectorSpec("x", 1003, bits)]  # type: ignore[arg-type]
    net = Network.make(n, vectors=specs, dropout=0.0).set_up()
    vectors = net.vectors(bits)
    result = net.round(vectors)
    assert result.survivors == result.participants == tuple(identities(n))
    assert_exact(result, vectors, specs)


def test_extreme_elements_wrap() -> None:
    specs = [VectorSpec(f"x{bits}", 3, bits) for bits in (8, 16, 32, 64)]  # type: ignore[arg-type]
    net = Network.make(4, vectors=specs).set_up()
    top = {spec.name: np.full(3, (1 << spec.bits) - 1, spec.dtype) for spec in specs}
    result = net.round(dict.fromkeys(net.clients, top))
    for spec in specs:
        assert result.sums[spec.name].tolist() == [(1 << spec.bits) - 4] * 3


def test_several_vectors_and_chunks() -> None:
    specs = [VectorSpec("large", 100_001, 32), VectorSpec("one", 1, 8), VectorSpec("ünicode", 33_000, 64)]
    net = Network.make(4, vectors=specs).set_up()
    vectors = net.vectors()
    assert_exact(net.round(vectors, lost_input=[B]), vectors, specs)


def test_every_loss_at_once_in_every_round_of_an_epoch() -> None:
    """Twelve clients: one never comes, one is lost after its keys; others are lost at every step of every round."""
    names = identities(12)
    net = Network.make(12, dropout=0.3, rounds=4, restart_always=True)
    net.set_up(lost_advertise=names[11:], lost_shares=names[10:11])
    for number in range(4):
        vectors = net.vectors(number)
        result = net.round(
            vectors,
            lost_start=[names[number]],
            lost_input=[names[number + 1]],
            lost_unmask=[names[number + 2]],
        )
        assert set(result.survivors) == set(names[:10]) - {names[number], names[number + 1]}
        assert_exact(result, vectors, net.offer.vectors)
    assert net.server.rounds_left == 0
    with pytest.raises(LocalProtocolError, match="new epoch"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN)


@pytest.mark.parametrize("lost", list(itertools.combinations(range(6), 2)))
@pytest.mark.parametrize("step", ["lost_start", "lost_input", "lost_unmask"])
def test_any_two_of_six_may_go_at_any_step(lost: tuple[int, ...], step: str) -> None:
    net = Network.make(6, dropout=0.34).set_up()
    vectors = net.vectors()
    result = net.round(vectors, **{step: [identities(6)[index] for index in lost]})  # type: ignore[arg-type]
    assert len(result.survivors) == (6 if step == "lost_unmask" else 4)
    assert_exact(result, vectors, net.offer.vectors)


def test_a_client_that_lost_its_delivery_counts_as_dropped_in_each_round() -> None:
    net = Network.make(6, dropout=0.34).set_up(lost_delivery=[B])
    vectors = net.vectors()
    started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    for identity in set(started) - {B}:
        net.tell(identity, started[identity])
        net.send(identity, net.submit(identity, vectors[identity]))
    for identity, survivors in net.server.close_inputs().items():
        net.send(identity, net.tell(identity, survivors))
    assert_exact(net.server.close_unmask(), vectors, net.offer.vectors)


def test_clients_sit_out_and_come_back() -> None:
    net = Network.make(6, dropout=0.34, rounds=3).set_up()
    for number, members in enumerate(([A, B, C, D], [C, D, E, F], [A, B, C, D, E, F])):
        vectors = net.vectors(number)
        result = net.round(vectors, participants=members)
        assert result.participants == tuple(members)
        assert_exact(result, vectors, net.offer.vectors)
    assert net.server.slots[A].state is SlotState.UNMASKED


def test_epochs_follow_each_other_with_other_clients() -> None:
    for epoch, n in enumerate((5, 3, 8)):
        net = Network.make(n, seed=epoch, rounds=2).set_up()
        for number in range(2):
            vectors = net.vectors(10 * epoch + number)
            assert_exact(net.round(vectors), vectors, net.offer.vectors)


def test_the_same_vectors_look_different_every_round_and_in_every_client() -> None:
    spec = VectorSpec("x", 4000, 8)
    net = Network.make(3, vectors=[spec], rounds=2).set_up()
    same = {"x": np.zeros(4000, np.uint8)}
    seen = []
    for _ in range(2):
        for identity, start in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
            net.tell(identity, start)
            seen.append(np.frombuffer(net.submit(identity, same)[-4000:], np.uint8))
        with pytest.raises(RoundFailed):
            net.server.close_inputs()
    for masked in seen:  # chi-square of the byte values, 255 degrees of freedom
        counts = np.bincount(masked, minlength=256)
        assert 150 < float(((counts - 15.625) ** 2 / 15.625).sum()) < 380
    for one, other in itertools.combinations(seen, 2):
        assert 150 < float(((np.bincount(one - other, minlength=256) - 15.625) ** 2 / 15.625).sum()) < 380


@pytest.mark.parametrize("field", ["model_digest", "plan_digest", "participants"])
def test_a_client_that_was_told_otherwise_spoils_the_sum(field: str) -> None:
    """Equivocation gives the server noise: the pair masks are bound to everything a client was told."""
    from privfed_protocols import bitmap
    from privfed_protocols.messages import Start

    net = Network.make(4, rounds=1, dropout=0.25).set_up()
    told = {"model_digest": bytes(32), "plan_digest": bytes(32), "participants": bitmap.pack((0, 1, 2), 4)}
    zero = {"x": np.zeros(5, np.uint32)}
    digests = {"model_digest": MODEL, "plan_digest": PLAN}
    for identity, start in net.server.start_round(**digests).items():
        mine = dict(digests)
        if identity == A:
            start = replace(start, Start, **{field: told[field]})
            mine |= {name: value for name, value in told.items() if name in mine and name == field}
        net.clients[identity].receive(start, now=0)
        net.send(identity, net.clients[identity].submit(zero, **mine))
    for identity, survivors in net.server.close_inputs().items():
        if identity != A or field != "participants":  # A refuses survivors outside what it was told
            net.send(identity, net.tell(identity, survivors))
    assert np.count_nonzero(net.server.close_unmask().sums["x"]) >= 4


def test_the_callers_vector_is_not_changed() -> None:
    net = Network.make(3).set_up()
    vectors = net.vectors()
    before = {identity: vectors[identity]["x"].copy() for identity in vectors}
    for identity in vectors:
        vectors[identity]["x"].setflags(write=False)
    net.round(vectors)
    for identity, array in before.items():
        assert np.array_equal(vectors[identity]["x"], array)


# --- failing closed


def test_too_few_advertise() -> None:
    net = Network.make(4, n_min=4)
    with pytest.raises(EpochFailed, match="3 clients"):
        net.advertise(lost=[B])
    assert net.server.state is ServerState.FAILED
    assert net.server.rounds_left == 0


def test_a_number_of_clients_without_parameters() -> None:
    net = Network.make(4, corrupt=0.5, dropout=0.0)
    with pytest.raises(EpochFailed, match="no threshold"):
        net.advertise(lost=[C, D])


@pytest.mark.parametrize("lost", [[B, C], [A, B, C, D, E]])
def test_too_few_share(lost: list[bytes]) -> None:
    net = Network.make(5, dropout=0.2)  # threshold 3: four are needed
    with pytest.raises(EpochFailed, match=r"threshold is 3|0 clients"):
        net.set_up(lost_shares=lost)
    assert net.server.state is ServerState.FAILED


@pytest.mark.parametrize("lost", [[B, C], [A, B, C, D, E]])
def test_too_few_inputs_fail_the_round_and_the_next_one_runs(lost: list[bytes]) -> None:
    net = Network.make(5, dropout=0.2).set_up()
    with pytest.raises(RoundFailed) as caught:
        net.inputs(net.vectors(), lost_input=lost)
    assert caught.value.round == 1
    assert net.server.state is ServerState.READY
    vectors = net.vectors(1)
    assert_exact(net.round(vectors, lost_input=[E]), vectors, net.offer.vectors)
    for client in net.clients.values():
        assert client.last_round == 2


@pytest.mark.parametrize("lost", [[B, C], [A, B, C, D, E]])
def test_too_few_answers_fail_the_round_and_the_next_one_runs(lost: list[bytes]) -> None:
    net = Network.make(5, dropout=0.2).set_up()
    with pytest.raises(RoundFailed, match="fewer than 3 shares"):
        net.round(net.vectors(), lost_unmask=lost)
    vectors = net.vectors(1)
    assert_exact(net.round(vectors), vectors, net.offer.vectors)


def test_a_client_in_the_failed_round_burns_it_when_the_next_one_starts() -> None:
    net = Network.make(5, dropout=0.2).set_up()
    with pytest.raises(RoundFailed):
        net.inputs(net.vectors(), lost_input=[A, B])
    assert {net.clients[identity].state for identity in (A, B)} == {ClientState.STARTED}
    assert net.clients[C].state is ClientState.MASKED
    net.round(net.vectors(1))
    for client in net.clients.values():
        assert client._vault is not None
        assert client._vault.own_from == client._vault.held_from == 3


def test_steps_out_of_order_are_the_callers_mistake() -> None:
    net = Network.make(4)
    closers = [
        net.server.close_shares,
        net.server.close_inputs,
        net.server.close_unmask,
        lambda: net.server.start_round(model_digest=MODEL, plan_digest=PLAN),
    ]
    for close in closers:
        with pytest.raises(LocalProtocolError):
            close()
    net.set_up()
    for close in (net.server.close_advertise, *closers[:3]):
        with pytest.raises(LocalProtocolError):
            close()
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        net.server.start_round(model_digest=b"", plan_digest=PLAN)
    with pytest.raises(LocalProtocolError, match="left out of the epoch"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=[A, B, C, b"stranger"])
    with pytest.raises(LocalProtocolError, match="too few participants"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=[A, B])
    assert net.server.round == 0
    net.round(net.vectors())


# --- wrong shares


def falsify(message: bytes, places: range | list[int]) -> bytes:
    """Alter the shares at these places of an M10."""
    shares = bytearray(msgspec.msgpack.decode(message, type=Unmask).shares)
    for place in places:
        shares[36 * place : 36 * place + 4] = os.urandom(3) + b"\0"
    return replace(message, Unmask, shares=memoryview(bytes(shares)))


@pytest.mark.parametrize("liars", [[A], [C], [A, B]])
@pytest.mark.parametrize("places", [range(7), [2], [0, 6]], ids=["all", "one", "two"])
@pytest.mark.parametrize("lost", [[], [H]])
def test_wrong_shares_are_found_named_and_survived(
    liars: list[bytes], places: range | list[int], lost: list[bytes]
) -> None:
    net = Network.make(8, dropout=0.5).set_up()  # threshold 3: seven or eight shares, up to two lies
    assert net.server._require_roster().parameters.t == 3
    vectors = net.vectors()
    for identity, survivors in net.inputs(vectors, lost_input=lost).items():
        reply = net.tell(identity, survivors)
        assert reply is not None
        net.send(identity, falsify(reply, places) if identity in liars else reply)
    result = net.server.close_unmask()
    assert_exact(result, vectors, net.offer.vectors)
    named = {giver for _, givers in result.disputes for giver in givers}
    # a wrong share that no opening needed goes unnoticed; all that were needed first were checked
    assert named <= set(liars)
    assert A not in liars or A in named
    assert set(net.server.start_round(model_digest=MODEL, plan_digest=PLAN)) == set(net.clients), "nobody is excluded"


def deal(net: Network, dealer: bytes, alter: Callable[[np.ndarray], None]) -> Network:
    """Set up with one dealer whose shares, shape (neighbours, 2 * rounds, 9), are altered before they are sealed."""

    def altered(*args: object, **kwargs: object) -> np.ndarray:
        shares = share(*args, **kwargs)  # type: ignore[arg-type]
        alter(shares)
        return shares

    for identity, roster in net.advertise().items():
        with mock.patch.object(client_setup, "share", altered if identity == dealer else share):
            net.send(identity, net.tell(identity, roster))
    for identity, delivery in net.server.close_shares().items():
        net.tell(identity, delivery)
    return net


def off_polynomial(count: int) -> Callable[[np.ndarray], None]:
    """Puts the shares of the first `count` neighbours off the polynomial."""

    errors = np.array([pow(12345, place + 1, PRIME) for place in range(count)], np.uint32)

    def alter(shares: np.ndarray) -> None:
        shares[:count] = (shares[:count] + errors[:, None, None]) % np.uint32(PRIME)

    return alter


def test_a_dealer_cannot_get_honest_givers_excluded() -> None:
    net = deal(Network.make(8, dropout=0.5, rounds=2), H, off_polynomial(2))
    for number in range(2):
        vectors = net.vectors(number)
        result = net.round(vectors)
        assert_exact(result, vectors, net.offer.vectors)
        assert result.participants == tuple(net.clients)
        assert result.disputes == ((H, (A, B)),)
        assert {slot.state for slot in net.server.slots.values()} == {SlotState.UNMASKED}


def test_a_dealer_whose_shares_do_not_open_costs_one_round_and_not_the_epoch() -> None:
    net = deal(Network.make(8, dropout=0.3, rounds=3), D, off_polynomial(5))  # four shares needed, two are right
    with pytest.raises(RoundFailed, match="client 3 do not open") as failed:
        net.round(net.vectors())
    assert failed.value.disputes == ((D, tuple(one for one in net.clients if one != D)),)
    for number in range(2):
        vectors = net.vectors(number)
        result = net.round(vectors)
        assert result.participants == tuple(one for one in net.clients if one != D)
        assert result.disputes == ()
        assert_exact(result, vectors, net.offer.vectors)
        assert net.server.slots[D].state is SlotState.LEFT_OUT
        assert "did not open" in net.server.slots[D].reason


def test_disputes_found_before_a_secret_that_does_not_open_are_kept() -> None:
    net = deal(Network.make(8, dropout=0.5), D, off_polynomial(7))
    for identity, survivors in net.inputs(net.vectors()).items():
        reply = net.tell(identity, survivors)
        assert reply is not None
        net.send(identity, falsify(reply, [0]) if identity == B else reply)  # B's share of A
    with pytest.raises(RoundFailed) as failed:
        net.server.close_unmask()
    assert failed.value.disputes == ((A, (B,)), (D, (A, B, C, E, F, G, H)))
    assert net.server.slots[A].state is net.server.slots[B].state is SlotState.UNMASKED


@pytest.mark.parametrize(("liars", "runs"), [([A], 1), ([A, B], 2), ([B, H], 1)])
def test_a_client_that_gives_garbage_costs_one_run_of_the_decoder(
    liars: list[bytes], runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one for each of the others; the sum and the disputes stay what the decoder alone would give."""
    found, decoded = [], 0

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal decoded
        decoded += 1
        return recover(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(opening, "recover", counted)
    for forget in (False, True):
        decoded = 0
        net = Network.make(12, dropout=0.5).set_up()
        if forget:
            monkeypatch.setattr(opening, "Counter", Forgetful)
        vectors = net.vectors()
        for identity, survivors in net.inputs(vectors).items():
            reply = net.tell(identity, survivors)
            assert reply is not None
            net.send(identity, altered(reply) if identity in liars else reply)
        result = net.server.close_unmask()
        assert_exact(result, vectors, net.offer.vectors)
        assert decoded == (len(result.disputes) if forget else runs)
        assert len(result.disputes) >= 10
        found.append(result.disputes)
    assert found[0] == found[1]


class Forgetful(collections.Counter[int]):
    """Counts nothing: every client stays unsuspected, and every wrong share goes to the decoder."""

    def update(self, *args: object, **kwargs: object) -> None:
        """Forget it at once."""


def altered(message: bytes) -> bytes:
    """The first limb of every share one higher, modulo p: all of them wrong, the same in every run."""
    shares = np.frombuffer(bytes(msgspec.msgpack.decode(message, type=Unmask).shares), "<u4").reshape(-1, 9).copy()
    shares[:, 0] = (shares[:, 0] + 1) % np.uint32(PRIME)
    return replace(message, Unmask, shares=memoryview(shares.tobytes()))


def test_one_wrong_share_with_one_to_spare_is_found_by_the_commitment() -> None:
    net = Network.make(5, dropout=0.2).set_up()  # threshold 3, four shares each
    vectors = net.vectors()
    for identity, survivors in net.inputs(vectors).items():
        reply = net.tell(identity, survivors)
        assert reply is not None
        net.send(identity, falsify(reply, range(4)) if identity == B else reply)
    result = net.server.close_unmask()
    assert_exact(result, vectors, net.offer.vectors)
    assert {givers for _, givers in result.disputes} == {(B,)}
    assert net.server.slots[B].state is SlotState.UNMASKED


def test_wrong_shares_without_any_to_spare_fail_the_round() -> None:
    net = Network.make(5, dropout=0.2).set_up()
    for identity, survivors in net.inputs(net.vectors(), lost_input=[E]).items():
        reply = net.tell(identity, survivors)
        assert reply is not None
        net.send(identity, falsify(reply, [0]) if identity == B else reply)
    with pytest.raises(RoundFailed, match="the 3 shares of client 0 do not open"):
        net.server.close_unmask()
    assert net.server.state is ServerState.READY
    assert net.server.slots[A].state is SlotState.LEFT_OUT, "it or B, nothing tells"
    vectors = net.vectors(1)
    assert_exact(net.round(vectors), vectors, net.offer.vectors)


@pytest.mark.parametrize("lost", [[], [B]], ids=["seed", "key"])
def test_a_dealer_that_committed_to_something_else_is_left_out(lost: list[bytes]) -> None:
    net = Network.make(6, dropout=0.34)
    rosters = net.advertise()
    vault = net.clients[B]._vault
    assert vault is not None
    vault.seeds[0] ^= 1  # shares another seed and another key than it advertised
    vault.keys[1] ^= 1
    for identity, roster in rosters.items():
        net.send(identity, net.tell(identity, roster))
    for identity, delivery in net.server.close_shares().items():
        net.tell(identity, delivery)
    with pytest.raises(RoundFailed, match="client 1 do not open"):
        net.round(net.vectors(), lost_input=lost)
    assert net.server.slots[B].state is SlotState.LEFT_OUT
    with pytest.raises(LocalProtocolError, match="left out"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=net.clients)
    vectors = net.vectors(1)
    result = net.round(vectors)
    assert B not in result.participants
    assert net.server.slots[B].state is SlotState.LEFT_OUT, "left out for good, and it shows"
    assert "left out" in net.server.slots[B].reason
    assert_exact(result, vectors, net.offer.vectors)


def test_too_many_left_out_fail_the_epoch() -> None:
    net = Network.make(4, dropout=0.25).set_up()
    net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    with pytest.raises(RoundFailed):
        net.server.close_inputs()
    for identity in (A, B):
        net.server._slots.note(identity, SlotTrigger.LEAVE_OUT, "its shares did not open")
    with pytest.raises(EpochFailed, match="too few clients are left"):
        net.server.start_round(model_digest=MODEL, plan_digest=PLAN)


@pytest.mark.parametrize("step", ["inputs", "sum"])
def test_an_interrupted_addition_fails_the_round(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half-added vectors or half-removed masks must never pass for a sum."""
    net = Network.make(4, rounds=2, vectors=[VectorSpec("x", 5, 32), VectorSpec("y", 5, 32)]).set_up()
    vectors = net.vectors()

    class Interrupt(BaseException):
        pass

    if step == "inputs":
        started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        messages = {}
        for identity, start in started.items():
            net.tell(identity, start)
            messages[identity] = net.submit(identity, vectors[identity])
        current = net.server._require_round()
        monkeypatch.setitem(current.sums, "y", None)
        with pytest.raises(AttributeError):
            net.server.receive(A, messages[A])
        monkeypatch.undo()
        for identity in (A, B, C, D):
            net.server.receive(identity, messages[identity])
        with pytest.raises(RoundFailed, match="interrupted"):
            net.server.close_inputs()
    else:
        for identity, survivors in net.inputs(vectors).items():
            net.send(identity, net.tell(identity, survivors))

        def interrupted(*_args: object, **_kwargs: object) -> None:
            raise Interrupt

        monkeypatch.setattr(server_module, "remove_masks", interrupted)
        with pytest.raises(Interrupt):
            net.server.close_unmask()
        monkeypatch.undo()
        with pytest.raises(LocalProtocolError):
            net.server.close_unmask()
    vectors = net.vectors(1)
    assert_exact(net.round(vectors), vectors, net.offer.vectors)


# --- determinism and memory


def test_a_restored_client_repeats_its_share_message_byte_for_byte() -> None:
    """A crash between making and sending M3 must not encrypt other shares under the same single-use keys."""
    net = Network.make(4)
    roster = net.advertise()[B]
    saved = net.saved[B]
    replies = [Client.restore(saved).receive(roster, now=0).reply for _ in range(2)]
    assert replies[0] == replies[1]


def test_offers_are_fresh() -> None:
    offers = [
        Offer.new(vectors=[VectorSpec("x", 1, 8)], n_min=2, n_max=2, rounds=1, plan_digest=PLAN) for _ in range(2)
    ]
    assert offers[0] != offers[1]
    assert Server(offers[0]).offer != Server(offers[1]).offer


def test_randomness_that_runs_short_is_refused() -> None:
    offer = Server(Offer.new(vectors=[VectorSpec("x", 1, 8)], n_min=2, n_max=2, rounds=1, plan_digest=PLAN)).offer
    with pytest.raises(LocalProtocolError, match="31 bytes"):
        Client(A, randomness=lambda size: bytes(size - 1)).receive(offer, now=0)


def test_secrets_come_from_the_operating_system() -> None:
    offer = Server(Offer.new(vectors=[VectorSpec("x", 1, 8)], n_min=2, n_max=2, rounds=1, plan_digest=PLAN)).offer
    assert Client(A).receive(offer, now=0).reply != Client(A).receive(offer, now=0).reply


def server_peak(n: int, length: int) -> int:
    """Most memory that the server's side of a round takes beyond the messages handed to it, in bytes."""
    spec = VectorSpec("x", length, 32)
    net = Network.make(n, vectors=[spec], dropout=0.25).set_up()
    rng = np.random.default_rng(0)
    vectors = {identity: random_vectors([spec], rng) for identity in net.clients}
    tracemalloc.start()
    started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    for identity in identities(n)[1:]:
        net.tell(identity, started[identity])
        masked = net.submit(identity, vectors[identity])
        tracemalloc.start()
        net.server.receive(identity, masked)
        peak = max(peak, tracemalloc.get_traced_memory()[1] + 4 * length)
        tracemalloc.stop()
    tracemalloc.start()
    for identity, survivors in net.server.close_inputs().items():
        net.send(identity, net.tell(identity, survivors))
    result = net.server.close_unmask()
    peak = max(peak, tracemalloc.get_traced_memory()[1] + 4 * length)
    tracemalloc.stop()
    expected = sum(vectors[identity]["x"].astype(np.uint64) for identity in result.survivors) & np.uint64(2**32 - 1)
    assert np.array_equal(result.sums["x"], expected)
    return peak


def test_server_memory_is_one_vector_whatever_the_number_of_clients() -> None:
    length = 1_000_000
    few, many = server_peak(4, length), server_peak(24, length)
    assert few < 1.5 * 4 * length
    assert many < few + 4 * length // 4


def test_client_memory_is_its_message() -> None:
    spec = VectorSpec("x", 2_000_000, 32)
    net = Network.make(4, vectors=[spec]).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
    net.tell(A, start)
    vectors = {"x": np.zeros(spec.length, spec.dtype)}
    tracemalloc.start()
    message = net.clients[A].submit(vectors, model_digest=MODEL, plan_digest=PLAN)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < len(message) + (2 << 20)
