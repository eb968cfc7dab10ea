"""Noise that is exact under drop-outs: added by all, the surplus taken back once it is known who dropped out.

Add-then-remove (Jiang, Wang and Chen 2022, arXiv:2209.12528). The sum is to carry variance v whoever drops out, up to
t of n. Each client adds one base share of variance v/n and, for k = 1..t, a component of variance v / ((n - k)(n - k
+ 1)), each from a seed of its own. With D drop-outs the survivors keep the base and the components 1..D, and the
server takes back the components D + 1..t, which it makes again from the survivors' seeds. The sum telescopes: what a
survivor keeps is

    v/n + sum_{k=1..D} v (1/(n - k) - 1/(n - k + 1)) = v / (n - D),

so n - D survivors carry exactly v. A client needs to send one seed only: the seeds form a hash chain, seed_{k+1} =
H(seed_k), so seed_{D+1} yields all later components and says nothing about the earlier ones. D is the number that the
protocol has the survivors agree on, not one that the server states.

The surplus of a survivor lost before it sent its seed stays in the sum: more noise, never less.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.discrete_gaussian import discrete_gaussian
from privfed.mechanism.randomness import Keystream
from privfed.mechanism.skellam import skellam
from privfed_protocols import surplus_seed

__all__ = [
    "MIN_COMPONENT_SIGMA",
    "ComponentVariances",
    "Law",
    "client_noise",
    "component_variances",
    "integer_noise",
    "surplus_noise",
]

Law: TypeAlias = Literal["discrete_gaussian", "skellam"]

# Sums of discrete Gaussians of variances a and b are discrete Gaussian up to exp(-2 pi^2 ab / (a + b)): with both at
# least 16 that is below 2^-227. Skellam variances add exactly, at any size.
MIN_COMPONENT_SIGMA: Final = 4.0

_PURPOSE: Final = b"surplus noise v1"


@dataclass(frozen=True)
class ComponentVariances:
    """Variances of what each of n clients adds, in squared grid units.

    Attributes:
        total: v, what the sum carries after the surplus is removed.
        planned: n, clients.
        base: v/n, of the share that is never taken back.
        surplus: of the components 1..t.
    """

    total: float
    planned: int
    base: float
    surplus: tuple[float, ...]

    @property
    def tolerated(self) -> int:
        """t, drop-outs up to which the sum carries exactly the total."""
        return len(self.surplus)


def component_variances(total_variance: float, *, planned: int, tolerated: int) -> ComponentVariances:
    """What each client adds so that any `planned` - `tolerated` or more of them carry the same noise.

    Args:
        total_variance: v, of the noise that the sum is to carry, squared grid units, > 0.
        planned: n, clients whose shares the round is sized for.
        tolerated: t, most drop-outs for which the sum carries exactly v; 0 to n - 1.

    Guarantees:
        base + surplus_1 + ... + surplus_D = v / (n - D) for every D <= t, up to float64 rounding.

    Raises:
        UsageError: an argument out of range.

    >>> component_variances(12.0, planned=4, tolerated=2)
    ComponentVariances(total=12.0, planned=4, base=3.0, surplus=(1.0, 2.0))
    """
    if not 0 < total_variance < math.inf:
        raise UsageError(f"total_variance is {total_variance}, expected a finite number above 0")
    if not 0 <= tolerated < planned:
        raise UsageError(f"{tolerated} of {planned} clients may drop out, expected 0 to {max(planned - 1, 0)}")
    exact = Fraction(total_variance)
    steps = ((planned - k) * (planned - k + 1) for k in range(1, tolerated + 1))
    return ComponentVariances(
        total=float(total_variance),
        planned=planned,
        base=float(exact / planned),
        surplus=tuple(float(exact / step) for step in steps),
    )


def client_noise(
    components: ComponentVariances, seed: bytes, size: int, *, law: Law, keystream: Keystream
) -> npt.NDArray[np.int64]:
    """All noise that one client adds: its base share and every surplus component.

    Args:
        components: from `component_variances`.
        seed: seed_1, 32 fresh bytes of the operating system's generator; secret, given to the protocol with the vector.
        size: coordinates.
        law: "discrete_gaussian" or "skellam".
        keystream: where the base share comes from; unrelated to the seed.

    Returns:
        int64, shape (size,).

    Raises:
        UsageError: an argument out of range, or components too small for a discrete Gaussian.
    """
    _check_components(components, law)
    return integer_noise(law, components.base, size, keystream) + surplus_noise(
        components, seed, size, first=1, law=law
    )


def surplus_noise(
    components: ComponentVariances, seed: bytes, size: int, *, first: int, law: Law
) -> npt.NDArray[np.int64]:
    """The sum of one client's components `first`..t, the same wherever it is made.

    Args:
        components: from `component_variances`.
        seed: seed_first, 32 bytes.
        size: coordinates, as at the client.
        first: number of the first component, 1 to t + 1 (none); D + 1 when D clients dropped out.
        law: as at the client.

    Returns:
        int64, shape (size,): what is to be subtracted from the sum for this survivor.

    Guarantees:
        Bit-identical to what `client_noise` added: a component depends on its seed, law, variance and size alone, and
        no rounded float decides a sample.

    Raises:
        UsageError: an argument out of range.
    """
    _check_components(components, law)
    if not 1 <= first <= components.tolerated + 1:
        raise UsageError(f"first is {first}, expected 1 to {components.tolerated + 1}")
    total = np.zeros(size, dtype=np.int64)
    for variance in components.surplus[first - 1 :]:
        total += integer_noise(law, variance, size, Keystream.derived(seed, purpose=_PURPOSE))
        seed = surplus_seed(seed, 2)
    return total


def integer_noise(law: Law, variance: float, size: int, keystream: Keystream) -> npt.NDArray[np.int64]:
    """Independent samples of either law, by variance.

    Args:
        law: "discrete_gaussian", whose parameter sigma is the root of `variance`, or "skellam".
        variance: squared grid units, > 0.
        size: number of samples.
        keystream: where the random bits come from.

    Raises:
        UsageError: an unknown law, or a variance outside the sampler's range.
    """
    if law == "discrete_gaussian":
        return discrete_gaussian(math.sqrt(variance), size, keystream)
    if law == "skellam":
        return skellam(variance, size, keystream)
    raise UsageError(f"law is {law!r}, expected 'discrete_gaussian' or 'skellam'")


def _check_components(components: ComponentVariances, law: Law) -> None:
    least = min(components.base, *components.surplus) if components.surplus else components.base
    if law == "discrete_gaussian" and least < MIN_COMPONENT_SIGMA**2:
        raise UsageError(
            f"a noise component has standard deviation {math.sqrt(least):.3g}, expected at least"
            f" {MIN_COMPONENT_SIGMA:g} for sums of discrete Gaussians: use Skellam noise, or a finer grid"
        )
