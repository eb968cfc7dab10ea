"""The refusals that signatures add, one by one, and the other ones once more under malicious mode."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from privfed_protocols import (
    AfterBurned,
    BadBitmap,
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadServerSignature,
    BadShareMessage,
    BadSignature,
    Client,
    ClientPolicy,
    ClientState,
    Credentials,
    DigestMismatch,
    Directory,
    ExcludedSender,
    NeighboursBelowThreshold,
    NoQuorum,
    OverBound,
    OwnBitOff,
    PeerProtocolError,
    RosterSize,
    SecondSurvivors,
    Server,
    SlotState,
    UnexpectedMessage,
    UnknownFormat,
    WeakParameters,
    WrongNeighbours,
    WrongRound,
    bitmap,
    issue_certificate,
)
from privfed_protocols import derivation as derive
from privfed_protocols.merkle import leaf_hash, path_of, root_of
from privfed_protocols.messages import (
    Advertise,
    Consistency,
    Delivery,
    Masked,
    Neighbour,
    Offer,
    Quorum,
    Roster,
    Start,
    Survivors,
    encode,
)
from privfed_protocols.signed import Signed, fingerprint_of, is_signed, statement, wrap
from privfed_protocols.wire import Message
from tests.protocols.harness import (
    MODEL,
    PLAN,
    SERVER_KEY,
    Network,
    credentials_of,
    identities,
    replace,
    seeded,
    signer_of,
)

A, B, C, D, E = identities(5)
OTHER = bytes(reversed(range(32)))
SERVER, STRANGER = signer_of(b"the server"), signer_of(b"a stranger")


def envelope(message: bytes) -> Signed:
    return msgspec.msgpack.decode(message, type=Signed)


def sign(kind: type[Message], body: bytes, *, epoch: bytes = b"", by: bytes = b"the server", suite: int = 1) -> bytes:
    signature = signer_of(by).sign(statement(kind, fingerprint_of(body), epoch=epoch, suite=suite))
    return wrap(body, signature)


def refused(client: Client, message: bytes, error: type[PeerProtocolError], *, now: int = 0) -> PeerProtocolError:
    """Refused with exactly this class; set-up is dead, or the round is burned unless it was not this client's."""
    before = client.state
    with pytest.raises(error) as caught:
        client.receive(message, now=now)
    assert type(caught.value) is error
    in_rounds = (ClientState.READY, ClientState.STARTED, ClientState.MASKED, ClientState.SIGNED)
    assert client.state in (ClientState.READY, before) if before in in_rounds else client.state is ClientState.ABORTED
    return caught.value


def assert_burned(client: Client, round: int = 1) -> None:
    vault = client._vault
    assert vault is not None
    assert (client.state, client.round) == (ClientState.READY, 0)
    assert client.last_round >= round
    assert not any([*vault.key(round), *vault.seed(round), *vault.held[round - 1].reshape(-1), *vault.surplus])


@pytest.mark.parametrize("mode", ["semi-honest", "semi-malicious", "malicious"])
def test_what_is_signed_in_which_mode(mode: str) -> None:
    signed = {kind.__name__ for kind in (Offer, Advertise, Roster, Delivery, Start, Masked, Survivors, Quorum)
              if is_signed(kind, mode)}  # fmt: skip
    assert (
        signed
        == {
            "semi-honest": set(),
            "semi-malicious": {"Offer", "Advertise"},
            "malicious": {"Offer", "Advertise", "Masked", "Survivors"},
        }[mode]
    )


# --- 1: the server's key


class TestServerSignature:
    @pytest.fixture(params=["semi-malicious", "malicious"])
    def offer(self, request: pytest.FixtureRequest) -> bytes:
        return Network.make(4, mode=request.param).server.offer

    def fresh(self) -> Client:
        policy = ClientPolicy(modes=frozenset({"semi-malicious", "malicious"}))
        return Client(A, policy=policy, credentials=credentials_of(identities(4))[A], randomness=seeded(A))

    def test_by_default_no_weaker_mode_than_it_can(self, request: pytest.FixtureRequest, offer: bytes) -> None:
        """Signatures on survivors are what a server that cheats would talk a client out of first."""
        client = Client(A, credentials=credentials_of(identities(4))[A], randomness=seeded(A))
        if "semi" not in request.node.name:
            assert client.receive(offer, now=0).reply
        else:
            assert refused(client, offer, WeakParameters).refusal == 3

    def test_the_real_one_is_accepted(self, offer: bytes) -> None:
        assert self.fresh().receive(offer, now=0).reply

    def test_1_an_offer_without_a_signature(self, offer: bytes) -> None:
        assert refused(self.fresh(), bytes(envelope(offer).body), BadServerSignature).refusal == 1

    def test_1_an_offer_under_another_key(self, offer: bytes) -> None:
        forged = sign(Offer, bytes(envelope(offer).body), by=b"a stranger")
        assert refused(self.fresh(), forged, BadServerSignature).refusal == 1

    @pytest.mark.parametrize("change", ["signature", "body", "label", "epoch", "suite"])
    def test_1_a_signature_of_something_else(self, offer: bytes, change: str) -> None:
        body = bytes(envelope(offer).body)
        forged = {
            "signature": lambda: replace(offer, Signed, signature=bytes(64)),
            "body": lambda: replace(offer, Signed, body=memoryview(replace(body, Offer, nonce=OTHER))),
            "label": lambda: wrap(body, SERVER.sign(statement(Survivors, fingerprint_of(body), epoch=b"", suite=1))),
            "epoch": lambda: sign(Offer, body, epoch=OTHER),
            "suite": lambda: sign(Offer, body, suite=2),
        }[change]()
        assert refused(self.fresh(), forged, BadServerSignature).refusal == 1

    def test_2_a_certificate_is_no_way_to_another_server_key(self, offer: bytes) -> None:
        other = issue_certificate(SERVER, identity=b"the server", key=STRANGER.public_key, expiry=100)
        assert refused(self.fresh(), replace(offer, Signed, certificate=other), UnknownFormat).refusal == 2

    def test_1_a_client_that_pins_no_server_key(self, offer: bytes) -> None:
        assert refused(Client(A), offer, BadServerSignature).refusal == 1

    def test_3_a_client_with_credentials_cannot_be_talked_out_of_them(self) -> None:
        assert refused(self.fresh(), Network.make(4).server.offer, WeakParameters).refusal == 3

    def test_2_a_signature_where_the_mode_knows_none(self) -> None:
        plain = Network.make(4).server.offer
        assert refused(Client(A), sign(Offer, plain), UnknownFormat).refusal == 2

    def test_2_an_envelope_in_an_envelope(self, offer: bytes) -> None:
        assert refused(self.fresh(), sign(Offer, offer), UnknownFormat).refusal == 2

    def test_4_an_epoch_that_the_own_certificate_does_not_outlive(self) -> None:
        certificate = issue_certificate(STRANGER, identity=A, key=signer_of(A).public_key, expiry=100)
        signer = type(SERVER)(signer_of(A).sign, public_key=signer_of(A).public_key, certificate=certificate)
        known = Directory(authorities=frozenset({STRANGER.public_key}))
        for expiry, accepted in ((100, True), (101, False), (0, False)):
            net = Network.make(4, mode="malicious", expiry=expiry)
            client = Client(A, credentials=Credentials(signer, known, SERVER_KEY))
            if accepted:
                assert client.receive(net.server.offer, now=0).reply
            else:
                assert refused(client, net.server.offer, OverBound).refusal == 4

    def test_4_a_certificate_for_another_key_than_the_own(self) -> None:
        certificate = issue_certificate(STRANGER, identity=A, key=signer_of(B).public_key, expiry=100)
        signer = type(SERVER)(signer_of(A).sign, public_key=signer_of(A).public_key, certificate=certificate)
        known = Directory(authorities=frozenset({STRANGER.public_key}))
        client = Client(A, credentials=Credentials(signer, known, SERVER_KEY))
        offer = Network.make(4, mode="malicious", expiry=50).server.offer
        assert refused(client, offer, OverBound).refusal == 4


# --- 9: the neighbours' keys


class RosterForge:
    """A signed roster for client 0 of 4, rebuilt after its leaves were changed, as a lying server would."""

    def __init__(self, mode: str = "malicious", **offered: object) -> None:
        self.net = Network.make(4, rounds=2, mode=mode, **offered)  # type: ignore[arg-type]
        sent = self.net.advertise()
        self.client, self.message = self.net.clients[A], sent[A]
        self.epoch = self.client._epoch
        self.roster = msgspec.msgpack.decode(self.message, type=Roster)
        self.leaves = [self.client._advertise, *(entry.advertise for entry in self.roster.neighbours)]

    def advertise(self, index: int) -> Advertise:
        return msgspec.msgpack.decode(envelope(self.leaves[index]).body, type=Advertise)

    def change(self, index: int, *, by: bytes = b"", **changes: object) -> None:
        """Change an M1; sign it again with the key of `by`, or leave the old signature on."""
        body = encode(msgspec.structs.replace(self.advertise(index), **changes))
        if by:
            self.leaves[index] = sign(Advertise, body, epoch=self.epoch, by=by)
        else:
            self.leaves[index] = replace(self.leaves[index], Signed, body=memoryview(body))

    def forged(self, **changes: object) -> bytes:
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        entries = tuple(Neighbour(index, leaf, ()) for index, leaf in enumerate(self.leaves) if index)
        honest = msgspec.structs.replace(
            self.roster, n=len(hashes), root=root_of(hashes), path=path_of(hashes, 0), neighbours=entries
        )
        return encode(msgspec.structs.replace(honest, **changes))


@pytest.mark.parametrize("mode", ["semi-malicious", "malicious"])
class TestNeighbourSignature:
    def test_the_forge_forges_acceptable_rosters(self, mode: str) -> None:
        forge = RosterForge(mode)
        assert forge.forged() == forge.message
        assert forge.client.receive(forge.forged(), now=0).reply

    def test_9_keys_put_into_a_neighbours_mouth(self, mode: str) -> None:
        """The attack that signatures are for: the server's own keys under an honest name."""
        forge = RosterForge(mode)
        forge.change(2, channel_key=STRANGER.public_key)
        assert refused(forge.client, forge.forged(), BadSignature).refusal == 9

    @pytest.mark.parametrize("by", [b"a stranger", b"the server", B])
    def test_9_an_advertise_signed_by_somebody_else(self, mode: str, by: bytes) -> None:
        forge = RosterForge(mode)
        forge.change(2, by=by)
        assert refused(forge.client, forge.forged(), BadSignature).refusal == 9
        forge = RosterForge(mode)
        forge.change(2, by=C)
        assert forge.client.receive(forge.forged(), now=0).reply

    def test_9_an_advertise_without_a_signature(self, mode: str) -> None:
        forge = RosterForge(mode)
        forge.leaves[2] = bytes(envelope(forge.leaves[2]).body)
        assert refused(forge.client, forge.forged(), BadSignature).refusal == 9

    def test_9_an_advertise_of_another_epoch_signed_again_for_this_one(self, mode: str) -> None:
        forge = RosterForge(mode)
        body = bytes(envelope(forge.leaves[2]).body)
        forge.leaves[2] = sign(Advertise, body, epoch=OTHER, by=C)
        assert refused(forge.client, forge.forged(), BadSignature).refusal == 9

    def test_9_an_identity_without_a_key(self, mode: str) -> None:
        """A sybil: well signed, by nobody that this client knows."""
        forge = RosterForge(mode)
        forge.change(3, by=b"sybil", identity=b"sybil")
        assert refused(forge.client, forge.forged(), BadNeighbour).refusal == 9

    def test_9_two_identities_with_one_key(self, mode: str) -> None:
        forge = RosterForge(mode, expiry=50)
        key = signer_of(B).public_key
        certificates = [issue_certificate(STRANGER, identity=one, key=key, expiry=50) for one in (B, C)]
        for index, certificate in zip((1, 2), certificates, strict=True):
            forge.change(index, by=B)
            forge.leaves[index] = replace(forge.leaves[index], Signed, certificate=certificate)
        pinned = {name: signer_of(name).public_key for name in (A, D)}
        directory = Directory(pinned, frozenset({STRANGER.public_key}))
        forge.client._credentials = Credentials(signer_of(A), directory, SERVER_KEY)
        assert refused(forge.client, forge.forged(), BadNeighbour).refusal == 9

    def test_2_another_message_in_the_place_of_an_advertise(self, mode: str) -> None:
        forge = RosterForge(mode)
        body = encode(Masked("sa1", forge.epoch, 1, memoryview(bytes(200))))
        forge.leaves[2] = sign(Masked, body, epoch=forge.epoch, by=C)
        assert refused(forge.client, forge.forged(), UnknownFormat).refusal == 2


def change_roster(field: str, value: object) -> Callable[[RosterForge], bytes]:
    return lambda forge: forge.forged(**{field: value})


@pytest.mark.parametrize(
    ("forged", "error"),
    [
        (change_roster("t", 1), WeakParameters),
        (change_roster("k", 2), WeakParameters),
        (change_roster("n", 1), RosterSize),
        (change_roster("index", 1), BadOwnLeaf),
        (change_roster("epoch", OTHER), WrongRound),
        (change_roster("neighbours", ()), WrongNeighbours),
        (lambda forge: replace(forge.forged(), Roster, path=(OTHER, OTHER)), BadOwnLeaf),
        (
            lambda forge: forge.forged(
                neighbours=(*forge.roster.neighbours[:2], Neighbour(3, forge.leaves[2], ())),
            ),
            BadNeighbour,
        ),
        (
            lambda forge: forge.forged(
                neighbours=tuple(Neighbour(one.index, one.advertise, (OTHER,)) for one in forge.roster.neighbours)
            ),
            BadRoster,
        ),
    ],
)
def test_rosters_are_refused_in_malicious_mode_as_in_the_other(
    forged: Callable[[RosterForge], bytes], error: type[PeerProtocolError]
) -> None:
    forge = RosterForge()
    refused(forge.client, forged(forge), error)


# --- rounds


class RoundForge:
    """Five clients in malicious mode after set-up, threshold 3; the first is under test."""

    def __init__(self, **offered: object) -> None:
        self.net = Network.make(5, rounds=3, dropout=0.2, mode="malicious", **offered)  # type: ignore[arg-type]
        self.net.set_up()
        self.client = self.net.clients[A]
        self.start = self.net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        self.epoch = self.client._epoch
        assert self.client._view is not None
        assert self.client._view.t == 3

    def mask(self) -> RoundForge:
        """Everybody has handed in a vector."""
        vectors = self.net.vectors()
        for identity, message in self.start.items():
            self.net.tell(identity, message)
            self.net.send(identity, self.net.submit(identity, vectors[identity]))
        return self

    def sign(self, members: tuple[int, ...] = (0, 1, 2, 3, 4)) -> RoundForge:
        """The client under test has signed these survivors."""
        self.mask()
        self.client.receive(self.survivors(members), now=0)
        assert self.client.state is ClientState.SIGNED
        return self

    def survivors(self, members: tuple[int, ...], *, round: int = 1, by: bytes = b"the server") -> bytes:
        body = encode(Survivors("sa1", self.epoch, round, bitmap.pack(members, 5)))
        return sign(Survivors, body, epoch=self.epoch, by=by)

    def signature(self, index: int, members: tuple[int, ...] = (0, 1, 2, 3, 4), *, by: bytes = b"") -> bytes:
        current = self.client._round
        assert current is not None
        told = derive.consistency_statement(context=current.context, survivors=bitmap.pack(members, 5))
        return signer_of(by or identities(5)[index]).sign(told)

    def quorum(self, signers: tuple[int, ...], signatures: list[bytes] | None = None, *, round: int = 1) -> bytes:
        given = [self.signature(index) for index in signers] if signatures is None else signatures
        return encode(Quorum("sa1", self.epoch, round, bitmap.pack(signers, 5), memoryview(b"".join(given))))


class TestSurvivors:
    def test_1_survivors_without_a_signature_or_under_another_key(self) -> None:
        for forged in (
            encode(Survivors("sa1", RoundForge().mask().epoch, 1, b"\x1f")),
            RoundForge().mask().survivors((0, 1, 2, 3, 4), by=b"a stranger"),
            RoundForge().mask().survivors((0, 1, 2, 3, 4), by=B),
        ):
            forge = RoundForge().mask()
            assert refused(forge.client, forged, BadServerSignature).refusal == 1
            assert_burned(forge.client)

    def test_1_survivors_signed_for_another_epoch(self) -> None:
        forge = RoundForge().mask()
        body = encode(Survivors("sa1", forge.epoch, 1, b"\x1f"))
        assert refused(forge.client, sign(Survivors, body, epoch=OTHER), BadServerSignature).refusal == 1

    @pytest.mark.parametrize(
        ("members", "error"),
        [((1, 2, 3, 4), OwnBitOff), ((0,), BadBitmap), ((0, 1, 2), NeighboursBelowThreshold)],
    )
    def test_survivors_are_refused_as_in_the_other_mode(
        self, members: tuple[int, ...], error: type[PeerProtocolError]
    ) -> None:
        forge = RoundForge().mask()
        refused(forge.client, forge.survivors(members), error)
        assert_burned(forge.client)

    def test_4_survivors_and_quorum_after_the_deadline(self) -> None:
        for signed in (False, True):
            forge = RoundForge()
            forge.start = {identity: replace(message, Start, deadline=50) for identity, message in forge.start.items()}
            forge = forge.sign() if signed else forge.mask()
            message = forge.quorum((1, 2, 3, 4)) if signed else forge.survivors((0, 1, 2, 3, 4))
            assert refused(forge.client, message, OverBound, now=51).refusal == 4
            assert_burned(forge.client)

    def test_nothing_is_given_out_on_survivors_alone(self) -> None:
        forge = RoundForge().mask()
        event = forge.client.receive(forge.survivors((0, 1, 2, 3, 4)), now=0)
        assert event.reply is not None
        answer = msgspec.msgpack.decode(event.reply, type=Consistency)
        assert answer.signature == forge.signature(0)
        vault = forge.client._vault
        assert vault is not None
        assert vault.held[0].any()

    def test_19_the_same_v_again_is_refused_and_burns_nothing(self) -> None:
        forge = RoundForge().sign()
        assert refused(forge.client, forge.survivors((0, 1, 2, 3, 4)), SecondSurvivors).refusal == 19
        assert forge.client.state is ClientState.SIGNED
        assert forge.client.receive(forge.quorum((1, 2, 3)), now=0).reply

    def test_19_a_second_v_is_never_signed(self) -> None:
        forge = RoundForge().sign()
        assert refused(forge.client, forge.survivors((0, 1, 2, 3)), SecondSurvivors).refusal == 19
        assert_burned(forge.client)
        assert refused(forge.client, forge.quorum((1, 2, 3, 4), [bytes(64)] * 4), AfterBurned).refusal == 22

    def test_19_a_second_v_after_the_answer(self) -> None:
        forge = RoundForge().sign()
        assert forge.client.receive(forge.quorum((1, 2, 3)), now=0).reply
        assert refused(forge.client, forge.survivors((0, 1, 2, 3)), SecondSurvivors).refusal == 19

    def test_17_another_model(self) -> None:
        forge = RoundForge()
        forge.client.receive(forge.start[A], now=0)
        with pytest.raises(DigestMismatch):
            forge.client.submit(forge.net.vectors()[A], model_digest=OTHER, plan_digest=PLAN)
        assert_burned(forge.client)


class TestQuorum:
    @pytest.mark.parametrize("signers", [(1, 2, 3), (0, 1, 2, 3), (2, 3, 4), (0, 1, 2, 3, 4)])
    def test_t_neighbours_are_enough(self, signers: tuple[int, ...]) -> None:
        forge = RoundForge().sign()
        assert forge.client.receive(forge.quorum(signers), now=0).reply
        assert_burned(forge.client)

    @pytest.mark.parametrize("signers", [(), (1,), (1, 2), (0, 1, 2)])
    def test_20_fewer_than_t_neighbours_and_the_own_signature_does_not_count(self, signers: tuple[int, ...]) -> None:
        forge = RoundForge().sign()
        assert refused(forge.client, forge.quorum(signers), NoQuorum).refusal == 20
        assert_burned(forge.client)

    @pytest.mark.parametrize("wrong", [0, 1, 3])
    def test_20_one_signature_is_wrong(self, wrong: int) -> None:
        forge = RoundForge().sign()
        signatures = [forge.signature(index) for index in (1, 2, 3, 4)]
        signatures[wrong] = bytes([signatures[wrong][0] ^ 1]) + signatures[wrong][1:]
        assert refused(forge.client, forge.quorum((1, 2, 3, 4), signatures), NoQuorum).refusal == 20

    def test_20_signatures_on_other_survivors(self) -> None:
        """Equivocation: the others were told another V, and signed that."""
        forge = RoundForge().sign((0, 1, 2, 3))
        signatures = [forge.signature(index, (0, 1, 2, 3, 4)) for index in (1, 2, 3)]
        assert refused(forge.client, forge.quorum((1, 2, 3), signatures), NoQuorum).refusal == 20

    def test_20_signatures_of_another_round_or_context(self) -> None:
        forge = RoundForge().sign()
        told = derive.consistency_statement(context=OTHER, survivors=b"\x1f")
        signatures = [signer_of(one).sign(told) for one in (B, C, D)]
        assert refused(forge.client, forge.quorum((1, 2, 3), signatures), NoQuorum).refusal == 20

    def test_20_one_neighbour_signs_for_all(self) -> None:
        forge = RoundForge().sign()
        signatures = [forge.signature(index, by=B) for index in (1, 2, 3)]
        assert refused(forge.client, forge.quorum((1, 2, 3), signatures), NoQuorum).refusal == 20

    def test_20_a_signer_who_did_not_survive(self) -> None:
        forge = RoundForge().sign((0, 1, 2, 3))
        signatures = [forge.signature(index, (0, 1, 2, 3)) for index in (1, 2, 3, 4)]
        assert refused(forge.client, forge.quorum((1, 2, 3, 4), signatures), NoQuorum).refusal == 20

    @pytest.mark.parametrize("change", [-1, 1, -64, 64])
    def test_20_a_wrong_number_of_signatures(self, change: int) -> None:
        forge = RoundForge().sign()
        raw = b"".join([forge.signature(index) for index in (1, 2, 3)]) + bytes(64)
        forged = forge.quorum((1, 2, 3), [raw[: 192 + change]])
        assert refused(forge.client, forged, NoQuorum).refusal == 20

    def test_2_bits_beyond_the_last_client(self) -> None:
        forge = RoundForge().sign()
        forged = replace(forge.quorum((1, 2, 3)), Quorum, signers=b"\x2e")
        assert refused(forge.client, forged, UnknownFormat).refusal == 2

    def test_13_a_quorum_of_another_epoch_changes_nothing(self) -> None:
        forge = RoundForge().sign()
        forged = replace(forge.quorum((1, 2, 3)), Quorum, epoch=OTHER)
        assert refused(forge.client, forged, WrongRound).refusal == 13
        assert forge.client.receive(forge.quorum((1, 2, 3)), now=0).reply

    def test_13_a_quorum_of_a_round_that_never_started(self) -> None:
        forge = RoundForge().sign()
        assert refused(forge.client, forge.quorum((1, 2, 3), round=2), WrongRound).refusal == 13
        assert_burned(forge.client)

    def test_a_quorum_before_the_survivors_were_signed(self) -> None:
        forge = RoundForge().mask()
        refused(forge.client, forge.quorum((1, 2, 3), [bytes(64)] * 3), UnexpectedMessage)
        assert_burned(forge.client)

    def test_a_second_quorum_changes_nothing(self) -> None:
        forge = RoundForge().sign()
        message = forge.quorum((1, 2, 3))
        assert forge.client.receive(message, now=0).reply
        before = forge.client.save()
        with pytest.raises(PeerProtocolError):
            forge.client.receive(message, now=0)
        assert forge.client.save() == before

    def test_22_a_quorum_after_the_round_was_burned(self) -> None:
        forge = RoundForge().sign()
        message = forge.quorum((1, 2, 3))
        forge.client.burn()
        assert refused(forge.client, message, AfterBurned).refusal == 22

    def test_a_later_start_burns_a_round_that_was_signed(self) -> None:
        forge = RoundForge().sign()
        forge.client.receive(replace(forge.start[A], Start, round=2), now=0)
        assert forge.client.round == 2
        vault = forge.client._vault
        assert vault is not None
        assert not vault.held[0].any()


def test_in_the_other_modes_there_is_no_quorum_to_answer() -> None:
    for mode in ("semi-honest", "semi-malicious"):
        net = Network.make(4, mode=mode, dropout=0.2).set_up()  # type: ignore[arg-type]
        net.inputs(net.vectors())
        message = encode(Quorum("sa1", net.clients[A]._epoch, 1, b"\x0f", memoryview(bytes(256))))
        refused(net.clients[A], message, UnexpectedMessage)
        assert_burned(net.clients[A])


# --- the server against its clients


class TestServer:
    @pytest.fixture
    def net(self) -> Network:
        return Network.make(5, mode="malicious", dropout=0.2, n_min=3)

    def refuses(self, net: Network, sender: bytes, message: bytes, error: type[PeerProtocolError]) -> None:
        with pytest.raises(error) as caught:
            net.server.receive(sender, message)
        assert type(caught.value) is error

    def test_advertises_that_others_would_refuse_do_not_reach_them(self, net: Network) -> None:
        sent = {identity: net.tell(identity, net.server.offer) or b"" for identity in net.clients}
        epoch = net.server._epoch
        body = bytes(envelope(sent[A]).body)
        self.refuses(net, A, body, BadSignature)
        assert net.server.slots[A].state is SlotState.BAD
        self.refuses(net, A, sent[A], ExcludedSender)
        self.refuses(net, B, sign(Advertise, bytes(envelope(sent[B]).body), epoch=epoch, by=C), BadSignature)
        sybil = replace(bytes(envelope(sent[C]).body), Advertise, identity=b"sybil")
        self.refuses(net, b"sybil", sign(Advertise, sybil, epoch=epoch, by=b"sybil"), BadNeighbour)
        for identity in (C, D, E):
            net.send(identity, sent[identity])
        for identity, roster in net.server.close_advertise().items():
            assert net.tell(identity, roster)

    def test_two_identities_with_one_key(self) -> None:
        offer = Network.make(3, mode="malicious", expiry=50).offer
        directory = Directory(authorities=frozenset({STRANGER.public_key}))
        server = Server(offer, signer=SERVER, directory=directory)
        key = signer_of(A)
        for place, name in enumerate((A, B)):
            certificate = issue_certificate(STRANGER, identity=name, key=key.public_key, expiry=50)
            signer = type(key)(key.sign, public_key=key.public_key, certificate=certificate)
            message = Client(name, credentials=Credentials(signer, directory, SERVER_KEY)).receive(server.offer, now=0)
            assert message.reply is not None
            if place:
                with pytest.raises(BadNeighbour, match="another client"):
                    server.receive(name, message.reply)
            else:
                server.receive(name, message.reply)

    def test_masked_vectors_without_the_right_signature(self, net: Network) -> None:
        net.set_up()
        vectors = net.vectors()
        for identity, start in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
            net.tell(identity, start)
            message = net.submit(identity, vectors[identity])
            body = bytes(envelope(message).body)
            if identity == A:
                self.refuses(net, A, body, BadSignature)
            elif identity == B:
                self.refuses(net, B, sign(Masked, body, epoch=net.server._epoch, by=C), BadSignature)
            else:
                net.send(identity, message)
        current = net.server._round
        assert current is not None
        assert current.masked == {2, 3, 4}

    def test_signatures_on_something_else(self, net: Network) -> None:
        net.set_up()
        vectors = net.vectors()
        mail = net.inputs(vectors)
        replies = {identity: net.tell(identity, message) or b"" for identity, message in mail.items()}
        self.refuses(net, A, replies[B], BadSignature)
        assert net.server.slots[A].state is SlotState.BAD
        for identity in (B, C, D, E):
            net.send(identity, replies[identity])
            with pytest.raises(PeerProtocolError):
                net.server.receive(identity, replies[identity])
            assert net.server.slots[identity].state is SlotState.SIGNED
        quorum = net.server.close_signatures()
        assert set(quorum) == {B, C, D, E}
        for identity, message in quorum.items():
            net.send(identity, net.tell(identity, message))
        assert set(net.server.close_unmask().survivors) == set(net.clients)

    def test_answers_of_who_did_not_sign_are_not_taken(self, net: Network) -> None:
        net.set_up()
        quorum = net.quorum(net.inputs(net.vectors()), lost_signature=[A])
        assert A not in quorum
        reply = net.tell(B, quorum[B])
        assert reply is not None
        with pytest.raises(UnexpectedMessage):
            net.server.receive(A, reply)


@pytest.mark.parametrize("place", [0, 40, 100, -65, -1])
def test_a_network_that_alters_a_byte_of_a_signed_message_is_noticed(place: int) -> None:
    net = Network.make(4, mode="malicious", dropout=0.2)
    altered = bytearray(net.server.offer)
    altered[place] ^= 1
    with pytest.raises(PeerProtocolError):
        net.clients[A].receive(bytes(altered), now=0)


def test_policies_hold_in_malicious_mode_too() -> None:
    net = Network.make(4, mode="malicious", dropout=0.2)
    known = credentials_of(identities(4))[A]
    client = Client(A, credentials=known, policy=ClientPolicy(modes=frozenset({"semi-malicious"})))
    assert refused(client, net.server.offer, WeakParameters).refusal == 3
    assert BadShareMessage.refusal == 11
