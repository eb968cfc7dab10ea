"""Rows of which a model can make something: those whose targets are classes that it knows."""

from __future__ import annotations

from privfed.learners.neural.program import TorchProgram
from privfed.query import FloatArray

__all__ = ["usable_rows"]


def usable_rows(program: TorchProgram, rows: FloatArray) -> FloatArray:
    """Return the rows whose targets are all classes of the model; all rows of a model that gives numbers.

    Under a budget the others must count for nothing in silence, see `Query.vet`. The rows themselves are returned
    where nothing is left out.
    """
    if program.n_classes is None or len(rows) == 0:
        return rows
    known = (program.targets(rows) >= 0).reshape(len(rows), -1).all(dim=1).cpu().numpy()
    return rows if known.all() else rows[known]
