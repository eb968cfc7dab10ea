"""What a model computes on ONE record, written down as torch's own operations. Its Python never sees a record.

Sums over records are private only if what a record adds hangs on that record alone. Python code could break that in
many ways: statistics of a batch, an attribute that outlives a call, a hook, a loss that mixes rows, a rule of its own
for batches. So a model and its loss run once, on a record of zeros, while torch notes every operation. The note is a
straight list of operations on tensors: no attributes, no branches, nothing that is written and read later. Records go
through the note alone, many at a time by `torch.func.vmap`, which gives each its own run.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from privfed.errors import UsageError
from privfed.learners.neural.losses import is_plain

if TYPE_CHECKING:
    import torch

__all__ = ["UntraceableError", "record_graph", "vmapped", "with_model"]

REFUSED: Final = "the model or its loss cannot be held to one record at a time: "
WHATEVER: Final = (Exception,)  # what code of somebody's own raises over zeros, or torch over what it cannot note
# New memory without values, by the operator that fills it with zeros; others that see what they were not given.
ZEROED: Final = {
    "aten::empty.memory_format": "zeros.default",
    "aten::empty_like": "zeros_like.default",
    "aten::new_empty": "new_zeros.default",
}
BEYOND: Final = frozenset(
    (
        *(
            "empty",
            "empty_like",
            "new_empty",
            "empty_strided",
            "new_empty_strided",
            "empty_permuted",
        ),  # other overloads
        *("resize", "resize_", "resize_as", "resize_as_", "_resize_output", "_resize_output_", "set", "set_"),
        *("_unsafe_index", "_unsafe_index_put", "_unsafe_masked_index", "_unsafe_masked_index_put_accumulate"),
    )
)
BY_VALUE: Final = "_local_scalar_dense"  # the operation behind float(tensor), bool(tensor) and .item()


class UntraceableError(UsageError):
    """The computation is no fixed list of torch's operations on one record; nothing was asked of anybody."""


def record_graph(make: Callable[[], Callable[..., Any]], *examples: Any) -> torch.fx.GraphModule:
    """Return the function that `make` gives as a list of torch's operations.

    Args:
        make: returns the function on a copy of all that it could change: it is called once per attempt.
        examples: its arguments, public: tensors, or tuples of them, of one record. Shapes and dtypes count.

    Guarantees:
        What comes back runs no code but torch's own operators. It writes to nothing that outlives a call, draws no
        random numbers and takes the same steps whatever its arguments hold.

    Raises:
        UntraceableError: the function decides by the numbers of a record, writes to a buffer, draws at random, uses
            operators that are not torch's own, or fails on the examples.
    """
    import torch
    from torch.fx.experimental.proxy_tensor import make_fx

    trouble: Exception | None = None
    for attempt in (torch.func.functionalize, lambda function: function):  # custom gradients are known to the second
        try:
            graph = make_fx(attempt(make()))(*examples)
        except WHATEVER as error:
            trouble = error
            continue
        problem = _problem(graph)
        if problem:
            raise UntraceableError(REFUSED + problem)
        return _enclosed(graph)
    raise UntraceableError(REFUSED + _explained(trouble)) from trouble


def vmapped(graph: torch.fx.GraphModule, *, shared: int) -> Callable[..., Any]:
    """Return the graph over blocks of records: its first `shared` arguments are for all, the others one per record.

    A block of one goes through the graph as it is: faster, and there are operations that torch cannot batch.
    """
    import torch

    def over(*arguments: Any) -> Any:
        if len(arguments[-1]) == 1:
            found = graph(*arguments[:shared], *(one[0] for one in arguments[shared:]))
            return found[None] if isinstance(found, torch.Tensor) else [part[None] for part in found]
        places = (None,) * shared + (0,) * (len(arguments) - shared)
        return torch.func.vmap(graph, in_dims=places, randomness="error")(*arguments)

    return over


def with_model(model: torch.nn.Module) -> Callable[[tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
    """Return a copy of the model as a function: (trained parameters, one record without its axis) -> outputs, one row.

    The copy is in evaluation mode; what is not trained is part of it.
    """
    import torch

    own = copy.deepcopy(model).train(False)
    names = [name for name, value in own.named_parameters() if value.requires_grad]
    for value in own.parameters():
        value.requires_grad_(False)

    def outputs(parameters: tuple[torch.Tensor, ...], record: torch.Tensor) -> torch.Tensor:
        given = dict(zip(names, parameters, strict=True))
        found: torch.Tensor = torch.func.functional_call(own, given, (record[None],))
        return found

    return outputs


def _problem(graph: torch.fx.GraphModule) -> str:
    """Return what is wrong with a note, in words; empty if nothing is."""
    import torch

    for node in graph.graph.nodes:
        if node.op == "get_attr" and not is_plain(getattr(graph, str(node.target), None)):
            return f"{node.target} is a tensor with code of its own. Use torch.Tensor itself"
        if node.op in ("placeholder", "output", "get_attr") or node.target is operator.getitem:
            continue
        if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace not in ("aten", "prim"):
            return f"{node.target} is no operator of torch's own. Write it with those that torch has"
        if _name(node.target) not in ZEROED and _plain(node).removeprefix("aten::") in BEYOND:
            return f"{_plain(node)} reads memory that nobody wrote. Use torch.zeros and ordinary indexing"
        if torch.Tag.nondeterministic_seeded in node.target.tags:
            return f"{_plain(node)} draws random numbers. Take random layers out"
        for place, argument in enumerate(node.target._schema.arguments):
            written = argument.alias_info is not None and argument.alias_info.is_write
            if written and _outlives(node.args[place] if place < len(node.args) else node.kwargs.get(argument.name)):
                return (
                    f"{_plain(node)} writes to a buffer or to another tensor that outlives the call, which would carry"
                    " one record to the next. Let the model keep nothing of what it sees"
                )
    return ""


def _outlives(found: Any) -> bool:
    """Return whether a value, or what it is a view of, was there before the call."""
    while isinstance(found, list | tuple) and found:
        found = found[0]
    while getattr(found, "op", "") == "call_function":
        returns = getattr(getattr(found.target, "_schema", None), "returns", ())
        view = found.target is operator.getitem or any(one.alias_info is not None for one in returns)
        if not view:
            return False
        found = found.args[0]
        while isinstance(found, list | tuple) and found:
            found = found[0]
    return True


def _enclosed(graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    """Return the graph so that a call reaches no memory but its own.

    What comes in, and what stays from call to call, is copied first: a write that no schema tells of goes to the copy,
    and strides beyond a record end with it. New memory begins with zeros, not with what another record left there.
    Views copy where a block lies otherwise in memory than one record did.
    """
    import torch

    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.op in ("placeholder", "get_attr"):
            readers = list(node.users)
            with graph.graph.inserting_after(node):
                copied = graph.graph.call_function(aten.clone.default, (node,))
            for reader in readers:
                reader.replace_input_with(node, copied)
        elif node.op == "call_function" and node.target is aten.view.default:
            node.target = aten.reshape.default
        elif node.op == "call_function" and _name(node.target) in ZEROED:
            packet, overload = ZEROED[_name(node.target)].split(".")
            node.target = getattr(getattr(aten, packet), overload)
            node.kwargs = {key: value for key, value in node.kwargs.items() if key != "memory_format"}
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _name(operator_: Any) -> str:
    """Return an operator's name with its overload, as in `aten::empty.memory_format`."""
    schema = getattr(operator_, "_schema", None)
    return "" if schema is None else schema.name + (f".{schema.overload_name}" if schema.overload_name else "")


def _plain(node: torch.fx.Node) -> str:
    return str(getattr(node.target, "_schema", node.target)).partition("(")[0].partition(".")[0]


def _explained(error: Exception | None) -> str:
    text = str(error).strip()
    if BY_VALUE in text:
        return (
            "Python code decides by the numbers of a record (an if, a loop, float() or .item() of a tensor). Use"
            " torch.where, clamp or a mask, so that every record takes the same steps"
        )
    if "mutate a captured Tensor" in text or "mutating a non-functional tensor" in text:
        return (
            "it writes to a buffer or to another tensor that outlives the call, which would carry one record to the"
            " next. Let the model keep nothing of what it sees"
        )
    return f"on a record of zeros it fails with {type(error).__name__}: {text.partition(chr(10))[0][:300]}"
