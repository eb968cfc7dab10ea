"""What the server does with a mean change: post-processing, free of any cost to privacy.

Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar and McMahan 2021, Adaptive federated optimization
(arXiv:2003.00295v5), algorithm 2, without bias correction as there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from privfed.errors import UsageError, checked_number
from privfed.query import FloatArray

__all__ = ["ServerOptimizer", "ServerRule"]

ServerRule = Literal["sgd", "adam", "yogi", "adagrad"]
ADAPTIVE_MOMENTUM: Final = 0.9  # beta_1 of the paper's experiments


@dataclass(frozen=True)
class ServerOptimizer:
    """How parameters follow the mean change.

    Args:
        rule: "sgd" (`x + eta m`, with momentum FedAvgM: `m = beta m + change`), or "adam", "yogi", "adagrad"
            (`x + eta m / (sqrt(v) + tau)`, `m = beta m + (1 - beta) change`).
        learning_rate: eta, > 0; 1.0 with "sgd" and no momentum is plain averaging.
        momentum: beta_1 in [0, 1); None for 0 with "sgd", 0.9 with the others.
        second_moment: beta_2 of "adam" and "yogi", in [0, 1).
        adaptivity: tau, > 0, in the units of a change; v starts at tau^2.
    """

    rule: ServerRule = "sgd"
    learning_rate: float = 1.0
    momentum: float | None = None
    second_moment: float = 0.99
    adaptivity: float = 1e-3

    def __post_init__(self) -> None:
        if self.rule not in get_args(ServerRule):
            raise UsageError(f"server_optimizer is {self.rule!r}, expected one of {', '.join(get_args(ServerRule))}")
        for name in ("learning_rate", "adaptivity"):
            object.__setattr__(self, name, checked_number(f"server_{name}", getattr(self, name)))
        if self.momentum is None:
            object.__setattr__(self, "momentum", 0.0 if self.rule == "sgd" else ADAPTIVE_MOMENTUM)
        for name in ("momentum", "second_moment"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
                raise UsageError(f"server_{name} is {value!r}, expected a number in [0, 1)")

    def step(
        self, parameters: FloatArray, change: FloatArray, moments: Mapping[str, FloatArray]
    ) -> tuple[FloatArray, dict[str, FloatArray]]:
        """Return the next parameters and moments.

        Args:
            parameters, change: float64 of one shape.
            moments: what the last step returned; empty before the first.
        """
        beta = self.momentum or 0.0
        if self.rule == "sgd":
            if not beta:
                return parameters + self.learning_rate * change, {}
            first = change + beta * moments["first_moment"] if "first_moment" in moments else change
            return parameters + self.learning_rate * first, {"first_moment": first}
        first = (1.0 - beta) * change
        if "first_moment" in moments:
            first = first + beta * moments["first_moment"]
        before = moments.get("second_moment", np.full_like(parameters, self.adaptivity**2))
        second = self._second(before, np.square(change))
        moved = parameters + self.learning_rate * first / (np.sqrt(second) + self.adaptivity)
        return moved, {"first_moment": first, "second_moment": second}

    def _second(self, before: FloatArray, squared: FloatArray) -> FloatArray:
        if self.rule == "adagrad":
            return before + squared
        kept = self.second_moment
        if self.rule == "adam":
            return kept * before + (1.0 - kept) * squared
        return np.asarray(before - (1.0 - kept) * squared * np.sign(before - squared))
