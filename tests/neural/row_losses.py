"""One loss per row, by the model's own Python: what learners never do with rows of somebody else."""

from __future__ import annotations

import numpy as np
import torch

from privfed.learners.neural.program import TorchProgram


def row_losses(program: TorchProgram, rows: np.ndarray) -> torch.Tensor:
    """Return losses of shape `(rows,)`, with the graph."""
    return program.per_sample_losses(program.forward(rows), program.targets(rows))
