"""CPU seconds and bytes of one round of secure aggregation, for a client and for the server.

    python benchmarks/secure_aggregation.py
    python benchmarks/secure_aggregation.py --dim 1000000 --bits 32 --dropout 0.1 --json
    python benchmarks/secure_aggregation.py --flower .flower/bin/python --peer-script flower_secagg.py

All clients run in this process on one thread; a few of them and the server are timed, in CPU seconds, so that a busy
machine distorts little. The sum is compared with plain addition in every run. `--flower` names a Python that has
flwr==1.41.0, and `--peer-script` a script that runs one SecAgg round there and prints one line of JSON with
`client_cpu_s`, `server_cpu_s` and `up_bytes_per_client`; their figures are put beside ours as ratios.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ParamSpec, TypeVar

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread is what is measured

import numpy as np

from privfed_protocols import Client, Offer, Server, VectorSpec, select_parameters

MODEL = hashlib.sha256(b"model").digest()
PLAN = hashlib.sha256(b"plan").digest()
TIMED_CLIENTS = 5
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@dataclass
class Clock:
    """CPU seconds by name."""

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
class Figures:
    """One run. Seconds are CPU seconds; the client's are medians over the timed clients."""

    clients: int
    dim: int
    bits: int
    dropout: float
    threshold: int
    client_setup_s: float
    client_round_s: float
    server_setup_s: float
    server_round_s: float
    setup_bytes_up: int
    round_bytes_up: int
    bytes_per_value: float


def measure(*, clients: int, dim: int, bits: int, dropout: float) -> Figures:
    """Run set-up and one round; the first clients drop out after the start of the round, unheard."""
    names = [b"%06d" % number for number in range(clients)]
    offer = Offer.new(
        vectors=[VectorSpec("x", dim, bits)],  # type: ignore[arg-type]  # argparse has checked the choice
        n_min=2,
        n_max=clients,
        rounds=1,
        plan_digest=PLAN,
        corrupt=0.1,
        dropout=max(dropout, 0.1),
    )
    server, parties = Server(offer), {name: Client(name) for name in names}
    gone = names[: round(dropout * clients)]
    timed = {name: Clock() for name in names[len(gone) :][:TIMED_CLIENTS]}
    clocks = {name: timed.get(name, Clock()) for name in names}
    at_server = Clock()
    sent: dict[str, int] = {}

    def deliver(name: bytes, step: str, message: bytes | None) -> None:
        if message is None:
            raise RuntimeError(f"client {name!r} had nothing to send in {step}")
        sent[step] = max(sent.get(step, 0), len(message))
        at_server.time(step, server.receive, name, message)

    for name in names:
        deliver(name, "M1", clocks[name].time("setup", parties[name].receive, server.offer, now=0).reply)
    for name, message in at_server.time("M2", server.close_advertise).items():
        deliver(name, "M3", clocks[name].time("setup", parties[name].receive, message, now=0).reply)
    for name, message in at_server.time("M4", server.close_shares).items():
        clocks[name].time("setup", parties[name].receive, message, now=0)

    vector = np.arange(dim, dtype=f"<u{bits // 8}") * np.array(2654435761 % (1 << bits), f"<u{bits // 8}")
    started = at_server.time("M5", server.start_round, model_digest=MODEL, plan_digest=PLAN)
    for name, message in started.items():
        clocks[name].time("round", parties[name].receive, message, now=0)
        if name not in gone:
            masked = clocks[name].time(
                "round", parties[name].submit, {"x": vector}, model_digest=MODEL, plan_digest=PLAN
            )
            deliver(name, "M6", masked)
    for name, message in at_server.time("M7", server.close_inputs).items():
        deliver(name, "M10", clocks[name].time("round", parties[name].receive, message, now=0).reply)
    result = at_server.time("sum", server.close_unmask)
    if not np.array_equal(result.sums["x"], vector * np.array(clients - len(gone), vector.dtype)):
        raise RuntimeError("the sum is wrong; do not trust these figures")
    return Figures(
        clients=clients,
        dim=dim,
        bits=bits,
        dropout=dropout,
        threshold=select_parameters(clients, corrupt=offer.corrupt, dropout=offer.dropout).t,
        client_setup_s=statistics.median(clock.total("setup") for clock in timed.values()),
        client_round_s=statistics.median(clock.total("round") for clock in timed.values()),
        server_setup_s=at_server.total("M1", "M2", "M3", "M4"),
        server_round_s=at_server.total("M5", "M6", "M7", "M10", "sum"),
        setup_bytes_up=sent["M1"] + sent["M3"],
        round_bytes_up=sent["M6"] + sent["M10"],
        bytes_per_value=(sent["M1"] + sent["M3"] + sent["M6"] + sent["M10"]) / dim,
    )


@dataclass(frozen=True)
class Peer:
    """What the peer's script says of the same shape."""

    client_s: float
    server_s: float
    bytes_up: int
    sum_ok: bool


def measure_peer(python: str, script: str, *, clients: int, dim: int, dropout: float) -> Peer:
    """Run the peer's script on the complete graph."""
    command = [
        python,
        script,
        "--clients",
        str(clients),
        "--dim",
        str(dim),
        "--neighbors",
        "0",
        "--dropout",
        str(dropout),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed in {python}:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Peer(said["client_cpu_s"], said["server_cpu_s"], said["up_bytes_per_client"], bool(said.get("ok")))


def print_ours(rows: list[Figures]) -> None:
    print("CPU milliseconds (one thread); set-up is paid once an epoch")
    print("    n         d bits  drop    t | client  set-up    round | server  set-up    round | bytes up a value")
    for row in rows:
        print(
            f"{row.clients:5d} {row.dim:9d} {row.bits:4d} {row.dropout:5.0%} {row.threshold:4d} |"
            f"        {row.client_setup_s * 1e3:7.1f} {row.client_round_s * 1e3:8.1f} |"
            f"        {row.server_setup_s * 1e3:7.1f} {row.server_round_s * 1e3:8.1f} |"
            f"        {row.bytes_per_value:8.3f}"
        )


def print_peers(rows: list[Figures], peers: dict[tuple[int, int, float], Peer]) -> None:
    print("\nbeside the peer, set-up and one round together, CPU seconds; x: peer / ours")
    for row in rows:
        peer = peers[row.clients, row.dim, row.dropout]
        client, server = row.client_setup_s + row.client_round_s, row.server_setup_s + row.server_round_s
        up = row.setup_bytes_up + row.round_bytes_up
        print(
            f"{row.clients:5d} {row.dim:9d} {row.bits:4d} {row.dropout:5.0%} |"
            f" client {client:7.3f} : {peer.client_s:7.3f} {peer.client_s / client:6.1f}x |"
            f" server {server:7.3f} : {peer.server_s:8.3f} {peer.server_s / server:6.1f}x |"
            f" bytes up {up:9d} : {peer.bytes_up:9d} {peer.bytes_up / up:5.2f}x"
            f"{'' if peer.sum_ok else '   (the sum of the peer is not right)'}"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--clients", type=int, nargs="+", default=[100])
    parser.add_argument("--dim", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--bits", type=int, nargs="+", default=[32, 64], choices=[8, 16, 32, 64])
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.0, 0.1])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--flower", metavar="PYTHON", help="Python with flwr==1.41.0")
    parser.add_argument("--peer-script", metavar="PATH", help="script that runs one SecAgg round there")
    chosen = parser.parse_args()
    if bool(chosen.flower) != bool(chosen.peer_script):
        parser.error("--flower and --peer-script go together")
    return chosen


def main() -> None:
    chosen = arguments()
    shapes = [(n, dim, dropout) for n in chosen.clients for dim in chosen.dim for dropout in chosen.dropout]
    rows, peers = [], {}
    for n, dim, dropout in shapes:
        for bits in chosen.bits:
            print(f"n={n} d={dim} bits={bits} dropout={dropout} ...", file=sys.stderr)
            rows.append(measure(clients=n, dim=dim, bits=bits, dropout=dropout))
        if chosen.flower:
            print(f"n={n} d={dim} dropout={dropout}, the peer ...", file=sys.stderr)
            peers[n, dim, dropout] = measure_peer(
                chosen.flower, chosen.peer_script, clients=n, dim=dim, dropout=dropout
            )
    if chosen.json:
        said = [{"clients": n, "dim": dim, "dropout": out, **asdict(peer)} for (n, dim, out), peer in peers.items()]
        print(json.dumps({"ours": [asdict(row) for row in rows], "peer": said}, indent=1))
        return
    print_ours(rows)
    if peers:
        print_peers(rows, peers)


if __name__ == "__main__":
    main()
