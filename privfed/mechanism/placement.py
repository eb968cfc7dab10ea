"""Where noise is added: shares at the clients, enough at each, or once at a trusted server."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias, get_args

from privfed.errors import UsageError

__all__ = ["NoisePlacement", "Protection", "place_noise"]

Protection: TypeAlias = Literal["secure_aggregation", "trusted", "local", "central"]

_PROTECTIONS: Final = get_args(Protection)


@dataclass(frozen=True)
class NoisePlacement:
    """Variance of the noise at each place, squared grid units; zero where none is added.

    Attributes:
        client: of each client's share.
        server: of what the server adds once.
    """

    client: float
    server: float

    def sum_variance(self, survivors: int) -> float:
        """Variance of the noise of the sum over `survivors` clients."""
        return survivors * self.client + self.server


def place_noise(total_variance: float, *, protection: Protection, shares: int) -> NoisePlacement:
    """What to add where, so that whoever the protection is meant against sees at least `total_variance`.

    Args:
        total_variance: v, that makes one unit's difference private enough, squared grid units, >= 0.
        protection: "secure_aggregation" and "trusted": every client adds a share (in the second case the server sees
        the
            single vectors and is trusted not to look); "local": every client adds enough for itself, nobody is trusted;
            "central": the server is trusted to add the noise, clients add none.
        shares: fewest honest shares that the guarantee counts on (survivors less colluders).

    Guarantees:
        The sum over any `shares` or more clients carries at least v, up to one float64 rounding; under "local"
        every single vector does.

    | protection | at each client | at the server | the sum of n |
    |---|---|---|---|
    | secure_aggregation, trusted | v / shares | 0 | n v / shares |
    | local | v | 0 | n v |
    | central | 0 | v | v |

    Raises:
        UsageError: an argument out of range.

    >>> place_noise(100.0, protection="secure_aggregation", shares=10)
    NoisePlacement(client=10.0, server=0.0)
    """
    if not 0 <= total_variance < math.inf:
        raise UsageError(f"total_variance is {total_variance}, expected a finite number from 0 on")
    if shares < 1:
        raise UsageError(f"shares is {shares}, expected at least one honest share")
    if protection == "central":
        return NoisePlacement(client=0.0, server=float(total_variance))
    if protection == "local":
        return NoisePlacement(client=float(total_variance), server=0.0)
    if protection in _PROTECTIONS:
        return NoisePlacement(client=total_variance / shares, server=0.0)
    raise UsageError(f"protection is {protection!r}, expected one of {', '.join(_PROTECTIONS)}")
