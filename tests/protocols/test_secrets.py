"""Where secrets may be: in a client's memory and in its saved bytes, until their round is over. Nowhere else."""

from __future__ import annotations

import copy
import logging
import os
import traceback

import msgspec
import numpy as np
import pytest

from privfed_protocols import (
    Client,
    ClientState,
    CorruptState,
    LocalProtocolError,
    PeerProtocolError,
    RoundFailed,
    SecondSurvivors,
    client_setup,
    opening,
    saved,
)
from privfed_protocols.labels import SAVED_CLIENT
from privfed_protocols.messages import Unmask, decode_from_client
from privfed_protocols.primitives import digest
from tests.protocols.harness import MODEL, PLAN, Network, identities, reduced, replace, seeded

A, B, C, D, E = identities(5)


def secrets_of(client: Client) -> list[bytes]:
    """All secrets a client holds, each in one piece."""
    vault = client._vault
    if vault is None:
        return []
    found = [bytes(vault.channel), bytes(vault.sharing_seed)]
    for number in range(1, vault.rounds + 1):
        found += [bytes(vault.key(number)), bytes(vault.seed(number))]
    found += [row.tobytes() for row in vault.held.reshape(-1, 36)]
    return [one for one in found if any(one)]


def forms(secret: bytes) -> list[str]:
    """How bytes show in text."""
    return [repr(secret), secret.hex(), repr(list(secret)), repr(secret)[2:-1]]


def assert_silent(text: str, secrets: list[bytes]) -> None:
    for secret in secrets:
        for form in forms(secret):
            assert form not in text


def test_nothing_shows_a_secret() -> None:
    net = Network.make(5, dropout=0.2, rounds=2)
    shown: list[object] = []
    for identity, roster in net.advertise().items():
        net.send(identity, net.tell(identity, roster))
    secrets = [one for client in net.clients.values() for one in secrets_of(client)]
    for identity, delivery in net.server.close_shares().items():
        shown.append(net.clients[identity].receive(delivery, now=0))
    secrets += [one for client in net.clients.values() for one in secrets_of(client)]
    started = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
    vectors = net.vectors()
    for identity, start in started.items():
        shown.append(net.clients[identity].receive(start, now=0))
        message = net.clients[identity].submit(vectors[identity], model_digest=MODEL, plan_digest=PLAN)
        shown += [net.server.receive(identity, message), decode_from_client(message, limit=10**6)]
    for identity, survivors in net.server.close_inputs().items():
        event = net.clients[identity].receive(survivors, now=0)
        assert event.reply is not None
        shown += [event, net.server.receive(identity, event.reply), decode_from_client(event.reply, limit=10**6)]
    current = net.server._round
    assert current is not None
    opened = opening.open_secrets(
        current, offer=net.offer, roster=net.server._require_roster(), epoch=net.server._epoch
    )
    secrets += opened.seeds.values()
    shown += [opened, current, net.server, net.server._roster, net.server.slots, net.server.close_unmask()]
    for client in net.clients.values():
        shown += [client, client._vault, client._view, client._round, vars(client)]
        shown += [saved.unpack(client.save()), saved.unpack(client.save()).vault]
    for one in shown:
        assert_silent(f"{one!r} {one!s}", secrets)
    assert repr(net.clients[A]) == "<Client READY>"
    assert repr(Client(A)) == "<Client NEW>"


def test_no_refusal_shows_a_secret_or_writes_a_log(caplog: pytest.LogCaptureFixture) -> None:
    """Every message, garbled in every field, to either side."""
    caplog.set_level(logging.DEBUG)
    net = Network.make(4, rounds=2).set_up()
    secrets = [one for client in net.clients.values() for one in secrets_of(client)]
    vectors = net.vectors()
    mail = net.inputs(vectors)
    texts = []
    for identity, survivors in mail.items():
        client = Client.restore(net.clients[identity].save())
        reply = client.receive(survivors, now=0).reply
        assert reply is not None
        for message in (survivors[:-1], survivors + b"\0", reply):
            other = Client.restore(net.clients[identity].save())
            with pytest.raises(PeerProtocolError) as caught:
                other.receive(message, now=0)
            texts.append("".join(traceback.format_exception(caught.value)))
        shares = bytearray(msgspec.msgpack.decode(reply, type=Unmask).shares)
        shares[3] = 0xFF
        for message in (reply[:-1], reply + b"\0", replace(reply, Unmask, shares=memoryview(bytes(shares)))):
            with pytest.raises(PeerProtocolError) as caught:
                net.server.receive(identity, message)
            texts.append("".join(traceback.format_exception(caught.value)))
    with pytest.raises(RoundFailed) as failed:
        net.server.close_unmask()
    texts.append(str(failed.value))
    assert len(texts) == 25
    assert_silent("".join(texts), secrets)
    assert not caplog.records


def test_nothing_that_must_exist_once_is_copied_or_pickled() -> None:
    net = Network.make(3).set_up()
    net.inputs(net.vectors())
    client = net.clients[A]
    for attempt in (copy.copy, copy.deepcopy, reduced):
        with pytest.raises(TypeError, match="save"):
            attempt(client)
        for held in (client._vault, client._round, net.server, net.server._round):
            with pytest.raises(TypeError, match="not copied or pickled"):
                attempt(held)


def test_a_forked_client_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a fork sees: the same object under another process number."""
    net = Network.make(3).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
    net.tell(A, start)
    client, parent = net.clients[A], os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    for attempt in (
        lambda: client.receive(start, now=0),
        lambda: client.submit(net.vectors()[A], model_digest=MODEL, plan_digest=PLAN),
        client.save,
    ):
        with pytest.raises(LocalProtocolError, match="exactly one process"):
            attempt()
    assert Client.restore(net.saved[A]).submit(net.vectors()[A], model_digest=MODEL, plan_digest=PLAN)
    monkeypatch.undo()
    assert client.state is ClientState.STARTED
    assert client.submit(net.vectors()[A], model_digest=MODEL, plan_digest=PLAN)


def test_making_shares_overwrites_its_arrays(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Network.make(3)
    roster = net.advertise()[A]
    made: list[np.ndarray] = []

    def keeping(inner):
        def kept(*args: object, **kwargs: object) -> np.ndarray:
            made.append(inner(*args, **kwargs))
            assert made[-1].any()
            return made[-1]

        return kept

    for name in ("to_limbs", "share"):
        monkeypatch.setattr(client_setup, name, keeping(getattr(client_setup, name)))
    net.tell(A, roster)
    assert len(made) == 3
    assert not any(array.any() for array in made)


class TestErasure:
    """What is left in memory and in saved bytes after each step."""

    @pytest.fixture
    def net(self) -> Network:
        return Network.make(4, rounds=3)

    def test_sharing_seed_goes_when_shares_are_made_and_channel_key_when_they_are_opened(self, net: Network) -> None:
        rosters = net.advertise()
        vault = net.clients[A]._vault
        assert vault is not None
        channel, seed = bytes(vault.channel), bytes(vault.sharing_seed)
        for secret in (channel, seed):
            assert secret in net.saved[A]
        for identity, roster in rosters.items():
            net.send(identity, net.tell(identity, roster))
        assert not any(vault.sharing_seed)
        assert seed not in net.saved[A]
        assert channel in net.saved[A]
        net.tell(A, net.server.close_shares()[A])
        assert not any(vault.channel)
        assert channel not in net.saved[A]

    def test_own_secrets_go_with_the_vector_and_shares_with_the_answer(self, net: Network) -> None:
        net.set_up()
        client = net.clients[A]
        vault = client._vault
        assert vault is not None
        key, seed, held = bytes(vault.key(1)), bytes(vault.seed(1)), vault.held[0].tobytes()
        mail = net.inputs(net.vectors())
        for secret in (key, seed):
            assert secret not in net.saved[A]
        assert held in net.saved[A]
        assert not any([*vault.key(1), *vault.seed(1)])
        net.tell(A, mail[A])
        assert held not in net.saved[A]
        assert not vault.held[0].any()
        assert vault.held[1:].any(axis=(1, 2)).all()
        assert any(vault.key(2))

    @pytest.mark.parametrize("burn", ["burn", "refusal", "later start"])
    def test_burned_rounds_leave_nothing(self, net: Network, burn: str) -> None:
        net.set_up()
        client = net.clients[A]
        vault = client._vault
        assert vault is not None
        gone = [bytes(vault.key(1)), bytes(vault.seed(1)), *(row.tobytes() for row in vault.held[0].reshape(-1, 36))]
        start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
        client.receive(start, now=0)
        assert all(one in client.save() for one in gone)
        if burn == "burn":
            client.burn()
        elif burn == "refusal":
            with pytest.raises(PeerProtocolError):
                client.receive(b"", now=0)
        else:
            from privfed_protocols.messages import Start

            client.receive(replace(start, Start, round=2), now=0)
        assert not any(one in client.save() for one in gone)
        assert not any([*vault.key(1), *vault.seed(1), *vault.held[0].reshape(-1)])

    def test_aborted_clients_keep_nothing(self, net: Network) -> None:
        net.set_up()
        late = Network.make(4)
        late.advertise()
        client = late.clients[A]
        secrets = secrets_of(client)
        assert len(secrets) == 8
        with pytest.raises(PeerProtocolError):
            client.receive(b"", now=0)
        assert client.state is ClientState.ABORTED
        assert secrets_of(client) == []
        assert not any(secret in client.save() for secret in secrets)
        assert Client.restore(client.save()).state is ClientState.ABORTED

    def test_a_finished_epoch_leaves_nothing(self, net: Network) -> None:
        net.set_up()
        secrets = [one for client in net.clients.values() for one in secrets_of(client)]
        for number in range(3):
            net.round(net.vectors(number))
        for client in net.clients.values():
            assert secrets_of(client) == []
            data = client.save()
            assert not any(secret in data for secret in secrets)

    def test_round_numbers_may_be_skipped_and_skipped_secrets_go_too(self, net: Network) -> None:
        from privfed_protocols.messages import Start

        net.set_up()
        client = net.clients[A]
        vault = client._vault
        assert vault is not None
        start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
        client.receive(replace(start, Start, round=3), now=0)
        for number in (1, 2):
            assert not any([*vault.key(number), *vault.seed(number), *vault.held[number - 1].reshape(-1)])


class TestSaving:
    def test_a_client_can_be_saved_and_restored_between_any_two_messages(self) -> None:
        plain, restarted = (Network.make(5, dropout=0.4, rounds=3, restart_always=flag) for flag in (False, True))
        for net in (plain, restarted):
            net.set_up()
        for number in range(3):
            results = [net.round(net.vectors(number), lost_input=[identities(5)[number]]) for net in (plain, restarted)]
            assert np.array_equal(results[0].sums["x"], results[1].sums["x"])
            assert results[0].survivors == results[1].survivors
        assert plain.saved == restarted.saved

    def test_a_new_client_can_be_saved(self) -> None:
        client = Client.restore(Client(A).save(), randomness=seeded(0))
        assert client.identity == A
        assert client.state is ClientState.NEW

    def test_a_restored_client_does_not_mask_twice(self) -> None:
        net = Network.make(4).set_up()
        mail = net.inputs(net.vectors())
        again = Client.restore(net.saved[A])
        with pytest.raises(LocalProtocolError):
            again.submit(net.vectors(1)[A], model_digest=MODEL, plan_digest=PLAN)
        assert again.receive(mail[A], now=0).reply

    @pytest.mark.parametrize("moment", ["masked", "answered", "burned"])
    def test_a_restored_client_does_not_start_a_burned_round_again(self, moment: str) -> None:
        net = Network.make(4).set_up()
        start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[A]
        net.tell(A, start)
        if moment == "burned":
            net.clients[A].burn()
            net.keep(A)
        else:
            net.submit(A, net.vectors()[A])
            if moment == "answered":
                from privfed_protocols.messages import Survivors

                epoch = net.clients[A]._epoch
                net.tell(A, msgspec.msgpack.encode(Survivors("sa1", epoch, 1, b"\x0f")))
        again = Client.restore(net.saved[A])
        with pytest.raises(PeerProtocolError):
            again.receive(start, now=0)
        with pytest.raises(PeerProtocolError):
            Client.restore(again.save()).receive(start, now=0)

    def test_a_restored_client_knows_what_it_answered(self) -> None:
        net = Network.make(4).set_up()
        mail = net.inputs(net.vectors())
        net.tell(A, mail[A])
        with pytest.raises(SecondSurvivors):
            Client.restore(net.saved[A]).receive(mail[A], now=0)

    def test_a_state_of_an_earlier_round_is_refused(self) -> None:
        net = Network.make(4).set_up()
        old = net.saved[A]
        net.round(net.vectors())
        last = net.clients[A].last_round
        assert last == 1
        assert Client.restore(net.saved[A], at_least_round=last).last_round == last
        with pytest.raises(LocalProtocolError, match="older state"):
            Client.restore(old, at_least_round=last)

    def test_damage_is_found(self) -> None:
        data = Network.make(3).set_up().clients[A].save()
        for place in range(0, len(data), 7):
            damaged = bytearray(data)
            damaged[place] ^= 1
            with pytest.raises(CorruptState):
                Client.restore(bytes(damaged))
        for cut in (b"", data[:31], data[:32], data[:-1], data + b"\0"):
            with pytest.raises(CorruptState):
                Client.restore(cut)

    @pytest.mark.parametrize("place", range(12))
    def test_states_of_another_version_are_refused(self, place: int) -> None:
        """With a checksum that fits: another program wrote them."""
        body = msgspec.msgpack.decode(Network.make(3).set_up().clients[A].save()[32:])
        body[place] = {"x": 1}
        altered = msgspec.msgpack.encode(body)
        with pytest.raises(CorruptState, match="version"):
            Client.restore(digest(SAVED_CLIENT, altered) + altered)

    @pytest.mark.parametrize("place", range(9))
    def test_vaults_that_do_not_fit_together_are_refused(self, place: int) -> None:
        body = msgspec.msgpack.decode(Network.make(3).set_up().clients[A].save()[32:])
        vault = body[6]
        vault[place] = vault[place] + 1 if isinstance(vault[place], int) else vault[place] + b"x"
        altered = msgspec.msgpack.encode(body)
        with pytest.raises(CorruptState):
            Client.restore(digest(SAVED_CLIENT, altered) + altered)
