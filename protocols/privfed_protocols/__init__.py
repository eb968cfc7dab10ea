"""Secure aggregation, sans-IO: the protocol "sa1" as two state machines that take bytes and give bytes.

`Server` and `Client` run one epoch: a set-up, then rounds, each of which gives the server the sum of the surviving
clients' vectors and nothing else. The protocol text is `protocols/README.md`.

>>> import hashlib, numpy as np
>>> from privfed_protocols import Client, Offer, Server, VectorSpec
>>> plan, model = hashlib.sha256(b"plan").digest(), hashlib.sha256(b"model").digest()
>>> offer = Offer.new(vectors=[VectorSpec("x", 4, 32)], n_min=3, n_max=3, rounds=1, plan_digest=plan)
>>> server = Server(offer)
>>> clients = {name: Client(name) for name in (b"ann", b"bob", b"eve")}
>>> for name, client in clients.items():
...     _ = server.receive(name, client.receive(server.offer, now=0).reply)
>>> for name, message in server.close_advertise().items():
...     _ = server.receive(name, clients[name].receive(message, now=0).reply)
>>> for name, message in server.close_shares().items():
...     _ = clients[name].receive(message, now=0)
>>> for name, message in server.start_round(model_digest=model, plan_digest=plan).items():
...     _ = clients[name].receive(message, now=0)
...     vectors = {"x": np.arange(4, dtype=np.uint32)}
...     _ = server.receive(name, clients[name].submit(vectors, model_digest=model, plan_digest=plan))
>>> for name, message in server.close_inputs().items():
...     _ = server.receive(name, clients[name].receive(message, now=0).reply)
>>> server.close_unmask().sums["x"]
array([0, 3, 6, 9], dtype=uint32)
"""

from .client import Client
from .errors import (
    AfterBurned,
    BadBitmap,
    BadNeighbour,
    BadOwnLeaf,
    BadRoster,
    BadServerSignature,
    BadShareMessage,
    BadSignature,
    CorruptState,
    DeliveryBelowThreshold,
    DigestMismatch,
    DuplicateMessage,
    EpochFailed,
    ExcludedSender,
    InfeasibleParameters,
    LateMessage,
    LocalProtocolError,
    LowOrderPoint,
    NeighboursBelowThreshold,
    NoiseBelowFloor,
    NoQuorum,
    OverBound,
    OwnBitOff,
    PeerProtocolError,
    ProtocolError,
    RosterSize,
    RoundFailed,
    SecondSurvivors,
    UnexpectedMessage,
    UnknownFormat,
    UnknownSender,
    ValueOutOfRange,
    WeakParameters,
    WrongNeighbours,
    WrongRound,
)
from .events import (
    Advertise,
    ClientEvent,
    Ready,
    Rostered,
    RoundResult,
    RoundStarted,
    ServerEvent,
    Signing,
    Unmasking,
)
from .identities import Certificate, Credentials, Directory, Signer, issue_certificate, read_certificate
from .offer import Offer
from .parameters import GraphParameters, select_parameters
from .policy import ClientPolicy
from .server import Server
from .slots import Slot
from .states import ClientState, ServerState, SlotState
from .suites import UnknownSuite
from .surplus import surplus_seed
from .vectors import VectorSpec

__all__ = [
    "Advertise",
    "AfterBurned",
    "BadBitmap",
    "BadNeighbour",
    "BadOwnLeaf",
    "BadRoster",
    "BadServerSignature",
    "BadShareMessage",
    "BadSignature",
    "Certificate",
    "Client",
    "ClientEvent",
    "ClientPolicy",
    "ClientState",
    "CorruptState",
    "Credentials",
    "DeliveryBelowThreshold",
    "DigestMismatch",
    "Directory",
    "DuplicateMessage",
    "EpochFailed",
    "ExcludedSender",
    "GraphParameters",
    "InfeasibleParameters",
    "LateMessage",
    "LocalProtocolError",
    "LowOrderPoint",
    "NeighboursBelowThreshold",
    "NoQuorum",
    "NoiseBelowFloor",
    "Offer",
    "OverBound",
    "OwnBitOff",
    "PeerProtocolError",
    "ProtocolError",
    "Ready",
    "RosterSize",
    "Rostered",
    "RoundFailed",
    "RoundResult",
    "RoundStarted",
    "SecondSurvivors",
    "Server",
    "ServerEvent",
    "ServerState",
    "Signer",
    "Signing",
    "Slot",
    "SlotState",
    "UnexpectedMessage",
    "UnknownFormat",
    "UnknownSender",
    "UnknownSuite",
    "Unmasking",
    "ValueOutOfRange",
    "VectorSpec",
    "WeakParameters",
    "WrongNeighbours",
    "WrongRound",
    "issue_certificate",
    "read_certificate",
    "select_parameters",
    "surplus_seed",
]
