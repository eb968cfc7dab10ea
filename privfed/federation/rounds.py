"""What passes between the door and an engine: one release to run, and how it went."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from privfed.federation.client import Task
from privfed.plan import Plan

__all__ = ["RoundOutcome", "RoundTask"]


@dataclass(frozen=True)
class RoundTask:
    """One release, as an engine gets it.

    Attributes:
        task: what goes to every client.
        plan: what every party derives from it.
        query_digest: 32 bytes that bind the round to the query.
        cohort: names of the clients that are asked.
        expected_rounds: releases of this layout that the caller expects, this one included.
        about_to_reveal: the engine calls it before anything is sent or done from which the sum could be learned.
    """

    task: Task
    plan: Plan
    query_digest: bytes
    cohort: tuple[str, ...]
    expected_rounds: int
    about_to_reveal: Callable[[], None]


@dataclass(frozen=True)
class RoundOutcome:
    """What an engine returns.

    Attributes:
        total: the sum in the ring, unsigned.
        participants: clients that were asked.
        survivors: clients that are in the sum.
        lost: names of those asked that are not.
        bytes_up: bytes that clients sent.
        surplus: drop_outs "exact": a seed of each survivor that gave its surplus noise back, the first of its chain
            that is surplus. They are of no use for anything but taking it out.
    """

    total: npt.NDArray[np.unsignedinteger[Any]]
    participants: int
    survivors: int
    lost: tuple[str, ...]
    bytes_up: int
    surplus: tuple[bytes, ...] = field(default=(), repr=False)
