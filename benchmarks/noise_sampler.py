"""CPU time of the noise samplers, one thread, beside other generators in the same run.

    python benchmarks/noise_sampler.py [--json] [--samples 1000000] [--repeat 7]

Columns: CPU nanoseconds a sample (least of the repeats), and the others as multiples of ours. `numpy` is the nearest
that numpy has, rint(normal) beside the discrete Gaussian and a difference of two Poissons beside Skellam: predictable
from their outputs; a yardstick, not a choice. OpenDP (the discrete Gaussian, exact) is timed where it can be
imported. `keystream` is the bare cost of 8 random bytes a sample. The bars: 5 ns at sigma <= 10, 40 ns at any sigma,
for either law; the exit status is 1 when one is missed.
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

from privfed.mechanism import discrete_gaussian, skellam
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.surplus import Law, integer_noise

SIGMAS = (0.5, 1.0, 3.7, 10.0, 100.0, 512.0, 1000.0, 5000.0, 2.0**20, 1.37 * 2.0**30, 2.0**49)
SMALL_SIGMA, SMALL_BAR, ANY_BAR = 10.0, 5.0, 40.0
LARGEST_POISSON = 2.0**60  # numpy's Poisson returns int64


@dataclass(frozen=True)
class Row:
    """Figures at one sigma: CPU nanoseconds a sample, milliseconds to build the table, and the distance in bits."""

    law: Law
    sigma: float
    ours: float
    keystream: float
    numpy: float | None
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


def prepare(law: Law, sigma: float) -> tuple[float, float]:
    """CPU milliseconds to build what one sigma needs from empty caches, and the distance in bits."""
    for module in (discrete_gaussian, skellam):
        module._table.cache_clear()
    discrete_gaussian._blocks.cache_clear()
    skellam._envelope.cache_clear()
    start = time.process_time_ns()
    bits = skellam.distance_bits(sigma * sigma) if law == "skellam" else discrete_gaussian.distance_bits(sigma)
    return (time.process_time_ns() - start) / 1e6, bits


def numpy_nanoseconds(law: Law, sigma: float, samples: int, repeat: int) -> float | None:
    """numpy's nearest; None where it has nothing for this scale."""
    generator = np.random.default_rng()
    if law == "discrete_gaussian":
        return nanoseconds(lambda: np.rint(generator.normal(0.0, sigma, samples)).astype(np.int64), samples, repeat)
    mean = sigma * sigma / 2
    if mean > LARGEST_POISSON:
        return None
    return nanoseconds(lambda: generator.poisson(mean, samples) - generator.poisson(mean, samples), samples, repeat)


def opendp_nanoseconds(law: Law, sigma: float) -> float | None:
    """OpenDP's vector mechanism on zeros; None where it is not installed, and for Skellam, which it lacks."""
    if law == "skellam" or importlib.util.find_spec("opendp") is None:
        return None
    import opendp.prelude as dp  # type: ignore[import-not-found]  # optional peer

    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    mechanism = dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), sigma)
    zeros = [0] * 20_000
    return nanoseconds(lambda: mechanism(zeros), len(zeros), 2)


def measure(law: Law, sigma: float, samples: int, repeat: int) -> Row:
    """All figures of one law at one sigma."""
    stream = Keystream()
    build, bits = prepare(law, sigma)
    return Row(
        law=law,
        sigma=sigma,
        ours=nanoseconds(lambda: integer_noise(law, sigma * sigma, samples, stream), samples, repeat),
        keystream=nanoseconds(lambda: stream.uint64(samples), samples, repeat),
        numpy=numpy_nanoseconds(law, sigma, samples, repeat),
        opendp=opendp_nanoseconds(law, sigma),
        build_ms=build,
        distance_bits=bits,
        bar=SMALL_BAR if sigma <= SMALL_SIGMA else ANY_BAR,
    )


def table(rows: list[Row]) -> str:
    """The figures as text, peers as multiples of ours."""
    columns = ("law", "sigma", "ours", "bar", "keystream", "numpy", "OpenDP", "build", "distance")
    units = ("", "", "ns", "ns", "x ours", "x ours", "x ours", "ms", "bits")
    widths = (17, 12, 8, 6, 10, 8, 8, 9, 9)
    lines = [
        " ".join(f"{word:>{width}}" for word, width in zip(words, widths, strict=True)) for words in (columns, units)
    ]
    for row in rows:
        numpy, opendp = (
            "-" if peer is None else f"{peer / row.ours:.{digits}f}"
            for peer, digits in ((row.numpy, 2), (row.opendp, 0))
        )
        lines.append(
            f"{row.law:>17} {row.sigma:12.4g} {row.ours:8.2f} {row.bar:6.0f} {row.keystream / row.ours:10.2f} "
            f"{numpy:>8} {opendp:>8} {row.build_ms:9.2f} {row.distance_bits:9.1f}{'' if row.passed else '  MISSED'}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether every bar holds."""
    parser = argparse.ArgumentParser(description="CPU time of the noise samplers")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=7)
    options = parser.parse_args()
    laws: tuple[Law, ...] = ("discrete_gaussian", "skellam")
    rows = [measure(law, sigma, options.samples, options.repeat) for law in laws for sigma in SIGMAS]
    if options.json:
        machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine()}
        print(json.dumps({"machine": machine, "samples": options.samples, "rows": [asdict(row) for row in rows]}))
    else:
        print(table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
