"""What a report says beside its numbers: error terms one by one, policies in words, and what no epsilon covers."""

from __future__ import annotations

import math
from typing import Any, Final

from privfed_accounting.budget import leak
from privfed_accounting.charge import Charge, Total
from privfed_accounting.fine_grid import TAIL_EXPONENT
from privfed_accounting.records import Book
from privfed_accounting.tight import tight_bounds
from privfed_accounting.verdict import AGREEMENT, epsilon_value

# Name of the fact in which a round's settlement states a bound on the probability that any coordinate wrapped around.
WRAP_FACT: Final = "wrap_probability"

UNITS: Final = {
    "record": "one row at one client, present or absent",
    "client": "one client's whole contribution, present or replaced by zero",
}
DROP_OUTS: Final = {
    "provision": "every noise share is sized for the fewest survivors the plan allows; more survivors mean more noise",
    "exact": "noise beyond the target is taken out again, so that the sum carries the same noise whoever dropped out",
}
SAMPLING: Final = {
    "none": "every unit takes part in every round",
    "poisson": "each unit takes part by a coin of its own, anew every round",
    "fixed_size": "a cohort of fixed size is drawn without replacement, anew every round",
    "round_robin": "fixed disjoint cohorts take turns; nothing is amplified, but a unit is in one cohort only",
}
NOT_PROTECTED: Final = (
    (
        "cohort sizes and participation",
        "who was invited, took part, dropped out and survived is known to the coordinator and to fellow clients; how "
        "many of them, and the bytes they sent, also to whoever reads the ledger or this report",
    ),
    ("drop-out timing", "when a client answers or falls silent may depend on its data; the noise does not cover it"),
    (
        "configuration",
        "bounds, scales, numbers of components and other choices are public and must not come from the data",
    ),
    ("tuning runs", "every run on the same data counts; runs outside this ledger are not in its epsilons"),
    ("what a release teaches about everybody", "differential privacy hides one unit, not facts about the population"),
    ("side channels of clients", "time, memory and traffic of a client's own computation"),
)
MEANING: Final = (
    "Guaranteed: charged before each round for the fewest survivors its plan allows; this is what the budget limits.",
    "Realised: with the survivors there were.",
    "The budget's epsilon holds even when rounds were chosen after seeing earlier answers.",
    "An epsilon spent so far, like the tight one, holds for the rounds as they stand, had they been fixed in advance.",
    "Epsilons of different views are not added: each adversary has its own.",
    "That the generator behind noise and masks looks random is assumed, as in cryptography, and is no term of delta.",
)
HIDDEN_CLIENTS_MEANING: Final = (
    "Clients were drawn for some rounds, and the view released counts on nobody there knowing who or how many. Each of "
    "these rounds is listed here with its planned clients, participants, survivors and bytes: for whoever reads that, "
    "in the ledger or in this report, the epsilons of the view server hold, not those of released."
)
EMPIRICAL_MEANING: Final = (
    "An empirical lower bound is a smoke test that the noise is there: weak by nature, never proof of an upper bound."
)


def at_delta(book: Book, total: Total) -> dict[str, Any]:
    """Epsilon at the budget's delta; without a budget there is none, and a release costs infinity."""
    if book.budget is None:
        return epsilon_value(0.0 if total.private else math.inf)
    return epsilon_value(total.epsilon(book.budget.delta))


def meaning(book: Book, *, empirical: bool) -> list[str]:
    """How to read the numbers of this ledger, in sentences."""
    drawn = any(
        record.plan.sampling.unit == "client" and record.plan.amplified("released")
        for record in book.rounds.values()
        if record.status != "void"
    )
    return [*MEANING, *([HIDDEN_CLIENTS_MEANING] if drawn else []), *([EMPIRICAL_MEANING] if empirical else [])]


def error_terms(book: Book) -> dict[str, Any]:
    """What the epsilon in the guarded view contains beside the ideal mechanisms' own."""
    total, budget = book.guarded, book.budget
    bare = Total.of([Charge(mu2=total.mu2, rdp=total.rdp)]) if total.private else total
    finite = total.private
    return {
        "epsilon_slack": total.epsilon_slack if finite else None,
        "delta_tail": total.delta_tail if finite else None,
        "sampler_distance": total.sampler_distance if finite else None,
        "delta_leak": None if budget is None or not finite else leak(total, budget.epsilon),
        "without_them": at_delta(book, bare),
        "with_them": at_delta(book, total),
        "tail_exponent": TAIL_EXPONENT,
        "terms": _terms(book),
        "explanation": "Discrete Gaussian shares are accounted as a rounded continuous Gaussian: probabilities differ "
        "by at most exp(epsilon_slack) outside an event of probability delta_tail; every sampler is within "
        "sampler_distance of the ideal one in total variation. All three are in every epsilon of this report.",
    }


def _terms(book: Book) -> list[dict[str, Any]]:
    """Every approximation between the mechanism on paper and the numbers shown, and what it counts in."""
    total = book.guarded
    finite = total.private
    return [
        _term("sampler distance", "delta", total.sampler_distance if finite else None, "of all noise drawn, summed"),
        _term("discretisation", "epsilon", total.epsilon_slack if finite else None, "a grid instead of real numbers"),
        _term(
            "tails", "delta", total.delta_tail if finite else None, "noise beyond the radius the grid's bound covers"
        ),
        _term("conversion", "epsilon", _conversion(book), "guaranteed minus tight: what Renyi accounting costs"),
        _term("wrap-around", "accuracy", _wrapping(book), "chance that a sum left the ring, as the rounds state it"),
        _term("arithmetic", "epsilon", AGREEMENT, "relative; the two routes must agree to this, and bounds round up"),
    ]


def _term(name: str, counts_in: str, value: float | None, explanation: str) -> dict[str, Any]:
    return {"name": name, "counts_in": counts_in, "value": value, "explanation": explanation}


def _conversion(book: Book) -> float | None:
    if book.budget is None or not book.guarded.private:
        return None
    tight = tight_bounds(book.rounds.values(), book.view, book.budget.delta)
    guaranteed = book.seen(book.view).epsilon(book.budget.delta)
    if tight is None or not math.isfinite(guaranteed):
        return None
    return max(0.0, guaranteed - tight.upper)


def _wrapping(book: Book) -> float | None:
    """Sum over the rounds that state it, at most 1; None if none does."""
    stated = [record.facts[WRAP_FACT] for record in book.rounds.values() if WRAP_FACT in record.facts]
    numbers = [value for value in stated if isinstance(value, int | float) and not isinstance(value, bool)]
    return min(1.0, math.fsum(numbers)) if numbers else None
