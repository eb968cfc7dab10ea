"""Transfer between holders of data: choose a source model, stay near it, fine-tune, deploy. Names load on first use."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from privfed.transfer.adapters import merge_adapters, with_adapters, with_new_head
    from privfed.transfer.candidates import Candidate
    from privfed.transfer.card import Card, DataSet
    from privfed.transfer.check import Comparison, compare_models
    from privfed.transfer.deploy import Deployed, export, load_deployed
    from privfed.transfer.fine_tuning import FineTuning
    from privfed.transfer.personal import personalise
    from privfed.transfer.ranking import rank_sources
    from privfed.transfer.result import SourceRanking, SourceScore
    from privfed.transfer.schedule import Stage, gradual_unfreezing

_HOMES = {
    "Candidate": "privfed.transfer.candidates",
    "Card": "privfed.transfer.card",
    "Comparison": "privfed.transfer.check",
    "DataSet": "privfed.transfer.card",
    "Deployed": "privfed.transfer.deploy",
    "FineTuning": "privfed.transfer.fine_tuning",
    "SourceRanking": "privfed.transfer.result",
    "SourceScore": "privfed.transfer.result",
    "Stage": "privfed.transfer.schedule",
    "compare_models": "privfed.transfer.check",
    "export": "privfed.transfer.deploy",
    "gradual_unfreezing": "privfed.transfer.schedule",
    "load_deployed": "privfed.transfer.deploy",
    "merge_adapters": "privfed.transfer.adapters",
    "personalise": "privfed.transfer.personal",
    "rank_sources": "privfed.transfer.ranking",
    "with_adapters": "privfed.transfer.adapters",
    "with_new_head": "privfed.transfer.adapters",
}

__all__ = [
    "Candidate",
    "Card",
    "Comparison",
    "DataSet",
    "Deployed",
    "FineTuning",
    "SourceRanking",
    "SourceScore",
    "Stage",
    "compare_models",
    "export",
    "gradual_unfreezing",
    "load_deployed",
    "merge_adapters",
    "personalise",
    "rank_sources",
    "with_adapters",
    "with_new_head",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'privfed.transfer' has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
