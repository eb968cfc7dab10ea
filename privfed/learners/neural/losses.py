"""Losses by name or as torch gives them, always one number per row: what makes the sum over rows is left to us."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from privfed.errors import UsageError, needs_extra

if TYPE_CHECKING:
    import torch

__all__ = ["LossLike", "RowLoss", "require_torch", "row_loss"]

LossLike: TypeAlias = "str | torch.nn.Module | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
NAMED = ("cross_entropy", "binary_cross_entropy", "mse")


@dataclass(frozen=True)
class RowLoss:
    """A loss that gives one number per row.

    Attributes:
        function: (outputs, targets) -> losses, any shape whose first axis counts the rows.
        class_targets: whether targets are class numbers, int64, and outputs hold a score per class on axis 1.
        description: canonical text.
    """

    function: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    class_targets: bool
    description: str

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return losses of shape `(rows,)`: the mean over whatever axes a row's own losses have.

        Raises:
            UsageError: the loss does not give one number per row.
        """
        losses = self.function(outputs, targets)
        if losses.ndim == 0 or len(losses) != len(outputs):
            raise UsageError(
                f"the loss gave shape {tuple(losses.shape)} for {len(outputs)} rows, expected one number per row:"
                " use reduction='none'"
            )
        return losses.reshape(len(losses), math.prod(losses.shape[1:])).mean(dim=1)


def require_torch() -> None:
    """Refuse to go on without torch.

    Raises:
        UsageError: naming the extra that brings it.
    """
    with needs_extra("torch", "neural networks need torch"):
        import torch  # noqa: F401


def row_loss(loss: LossLike, *, class_targets: bool | None = None) -> RowLoss:
    """Return `loss` as one number per row.

    Args:
        loss: "cross_entropy" (scores per class on axis 1, class numbers), "binary_cross_entropy" (logits, targets 0 or
            1), "mse", a torch loss module (copied, its reduction set to "none"), or a callable of (outputs, targets)
            that reduces nothing.
        class_targets: whether targets are class numbers; None tells it from the loss, and says no of callables.

    Raises:
        UsageError: not one of these.
    """
    import torch

    classes = (torch.nn.CrossEntropyLoss, torch.nn.NLLLoss, torch.nn.MultiMarginLoss)
    if isinstance(loss, str):
        if loss not in NAMED:
            raise UsageError(f"loss is {loss!r}, expected one of {', '.join(NAMED)}, a torch loss, or a callable")
        made = {
            "cross_entropy": torch.nn.CrossEntropyLoss,
            "binary_cross_entropy": torch.nn.BCEWithLogitsLoss,
            "mse": torch.nn.MSELoss,
        }[loss](reduction="none")
        return RowLoss(made, loss == "cross_entropy", loss)
    if isinstance(loss, torch.nn.Module):
        module: Any = copy.deepcopy(loss)
        if hasattr(module, "reduction"):
            module.reduction = "none"
        told = isinstance(module, classes) if class_targets is None else class_targets
        return RowLoss(module, told, f"{type(module).__module__}.{type(module).__qualname__} {_settings(module)}")
    if callable(loss):
        name = getattr(loss, "__qualname__", type(loss).__qualname__)
        return RowLoss(loss, bool(class_targets), f"{getattr(loss, '__module__', '')}.{name}")
    raise UsageError(f"loss is {loss!r}, expected one of {', '.join(NAMED)}, a torch loss, or a callable")


def _settings(module: torch.nn.Module) -> str:
    """Return the plain settings of a loss module and its weights, in order of their names."""
    plain = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str)
    }
    tensors = {name: value.tolist() for name, value in module.state_dict().items()}
    return repr(sorted(plain.items())) + repr(sorted(tensors.items()))
