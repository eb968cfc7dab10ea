"""Models that torch may run on many records at once: chains of layers each known to treat a record by itself.

The list is short on purpose. A layer stands on it under its exact class, with settings under which no axis but a
record's own is touched, and without hooks; the chain is read off the model symbolically, and what runs on records are
the layers of the list, not the model's Python.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from privfed.errors import UsageError

if TYPE_CHECKING:
    import torch

    from privfed.learners.neural.program import TorchProgram

__all__ = ["Step", "losses_are_record_wise", "record_chain"]

# Of torch.nn, beside Linear and Flatten; in evaluation mode Dropout is the identity.
ELEMENTWISE: Final = frozenset(
    (
        *("Identity", "ReLU", "ReLU6", "LeakyReLU", "ELU", "SELU", "CELU", "GELU", "SiLU", "Mish", "Sigmoid", "Tanh"),
        *("LogSigmoid", "Softplus", "Softsign", "Hardtanh", "Hardsigmoid", "Hardswish", "Hardshrink", "Softshrink"),
        *("Tanhshrink", "Dropout"),
    )
)
FUNCTIONS: Final = ("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "selu", "leaky_relu", "softplus")
METHODS: Final = frozenset(("relu", "tanh", "sigmoid"))
BY_ELEMENT: Final = ("MSELoss", "L1Loss", "SmoothL1Loss", "HuberLoss", "BCEWithLogitsLoss")
BY_CLASS: Final = ("CrossEntropyLoss", "NLLLoss")
HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
ALIGNED: Final = 16  # numbers to which a row's length is rounded up: 64 bytes of float32
WHATEVER: Final = (Exception,)  # that a model's code may raise over a symbol in place of a tensor


@dataclass(frozen=True)
class Step:
    """One layer of a chain.

    Attributes:
        run: from the layer before to the next, a record's numbers at the same place of the first axis.
        linear: the layer whose weights it uses; None for those that have none.
    """

    run: Callable[[torch.Tensor], torch.Tensor]
    linear: torch.nn.Linear | None = None


def record_chain(model: torch.nn.Module) -> list[Step]:
    """Return the layers of a model that is a chain of listed ones: `Linear`, elementwise activations, `Flatten(1)`.

    Raises:
        UsageError: it is not.
    """
    import torch

    whole = torch.nn.Sequential(model)  # of a layer alone the symbols would show the inside
    try:
        traced = torch.fx.symbolic_trace(copy.deepcopy(whole))
    except WHATEVER as error:
        raise UsageError(f"the model is no chain of layers: {type(error).__name__}") from error
    steps: list[Step] = []
    before: Any = None
    for node in traced.graph.nodes:
        if node.op == "placeholder" and before is None:
            before = node
            continue
        if node.op == "get_attr" or node.all_input_nodes != [before] or node.args[:1] != (before,):
            raise UsageError(f"the model is no chain of layers: {node.name} does not follow from the one before alone")
        if node.op == "output":
            return steps
        step = _listed(node, whole)
        if step is None:
            raise UsageError(f"{node.name} is not on the list of layers that treat each record by itself")
        steps.append(step)
        before = node
    raise UsageError("the model is no chain of layers: it returns nothing")


def losses_are_record_wise(program: TorchProgram) -> bool:
    """Return whether the loss is one of torch's that gives each row its own number, on outputs of this shape."""
    import torch

    function = program.loss.function
    if not isinstance(function, torch.nn.Module) or not _is_plain(function):
        return False
    kind = type(function)
    if any(kind is getattr(torch.nn, name) for name in BY_CLASS):
        return program.n_classes is not None
    # Of equal shapes, and without weights: what broadcasts may reach over the axis of the rows.
    listed = any(kind is getattr(torch.nn, name) for name in BY_ELEMENT)
    return listed and program.targets_fit and not list(function.buffers())


def _is_plain(layer: torch.nn.Module) -> bool:
    """Return whether a layer does what its class says, no more."""
    import torch

    own = vars(layer)
    return not any(own.get(hooks) for hooks in HOOKS) and not any(
        name == "forward" or isinstance(value, torch.Tensor) for name, value in own.items()
    )


def _listed(node: torch.fx.Node, whole: torch.nn.Module) -> Step | None:
    """Return the step of a node if it is on the list."""
    import torch
    from torch.nn import functional

    if node.op == "call_module":
        return _layer(whole.get_submodule(str(node.target)))
    target: Any = node.target
    method, function = node.op == "call_method", node.op == "call_function"
    if {name: value for name, value in node.kwargs.items() if (name, value) != ("inplace", False)}:
        return None
    if (function and target is torch.flatten) or (method and target == "flatten"):
        return Step(_flat) if node.args[1:] == (1,) else None
    if len(node.args) > 1:
        return None
    if method:
        return Step(getattr(torch, target)) if target in METHODS else None
    allowed: list[Any] = [getattr(owner, name, None) for owner in (torch, functional) for name in FUNCTIONS]
    return Step(target) if function and any(one is target for one in allowed) else None


def _layer(layer: Any) -> Step | None:
    import torch

    kind = type(layer)
    if not _is_plain(layer):
        return None
    if kind is torch.nn.Linear:
        return Step(_linear(layer), layer)
    if kind is torch.nn.Flatten:
        return Step(_flat) if (layer.start_dim, layer.end_dim) == (1, -1) else None
    if any(kind is getattr(torch.nn, name) for name in ELEMENTWISE):
        own: Any = copy.deepcopy(layer).train(False)
        if hasattr(own, "inplace"):
            own.inplace = False  # outputs of linear layers are looked at afterwards
        return Step(own.forward)
    return None


def _flat(rows: torch.Tensor) -> torch.Tensor:
    return rows.reshape(len(rows), -1)


def _linear(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a linear layer on flat rows that all begin at a multiple of 64 bytes, zeros behind them.

    Kernels treat rows by how they lie in memory: with 3969 columns only every fourth row came out to the same bits.
    """
    from torch.nn import functional

    extra = -layer.in_features % ALIGNED

    def run(rows: torch.Tensor) -> torch.Tensor:
        if rows.ndim != 2:
            raise UsageError("a linear layer is not applied to flat rows: its gradients are no outer products")
        if not extra:
            return functional.linear(rows, layer.weight, layer.bias)
        return functional.linear(functional.pad(rows, (0, extra)), functional.pad(layer.weight, (0, extra)), layer.bias)

    return run
