"""What can go wrong in the accountant, as one small tree: the caller's mistake, a spent budget, the ledger's file."""

from __future__ import annotations


class AccountingError(Exception):
    """Base of everything this package raises on purpose."""


class ParameterError(AccountingError, ValueError):
    """A value the caller gave makes no sense; the message names it, what was expected and the remedy."""


class NumericalError(AccountingError, ArithmeticError):
    """A computation left the range in which its result can be vouched for; never answered with a guess."""


class BudgetExhausted(AccountingError):  # noqa: N818 - the name users catch and read aloud
    """A round would pass the budget: it was refused before anything moved and the ledger is as it was.

    Attributes:
        needed_epsilon: what the ledger would have spent at the budget's delta with this round, in the guarded view.
        budget_epsilon: the budget's epsilon.
    """

    def __init__(self, message: str, *, needed_epsilon: float, budget_epsilon: float) -> None:
        super().__init__(message)
        self.needed_epsilon = needed_epsilon
        self.budget_epsilon = budget_epsilon


class LedgerError(AccountingError):
    """The ledger refuses an operation or cannot carry it out; nothing was written."""


class BudgetMismatch(LedgerError):  # noqa: N818
    """An existing ledger was opened with a budget other than the one it was made with."""


class GuaranteeBroken(LedgerError):  # noqa: N818
    """A sum was opened with fewer noise shares than its plan guaranteed; its true cost *was* recorded."""


class NotALedger(LedgerError):  # noqa: N818
    """The file is something else: another program's database, or not a database."""


class LedgerVersionError(LedgerError):
    """The ledger has a schema version that this software does not know."""


class LedgerBusy(LedgerError):  # noqa: N818
    """Another process holds the ledger's write lock for longer than we wait."""


class LedgerReadOnly(LedgerError):  # noqa: N818
    """The ledger's file or directory cannot be written."""


class LedgerFull(LedgerError):  # noqa: N818
    """The disk (or quota) is full; the entry was not written and nothing was charged."""


class LedgerUnreadable(LedgerError):  # noqa: N818
    """The ledger's file cannot be opened or read at all."""


class LedgerUnreachable(LedgerUnreadable):
    """The ledger's server does not answer, does not let us in, or went away; or the driver for it is not installed."""


class CorruptLedger(LedgerError):  # noqa: N818
    """The ledger's content is not what this software wrote.

    Attributes:
        entry: number of the first entry at which this shows, or None when the file itself is damaged.
    """

    def __init__(self, message: str, *, entry: int | None = None) -> None:
        super().__init__(message)
        self.entry = entry


class GuardRefused(AccountingError):  # noqa: N818
    """A client's own policy forbids the round, whatever the server says; nothing was computed and nothing charged.

    Attributes:
        rule: name of the policy's field that forbids it, or "round" for a message that is no round at all.
    """

    def __init__(self, message: str, *, rule: str) -> None:
        super().__init__(message)
        self.rule = rule
