"""The pull towards an anchor: its value, its gradient, and what a training loop adds are one function."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.learners.neural.averaging.objective import Anchor

torch = pytest.importorskip("torch")


def anchor(seed: int = 0) -> Anchor:
    rng = np.random.default_rng(seed)
    return Anchor(rng.standard_normal(7), np.array([0.5, 0.0, 2.0]), np.array([4, 1, 2]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_the_gradient_is_that_of_the_value(seed: int) -> None:
    pull, vector = anchor(seed), np.random.default_rng(seed + 1).standard_normal(7)
    numeric = [(pull.value(vector + step) - pull.value(vector - step)) / 2e-6 for step in 1e-6 * np.eye(7)]
    np.testing.assert_allclose(pull.gradient(vector), numeric, atol=1e-7)


@pytest.mark.parametrize("before", [None, 3.0])
def test_a_loop_adds_that_gradient(before: float | None) -> None:
    pull, vector = anchor(), np.random.default_rng(5).standard_normal(7)
    parameters = [torch.nn.Parameter(torch.tensor(part)) for part in np.split(vector, [4, 5])]
    parameters[0].data = parameters[0].data.reshape(2, 2)
    add = pull.bind(parameters)
    for value in parameters:
        value.grad = None if before is None else torch.full_like(value, before)
    add()
    found = [np.zeros(value.numel()) if value.grad is None else value.grad.numpy().ravel() for value in parameters]
    np.testing.assert_allclose(np.concatenate(found), pull.gradient(vector) + (before or 0.0), atol=1e-14)
    with torch.no_grad():
        parameters[2] += 1.0  # it follows the parameters as they move
    parameters[2].grad = None
    add()
    np.testing.assert_allclose(parameters[2].grad.numpy(), pull.gradient(np.append(vector[:5], vector[5:] + 1.0))[5:])


def test_it_is_nothing_at_the_anchor() -> None:
    pull = anchor()
    assert pull.value(pull.weights) == 0.0
    assert not pull.gradient(pull.weights).any()


@pytest.mark.parametrize(
    ("weights", "strengths", "sizes"),
    [
        (np.zeros(3), np.ones(2), np.array([1, 1])),
        (np.zeros(3), np.ones(1), np.array([1, 2])),
        (np.zeros((3, 1)), np.ones(1), np.array([3])),
        (np.full(1, np.nan), np.ones(1), np.array([1])),
        (np.zeros(1), np.full(1, -1.0), np.array([1])),
        (np.zeros(1), np.full(1, np.inf), np.array([1])),
    ],
)
def test_what_does_not_fit_is_refused(weights, strengths, sizes) -> None:
    with pytest.raises(UsageError, match="an anchor"):
        Anchor(weights, strengths, sizes)


def test_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"the anchor has tensors of \[4, 1, 2\]"):
        anchor().bind([torch.nn.Parameter(torch.zeros(7))])
    with pytest.raises(UsageError, match="the weights have shape"):
        anchor().value(np.zeros(6))
