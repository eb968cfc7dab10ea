"""What all modes have to do: sums exact through losses, restarts and any layout, in the round trips promised."""

from __future__ import annotations

import multiprocessing
import tracemalloc
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

from privfed_protocols import (
    Client,
    ClientState,
    LocalProtocolError,
    RoundFailed,
    Server,
    ServerState,
    Signing,
    SlotState,
    Unmasking,
    VectorSpec,
)
from privfed_protocols.modes import MODES
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, signer_of

A, B, C, D, E, F = identities(6)
SPECS = (VectorSpec("bits", 9, 1), VectorSpec("odd", 1001, 13), VectorSpec("wide", 5, 64), VectorSpec("x", 7, 48))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("suite", [1, 2])
@pytest.mark.parametrize("lost", [[], [B], [A, F]])
def test_sums_are_exact_in_every_mode_suite_and_width(mode: str, suite: int, lost: list[bytes]) -> None:
    net = Network.make(
        6, vectors=SPECS, mode=mode, suite=suite, dropout=0.34 if mode == "semi-honest" else 0.2, n_min=3
    )
    net.set_up()
    lost = lost[:1] if mode != "semi-honest" else lost
    for number in range(2):
        vectors = net.vectors(number)
        result = net.round(vectors, lost_input=lost)
        assert set(result.survivors) == set(net.clients) - set(lost)
        assert_exact(result, vectors, SPECS)


@pytest.mark.parametrize("mode", MODES)
def test_every_loss_at_once_with_a_restart_after_every_message(mode: str) -> None:
    net = Network.make(12, mode=mode, dropout=0.3, rounds=3, restart_always=True, n_min=6)
    names = identities(12)
    net.set_up(lost_advertise=names[11:])
    for number in range(3):
        vectors = net.vectors(number)
        result = net.round(
            vectors, lost_start=[names[number]], lost_signature=[names[5]], lost_unmask=[names[number + 2]]
        )
        assert set(result.survivors) == set(names[:11]) - {names[number]}
        assert_exact(result, vectors, net.offer.vectors)


@pytest.mark.parametrize(("mode", "trips"), [("semi-honest", 2), ("semi-malicious", 2), ("malicious", 3)])
def test_round_trips(mode: str, trips: int) -> None:
    """A round trip is a message to a client and its answer; the start and the vector are the first."""
    net = Network.make(4, mode=mode, dropout=0.2).set_up()
    assert MODES[mode].round_trips == trips
    vectors, answers = net.vectors(), 0
    mail = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    for identity, message in mail.items():
        net.tell(identity, message)
        net.send(identity, net.submit(identity, vectors[identity]))
    answers += 1
    closers = {
        ServerState.INPUTS: net.server.close_inputs,
        ServerState.SIGNATURES: net.server.close_signatures,
    }
    while net.server.state in closers:
        for identity, message in closers[net.server.state]().items():
            net.send(identity, net.tell(identity, message))
        answers += 1
    assert answers == trips
    assert_exact(net.server.close_unmask(), vectors, net.offer.vectors)


class TestMalicious:
    @pytest.fixture
    def net(self) -> Network:
        return Network.make(6, mode="malicious", dropout=0.34, rounds=3, n_min=3).set_up()

    def test_states_and_events(self, net: Network) -> None:
        mail = net.inputs(net.vectors())
        assert net.server.state is ServerState.SIGNATURES
        assert net.server.pending == set(net.clients)
        event = net.clients[A].receive(mail[A], now=0)
        assert isinstance(event, Signing)
        assert event.survivors == tuple(range(6))
        assert net.clients[A].state is ClientState.SIGNED
        net.send(A, event.reply)
        assert net.server.slots[A].state is SlotState.SIGNED
        assert net.server.pending == set(net.clients) - {A}
        for identity in (B, C, D, E):
            net.send(identity, net.tell(identity, mail[identity]))
        quorum = net.server.close_signatures()
        assert set(quorum) == net.server.pending == {A, B, C, D, E}
        assert net.server.slots[F].state is SlotState.LATE
        event = net.clients[A].receive(quorum[A], now=0)
        assert isinstance(event, Unmasking)
        assert net.clients[A].state is ClientState.READY

    def test_who_does_not_sign_is_still_in_the_sum(self, net: Network) -> None:
        vectors = net.vectors()
        result = net.round(vectors, lost_signature=[F])
        assert F in result.survivors
        assert_exact(result, vectors, net.offer.vectors)

    def test_too_few_signatures_fail_the_round_before_anything_is_opened(self, net: Network) -> None:
        assert net.server._require_roster().parameters.t == 3
        mail = net.inputs(net.vectors())
        for identity in (A, B, C):
            net.send(identity, net.tell(identity, mail[identity]))
        with pytest.raises(RoundFailed, match="signatures"):
            net.server.close_signatures()
        vectors = net.vectors(1)
        assert_exact(net.round(vectors), vectors, net.offer.vectors)

    def test_restart_after_signing(self, net: Network) -> None:
        vectors = net.vectors()
        mail = net.quorum(net.inputs(vectors))
        for identity in net.clients:
            net.clients[identity] = net.restored(identity)
            assert net.clients[identity].state is ClientState.SIGNED
            net.send(identity, net.tell(identity, mail[identity]))
        assert_exact(net.server.close_unmask(), vectors, net.offer.vectors)

    def test_restart_needs_the_credentials_again(self, net: Network) -> None:
        start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
        bare = Client.restore(net.saved[A])
        with pytest.raises(LocalProtocolError, match="credentials"):
            bare.receive(start, now=0)
        assert bare.save() == net.saved[A], "the caller's mistake changes nothing"
        assert net.restored(A).receive(start, now=0)


def test_a_server_with_identities_needs_a_key_and_a_directory() -> None:
    offer = Network.make(4, mode="malicious").offer
    with pytest.raises(LocalProtocolError, match="signer"):
        Server(offer)
    with pytest.raises(LocalProtocolError, match="directory"):
        Server(offer, signer=signer_of(b"the server"))


@pytest.mark.parametrize("workers", [1, 3, "threads", "processes"])
def test_workers_change_nothing(workers: int | str) -> None:
    spec = VectorSpec("x", 300_000, 32)
    net = Network.make(5, vectors=[spec], rounds=2).set_up()
    vectors = net.vectors()
    context = multiprocessing.get_context("spawn")
    with ThreadPoolExecutor(2) as threads, ProcessPoolExecutor(1, mp_context=context) as processes:
        hands = {"threads": threads, "processes": processes}.get(str(workers), workers)
        for identity, start in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
            net.tell(identity, start)
            alone = net.restored(identity).submit(vectors[identity], model_digest=MODEL, plan_digest=PLAN)
            message = net.clients[identity].submit(
                vectors[identity], model_digest=MODEL, plan_digest=PLAN, workers=hands
            )
            assert message == alone
            if identity != B:
                net.send(identity, message)
        for identity, survivors in net.server.close_inputs().items():
            net.send(identity, net.tell(identity, survivors))
        result = net.server.close_unmask(workers=hands)
    expected = sum(vectors[identity]["x"].astype(np.uint64) for identity in result.survivors) % 2**32
    assert np.array_equal(result.sums["x"], expected)


def test_the_server_holds_the_shares_of_set_up_once_and_frees_them_with_the_mail() -> None:
    n, rounds = 30, 40
    net = Network.make(n, rounds=rounds, dropout=0.2)
    replies = {identity: net.tell(identity, roster) or b"" for identity, roster in net.advertise().items()}
    total = sum(map(len, replies.values()))
    assert total > n * (n - 1) * 72 * rounds
    tracemalloc.start()
    for identity, reply in replies.items():
        net.server.receive(identity, reply)
    mail = net.server.close_shares()
    for identity in mail:
        assert len(mail[identity]) > total // n - 200
    held, peak = tracemalloc.get_traced_memory()
    del mail
    left = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert held < 1.1 * total
    assert peak < 1.3 * total
    assert left < 0.1 * total
