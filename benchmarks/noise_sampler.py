"""CPU time of the discrete Gaussian sampler, one thread, beside other generators in the same run.

    python benchmarks/noise_sampler.py [--json] [--samples 1000000] [--repeat 7]

Columns: CPU nanoseconds a sample (least of the repeats), and the others as multiples of ours. `rint(normal)` is
numpy's: predictable from its outputs and not discrete Gaussian; a yardstick, not a choice. OpenDP (same law, exact) is
timed where it can be imported. `keystream` is the bare cost of 8 random bytes a sample.
The bars: 5 ns at sigma <= 10, 40 ns at any sigma; the exit status is 1 when one is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from privfed.mechanism import discrete_gaussian as sampler
from privfed.mechanism.randomness import Keystream

SIGMAS = (0.5, 1.0, 3.7, 10.0, 100.0, 512.0, 1000.0, 5000.0, 2.0**20, 1.37 * 2.0**30, 2.0**50)
SMALL_SIGMA, SMALL_BAR, ANY_BAR = 10.0, 5.0, 40.0


@dataclass(frozen=True)
class Row:
    """Figures at one sigma: CPU nanoseconds a sample, milliseconds to build the table, and the distance in bits."""

    sigma: float
    ours: float
    keystream: float
    numpy_rint_normal: float
    opendp: float | None
    build_ms: float
    distance_bits: float
    bar: float

    @property
    def passed(self) -> bool:
        """Whether our figure is within the bar."""
        return self.ours <= self.bar


def nanoseconds(function: Callable[[], object], samples: int, repeat: int) -> float:
    """Least CPU time of `repeat` calls, a sample."""
    best = math.inf
    for _ in range(repeat):
        start = time.process_time_ns()
        function()
        best = min(best, time.process_time_ns() - start)
    return best / samples


def build_milliseconds(sigma: float) -> float:
    """CPU time to build what one sigma needs, from an empty cache."""
    sampler._table.cache_clear()
    sampler._blocks.cache_clear()
    start = time.process_time_ns()
    sampler.distance_bits(sigma)
    return (time.process_time_ns() - start) / 1e6


def opendp_nanoseconds(sigma: float) -> float | None:
    """OpenDP's vector mechanism on zeros; None where it is not installed."""
    if importlib.util.find_spec("opendp") is None:
        return None
    import opendp.prelude as dp  # type: ignore[import-not-found]  # optional peer

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    mechanism = dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), sigma)
    zeros = [0] * 20_000
    return nanoseconds(lambda: mechanism(zeros), len(zeros), 2)


def measure(sigma: float, samples: int, repeat: int) -> Row:
    """All figures at one sigma."""
    stream = Keystream()
    generator = np.random.default_rng()
    build = build_milliseconds(sigma)
    return Row(
        sigma=sigma,
        ours=nanoseconds(lambda: sampler.discrete_gaussian(sigma, samples, stream), samples, repeat),
        keystream=nanoseconds(lambda: stream.uint64(samples), samples, repeat),
        numpy_rint_normal=nanoseconds(
            lambda: np.rint(generator.normal(0.0, sigma, samples)).astype(np.int64), samples, repeat
        ),
        opendp=opendp_nanoseconds(sigma),
        build_ms=build,
        distance_bits=sampler.distance_bits(sigma),
        bar=SMALL_BAR if sigma <= SMALL_SIGMA else ANY_BAR,
    )


def table(rows: list[Row]) -> str:
    """The figures as text, peers as multiples of ours."""
    columns = ("sigma", "ours", "bar", "keystream", "rint(normal)", "OpenDP", "build", "distance")
    units = ("", "ns", "ns", "x ours", "x ours", "x ours", "ms", "bits")
    widths = (12, 8, 6, 10, 13, 9, 9, 9)
    lines = [
        " ".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True)) for words in (columns, units)
    ]
    for row in rows:
        opendp = "-" if row.opendp is None else f"{row.opendp / row.ours:.0f}"
        lines.append(
            f"{row.sigma:12.4g} {row.ours:8.2f} {row.bar:6.0f} {row.keystream / row.ours:10.2f} "
            f"{row.numpy_rint_normal / row.ours:13.2f} {opendp:>9} {row.build_ms:9.2f} {row.distance_bits:9.1f}"
            f"{'' if row.passed else '  MISSED'}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether every bar holds."""
    parser = argparse.ArgumentParser(description="CPU time of the discrete Gaussian sampler")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    rows = [measure(sigma, options.samples, options.repeat) for sigma in SIGMAS]
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        print(json.dumps({"machine": machine, "samples": options.samples, "rows": [asdict(row) for row in rows]}))
    else:
        print(table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
