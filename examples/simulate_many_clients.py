"""One round of secure aggregation with ten thousand clients in this process, every message real, the sum checked.

    python examples/simulate_many_clients.py
    python examples/simulate_many_clients.py --clients 1000 --dimension 10000 --dropout 0.1 --json

Clients and server are those that a deployment would use; only the network is missing. A client's vector is made when
it is asked for and forgotten once it is masked, and the server adds masked vectors as they come, so that what stays in
memory is keys and shares. Clients that drop out fall silent after the round began, which is when it costs most: the
others' masks towards them have to be taken out of the sum.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from privfed_protocols import Client, ClientPolicy, Offer, Server, VectorSpec

MODEL, PLAN = hashlib.sha256(b"model").digest(), hashlib.sha256(b"plan").digest()
Item = TypeVar("Item")


@dataclass(frozen=True)
class Outcome:
    """What the simulation found. Seconds are CPU seconds of this process, but for `wall_s`."""

    clients: int
    survivors: int
    dimension: int
    bits: int
    neighbours: int
    threshold: int
    sum_is_exact: bool
    client_setup_ms: float
    client_round_ms: float
    server_setup_s: float
    server_round_s: float
    cpu_s: float
    wall_s: float
    peak_memory_gib: float
    bytes_up_per_value: float


class Stopwatch:
    """Adds up the CPU time of whoever works."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._since = time.process_time()

    def lap(self, name: str) -> None:
        """Book the time since the last lap."""
        now = time.process_time()
        self.spent[name] = self.spent.get(name, 0.0) + now - self._since
        self._since = now


class Simulation:
    """A server, its clients, and who of them will drop out."""

    def __init__(self, arguments: argparse.Namespace, progress: Progress) -> None:
        self.clients: int = arguments.clients
        self.spec = VectorSpec("update", arguments.dimension, arguments.bits)
        self.names = [b"client-%07d" % number for number in range(self.clients)]
        lost = np.random.default_rng(0).permutation(self.clients)[: int(arguments.dropout * self.clients)]
        self.silent = frozenset(self.names[number] for number in lost)
        self.offer = Offer.new(
            vectors=[self.spec],
            n_min=max(2, self.clients // 2),
            n_max=self.clients,
            rounds=1,
            plan_digest=PLAN,
            corrupt=arguments.corrupt,
            dropout=arguments.dropout,
        )
        self.server = Server(self.offer)
        policy = ClientPolicy(n_max=max(self.clients, 300))
        self.parties = {name: Client(name, policy=policy) for name in self.names}
        self.progress = progress
        self.watch = Stopwatch()
        self.bytes_up = 0
        self.expected = np.zeros(self.spec.length, self.spec.dtype)

    def vector(self, name: bytes) -> np.ndarray:
        """What this client would never show: uniform values, the same whenever it is asked."""
        size = self.spec.length * self.spec.dtype.itemsize
        raw = np.random.default_rng(int.from_bytes(hashlib.sha256(name).digest()[:8], "big")).bytes(size)
        return np.frombuffer(raw, self.spec.dtype) & self.spec.dtype.type((1 << self.spec.bits) - 1)

    def set_up(self) -> None:
        """Keys, roster, shares: once an epoch."""
        self.exchange("keys", "setup", dict.fromkeys(self.names, self.server.offer))
        rosters = self.server.close_advertise()
        self.watch.lap("server setup")
        self.exchange("shares", "setup", rosters)
        deliveries = self.server.close_shares()
        self.watch.lap("server setup")
        for name, message in self.shown("deliveries", deliveries):
            self.watch.lap("server setup")
            self.parties[name].receive(message, now=0)
            self.watch.lap("client setup")

    def round(self) -> tuple[int, bool]:
        """Masked vectors, then unmasking; how many survived, and whether the sum is that of their vectors."""
        started = self.server.start_round(model_digest=MODEL, plan_digest=PLAN)
        self.watch.lap("server round")
        for name, message in self.shown("masked vectors", started):
            self.watch.lap("server round")
            self.parties[name].receive(message, now=0)
            if name in self.silent:
                self.watch.lap("client round")
                continue
            vector = self.vector(name)
            np.add(self.expected, vector, out=self.expected)
            self.watch.lap("making vectors")
            masked = self.parties[name].submit({"update": vector}, model_digest=MODEL, plan_digest=PLAN)
            self.watch.lap("client round")
            self.send(name, masked, "round")
        survivors = self.server.close_inputs()
        self.watch.lap("server round")
        self.exchange("unmasking", "round", survivors)
        result = self.server.close_unmask()
        self.watch.lap("server round")
        mask = self.spec.dtype.type((1 << self.spec.bits) - 1)
        return len(result.survivors), np.array_equal(result.sums["update"], self.expected & mask)

    def exchange(self, title: str, phase: str, messages: Mapping[bytes, bytes]) -> None:
        """Give each client its message and the server the answer."""
        for name, message in self.shown(title, messages):
            self.watch.lap(f"server {phase}")
            reply = self.parties[name].receive(message, now=0).reply
            self.watch.lap(f"client {phase}")
            if reply is not None:
                self.send(name, reply, phase)

    def send(self, name: bytes, message: bytes, phase: str) -> None:
        """Give the server a message."""
        self.bytes_up += len(message)
        self.server.receive(name, message)
        self.watch.lap(f"server {phase}")

    def shown(self, title: str, messages: Mapping[bytes, bytes]) -> Iterator[tuple[bytes, bytes]]:
        """Messages one by one, made as they are needed, with a bar."""
        return self.tracked(title, messages.items(), len(messages))

    def tracked(self, title: str, items: Iterable[Item], total: int) -> Iterator[Item]:
        yield from self.progress.track(items, total=total, description=f"{title:14s}")


def simulate(arguments: argparse.Namespace) -> Outcome:
    """Run one epoch of one round."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    begun, cpu = time.perf_counter(), time.process_time()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        simulation = Simulation(arguments, progress)
        simulation.watch.lap("making clients")
        simulation.set_up()
        survivors, exact = simulation.round()
    spent, n = simulation.watch.spent, simulation.clients
    parameters = simulation.offer.parameters(n)
    return Outcome(
        clients=n,
        survivors=survivors,
        dimension=simulation.spec.length,
        bits=simulation.spec.bits,
        neighbours=parameters.k,
        threshold=parameters.t,
        sum_is_exact=exact,
        client_setup_ms=spent["client setup"] / n * 1e3,
        client_round_ms=spent["client round"] / survivors * 1e3,
        server_setup_s=spent["server setup"],
        server_round_s=spent["server round"],
        cpu_s=time.process_time() - cpu,
        wall_s=time.perf_counter() - begun,
        peak_memory_gib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        bytes_up_per_value=simulation.bytes_up / survivors / simulation.spec.length,
    )


def main() -> None:
    """Read the command line, simulate, and say what it cost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=100_000, help="values in each client's vector")
    parser.add_argument("--bits", type=int, default=32, help="bits of a value, 1 to 64")
    parser.add_argument("--dropout", type=float, default=0.05, help="share of the clients that fall silent")
    parser.add_argument("--corrupt", type=float, default=0.05, help="share that may work with the server, to stand")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    outcome = simulate(arguments)
    if arguments.json:
        print(json.dumps(asdict(outcome), indent=1))
    else:
        for name, value in asdict(outcome).items():
            print(
                f"{name.replace('_', ' '):20s} {value:.3f}"
                if isinstance(value, float)
                else f"{name.replace('_', ' '):20s} {value}"
            )
    if not outcome.sum_is_exact:
        sys.exit("the sum is not that of the survivors' vectors")


if __name__ == "__main__":
    main()
