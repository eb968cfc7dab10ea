"""Gradients per sample, clipped and summed: three ways, which agree, and a probe that picks one.

A record's clipped gradient has to be the same bits wherever the record stands and whatever stands beside it: only then
is the sum's sensitivity the clip. That no record has a say in another's gradient holds by construction: what runs on
records is a list of layers that are known to keep them apart, or a note of what the model computes on one record alone
(`record_chain`, `record_graph`). The bits are another matter, since kernels round by how a batch lies in memory: rows
are evaluated in blocks of one fixed shape, padded with rows of zeros, and `steady` sees on public numbers that a row
comes out alike at every place of such a block.
"""

from __future__ import annotations

import copy
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Final, TypeAlias

from privfed.errors import UsageError
from privfed.learners.neural.per_sample.record_chain import losses_are_record_wise, record_chain
from privfed.learners.neural.per_sample.record_graph import record_graph, vmapped, with_model
from privfed.learners.neural.program import TorchProgram

if TYPE_CHECKING:
    import torch

Record: TypeAlias = "tuple[torch.Tensor, torch.Tensor]"

__all__ = ["Functional", "Outer", "RowByRow", "RowGradients", "clip_factors", "steady"]

MOST_NUMBERS: Final = 2**23  # of a block's gradients, kept in float64: 64 MiB
LARGEST_BLOCK: Final = 64  # beyond it nothing is gained
OUTER_BLOCK: Final = 256  # no gradients are formed: matrix products may be larger
UNIT_ROUNDOFF: Final = 2.0**-53
WHATEVER: Final = (Exception,)  # that a model may raise over a row


class RowGradients(ABC):
    """One way to sum the clipped gradients of a block of rows.

    Args:
        program: the model and its loss; `load` has set its parameters.
        model: what takes the inputs: the program's model, or what follows its fixed features.
        record: inputs and target of one record, public, without the axis that counts records.
        block: rows at a time, every evaluation has this shape; None for the engine's own choice.
    """

    name: ClassVar[str]

    def __init__(self, program: TorchProgram, model: torch.nn.Module, record: Record, block: int | None = None) -> None:
        self.program = program
        self.model = model
        self.block = self.usual_block(program) if block is None else block

    @classmethod
    def usual_block(cls, program: TorchProgram) -> int:
        """Return a power of two, so that the gradients of a block fit the processor's caches."""
        fits = max(1, MOST_NUMBERS // program.n_parameters)
        return min(LARGEST_BLOCK, 1 << (fits.bit_length() - 1))

    @abstractmethod
    def clipped(
        self, inputs: torch.Tensor, targets: torch.Tensor, usable: torch.Tensor, clip: float
    ) -> tuple[torch.Tensor, ...]:
        """Return what the sum over the block is made of, row by row, its last part the factors of `clip`.

        Args:
            inputs: shape `(block, ...)`, what the model, or the trained part of it, takes.
            targets: shape `(block, ...)`.
            usable: shape `(block,)`, False for padding and for rows that count as zero.
            clip: L2 norm that no row's gradient exceeds.
        """

    @abstractmethod
    def total(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the sum over the block of what `clipped` gave, float64 of shape `(n_parameters,)`."""


class Functional(RowGradients):
    """A whole gradient per row by torch.func, of what the model was seen to compute on one record.

    Raises:
        UntraceableError: that cannot be written down, see `record_graph`.
    """

    name = "functional"

    def __init__(self, program: TorchProgram, model: torch.nn.Module, record: Record, block: int | None = None) -> None:
        super().__init__(program, model, record, block)
        self._values = [value for value in model.parameters() if value.requires_grad]
        self._graph = _gradient_graph(program, model, record)
        self._block_graph = vmapped(self._graph, shared=1)

    def gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return each parameter's gradients, shape `(block, size)`, in the order of the program's layout."""
        found = self._block_graph(self._parameters(), inputs, targets)
        return [part.reshape(len(inputs), -1) for part in found]

    def _parameters(self) -> tuple[torch.Tensor, ...]:
        return tuple(value.detach() for value in self._values)

    def clipped(
        self, inputs: torch.Tensor, targets: torch.Tensor, usable: torch.Tensor, clip: float
    ) -> tuple[torch.Tensor, ...]:
        """Return the gradients of each parameter in float64, and each row's factor."""
        import torch

        gradients = [part.double() for part in self.gradients(inputs, targets)]
        squares = sum((_squared(part) for part in gradients), start=torch.zeros(()).double().to(inputs.device))
        factors = clip_factors(squares, usable, clip, terms=self.program.n_parameters)
        dead = factors == 0.0
        if bool(dead.any()):
            gradients = [part.masked_fill(dead[:, None], 0.0) for part in gradients]
        return (*gradients, factors)

    def total(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the sum of factor times gradient, in float64."""
        import torch

        *gradients, factors = parts
        return torch.cat([factors @ part for part in gradients])


class RowByRow(Functional):
    """One row after the other: slow, for what torch cannot batch, or not to the same bits."""

    name = "row_by_row"

    def gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return each parameter's gradients, shape `(block, size)`."""
        import torch

        parameters = self._parameters()
        rows = [self._graph(parameters, row, target) for row, target in zip(inputs, targets, strict=True)]
        return [torch.stack([row[i].reshape(-1) for row in rows]) for i in range(len(parameters))]


class Outer(RowGradients):
    """Linear layers on flat rows: a row's gradient is an outer product, clipped and summed without being formed.

    With activations a and the loss's derivatives g at a layer's output, a row's gradient is g a' for the weight and g
    for the bias, of squared length |g|^2 (|a|^2 + 1). The sum over rows of f g a' is one matrix product, in float64: a
    row's entry in it is a single product, so that nothing cancels within a row. (Goodfellow 2015, arXiv:1510.01799.)
    For softmax regression g = p - y, and the factor is clip / (|p - y| |(x, 1)|).

    Raises:
        UsageError: the model is no chain of listed layers, see `record_chain`, or one is trained that is not linear.
    """

    name = "outer"

    def __init__(self, program: TorchProgram, model: torch.nn.Module, record: Record, block: int | None = None) -> None:
        super().__init__(program, model, record, block)
        self._steps = record_chain(model)
        self._layers = [step.linear for step in self._steps if step.linear is not None and _trains(step.linear)]
        held = [id(value) for layer in self._layers for value in layer.parameters()]
        trained = {id(value) for value in model.parameters() if value.requires_grad}
        if len(set(held)) < len(held) or not trained <= set(held):
            raise UsageError("trained parameters are not those of linear layers, each once: no outer products")
        self._losses = _losses(program, record[1])

    @classmethod
    def usual_block(cls, program: TorchProgram) -> int:
        """Return more rows than other engines: no gradients are formed."""
        return OUTER_BLOCK

    def clipped(
        self, inputs: torch.Tensor, targets: torch.Tensor, usable: torch.Tensor, clip: float
    ) -> tuple[torch.Tensor, ...]:
        """Return activations and derivatives, layer by layer, and each row's factor."""
        import torch

        activations, outputs = self._run(inputs, targets)
        derivatives = torch.autograd.grad(outputs[-1].sum(), outputs[:-1], allow_unused=True)
        squares, terms = torch.zeros(len(inputs), dtype=torch.float64, device=inputs.device), 0
        pairs: list[torch.Tensor] = []
        for layer, a, output, found in zip(self._layers, activations, outputs[:-1], derivatives, strict=True):
            g = torch.zeros_like(output) if found is None else found
            length = _squared(a) if layer.weight.requires_grad else 0.0
            squares = squares + _squared(g) * (length + float(layer.bias is not None and layer.bias.requires_grad))
            terms += a.shape[1] + g.shape[1]
            pairs += [a, g]
        factors = clip_factors(squares, usable, clip, terms=terms)
        dead = factors == 0.0
        if bool(dead.any()):
            pairs = [part.masked_fill(dead[:, None], 0.0) for part in pairs]
        return (*pairs, factors)

    def total(self, parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Return the sum of factor times outer product, in float64, in the order of the program's layout."""
        import torch

        *pairs, factors = parts
        sums: dict[int, torch.Tensor] = {}
        for number, layer in enumerate(self._layers):
            a, g = pairs[2 * number], pairs[2 * number + 1].double() * factors[:, None]
            if layer.weight.requires_grad:
                sums[id(layer.weight)] = (g.T @ a.double()).reshape(-1)
            if layer.bias is not None:
                sums[id(layer.bias)] = g.sum(dim=0)
        whole: torch.Tensor = torch.cat([sums[id(value)] for value in self.model.parameters() if value.requires_grad])
        return whole

    def _run(self, inputs: torch.Tensor, targets: torch.Tensor) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Return the layers' inputs, and their outputs with the rows' losses as the last."""
        activations, outputs, rows = [], [], inputs
        for step in self._steps:
            before, rows = rows, step.run(rows)
            if step.linear is not None and _trains(step.linear):
                activations.append(before.detach())
                outputs.append(rows)
        return activations, [*outputs, self._losses(rows, targets)]


def _trains(layer: torch.nn.Module) -> bool:
    return any(value.requires_grad for value in layer.parameters())


_GRADIENTS: weakref.WeakKeyDictionary[torch.nn.Module, Any] = weakref.WeakKeyDictionary()


def _gradient_graph(program: TorchProgram, model: torch.nn.Module, record: Record) -> Any:
    """Return (trained parameters, one record, its target) -> gradient of the record's loss, as a list of operations."""
    import torch

    if model in _GRADIENTS:
        return _GRADIENTS[model]

    def make() -> Callable[..., Any]:
        outputs, losses = with_model(model), copy.deepcopy(program.loss)

        def loss(parameters: tuple[torch.Tensor, ...], row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            return losses(outputs(parameters, row), target[None])[0]

        return torch.func.grad(loss)

    parameters = tuple(value.detach() for value in model.parameters() if value.requires_grad)
    return _GRADIENTS.setdefault(model, record_graph(make, parameters, *record))


def _losses(program: TorchProgram, target: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what gives each row of outputs its loss, no row having a say in another's."""
    import torch

    if losses_are_record_wise(program):
        return program.per_sample_losses

    def make() -> Callable[..., Any]:
        losses = copy.deepcopy(program.loss)
        return lambda outputs, target: losses(outputs[None], target[None])[0]

    outputs = torch.zeros(program.output_shape, dtype=program.dtype, device=program.device)
    return vmapped(record_graph(make, outputs, target), shared=0)


def clip_factors(squares: torch.Tensor, usable: torch.Tensor, clip: float, *, terms: int) -> torch.Tensor:
    """Return by what each row's gradient is multiplied: at most 1, the product's norm at most `clip`; 0 if it counts as
    nothing, because it is unusable or not finite.

    Args:
        squares: squared norms, float64 of shape `(block,)`.
        usable: shape `(block,)`.
        clip: > 0.
        terms: of each squared norm's sum; its rounding is counted for, as in `privfed.mechanism.clip`.
    """  # fmt: skip
    import torch

    slack = (terms + 8) * UNIT_ROUNDOFF
    upper = squares.sqrt() * (1.0 + slack)
    factors = torch.where(upper > clip, clip / upper * (1.0 - 3.0 * slack), torch.ones_like(upper))
    found: torch.Tensor = factors.masked_fill(~(usable & torch.isfinite(upper)), 0.0)
    return found


def _squared(rows: torch.Tensor) -> torch.Tensor:
    """Return each row's squared norm, summed in float64 whatever the rows are."""
    import torch

    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return norms.square()


def steady(parts: Callable[[torch.Tensor], tuple[torch.Tensor, ...]], block: int, count: int, *, wild: int = 0) -> bool:
    """Return whether a row comes out to the same bits at every place of a block, whatever stands beside it or went
    before: as far as public rows can show. A model that takes pains to hide that it mixes rows is not found out.

    Args:
        parts: from the numbers of `block` public rows, to tensors whose first axis counts these rows.
        block: rows at a time.
        count: how many ordinary public rows there are, at least two.
        wild: how many public rows of great size come behind these; a model may fail on them.
    """  # fmt: skip
    import torch

    def found(which: torch.Tensor) -> tuple[torch.Tensor, ...] | None:
        try:
            return parts(which)
        except WHATEVER:  # such rows are evaluated alone, and count as nothing
            if bool((which < count).all()):
                raise
            return None

    places = torch.arange(block)
    alone = parts(places * 0)
    if any(not _same(part, part[:1].expand_as(part)) for part in alone):
        return False
    beside = [1 + places % (count - 1)] + ([count + places % wild] if wild else [])
    for place in sorted({0, 1 % block, block // 3, block // 2, block - 1}):
        for others in beside:
            which = others.clone()
            which[place] = 0
            made = found(which)
            if made and any(not _same(part[place], one[0]) for part, one in zip(made, alone, strict=True)):
                return False
    for number in range(1, count + wild if block == 1 else 1):
        found(places + number)
    return all(_same(part, one) for part, one in zip(parts(places * 0), alone, strict=True))


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors hold the same numbers, NaN in the same places."""
    return bool(((one == other) | (one.isnan() & other.isnan())).all())
