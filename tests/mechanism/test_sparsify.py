"""Random-k: the same choice everywhere, uniform, unbiased, and never longer than the vector."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.special import chdtrc

from privfed.errors import UsageError
from privfed.mechanism.sparsify import RandomK

Vector = npt.NDArray[np.float64]
SEEDS = st.binary(min_size=32, max_size=32)
VECTORS = hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e6, 1e6))


def seed(number: int) -> bytes:
    return number.to_bytes(32, "big")


@given(dimension=st.integers(1, 500), seed=SEEDS, data=st.data())
def test_k_different_coordinates_in_order_always_the_same(dimension: int, seed: bytes, data: st.DataObject) -> None:
    keep = data.draw(st.integers(1, dimension))
    chosen = RandomK(dimension, keep, seed).coordinates()
    assert len(chosen) == keep
    assert 0 <= chosen[0] <= chosen[-1] < dimension
    assert (np.diff(chosen) > 0).all()
    assert (chosen == RandomK(dimension, keep, seed).coordinates()).all()


def test_choice_is_pinned() -> None:
    # All parties must agree across versions.
    assert RandomK(1000, 5, bytes(32)).coordinates().tolist() == PINNED


PINNED = [200, 241, 310, 750, 946]


def test_every_set_of_coordinates_is_as_likely() -> None:
    counts = dict.fromkeys(combinations(range(6), 3), 0)
    for number in range(10_000):
        counts[tuple(int(i) for i in RandomK(6, 3, seed(number)).coordinates())] += 1
    expected = 10_000 / len(counts)
    assert chdtrc(len(counts) - 1, sum((count - expected) ** 2 / expected for count in counts.values())) > 1e-6


@given(one=VECTORS, seed=SEEDS, data=st.data())
def test_no_distance_grows(one: Vector, seed: bytes, data: st.DataObject) -> None:
    other = data.draw(hnp.arrays(np.float64, len(one), elements=st.floats(-1e6, 1e6)))
    choice = RandomK(len(one), data.draw(st.integers(1, len(one))), seed)
    difference = choice.sparsify(one) - choice.sparsify(other)
    assert math.sqrt(math.fsum(difference**2)) <= math.sqrt(math.fsum((one - other) ** 2)) * (1 + 1e-12)
    assert math.fsum(np.abs(difference)) <= math.fsum(np.abs(one - other)) * (1 + 1e-12)


def test_sensitivity_is_attained_when_the_difference_is_kept() -> None:
    choice = RandomK(100, 10, bytes(32))
    vector = np.zeros(100)
    vector[choice.coordinates()[3]] = 5.0
    assert np.linalg.norm(choice.sparsify(vector)) == 5.0


def test_estimate_is_unbiased_and_its_variance_is_as_stated() -> None:
    vector = np.random.default_rng(1).normal(size=20)
    estimates = np.stack(
        [RandomK(20, 5, seed(i)).densify(RandomK(20, 5, seed(i)).sparsify(vector)) for i in range(8000)]
    )
    deviation = np.sqrt(3 * vector**2 / 8000)  # d/k - 1 = 3
    assert (np.abs(estimates.mean(axis=0) - vector) < 5 * deviation).all()
    assert ((estimates - vector) ** 2).sum(axis=1).mean() == pytest.approx(3 * (vector**2).sum(), rel=0.05)


@given(vector=VECTORS, seed=SEEDS)
def test_all_coordinates_kept_is_the_identity(vector: Vector, seed: bytes) -> None:
    choice = RandomK(len(vector), len(vector), seed)
    assert (choice.densify(choice.sparsify(vector)) == vector).all()


def test_sums_commute_and_types_are_kept() -> None:
    choice = RandomK(50, 20, bytes(32))
    one, other = np.random.default_rng(2).normal(size=(2, 50)).astype(np.float32)
    total = choice.sparsify(one) + choice.sparsify(other)
    assert total.dtype == choice.densify(total).dtype == np.float32
    np.testing.assert_allclose(
        choice.densify(total), choice.densify(choice.sparsify(one)) + choice.densify(choice.sparsify(other)), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: RandomK(5, 0, bytes(32)), "keep is 0"),
        (lambda: RandomK(5, 6, bytes(32)), "keep is 6, expected 1 to the dimension 5"),
        (lambda: RandomK(5, 2, bytes(31)), "31 bytes"),
        (lambda: RandomK(5, 2, bytes(32)).sparsify(np.zeros(4)), r"shape \(4,\), expected \(5,\)"),
        (lambda: RandomK(5, 2, bytes(32)).densify(np.zeros(5)), r"shape \(5,\), expected \(2,\)"),
    ],
)
def test_misuse_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
