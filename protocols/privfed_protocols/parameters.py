"""Number of neighbours and threshold, from the share of corrupt and of dropped clients that a round has to stand.

Every client derives them itself and refuses a roster that says otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

from .errors import InfeasibleParameters, LocalProtocolError

MAX_COMPLETE: Final = 300  # the complete graph costs n - 1 agreements a client and round
Mode = Literal["semi-honest"]


@dataclass(frozen=True)
class GraphParameters:
    """`k` neighbours a client, `t` shares to open a secret."""

    k: int
    t: int


def worst_count(fraction: float, n: int) -> int:
    """Largest number of clients that a fraction of `n` allows: floor, with room for the rounding of the product."""
    return math.floor(fraction * n + 1e-9)


def select_parameters(
    n: int,
    *,
    corrupt: float,
    dropout: float,
    n_min: int | None = None,
    n_max: int | None = None,
    sigma: int = 40,
    eta: int = 20,
    mode: Mode = "semi-honest",
) -> GraphParameters:
    """Choose (k, t) for `n` clients on the complete graph.

    On the complete graph everybody is a neighbour, so the hypergeometric tails of the sparse graph are steps: at most
    C = floor(corrupt n_max) neighbours are corrupt and at most D = min(floor(dropout n), n - n_min) are gone, with
    certainty, whatever `sigma` and `eta`. C counts the invited: those who are lost in set-up are honest ones, the
    corrupt all turn up. Rounds below n_min fail anyway, so that D need not reach beyond.

    Secrecy needs t >= C + 1, liveness t <= k - D. Between the two, the smallest t with 2t >= k + C + 1 is taken,
    because then no C corrupt clients and a server can gather t shares of both secrets of one client by splitting the
    honest neighbours; where drop-outs do not allow it, the largest t that they allow.

    Args:
        n: number of clients in the roster, 2 to 300.
        corrupt: largest share of the invited clients that may pool what they see with the server, in [0, 1).
        n_min: fewest clients with whom a round may end; None leaves drop-outs to `dropout` alone.
        n_max: number of clients invited, at least n; None for n.
        dropout: largest share of clients that may be gone in a round that still has to succeed, in [0, 1).
        sigma: statistical security in bits; without effect on the complete graph.
        eta: bits of the chance that drop-outs within `dropout` fail a round; without effect on the complete graph.
        mode: "semi-honest".

    Raises:
        LocalProtocolError: an argument out of range.
        InfeasibleParameters: no threshold fits; the message names the nearest fractions for which one does.

    >>> select_parameters(20, corrupt=0.1, dropout=0.2)
    GraphParameters(k=19, t=11)
    """
    _check_arguments(n, corrupt, dropout, mode)
    invited = n if n_max is None else n_max
    fewest = 0 if n_min is None else n_min
    if not fewest <= n <= invited:
        raise LocalProtocolError(f"{n} clients are outside n_min={n_min} to n_max={n_max}")
    k = n - 1
    bad, gone = worst_count(corrupt, invited), min(worst_count(dropout, n), n - fewest)
    least, most = bad + 1, k - gone
    if least > most:
        raise InfeasibleParameters(_advice(n, invited, bad, gone))
    wanted = (k + least + 1) // 2
    return GraphParameters(k=k, t=min(max(wanted, least), most))


def _check_arguments(n: int, corrupt: float, dropout: float, mode: str) -> None:
    if n < 2:
        raise LocalProtocolError(f"{n} clients cannot hide from each other; at least 2 are needed")
    if n > MAX_COMPLETE:
        raise InfeasibleParameters(f"{n} clients on the complete graph, at most {MAX_COMPLETE} are supported")
    if not (0.0 <= corrupt < 1.0 and 0.0 <= dropout < 1.0):
        raise LocalProtocolError(f"corrupt={corrupt} and dropout={dropout} must lie in [0, 1)")
    if mode != "semi-honest":
        raise LocalProtocolError(f"mode {mode!r} is unknown, expected 'semi-honest'")


def _advice(n: int, invited: int, bad: int, gone: int) -> str:
    """Name the nearest settings that work: the largest drop-out for this corruption, and the reverse."""
    found = f"no threshold stands {bad} corrupt of {invited} invited clients and {gone} of {n} gone"
    remedies = []
    if n - 2 - bad >= 0:
        remedies.append(f"dropout={(n - 2 - bad) / n:.6g} at this corruption")
    if n - 2 - gone >= 0:
        remedies.append(f"corrupt={(n - 2 - gone) / invited:.6g} at this drop-out")
    if not remedies:
        remedies.append(f"corrupt=0 and dropout={(n - 2) / n:.6g}")
    return f"{found}; the nearest that work: " + ", or ".join(remedies)
