"""What a caller of the demo may choose."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from privfed.errors import UsageError

__all__ = ["DemoOptions"]


@dataclass(frozen=True)
class DemoOptions:
    """Options of `run_demo`; each is a flag of `privfed demo`.

    Attributes:
        data: an `.npz` or `.csv` file, or None for scikit-learn's digits.
        epsilon: budget, record unit, > 0.
        delta: its delta, in (0, 1).
        clients: silos, >= 3.
        components: of the mixture, >= 1.
        dropout: fraction of silos that the plan tolerates losing, in [0, 0.5]; up to three are lost on purpose.
        seed: of the split, the silos and the learner; never of the noise.
        out: folder for ledger and reports.
        progress: show the live table.
    """

    data: Path | None = None
    epsilon: float = 4.0
    delta: float = 1e-5
    clients: int = 20
    components: int = 10
    dropout: float = 0.2
    seed: int = 0
    out: Path = Path("privfed-demo")
    progress: bool = True

    def __post_init__(self) -> None:
        if not (math.isfinite(self.epsilon) and self.epsilon > 0):
            raise UsageError(f"epsilon is {self.epsilon!r}, expected a number above 0")
        if not 0.0 < self.delta < 1.0:
            raise UsageError(f"delta is {self.delta!r}, expected a number between 0 and 1")
        if self.clients < 3:
            raise UsageError(f"clients is {self.clients}, expected at least 3: two would see each other's sums")
        if self.components < 1:
            raise UsageError(f"components is {self.components}, expected at least 1")
        if self.seed < 0:
            raise UsageError(f"seed is {self.seed}, expected an integer of at least 0")
        if not 0.0 <= self.dropout <= 0.5:
            raise UsageError(f"dropout is {self.dropout!r}, expected a fraction between 0 and 0.5")
