"""Epochs one after the other: clients join, sit out, come back and restart, and no mask is ever made twice."""

from __future__ import annotations

from collections.abc import Iterator
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_protocols import Client, ClientState, RoundFailed, VectorSpec, client_round
from privfed_protocols.masks import Mask, mask_into
from privfed_protocols.messages import Start
from privfed_protocols.modes import ModeName
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace

NAMES = A, B, C, D, E, F, G, H = identities(8)


class MaskWatch:
    """All mask keys that clients ever used: a pair mask by the two of a pair in one round, anything else once."""

    def __init__(self) -> None:
        self.seen: dict[bytes, list[tuple[object, bool]]] = {}
        self.where: object = None

    def __call__(self, source: np.ndarray, target: np.ndarray, masks: list[Mask], **how: object) -> None:
        for mask in masks:
            self.seen.setdefault(mask.key, []).append((self.where, mask.subtract))
        mask_into(source, target, masks, **how)  # type: ignore[arg-type]

    def check(self) -> None:
        for uses in self.seen.values():
            places, signs = [where for where, _ in uses], [sign for _, sign in uses]
            assert len(uses) <= 2
            assert len(set(places)) == len(places), "one client used a mask twice"
            if len(uses) == 2:
                assert signs[0] != signs[1], "the two of a pair do not cancel"
                assert len({place[:2] for place in places}) == 1, "a pair mask in two rounds"  # type: ignore[index]


@pytest.fixture
def watch() -> Iterator[MaskWatch]:
    watch = MaskWatch()
    with mock.patch.object(client_round, "mask_into", watch):
        yield watch
    watch.check()
    assert watch.seen


class Watched(Network):
    """A network that tells the watch where masks are made."""

    watch: MaskWatch
    epoch: int = 0

    def submit(self, identity, vectors):  # type: ignore[no-untyped-def]
        self.watch.where = (self.epoch, self.server.round, identity)
        return super().submit(identity, vectors)


def network(watch: MaskWatch, epoch: int, n: int, *, seed: object = None, **offered: object) -> Watched:
    net = Watched.make(n, seed=(epoch if seed is None else seed), **offered)  # type: ignore[arg-type]
    assert isinstance(net, Watched)
    net.watch, net.epoch = watch, epoch
    return net


@pytest.mark.parametrize("mode", ["semi-honest", "semi-malicious", "malicious"])
def test_clients_join_at_the_next_epoch(watch: MaskWatch, mode: ModeName) -> None:
    """The same vectors in every round of every epoch: equal masks would show as equal messages."""
    sent: set[bytes] = set()
    for epoch, n in enumerate((4, 6, 5)):
        net = network(watch, epoch, n, mode=mode, dropout=0.17, rounds=2).set_up()
        same = {name: {"x": np.arange(5, dtype=np.uint32)} for name in net.clients}
        for _ in range(2):
            for identity, start in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
                net.tell(identity, start)
                message = net.submit(identity, same[identity])
                assert message not in sent
                sent.add(message)
                net.send(identity, message)
            mail = net.server.close_inputs()
            mail = net.quorum(mail) if mode == "malicious" else mail
            for identity, message in mail.items():
                net.send(identity, net.tell(identity, message))
            assert_exact(net.server.close_unmask(), same, net.offer.vectors)


@pytest.mark.parametrize("mode", ["semi-honest", "malicious"])
def test_sitting_out_coming_back_and_restarting(watch: MaskWatch, mode: ModeName) -> None:
    net = network(watch, 0, 8, mode=mode, dropout=0.3, rounds=6, n_min=4, restart_always=True).set_up()
    everybody = set(NAMES)
    for number, (resting, lost) in enumerate(
        [((A,), ()), ((), (A,)), ((H, G), ()), ((), ()), ((A,), (B,)), ((), (H, A))]
    ):
        vectors = net.vectors(number)
        result = net.round(vectors, participants=sorted(everybody - {*resting}), lost_input=list(lost))
        assert set(result.participants) == everybody - {*resting}
        assert set(result.survivors) == everybody - {*resting, *lost}
        assert_exact(result, vectors, net.offer.vectors)


def test_a_failed_round_is_not_run_again_under_the_same_masks(watch: MaskWatch) -> None:
    net = network(watch, 0, 5, dropout=0.2, rounds=4).set_up()
    vectors = net.vectors()
    with pytest.raises(RoundFailed):
        net.round(vectors, lost_input=[A, B])
    with pytest.raises(RoundFailed):
        net.round(vectors, lost_unmask=[A, B, C])
    assert_exact(net.round(vectors), vectors, net.offer.vectors)


def test_the_same_offer_twice_gives_other_secrets(watch: MaskWatch) -> None:
    """A server that replays an epoch, bytes and all: clients draw fresh secrets, so nothing repeats."""
    first = network(watch, 0, 4, rounds=1, seed="replayed").set_up()
    again = network(watch, 1, 4, rounds=1, seed="replayed")
    for name in again.clients:
        again.clients[name] = Client(name)
    assert again.server.offer == first.server.offer
    again.set_up()
    for net in (first, again):
        vectors = net.vectors()
        assert_exact(net.round(vectors), vectors, net.offer.vectors)


def test_one_client_in_two_epochs_at_once(watch: MaskWatch) -> None:
    nets = [network(watch, epoch, 4, rounds=2).set_up() for epoch in range(2)]
    for number in range(2):
        for net in nets:
            vectors = net.vectors(number)
            assert_exact(net.round(vectors), vectors, net.offer.vectors)


@given(st.lists(st.sampled_from(["start", "submit", "crash", "burn", "skip"]), min_size=4, max_size=24))
@settings(max_examples=60, deadline=None)
def test_whatever_a_driver_does_a_client_masks_a_round_once(course: list[str]) -> None:
    """Starts, crashes before and after the saving, and gives up in any order: two messages never share a key."""
    watch = MaskWatch()
    net = network(watch, 0, 3, rounds=8, vectors=[VectorSpec("x", 2, 7)]).set_up()
    client, saved, number = net.clients[A], net.saved[A], 0
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
    with mock.patch.object(client_round, "mask_into", watch):
        for what in course:
            if what == "start" and number < 8:
                number += 1
                client.receive(replace(start, Start, round=number), now=0)
                saved = client.save()
            elif what == "submit" and client.state is ClientState.STARTED:
                watch.where = (0, client.round, "sent", number)
                vectors = {"x": np.zeros(2, np.uint8)}
                before = dict(watch.seen)
                client.submit(vectors, model_digest=MODEL, plan_digest=PLAN)
                assert not {key for key in watch.seen if key in before and len(watch.seen[key]) > len(before[key])}
                saved = client.save()
            elif what == "crash":
                client = Client.restore(saved)
            elif what == "burn":
                client.burn()
                saved = client.save()
            elif what == "skip":
                number = min(8, number + 1)


def test_a_server_key_signs_for_any_number_of_epochs() -> None:
    offers = {Network.make(3, mode="malicious", seed=seed).server.offer for seed in range(3)}
    assert len(offers) == 3
