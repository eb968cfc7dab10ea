"""A verdict needs two standard errors, of noise and of rows together."""

from __future__ import annotations

import math

import pytest

from privfed.errors import UsageError
from privfed.learners.neural.evaluation.evaluation import Measured
from privfed.transfer.check import Comparison, ModelFigures


def figures(name: str, accuracy: float, noise: float = 0.0, rows: float = 0.0) -> ModelFigures:
    return ModelFigures(name, Measured(1.0, noise), Measured(accuracy, noise), rows)


def comparison(*models: ModelFigures) -> Comparison:
    return Comparison(models, Measured(100.0, 0.0), True, None, {})


@pytest.mark.parametrize(
    ("gain", "noise", "rows", "verdict"),
    [
        (0.1, 0.03, 0.0, "better"),  # the difference of two has an error of 0.042
        (0.1, 0.04, 0.0, "undecided"),
        (0.1, 0.0, 0.04, "undecided"),
        (0.1, 0.03, 0.03, "undecided"),
        (-0.1, 0.03, 0.0, "worse"),
        (-0.1, 0.04, 0.0, "undecided"),
        (0.0, 0.0, 0.0, "undecided"),
        (math.nan, math.inf, 0.0, "undecided"),
    ],
)
def test_the_verdict(gain: float, noise: float, rows: float, verdict: str) -> None:
    found = comparison(figures("tuned", 0.5 + gain, noise, rows), figures("scratch", 0.5, noise, rows))
    assert found.verdict("scratch") == verdict
    assert found.negative_transfer is {"better": False, "worse": True, "undecided": None}[verdict]
    assert found.as_dict()["gains"]["scratch"]["verdict"] == verdict


def test_losses_are_compared_where_there_are_no_classes() -> None:
    one = ModelFigures("tuned", Measured(1.0, 0.01), None, 0.0)
    found = comparison(one, ModelFigures("source", Measured(2.0, 0.01), None, 0.0))
    assert found.gain("source").value == 1.0
    assert found.verdict("source") == "better"
    with pytest.raises(UsageError, match="no model 'scratch' was compared"):
        found.gain("scratch")
