"""Transfer between holders of data: choose a source model, stay near it, fine-tune, deploy. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfed.transfer.candidates import Candidate
    from privfed.transfer.ranking import rank_sources
    from privfed.transfer.result import SourceRanking, SourceScore

_HOMES = {
    "Candidate": "privfed.transfer.candidates",
    "SourceRanking": "privfed.transfer.result",
    "SourceScore": "privfed.transfer.result",
    "rank_sources": "privfed.transfer.ranking",
}

__all__ = ["Candidate", "SourceRanking", "SourceScore", "rank_sources"]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'privfed.transfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
