"""Losses by name or as torch gives them, always one number per row: what makes the sum over rows is left to us."""

from __future__ import annotations

import copy
import inspect
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from privfed.errors import UsageError, needs_extra

if TYPE_CHECKING:
    import torch

__all__ = ["LossLike", "RowLoss", "check_plain", "is_plain", "refuse_misfit", "require_torch", "row_loss"]

LossLike: TypeAlias = "str | torch.nn.Module | Callable[[torch.Tensor, torch.Tensor], torch.Tensor]"
NAMED = ("cross_entropy", "binary_cross_entropy", "mse")
ELEMENTWISE: Final = (
    "BCEWithLogitsLoss",
    "BCELoss",
    "MSELoss",
    "L1Loss",
    "SmoothL1Loss",
    "HuberLoss",
    "PoissonNLLLoss",
)
ROWS_TRIED: Final = (2, 3)  # two numbers of rows, so that what grows with them is seen
WHATEVER: Final = (Exception,)  # that a loss of somebody's own may raise


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
        losses = self.by_row(outputs, targets)
        return losses.reshape(len(losses), math.prod(losses.shape[1:])).mean(dim=1)

    def by_row(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return losses of shape `(rows, ...)`, with the axes that a row's own losses have.

        Raises:
            UsageError: the first axis is not that of the rows.
        """
        losses = self.function(outputs, targets)
        if losses.ndim == 0 or len(losses) != len(outputs):
            raise UsageError(
                f"the loss gave shape {tuple(losses.shape)} for {len(outputs)} rows, expected one number per row:"
                " use reduction='none'"
            )
        return losses

    @property
    def elementwise(self) -> bool:
        """Whether it is one of torch's that sets each output against a target of its own."""
        return type(self.function).__name__ in ELEMENTWISE and type(self.function).__module__ == "torch.nn.modules.loss"

    @property
    def probable_targets(self) -> bool:
        """Whether targets are probabilities of a yes, from 0 to 1."""
        return type(self.function).__name__ in ("BCEWithLogitsLoss", "BCELoss")


def require_torch() -> None:
    """Refuse to go on without torch.

    Raises:
        UsageError: naming the extra that brings it.
    """
    with needs_extra("torch", "neural networks need torch"):
        import torch  # noqa: F401


def refuse_misfit(loss: RowLoss, outputs: torch.Tensor, targets: torch.Tensor) -> None:
    """Refuse a loss that cannot be taken of such outputs and targets; nobody's rows are needed for that.

    Args:
        loss: stays as it is; a copy is tried.
        outputs, targets: of one row; they are repeated.

    Raises:
        UsageError: the loss raises something, reduces, or sets each row against all others.
    """
    import torch

    trial, shapes = copy.deepcopy(loss), []
    kind = str(targets.dtype).removeprefix("torch.")
    what = f"outputs of shape {tuple(outputs.shape[1:])} per row and {kind} targets of shape {tuple(targets.shape[1:])}"
    remedy = (
        "A loss takes (outputs, targets) of many rows, all alike in shape, and gives one number per row, as with"
        " reduction='none'; class_targets=True turns targets into class numbers, int64"
    )
    for count in ROWS_TRIED:
        several = [part.repeat(count, *(1,) * (part.ndim - 1)) for part in (outputs, targets)]
        try:
            with warnings.catch_warnings(), torch.no_grad():
                warnings.simplefilter("ignore")  # torch's own over shapes that broadcast: we refuse what comes of it
                shapes.append(tuple(trial.by_row(*several).shape))
        except UsageError:
            raise
        except WHATEVER as error:
            text = str(error).strip().partition("\n")[0][:300]
            raise UsageError(
                f"the loss {loss.description} cannot be taken of {what}: {type(error).__name__}: {text}. {remedy}"
            ) from error
    if len({shape[1:] for shape in shapes}) > 1:
        listed = " and ".join(f"{shape} for {shape[0]} rows" for shape in shapes)
        raise UsageError(
            f"the loss {loss.description} gave shape {listed} of {what}: it sets each row against all others. {remedy}"
        )


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
    if inspect.isclass(loss):
        raise UsageError(f"loss is the class {loss.__name__}: give an object of it, {loss.__name__}()")
    if isinstance(loss, torch.nn.Module):
        check_plain(loss, "the loss")
        named = _name_of(loss) if class_targets is None else None
        if named is not None:
            return row_loss(named)
        module: Any = copy.deepcopy(loss)
        if hasattr(module, "reduction"):
            module.reduction = "none"
        told = isinstance(module, classes) if class_targets is None else class_targets
        return RowLoss(module, told, f"{type(module).__module__}.{type(module).__qualname__} {_settings(module)}")
    if callable(loss):
        name = getattr(loss, "__qualname__", type(loss).__qualname__)
        return RowLoss(loss, bool(class_targets), f"{getattr(loss, '__module__', '')}.{name}")
    raise UsageError(f"loss is {loss!r}, expected one of {', '.join(NAMED)}, a torch loss, or a callable")


def is_plain(value: object) -> bool:
    """Return whether a value is a tensor or a parameter of torch's own class: others run code on what they meet."""
    import torch

    return type(value) in (torch.Tensor, torch.nn.Parameter)


def check_plain(module: torch.nn.Module, what: str) -> None:
    """Refuse a module that holds tensors of a class of somebody's own.

    Raises:
        UsageError: names the tensor.
    """
    import torch

    for part in module.modules():
        held = [*vars(part).items(), *part._parameters.items(), *part._buffers.items()]
        for name, value in held:
            if isinstance(value, torch.Tensor) and not is_plain(value):
                raise UsageError(
                    f"{what} holds {name!r}, a {type(value).__name__}, which runs code on every tensor it meets: make"
                    " it a torch.Tensor or a torch.nn.Parameter, as by value.detach().as_subclass(torch.Tensor)"
                )


def _name_of(module: torch.nn.Module) -> str | None:
    """Return the name of the built-in loss that a torch module is, but for its reduction; None if it is none."""
    import torch

    for name, kind in (
        ("cross_entropy", torch.nn.CrossEntropyLoss),
        ("binary_cross_entropy", torch.nn.BCEWithLogitsLoss),
        ("mse", torch.nn.MSELoss),
    ):
        if type(module) is kind and not list(module.buffers()):
            known = {key: value for key, value in vars(kind(reduction="none")).items() if key != "reduction"}
            own = {key: value for key, value in vars(module).items() if key != "reduction"}
            return name if own == {**known, "training": module.training} else None
    return None


def _settings(module: torch.nn.Module) -> str:
    """Return the plain settings of a loss module and its weights, in order of their names."""
    plain = {
        name: value
        for name, value in vars(module).items()
        if not name.startswith("_") and isinstance(value, bool | int | float | str)
    }
    tensors = {name: value.tolist() for name, value in module.state_dict().items()}
    return repr(sorted(plain.items())) + repr(sorted(tensors.items()))
