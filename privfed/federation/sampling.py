"""Who takes part: cohorts of clients that the coordinator draws, and rows that a client draws in secret."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError
from privfed.mechanism.randomness import Keystream
from privfed.plan import SamplingTerms, Terms
from privfed.plan.checks import check_sample
from privfed.query import Query
from privfed_accounting import Budget, Ledger, Sampling

__all__ = ["check_remembered", "check_sampling", "draw_cohort", "own_turn", "poisson", "remember_cohorts", "turns"]

ROSTER_NOTE = "cohorts of clients take turns"


def check_sampling(sampling: Sampling, terms: Terms, budget: Budget | None) -> None:
    """Refuse sampling that a federation of these terms cannot do; see `check_sample`.

    Raises:
        UsageError: with the remedy.
    """
    check_sample(sampling, clients=terms.planned, dropout=terms.dropout, budget=budget)


def check_remembered(query: Query, sampling: Sampling | SamplingTerms, terms: Terms, *, private: bool) -> None:
    """Refuse samples that a budget would count on, of queries whose clients remember.

    What a client keeps from one release to the next may tell of records that are not in the sample of the next one.
    Likewise, in a cohort of fixed size, what others remember tells who was drawn before, and so of the one who was not:
    coins are independent, places in a cohort are not. The sample then hides less than the charge counts on.

    Raises:
        UsageError: with the remedy.
    """
    if not (query.remembers and private):
        return
    if sampling.kind != "none" and sampling.unit == "record":
        raise UsageError(
            f"query {query.kind!r} is of whole clients, which may remember records from release to release: sampled"
            " records save nothing for it. Sample clients or nobody, or use a query of records"
        )
    hiding = terms.drop_outs == "exact" or terms.protection == "central"
    if sampling.kind == "fixed_size" and terms.unit == "client" and hiding:
        raise UsageError(
            f"clients of query {query.kind!r} may remember who was drawn, and a cohort of fixed size then hides nobody:"
            " use Sampling.poisson, drop_outs='provision', or leave out what clients remember (control variates,"
            " personal layers, error feedback)"
        )


def poisson(size: int, rate: float, keystream: Keystream) -> npt.NDArray[np.bool_]:
    """Return `size` independent coins, True with probability `rate` rounded down to a multiple of 2^-64.

    Args:
        size: number of coins.
        rate: in (0, 1].
        keystream: where the random bits come from.
    """
    if rate >= 1.0:
        return np.ones(size, dtype=np.bool_)
    return np.asarray(keystream.uint64(size) < np.uint64(math.floor(rate * 2.0**64)))


def draw_cohort(names: Sequence[str], sampling: Sampling, keystream: Keystream) -> tuple[str, ...]:
    """Return the clients of one release, in the order of `names`.

    Args:
        names: all clients.
        sampling: whose unit is "client"; with any other everybody takes part.
        keystream: where the random bits come from.
    """
    if sampling.unit != "client" or sampling.kind == "none":
        return tuple(names)
    if sampling.kind == "poisson":
        return _taken(names, poisson(len(names), sampling.rate, keystream))
    if sampling.kind == "round_robin":
        return turns(names, sampling)[sampling.turn]
    keys = keystream.uint64(2 * len(names)).reshape(2, -1)  # two tie with probability n^2 2^-128
    chosen = np.zeros(len(names), dtype=np.bool_)
    chosen[np.lexsort((keys[0], keys[1]))[: sampling.size]] = True
    return _taken(names, chosen)


def _taken(names: Sequence[str], chosen: npt.NDArray[np.bool_]) -> tuple[str, ...]:
    return tuple(name for name, taken in zip(names, chosen, strict=True) if taken)


def turns(names: Sequence[str], sampling: Sampling) -> list[tuple[str, ...]]:
    """Return the disjoint cohorts of a round-robin schedule, of nearly equal sizes, none above `sampling.size`."""
    ordered = sorted(names)  # the same cohorts however the clients were listed
    return [tuple(ordered[index] for index in part) for part in np.array_split(np.arange(len(names)), sampling.period)]


def own_turn(names: tuple[str, ...], name: str, sampling: Sampling) -> tuple[int, int]:
    """Return which turn is the client's own in a round-robin schedule of all `names`, and how many clients share it.

    Raises:
        UsageError: `names` does not hold the client.
    """
    places = _places(names, sampling.size)
    if name not in places:
        raise UsageError("whose turn it is cannot be told: the agreement has to name all clients, this one among them")
    return places[name]


@lru_cache(maxsize=8)
def _places(names: tuple[str, ...], size: int) -> Mapping[str, tuple[int, int]]:
    if not names:
        return {}
    cohorts = turns(names, Sampling.round_robin(size, len(names), unit="client", turn=0))
    return {name: (turn, len(cohort)) for turn, cohort in enumerate(cohorts) for name in cohort}


def remember_cohorts(ledger: Ledger, names: Sequence[str]) -> None:
    """Note in the ledger who takes turns, and refuse others: each cohort counts its own rounds, so that no client may
    change from one to another on the same budget.

    Raises:
        UsageError: the ledger has cohorts of other clients.
    """  # fmt: skip
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    noted = [note.facts.get("clients") for note in ledger.notes() if note.text == ROSTER_NOTE]
    if not noted:
        ledger.note(ROSTER_NOTE, {"clients": digest})
    elif noted[0] != digest:
        raise UsageError(
            "this ledger has cohorts of other clients that take turns, and none may change cohorts on one budget:"
            " bring the same clients, or start another ledger"
        )
