"""The errors of privfed, one small tree whose branches are what the caller can do about them.

The two halves below have trees of their own: `privfed_protocols.ProtocolError` (a peer's message is refused, a round
failed closed) and `privfed_accounting.AccountingError` (the budget is spent, a ledger cannot be read or written).
"""

from __future__ import annotations

__all__ = ["DataError", "FederationError", "PrivfedError", "UsageError"]


class PrivfedError(Exception):
    """Base of every error that privfed itself raises."""


class UsageError(PrivfedError, ValueError):
    """An argument is wrong; the message names what was found, what was expected and the remedy."""


class DataError(PrivfedError, ValueError):
    """A client's data cannot be used: NaN, infinity, wrong shape, no rows, too many rows.

    Attributes:
        client: name of the client whose data are meant, or None.
    """

    def __init__(self, message: str, *, client: str | None = None) -> None:
        super().__init__(message)
        self.client = client


class FederationError(PrivfedError, RuntimeError):
    """A release could not be completed: too few clients are left, or a client refused the plan.

    Attributes:
        charged: whether the round stays charged to the budget, because its sum may have been revealed.
    """

    def __init__(self, message: str, *, charged: bool = False) -> None:
        super().__init__(message)
        self.charged = charged
