"""A torch model as a program that clients have installed: numbers travel, code does not.

Queries name it and bring its parameters as one float64 vector. Nothing that a model computed on a client's rows stays
behind: a client trains a copy of its own (`fresh`), which goes when it is done, and sums over records do not run the
model's Python on rows at all (`per_sample`).
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from privfed.errors import DataError, UsageError, checked_integer
from privfed.learners.neural.losses import LossLike, check_plain, refuse_misfit, require_torch, row_loss
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["KIND", "RowShapeError", "TorchProgram"]

KIND: Final = "torch_model"
FLOATS = ("float32", "float64", "bfloat16", "float16")


class RowShapeError(UsageError):
    """The model does not take rows of the shape that it was given."""


class TorchProgram:
    """A model and its loss, as every client runs them.

    Args:
        model: copied, moved to `device` and `dtype`; the caller's stays as it is.
        loss: see `row_loss`.
        feature_shape: shape of one row's features, as the model takes them.
        n_targets: last columns of a row that hold its target, >= 1.
        dtype: of parameters and features: "float32", "float64", "bfloat16", "float16", or torch's own.
        device: "cpu", "cuda", "cuda:1", ...
        class_targets: whether targets are class numbers; None tells it from the loss.
        integer_features: whether the model takes int64 features, such as the numbers of words.

    Attributes:
        model: the copy. In training mode after `load`.
        layout: name and shape of every trainable parameter, in the order of `named_parameters()`. Frozen parameters
            and buffers are left out.
        n_parameters: length of the vector of trainable parameters.
        feature_shape, n_targets, n_features: of the rows, which have `n_features + n_targets` columns.
        output_shape: what the model returns for one row.
        n_classes: class numbers run below it; None if targets are none.

    Raises:
        UsageError: torch is missing, or the model cannot be used: nothing to train, parameters that are not real or
            not there yet, it does not take features of that shape, or the loss does not take its outputs and targets.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss: LossLike = "cross_entropy",
        *,
        feature_shape: tuple[int, ...],
        n_targets: int = 1,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
        class_targets: bool | None = None,
        integer_features: bool = False,
    ) -> None:
        require_torch()
        self.dtype, self.device = _dtype(dtype), _device(device)
        _check_model(model)
        self.model = copy.deepcopy(model).to(device=self.device, dtype=self.dtype)
        self.loss = row_loss(loss, class_targets=class_targets)
        if hasattr(self.loss.function, "to"):
            self.loss.function.to(device=self.device, dtype=self.dtype)
        self.feature_shape = tuple(checked_integer("a side of feature_shape", side, least=1) for side in feature_shape)
        self.n_features = math.prod(self.feature_shape)
        self.n_targets = checked_integer("n_targets", n_targets, least=1)
        self._integer_features = bool(integer_features)
        self._trainable = [(name, value) for name, value in self.model.named_parameters() if value.requires_grad]
        self.layout = tuple((name, tuple(value.shape)) for name, value in self._trainable)
        self.n_parameters = sum(math.prod(shape) for _, shape in self.layout)
        self._buffers = {name: value.detach().clone() for name, value in self.model.named_buffers()}
        self._derived: dict[Callable[[TorchProgram], Any], Any] = {}
        outputs = self._probe()
        self.output_shape = tuple(outputs.shape[1:])
        self.n_classes = self._class_count() if self.loss.class_targets else None
        self._check_loss(outputs)

    @property
    def kind(self) -> str:
        """The sort of program."""
        return KIND

    @property
    def description(self) -> str:
        """What makes two programs the same: modules, parameters, what stays fixed, loss and the rows' columns."""
        modules = [
            f"{name}:{type(module).__module__}.{type(module).__qualname__}({module.extra_repr()})"
            for name, module in self.model.named_modules()
        ]
        trained = [f"{name}{list(shape)}" for name, shape in self.layout]
        fixed = [
            f"{name}{list(value.shape)}={_fingerprint(value)}"
            for name, value in self.model.named_parameters()
            if not value.requires_grad
        ]
        fixed += [f"{name}{list(value.shape)}={_fingerprint(value)}" for name, value in self._buffers.items()]
        lines = (
            f"dtype {self.dtype}",
            *(f"module {text}" for text in modules),
            *(f"trained {text}" for text in trained),
            *(f"fixed {text}" for text in fixed),
            f"loss {self.loss.description}",
            f"features {list(self.feature_shape)} integer={self._integer_features}",
            f"targets {self.n_targets} classes={self.loss.class_targets}",
        )
        return "\n".join(lines)

    def derived(self, make: Callable[[TorchProgram], Any]) -> Any:
        """Return what `make` made of this program at its first call: it is kept for as long as the program is."""
        if make not in self._derived:
            self._derived[make] = make(self)
        return self._derived[make]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_derived": {}}  # it is made anew where a copy needs it

    def fresh(self) -> TorchProgram:
        """Return the program with a model and a loss of its own: what they keep of rows goes when it does."""
        own = copy.copy(self)
        own.model, own.loss, own._derived = copy.deepcopy(self.model), copy.deepcopy(self.loss), {}
        own._trainable = [(name, value) for name, value in own.model.named_parameters() if value.requires_grad]
        return own

    def parameters(self) -> FloatArray:
        """Return the trainable parameters, float64 of shape `(n_parameters,)`, in the order of `layout`."""
        return self._flat([value for _, value in self._trainable])

    def gradient(self) -> FloatArray:
        """Return the gradients in the same order, zero where there is none."""
        return self._flat([value.grad for _, value in self._trainable])

    def trainable(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        """Yield name and parameter of what is trained, in the order of `layout`."""
        return iter(self._trainable)

    def load(self, vector: FloatArray) -> None:
        """Set the trainable parameters, and every buffer to what it was in the model that was given.

        The model is left in training mode, without gradients.

        Raises:
            UsageError: another number of parameters.
        """
        import torch

        with torch.no_grad():
            for (_, value), part in zip(self._trainable, self.split(vector), strict=True):
                value.copy_(part)
                value.grad = None
            for name, buffer in self.model.named_buffers():
                buffer.copy_(self._buffers[name])
        self.model.train()

    def split(self, vector: FloatArray) -> list[torch.Tensor]:
        """Return the vector as tensors of the parameters' shapes, dtype and device: copies, in the order of `layout`.

        Raises:
            UsageError: another number of parameters.
        """
        import torch

        if vector.shape != (self.n_parameters,):
            raise UsageError(f"the vector has shape {vector.shape}, the model has {self.n_parameters} parameters")
        whole = torch.tensor(vector, dtype=self.dtype, device=self.device)
        sizes = [math.prod(shape) for _, shape in self.layout]
        return [part.reshape(shape) for part, (_, shape) in zip(torch.split(whole, sizes), self.layout, strict=True)]

    def features(self, rows: FloatArray) -> torch.Tensor:
        """Return the features of rows, shape `(rows, *feature_shape)`, on the program's device."""
        import torch

        self._check_columns(rows)
        values = rows[:, : self.n_features].reshape(len(rows), *self.feature_shape)
        dtype = torch.int64 if self._integer_features else self.dtype
        return torch.tensor(values, dtype=dtype, device=self.device)

    def targets(self, rows: FloatArray) -> torch.Tensor:
        """Return the targets of rows: class numbers, int64 (where the rows hold none, -100); else the model's shape."""
        import torch

        self._check_columns(rows)
        values = rows[:, self.n_features :]
        if self.n_classes is not None:
            classes = np.where(_are_classes(values, self.n_classes), values, -100.0).astype(np.int64)
            return torch.tensor(classes.reshape(len(rows), *self.output_shape[1:]), device=self.device)
        shape = self.output_shape if self.targets_fit else (() if self.n_targets == 1 else (self.n_targets,))
        return torch.tensor(values.reshape(len(rows), *shape), dtype=self.dtype, device=self.device)

    @property
    def targets_fit(self) -> bool:
        """Whether targets that are no classes have the shape of the outputs."""
        return self.n_classes is None and math.prod(self.output_shape) == self.n_targets

    def check_rows(self, rows: FloatArray) -> None:
        """Refuse rows whose columns or targets this model cannot use.

        Raises:
            DataError: another number of columns, or targets that are no class numbers of this model.
        """
        width = self.n_features + self.n_targets
        if rows.ndim != 2 or rows.shape[1] != width:
            raise DataError(
                f"the rows have {rows.shape[1:]} columns, expected {width}: features of shape {self.feature_shape}"
                f" and {self.n_targets} target(s)"
            )
        if self.known_targets(rows).all():
            return
        if self.n_classes is None:
            raise DataError(
                f"the targets hold numbers beyond 0 and 1, expected those two or what lies between, in the last"
                f" {self.n_targets} column(s), for the loss {self.loss.description}: turn -1 and 1 into 0 and 1"
            )
        raise DataError(
            f"the targets hold numbers that are no classes of this model: expected whole numbers from 0 to"
            f" {self.n_classes - 1}, in the last {self.n_targets} column(s)"
        )

    def known_targets(self, rows: FloatArray) -> npt.NDArray[np.bool_]:
        """Return which rows have targets that the loss knows: classes of the model, or numbers from 0 to 1, or any."""
        targets = rows[:, self.n_features :]
        if self.n_classes is not None:
            known = _are_classes(targets, self.n_classes)
        elif self.loss.probable_targets:
            known = (targets >= 0.0) & (targets <= 1.0)
        else:
            return np.ones(len(rows), dtype=np.bool_)
        return np.asarray(known.all(axis=1))

    def forward(self, rows: FloatArray) -> torch.Tensor:
        """Return the model's outputs, with the graph."""
        outputs: torch.Tensor = self.model(self.features(rows))
        return outputs

    def per_sample_losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return one loss per row, shape `(rows,)`, with the graph."""
        return self.loss(outputs, targets)

    def predict(self, rows: FloatArray, *, batch_size: int = 1024) -> FloatArray:
        """Return the outputs for rows of features alone or with targets, float64, in evaluation mode.

        Args:
            rows: shape `(rows, n_features)` or `(rows, n_features + n_targets)`.
            batch_size: rows at a time.
        """
        import torch

        if rows.ndim == 2 and rows.shape[1] == self.n_features:
            rows = np.hstack([rows, np.zeros((len(rows), self.n_targets))])
        training = self.model.training
        self.model.train(False)
        try:
            with torch.no_grad():
                parts = [
                    self.forward(rows[start : start + batch_size]).cpu().double().numpy()
                    for start in range(0, len(rows), batch_size)
                ]
        finally:
            self.model.train(training)
        return np.concatenate(parts) if parts else np.empty((0, *self.output_shape))

    def to_model(self, vector: FloatArray) -> torch.nn.Module:
        """Return a copy of the model with these parameters, in evaluation mode."""
        self.load(vector)
        trained = copy.deepcopy(self.model)
        return trained.train(False)

    def __repr__(self) -> str:
        return f"<TorchProgram {type(self.model).__name__}: {self.n_parameters} parameters, {self.loss.description}>"

    def _flat(self, values: Sequence[torch.Tensor | None]) -> FloatArray:
        whole, start = np.zeros(self.n_parameters), 0
        for value, (_, shape) in zip(values, self.layout, strict=True):
            stop = start + math.prod(shape)
            if value is not None:
                raw = value.detach().cpu()
                whole[start:stop] = (raw if raw.dtype.itemsize >= 4 else raw.float()).numpy().ravel()
            start = stop
        return whole

    def _check_columns(self, rows: FloatArray) -> None:
        width = self.n_features + self.n_targets
        if rows.ndim != 2 or rows.shape[1] != width:
            raise UsageError(f"the rows have shape {rows.shape}, expected (rows, {width})")

    def _probe(self) -> torch.Tensor:
        """Return what the model makes of one row, tried on zeros."""
        import torch

        self.model.train(False)
        dtype = torch.int64 if self._integer_features else self.dtype
        try:
            with torch.no_grad():
                outputs = self.model(torch.zeros((1, *self.feature_shape), dtype=dtype, device=self.device))
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise RowShapeError(
                f"the model does not take a batch of one row of features of shape {self.feature_shape}: {error}."
                " Give feature_shape= as the model wants it"
            ) from error
        finally:
            self.model.train()
        if not isinstance(outputs, torch.Tensor) or outputs.ndim == 0 or len(outputs) != 1:
            raise UsageError("the model returns no tensor with one entry per row: wrap it in a module that does")
        return outputs

    def _check_loss(self, outputs: torch.Tensor) -> None:
        """Refuse a loss that cannot be taken of what the model made of one row."""
        if self.loss.elementwise and not self.targets_fit:
            raise UsageError(
                f"the model returns shape {self.output_shape} per row for {self.n_targets} target column(s), and"
                f" {self.loss.description} sets each output against a target of its own: give the model as many outputs"
                ' as there are targets, or use loss="cross_entropy" for class numbers in one column'
            )
        target = self.targets(np.zeros((1, self.n_features + self.n_targets)))
        refuse_misfit(self.loss, outputs.nan_to_num(0.5, 0.5, 0.5), target)

    def _class_count(self) -> int:
        if not self.output_shape or math.prod(self.output_shape[1:]) != self.n_targets:
            raise UsageError(
                f"the model returns shape {self.output_shape} per row for {self.n_targets} class target(s), expected"
                " scores per class on the first axis, and as many places as targets. Where targets are one-hot, give"
                " the number of the class in one column: y.argmax(axis=1)"
            )
        if self.output_shape[0] == 1:
            raise UsageError(
                "the model returns one score per row, and of one class there is nothing to learn: give it an output for"
                ' each class, or use loss="binary_cross_entropy" for classes 0 and 1, "mse" for numbers'
            )
        return self.output_shape[0]


def _are_classes(values: FloatArray, n_classes: int) -> Any:
    return (values >= 0) & (values < n_classes) & (values == np.floor(values))


def _fingerprint(value: torch.Tensor) -> str:
    raw = value.detach().cpu()
    numbers = raw.double().numpy() if raw.is_floating_point() else raw.numpy()
    return hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()[:16]


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    import torch

    found = getattr(torch, dtype, None) if isinstance(dtype, str) and dtype in FLOATS else dtype
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UsageError(f"dtype is {dtype!r}, expected one of {', '.join(FLOATS)}")
    return found


def _device(device: str | torch.device) -> torch.device:
    import torch

    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise UsageError(f"device {device!r} cannot be used here: {error}") from error
    return found


def _check_model(model: object) -> None:
    import torch

    if not isinstance(model, torch.nn.Module):
        raise UsageError(f"model is a {type(model).__name__}, expected a torch.nn.Module")
    parameters = dict(model.named_parameters())
    for name, value in parameters.items():
        if isinstance(value, torch.nn.parameter.UninitializedParameter) or value.is_meta:
            raise UsageError(f"parameter {name!r} has no values yet: run one batch through the model first")
        if not value.is_floating_point():
            raise UsageError(f"parameter {name!r} is {value.dtype}, expected real floating-point numbers")
    check_plain(model, "the model")
    if not any(value.requires_grad for value in parameters.values()):
        raise UsageError("the model has nothing to train: no parameter requires a gradient")
