"""Several threads inside one client or one server: one call at a time, whichever two meet.

Each test stops the first call half-way, lets a second thread call, and goes on when that thread waits for the lock or
has done what it came for. So the order is the same every time, with the lock and without it.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import ModuleType

import pytest

from privfed_protocols import (
    Client,
    ClientState,
    Credentials,
    DuplicateMessage,
    LateMessage,
    LocalProtocolError,
    ProtocolError,
    SecondSurvivors,
    Server,
    ServerState,
    Signer,
    bitmap,
    server_round,
)
from privfed_protocols import client as client_module
from privfed_protocols import server as server_module
from privfed_protocols.exclusive import Exclusive
from privfed_protocols.messages import Survivors, encode
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, signer_of

A, B, C, D = identities(4)
_PATIENCE = 30.0  # seconds until a test that hangs fails


class WatchedLock:
    """A lock that tells when somebody has to wait for it."""

    def __init__(self, inner: threading.Lock, waiting: threading.Event) -> None:
        self.inner, self.waiting = inner, waiting

    def __enter__(self) -> None:
        if self.inner.locked():
            self.waiting.set()
        assert self.inner.acquire(timeout=_PATIENCE)

    def __exit__(self, *_: object) -> None:
        self.inner.release()


class Meeting:
    """Has a second call begin while the first is inside `place`."""

    def __init__(self, owner: Exclusive) -> None:
        self.met = threading.Event()
        self.owner, self.second, self.result = owner, lambda: None, Future()
        self.entered = 0
        owner._lock = WatchedLock(owner._lock, self.met)  # type: ignore[assignment]

    def at(self, place: Callable[..., object]) -> Callable[..., object]:
        """The function, stopped the first time that it is called."""

        def stopped(*args: object, **kwargs: object) -> object:
            self.entered += 1
            if self.entered == 1:
                threading.Thread(target=self._come, daemon=True).start()
                assert self.met.wait(_PATIENCE)
            return place(*args, **kwargs)

        return stopped

    def _come(self) -> None:
        try:
            self.result.set_result(self.second())
        except Exception as error:  # noqa: BLE001 -- handed to the test
            self.result.set_exception(error)
        self.met.set()

    def of(self, first: Callable[[], object], second: Callable[[], object]) -> list[object]:
        """What both calls gave, or raised."""
        self.second = second
        with ThreadPoolExecutor(1) as pool:
            futures = [pool.submit(first), self.result]
            return [future.exception(_PATIENCE) or future.result() for future in futures]


def stop(monkeypatch: pytest.MonkeyPatch, meeting: Meeting, module: ModuleType, name: str) -> None:
    monkeypatch.setattr(module, name, meeting.at(getattr(module, name)))


@pytest.fixture
def net() -> Network:
    return Network.make(4, dropout=0.3, n_min=2).set_up()


def started(net: Network) -> Client:
    net.tell(A, net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A])
    return net.clients[A]


def vector_of(net: Network, seed: int, identity: bytes = A) -> Callable[[], bytes]:
    vectors = net.vectors(seed)[identity]
    return lambda: net.clients[identity].submit(vectors, model_digest=MODEL, plan_digest=PLAN)


class TestClient:
    def test_two_vectors_are_not_masked_with_the_same_masks(
        self, net: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meeting = Meeting(started(net))
        stop(monkeypatch, meeting, client_module, "make_masked")
        first, second = meeting.of(vector_of(net, 1), vector_of(net, 2))
        assert isinstance(first, bytes)
        assert isinstance(second, LocalProtocolError)
        assert meeting.entered == 1

    def test_what_is_saved_meanwhile_masks_no_second_vector(
        self, net: Network, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        client = started(net)
        meeting = Meeting(client)
        stop(monkeypatch, meeting, client_module, "make_masked")
        _, saved = meeting.of(vector_of(net, 1), client.save)
        assert isinstance(saved, bytes)
        assert Client.restore(saved).state is ClientState.MASKED

    def test_a_round_that_is_burned_meanwhile_stays_burned(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        client = started(net)
        meeting = Meeting(client)
        stop(monkeypatch, meeting, client_module, "make_masked")
        meeting.of(vector_of(net, 1), client.burn)
        assert (client.state, client.round) == (ClientState.READY, 0)

    def test_two_sets_of_survivors_are_not_both_answered(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        mail = net.inputs(net.vectors())
        client = net.clients[A]
        other = Survivors("sa1", net.server._epoch, 1, bitmap.pack([0, 1, 2], 4))
        meeting = Meeting(client)
        stop(monkeypatch, meeting, client_module, "make_unmask")
        first, second = meeting.of(lambda: client.receive(mail[A], now=0), lambda: client.receive(encode(other), now=0))
        assert not isinstance(first, Exception)
        assert isinstance(second, SecondSurvivors)
        assert meeting.entered == 1

    def test_two_sets_of_survivors_are_not_both_signed(self) -> None:
        net = Network.make(4, mode="malicious", dropout=0.25, n_min=2).set_up()
        mail, client = net.inputs(net.vectors()), net.clients[A]
        body = encode(Survivors("sa1", net.server._epoch, 1, bitmap.pack([0, 1, 2], 4)))
        other = net.server._dressed(Survivors, body, epoch=net.server._epoch)
        meeting = Meeting(client)
        credentials = client._credentials
        assert credentials is not None
        slow = Signer(meeting.at(credentials.signer.sign), public_key=credentials.signer.public_key)  # type: ignore[arg-type]
        client._credentials = Credentials(slow, credentials.directory, credentials.server_key)
        first, second = meeting.of(lambda: client.receive(mail[A], now=0), lambda: client.receive(other, now=0))
        assert not isinstance(first, Exception)
        assert isinstance(second, SecondSurvivors)
        assert meeting.entered == 1


class TestServer:
    @pytest.fixture
    def messages(self, net: Network) -> dict[bytes, bytes]:
        """The masked vectors of a round, on their way."""
        mail = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        for identity, start in mail.items():
            net.tell(identity, start)
        return {identity: net.submit(identity, vectors) for identity, vectors in net.vectors().items()}

    def finish(self, net: Network) -> None:
        """Open the round, and see that all four vectors are in the sum, once each."""
        if net.server.state is ServerState.INPUTS:
            net.server.close_inputs()
        survivors = Survivors("sa1", net.server._epoch, 1, bitmap.pack(range(4), 4))
        for identity in net.clients:
            net.send(identity, net.tell(identity, encode(survivors)))
        result = net.server.close_unmask()
        assert set(result.survivors) == set(net.clients)
        assert_exact(result, net.vectors(), net.offer.vectors)

    def test_a_vector_that_arrives_twice_at_once_is_added_once(
        self, net: Network, messages: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        meeting = Meeting(net.server)
        stop(monkeypatch, meeting, server_round, "add_packed")
        _, second = meeting.of(*[lambda: net.server.receive(A, messages[A])] * 2)
        assert isinstance(second, DuplicateMessage)
        for identity in (B, C, D):
            net.send(identity, messages[identity])
        self.finish(net)

    def test_inputs_are_closed_after_the_vector_that_is_being_added(
        self, net: Network, messages: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for identity in (B, C, D):
            net.send(identity, messages[identity])
        meeting = Meeting(net.server)
        stop(monkeypatch, meeting, server_round, "add_packed")
        _, mail = meeting.of(lambda: net.server.receive(A, messages[A]), net.server.close_inputs)
        assert not isinstance(mail, Exception)
        self.finish(net)

    def test_a_sum_is_opened_once(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        for identity, survivors in net.inputs(net.vectors()).items():
            net.send(identity, net.tell(identity, survivors))
        meeting = Meeting(net.server)
        stop(monkeypatch, meeting, server_module, "open_secrets")
        first, second = meeting.of(net.server.close_unmask, net.server.close_unmask)
        assert isinstance(second, LocalProtocolError)
        assert meeting.entered == 1
        assert_exact(first, net.vectors(), net.offer.vectors)  # type: ignore[arg-type]

    def test_a_round_is_started_once(self, net: Network, monkeypatch: pytest.MonkeyPatch) -> None:
        meeting = Meeting(net.server)
        stop(monkeypatch, meeting, server_module, "ServerRound")
        _, second = meeting.of(*[lambda: net.server.start_round(model_digest=MODEL, plan_digest=PLAN)] * 2)
        assert isinstance(second, LocalProtocolError)
        assert net.server.round == 1

    def test_answers_that_arrive_while_a_step_is_closed_are_late(
        self, net: Network, messages: dict[bytes, bytes], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for identity in (B, C, D):
            net.send(identity, messages[identity])
        meeting = Meeting(net.server)
        stop(monkeypatch, meeting, server_module, "Survivors")
        _, second = meeting.of(net.server.close_inputs, lambda: net.server.receive(A, messages[A]))
        assert isinstance(second, LateMessage)
        assert net.server._require_round().masked == {1, 2, 3}


def calls(owner: Client | Server) -> dict[str, Callable[[], object]]:
    """Every call that has to run alone."""
    if isinstance(owner, Client):
        return {
            "receive": lambda: owner.receive(b"", now=0),
            "submit": lambda: owner.submit({}, model_digest=MODEL, plan_digest=PLAN),
            "save": owner.save,
            "burn": owner.burn,
        }
    return {
        "receive": lambda: owner.receive(A, b""),
        "start_round": lambda: owner.start_round(model_digest=MODEL, plan_digest=PLAN),
        "close_advertise": owner.close_advertise,
        "close_shares": owner.close_shares,
        "close_inputs": owner.close_inputs,
        "close_signatures": owner.close_signatures,
        "close_unmask": owner.close_unmask,
    }


@pytest.mark.parametrize("kind", [Client, Server])
def test_every_call_that_changes_something_is_among_these(net: Network, kind: type[Client] | type[Server]) -> None:
    owner = net.clients[A] if kind is Client else net.server
    methods = {name for name in dir(kind) if not name.startswith("_") and inspect.isfunction(getattr(kind, name))}
    assert methods == set(calls(owner))


@pytest.mark.parametrize("kind", [Client, Server])
def test_a_call_from_inside_another_is_refused(net: Network, kind: type[Client] | type[Server]) -> None:
    """It would wait for itself for ever."""
    owner = net.clients[A] if kind is Client else net.server
    owner._inside = threading.get_ident()
    for name, call in calls(owner).items():
        with pytest.raises(LocalProtocolError, match=f"^{name} from inside another call of this {kind.__name__}"):
            call()


def test_a_signer_that_calls_its_client_is_refused() -> None:
    net = Network.make(4, mode="malicious", dropout=0.25, n_min=2)
    client = net.clients[A]
    signer = Signer(lambda message: client.save(), public_key=signer_of(A).public_key)
    client._credentials = Credentials(signer, net.credentials[A].directory, net.credentials[A].server_key)
    with pytest.raises(LocalProtocolError, match="from inside"):
        client.receive(net.server.offer, now=0)
    assert client.state is ClientState.NEW
    assert client.save()


@pytest.mark.parametrize("kind", [Client, Server])
@pytest.mark.parametrize("held", [False, True])
def test_a_fork_is_refused_whoever_held_the_lock(
    net: Network, kind: type[Client] | type[Server], held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It sees the same object under another process number, and a lock that nobody there will ever release."""
    owner, parent = net.clients[A] if kind is Client else net.server, os.getpid()
    before = (owner.state, owner.round)
    if held:
        owner._lock.acquire()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for call in calls(owner).values():
        with pytest.raises(LocalProtocolError, match=f"this {kind.__name__} belongs to process {parent}"):
            call()
    assert (owner.state, owner.round) == before


def test_a_call_that_fails_leaves_the_lock_free(net: Network) -> None:
    for call in (*calls(net.clients[A]).values(), *calls(net.server).values()):
        with contextlib.suppress(ProtocolError):
            call()
    assert not net.clients[A]._lock.locked()
    assert not net.server._lock.locked()
