"""One epoch of secure aggregation in this process, with clocks on some clients and on the server."""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ParamSpec, TypeVar

import numpy as np

from privfed_protocols import Client, ClientPolicy, GraphParameters, Offer, Server, VectorSpec
from privfed_protocols.identities import Credentials, Directory, Signer
from privfed_protocols.parameters import Mode

MODEL = hashlib.sha256(b"model").digest()
PLAN = hashlib.sha256(b"plan").digest()
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass
class Clock:
    """CPU seconds by name, and messages by kind."""

    seconds: dict[str, float] = field(default_factory=dict)

    def time(
        self, name: str, work: Callable[Arguments, Result], *args: Arguments.args, **kwargs: Arguments.kwargs
    ) -> Result:
        started = time.process_time()
        result = work(*args, **kwargs)
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - started
        return result

    def total(self, *names: str) -> float:
        return sum(self.seconds.get(name, 0.0) for name in names)


@dataclass(frozen=True)
class Shape:
    """What is run: set-up for `rounds` rounds and the first of them.

    The `dropped` fall silent after the start of the round; `corrupt` sizes the threshold only.
    """

    clients: int
    dim: int
    bits: int
    dropped: float = 0.0
    corrupt: float = 0.1
    mode: Mode = "semi-honest"
    suite: int = 1
    sigma: int = 40
    eta: int = 20
    rounds: int = 1
    timed: int = 5


@dataclass(frozen=True)
class Figures:
    """One run. Seconds are CPU seconds; the client's are the least over the timed clients, as is usual for a busy box.

    `all_s` is everything: all clients and the server, set-up and round.
    """

    clients: int
    dim: int
    bits: int
    dropped: float
    mode: str
    suite: int
    neighbours: int
    threshold: int
    client_setup_s: float
    client_round_s: float
    client_median_s: float
    server_setup_s: float
    server_round_s: float
    all_s: float
    rounds: int
    setup_bytes_up: int
    round_bytes_up: int
    setup_trips: int
    round_trips: int

    @property
    def client_s(self) -> float:
        """Set-up and one round of a client."""
        return self.client_setup_s + self.client_round_s

    @property
    def server_s(self) -> float:
        """Set-up and one round of the server."""
        return self.server_setup_s + self.server_round_s

    @property
    def bytes_over_ideal(self) -> float:
        """Bytes up of a round over those of the packed vector, with set-up spread over the rounds it serves."""
        return (self.setup_bytes_up / self.rounds + self.round_bytes_up) / (self.dim * self.bits / 8)


def vector_of(dim: int, bits: int) -> np.ndarray:
    """Values that a wrong sum would not match; made in pieces, so that no peak of memory stays behind."""
    found = np.empty(dim, VectorSpec("x", dim, bits).dtype)
    for start in range(0, dim, 1 << 16):
        places = np.arange(start, min(start + (1 << 16), dim), dtype=np.uint64)
        found[start : start + len(places)] = (places * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits)
    return found


class Epoch:
    """A server, its clients, and what passes between them; all clients hand in the same vector."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.names = [b"%06d" % number for number in range(shape.clients)]
        self.offer = make_offer(shape)
        policy = ClientPolicy(
            n_max=max(300, shape.clients),
            max_vector_bytes=1 << 32,
            min_sigma=shape.sigma,
            modes=frozenset({shape.mode}),
        )
        if shape.mode == "semi-honest":
            self.server = Server(self.offer)
            self.parties = {name: Client(name, policy=policy) for name in self.names}
        else:
            signers, operator = {name: Signer.generate() for name in self.names}, Signer.generate()
            directory = Directory({name: signer.public_key for name, signer in signers.items()})
            self.server = Server(self.offer, signer=operator, directory=directory)
            self.parties = {
                name: Client(name, policy=policy, credentials=Credentials(signer, directory, operator.public_key))
                for name, signer in signers.items()
            }
        self.gone = frozenset(self.names[: round(shape.dropped * shape.clients)])
        self.timed = [name for name in self.names if name not in self.gone][: shape.timed]
        self.clocks = {name: Clock() for name in self.names}
        self.at_server = Clock()
        self.sent: dict[str, int] = {}
        self.parameters: GraphParameters = self.offer.parameters(shape.clients)

    def deliver(self, name: bytes, step: str, message: bytes | None) -> None:
        if message is None:
            raise RuntimeError(f"client {name!r} had nothing to send in {step}")
        self.sent[step] = max(self.sent.get(step, 0), len(message))
        self.at_server.time(step, self.server.receive, name, message)

    def tell(self, name: bytes, phase: str, message: bytes) -> bytes | None:
        return self.clocks[name].time(phase, self.parties[name].receive, message, now=0).reply

    def exchange(self, phase: str, step: str, messages: Mapping[bytes, bytes]) -> None:
        for name, message in messages.items():
            self.deliver(name, step, self.tell(name, phase, message))

    def set_up(self) -> None:
        self.exchange("setup", "M1", dict.fromkeys(self.names, self.server.offer))
        self.exchange("setup", "M3", self.at_server.time("M2", self.server.close_advertise))
        for name, message in self.at_server.time("M4", self.server.close_shares).items():
            self.tell(name, "setup", message)

    def masked(self, name: bytes, start: bytes, vector: np.ndarray) -> bytes:
        self.tell(name, "round", start)
        return self.clocks[name].time(
            "round", self.parties[name].submit, {"x": vector}, model_digest=MODEL, plan_digest=PLAN
        )

    def round(self) -> None:
        vector = vector_of(self.shape.dim, self.shape.bits)
        started = self.at_server.time("M5", self.server.start_round, model_digest=MODEL, plan_digest=PLAN)
        for name, message in started.items():
            if name not in self.gone:
                self.deliver(name, "M6", self.masked(name, message, vector))
        survivors = self.at_server.time("M7", self.server.close_inputs)
        if self.shape.mode == "malicious":
            self.exchange("round", "M8", survivors)
            survivors = self.at_server.time("M9", self.server.close_signatures)
        self.exchange("round", "M10", survivors)
        result = self.at_server.time("sum", self.server.close_unmask)
        mask = np.array((1 << self.shape.bits) - 1, vector.dtype)
        expected = (vector * np.array(self.shape.clients - len(self.gone), vector.dtype)) & mask
        if not np.array_equal(result.sums["x"], expected):
            raise RuntimeError("the sum is wrong; do not trust these figures")

    def figures(self) -> Figures:
        setup = [self.clocks[name].total("setup") for name in self.timed]
        rounds = [self.clocks[name].total("round") for name in self.timed]
        everybody = sum(clock.total("setup", "round") for clock in self.clocks.values())
        at_server = self.at_server
        return Figures(
            clients=self.shape.clients,
            dim=self.shape.dim,
            bits=self.shape.bits,
            dropped=self.shape.dropped,
            mode=self.shape.mode,
            suite=self.shape.suite,
            neighbours=self.parameters.k,
            threshold=self.parameters.t,
            client_setup_s=min(setup),
            client_round_s=min(rounds),
            client_median_s=statistics.median(a + b for a, b in zip(setup, rounds, strict=True)),
            server_setup_s=at_server.total("M1", "M2", "M3", "M4"),
            server_round_s=at_server.total("M5", "M6", "M7", "M8", "M9", "M10", "sum"),
            all_s=everybody + sum(at_server.seconds.values()),
            rounds=self.shape.rounds,
            setup_bytes_up=self.sent["M1"] + self.sent["M3"],
            round_bytes_up=self.sent["M6"] + self.sent.get("M8", 0) + self.sent["M10"],
            setup_trips=len({"M1", "M3"} & self.sent.keys()),
            round_trips=len({"M6", "M8", "M10"} & self.sent.keys()),
        )


def make_offer(shape: Shape) -> Offer:
    """The offer of a shape."""
    return Offer.new(
        vectors=[VectorSpec("x", shape.dim, shape.bits)],
        n_min=2,
        n_max=shape.clients,
        rounds=shape.rounds,
        plan_digest=PLAN,
        corrupt=shape.corrupt,
        dropout=shape.dropped,
        sigma=shape.sigma,
        eta=shape.eta,
        mode=shape.mode,
        suite=shape.suite,
    )


def measure(shape: Shape) -> Figures:
    """Run set-up and one round, and check the sum."""
    epoch = Epoch(shape)
    epoch.set_up()
    epoch.round()
    return epoch.figures()
