"""Gradients per sample, clipped and summed: three ways, which agree, and a probe that picks one.

A record's clipped gradient has to be the same bits wherever the record stands and whatever stands beside it: only then
is the sum's sensitivity the clip. Rows are evaluated in blocks of one fixed shape, padded with rows of zeros, and
`steady` sees on public numbers that a row comes out alike at every place of such a block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar, Final

from privfed.errors import UsageError
from privfed.learners.neural.program import TorchProgram

if TYPE_CHECKING:
    import torch

__all__ = ["Functional", "Outer", "RowByRow", "RowGradients", "clip_factors", "steady"]

MOST_NUMBERS: Final = 2**23  # of a block's gradients, kept in float64: 64 MiB
LARGEST_BLOCK: Final = 64  # beyond it nothing is gained
OUTER_BLOCK: Final = 256  # no gradients are formed: matrix products may be larger
ALIGNED: Final = 16  # numbers to which a row's length is rounded up: 64 bytes of float32
UNIT_ROUNDOFF: Final = 2.0**-53
WHATEVER: Final = (Exception,)  # that a model may raise over a row


class RowGradients(ABC):
    """One way to sum the clipped gradients of a block of rows.

    Args:
        program: the model and its loss; `load` has set its parameters.
        model: what takes the inputs: the program's model, or what follows its fixed features.
        block: rows at a time, every evaluation has this shape; None for the engine's own choice.
    """

    name: ClassVar[str]

    def __init__(self, program: TorchProgram, model: torch.nn.Module, block: int | None = None) -> None:
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
    """A whole gradient per row by torch.func: any model whose operations torch can batch."""

    name = "functional"

    def __init__(self, program: TorchProgram, model: torch.nn.Module, block: int | None = None) -> None:
        import torch

        super().__init__(program, model, block)
        self._trained = [(name, value) for name, value in model.named_parameters() if value.requires_grad]

        def loss(parameters: dict[str, torch.Tensor], row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            outputs = torch.func.functional_call(model, parameters, (row[None],))
            return program.per_sample_losses(outputs, target[None])[0]

        self._gradients = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0), randomness="error")

    def gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return each parameter's gradients, shape `(block, size)`, in the order of the program's layout."""
        found = self._gradients({name: value.detach() for name, value in self._trained}, inputs, targets)
        return [found[name].reshape(len(inputs), -1) for name, _ in self._trained]

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
    """One row after the other, by ordinary backward passes: slow, for what torch cannot batch."""

    name = "row_by_row"

    def gradients(self, inputs: torch.Tensor, targets: torch.Tensor) -> list[torch.Tensor]:
        """Return each parameter's gradients, shape `(block, size)`."""
        import torch

        values = [value for _, value in self._trained]
        rows = []
        for row, target in zip(inputs, targets, strict=True):
            loss = self.program.per_sample_losses(self.model(row[None]), target[None])[0]
            found = torch.autograd.grad(loss, values, allow_unused=True)
            rows.append([torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)])
        return [torch.stack([row[i].reshape(-1) for row in rows]) for i in range(len(values))]


class Outer(RowGradients):
    """Linear layers on flat rows: a row's gradient is an outer product, clipped and summed without being formed.

    With activations a and the loss's derivatives g at a layer's output, a row's gradient is g a' for the weight and g
    for the bias, of squared length |g|^2 (|a|^2 + 1). The sum over rows of f g a' is one matrix product, in float64: a
    row's entry in it is a single product, so that nothing cancels within a row. (Goodfellow 2015, arXiv:1510.01799.)
    For softmax regression g = p - y, and the factor is clip / (|p - y| |(x, 1)|).

    Raises:
        UsageError: trained parameters are not all those of linear layers.
    """

    name = "outer"

    def __init__(self, program: TorchProgram, model: torch.nn.Module, block: int | None = None) -> None:
        super().__init__(program, model, block)
        self._layers = _outer_layers(model)

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
        seen: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {id(layer): [] for layer in self._layers}

        def hook(module: torch.nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
            seen[id(module)].append((given[0].detach(), made))

        handles = [layer.register_forward_hook(hook) for layer in self._layers]
        try:
            with _aligned(self._layers):
                losses = self.program.per_sample_losses(self.model(inputs), targets)
        finally:
            for handle in handles:
                handle.remove()
        if any(len(calls) != 1 or calls[0][0].ndim != 2 for calls in seen.values()):
            raise UsageError("a linear layer is not applied once to flat rows: its gradients are no outer products")
        pairs = [calls[0] for calls in seen.values()]
        return [a for a, _ in pairs], [*(output for _, output in pairs), losses]


@contextmanager
def _aligned(layers: list[torch.nn.Linear]) -> Iterator[None]:
    """Let linear layers of an odd width see rows that all begin at a multiple of 64 bytes, zeros behind them.

    Kernels treat rows by how they lie in memory: with 3969 columns only every fourth row came out to the same bits.
    """
    from torch.nn import functional

    def forward_of(layer: torch.nn.Linear, extra: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def forward(rows: torch.Tensor) -> torch.Tensor:
            weight = functional.pad(layer.weight, (0, extra))
            return functional.linear(functional.pad(rows, (0, extra)), weight, layer.bias)

        return forward

    odd = [(layer, -layer.in_features % ALIGNED) for layer in layers if layer.in_features % ALIGNED]
    for layer, extra in odd:
        layer.__dict__["forward"] = forward_of(layer, extra)  # before the class's own, for this call only
    try:
        yield
    finally:
        for layer, _ in odd:
            del layer.__dict__["forward"]


def _outer_layers(model: torch.nn.Module) -> list[torch.nn.Linear]:
    import torch

    layers = [
        module
        for module in model.modules()
        if type(module) is torch.nn.Linear and any(value.requires_grad for value in module.parameters())
    ]
    held = {id(value) for layer in layers for value in layer.parameters()}
    if any(value.requires_grad and id(value) not in held for value in model.parameters()):
        raise UsageError("layers other than linear ones are trained: their gradients are no outer products")
    return layers


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
    if any(not torch.equal(part, part[:1].expand_as(part)) for part in alone):
        return False
    beside = [1 + places % (count - 1)] + ([count + places % wild] if wild else [])
    for place in sorted({0, 1 % block, block // 3, block // 2, block - 1}):
        for others in beside:
            which = others.clone()
            which[place] = 0
            made = found(which)
            if made and any(not torch.equal(part[place], one[0]) for part, one in zip(made, alone, strict=True)):
                return False
    for number in range(1, count + wild if block == 1 else 1):
        found(places + number)
    return all(torch.equal(part, one) for part, one in zip(parts(places * 0), alone, strict=True))
