"""CPU time of the accountant, one thread, beside dp-accounting in the same run.

    python benchmarks/accountant.py [--json] [--rounds 10000] [--tight-rounds 40]

`running` asks for epsilon after each round; dp-accounting is asked a few times and its time taken per round. `tight`
adds rounds that each differ to the privacy-loss ledger, and asks after each; `flat` is the last rounds' time over the
first ones'. Theirs composes one distribution after the other.
The bars: epsilon after each of 10 000 rounds in 0.2 s, a tight round in 25 ms whatever came before; the exit status is
1 when one is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from privfed_accounting import Charge, LossLedger, Odometer, gaussian_epsilon
from privfed_accounting.subsampled import poisson_gaussian_row

DELTA = 1e-5
RUNNING_BAR, TIGHT_BAR = 0.2, 0.025
FLAT_BAR = 1.5


@dataclass(frozen=True)
class Row:
    """One figure: seconds of CPU of ours in all and per round, theirs per round, and what both found."""

    name: str
    rounds: int
    seconds: float
    microseconds_a_round: float
    theirs_microseconds_a_round: float | None
    times_faster: float | None
    epsilon: float
    theirs_epsilon: float | None
    bar: str
    passed: bool


def timed(function: Callable[[], float]) -> tuple[float, float]:
    """CPU seconds of one call, and what it returned."""
    start = time.process_time()
    value = function()
    return time.process_time() - start, value


def row(
    name: str,
    *,
    rounds: int,
    ours: tuple[float, float],
    theirs: tuple[float, int, float] | None,
    bar: str,
    passed: bool,
) -> Row:
    """Figures of one case; `theirs` is seconds, rounds and epsilon."""
    each = ours[0] / rounds * 1e6
    their_each = None if theirs is None else theirs[0] / theirs[1] * 1e6
    return Row(
        name=name,
        rounds=rounds,
        seconds=ours[0],
        microseconds_a_round=each,
        theirs_microseconds_a_round=their_each,
        times_faster=None if their_each is None else their_each / each,
        epsilon=ours[1],
        theirs_epsilon=None if theirs is None else theirs[2],
        bar=bar,
        passed=passed,
    )


def running(name: str, charge: Charge, event: object, *, rounds: int, asked: int = 20) -> Row:
    """Epsilon after each round: ours after all of them, theirs after a few."""

    def ours() -> float:
        odometer = Odometer(DELTA)
        for _ in range(rounds):
            odometer.add(charge).epsilon()
        return odometer.epsilon()

    def theirs() -> float:
        accountant = RdpAccountant()
        for _ in range(asked):
            accountant.compose(event)
            accountant.get_epsilon(DELTA)
        return float(accountant.get_epsilon(DELTA))

    ours()  # caches warm
    found = min(timed(ours) for _ in range(3))
    passed = found[0] <= RUNNING_BAR * rounds / 10_000
    return row(
        name, rounds=rounds, ours=found, theirs=(timed(theirs)[0], asked, math.nan), bar="0.2 s a 10 000", passed=passed
    )


def tight(*, rounds: int, theirs_rounds: int) -> tuple[Row, Row]:
    """Sampled rounds that each differ, epsilon after each; and whether the last cost what the first did."""
    ledger, accountant = LossLedger(), PLDAccountant(value_discretization_interval=1e-4)
    seconds: list[float] = []
    epsilon = theirs_epsilon = our_epsilon_there = math.nan
    for r in range(1, rounds + 1):
        start = time.process_time()
        ledger.compose(rate=0.01 * (1 + 0.1 * math.sin(r)), mu=1 / (1 + 1e-4 * r))
        epsilon = ledger.epsilon(DELTA)
        seconds.append(time.process_time() - start)
        our_epsilon_there = epsilon if r == theirs_rounds else our_epsilon_there
    start = time.process_time()
    for r in range(1, theirs_rounds + 1):
        event = PoissonSampledDpEvent(0.01 * (1 + 0.1 * math.sin(r)), GaussianDpEvent(1 + 1e-4 * r))
        accountant.compose(event)
        theirs_epsilon = float(accountant.get_epsilon(DELTA))
    theirs = time.process_time() - start
    median = statistics.median(seconds)
    first = row(
        "tight: rounds that each differ",
        rounds=rounds,
        ours=(median * rounds, our_epsilon_there),
        theirs=(theirs, theirs_rounds, theirs_epsilon),
        bar="25 ms a round",
        passed=median <= TIGHT_BAR,
    )
    quarter = max(1, rounds // 4)
    flat = statistics.median(seconds[-quarter:]) / statistics.median(seconds[1 : quarter + 1])
    second = row(
        f"tight: last over first quarter {flat:.2f}", rounds=rounds, ours=(sum(seconds), epsilon), theirs=None,
        bar=f"ratio {FLAT_BAR}", passed=flat <= FLAT_BAR,
    )  # fmt: skip
    return first, second


def measure(*, rounds: int, tight_rounds: int) -> list[Row]:
    """All figures."""
    sampled = Charge(0.0, rdp=tuple(poisson_gaussian_row(0.01, 1.0).tolist()))
    rows = [
        running("running: plain Gaussians", Charge(1e-4, 1e-12, 1e-100, 1e-25), GaussianDpEvent(100.0), rounds=rounds),
        running(
            "running: sampled, by Renyi", sampled, PoissonSampledDpEvent(0.01, GaussianDpEvent(1.0)), rounds=rounds
        ),
        *tight(rounds=tight_rounds, theirs_rounds=min(10, tight_rounds)),
    ]
    reference = gaussian_epsilon(DELTA, 0.01 * math.sqrt(rounds))
    if abs(rows[0].epsilon / reference - 1.0) > 1e-6:
        raise RuntimeError(f"the odometer reads {rows[0].epsilon!r}, the exact Gaussian is {reference!r}")
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description="CPU time of the accountant, beside dp-accounting.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    parser.add_argument("--rounds", type=int, default=10_000, help="rounds of the running epsilon")
    parser.add_argument("--tight-rounds", type=int, default=40, help="rounds of the tight ledger")
    arguments = parser.parse_args()
    rows = measure(rounds=arguments.rounds, tight_rounds=arguments.tight_rounds)
    if arguments.json:
        print(
            json.dumps({"machine": platform.processor() or platform.machine(), "rows": [asdict(each) for each in rows]})
        )
    else:
        print(f"{'':36} {'rounds':>7} {'seconds':>8} {'us/round':>9} {'theirs':>9} {'ratio':>7}  bar")
        for each in rows:
            theirs = "" if each.theirs_microseconds_a_round is None else f"{each.theirs_microseconds_a_round:9.0f}"
            ratio = "" if each.times_faster is None else f"{each.times_faster:6.0f}x"
            verdict = "ok" if each.passed else "MISSED"
            print(
                f"{each.name:36} {each.rounds:7d} {each.seconds:8.3f} {each.microseconds_a_round:9.1f} {theirs:>9} "
                f"{ratio:>7}  {each.bar} {verdict}"
            )
    return 0 if all(each.passed for each in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
