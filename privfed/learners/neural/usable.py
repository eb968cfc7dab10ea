"""Rows of which a model can make something: those whose targets its loss knows."""

from __future__ import annotations

from privfed.learners.neural.program import TorchProgram
from privfed.query import FloatArray

__all__ = ["usable_rows"]


def usable_rows(program: TorchProgram, rows: FloatArray) -> FloatArray:
    """Return the rows whose targets the loss knows, see `TorchProgram.known_targets`.

    Under a budget the others must count for nothing in silence, see `Query.vet`. The rows themselves are returned
    where nothing is left out.
    """
    known = program.known_targets(rows)
    return rows if known.all() else rows[known]
