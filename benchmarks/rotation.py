"""Throughput of the path onto a coarse grid, one thread: rotation both ways, conditional rounding, random-k.

    python benchmarks/rotation.py [--json] [--repeat 5]

Columns: megabytes of the vector a CPU second (best of the repeats). `copy` is numpy's copy of the same vector, for
scale.
The bar: 100 MB/s for the rotation, either way; the exit status is 1 when it is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from privfed.mechanism.randomness import Keystream
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.rounding import conditional_round, rounding_bound
from privfed.mechanism.sparsify import RandomK

DIMENSIONS = (10_000, 100_000, 1_000_000, 4_000_000)
BAR = 100.0


@dataclass(frozen=True)
class Row:
    """Megabytes a second for vectors of one dimension and dtype."""

    dimension: int
    dtype: str
    block: int
    rotate: float
    invert: float
    round: float
    random_k: float
    copy: float

    @property
    def passed(self) -> bool:
        """Whether the rotation is within the bar."""
        return min(self.rotate, self.invert) >= BAR


def throughput(function: Callable[[], object], nbytes: int, repeat: int) -> float:
    """Best megabytes a CPU second of `repeat` calls."""
    best = 0.0
    for _ in range(repeat):
        start = time.process_time_ns()
        function()
        best = max(best, nbytes / 1e6 / (max(time.process_time_ns() - start, 1) / 1e9))
    return best


def measure(dimension: int, dtype: str, repeat: int) -> Row:
    """All figures of one dimension and dtype."""
    vector = np.random.default_rng(0).normal(size=dimension).astype(dtype)
    rotation, choice = Rotation(dimension, bytes(32)), RandomK(dimension, dimension // 10, bytes(32))
    rotated = rotation.apply(vector)
    norm = float(np.linalg.norm(rotated.astype(np.float64)))
    bound, stream = rounding_bound(norm=norm, dimension=rotation.length), Keystream()

    def speed(function: Callable[[], object]) -> float:
        return throughput(function, vector.nbytes, repeat)

    return Row(
        dimension=dimension,
        dtype=dtype,
        block=rotation.block,
        rotate=speed(lambda: rotation.apply(vector)),
        invert=speed(lambda: rotation.invert(rotated)),
        round=speed(lambda: conditional_round(rotated, bound, stream)),
        random_k=speed(lambda: choice.sparsify(vector)),
        copy=speed(vector.copy),
    )


def table(rows: list[Row]) -> str:
    """The figures as text."""
    columns = ("dimension", "dtype", "block", "rotate", "invert", "round", "random-k", "copy")
    widths = (10, 8, 6, 8, 8, 8, 9, 8)
    lines = [" ".join(f"{word:>{width}}" for word, width in zip(columns, widths, strict=True))]
    lines += [
        f"{row.dimension:10d} {row.dtype:>8} {row.block:6d} {row.rotate:8.0f} {row.invert:8.0f} {row.round:8.0f} "
        f"{row.random_k:9.0f} {row.copy:8.0f}{'' if row.passed else '  MISSED'}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure, print, and say by the exit status whether the bar holds."""
    parser = argparse.ArgumentParser(description="Throughput of the path onto a coarse grid")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--dimensions", type=int, nargs="+", default=list(DIMENSIONS))
    options = parser.parse_args()
    dtypes = ("float64", "float32")
    rows = [measure(dimension, dtype, options.repeat) for dimension in options.dimensions for dtype in dtypes]
    print(json.dumps({"rows": [asdict(row) for row in rows]}) if options.json else table(rows))
    return 0 if all(row.passed for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
