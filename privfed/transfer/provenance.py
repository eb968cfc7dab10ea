"""Models that rows at home went into: a mark that copies keep, so that no card claims a budget for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

__all__ = ["home_rows_in", "mark_home_rows"]

MARK: Final = "_privfed_home_rows"


def mark_home_rows(model: torch.nn.Module, how: str) -> torch.nn.Module:
    """Mark a model as made of one client's rows without protection, and return it; `how` goes on "the model ..."."""
    for part in model.modules():
        setattr(part, MARK, how)
    return model


def home_rows_in(model: torch.nn.Module) -> str | None:
    """Return how a client's rows went into the model or a part of it, as the mark says; None without a mark.

    The mark is an attribute of every module: copies keep it, parts, and what is trained further from it. Weights
    that are carried over alone (`load_state_dict`) do not, nor does what torch.fx writes anew.
    """
    return next((getattr(part, MARK) for part in model.modules() if hasattr(part, MARK)), None)
