"""Number of neighbours and threshold, from the share of corrupt and of dropped clients that a round has to stand.

Every client derives them itself and refuses a roster that says otherwise. So the arithmetic is the same on every
machine: integers, and floating-point additions, products and quotients in a fixed order, which IEEE 754 determines.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from .errors import InfeasibleParameters, LocalProtocolError

MAX_COMPLETE: Final = 300  # the complete graph costs n - 1 agreements a client and round; above, a ring where one fits
MAX_NEIGHBOURS: Final = 16_384  # more cost a client minutes of sharing
MAX_CLIENTS: Final = 1_000_000
MAX_SECURITY_BITS: Final = 256  # tails far below are no normal floating-point numbers
Mode: TypeAlias = Literal["semi-honest", "semi-malicious", "malicious"]
_Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True)
class GraphParameters:
    """How a roster is connected, and how many shares open a secret.

    Attributes:
        k: neighbours of each client; n - 1 for the complete graph, even for a ring.
        t: shares that open a secret; fewer tell nothing.
        survivors: fewest survivors for which secrecy was computed. With fewer, the honest ones on a ring could fall
            into parts whose sums show; 0 on the complete graph, where they cannot.
    """

    k: int
    t: int
    survivors: int = 0


@dataclass(frozen=True)
class _Demand:
    """What a selection has to stand, in clients."""

    n: int
    invited: int
    bad: int
    gone: int
    sigma: int
    eta: int
    mode: Mode


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
    """Choose (k, t) for `n` clients.

    Counted are C = floor(corrupt n_max) corrupt clients and D = min(floor(dropout n), n - n_min) that are gone. C is of
    the invited: those who are lost in set-up are honest ones, the corrupt all turn up. Rounds below n_min fail anyway,
    so that D need not reach beyond.

    **Up to 300 clients, and in malicious mode: the complete graph.** Everybody is a neighbour, so C and D are certain,
    whatever `sigma` and `eta`. Secrecy needs t >= C + 1, liveness t <= k - D. Between the two, the smallest t with
    2t >= k + C + 1 is taken, because then no C corrupt clients and a server can gather t shares of both secrets of one
    client by splitting the honest neighbours (Bonawitz et al., CCS 2017, theorem 6.5). Where drop-outs do not allow it,
    semi-honest mode takes the largest t that they allow, and the other modes refuse.

    **Above 300: a ring in seeded order** (Bell et al., CCS 2020, section 3.5), with the least even k, and for it the
    least t, for which the corrupt and dropped neighbours of a client, which are hypergeometric, leave all of this:

    - with a the least number such that P[corrupt neighbours >= a] <= 2^-(sigma + 1) / n: t >= a, and t >= 2;
    - P[dropped neighbours > k - t] <= 2^-eta / n;
    - the honest survivors stay connected: n (n - k - 1) / 2 * C(C + D, k) / C(n, k) <= 2^-(sigma + 1);
    - in semi-malicious mode also 2t >= k + a: a server that tells neighbours different things cannot collect t shares
      of both secrets of one client. It can still cut a client off from its neighbours; only malicious mode rules that
      out.

    The first holds for all rounds of a roster together; drop-outs change from round to round, so that the second and
    third are per round. So secrecy fails with at most 2^-sigma in a round (over R rounds, with at most R 2^-sigma: ask
    for log2 R bits more where that counts), and a round with allowed drop-outs with at most 2^-eta. Where no ring fits,
    the complete graph is taken if it does.

    Args:
        n: number of clients in the roster, 2 to 1 000 000.
        corrupt: largest share of the invited clients that may pool what they see with the server, in [0, 1).
        n_min: fewest clients with whom a round may end; None leaves drop-outs to `dropout` alone.
        n_max: number of clients invited, at least n; None for n.
        dropout: largest share of clients that may be gone in a round that still has to succeed, in [0, 1).
        sigma: statistical security in bits, at most 256; without effect on the complete graph.
        eta: bits of the chance that drop-outs within `dropout` fail a round, at most 256; likewise.
        mode: "semi-honest" (the server follows the protocol), "semi-malicious" (it may lie about keys and identities
            in set-up, and cannot gather both secrets of one client; no protection from showing clients different
            survivors beyond that, see `modes.py`) or "malicious" (it may deviate at any time; complete graph only).

    Raises:
        LocalProtocolError: an argument out of range.
        InfeasibleParameters: nothing fits; the message names the nearest fractions for which something does.

    >>> select_parameters(20, corrupt=0.1, dropout=0.2)
    GraphParameters(k=19, t=11, survivors=0)
    >>> select_parameters(10_000, corrupt=0.05, dropout=0.05)
    GraphParameters(k=34, t=20, survivors=9500)
    """
    _check_arguments(n, corrupt, dropout, sigma, eta, mode)
    invited = n if n_max is None else n_max
    fewest = 0 if n_min is None else n_min
    if not fewest <= n <= invited:
        raise LocalProtocolError(f"{n} clients are outside n_min={n_min} to n_max={n_max}")
    demand = _Demand(
        n=n,
        invited=invited,
        bad=worst_count(corrupt, invited),
        gone=min(worst_count(dropout, n), n - fewest),
        sigma=sigma,
        eta=eta,
        mode=mode,
    )
    found = _select(demand)
    if found is None:
        raise InfeasibleParameters(_advice(demand))
    return found


def _check_arguments(n: int, corrupt: float, dropout: float, sigma: int, eta: int, mode: str) -> None:
    if mode not in get_args(Mode):
        raise LocalProtocolError(f"mode {mode!r} is unknown, expected one of {list(get_args(Mode))}")
    if n < 2:
        raise LocalProtocolError(f"{n} clients cannot hide from each other; at least 2 are needed")
    if not (0.0 <= corrupt < 1.0 and 0.0 <= dropout < 1.0):
        raise LocalProtocolError(f"corrupt={corrupt} and dropout={dropout} must lie in [0, 1)")
    if not (0 <= sigma <= MAX_SECURITY_BITS and 0 <= eta <= MAX_SECURITY_BITS):
        raise LocalProtocolError(f"sigma={sigma} and eta={eta}, expected 0 to {MAX_SECURITY_BITS} bits")
    if n > MAX_CLIENTS:
        raise InfeasibleParameters(f"{n} clients, at most {MAX_CLIENTS} are supported; split them into several epochs")
    if mode == "malicious" and n > MAX_NEIGHBOURS + 1:
        raise InfeasibleParameters(
            f"{n} clients against a malicious server, which needs the complete graph and so at most "
            f"{MAX_NEIGHBOURS + 1}; split them into several epochs, or use mode='semi-malicious'"
        )


def _select(demand: _Demand) -> GraphParameters | None:
    if demand.n <= MAX_COMPLETE or demand.mode == "malicious":
        return _complete(demand)
    return _ring(demand) or _complete(demand)


def _complete(demand: _Demand) -> GraphParameters | None:
    k = demand.n - 1
    if k > MAX_NEIGHBOURS:
        return None
    least, most = demand.bad + 1, k - demand.gone
    wanted = max((k + least + 1) // 2, least)
    if demand.mode == "semi-honest" and least <= most:
        return GraphParameters(k=k, t=min(wanted, most))
    return GraphParameters(k=k, t=wanted) if wanted <= most else None


def _ring(demand: _Demand) -> GraphParameters | None:
    """The least even k below n - 1 that fits, and its least t.

    With a(k) corrupt and q(k) dropped neighbours to stand, k fits if k >= a(k) + q(k), or a(k) + 2 q(k) in
    semi-malicious mode. Both grow with k, so that whoever misses the sum at k misses it for all k up to that sum: the
    search jumps there, and arrives at the least k that fits.
    """
    n, others = demand.n, demand.n - 1
    if demand.bad + demand.gone >= others:
        return None
    secrecy, liveness = math.ldexp(1.0, -demand.sigma - 1) / n, math.ldexp(1.0, -demand.eta) / n
    splits = demand.mode != "semi-honest"
    k = _connected(demand)
    while k < min(others, MAX_NEIGHBOURS + 1):
        a = exceeded(others, demand.bad, k, secrecy) + 1
        q = exceeded(others, demand.gone, k, liveness)
        needed = max(a + (2 if splits else 1) * q, 2)
        if needed <= k:
            t = max((k + a + 1) // 2 if splits else a, 2)
            return GraphParameters(k=k, t=t, survivors=n - demand.gone)
        k = needed + needed % 2
    return None


def _connected(demand: _Demand) -> int:
    """Least even k for which the honest survivors stay connected; a ring is cut only by two gaps of k/2 each.

    The chance that k given places are all empty falls with k, and so does the number of pairs of gaps.
    """
    bits = 2 * MAX_SECURITY_BITS
    bound, empty = 1 << (bits - demand.sigma - 1), 1 << bits  # chances as multiples of 2^-512, rounded up
    bad = demand.bad + demand.gone
    for taken in range(demand.n):
        if taken and taken % 2 == 0 and demand.n * (demand.n - taken - 1) * empty <= 2 * bound:
            return taken
        empty = -(-empty * (bad - taken) // (demand.n - taken)) if bad > taken else 0
    return demand.n


def exceeded(population: int, marked: int, drawn: int, chance: float) -> int:
    """Least x such that more than x marked ones among the drawn have at most the given chance.

    Args:
        population: how many there are.
        marked: how many of them are marked.
        drawn: how many are drawn, without replacement.
        chance: in (0, 1).
    """
    low, tail = hypergeometric_tail(population, marked, drawn)
    return low + int(np.flatnonzero(tail[1:] <= chance)[0])


def hypergeometric_tail(population: int, marked: int, drawn: int) -> tuple[int, _Floats]:
    """P[X >= x] of the number X of marked ones among the drawn, for consecutive x, the last of them 0.

    Terms are built from the mode outwards by their ratios and added from the smallest on, which keeps the relative
    precision of tails, about 1e-12. No x lies further from the mode than the chances above 2^-317 do, by Hoeffding's
    inequality P[|X - E X| >= s] <= 2 exp(-2 s^2 / drawn) (1963, theorem 1 and section 6).

    Returns:
        The first x, and the chances.
    """
    mode = (drawn + 1) * (marked + 1) // (population + 2)
    reach = math.isqrt(111 * drawn) + 2
    least = max(0, marked + drawn - population, mode - reach)
    most = min(marked, drawn, mode + reach)
    x = np.arange(least, most, dtype=np.float64)
    grow = (marked - x) * (drawn - x) / ((x + 1) * (population - marked - drawn + x + 1))  # P[x + 1] / P[x]
    middle = mode - least
    terms = np.concatenate([np.cumprod(1 / grow[:middle][::-1])[::-1], [1.0], np.cumprod(grow[middle:])])
    tail = np.cumsum(np.concatenate([[0.0], terms[::-1]]))
    return least, (tail / tail[-1])[::-1]


def _advice(demand: _Demand) -> str:
    """Name the nearest settings that work: the largest drop-out for this corruption, and the reverse."""
    graph = "threshold" if demand.n <= MAX_COMPLETE or demand.mode == "malicious" else "ring and no complete graph"
    found = (
        f"no {graph} stands {demand.bad} corrupt of {demand.invited} invited clients and {demand.gone} of {demand.n} "
        f"gone in {demand.mode} mode"
    )
    remedies = []
    gone = _largest(demand.gone, lambda count: replace(demand, gone=count))
    if gone is not None:
        remedies.append(f"dropout={gone / demand.n:.6g} at this corruption")
    bad = _largest(demand.bad, lambda count: replace(demand, bad=count))
    if bad is not None:
        remedies.append(f"corrupt={bad / demand.invited:.6g} at this drop-out")
    if not remedies:
        harmless = replace(demand, bad=0)
        most = _largest(demand.gone, lambda count: replace(harmless, gone=count))
        remedies.append(f"corrupt=0 and dropout={(most or 0) / demand.n:.6g}")
    return f"{found}; the nearest that work: " + ", or ".join(remedies)


def _largest(above: int, changed: Callable[[int], _Demand]) -> int | None:
    """Largest count below `above` that something fits, None if not even 0 does; the fewer to stand, the easier."""
    if above == 0 or _select(changed(0)) is None:
        return None
    fits, fails = 0, above
    while fails - fits > 1:
        middle = (fits + fails) // 2
        if _select(changed(middle)) is None:
            fails = middle
        else:
            fits = middle
    return fits
