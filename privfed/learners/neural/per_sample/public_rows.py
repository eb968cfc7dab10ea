"""Rows that belong to nobody, on which a model is tried before it sees anybody's: of a kind that the model takes.

Ordinary random numbers do for most models. Numbers of words have to be whole and not negative, a logarithm wants what
is positive: so several kinds are gone through, and the first is taken on which loss and gradients are finite.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from privfed.query import FloatArray

if TYPE_CHECKING:
    from privfed.learners.neural.program import TorchProgram

__all__ = ["KINDS", "PublicRows", "on_cpu", "public_rows"]

KINDS: Final = ("normal", "digits", "bits", "positive", "ones", "zeros")  # tried in this order
SEED: Final = 20_181_231
TRIED: Final = 16  # rows of each kind
WILD: Final = 1e6  # times their size: rows that stand beside others, which are to stay as they are
WHATEVER: Final = (Exception,)  # that a model or a loss may raise over rows that do not suit it


class PublicRows:
    """Which public rows suit a program: the same answer wherever the same program is.

    Args:
        program: stays as it is; a copy of it is tried, on the CPU.

    Attributes:
        kind: one of `KINDS`: standard normal numbers, whole numbers from 0 to 9, or from 0 to 1, numbers in [0.5, 1.5],
            ones, zeros.
        suits: whether loss and gradients are finite on such rows. If they are on none, the kind is one on which the
            loss is finite, or at least nothing is raised, where there is one.
        finite: whether the loss is.
        wild: whether the model also takes such rows `WILD` times as large.
        trouble: what went wrong with standard normal numbers; empty if nothing did.
    """

    def __init__(self, program: TorchProgram) -> None:
        self._program = program
        trial = on_cpu(program)
        found: list[int] = []
        self.trouble = ""
        for kind in KINDS:
            rank, trouble = _rank(trial, self._rows(kind, TRIED))
            found.append(rank)
            self.trouble = self.trouble or trouble
            if rank == 3:
                break
        self.kind = KINDS[found.index(max(found))]
        self.suits, self.finite = max(found) == 3, max(found) >= 2
        self.wild = _rank(trial, self._rows(self.kind, TRIED) * self._scale(WILD))[0] > 0

    def make(self, count: int, *, wild: int = 0) -> FloatArray:
        """Return `count` rows, and `wild` more, which are `WILD` times as large where the model takes such rows."""
        rows = self._rows(self.kind, count + wild)
        if self.wild:
            rows[count:] *= self._scale(WILD)
        return rows

    def _scale(self, factor: float) -> FloatArray:
        """Return what multiplies each column: targets stay."""
        program = self._program
        return np.array([factor] * program.n_features + [1.0] * program.n_targets)

    def _rows(self, kind: str, count: int) -> FloatArray:
        numbers, program = np.random.default_rng(SEED), self._program
        features = numbers.standard_normal((count, program.n_features))
        if kind == "digits":
            features = np.floor(np.abs(features) * 4.0).clip(max=9.0)
        elif kind == "bits":
            features = (features > 0).astype(np.float64)
        elif kind == "positive":
            features = 0.5 + np.abs(np.sin(features))
        elif kind in ("ones", "zeros"):
            features = np.full_like(features, float(kind == "ones"))
        targets = numbers.integers(0, program.n_classes or 2, (count, program.n_targets))
        return np.hstack([features, targets.astype(np.float64)])


def public_rows(program: TorchProgram, count: int, *, wild: int = 0) -> FloatArray:
    """Return rows that suit the program, targets that exist included; see `PublicRows`.

    Args:
        program: whose rows.
        count: ordinary rows.
        wild: further rows behind these, of great size where the model takes them.
    """
    found: PublicRows = program.derived(PublicRows)
    return found.make(count, wild=wild)


def _rank(program: TorchProgram, rows: FloatArray) -> tuple[int, str]:
    """Return how far rows get: 3 finite losses and gradients, 2 finite losses, 1 something, 0 nothing; and what ailed.

    The model's own Python runs: the rows are public, and the program is a copy for this alone.
    """
    import torch

    rank = 0
    try:
        program.load(program.parameters())  # buffers as they were, for a model that writes to them
        program.model.train(False)
        losses = program.per_sample_losses(program.forward(rows), program.targets(rows))
        rank = 1
        if not bool(torch.isfinite(losses).all()):
            return rank, "the loss is not finite"
        rank = 2
        values = [value for _, value in program.trainable()]
        gradients = torch.autograd.grad(losses.sum(), values, allow_unused=True)
    except WHATEVER as error:
        return rank, f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:300]}"
    if all(part is None or bool(torch.isfinite(part).all()) for part in gradients):
        return 3, ""
    return rank, "the gradients are not finite"


def on_cpu(program: TorchProgram) -> TorchProgram:
    """Return a copy to try things on: a number beyond a table of words would bring a GPU down for good."""
    import torch

    own = program.fresh()
    own.device = torch.device("cpu")
    own.model.to("cpu")
    if hasattr(own.loss.function, "to"):
        own.loss.function.to("cpu")
    return own
