"""What may be written into a ledger: rounds that fit their budget, settlements and voids of what is really open."""

from __future__ import annotations

from privfed_accounting.charge import Charge
from privfed_accounting.errors import BudgetExhausted, LedgerError, ParameterError
from privfed_accounting.filters import exceeded
from privfed_accounting.records import Book, RoundRecord
from privfed_accounting.round_plan import RoundPlan
from privfed_accounting.signing import HeadSignature


def check_fit(book: Book, plan: RoundPlan) -> None:
    """Refuse a round that the ledger's budget is not about (ParameterError)."""
    budget = book.budget
    if budget is None:
        if plan.private:
            raise ParameterError("this ledger has no budget, expected a round without noise: open one with a budget")
        return
    if not plan.private:
        raise ParameterError(
            f"a round without noise costs infinity, more than any budget ({budget}): "
            "give it noise, or use a ledger opened with budget=None"
        )
    if plan.unit != budget.unit or plan.relation != budget.relation:
        raise ParameterError(
            f"the round protects unit {plan.unit!r} ({plan.relation}), expected the budget's {budget.unit!r} "
            f"({budget.relation}): plan it for the budget's unit"
        )


def check_budget_left(book: Book, charge: Charge) -> None:
    """Refuse a round that would pass the budget, by the caps as they stand in the ledger (BudgetExhausted)."""
    budget, caps = book.budget, book.allowance
    if budget is None or caps is None:
        return
    total = book.guarded + charge
    excesses = exceeded(total, budget, caps)
    if not excesses:
        return
    needed, first = total.epsilon(budget.delta), excesses[0]
    raise BudgetExhausted(
        f"with this round epsilon is {needed:.6g}, expected within the budget of {budget}; so far "
        f"{book.guarded.epsilon(budget.delta):.6g} is spent ({first}), and nothing was charged: {first.remedy}",
        needed_epsilon=needed,
        budget_epsilon=budget.epsilon,
    )


def check_settlement(book: Book, entry: int, participants: int, survivors: int) -> None:
    """Refuse counts that the plan does not allow (ParameterError), or an entry that is not open (LedgerError)."""
    plan = open_reservation(book, entry).plan
    if not survivors <= participants <= plan.planned_shares:
        raise ParameterError(
            f"{survivors} survivors of {participants} participants, at most {plan.planned_shares} are planned: "
            "count each client once"
        )


def open_reservation(book: Book, entry: int) -> RoundRecord:
    """The round that an entry reserved and that is not closed yet (LedgerError otherwise)."""
    record = book.rounds.get(entry)
    if record is None:
        raise LedgerError(f"entry {entry!r} is no reservation of this ledger: pass what reserve() returned")
    if record.status != "reserved":
        raise LedgerError(f"entry {entry} is {record.status} already, expected an open one: close a round once")
    return record


def check_signature(book: Book, signature: HeadSignature) -> None:
    """Refuse a signature that is not genuine, or not under an entry of this ledger (ParameterError)."""
    head = signature.head
    if head.ledger != book.identifier or not book.holds(head.seq, head.digest):
        raise ParameterError(f"{head} is no entry of this ledger, whose head is entry {book.length}: sign one of this")
    if not signature.valid:
        raise ParameterError(
            f"the signature of {signature.public_key} under {head} is not genuine, nothing was recorded: "
            "sign the head again"
        )
