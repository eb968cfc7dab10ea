"""Training at one client: from everybody's parameters to its own, on its own rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Self, get_args

import numpy as np
import numpy.typing as npt

from privfed.errors import UsageError, checked_integer, checked_number
from privfed.learners.neural.averaging.objective import Anchor, LocalObjective
from privfed.learners.neural.program import TorchProgram
from privfed.query import FloatArray

if TYPE_CHECKING:
    import torch

__all__ = ["LocalOptimizer", "LocalTraining", "Trained", "batches", "effective_steps", "proximal_term", "train"]

LocalOptimizer = Literal["sgd", "adam", "adamw"]
SEED_LIMIT: Final = 2**63
LARGEST_EPOCHS: Final = 100_000


@dataclass(frozen=True)
class LocalTraining:
    """How every client trains in a round.

    Args:
        learning_rate: > 0.
        epochs: passes over the rows, >= 1.
        batch_size: rows per step, >= 1; 0 takes all of them in one step.
        optimizer: "sgd", "adam" or "adamw", as torch has them; their state does not outlive the round.
        momentum: of "sgd", in [0, 1).
        weight_decay: >= 0.
    """

    learning_rate: float
    epochs: int = 1
    batch_size: int = 32
    optimizer: LocalOptimizer = "sgd"
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "learning_rate", checked_number("learning_rate", self.learning_rate))
        epochs = checked_integer("local_epochs", self.epochs, least=1, most=LARGEST_EPOCHS)
        object.__setattr__(self, "epochs", epochs)
        object.__setattr__(self, "batch_size", checked_integer("batch_size", self.batch_size, least=0))
        if self.optimizer not in get_args(LocalOptimizer):
            raise UsageError(f"optimizer is {self.optimizer!r}, expected one of {', '.join(get_args(LocalOptimizer))}")
        for name, limit in (("momentum", 1.0), ("weight_decay", 1e100)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < limit:
                raise UsageError(f"{name} is {value!r}, expected a number in [0, {limit:g})")
            object.__setattr__(self, name, float(value))
        if self.momentum and self.optimizer != "sgd":
            raise UsageError(
                f"momentum is {self.momentum}, but {self.optimizer!r} has moments of its own: leave it out"
            )

    def as_fields(self) -> tuple[Any, ...]:
        """Return the settings as queries carry them."""
        return astuple(self)

    @classmethod
    def from_fields(cls, fields: tuple[Any, ...]) -> Self:
        """Undo `as_fields`.

        Raises:
            UsageError: what a server sent is no setting.
        """
        if not isinstance(fields, tuple) or len(fields) != 6:
            raise UsageError(f"local training by {fields!r}, expected its six settings")
        return cls(*fields)

    def steps(self, n_rows: int) -> int:
        """Return how many steps a client of so many rows takes."""
        size = self.batch_size or max(n_rows, 1)
        return self.epochs * -(-n_rows // size)


@dataclass(frozen=True)
class Trained:
    """What local training led to.

    Attributes:
        delta: parameters after less parameters before, float64; NaN or infinity where training diverged.
        steps: optimiser steps taken.
    """

    delta: FloatArray
    steps: int


def batches(n_rows: int, training: LocalTraining, seed: int) -> Iterator[npt.NDArray[np.int64]]:
    """Yield the rows of every step: each epoch its own permutation, in runs of `batch_size`, the last one shorter.

    A full batch is taken in the rows' own order.

    Args:
        n_rows: rows of the client; none makes no steps.
        training: whose `epochs` and `batch_size` count.
        seed: public; the same for the same permutations.
    """
    order = np.random.default_rng(seed)
    size = training.batch_size
    for _ in range(training.epochs if n_rows else 0):
        if size == 0 or size >= n_rows:
            yield np.arange(n_rows)
            continue
        permutation = order.permutation(n_rows)
        for start in range(0, n_rows, size):
            yield permutation[start : start + size]


def train(
    program: TorchProgram,
    start: FloatArray,
    rows: FloatArray,
    training: LocalTraining,
    *,
    seed: int,
    objectives: Sequence[LocalObjective] = (),
    shift: FloatArray | None = None,
) -> Trained:
    """Train the program's model from `start` on `rows`; each step goes down the mean loss of its batch.

    The same arguments give the same result on the same machine, layers that draw at random (dropout) included; torch's
    own generators are left as they were.

    Args:
        program: whose model is used, and left with the trained parameters.
        start: float64 of shape `(n_parameters,)`.
        rows: of features and targets; none leaves the parameters as they are.
        training: the settings.
        seed: of the order of rows and of layers that draw at random, in [0, 2^63).
        objectives: terms of the objective beside the rows' loss.
        shift: added to the gradient at every step, float64 of shape `(n_parameters,)`: SCAFFOLD's correction.
    """
    import torch

    program.load(start)
    before = program.parameters()
    steps = 0
    if len(rows):
        features, targets = program.features(rows), program.targets(rows)
        values = [value for _, value in program.trainable()]
        pulls = [objective.bind(values) for objective in objectives]
        shifts = None if shift is None else program.split(shift)
        optimizer = _optimizer(values, training)
        with _seeded(program, seed):
            for chosen in batches(len(rows), training, seed):
                for value in values:
                    value.grad = None
                if len(chosen) == len(rows):
                    losses = program.per_sample_losses(program.model(features), targets)
                else:
                    index = torch.from_numpy(chosen)
                    losses = program.per_sample_losses(program.model(features[index]), targets[index])
                losses.mean().backward()  # type: ignore[no-untyped-call]  # torch's own lack of a type
                for pull in pulls:
                    pull()
                if shifts is not None:
                    _add(values, shifts)
                optimizer.step()
                steps += 1
    return Trained(program.parameters() - before, steps)


def proximal_term(program: TorchProgram, start: FloatArray, strength: float) -> Anchor:
    """Return FedProx's term `strength / 2 |w - start|^2` (Li, Sahu et al. 2020, arXiv:1812.06127, equation 2)."""
    sizes = np.array([value.numel() for _, value in program.trainable()], dtype=np.int64)
    return Anchor(start, np.full(len(sizes), strength / 2.0), sizes)


def effective_steps(steps: int, training: LocalTraining, proximal: float = 0.0) -> float:
    """Return `|a|_1`, how many plain steps the client's `steps` steps amount to.

    Wang, Liu, Liang, Joshi and Poor 2020 (FedNova, arXiv:2007.07481), section 4: the local change is `-eta` times a sum
    of gradients with weights a; here for SGD with momentum (as torch has it) and a proximal term. Worked out by running
    the recursion on gradients that are all 1, whose sum is that of the weights. NaN where the proximal term is so
    strong that the weights are none.
    """
    moved, velocity = 0.0, 0.0
    if not training.momentum and not proximal:
        return float(steps)
    for _ in range(steps):
        velocity = training.momentum * velocity + 1.0 - training.learning_rate * proximal * moved
        moved += velocity
        if not 0.0 < moved < math.inf:  # mu eta is above 1: the weights alternate, and steps stand for nothing
            return math.nan
    return moved


class _Descent:
    """Stochastic gradient descent as torch.optim.SGD does it, without its cost per step: a third of a small model's."""

    def __init__(self, values: list[torch.nn.Parameter], training: LocalTraining) -> None:
        self._values = values
        self._training = training
        self._velocities: list[torch.Tensor | None] = [None] * len(values)

    def step(self) -> None:
        import torch

        training = self._training
        with torch.no_grad():
            for place, value in enumerate(self._values):
                change = value.grad
                if change is None:
                    continue
                if training.weight_decay:
                    change = change.add(value, alpha=training.weight_decay)
                if training.momentum:
                    velocity = self._velocities[place]
                    change = change.clone() if velocity is None else velocity.mul_(training.momentum).add_(change)
                    self._velocities[place] = change
                value.add_(change, alpha=-training.learning_rate)


def _optimizer(values: list[torch.nn.Parameter], training: LocalTraining) -> _Descent | torch.optim.Optimizer:
    if training.optimizer == "sgd":
        return _Descent(values, training)
    import torch

    made = torch.optim.Adam if training.optimizer == "adam" else torch.optim.AdamW
    return made(values, lr=training.learning_rate, weight_decay=training.weight_decay)


def _add(values: list[torch.nn.Parameter], shifts: list[torch.Tensor]) -> None:
    for value, part in zip(values, shifts, strict=True):
        if value.grad is None:
            value.grad = part.clone()
        else:
            value.grad.add_(part)


@contextmanager
def _seeded(program: TorchProgram, seed: int) -> Iterator[None]:
    """Let torch draw from `seed`; afterwards its generators go on as if nothing had been."""
    import torch

    with torch.random.fork_rng(devices=[program.device] if program.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield
