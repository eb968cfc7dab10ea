"""Every refusal of the protocol text: provoked alone, by its class and number, and with nothing left standing after it.

Here in semi-honest mode, whose checks all modes have; what signatures add is in `test_refusals_signed.py`, what a ring
adds in `test_ring.py`. Refusal 21 cannot be expressed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import msgspec
import numpy as np
import pytest

import privfed_protocols.errors as errors_module
from privfed_protocols import (
    AfterBurned,
    BadBitmap,
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadShareMessage,
    Client,
    ClientPolicy,
    ClientState,
    DeliveryBelowThreshold,
    DigestMismatch,
    LocalProtocolError,
    LowOrderPoint,
    NeighboursBelowThreshold,
    NoiseBelowFloor,
    Offer,
    OverBound,
    OwnBitOff,
    PeerProtocolError,
    RosterSize,
    SecondSurvivors,
    UnexpectedMessage,
    UnknownFormat,
    UnknownSuite,
    ValueOutOfRange,
    VectorSpec,
    WeakParameters,
    WrongNeighbours,
    WrongRound,
    bitmap,
)
from privfed_protocols import derivation as derive
from privfed_protocols.merkle import leaf_hash, path_of, root_of
from privfed_protocols.messages import (
    Advertise,
    Delivery,
    Neighbour,
    Roster,
    Start,
    Survivors,
    Unmask,
    encode,
)
from privfed_protocols.primitives import Agreement, seal, unseal
from tests.protocols.harness import MODEL, PLAN, Network, identities, replace, seeded

ME = identities(1)[0]
OTHER = bytes(reversed(range(32)))


def refused(client: Client, message: bytes, error: type[PeerProtocolError], *, now: int = 0) -> PeerProtocolError:
    """The client refuses with exactly this class, and either set-up is dead or the round is burned."""
    before = client.state
    with pytest.raises(error) as caught:
        client.receive(message, now=now)
    assert type(caught.value) is error
    if before in (ClientState.READY, ClientState.STARTED, ClientState.MASKED):
        assert client.state in (ClientState.READY, before)
    else:
        assert client.state is ClientState.ABORTED
        with pytest.raises(AfterBurned):
            client.receive(message, now=0)
        vault = client._vault
        assert vault is None or not any([*vault.keys, *vault.seeds, *vault.channel, *vault.sharing_seed])
    return caught.value


def assert_burned(client: Client, round: int) -> None:
    """Nothing of the round is left, and it cannot start again."""
    vault = client._vault
    assert vault is not None
    assert client.state is ClientState.READY
    assert client.last_round >= round
    assert client.round == 0
    assert not any([*vault.key(round), *vault.seed(round)])
    assert not vault.held[round - 1].any()


def test_every_refusal_has_one_class_and_its_number() -> None:
    numbers = {
        cls.__name__: cls.refusal
        for cls in vars(errors_module).values()
        if inspect.isclass(cls) and issubclass(cls, PeerProtocolError | ValueOutOfRange) and cls.refusal
    }
    assert set(numbers.values()) == {*range(1, 21), 22}, "21 cannot be expressed"
    for name, number in numbers.items():
        assert f"Refusal {number}:" in (getattr(errors_module, name).__doc__ or "")


# --- the offer


def offer(**changes: object) -> bytes:
    arguments: dict[str, object] = {
        "vectors": [VectorSpec("x", 5, 32)],
        "n_min": 3,
        "n_max": 9,
        "rounds": 2,
        "plan_digest": PLAN,
        "corrupt": 0.1,
        "dropout": 0.2,
    }
    return encode(Offer.new(**(arguments | changes)))  # type: ignore[arg-type]


def fields_of(message: bytes) -> list[object]:
    return list(msgspec.msgpack.decode(message))


def altered(place: int, value: object) -> bytes:
    fields = fields_of(offer())
    fields[place] = value
    return msgspec.msgpack.encode(fields)


@pytest.mark.parametrize(
    "message",
    [
        altered(1, "sa2"),
        altered(4, "covert"),
        altered(4, 1),
        msgspec.msgpack.encode([*fields_of(offer()), 0]),
        offer() + b"\0",
        offer()[:-1],
        b"",
        b"\xc1",
        bytes(1 << 20),
    ],
    ids=["version", "mode", "mode type", "field", "trailing", "cut", "empty", "opcode", "oversize"],
)
def test_2_unknown_version_suite_or_field(message: bytes) -> None:
    assert refused(Client(ME), message, UnknownFormat).refusal == 2


@pytest.mark.parametrize(("suite", "word"), [(0, "unknown"), (3, "ML-KEM-768"), (255, "unknown")])
def test_2_a_suite_that_this_version_does_not_have(suite: int, word: str) -> None:
    error = refused(Client(ME), altered(3, suite), UnknownSuite)
    assert error.refusal == 2
    assert word in str(error)


@pytest.mark.parametrize("shares", [2, 10, 2**31])
def test_2_noise_shares_that_do_not_fit_the_clients(shares: int) -> None:
    assert refused(Client(ME), altered(16 - 1, shares), UnknownFormat).refusal == 2


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        (ClientPolicy(n_min=4), "n_min"),
        (ClientPolicy(min_corrupt=0.2), "corrupt"),
        (ClientPolicy(max_dropout=0.1), "dropout"),
        (ClientPolicy(min_sigma=41), "sigma"),
        (ClientPolicy(modes=frozenset({"malicious"})), "mode"),
        (ClientPolicy(plan_digests=frozenset({OTHER})), "plan"),
    ],
)
def test_3_parameters_weaker_than_policy(policy: ClientPolicy, word: str) -> None:
    error = refused(Client(ME, policy=policy), offer(), WeakParameters)
    assert error.refusal == 3
    assert word in str(error)


def test_3_the_policy_accepts_what_it_asks_for() -> None:
    policy = ClientPolicy(
        n_min=3, min_corrupt=0.1, max_dropout=0.2, plan_digests=frozenset({PLAN}), max_rounds=2, max_vector_bytes=20
    )
    assert Client(ME, policy=policy).receive(offer(), now=0).reply


@pytest.mark.parametrize(
    ("policy", "changes", "now"),
    [
        (ClientPolicy(max_rounds=1), {}, 0),
        (ClientPolicy(max_vector_bytes=19), {}, 0),
        (ClientPolicy(require_expiry=True), {}, 0),
        (ClientPolicy(), {"expiry": 100}, 101),
        (ClientPolicy(max_lifetime=50), {"expiry": 151}, 100),
        (ClientPolicy(max_lifetime=50), {"expiry": 0}, 100),
    ],
    ids=["rounds", "bytes", "no expiry", "expired", "lifetime", "lifetime without expiry"],
)
def test_4_over_bounds(policy: ClientPolicy, changes: dict[str, object], now: int) -> None:
    assert refused(Client(ME, policy=policy), offer(**changes), OverBound, now=now).refusal == 4


def test_4_an_epoch_expires_between_messages() -> None:
    net = Network.make(4, expiry=100)
    roster = net.advertise()[ME]
    net.clients[ME].save()
    assert refused(net.clients[ME], roster, OverBound, now=101).refusal == 4
    net = Network.make(4, expiry=100).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[ME]
    assert refused(net.clients[ME], start, OverBound, now=101).refusal == 4
    assert_burned(net.clients[ME], 1)


def test_4_the_time_has_to_be_given() -> None:
    """A default would let a forgetful driver accept whatever has expired."""
    client, message = Client(ME), Network.make(4, expiry=100).server.offer
    with pytest.raises(TypeError, match="now"):
        client.receive(message)  # type: ignore[call-arg]  # that is the mistake
    assert client.state is ClientState.NEW


@pytest.mark.parametrize("restored", [False, True])
def test_4_survivors_after_the_deadline(restored: bool) -> None:
    net = Network.make(4).set_up()
    for identity, start in net.server.start_round(model_digest=MODEL, plan_digest=PLAN, deadline=50).items():
        net.tell(identity, start)
        net.send(identity, net.submit(identity, net.vectors()[identity]))
    mail = net.server.close_inputs()
    if restored:
        net.clients[ME] = Client.restore(net.saved[ME])
    assert refused(net.clients[ME], mail[ME], OverBound, now=51).refusal == 4
    other = identities(2)[1]
    assert net.clients[other].receive(mail[other], now=50).reply


def test_4_a_start_after_its_deadline() -> None:
    net = Network.make(4).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN, deadline=50)[ME]
    assert refused(net.clients[ME], start, OverBound, now=51).refusal == 4
    assert_burned(net.clients[ME], 1)
    net = Network.make(4).set_up()
    start = net.server.start_round(model_digest=MODEL, plan_digest=PLAN, deadline=50)[ME]
    net.clients[ME].receive(start, now=50)


# --- the roster


class RosterForge:
    """A roster for client 0 of 4, rebuilt after its leaves were changed, as a lying server would."""

    def __init__(self, **offered: object) -> None:
        self.net = Network.make(4, rounds=2, **offered)  # type: ignore[arg-type]
        self.sent = self.net.advertise()
        self.client = self.net.clients[ME]
        self.epoch = derive.epoch_id(self.net.server.offer)
        self.roster = msgspec.msgpack.decode(self.sent[ME], type=Roster)
        self.leaves = [self.client._advertise, *(entry.advertise for entry in self.roster.neighbours)]

    def advertise(self, index: int) -> Advertise:
        return msgspec.msgpack.decode(self.leaves[index], type=Advertise)

    def change(self, index: int, **changes: object) -> None:
        self.leaves[index] = encode(msgspec.structs.replace(self.advertise(index), **changes))

    def forged(self, **changes: object) -> bytes:
        hashes = [leaf_hash(leaf) for leaf in self.leaves]
        entries = tuple(Neighbour(index, leaf, ()) for index, leaf in enumerate(self.leaves) if index)
        honest = msgspec.structs.replace(
            self.roster, n=len(hashes), root=root_of(hashes), path=path_of(hashes, 0), neighbours=entries
        )
        return encode(msgspec.structs.replace(honest, **changes))


def test_the_forge_forges_acceptable_rosters() -> None:
    forge = RosterForge()
    assert forge.forged() == forge.sent[ME]
    assert forge.client.receive(forge.forged(), now=0).reply


@pytest.mark.parametrize("changes", [{"k": 2}, {"k": 4}, {"t": 1}, {"t": 3}])
def test_3_parameters_other_than_its_own(changes: dict[str, object]) -> None:
    forge = RosterForge()
    assert (forge.roster.k, forge.roster.t) == (3, 2)
    assert refused(forge.client, forge.forged(**changes), WeakParameters).refusal == 3


@pytest.mark.parametrize(("colluders", "accepted"), [(1, True), (2, False)])
def test_3_a_threshold_that_the_guarded_colluders_reach(colluders: int, accepted: bool) -> None:
    forge = RosterForge()
    assert forge.roster.t == 2
    forge.client._policy = ClientPolicy(min_colluders=colluders)
    if accepted:
        assert forge.client.receive(forge.forged(), now=0).reply
    else:
        assert refused(forge.client, forge.forged(), WeakParameters).refusal == 3


def test_3_a_roster_for_which_no_parameters_exist() -> None:
    forge = RosterForge(n_min=2, corrupt=0.5, dropout=0.0)  # fits 4 clients, not 2
    forge.leaves = forge.leaves[:2]
    assert refused(forge.client, forge.forged(k=1, t=1), WeakParameters).refusal == 3


@pytest.mark.parametrize("n", [0, 1, 2, 5, 300, 2**31 - 1])
def test_5_number_of_clients_outside_the_offer(n: int) -> None:
    forge = RosterForge(n_min=3)
    assert refused(forge.client, forge.forged(n=n), RosterSize).refusal == 5


def test_5_an_offer_for_more_clients_than_the_policy_allows() -> None:
    assert refused(Client(ME, policy=ClientPolicy(n_max=8)), offer(), RosterSize).refusal == 5


def test_6_own_leaf_missing_or_altered() -> None:
    forge = RosterForge()
    forge.change(0, commitments=bytes(64))
    assert refused(forge.client, forge.forged(), BadOwnLeaf).refusal == 6


@pytest.mark.parametrize("changes", [{"index": 1}, {"index": 4}, {"index": 2**31 - 1}, {"path": ()}, {"root": OTHER}])
def test_6_own_place_that_the_root_does_not_prove(changes: dict[str, object]) -> None:
    forge = RosterForge()
    assert refused(forge.client, forge.forged(**changes), BadOwnLeaf).refusal == 6


def test_6_own_identity_doubled() -> None:
    forge = RosterForge()
    forge.change(1, identity=ME)
    assert refused(forge.client, forge.forged(), BadOwnLeaf).refusal == 6


def test_7_a_neighbour_that_the_root_does_not_hold() -> None:
    forge = RosterForge()
    stranger = encode(msgspec.structs.replace(forge.advertise(2), commitments=bytes(64)))
    entries = [*forge.roster.neighbours]
    entries[1] = Neighbour(2, stranger, ())
    assert refused(forge.client, forge.forged(neighbours=tuple(entries)), BadRoster).refusal == 7


def test_7_an_unsorted_roster() -> None:
    forge = RosterForge()
    forge.leaves[1], forge.leaves[2] = forge.leaves[2], forge.leaves[1]
    assert refused(forge.client, forge.forged(), BadRoster).refusal == 7


@pytest.mark.parametrize(
    "change",
    [
        lambda entries: entries[:-1],
        lambda entries: (*entries, entries[0]),
        lambda entries: (),
        lambda entries: entries[::-1],
        lambda entries: (Neighbour(0, entries[0].advertise, ()), *entries[1:]),
        lambda entries: (*entries[:2], Neighbour(4, entries[2].advertise, ())),
    ],
    ids=["fewer", "more", "none", "order", "itself", "outside"],
)
def test_8_neighbours_that_the_graph_does_not_give(
    change: Callable[[tuple[Neighbour, ...]], tuple[Neighbour, ...]],
) -> None:
    forge = RosterForge()
    message = forge.forged(neighbours=change(forge.roster.neighbours))
    assert refused(forge.client, message, WrongNeighbours).refusal == 8


def test_9_an_identity_that_the_policy_does_not_list() -> None:
    known = frozenset(identities(3))
    net = Network.make(4, policy=ClientPolicy(identities=known))
    assert refused(net.clients[ME], net.advertise()[ME], BadNeighbour).refusal == 9
    Network.make(4, policy=ClientPolicy(identities=frozenset(identities(4)))).set_up()


def test_9_an_identity_twice() -> None:
    forge = RosterForge()
    forge.change(2, identity=forge.advertise(1).identity)
    assert refused(forge.client, forge.forged(), BadNeighbour).refusal == 9


@pytest.mark.parametrize("giver", [0, 1])
@pytest.mark.parametrize(("taken", "place"), [("channel", "channel"), ("channel", 1), (0, "channel"), (1, 0), (1, 1)])
def test_9_a_public_key_that_occurs_twice(giver: int, taken: str | int, place: str | int) -> None:
    """Between clients, rounds and purposes, the client's own keys included."""
    forge = RosterForge()
    source, target = forge.advertise(giver), forge.advertise(2)
    key = source.channel_key if taken == "channel" else source.round_keys[32 * int(taken) :][:32]
    if place == "channel":
        forge.change(2, channel_key=key)
    else:
        keys = bytearray(target.round_keys)
        keys[32 * int(place) : 32 * int(place) + 32] = key
        forge.change(2, round_keys=bytes(keys))
    assert refused(forge.client, forge.forged(), BadNeighbour).refusal == 9


@pytest.mark.parametrize("place", ["channel", 0, 1])
@pytest.mark.parametrize("key", [bytes(32), b"\x01" + bytes(31), b"\xff" * 32], ids=["zero", "one", "not canonical"])
def test_10_low_order_points(place: str | int, key: bytes) -> None:
    forge = RosterForge()
    if place == "channel":
        forge.change(3, channel_key=key)
    else:
        keys = bytearray(forge.advertise(3).round_keys)
        keys[32 * int(place) : 32 * int(place) + 32] = key
        forge.change(3, round_keys=bytes(keys))
    assert refused(forge.client, forge.forged(), LowOrderPoint).refusal == 10


def test_2_a_neighbour_with_keys_for_another_number_of_rounds() -> None:
    forge = RosterForge()
    forge.change(1, round_keys=forge.advertise(1).round_keys[:32])
    assert refused(forge.client, forge.forged(), UnknownFormat).refusal == 2


def test_13_a_roster_of_another_epoch() -> None:
    forge = RosterForge()
    assert refused(forge.client, forge.forged(epoch=OTHER), WrongRound).refusal == 13
    forge = RosterForge()
    forge.change(1, epoch=OTHER)
    assert refused(forge.client, forge.forged(), WrongRound).refusal == 13


# --- the delivery


class DeliveryForge:
    """A delivery for client 0 of 4, with the keys of all ends at hand."""

    def __init__(self) -> None:
        self.net = Network.make(4, rounds=2)
        rosters = self.net.advertise()
        for identity, roster in rosters.items():
            self.net.send(identity, self.net.tell(identity, roster))
        self.client = self.net.clients[ME]
        self.message = self.net.server.close_shares()[ME]
        self.delivery = msgspec.msgpack.decode(self.message, type=Delivery)
        assert self.client._view is not None
        self.view = self.client._view
        self.epoch = self.client._epoch

    def key(self, sender: int, receiver: int = 0, *, root: bytes | None = None, n: int = 4) -> bytes:
        vault = self.client._vault
        assert vault is not None
        secret = Agreement(vault.channel).shared_secret(self.view.channel_keys[sender - 1])
        return derive.share_key(
            secret, epoch=self.epoch, root=root or self.view.root, n=n, sender=sender, receiver=receiver
        )

    def associated(self, sender: int, receiver: int = 0) -> bytes:
        return derive.share_associated_data(epoch=self.epoch, root=self.view.root, sender=sender, receiver=receiver)

    def pieces(self) -> list[bytes]:
        raw = bytes(self.delivery.ciphertexts)
        return [raw[160 * place : 160 * (place + 1)] for place in range(3)]

    def forged(self, **changes: object) -> bytes:
        return encode(msgspec.structs.replace(self.delivery, **changes))


def test_the_delivery_forge_reads_what_was_sent() -> None:
    forge = DeliveryForge()
    assert forge.forged() == forge.message
    for sender, piece in enumerate(forge.pieces(), start=1):
        assert len(unseal(forge.key(sender), piece, forge.associated(sender), sender=str(sender))) == 144
    assert forge.client.receive(forge.message, now=0).reply is None


@pytest.mark.parametrize("place", [0, 159, 160, 300, 479])
def test_11_an_altered_ciphertext(place: int) -> None:
    forge = DeliveryForge()
    raw = bytearray(forge.delivery.ciphertexts)
    raw[place] ^= 1
    error = refused(forge.client, forge.forged(ciphertexts=memoryview(bytes(raw))), BadShareMessage)
    assert error.refusal == 11
    assert f"client {1 + place // 160}" in str(error)


def test_11_ciphertexts_of_other_senders_directions_or_rosters() -> None:
    forge = DeliveryForge()
    first, second, third = forge.pieces()
    for swap in ([second, first, third], [first, first, third]):
        forge = DeliveryForge()
        refused(forge.client, forge.forged(ciphertexts=memoryview(b"".join(swap))), BadShareMessage)
    forge = DeliveryForge()
    other_secret = derive.share_key(bytes(32), epoch=forge.epoch, root=forge.view.root, n=4, sender=1, receiver=0)
    for key, associated in (
        (forge.key(1, root=OTHER), forge.associated(1)),
        (forge.key(1, n=5), forge.associated(1)),
        (forge.key(1, receiver=1), forge.associated(1)),
        (forge.key(1), forge.associated(2)),
        (forge.key(1), forge.associated(1, receiver=1)),
        (other_secret, forge.associated(1)),
    ):
        fresh = DeliveryForge()
        stranger = seal(key, bytes(144), associated)
        message = fresh.forged(ciphertexts=memoryview(b"".join([stranger, second, third])))
        assert refused(fresh.client, message, BadShareMessage).refusal == 11
    fresh = DeliveryForge()
    right = seal(forge.key(1), bytes(144), forge.associated(1))
    assert (
        fresh.client.receive(fresh.forged(ciphertexts=memoryview(b"".join([right, second, third]))), now=0).reply
        is None
    )


def test_11_the_two_directions_of_a_pair_have_two_keys() -> None:
    forge = DeliveryForge()
    assert forge.key(1, 0) != derive.share_key(
        Agreement(forge.client._vault.channel).shared_secret(forge.view.channel_keys[0]),  # type: ignore[union-attr]
        epoch=forge.epoch,
        root=forge.view.root,
        n=4,
        sender=0,
        receiver=1,
    )


@pytest.mark.parametrize("limb", [2**31 - 1, 2**31, 2**32 - 1])
@pytest.mark.parametrize("place", [0, 35])
def test_11_a_limb_outside_the_field(limb: int, place: int) -> None:
    forge = DeliveryForge()
    shares = np.zeros(36, "<u4")
    shares[place] = limb
    piece = seal(forge.key(2), shares.tobytes(), forge.associated(2))
    pieces = forge.pieces()
    error = refused(forge.client, forge.forged(ciphertexts=memoryview(pieces[0] + piece + pieces[2])), BadShareMessage)
    assert error.refusal == 11
    assert f"client 2 (identity {identities(3)[2].hex()})" in str(error)


def test_11_shares_that_do_not_authenticate_name_their_sender() -> None:
    """One client that seals garbage aborts the others; the operator has to know which."""
    forge = DeliveryForge()
    first, second, third = forge.pieces()
    garbage = forge.forged(ciphertexts=memoryview(b"".join([first, bytes(len(second)), third])))
    error = refused(forge.client, garbage, BadShareMessage)
    assert f"client 2 (identity {identities(3)[2].hex()})" in str(error)


@pytest.mark.parametrize("size", [0, 1, 320, 479, 481, 640])
def test_11_a_wrong_length(size: int) -> None:
    forge = DeliveryForge()
    raw = (bytes(forge.delivery.ciphertexts) * 2)[:size]
    assert refused(forge.client, forge.forged(ciphertexts=memoryview(raw)), BadShareMessage).refusal == 11


def test_12_fewer_deliveries_than_the_threshold() -> None:
    forge = DeliveryForge()
    assert forge.view.t == 2
    message = forge.forged(present=b"\x03", ciphertexts=memoryview(forge.pieces()[0]))
    assert refused(forge.client, message, DeliveryBelowThreshold).refusal == 12
    forge = DeliveryForge()
    message = forge.forged(present=b"\x07", ciphertexts=memoryview(b"".join(forge.pieces()[:2])))
    assert forge.client.receive(message, now=0).reply is None


def test_14_own_shares_not_among_the_delivered() -> None:
    forge = DeliveryForge()
    assert refused(forge.client, forge.forged(present=b"\x0e"), OwnBitOff).refusal == 14


def test_13_a_delivery_of_another_epoch() -> None:
    forge = DeliveryForge()
    assert refused(forge.client, forge.forged(epoch=OTHER), WrongRound).refusal == 13


@pytest.mark.parametrize("present", [b"\x1f", b"\x0f\x00", b"\x8f"])
def test_2_bitmaps_of_wrong_size(present: bytes) -> None:
    forge = DeliveryForge()
    assert refused(forge.client, forge.forged(present=present), UnknownFormat).refusal == 2


# --- rounds


class RoundForge:
    """Five clients after set-up (threshold 3), one of them lost in set-up if asked; the first is under test."""

    def __init__(self, *, lost: bool = False, n_min: int = 2) -> None:
        self.net = Network.make(5, rounds=3, n_min=n_min, dropout=0.2)
        self.net.set_up(lost_shares=identities(5)[4:] if lost else ())
        self.client = self.net.clients[ME]
        started = self.net.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        self.start = started[ME]
        assert self.client._view is not None
        self.view = self.client._view

    def begin(self) -> RoundForge:
        self.client.receive(self.start, now=0)
        return self

    def mask(self) -> RoundForge:
        self.begin()
        self.net.submit(ME, self.net.vectors()[ME])
        return self

    def survivors(self, members: tuple[int, ...], *, round: int = 1, epoch: bytes | None = None) -> bytes:
        return encode(Survivors("sa1", epoch or self.client._epoch, round, bitmap.pack(members, 5)))


@pytest.mark.parametrize("round", [4, 2**31 - 1])
def test_13_a_round_beyond_the_last(round: int) -> None:
    forge = RoundForge()
    assert refused(forge.client, replace(forge.start, Start, round=round), WrongRound).refusal == 13
    assert forge.client.last_round == 0
    forge.client.receive(forge.start, now=0)


def test_13_a_round_that_is_not_later() -> None:
    forge = RoundForge()
    forge.client.receive(replace(forge.start, Start, round=2), now=0)
    forge.client.burn()
    for round in (1, 2):
        assert refused(forge.client, replace(forge.start, Start, round=round), WrongRound).refusal == 13
    forge.client.receive(replace(forge.start, Start, round=3), now=0)
    assert refused(forge.client, forge.start, WrongRound).refusal == 13
    assert forge.client.round == 3, "a replayed start must not stop the round that runs"


def test_13_a_second_start_of_the_running_round_burns_it() -> None:
    forge = RoundForge().begin()
    assert refused(forge.client, replace(forge.start, Start, deadline=7), WrongRound).refusal == 13
    assert_burned(forge.client, 1)
    forge = RoundForge().mask()
    assert refused(forge.client, replace(forge.start, Start, model_digest=OTHER), WrongRound).refusal == 13
    assert_burned(forge.client, 1)


def test_13_another_epoch() -> None:
    forge = RoundForge().mask()
    message = replace(forge.start, Start, epoch=OTHER, round=2)
    assert refused(forge.client, message, WrongRound).refusal == 13
    assert refused(forge.client, forge.survivors((0, 1, 2, 3), epoch=OTHER), WrongRound).refusal == 13
    assert forge.client.state is ClientState.MASKED, "messages of another epoch must not stop the round that runs"


def test_13_survivors_of_a_round_that_never_started() -> None:
    forge = RoundForge().mask()
    assert refused(forge.client, forge.survivors((0, 1, 2, 3), round=2), WrongRound).refusal == 13
    assert_burned(forge.client, 1)


def test_14_own_bit_off_in_u() -> None:
    forge = RoundForge()
    message = replace(forge.start, Start, participants=bitmap.pack((1, 2, 3, 4), 5))
    assert refused(forge.client, message, OwnBitOff).refusal == 14
    assert_burned(forge.client, 1)


def test_14_own_bit_off_in_v() -> None:
    forge = RoundForge().mask()
    assert refused(forge.client, forge.survivors((1, 2, 3, 4)), OwnBitOff).refusal == 14
    assert_burned(forge.client, 1)


def test_15_too_few_in_u_or_v() -> None:
    forge = RoundForge(n_min=5)
    message = replace(forge.start, Start, participants=bitmap.pack((0, 1, 2, 3), 5))
    assert refused(forge.client, message, BadBitmap).refusal == 15
    assert_burned(forge.client, 1)
    forge = RoundForge(n_min=5).mask()
    assert refused(forge.client, forge.survivors((0, 1, 2, 3)), BadBitmap).refusal == 15
    assert_burned(forge.client, 1)


def test_15_v_not_within_u() -> None:
    forge = RoundForge()
    forge.start = replace(forge.start, Start, participants=bitmap.pack((0, 1, 2, 3), 5))
    forge.mask()
    assert refused(forge.client, forge.survivors((0, 1, 2, 3, 4)), BadBitmap).refusal == 15
    assert_burned(forge.client, 1)


def test_15_u_with_somebody_who_never_shared() -> None:
    forge = RoundForge(lost=True)
    message = replace(forge.start, Start, participants=bitmap.pack((0, 1, 2, 3, 4), 5))
    assert refused(forge.client, message, BadBitmap).refusal == 15
    assert_burned(forge.client, 1)


def test_16_fewer_live_neighbours_than_the_threshold() -> None:
    forge = RoundForge()
    assert forge.view.t == 3
    message = replace(forge.start, Start, participants=bitmap.pack((0, 1, 2), 5))
    assert refused(forge.client, message, NeighboursBelowThreshold).refusal == 16
    assert_burned(forge.client, 1)
    forge = RoundForge().mask()
    assert refused(forge.client, forge.survivors((0, 1, 2)), NeighboursBelowThreshold).refusal == 16
    assert_burned(forge.client, 1)
    forge = RoundForge().mask()
    assert forge.client.receive(forge.survivors((0, 1, 2, 3)), now=0).reply


@pytest.mark.parametrize("changes", [{"model_digest": OTHER}, {"plan_digest": OTHER}, {"plan_digest": b""}])
def test_17_another_model_or_plan(changes: dict[str, bytes]) -> None:
    forge = RoundForge().begin()
    with pytest.raises(DigestMismatch) as caught:
        forge.client.submit(forge.net.vectors()[ME], **({"model_digest": MODEL, "plan_digest": PLAN} | changes))
    assert caught.value.refusal == 17
    assert_burned(forge.client, 1)


@pytest.mark.parametrize(
    "vectors",
    [
        {},
        {"y": np.zeros(5, np.uint32)},
        {"x": np.zeros(5, np.uint32), "y": np.zeros(5, np.uint32)},
        {"x": np.zeros(4, np.uint32)},
        {"x": np.zeros((5, 1), np.uint32)},
        {"x": np.zeros(5, np.int32)},
        {"x": np.zeros(5, np.uint64)},
        {"x": np.zeros(5, np.float64)},
        {"x": np.zeros(5, ">u4")},
        {"x": np.zeros(10, np.uint32)[::2]},
        {"x": [0, 0, 0, 0, 0]},
    ],
)
def test_18_a_vector_that_is_not_as_offered_changes_nothing(vectors: dict[str, np.ndarray]) -> None:
    forge = RoundForge().begin()
    before = forge.client.save()
    with pytest.raises(LocalProtocolError):
        forge.client.submit(vectors, model_digest=MODEL, plan_digest=PLAN)
    assert forge.client.save() == before
    assert forge.client.state is ClientState.STARTED


@pytest.mark.parametrize("bits", [1, 7, 12, 31, 63])
def test_18_an_element_of_more_bits_than_offered(bits: int) -> None:
    spec = VectorSpec("x", 3, bits)
    net = Network.make(4, vectors=[spec]).set_up()
    client = net.clients[ME]
    client.receive(net.server.start_round(model_digest=MODEL, plan_digest=PLAN)[ME], now=0)
    before = client.save()
    top = np.array([0, (1 << bits) - 1, 0], spec.dtype)
    with pytest.raises(ValueOutOfRange) as caught:
        client.submit({"x": top + np.array([0, 1, 0], spec.dtype)}, model_digest=MODEL, plan_digest=PLAN)
    assert caught.value.refusal == 18
    assert client.save() == before
    assert client.submit({"x": top}, model_digest=MODEL, plan_digest=PLAN)


@pytest.mark.parametrize(("shares", "accepted"), [(0, False), (3, False), (5, False), (4, True)])
def test_18_an_offer_for_other_noise_shares_than_the_own_noise_is_sized_for(shares: int, accepted: bool) -> None:
    """Fewer would have seeds handed out that take too much noise out; the client knows its plan and no other."""
    client = Client(ME, policy=ClientPolicy(noise_shares=4))
    if accepted:
        assert client.receive(offer(shares=shares), now=0).reply
    else:
        assert refused(client, offer(shares=shares), NoiseBelowFloor).refusal == 18


def test_19_a_second_v() -> None:
    forge = RoundForge().mask()
    assert forge.client.receive(forge.survivors((0, 1, 2, 3)), now=0).reply
    for members in ((0, 1, 2, 3), (0, 1, 2, 4)):
        assert refused(forge.client, forge.survivors(members), SecondSurvivors).refusal == 19
    assert_burned(forge.client, 1)


def test_21_alive_and_dropped_at_once_cannot_be_expressed() -> None:
    """One bit a neighbour decides, and the answer has room for one share each."""
    forge = RoundForge().mask()
    vault = forge.client._vault
    assert vault is not None
    held = vault.held[0].copy().reshape(4, 2, 36)
    reply = forge.client.receive(forge.survivors((0, 1, 3, 4)), now=0).reply
    assert reply is not None
    shares = np.frombuffer(msgspec.msgpack.decode(reply, type=Unmask).shares, np.uint8).reshape(4, 36)
    for place, alive in enumerate((True, False, True, True)):  # neighbours 1 to 4
        assert np.array_equal(shares[place], held[place, int(alive)])
        assert not np.array_equal(shares[place], held[place, 1 - int(alive)])


def test_22_anything_after_a_burned_round_or_aborted_set_up() -> None:
    forge = RoundForge().mask()
    forge.client.burn()
    assert refused(forge.client, forge.survivors((0, 1, 2, 3)), AfterBurned).refusal == 22
    client = Client(ME)
    refused(client, b"", UnknownFormat)
    for message in (b"", offer(), forge.start):
        with pytest.raises(AfterBurned) as caught:
            client.receive(message, now=0)
        assert caught.value.refusal == 22


# --- order of messages


def test_messages_out_of_order_abort_set_up() -> None:
    forge = RoundForge()
    assert refused(Client(ME), forge.start, UnexpectedMessage).refusal == 0
    waiting = Client(ME, randomness=seeded(1))
    waiting.receive(offer(), now=0)
    assert refused(waiting, offer(), UnexpectedMessage).refusal == 0


def test_survivors_before_the_vector_burn_the_round() -> None:
    forge = RoundForge().begin()
    refused(forge.client, forge.survivors((0, 1, 2, 3)), UnexpectedMessage)
    assert_burned(forge.client, 1)


def test_messages_that_cannot_be_read_burn_the_running_round() -> None:
    for prepare in (RoundForge.begin, RoundForge.mask):
        forge = prepare(RoundForge())
        assert refused(forge.client, b"\xc1", UnknownFormat).refusal == 2
        assert_burned(forge.client, 1)
        forge.client.receive(replace(forge.start, Start, round=2), now=0)


def test_set_up_messages_after_set_up_change_nothing() -> None:
    forge = RoundForge().mask()
    before = forge.client.save()
    refused(forge.client, forge.net.server.offer, UnexpectedMessage)
    assert forge.client.save() == before


def test_a_later_start_burns_the_round_that_ran() -> None:
    forge = RoundForge().mask()
    forge.client.receive(replace(forge.start, Start, round=3), now=0)
    assert forge.client.round == 3
    vault = forge.client._vault
    assert vault is not None
    for round in (1, 2):
        assert not any([*vault.key(round), *vault.seed(round), *vault.held[round - 1].reshape(-1)])
    assert refused(forge.client, forge.survivors((0, 1, 2, 3)), AfterBurned).refusal == 22


@pytest.mark.parametrize("state", ["new", "advertised", "shared", "ready", "masked"])
def test_calls_out_of_order_are_the_callers_mistake(state: str) -> None:
    forge = RoundForge()
    client = {
        "new": lambda: Client(ME),
        "advertised": lambda: RosterForge().client,
        "shared": lambda: DeliveryForge().client,
        "ready": lambda: forge.client,
        "masked": lambda: RoundForge().mask().client,
    }[state]()
    before = client.save()
    with pytest.raises(LocalProtocolError):
        client.submit({"x": np.zeros(5, np.uint32)}, model_digest=MODEL, plan_digest=PLAN)
    assert client.save() == before


def test_identities_are_1_to_128_bytes() -> None:
    for identity in (b"", b"x" * 129):
        with pytest.raises(LocalProtocolError, match="128"):
            Client(identity)
