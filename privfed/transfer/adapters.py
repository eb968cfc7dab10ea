"""Low-rank adapters whose one half is fixed and public, so that averaging them is averaging the model.

A layer's weight becomes W + (scale) B A. If clients trained A and B both, the mean of their products would not be the
product of their means; with A the same at everybody, it is. Noise, too, then enters once instead of squared.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.learners.neural.averaging.parameter_names import matches, patterns_of
from privfed.learners.neural.losses import require_torch

if TYPE_CHECKING:
    import torch

__all__ = ["adapter_class", "merge_adapters", "with_adapters", "with_new_head"]

_MADE: dict[str, Any] = {}


def adapter_class() -> type[torch.nn.Module]:
    """Return the module `LowRankAdapter(base, rank, scale, seed)`: a linear or convolutional layer with an adapter.

    Its parts are plain layers, so that gradients per sample are found for it: `base` and `down` (A, with rows that are
    orthonormal, drawn from the seed) are frozen, `up` (B) starts at zero and is trained.

    Raises:
        UsageError: torch is missing.

    Sources: Hu et al. 2021, LoRA, arXiv:2106.09685; with A frozen: Sun, Li, Liu and Ling 2024, arXiv:2403.12313.
    """
    if not _MADE:
        _MADE["class"] = _defined()
    made: type[torch.nn.Module] = _MADE["class"]
    return made


def _defined() -> type[torch.nn.Module]:
    require_torch()
    import torch
    from torch import nn

    class LowRankAdapter(nn.Module):
        """See `adapter_class`."""

        def __init__(self, base: nn.Linear | nn.Conv2d, rank: int, scale: float, seed: int) -> None:
            super().__init__()
            self.rank, self.scale, self.seed = rank, scale, seed
            self.base = copy.deepcopy(base).requires_grad_(False)
            place: dict[str, Any] = {"device": base.weight.device, "dtype": base.weight.dtype}
            if isinstance(base, nn.Linear):
                self.down: Any = nn.Linear(base.in_features, rank, bias=False, **place)
                self.up: Any = nn.Linear(rank, base.out_features, bias=False, **place)
            else:
                names = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
                same = {name: getattr(base, name) for name in names}
                self.down = nn.Conv2d(base.in_channels, rank, bias=False, **same, **place)
                self.up = nn.Conv2d(rank, base.out_channels, kernel_size=1, bias=False, **place)
            with torch.no_grad():
                self.down.weight.copy_(_orthonormal(self.down.weight.shape, seed))
                self.up.weight.zero_()
            self.down.requires_grad_(False)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            outputs: torch.Tensor = self.base(inputs) + self.scale * self.up(self.down(inputs))
            return outputs

        def merged(self) -> nn.Module:
            """Return a plain layer that computes the same."""
            layer = copy.deepcopy(self.base).requires_grad_(True)
            up, down = self.up.weight.detach(), self.down.weight.detach()
            product = up.flatten(1) @ down.flatten(1)
            with torch.no_grad():
                layer.weight.add_(self.scale * product.view_as(layer.weight))
            return layer

        def extra_repr(self) -> str:
            return f"rank={self.rank}, scale={self.scale:g}, seed={self.seed}"

    return LowRankAdapter


def _orthonormal(shape: torch.Size, seed: int) -> torch.Tensor:
    """Return `shape[0]` orthonormal rows (as flat vectors), from a public seed."""
    import torch

    rows, columns = shape[0], math.prod(shape[1:])
    draws = torch.randn(columns, rows, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    basis, triangle = torch.linalg.qr(draws)
    rows_of_basis: torch.Tensor = (basis * torch.sign(torch.diagonal(triangle))).T.reshape(shape)
    return rows_of_basis


def with_adapters(
    model: torch.nn.Module,
    layers: str | Iterable[str] = "*",
    *,
    rank: int = 4,
    scale: float = 1.0,
    seed: int = 0,
    also_train: str | Iterable[str] = (),
) -> torch.nn.Module:
    """Return a copy of `model` in which linear and convolutional layers have adapters, and only those are trained.

    Args:
        model: torch module; stays as it is.
        layers: patterns of layer names that get one, such as "encoder.*".
        rank: of every adapter, >= 1; layers whose smaller side is not above it are left out.
        scale: factor of the adapter's product, > 0.
        seed: of the frozen halves; public, the same at every client.
        also_train: patterns of parameter names that stay trainable beside the adapters, such as a fresh "head.*";
            layers that they match wholly get no adapter.

    Raises:
        UsageError: torch is missing, or no layer matches.
    """
    require_torch()
    from torch import nn

    adapter = adapter_class()
    rank, scale = checked_integer("rank", rank, least=1), checked_number("scale", scale)
    wanted, also = patterns_of(layers), patterns_of(also_train)
    adapted = copy.deepcopy(model)
    for name, value in adapted.named_parameters():
        value.requires_grad_(matches(name, also))
    found = 0
    for name, module in list(adapted.named_modules()):
        if not isinstance(module, nn.Linear | nn.Conv2d) or not matches(name, wanted) or not name:
            continue
        grouped = isinstance(module, nn.Conv2d) and module.groups != 1
        trained = any(value.requires_grad for value in module.parameters())
        if grouped or trained or min(module.weight.shape[0], math.prod(module.weight.shape[1:])) <= rank:
            continue
        parent, _, last = name.rpartition(".")
        setattr(adapted.get_submodule(parent), last, adapter(module, rank, scale, seed + found))
        found += 1
    if not found:
        raise UsageError(
            f"no linear or convolutional layer with more than {rank} inputs and outputs matches {list(wanted)}: lower"
            " rank=, or name other layers"
        )
    return adapted


def merge_adapters(model: torch.nn.Module) -> torch.nn.Module:
    """Return a copy of `model` with every adapter folded into its layer: the architecture it had before, all trainable.

    The outputs are the same up to rounding.
    """
    adapter = adapter_class()
    merged = copy.deepcopy(model)
    for name, module in list(merged.named_modules()):
        if isinstance(module, adapter):
            parent, _, last = name.rpartition(".")
            folded: Any = module
            setattr(merged.get_submodule(parent), last, folded.merged())
    return merged.requires_grad_(True)


def with_new_head(model: torch.nn.Module, n_outputs: int, *, random_state: int = 0) -> torch.nn.Module:
    """Return a copy of `model` whose last linear layer is a new one with `n_outputs` outputs, from a public seed.

    A head of other classes is worse than none: it starts out sure of the wrong answers.

    Raises:
        UsageError: torch is missing, or the model's last layer with parameters is not linear.
    """
    require_torch()
    import torch

    fresh = copy.deepcopy(model)
    owners = [(name, part) for name, part in fresh.named_modules() if list(part.parameters(recurse=False))]
    name, last = owners[-1] if owners else ("", None)
    if not isinstance(last, torch.nn.Linear) or not name:
        raise UsageError(
            f"the last layer with parameters is a {type(last).__name__}, expected a torch.nn.Linear inside the model:"
            " put the new head in yourself"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(checked_integer("random_state", random_state, least=0, most=2**32 - 1))
        head = torch.nn.Linear(
            last.in_features, checked_integer("n_outputs", n_outputs, least=1), bias=last.bias is not None
        )
    parent, _, own = name.rpartition(".")
    setattr(fresh.get_submodule(parent), own, head.to(device=last.weight.device, dtype=last.weight.dtype))
    return fresh
