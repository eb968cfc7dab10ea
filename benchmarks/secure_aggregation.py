"""What secure aggregation costs, in CPU seconds and bytes, each figure beside its bar.

    python benchmarks/secure_aggregation.py                  # parts and small rounds: about a minute
    python benchmarks/secure_aggregation.py --full           # every bar, the largest rounds too: about ten minutes
    python benchmarks/secure_aggregation.py --rows streams server
    python benchmarks/secure_aggregation.py --json
    python benchmarks/secure_aggregation.py --flower .flower/bin/python --peer-script flower_secagg.py
    python benchmarks/secure_aggregation.py --profile        # where the time of a client and of the server goes

All clients run in this process on one thread; a few of them and the server are timed, in CPU seconds, so that a busy
machine distorts little, and of repeated figures the least is taken. Every sum is compared with plain addition. Mask
streams are put beside the raw keystream that `openssl speed` measures in the same run.

`--flower` names a Python that has flwr==1.41.0, and `--peer-script` a script that runs one SecAgg round there and
prints one line of JSON with `client_cpu_s`, `server_cpu_s`, `up_bytes_per_client` and `ok`; it is called with
`--clients`, `--dim`, `--neighbors` (0 for the complete graph) and `--dropout`. Their figures are put beside ours as
ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Final

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy: one thread is what is measured

import _secure_aggregation_parts as parts
import _secure_aggregation_profile as profile
from _secure_aggregation_rounds import Epoch, Figures, Shape, measure, vector_of

from privfed_protocols import parameters

# Fractions for which n = 1000 has k = 100 by the rule.
RING_OF_100: Final = {"corrupt": 0.32, "dropped": 0.1}
# The peer's graph of 14 neighbours among 100, with what our rule would call sigma = 20 and eta = 8; only to compare.
PEER_RING: Final = {"corrupt": 0.02, "dropped": 0.2, "sigma": 20, "eta": 8}


@dataclass(frozen=True)
class Bar:
    """One figure and the bar that it has to meet."""

    what: str
    unit: str
    found: float
    bar: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        return self.found >= self.bar if self.at_least else self.found <= self.bar


def stream_bars() -> Iterator[Bar]:
    """The mask stream on its own."""
    raw = parts.openssl_gigabytes("aes-256-ctr")
    ms = parts.mask_ms(32)
    if raw is not None:
        name = "AES mask stream over `openssl speed -evp aes-256-ctr`"
        yield Bar(name, "ratio", 4.0 / ms / raw, 0.85, at_least=True)
    yield Bar("mask stream, one of 101, 1e6 elements, uint32", "ms", ms, 0.75)
    yield Bar("mask stream, one of 101, 1e6 elements, uint16", "ms", parts.mask_ms(16), 0.40)


def shamir_bars() -> Iterator[Bar]:
    """Sharing and opening."""
    yield Bar("Shamir, both secrets of a client, (100, 60)", "ms", parts.share_ms(100, 60), 0.8)
    yield Bar("Shamir, both secrets of a client, (1000, 600)", "ms", parts.share_ms(1000, 600), 30)
    opened = parts.open_us(60) + parts.combine_us(60)
    yield Bar("Lagrange and combination, t = 60, a client", "us", opened, 80)


def client_bars() -> Iterator[Bar]:
    """One client of 101, all cryptography of set-up and one round."""
    for bits, bar in ((32, 100.0), (16, 65.0)):
        run = measure(Shape(101, 1_000_000, bits))
        yield Bar(f"client, k=100, d=1e6, uint{bits}, set-up and round", "ms", run.client_s * 1e3, bar)
    run = measure(Shape(101, 1_000, 32))
    yield Bar("client, k=100, d=1000, set-up and round", "ms", run.client_s * 1e3, 25)
    yield Bar("round trips of a round, semi-honest", "", run.round_trips, 2)
    yield Bar("round trips of set-up, an epoch", "", run.setup_trips, 2)
    run = measure(Shape(100, 1_000, 32, mode="malicious"))
    yield Bar("round trips of a round, malicious server", "", run.round_trips, 3)


def byte_bars() -> Iterator[Bar]:
    """What a client sends, set-up included."""
    run = measure(Shape(101, 1_000_000, 16, rounds=50))
    yield Bar("bytes up over d b / 8, k=100, d=1e6, b=16, R=50", "ratio", run.bytes_over_ideal, 1.02)


def server_bars() -> Iterator[Bar]:
    """The server of a hundred clients."""
    run = measure(Shape(100, 1_000_000, 32, dropped=0.1))
    yield Bar("server, n=100 complete, d=1e6, uint32, 10 % dropped", "s", run.server_s, 0.9)


def thousand_bars() -> Iterator[Bar]:
    """A thousand clients on a ring."""
    run = measure(Shape(1_000, 100_000, 32, **RING_OF_100))
    name = f"everybody, n=1000, k={run.neighbours}, d=1e5, uint32, 10 % dropped"
    yield Bar(name, "s", run.all_s, 20)
    run = measure(Shape(1_000, 1_000_000, 16, corrupt=0.05, dropped=0.05))
    yield Bar(f"bytes up a value, n=1000, k={run.neighbours}, d=1e6, b=16, R=1", "B", 2 * run.bytes_over_ideal, 2.04)
    run = measure(Shape(1_000, 1_000_000, 32, **RING_OF_100))
    yield Bar(f"server, n=1000, k={run.neighbours}, d=1e6, uint32, 10 % dropped", "s", run.server_s, 9)


def ten_thousand_bars() -> Iterator[Bar]:
    """Ten thousand clients on a ring, k by the rule; how a client's cost grows."""
    few = measure(Shape(100, 100_000, 32, corrupt=0.05, dropped=0.05))
    many = measure(Shape(10_000, 100_000, 32, corrupt=0.05, dropped=0.05))
    name = f"everybody, n=10 000, k={many.neighbours}, d=1e5, uint32, 5 % dropped"
    yield Bar(name, "s", many.all_s, 300)
    yield Bar("its memory, all clients and the server", "GiB", peak_bytes() / 2**30, 4)
    yield Bar("client at n=10 000 over n=100, d=1e5, set-up and round", "ratio", many.client_s / few.client_s, 1.3)


def long_vector_bars() -> Iterator[Bar]:
    """One client of 101 with a vector of 400 MB: CPU time, and memory beyond the vector and the message."""
    epoch = Epoch(Shape(101, 100_000_000, 32))
    epoch.set_up()
    name = epoch.timed[0]
    start = epoch.server.start_round(model_digest=b"m" * 32, plan_digest=b"p" * 32)[name]
    epoch.parties[name].receive(start, now=0)
    vector = vector_of(100_000_000, 32)
    tracemalloc.start()  # there are few allocations, so it takes next to no time
    before, started = peak_bytes(), time.process_time()
    message = epoch.parties[name].submit({"x": vector}, model_digest=b"m" * 32, plan_digest=b"p" * 32)
    seconds, traced = time.process_time() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    used = max(traced, peak_bytes() - before) - len(message)
    yield Bar("client round, k=100, d=1e8, uint32", "s", seconds, 8.5)
    yield Bar("its memory beyond the vector and the message", "MiB", used / 2**20, 16)


def thousand_complete_bars() -> Iterator[Bar]:
    """The shape of Bonawitz et al. (CCS 2017), here with signatures against a malicious server on top."""
    run = measure(Shape(1_000, 100_000, 64, dropped=0.3, mode="malicious"))
    yield Bar("client, n=1000 complete, d=1e5, uint64, malicious", "s", run.client_s, 0.40)
    yield Bar("server, n=1000 complete, d=1e5, uint64, 30 % dropped", "s", run.server_s, 45)


QUICK: Final = {
    "streams": stream_bars,
    "shamir": shamir_bars,
    "client": client_bars,
    "bytes": byte_bars,
    "server": server_bars,
}
SLOW: Final = {
    "thousand": thousand_bars,
    "ten-thousand": ten_thousand_bars,
    "long-vector": long_vector_bars,
    "thousand-complete": thousand_complete_bars,
}


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass(frozen=True)
class Peer:
    """What the peer's script says of the same shape."""

    client_s: float
    server_s: float
    bytes_up: int
    sum_ok: bool


@dataclass(frozen=True)
class Duel:
    """One shape, run by both; the bars are of the peer's CPU time over ours."""

    name: str
    ours: Figures
    peer: Peer
    client_bar: float | None
    server_bar: float | None

    def bars(self) -> Iterator[Bar]:
        client, server = self.peer.client_s / self.ours.client_s, self.peer.server_s / self.ours.server_s
        yield Bar(f"{self.name}: client, peer / ours", "x", client, self.client_bar or 1.0, at_least=True)
        yield Bar(f"{self.name}: server, peer / ours", "x", server, self.server_bar or 1.0, at_least=True)
        up = self.peer.bytes_up / (self.ours.setup_bytes_up + self.ours.round_bytes_up)
        yield Bar(f"{self.name}: bytes up, peer / ours", "x", up, 1.0, at_least=True)


def duels(python: str, script: str) -> Iterator[Duel]:
    """The shapes that both run; two of them have bars."""
    shapes = [
        ("n=100 complete, d=1e6", Shape(100, 1_000_000, 32), 0, 20.0, 100.0),
        ("n=100, k=14, d=1e6, 20 % dropped", Shape(100, 1_000_000, 32, **PEER_RING), 14, None, 10.0),
        ("n=100 complete, d=1e5, 10 % dropped", Shape(100, 100_000, 32, dropped=0.1), 0, None, None),
    ]
    for name, shape, neighbours, client_bar, server_bar in shapes:
        say(f"{name}, both")
        with rings_from(2 if neighbours else parameters.MAX_COMPLETE):
            ours = measure(shape)
        if neighbours and ours.neighbours != neighbours:
            raise RuntimeError(f"our ring has {ours.neighbours} neighbours, not the peer's {neighbours}")
        yield Duel(name, ours, measure_peer(python, script, shape, neighbours), client_bar, server_bar)


@contextmanager
def rings_from(clients: int) -> Iterator[None]:
    """Let rings begin above so many clients, which our own rule does not allow, to compare with a peer that does."""
    before = parameters.MAX_COMPLETE
    parameters.MAX_COMPLETE = clients  # type: ignore[misc]  # for this comparison only
    try:
        yield
    finally:
        parameters.MAX_COMPLETE = before  # type: ignore[misc]


def measure_peer(python: str, script: str, shape: Shape, neighbours: int) -> Peer:
    """Run the peer's script."""
    options = {"clients": shape.clients, "dim": shape.dim, "neighbors": neighbours, "dropout": shape.dropped}
    command = [python, script, *(f"--{name}={value}" for name, value in options.items())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{script} failed in {python}:\n{done.stderr[-2000:]}")
    said = json.loads(done.stdout.strip().splitlines()[-1])
    return Peer(said["client_cpu_s"], said["server_cpu_s"], said["up_bytes_per_client"], bool(said.get("ok")))


def say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def print_streams() -> None:
    print("\nmask streams beside the raw keystream, GB a CPU second")
    for name, value in parts.streams().items():
        print(f"  {name:44s} {value:8.2f}" if isinstance(value, float) else f"  {name:44s} {value!s:>8}")


def print_bar(bar: Bar) -> None:
    sign = ">=" if bar.at_least else "<="
    print(
        f"  {bar.what:62s} {bar.found:9.3f}  {sign} {bar.bar:<7g} {bar.unit:5s} {'met' if bar.met else 'MISSED'}",
        flush=True,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="the rounds that take minutes, too")
    parser.add_argument("--rows", nargs="+", choices=[*QUICK, *SLOW, "none"], help="only these groups of figures")
    parser.add_argument("--profile", action="store_true", help="only where the time goes")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--flower", metavar="PYTHON", help="Python with flwr==1.41.0")
    parser.add_argument("--peer-script", metavar="PATH", help="script that runs one SecAgg round there")
    chosen = parser.parse_args()
    if bool(chosen.flower) != bool(chosen.peer_script):
        parser.error("--flower and --peer-script go together")
    return chosen


def chosen_bars(chosen: argparse.Namespace) -> Iterator[Bar]:
    """The bars that were asked for, each as soon as it is known."""
    every = QUICK | SLOW
    for name in chosen.rows or [*QUICK, *(SLOW if chosen.full else ())]:
        if name in every:
            say(name)
            yield from every[name]()


def main() -> None:
    chosen = arguments()
    if chosen.profile:
        found = profile.profiles()
        print(json.dumps(found, indent=1) if chosen.json else profile.table(found))
        return
    if not chosen.json:
        print("figure, bar; CPU time of one thread")
    bars, fought = [], []
    for bar in chosen_bars(chosen):
        bars.append(bar)
        if not chosen.json:
            print_bar(bar)
    for duel in duels(chosen.flower, chosen.peer_script) if chosen.flower else ():
        fought.append(duel)
        bars.extend(duel.bars())
        if not chosen.json:
            for bar in duel.bars():
                print_bar(bar)
            if not duel.peer.sum_ok:
                print("  (the sum of the peer is not right)")
    if chosen.json:
        told = [{**asdict(bar), "met": bar.met} for bar in bars]
        print(
            json.dumps({"bars": told, "streams": parts.streams(), "peer": [asdict(duel) for duel in fought]}, indent=1)
        )
    elif not chosen.rows:
        print_streams()


if __name__ == "__main__":
    main()
