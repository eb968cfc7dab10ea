"""What a client adds to the loss of its own rows while it trains: a pull towards weights that everybody knows.

Local training minimises `L_k(w) + sum_j strength_j |w_j - anchor_j|^2`, j over the tensors of the model. With the
source model as the anchor that is L2-SP; anchor and strengths are public and travel with the query, as data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from privfed.errors import UsageError
from privfed.query import FloatArray, frozen_array

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Anchor", "LocalObjective"]


class LocalObjective(Protocol):
    """A term of the local objective beside the loss of the rows; it depends on the weights alone."""

    def bind(self, parameters: Sequence[Tensor]) -> Callable[[], None]:
        """Return a function that adds this term's gradient at the parameters' present values to their `.grad`.

        Args:
            parameters: the trainable tensors, in the order of the model's layout; they are changed in place by the
                training loop, which calls the function once after each `backward()`.
        """
        ...

    def value(self, vector: FloatArray) -> float:
        """Return the term at the flat weights `vector`, float64 of shape `(p,)`."""
        ...


@dataclass(frozen=True, eq=False)
class Anchor:
    """`sum_j strength_j |w_j - weights_j|^2` over tensors j: L2-SP, the prox to a source model.

    Without a factor of one half: the gradient is `2 strength_j (w_j - weights_j)`. FedProx's `mu/2 |w - w_t|^2` is the
    same with `strength = mu / 2` and the round's own start as the anchor.

    Args:
        weights: the point that pulls, float64 of shape `(p,)`, finite; in the order of the model's layout.
        strengths: how hard, one number >= 0 per tensor of the layout, float64 of shape `(tensors,)`.
        sizes: coordinates of each tensor, int64 of shape `(tensors,)`; they add up to p.

    Sources:
        Li, Grandvalet and Davoine 2018, Explicit inductive bias for transfer learning with convolutional networks,
        arXiv:1802.01483, equation 2; Li, Sahu et al. 2020, FedProx, arXiv:1812.06127.

    Examples:
        >>> anchor = Anchor(np.zeros(3), strengths=np.array([1.0, 0.5]), sizes=np.array([1, 2]))
        >>> anchor.value(np.array([2.0, 1.0, 1.0]))
        5.0
        >>> anchor.gradient(np.array([2.0, 1.0, 1.0])).tolist()
        [4.0, 1.0, 1.0]
    """

    weights: FloatArray
    strengths: FloatArray
    sizes: np.ndarray[tuple[int, ...], np.dtype[np.int64]]

    def __post_init__(self) -> None:
        weights, strengths = frozen_array(self.weights), frozen_array(self.strengths)
        sizes = np.array(self.sizes, dtype=np.int64)
        sizes.setflags(write=False)
        if weights.ndim != 1 or strengths.ndim != 1 or sizes.shape != strengths.shape or sizes.sum() != weights.size:
            raise UsageError(
                f"an anchor has weights {weights.shape}, strengths {strengths.shape} and sizes that add up to"
                f" {int(sizes.sum())}: expected one strength per tensor and sizes that add up to the weights"
            )
        if not (np.isfinite(weights).all() and np.isfinite(strengths).all() and (strengths >= 0).all()):
            raise UsageError("an anchor's weights must be finite, its strengths finite and at least 0")
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "strengths", strengths)
        object.__setattr__(self, "sizes", sizes)

    def value(self, vector: FloatArray) -> float:
        """Return the penalty at the flat weights `vector`."""
        return float(np.repeat(self.strengths, self.sizes) @ np.square(self._moved(vector)))

    def gradient(self, vector: FloatArray) -> FloatArray:
        """Return the penalty's gradient at the flat weights `vector`, float64 of shape `(p,)`."""
        return np.asarray(2.0 * np.repeat(self.strengths, self.sizes) * self._moved(vector))

    def bind(self, parameters: Sequence[Tensor]) -> Callable[[], None]:
        """Return a function that adds the penalty's gradient to the `.grad` of `parameters`; see `LocalObjective`.

        Raises:
            UsageError: the tensors are not of the anchor's sizes.
        """
        import torch

        sizes = [parameter.numel() for parameter in parameters]
        if sizes != self.sizes.tolist():
            raise UsageError(f"the anchor has tensors of {self.sizes.tolist()} coordinates, the model {sizes}")
        parts = np.split(self.weights, np.cumsum(self.sizes)[:-1])
        pulls = [
            (parameter, torch.tensor(part, dtype=parameter.dtype, device=parameter.device).view_as(parameter), strength)
            for parameter, part, strength in zip(parameters, parts, self.strengths.tolist(), strict=True)
            if strength > 0.0
        ]

        def add() -> None:
            with torch.no_grad():
                for parameter, anchor, strength in pulls:
                    moved = parameter.detach() - anchor
                    if parameter.grad is None:
                        parameter.grad = moved.mul_(2.0 * strength)
                    else:
                        parameter.grad.add_(moved, alpha=2.0 * strength)

        return add

    def _moved(self, vector: FloatArray) -> FloatArray:
        if np.shape(vector) != self.weights.shape:
            raise UsageError(f"the weights have shape {np.shape(vector)}, the anchor {self.weights.shape}")
        return np.asarray(np.asarray(vector, dtype=np.float64) - self.weights)
