"""An in-memory transport for one epoch: a server, its clients, and whatever goes wrong between them.

Used by the tests of the protocol and of the layers above. It keeps the discipline that the protocol asks of every
driver: a client is saved before anything it made is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import msgspec
import numpy as np

from privfed_protocols import (
    Client,
    ClientPolicy,
    Credentials,
    Directory,
    Offer,
    PeerProtocolError,
    RoundResult,
    Server,
    ServerState,
    Signer,
    VectorSpec,
)
from privfed_protocols.messages import Message
from privfed_protocols.modes import ModeName
from privfed_protocols.vectors import Array

MODEL = hashlib.sha256(b"model").digest()
PLAN = hashlib.sha256(b"plan").digest()
SMALL = (VectorSpec("x", 5, 32),)


def identities(n: int) -> list[bytes]:
    """Names that sort by number, so that client i has index i."""
    return [b"client-%04d" % number for number in range(n)]


def seeded(seed: object) -> Callable[[int], bytes]:
    """A deterministic stand-in for the operating system's randomness, for tests only."""
    counter = 0

    def read(size: int) -> bytes:
        nonlocal counter
        counter += 1
        return hashlib.shake_256(f"{seed}/{counter}".encode()).digest(size)

    return read


def signer_of(name: bytes) -> Signer:
    """The same key for the same name, every time; for tests only."""
    return Signer.from_seed(hashlib.sha256(b"signature key of " + name).digest())


SERVER_KEY = signer_of(b"the server").public_key


def credentials_of(names: Iterable[bytes]) -> dict[bytes, Credentials]:
    """Credentials of clients that pin each other and the server."""
    names = list(names)
    directory = Directory({name: signer_of(name).public_key for name in names})
    return {name: Credentials(signer_of(name), directory, SERVER_KEY) for name in names}


def replace(message: bytes, kind: type[Message], **changes: object) -> bytes:
    """Decode a message, change fields, and encode it again."""
    decoded = msgspec.msgpack.decode(message, type=kind)
    return msgspec.msgpack.encode(msgspec.structs.replace(decoded, **changes))


def random_vectors(specs: Iterable[VectorSpec], rng: np.random.Generator) -> dict[str, Array]:
    """Uniform ring elements, the worst case for carries."""
    return {
        spec.name: np.frombuffer(rng.bytes(spec.length * spec.dtype.itemsize), spec.dtype)
        >> spec.dtype.type(8 * spec.dtype.itemsize - spec.bits)
        for spec in specs
    }


def plain_sum(contributions: Iterable[Mapping[str, Array]], specs: Iterable[VectorSpec]) -> dict[str, list[int]]:
    """The sum in Python integers, modulo 2^bits: shares no arithmetic with the protocol."""
    rows = list(contributions)
    return {
        spec.name: [sum(int(row[spec.name][place]) for row in rows) % (1 << spec.bits) for place in range(spec.length)]
        for spec in specs
    }


def assert_exact(result: RoundResult, given: Mapping[bytes, Mapping[str, Array]], specs: Iterable[VectorSpec]) -> None:
    """The sums are those of exactly the survivors' vectors, bit for bit."""
    expected = plain_sum([given[identity] for identity in result.survivors], specs)
    for spec in specs:
        assert result.sums[spec.name].dtype == spec.dtype
        assert result.sums[spec.name].tolist() == expected[spec.name]


def surplus_of(identity: bytes) -> bytes:
    """A client's surplus seed, the same in every round; for tests only."""
    return hashlib.sha256(b"surplus seed of " + identity).digest()


@dataclass
class Network:
    """A server and its clients, with a transport that loses what it is told to lose."""

    server: Server
    clients: dict[bytes, Client]
    offer: Offer
    saved: dict[bytes, bytes] = field(default_factory=dict)
    restart_always: bool = False
    refused: list[tuple[bytes, PeerProtocolError]] = field(default_factory=list)
    credentials: Mapping[bytes, Credentials] = field(default_factory=dict)

    @classmethod
    def make(
        cls,
        n: int,
        *,
        vectors: Iterable[VectorSpec] = SMALL,
        rounds: int = 3,
        n_min: int = 2,
        corrupt: float = 0.0,
        dropout: float = 0.25,
        policy: ClientPolicy | None = None,
        seed: object = 0,
        restart_always: bool = False,
        mode: ModeName = "semi-honest",
        **offered: object,
    ) -> Network:
        offer = Offer.new(
            vectors=tuple(vectors),
            n_min=n_min,
            n_max=n,
            rounds=rounds,
            plan_digest=PLAN,
            corrupt=corrupt,
            dropout=dropout,
            mode=mode,
            nonce=hashlib.sha256(str(seed).encode()).digest(),
            **offered,  # type: ignore[arg-type]
        )
        known = credentials_of(identities(n)) if offer.rules.identities else {}
        policy = ClientPolicy(modes=frozenset({mode})) if policy is None else policy
        clients = {
            name: Client(name, policy=policy, credentials=known.get(name), randomness=seeded((seed, name)))
            for name in identities(n)
        }
        directory = known[identities(1)[0]].directory if known else None
        server = Server(offer, signer=signer_of(b"the server") if known else None, directory=directory)
        return cls(server, clients, offer, restart_always=restart_always, credentials=known)

    def keep(self, identity: bytes) -> None:
        """Save a client; with `restart_always`, go on from the saved bytes in a new object."""
        client = self.clients[identity]
        self.saved[identity] = client.save()
        if self.restart_always:
            self.clients[identity] = self.restored(identity, policy=client._policy)

    def restored(self, identity: bytes, *, policy: ClientPolicy | None = None) -> Client:
        """A client as it was last saved."""
        return Client.restore(self.saved[identity], policy=policy, credentials=self.credentials.get(identity))

    def tell(self, identity: bytes, message: bytes) -> bytes | None:
        """Give a client a message; its reply, after it was saved."""
        event = self.clients[identity].receive(message, now=0)
        self.keep(identity)
        return event.reply

    def send(self, identity: bytes, message: bytes | None) -> None:
        """Give the server a message; refusals are collected, not raised."""
        assert message is not None
        try:
            self.server.receive(identity, message)
        except PeerProtocolError as error:
            self.refused.append((identity, error))

    def advertise(self, *, lost: Collection[bytes] = ()) -> Mapping[bytes, bytes]:
        for identity in self.clients:
            if identity not in lost:
                self.send(identity, self.tell(identity, self.server.offer))
        return self.server.close_advertise()

    def set_up(
        self,
        *,
        lost_advertise: Collection[bytes] = (),
        lost_shares: Collection[bytes] = (),
        lost_delivery: Collection[bytes] = (),
    ) -> Network:
        """Run set-up; clients named in `lost_...` fall silent at that step."""
        for identity, roster in self.advertise(lost=lost_advertise).items():
            if identity not in lost_shares:
                self.send(identity, self.tell(identity, roster))
        for identity, delivery in self.server.close_shares().items():
            if identity not in lost_delivery:
                self.tell(identity, delivery)
        return self

    def submit(self, identity: bytes, vectors: Mapping[str, Array]) -> bytes:
        seed = surplus_of(identity) if self.offer.shares else None
        message = self.clients[identity].submit(vectors, model_digest=MODEL, plan_digest=PLAN, surplus_seed=seed)
        self.keep(identity)
        return message

    def inputs(
        self,
        vectors: Mapping[bytes, Mapping[str, Array]],
        *,
        lost_start: Collection[bytes] = (),
        lost_input: Collection[bytes] = (),
        participants: Iterable[bytes] | None = None,
    ) -> Mapping[bytes, bytes]:
        """Start a round and bring in the masked vectors; the M7s."""
        participants = None if participants is None else list(participants)
        started = self.server.start_round(model_digest=MODEL, plan_digest=PLAN, participants=participants)
        for identity, start in started.items():
            if identity in lost_start:
                continue
            self.tell(identity, start)
            if identity not in lost_input:
                self.send(identity, self.submit(identity, vectors[identity]))
        return self.server.close_inputs()

    def round(
        self,
        vectors: Mapping[bytes, Mapping[str, Array]],
        *,
        lost_signature: Collection[bytes] = (),
        lost_unmask: Collection[bytes] = (),
        **inputs: Collection[bytes],
    ) -> RoundResult:
        """Run a round to its end."""
        mail = self.inputs(vectors, **inputs)
        if self.server.state is ServerState.SIGNATURES:
            mail = self.quorum(mail, lost_signature=lost_signature)
        for identity, message in mail.items():
            if identity not in lost_unmask:
                self.send(identity, self.tell(identity, message))
        return self.server.close_unmask()

    def quorum(self, mail: Mapping[bytes, bytes], *, lost_signature: Collection[bytes] = ()) -> Mapping[bytes, bytes]:
        """Have the survivors signed; the M9s."""
        for identity, survivors in mail.items():
            if identity not in lost_signature:
                self.send(identity, self.tell(identity, survivors))
        return self.server.close_signatures()

    def vectors(self, seed: int = 0) -> dict[bytes, dict[str, Array]]:
        """Random vectors for everybody."""
        rng = np.random.default_rng(seed)
        return {identity: random_vectors(self.offer.vectors, rng) for identity in self.clients}


def reduced(one: object) -> object:
    """What every serialiser of objects asks for first; no serialiser is needed to see it refused."""
    return one.__reduce_ex__(5)
