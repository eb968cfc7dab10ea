"""A malicious server by script: an epoch that is honest but for one deviation towards one client, once a refusal.

The client that is lied to refuses by the right name and gives nothing out; the rest go on or fail closed, and no sum
but the right one is ever opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec
import pytest

from privfed_protocols import (
    BadBitmap,
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadServerSignature,
    BadShareMessage,
    BadSignature,
    ClientState,
    DeliveryBelowThreshold,
    DigestMismatch,
    EpochFailed,
    LowOrderPoint,
    NeighboursBelowThreshold,
    NoQuorum,
    OverBound,
    OwnBitOff,
    PeerProtocolError,
    RosterSize,
    RoundFailed,
    SecondSurvivors,
    ServerState,
    UnexpectedMessage,
    UnknownFormat,
    UnknownSuite,
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
    Message,
    Neighbour,
    Offer,
    Quorum,
    Roster,
    Start,
    Survivors,
    encode,
)
from privfed_protocols.signed import Signed, fingerprint_of, is_signed, statement, wrap
from tests.protocols.harness import MODEL, PLAN, Network, assert_exact, identities, replace, signer_of

VICTIM, OTHER = identities(6)[0], identities(6)[1]
NOTHING = bytes(range(32))
BOTH = ("semi-honest", "malicious")
LAST = {"semi-honest": "survivors", "malicious": "quorum"}


@dataclass
class Script:
    """What the server does to one client; everything else is honest."""

    net: Network
    mode: str
    deviations: Mapping[str, Callable[[Script, bytes], bytes]]
    refused: list[PeerProtocolError] = field(default_factory=list)

    def edit(self, kind: type[Message], message: bytes, **changes: object) -> bytes:
        """Change fields, and sign the lie with the server's key where the mode has it signed."""
        if not is_signed(kind, self.mode):
            return replace(message, kind, **changes)
        return self.sign(kind, replace(self.body(message), kind, **changes))

    def sign(self, kind: type[Message], body: bytes, *, by: bytes = b"the server") -> bytes:
        epoch = b"" if kind is Offer else self.net.server._epoch
        return wrap(body, signer_of(by).sign(statement(kind, fingerprint_of(body), epoch=epoch, suite=1)))

    def body(self, message: bytes) -> bytes:
        return bytes(msgspec.msgpack.decode(message, type=Signed).body)

    def tell(self, step: str, identity: bytes, message: bytes) -> bytes | None:
        """Carry a message to a client; None if it was refused or had no reply."""
        deviation = self.deviations.get(step) if identity == VICTIM else None
        try:
            return self.net.tell(identity, message if deviation is None else deviation(self, message))
        except PeerProtocolError as error:
            assert identity == VICTIM
            assert deviation is not None
            self.refused.append(error)
            self.net.keep(identity)
            return None

    def exchange(self, step: str, mail: Mapping[bytes, bytes]) -> None:
        for identity, message in mail.items():
            if self.net.clients[identity].state is not ClientState.ABORTED:
                reply = self.tell(step, identity, message)
                if reply is not None:
                    self.net.send(identity, reply)

    def run(self) -> None:
        """One epoch of one round; the round's sum is right, or nothing is opened."""
        net, vectors = self.net, self.net.vectors()
        try:
            self.exchange("offer", dict.fromkeys(net.clients, net.server.offer))
            self.exchange("roster", net.server.close_advertise())
            self.exchange("delivery", net.server.close_shares())
            for identity, message in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
                if net.clients[identity].state is ClientState.READY:
                    self.tell("start", identity, message)
                if net.clients[identity].state is ClientState.STARTED:
                    try:
                        net.send(identity, net.submit(identity, vectors[identity]))
                    except DigestMismatch as error:
                        self.refused.append(error)
            self.exchange("survivors", net.server.close_inputs())
            if net.server.state is ServerState.SIGNATURES:
                self.exchange("quorum", net.server.close_signatures())
            result = net.server.close_unmask()
        except (RoundFailed, EpochFailed):
            return
        assert_exact(result, vectors, net.offer.vectors)


def changed(kind: type[Message], **changes: object) -> Callable[[Script, bytes], bytes]:
    return lambda script, message: script.edit(kind, message, **changes)


def members(*indices: int) -> bytes:
    return bitmap.pack(indices, 6)


def roster(change: Callable[[Script, list[bytes]], None]) -> Callable[[Script, bytes], bytes]:
    """Change the leaves of a roster, and hash it anew."""

    def deviate(script: Script, message: bytes) -> bytes:
        told = msgspec.msgpack.decode(message, type=Roster)
        leaves = [script.net.clients[VICTIM]._advertise, *(entry.advertise for entry in told.neighbours)]
        change(script, leaves)
        hashes = [leaf_hash(leaf) for leaf in leaves]
        entries = tuple(Neighbour(index, leaf, ()) for index, leaf in enumerate(leaves) if index)
        return replace(message, Roster, root=root_of(hashes), path=path_of(hashes, 0), neighbours=entries)

    return deviate


def leaf(place: int, *, by: bytes | None = None, **changes: object) -> Callable[[Script, list[bytes]], None]:
    """Change one M1; sign it with the key of `by`, or with its own as an ally of the server would."""

    def change(script: Script, leaves: list[bytes]) -> None:
        signed = script.mode != "semi-honest"
        altered = replace(script.body(leaves[place]) if signed else leaves[place], Advertise, **changes)
        owner = identities(6)[place] if by is None else by
        leaves[place] = script.sign(Advertise, altered, by=owner) if signed else altered

    return change


def swap(_script: Script, leaves: list[bytes]) -> None:
    leaves[1], leaves[2] = leaves[2], leaves[1]


def unsigned(script: Script, message: bytes) -> bytes:
    return script.body(message)


def foreign(kind: type[Message]) -> Callable[[Script, bytes], bytes]:
    return lambda script, message: script.sign(kind, script.body(message), by=b"a stranger")


def twice(script: Script, message: bytes) -> bytes:
    """A second V after the first was taken in: here one that leaves out the last client."""
    script.net.tell(VICTIM, message)
    return script.edit(Survivors, message, survivors=members(0, 1, 2, 3, 4))


def another_offer(script: Script) -> bytes:
    """A second offer of the same server; the first once more would be a repeat."""
    offer = script.net.offer
    return Network.make(6, mode=offer.mode, dropout=0.17, n_min=3, rounds=1, seed="another").server.offer


def forged_quorum(script: Script, message: bytes) -> bytes:
    """Signatures of the server's own making."""
    told = msgspec.msgpack.decode(message, type=Quorum)
    signatures = [signer_of(b"x").sign(b"V")] * bitmap.count(told.signers)
    return replace(message, Quorum, signatures=memoryview(b"".join(signatures)))


def key_of(name: bytes) -> bytes:
    return signer_of(name).public_key


Deviate = Callable[[Script, bytes], bytes]
TABLE: list[tuple[int, str, Deviate, type[PeerProtocolError], tuple[str, ...]]] = [
    (1, "offer", unsigned, BadServerSignature, ("malicious",)),
    (1, "offer", foreign(Offer), BadServerSignature, ("malicious",)),
    (1, "survivors", foreign(Survivors), BadServerSignature, ("malicious",)),
    (1, "survivors", unsigned, BadServerSignature, ("malicious",)),
    (2, "offer", lambda script, message: message + b"\0", UnknownFormat, BOTH),
    (2, "offer", changed(Offer, suite=9), UnknownSuite, BOTH),
    (2, "start", changed(Start, participants=bytes(2)), UnknownFormat, BOTH),
    (3, "offer", changed(Offer, sigma=39), WeakParameters, BOTH),
    (3, "roster", changed(Roster, t=1), WeakParameters, BOTH),
    (4, "offer", changed(Offer, rounds=2000), OverBound, BOTH),
    (4, "offer", changed(Offer, n_max=301, expiry=0, vectors=()), UnknownFormat, BOTH),
    (5, "offer", changed(Offer, n_max=301), RosterSize, BOTH),
    (5, "roster", changed(Roster, n=7), RosterSize, BOTH),
    (6, "roster", roster(leaf(0, commitments=bytes(32))), BadOwnLeaf, BOTH),
    (6, "roster", changed(Roster, index=1), BadOwnLeaf, BOTH),
    (7, "roster", changed(Roster, root=NOTHING, path=()), BadOwnLeaf, BOTH),
    (7, "roster", roster(swap), BadRoster, BOTH),
    (8, "roster", changed(Roster, neighbours=()), WrongNeighbours, BOTH),
    (9, "roster", roster(leaf(1, channel_key=key_of(b"mine"), by=b"the server")), BadSignature, ("malicious",)),
    (9, "roster", roster(leaf(5, identity=b"zoe")), BadNeighbour, ("malicious",)),
    (9, "roster", roster(leaf(2, identity=OTHER)), BadNeighbour, ("semi-honest",)),
    (10, "roster", roster(leaf(2, channel_key=bytes(32))), LowOrderPoint, BOTH),
    (11, "delivery", changed(Delivery, ciphertexts=memoryview(bytes(5 * 88))), BadShareMessage, BOTH),
    (
        12,
        "delivery",
        changed(Delivery, present=members(0, 1), ciphertexts=memoryview(b"")),
        DeliveryBelowThreshold,
        BOTH,
    ),
    (13, "start", changed(Start, round=2), WrongRound, BOTH),
    (13, "start", changed(Start, epoch=NOTHING), WrongRound, BOTH),
    (14, "start", changed(Start, participants=members(1, 2, 3, 4, 5)), OwnBitOff, BOTH),
    (14, "survivors", changed(Survivors, survivors=members(1, 2, 3, 4, 5)), OwnBitOff, BOTH),
    (15, "start", changed(Start, participants=members(0, 1)), BadBitmap, BOTH),
    (15, "survivors", changed(Survivors, survivors=members(0, 1)), BadBitmap, BOTH),
    (16, "start", changed(Start, participants=members(0, 1, 2)), NeighboursBelowThreshold, BOTH),
    (16, "survivors", changed(Survivors, survivors=members(0, 1, 2)), NeighboursBelowThreshold, BOTH),
    (17, "start", changed(Start, model_digest=NOTHING), DigestMismatch, BOTH),
    (17, "start", changed(Start, plan_digest=NOTHING), DigestMismatch, BOTH),
    (19, "survivors", twice, SecondSurvivors, BOTH),
    (20, "quorum", changed(Quorum, signers=b"\0", signatures=memoryview(b"")), NoQuorum, ("malicious",)),
    (20, "quorum", forged_quorum, NoQuorum, ("malicious",)),
    (0, "survivors", changed(Survivors, round=2), WrongRound, BOTH),
    (0, "roster", lambda script, message: another_offer(script), UnexpectedMessage, BOTH),
]
CASES = [
    pytest.param(number, step, deviate, error, mode, id=f"{mode}-{number}-{step}-{error.__name__}-{place}")
    for place, (number, step, deviate, error, modes) in enumerate(TABLE)
    for mode in modes
]


@pytest.mark.parametrize(("number", "step", "deviate", "error", "mode"), CASES)
def test_one_deviation_one_refusal(
    number: int, step: str, deviate: Deviate, error: type[PeerProtocolError], mode: str
) -> None:
    net = Network.make(6, mode=mode, dropout=0.17, n_min=3, rounds=1)  # type: ignore[arg-type]
    script = Script(net, mode, {step: deviate})
    script.run()
    assert [type(one) for one in script.refused] == [error]
    if number not in (0, 2, 7):  # a lie may trip an earlier check
        assert script.refused[0].refusal in (number, 2)
    client = net.clients[VICTIM]
    vault = client._vault
    if client.state is ClientState.ABORTED:
        assert vault is None or not any([*vault.keys, *vault.seeds, *vault.channel])
    elif error not in (WrongRound,):
        assert vault is not None
        assert (client.state, client.round) == (ClientState.READY, 0)
        assert not any([*vault.key(1), *vault.seed(1), *vault.held[0].reshape(-1)])


@pytest.mark.parametrize("mode", BOTH)
def test_without_a_deviation_the_script_is_honest(mode: str) -> None:
    script = Script(Network.make(6, mode=mode, dropout=0.17, n_min=3, rounds=1), mode, {})  # type: ignore[arg-type]
    script.run()
    assert not script.refused
    assert all(client.state is ClientState.READY for client in script.net.clients.values())


def test_every_refusal_of_the_text_is_in_the_script() -> None:
    """But for 18, the caller's or the policy's; 21, which cannot be expressed; and 22, which follows any other."""
    assert {number for number, *_ in TABLE} >= set(range(1, 21)) - {18}


def test_a_split_with_one_corrupt_signer_finds_no_quorum_for_either_half() -> None:
    """Five clients, one of them the server's ally, threshold 3 = (k + C + 1) / 2: the tightest case there is.

    Each half of the honest four sees its own two signatures and the ally's. If the own one counted among the three,
    both halves would answer, each for another set of survivors.
    """
    net = Network.make(5, mode="malicious", corrupt=0.2, dropout=0.2, n_min=3, rounds=1).set_up()
    roster = net.server._require_roster()
    assert (roster.parameters.k, roster.parameters.t) == (4, 3)
    script = Script(net, "malicious", {})
    mail = net.inputs(net.vectors())
    names = identities(5)
    told = {one: bitmap.pack((0, 1, 2, 3, 4), 5) for one in names[:2]}
    told |= {one: bitmap.pack((0, 2, 3, 4), 5) for one in names[2:4]}
    signatures: dict[bytes, bytes] = {}
    for identity, survivors in told.items():
        reply = net.tell(identity, script.edit(Survivors, mail[identity], survivors=survivors))
        assert reply is not None
        signatures[identity] = reply[-64:]
    for half in (names[:2], names[2:4]):
        survivors = told[half[0]]
        context = net.clients[half[0]]._round
        assert context is not None
        text = derive.consistency_statement(context=context.context, survivors=survivors)
        signers = [*(names.index(one) for one in half), 4]
        known = b"".join([*(signatures[one] for one in half), signer_of(names[4]).sign(text)])
        message = encode(Quorum("sa1", net.server._epoch, 1, bitmap.pack(signers, 5), memoryview(known)))
        for identity in half:
            with pytest.raises(NoQuorum):
                net.clients[identity].receive(message, now=0)
