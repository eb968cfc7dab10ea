"""What few bits cost: squared error of a distributed sum under Skellam and discrete Gaussian shares, beside central
noise.

    python benchmarks/distributed_mean.py [--json] [--clients 1000] [--dimension 1024] [--epsilon 6] [--wraps 1e-4]

One release of the sum of unit vectors, (epsilon, 1e-5)-DP against replacing one client's vector by zero. For each ring
and law the grid is as fine as wrap probability <= 1e-4 lets it be when all vectors may point the same way; the noise
is the least that the law's own accounting accepts at the integer sensitivities: RDP for Skellam (arXiv:2110.04995,
corollary 3.6), concentrated DP with the distance tau for sums of discrete Gaussians (arXiv:2102.06387, theorem 1).
`theory` is noise plus the worst rounding, `measured` the mean squared error of real rounds (rotate, round, noise,
ring, sum, decode) on vectors drawn from the sphere; both as multiples of a central Gaussian's variance, calibrated
exactly.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from privfed.mechanism.bits import WRAPS, Grid, choose_scale, sum_deviation
from privfed.mechanism.encode import from_ring, to_ring
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.rounding import RoundingBound, conditional_round, rounding_bound
from privfed.mechanism.surplus import Law, integer_noise
from privfed_accounting import gaussian_mu, rdp_epsilon
from privfed_accounting.rdp import ORDERS
from privfed_accounting.skellam import skellam_branches

BITS = (10, 12, 14, 16, 18)
LAWS: tuple[Law, ...] = ("skellam", "discrete_gaussian")
DELTA = 1e-5


@dataclass(frozen=True)
class Setting:
    """One release: how many clients and coordinates, at which epsilon, how often a round may wrap."""

    clients: int
    dimension: int
    epsilon: float
    wraps: float

    @property
    def central(self) -> float:
        """Variance of exactly calibrated central Gaussian noise, a coordinate, natural units."""
        return gaussian_mu(self.epsilon, DELTA) ** -2


@dataclass(frozen=True)
class Row:
    """Figures of one law on one ring; errors as multiples of the central variance."""

    law: Law
    bits: int
    scale: float
    share_sigma: float
    noise: float
    theory: float
    measured: float
    wrapped: int


def skellam_epsilon(bound: RoundingBound, variance: float) -> float:
    """Epsilon of a sum with Skellam noise of this variance."""
    branches = skellam_branches(l1_sensitivity=bound.l1, l2_sensitivity=bound.l2, variance=variance)
    return rdp_epsilon([min(branch.divergence(order) for branch in branches) for order in ORDERS], DELTA)


def discrete_gaussian_epsilon(bound: RoundingBound, variance: float, clients: int) -> float:
    """Epsilon of a sum with `clients` discrete Gaussian shares of this total variance."""
    count = np.arange(1, clients)
    tau = 10 * float(np.exp(-2 * math.pi**2 * variance / clients * count / (count + 1)).sum())
    root, d = bound.l2 / math.sqrt(variance), bound.dimension
    loss = min(math.sqrt(root * root + tau * d / 2), root + tau * math.sqrt(d))
    return rdp_epsilon(loss * loss / 2 * np.array(ORDERS, dtype=np.float64), DELTA)


def least_variance(epsilon: Callable[[float], float], target: float) -> float:
    """The least variance of the sum's noise at which epsilon is within the target, safe side."""
    low, high = 1e-3, 1e12
    while high / low > 1 + 1e-6:
        middle = math.sqrt(low * high)
        low, high = (low, middle) if epsilon(middle) <= target else (middle, high)
    return high


def variance_needed(law: Law, setting: Setting, scale: float) -> float:
    """Variance of the sum's noise on a grid of this scale, in grid units."""
    bound = rounding_bound(norm=scale, dimension=Rotation(setting.dimension, bytes(32)).length)
    epsilon = skellam_epsilon if law == "skellam" else partial(discrete_gaussian_epsilon, clients=setting.clients)
    return least_variance(partial(epsilon, bound), setting.epsilon)


def grid_for(law: Law, setting: Setting, bits: int) -> Grid:
    """The finest grid that the ring allows."""
    rotation = Rotation(setting.dimension, bytes(32))

    def deviation(scale: float) -> float:
        if not 0.1 < scale < 1e5:  # beyond either end the answer is plain, and the noise costly to find
            return scale * setting.clients
        share = variance_needed(law, setting, scale) / setting.clients
        return sum_deviation(norm=scale, clients=setting.clients, block=rotation.block, share_variance=share)

    return choose_scale(deviation, bits=bits, dimension=rotation.length, at_most=setting.wraps)


def run_round(law: Law, setting: Setting, grid: Grid, share: float, number: int) -> tuple[float, int]:
    """One round: the squared error a coordinate in natural units, and how many coordinates wrapped."""
    random = np.random.default_rng(number)
    rotation = Rotation(setting.dimension, number.to_bytes(32, "big"))
    stream = Keystream.seeded(number.to_bytes(8, "big"))
    bound = rounding_bound(norm=grid.scale, dimension=rotation.length)
    true, exact = np.zeros(setting.dimension), np.zeros(rotation.length, dtype=np.int64)
    ring = to_ring(exact, bits=grid.bits)
    for _ in range(setting.clients):
        vector = random.normal(size=setting.dimension)
        vector /= np.linalg.norm(vector) * (1 + 1e-12)
        true += vector
        values = conditional_round(grid.scale * rotation.apply(vector), bound, stream).values
        values += integer_noise(law, share, rotation.length, stream)
        exact += values
        ring += to_ring(values, bits=grid.bits)
    total = from_ring(ring, bits=grid.bits)
    error = rotation.invert(total / grid.scale) - true
    return float((error**2).mean()), int(np.count_nonzero(total != exact))


def measure(law: Law, setting: Setting, bits: int, rounds: int) -> Row:
    """All figures of one law on one ring."""
    grid = grid_for(law, setting, bits)
    variance = variance_needed(law, setting, grid.scale)
    share = variance / setting.clients
    runs = [run_round(law, setting, grid, share, number) for number in range(rounds)]
    unit = setting.central * grid.scale**2
    return Row(
        law=law,
        bits=bits,
        scale=grid.scale,
        share_sigma=math.sqrt(share),
        noise=variance / unit,
        theory=(variance + setting.clients / 4) / unit,
        measured=float(np.mean([error for error, _ in runs])) / setting.central,
        wrapped=sum(wrapped for _, wrapped in runs),
    )


def table(rows: list[Row]) -> str:
    """The figures as text."""
    columns = ("law", "bits", "scale", "share", "noise", "theory", "measured", "wraps")
    widths = (17, 5, 9, 7, 8, 8, 9, 6)
    lines = [" ".join(f"{word:>{width}}" for word, width in zip(columns, widths, strict=True))]
    lines += [
        f"{row.law:>17} {row.bits:5d} {row.scale:9.2f} {row.share_sigma:7.3f} {row.noise:8.2f} {row.theory:8.2f} "
        f"{row.measured:9.2f} {row.wrapped:6d}"
        for row in rows
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Squared error of a distributed sum on few bits")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=1024)
    parser.add_argument("--epsilon", type=float, default=6.0)
    parser.add_argument("--wraps", type=float, default=WRAPS, help="bound on the probability of a wrap a round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bits", type=int, nargs="+", default=list(BITS))
    options = parser.parse_args()
    setting = Setting(options.clients, options.dimension, options.epsilon, options.wraps)
    rows = [measure(law, setting, bits, options.rounds) for bits in options.bits for law in LAWS]
    if options.json:
        print(json.dumps({"setting": asdict(setting), "delta": DELTA, "rows": [asdict(row) for row in rows]}))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
