"""What is trained when: stages of fine-tuning, and how hard each layer is held near its source."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from privfed.errors import UsageError, checked_integer
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.parameter_names import matches, patterns_of, refuse_unmatched
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["Stage", "anchor_for", "freeze_all_but", "gradual_unfreezing", "head_of", "layers_of", "strengths_of"]

Proximal = float | Mapping[str, float]


@dataclass(frozen=True)
class Stage:
    """Some rounds in which some parameters are trained and the others are frozen.

    Args:
        rounds: >= 1.
        trainable: patterns of parameter names, such as "head.*"; "*" for all.

    A stage of other parameters is another model to the clients, so that server optimisers and adaptive clip norms start
    anew with it.
    """

    rounds: int
    trainable: tuple[str, ...] = ("*",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "rounds", checked_integer("rounds of a stage", self.rounds, least=1))
        patterns = patterns_of(self.trainable)
        if not patterns:
            raise UsageError("a stage trains nothing: name patterns of parameters, such as 'head.*' or '*'")
        object.__setattr__(self, "trainable", patterns)


def layers_of(model: torch.nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that hold parameters of their own, in the order of the model, the head last."""
    named = (name for name, module in model.named_modules() if list(module.parameters(recurse=False)))
    return tuple(named)


def head_of(model: torch.nn.Module) -> str:
    """Return the pattern of the parameters of the last layer that has any.

    Raises:
        UsageError: the model has no parameters.
    """
    layers = layers_of(model)
    if not layers:
        raise UsageError("the model has no parameters, hence no head")
    return f"{layers[-1]}.*" if layers[-1] else "*"


def gradual_unfreezing(
    model: torch.nn.Module, rounds: int, *, stages: int | None = None, head: str | Iterable[str] | None = None
) -> tuple[Stage, ...]:
    """Return stages that unfreeze a model from its head downwards, each with about as many rounds as the others.

    Args:
        model: torch module.
        rounds: in all, >= stages.
        stages: how many; None for one per layer that has parameters, as far as the rounds go. The last trains all.
        head: patterns of the first stage; None for the last layer.

    Source: Howard and Ruder 2018, ULMFiT, arXiv:1801.06146, section 3.3.
    """
    rounds = checked_integer("rounds", rounds, least=1)
    first = patterns_of(head_of(model) if head is None else head)
    held = {name for name, _ in model.named_parameters() if matches(name, first)}
    others = [name for name in layers_of(model) if not _own(model, name) <= held]
    count = min(1 + len(others), rounds) if stages is None else checked_integer("stages", stages, least=1, most=rounds)
    lengths = [len(part) for part in np.array_split(np.arange(rounds), count)]
    groups = np.array_split(np.array(others[::-1], dtype=object), max(count - 1, 1)) if count > 1 else []
    made, patterns = [], first
    for index, length in enumerate(lengths):
        if index:
            patterns = (*patterns, *(f"{name}.*" if name else "*" for name in groups[index - 1]))
        last = index == count - 1
        made.append(Stage(length, ("*",) if last else patterns))
    return tuple(made)


def freeze_all_but(model: torch.nn.Module, patterns: Iterable[str], among: Iterable[str]) -> None:
    """Let only parameters that match a pattern be trained, out of those named `among`.

    Raises:
        UsageError: nothing is left to train.
    """
    wanted, allowed = tuple(patterns), set(among)
    for name, value in model.named_parameters():
        value.requires_grad_(name in allowed and matches(name, wanted))
    if not any(value.requires_grad for value in model.parameters()):
        names = ", ".join(sorted(allowed))
        raise UsageError(f"no parameter's name matches {list(wanted)}, there are {names}")


def strengths_of(names: Iterable[str], proximal: Proximal) -> FloatArray:
    """Return the strength of the pull on each named parameter, float64.

    Args:
        names: of parameters.
        proximal: lambda for all, >= 0, or pattern -> lambda, the first match counts, those without one are free.

    Raises:
        UsageError: a strength is no number >= 0, or a pattern matches nothing.
    """
    names = tuple(names)
    rules = proximal if isinstance(proximal, Mapping) else {"*": proximal}
    for pattern, strength in rules.items():
        real = isinstance(strength, int | float | np.number) and not isinstance(strength, bool)
        if not real or not 0.0 <= float(strength) < np.inf:
            raise UsageError(f"proximal strength of {pattern!r} is {strength!r}, expected a finite number >= 0")
        refuse_unmatched("proximal", (pattern,), names)
    return np.array(
        [next((float(rules[one]) for one in rules if matches(name, (one,))), 0.0) for name in names], dtype=np.float64
    )


def anchor_for(
    model: torch.nn.Module, source: Mapping[str, FloatArray], strengths: Mapping[str, float]
) -> Anchor | None:
    """Return the pull on the trainable parameters of `model` towards `source`; None where there is none.

    Args:
        model: whose layout the anchor has.
        source: parameter name -> values to stay near.
        strengths: parameter name -> lambda.
    """
    names = [name for name, value in model.named_parameters() if value.requires_grad]
    if not any(strengths.get(name, 0.0) > 0 for name in names):
        return None
    return Anchor(
        np.concatenate([source[name].ravel() for name in names]),
        np.array([strengths.get(name, 0.0) for name in names]),
        np.array([source[name].size for name in names], dtype=np.int64),
    )


def _own(model: torch.nn.Module, layer: str) -> set[str]:
    own = model.get_submodule(layer).named_parameters(recurse=False)
    return {f"{layer}.{name}" if layer else name for name, _ in own}
