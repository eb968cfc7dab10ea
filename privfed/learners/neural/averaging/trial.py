"""One step of training on rows that belong to nobody: what cannot train is found before anything is asked or spent."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Final

from privfed.errors import UsageError
from privfed.learners.neural.averaging.local import LocalTraining, train
from privfed.learners.neural.per_sample.public_rows import on_cpu, public_rows
from privfed.learners.neural.program import TorchProgram

__all__ = ["refuse_untrainable"]

ROWS: Final = 2
WHATEVER: Final = (Exception,)  # that a model or a loss of somebody's own may raise


def refuse_untrainable(program: TorchProgram, training: LocalTraining) -> None:
    """Refuse a model or a loss that raises an error in a step of training, whatever the rows are.

    At a client it would add zeros, a budget would pay for them, and only the client's own log would say so. Numbers
    that are not finite pass: rows of somebody's may suit the model better. See `public_rows` for what is tried.

    Args:
        program: stays as it is; a copy is trained, on the CPU.
        training: of which one step is done.

    Raises:
        UsageError: with what the model or its loss raised.
    """
    rows = public_rows(program, ROWS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            train(on_cpu(program), program.parameters(), rows, replace(training, epochs=1, batch_size=0), seed=0)
    except WHATEVER as error:
        text = str(error).strip().partition("\n")[0][:300]
        raise UsageError(
            f"the model cannot be trained: on {ROWS} rows of numbers that are nobody's a step of training raised"
            f" {type(error).__name__}: {text}. Let model and loss work, in training mode, on rows that are random,"
            " whole, or positive numbers, ones, or zeros"
        ) from error
