"""Both machines tied together, with everything between them going wrong.

Hypothesis drives clients that join, fall silent, lag, restart from saved bytes, crash before they save, and a network
that loses, delays, reorders, repeats and garbles; a server that sometimes lies about who survived or what was
started. In malicious mode it also signs its lies, has corrupt clients sign them too, and makes the best quorum that can
be had for each of them. Whatever it does:

- an opened sum is the survivors' sum, bit for bit, or the round fails closed;
- no client ever gives out both shares of one (client, round), nor two masked vectors for one round;
- no client uses a mask key twice, over all rounds and epochs;
- rounds only ascend, through any restart;
- no secret of a burned round is in a saved state;
- in malicious mode no client signs twice in a round, and all honest clients that answer answer the same survivors.
"""

from __future__ import annotations

import collections
from unittest import mock

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from privfed_protocols import (
    Client,
    ClientState,
    DigestMismatch,
    EpochFailed,
    Offer,
    PeerProtocolError,
    Ready,
    RoundFailed,
    RoundStarted,
    Server,
    ServerState,
    Signing,
    SlotState,
    Unmasking,
    VectorSpec,
    bitmap,
    client_round,
    derivation,
)
from privfed_protocols.events import Advertise, ClientEvent
from privfed_protocols.masks import mask_into
from privfed_protocols.messages import Consistency, Quorum, Start, Survivors, Unmask
from privfed_protocols.modes import ModeName
from privfed_protocols.signed import fingerprint_of, is_signed, statement, wrap
from tests.protocols.harness import (
    MODEL,
    PLAN,
    assert_exact,
    credentials_of,
    identities,
    random_vectors,
    replace,
    signer_of,
)

SPECS = (VectorSpec("narrow", 3, 5), VectorSpec("wide", 2, 64))
IN_ROUNDS = (ClientState.READY, ClientState.STARTED, ClientState.MASKED, ClientState.SIGNED)
tally: collections.Counter[str] = collections.Counter()


class Epoch(RuleBasedStateMachine):
    """A server, its clients and the mail between them."""

    MODE: ModeName = "semi-honest"
    FRACTIONS = ((0.0, 0.0), (0.0, 0.34), (0.0, 0.5), (0.2, 0.4))

    @initialize(n=st.integers(3, 6), rounds=st.integers(1, 4), fractions=st.data())
    def begin(self, n: int, rounds: int, fractions: st.DataObject) -> None:
        fractions = fractions.draw(st.sampled_from(self.FRACTIONS))
        self.rng = np.random.default_rng(n)
        self.used: dict[bytes, set[bytes]] = collections.defaultdict(set)  # mask keys by client, over all epochs
        self.settings = (n, rounds, *fractions)
        self.new_epoch()

    def new_epoch(self) -> None:
        n, rounds, corrupt, dropout = self.settings
        offer = Offer.new(
            vectors=SPECS,
            n_min=2,
            n_max=n,
            rounds=rounds,
            plan_digest=PLAN,
            corrupt=corrupt,
            dropout=dropout,
            mode=self.MODE,
        )
        self.credentials = credentials_of(identities(n)) if offer.rules.identities else {}
        directory = next((one.directory for one in self.credentials.values()), None)
        self.server = Server(offer, signer=signer_of(b"the server"), directory=directory)
        self.corrupt = frozenset(range(n - int(corrupt * n), n))
        self.clients = {
            identity: Client(identity, credentials=self.credentials.get(identity)) for identity in identities(n)
        }
        self.signed: dict[tuple[int, bytes], dict[int, bytes]] = collections.defaultdict(dict)  # by (round, V)
        self.signers: set[tuple[bytes, int]] = set()
        self.agreed: dict[int, tuple[int, ...]] = {}
        self.saved = {identity: client.save() for identity, client in self.clients.items()}
        self.to_server: list[tuple[bytes, bytes]] = []
        self.to_client = [(identity, self.server.offer) for identity in self.clients]
        self.old_to_server: list[tuple[bytes, bytes]] = []
        self.old_to_client: list[tuple[bytes, bytes]] = []
        self.own: dict[bytes, list[tuple[bytes, bytes]]] = {}  # (e, b) by round
        self.held: dict[bytes, np.ndarray] = {}  # shares by round, neighbour, kind
        self.invited: dict[bytes, tuple[int, ...]] = {}  # participants, as the client was told
        self.masked: set[tuple[bytes, int]] = set()
        self.given: dict[int, dict[bytes, dict[str, np.ndarray]]] = collections.defaultdict(dict)
        self.revealed: dict[tuple[bytes, int, int], int] = {}
        self.deceived: set[int] = set()

    # --- what a driver does

    def restored(self, identity: bytes) -> Client:
        return Client.restore(self.saved[identity], credentials=self.credentials.get(identity))

    def persist(self, identity: bytes) -> None:
        """Save a client, and look into what was saved."""
        client = self.clients[identity]
        before = self.restored(identity)
        data = client.save()
        assert client.last_round >= before.last_round
        for number, (key, seed) in enumerate(self.own.get(identity, ()), start=1):
            running = number == client.round
            if number <= client.last_round and not running:
                assert key not in data
                assert seed not in data
                if identity in self.held:
                    for share in self.held[identity][number - 1].reshape(-1, 36):
                        assert not share.any() or share.tobytes() not in data
            if running and client.state in (ClientState.MASKED, ClientState.SIGNED):
                assert key not in data
                assert seed not in data
        self.saved[identity] = data

    def take(self, identity: bytes, message: bytes, *, crash: bool = False) -> None:
        """A client takes a message in, is saved, and only then answers; a crash comes before the saving."""
        client = self.clients[identity]
        try:
            event = client.receive(message, now=0)
        except PeerProtocolError as error:
            tally[f"client refuses: {type(error).__name__}"] += 1
            event = None
        if crash:
            self.clients[identity] = self.restored(identity)
            return
        self.look(identity, event)
        self.persist(identity)
        if event is not None and event.reply is not None:
            self.to_server.append((identity, event.reply))

    def look(self, identity: bytes, event: ClientEvent | None) -> None:
        """Remember what is secret, and watch what is given out."""
        client, vault = self.clients[identity], self.clients[identity]._vault
        match event:
            case Advertise():
                assert vault is not None
                rounds = range(1, vault.rounds + 1)
                self.own[identity] = [(bytes(vault.key(number)), bytes(vault.seed(number))) for number in rounds]
            case Ready():
                assert vault is not None
                self.held[identity] = vault.held.copy().reshape(*vault.held.shape[:2], 2, 36)
            case RoundStarted():
                self.invited[identity] = event.participants
            case Signing():
                assert event.reply is not None
                assert client._round is not None
                assert (identity, event.round) not in self.signers, "two signatures of one client in one round"
                self.signers.add((identity, event.round))
                index = self.server.slots[identity].index
                signature = msgspec.msgpack.decode(event.reply, type=Consistency).signature
                self.signed[event.round, client._round.survivors][index] = signature
                tally["survivors signed"] += 1
            case Unmasking():
                if self.MODE == "malicious" and self.server.slots[identity].index not in self.corrupt:
                    agreed = self.agreed.setdefault(event.round, event.survivors)
                    assert agreed == event.survivors, "two honest clients answered different survivors"
                assert event.reply is not None
                assert client._view is not None
                neighbours = client._view.neighbours
                asked = [place for place, one in enumerate(neighbours) if one in self.invited[identity]]
                shares = bytes(msgspec.msgpack.decode(event.reply, type=Unmask).shares)
                assert len(shares) == 36 * len(asked)
                for number, place in enumerate(asked):
                    pair = [row.tobytes() for row in self.held[identity][event.round - 1, place]]
                    kind = pair.index(shares[36 * number : 36 * number + 36])
                    earlier = self.revealed.setdefault((identity, neighbours[place], event.round), kind)
                    assert earlier == kind, "both shares of one client and round were given out"

    def submit(self, identity: bytes, *, crash: bool = False) -> None:
        client = self.clients[identity]
        vectors = random_vectors(SPECS, self.rng)
        number = client.round
        keys: set[bytes] = set()

        def recording(source, target, masks, **how) -> None:
            assert not keys & {mask.key for mask in masks}
            keys.update(mask.key for mask in masks)
            mask_into(source, target, masks, **how)

        with mock.patch.object(client_round, "mask_into", recording):
            message = client.submit(vectors, model_digest=MODEL, plan_digest=PLAN)
        assert len(keys) >= 2 * len(SPECS)
        if crash:
            self.clients[identity] = self.restored(identity)
            return
        self.persist(identity)
        assert (identity, number) not in self.masked, "two masked vectors of one round left a client"
        self.masked.add((identity, number))
        assert not keys & self.used[identity], "a mask was used twice"
        self.used[identity] |= keys
        self.given[number][identity] = vectors
        self.to_server.append((identity, message))

    def arrive(self, sender: bytes, message: bytes) -> None:
        try:
            self.server.receive(sender, message)
        except PeerProtocolError as error:
            tally[f"server refuses: {type(error).__name__}"] += 1

    # --- the ordinary course

    @rule(data=st.data())
    def mail_to_a_client(self, data: st.DataObject) -> None:
        if self.to_client:
            identity, message = self.to_client.pop(data.draw(st.integers(0, len(self.to_client) - 1)))
            self.old_to_client.append((identity, message))
            self.take(identity, message)

    @rule(data=st.data())
    def mail_to_the_server(self, data: st.DataObject) -> None:
        if self.to_server:
            sender, message = self.to_server.pop(data.draw(st.integers(0, len(self.to_server) - 1)))
            self.old_to_server.append((sender, message))
            self.arrive(sender, message)

    @rule(data=st.data())
    def clients_compute(self, data: st.DataObject) -> None:
        ready = [identity for identity, client in self.clients.items() if client.state is ClientState.STARTED]
        for identity in ready:
            if data.draw(st.integers(0, 4)):
                self.submit(identity)

    @rule(data=st.data(), late=st.integers(0, 2))
    def all_mail_in_any_order(self, data: st.DataObject, late: int) -> None:
        """Everything under way arrives, but for a few."""
        for place in data.draw(st.permutations(range(len(self.to_client))))[late // 2 :]:
            self.old_to_client.append(self.to_client[place])
            self.take(*self.to_client[place])
            self.to_client[place] = (b"", b"")
        self.to_client = [mail for mail in self.to_client if mail[0]]
        for identity, client in list(self.clients.items()):
            if client.state is ClientState.STARTED:
                self.submit(identity)
        for place in data.draw(st.permutations(range(len(self.to_server))))[(late + 1) // 2 :]:
            self.old_to_server.append(self.to_server[place])
            self.arrive(*self.to_server[place])
            self.to_server[place] = (b"", b"")
        self.to_server = [mail for mail in self.to_server if mail[0]]

    @rule(data=st.data(), steps=st.integers(1, 5), late=st.sampled_from([0, 0, 0, 1, 2]))
    def some_steps_go_well(self, data: st.DataObject, steps: int, late: int) -> None:
        for _ in range(steps):
            self.all_mail_in_any_order(data, late)
            self.the_server_goes_on(data, everybody=True)

    @rule(data=st.data(), everybody=st.booleans())
    def the_server_goes_on(self, data: st.DataObject, everybody: bool) -> None:
        """Close the step that is open, or start a round, or a new epoch."""
        server = self.server
        try:
            match server.state:
                case ServerState.ADVERTISE:
                    self.to_client += server.close_advertise().items()
                case ServerState.SHARES:
                    self.to_client += server.close_shares().items()
                case ServerState.READY if server.rounds_left:
                    members = None
                    if not everybody:
                        able = sorted(server._require_roster().identities[one] for one in server._present)
                        members = data.draw(st.sets(st.sampled_from(able), min_size=len(able) - 1))
                        left_out = any(slot.state is SlotState.LEFT_OUT for slot in server.slots.values())
                        if (
                            server._shortage(
                                server._require_roster().topology.mask([server.slots[one].index for one in members])
                            )
                            or left_out
                        ):
                            members = None
                    started = server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=members)
                    self.to_client += started.items()
                case ServerState.INPUTS:
                    self.to_client += server.close_inputs().items()
                case ServerState.SIGNATURES:
                    self.to_client += server.close_signatures().items()
                case ServerState.UNMASK:
                    self.open_sum()
                case _:
                    self.new_epoch()
        except RoundFailed:
            assert server.state is ServerState.READY
            tally["rounds failed closed"] += 1
        except EpochFailed:
            assert server.state is ServerState.FAILED
            tally["epochs failed closed"] += 1

    def open_sum(self) -> None:
        result = self.server.close_unmask()
        if result.round in self.deceived:
            tally["sums spoilt by a lying server"] += 1
            return
        assert_exact(result, self.given[result.round], SPECS)
        tally["sums opened"] += 1
        tally["sums opened with drop-outs"] += result.survivors != result.participants

    # --- what goes wrong

    @rule(data=st.data())
    def mail_is_lost(self, data: st.DataObject) -> None:
        for box in (self.to_client, self.to_server):
            if box and data.draw(st.booleans()):
                box.pop(data.draw(st.integers(0, len(box) - 1)))

    @rule(data=st.data())
    def mail_comes_twice(self, data: st.DataObject) -> None:
        if self.old_to_client:
            self.take(*data.draw(st.sampled_from(self.old_to_client)))
        if self.old_to_server:
            self.arrive(*data.draw(st.sampled_from(self.old_to_server)))

    @rule(data=st.data(), cut=st.booleans())
    def mail_is_garbled(self, data: st.DataObject, cut: bool) -> None:
        for box, deliver in ((self.to_client, self.take), (self.to_server, self.arrive)):
            if box and data.draw(st.integers(0, 3)) == 0:
                identity, message = box.pop(data.draw(st.integers(0, len(box) - 1)))
                deliver(identity, message[:-1] if cut else message + b"\0")

    @rule(data=st.data())
    def a_share_is_wrong(self, data: st.DataObject) -> None:
        """The last bit of an answer flips on its way; no checksum of the transport catches it."""
        answers = [place for place, (_, message) in enumerate(self.to_server) if message[1] == 10]
        if answers and self.server.state is ServerState.UNMASK:
            sender, message = self.to_server.pop(data.draw(st.sampled_from(answers)))
            self.arrive(sender, message[:-1] + bytes([message[-1] ^ 1]))

    @rule(data=st.data())
    def a_client_restarts(self, data: st.DataObject) -> None:
        identity = data.draw(st.sampled_from(sorted(self.clients)))
        self.clients[identity] = self.restored(identity)
        assert self.clients[identity].save() == self.saved[identity]

    @rule(data=st.data())
    def a_client_crashes_before_it_saves(self, data: st.DataObject) -> None:
        if self.to_client:
            self.take(*data.draw(st.sampled_from(self.to_client)), crash=True)
        started = [identity for identity, client in self.clients.items() if client.state is ClientState.STARTED]
        if started:
            self.submit(data.draw(st.sampled_from(started)), crash=True)

    @rule(data=st.data(), wrong_model=st.booleans())
    def a_client_gives_up(self, data: st.DataObject, wrong_model: bool) -> None:
        identity = data.draw(st.sampled_from(sorted(self.clients)))
        client = self.clients[identity]
        if wrong_model and client.state is ClientState.STARTED:
            with pytest.raises(DigestMismatch):
                client.submit(random_vectors(SPECS, self.rng), model_digest=PLAN, plan_digest=PLAN)
        else:
            client.burn()
        assert client.round == 0
        self.persist(identity)

    @precondition(lambda self: self.server.round > 0)
    @rule(data=st.data())
    def the_server_lies_about_survivors(self, data: st.DataObject) -> None:
        """Any V, to any client, for any round: what a client answers is watched in `look`."""
        identity = data.draw(st.sampled_from(sorted(self.clients)))
        client = self.clients[identity]
        if client._view is None or client.state not in IN_ROUNDS:
            return
        n = client._view.n
        members = data.draw(st.sets(st.integers(0, n - 1), min_size=max(1, n - 2)))
        number = data.draw(st.integers(1, self.server.round))
        lie = msgspec.msgpack.encode(Survivors("sa1", client._epoch, number, bitmap.pack(members, n)))
        bare = data.draw(st.integers(0, 3)) == 0
        self.take(identity, lie if bare else self.dressed(lie, client._epoch))

    def dressed(self, survivors: bytes, epoch: bytes) -> bytes:
        """Survivors as the mode has them; the server that lies has the server's key."""
        if not is_signed(Survivors, self.MODE):
            return survivors
        text = statement(Survivors, fingerprint_of(survivors), epoch=epoch, suite=1)
        return wrap(survivors, signer_of(b"the server").sign(text))

    @precondition(lambda self: self.server.state is ServerState.INPUTS)
    @rule(data=st.data())
    def the_server_lies_about_the_participants(self, data: st.DataObject) -> None:
        mail = [place for place, (_, message) in enumerate(self.to_client) if message[1] == 5]
        if mail:
            identity, message = self.to_client.pop(data.draw(st.sampled_from(mail)))
            n = len(self.server._require_roster().identities)
            members = data.draw(st.sets(st.integers(0, n - 1), min_size=max(1, n - 1)))
            self.deceived.add(msgspec.msgpack.decode(message, type=Start).round)
            self.take(identity, replace(message, Start, participants=bitmap.pack(members, n)))

    @precondition(lambda self: bool(self.signed))
    @rule(data=st.data(), helped=st.booleans())
    def the_server_makes_the_best_quorum_it_can(self, data: st.DataObject, helped: bool) -> None:
        """All signatures ever given on what a client signed, and those of corrupt clients, who sign anything."""
        signed = [one for one, client in self.clients.items() if client.state is ClientState.SIGNED]
        if not signed:
            return
        identity = data.draw(st.sampled_from(signed))
        current, client = self.clients[identity]._round, self.clients[identity]
        assert current is not None
        known = dict(self.signed[current.number, current.survivors])
        told = derivation.consistency_statement(context=current.context, survivors=current.survivors)
        names = self.server._require_roster().identities
        if helped:
            for index in self.corrupt & set(bitmap.unpack(current.survivors, len(names))):
                known[index] = signer_of(names[index]).sign(told)
        signers = sorted(known)
        message = Quorum(
            "sa1",
            client._epoch,
            current.number,
            bitmap.pack(signers, len(names)),
            memoryview(b"".join(known[one] for one in signers)),
        )
        tally["quorums made by the server"] += 1
        self.take(identity, msgspec.msgpack.encode(message))

    @precondition(lambda self: self.MODE == "malicious" and self.server.state is ServerState.SIGNATURES)
    @rule(data=st.data())
    def the_server_splits_the_clients_in_two(self, data: st.DataObject) -> None:
        """Two sets of survivors, each to some clients, then the best quorum to everybody."""
        masked = [one for one, client in self.clients.items() if client.state is ClientState.MASKED]
        n = len(self.server._require_roster().identities)
        full = set(bitmap.unpack(self.server._require_round().survivors_bitmap, n))
        other = full - {data.draw(st.sampled_from(sorted(full)))}
        for identity in masked:
            members = other if data.draw(st.booleans()) else full
            lie = Survivors("sa1", self.clients[identity]._epoch, self.server.round, bitmap.pack(members, n))
            self.take(identity, self.dressed(msgspec.msgpack.encode(lie), self.clients[identity]._epoch))
        for _ in masked:
            self.the_server_makes_the_best_quorum_it_can(data, helped=True)
        tally["splits"] += 1

    @invariant()
    def sides_agree_on_what_is_over(self) -> None:
        for client in self.clients.values():
            assert client.last_round <= self.server.round
            assert client.round in (0, client.last_round)


class MaliciousEpoch(Epoch):
    """The same with identities, and a server that does its worst."""

    MODE = "malicious"
    FRACTIONS = ((0.0, 0.0), (0.0, 0.2), (0.2, 0.2), (0.34, 0.17))


def test_everything_goes_wrong_and_the_sum_is_right() -> None:
    tally.clear()
    run_state_machine_as_test(
        Epoch,
        settings=settings(
            max_examples=120, stateful_step_count=60, suppress_health_check=list(HealthCheck), derandomize=True
        ),
    )
    # a machine that never gets anywhere proves nothing
    for what in ("sums opened", "sums opened with drop-outs", "rounds failed closed", "epochs failed closed"):
        assert tally[what] >= 5, (what, tally)
    for what in ("SecondSurvivors", "AfterBurned", "WrongRound", "OwnBitOff", "UnknownFormat"):
        assert tally[f"client refuses: {what}"] >= 1, (what, tally)
    for what in ("LateMessage", "DuplicateMessage", "UnknownFormat"):
        assert tally[f"server refuses: {what}"] >= 1, (what, tally)


def test_a_malicious_server_does_its_worst() -> None:
    tally.clear()
    run_state_machine_as_test(
        MaliciousEpoch,
        settings=settings(
            max_examples=80, stateful_step_count=60, suppress_health_check=list(HealthCheck), derandomize=True
        ),
    )
    for what in ("sums opened", "rounds failed closed", "survivors signed", "quorums made by the server", "splits"):
        assert tally[what] >= 1, (what, tally)
    for what in ("NoQuorum", "SecondSurvivors", "BadServerSignature"):
        assert tally[f"client refuses: {what}"] >= 1, (what, tally)


@pytest.mark.slow
@pytest.mark.parametrize("machine", [Epoch, MaliciousEpoch])
def test_everything_goes_wrong_for_long(machine: type[Epoch]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=1500, stateful_step_count=100, suppress_health_check=list(HealthCheck), derandomize=True
        ),
    )
