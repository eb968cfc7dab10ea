"""The rotation keeps norms and inner products, comes back, flattens, and is the signed Hadamard matrix it says."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import hadamard

from privfed.errors import UsageError
from privfed.mechanism.rotation import MAX_BLOCK, Rotation, block_length

DIMENSIONS = st.one_of(st.integers(1, 70), st.integers(1, 5000), st.sampled_from([65_535, 65_536, 70_001, 200_000]))
SEEDS = st.binary(min_size=32, max_size=32)


def matrix(rotation: Rotation) -> npt.NDArray[np.float64]:
    """The whole map, column by column."""
    return np.stack([rotation.apply(unit) for unit in np.eye(rotation.dimension)], axis=1)


@pytest.mark.parametrize("dimension", [1, 2, 7, 16, 31, 64, 100, 128])
def test_map_is_the_hadamard_matrix_with_signs(dimension: int) -> None:
    rotation = Rotation(dimension, b"s" * 32)
    block = rotation.block
    whole = np.kron(np.eye(rotation.length // block), hadamard(block)) / math.sqrt(block)
    rotated = matrix(rotation)
    signs = np.sign(rotated[::block].sum(axis=0))  # the first row of each block of H is all ones
    assert set(signs) <= {-1.0, 1.0}
    np.testing.assert_allclose(rotated, whole[:, :dimension] * signs, atol=1e-15)
    np.testing.assert_allclose(rotated.T @ rotated, np.eye(dimension), atol=1e-14)


@given(dimension=DIMENSIONS, seed=SEEDS, random=st.integers(0, 2**32), spread=st.floats(0, 6))
def test_norm_is_kept_and_the_inverse_comes_back(dimension: int, seed: bytes, random: int, spread: float) -> None:
    generator = np.random.default_rng(random)
    vector = generator.normal(size=dimension) * np.exp(spread * generator.normal(size=dimension))
    rotation = Rotation(dimension, seed)
    before = vector.copy()
    rotated = rotation.apply(vector)
    norm = math.sqrt(math.fsum(vector**2))
    assert (vector == before).all()
    assert abs(math.sqrt(math.fsum(rotated**2)) - norm) <= 1.01 * rotation.error * norm
    back = rotation.invert(rotated)
    assert back.shape == vector.shape
    assert math.sqrt(math.fsum((back - vector) ** 2)) <= 2.01 * rotation.error * norm


@given(dimension=st.integers(1, 3000), random=st.integers(0, 2**32))
def test_single_precision_stays_single_and_within_its_error(dimension: int, random: int) -> None:
    vector = np.random.default_rng(random).normal(size=dimension)
    rotation = Rotation(dimension, bytes(32))
    single = rotation.apply(vector.astype(np.float32))
    assert single.dtype == rotation.invert(single).dtype == np.float32
    norm = float(np.linalg.norm(vector))
    error = rotation.apply(vector.astype(np.float32).astype(np.float64)) - single
    assert np.linalg.norm(error) <= rotation.error * 2**29 * norm
    assert np.linalg.norm(rotation.invert(single) - vector) <= 3 * rotation.error * 2**29 * norm


@given(block_bits=st.integers(0, 6), random=st.integers(0, 2**32))
def test_integers_are_rotated_exactly_where_the_scale_is_a_power_of_two(block_bits: int, random: int) -> None:
    # In blocks of 4^m every operation is exact for small integers, and so are norm and inverse.
    rotation = Rotation(4**block_bits, bytes(32))
    vector = np.random.default_rng(random).integers(-1000, 1000, size=rotation.dimension).astype(np.float64)
    rotated = rotation.apply(vector)
    assert sum(Fraction(float(x)) ** 2 for x in rotated) == sum(int(x) ** 2 for x in vector)
    assert (rotation.invert(rotated) == vector).all()


@given(dimension=st.integers(1, 4000), random=st.integers(0, 2**32))
def test_rotation_commutes_with_sums(dimension: int, random: int) -> None:
    one, other = np.random.default_rng(random).normal(size=(2, dimension))
    rotation = Rotation(dimension, bytes(32))
    total = rotation.apply(one) + rotation.apply(other)
    np.testing.assert_allclose(rotation.invert(total), one + other, atol=1e-13)


@pytest.mark.parametrize("dimension", [4096, 65_536, 100_000])
def test_the_worst_vector_becomes_flat(dimension: int) -> None:
    # All length in one coordinate: afterwards none holds more than 1/sqrt(B).
    rotation = Rotation(dimension, bytes(32))
    unit = np.zeros(dimension)
    unit[dimension // 2] = 1.0
    rotated = rotation.apply(unit)
    assert np.abs(rotated).max() <= 1 / math.sqrt(rotation.block) * (1 + 1e-14)
    assert np.count_nonzero(rotated) == rotation.block


def test_signs_flatten_what_the_hadamard_matrix_alone_would_not() -> None:
    # The all-ones vector is a row of H: without signs it would become one huge coordinate. With them, nearly Gaussian.
    rotation = Rotation(65_536, b"\x07" * 32)
    rotated = rotation.apply(np.ones(65_536))
    assert abs(rotated.var() - 1) < 0.03
    assert np.abs(rotated).max() < 6
    assert abs((rotated**4).mean() - 3) < 0.2


def test_seeds_give_different_signs_and_one_seed_always_the_same() -> None:
    vector = np.arange(1.0, 1001.0)
    same, again, other = (Rotation(1000, seed).apply(vector) for seed in (bytes(32), bytes(32), b"\x01" + bytes(31)))
    assert (same == again).all()
    assert abs(np.corrcoef(same, other)[0, 1]) < 0.2
    # Pinned: all parties must agree across versions.
    assert Rotation(8, bytes(32)).apply(np.arange(8.0) * math.sqrt(8)).round(9).tolist() == PINNED


PINNED = [-22.0, 6.0, 6.0, -6.0, 22.0, 2.0, -2.0, -6.0]


@given(dimension=st.integers(1, 2**22))
def test_blocks_are_long_and_padding_is_short(dimension: int) -> None:
    block = block_length(dimension)
    length = -(-dimension // block) * block
    assert block == MAX_BLOCK or -(-dimension // (2 * block)) * 2 * block > dimension * (1 + 1 / 16)
    assert length <= dimension * (1 + 1 / 16)
    assert block & (block - 1) == 0
    assert dimension < 2**16 or block >= 2**12


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Rotation(0, bytes(32)), "dimension is 0"),
        (lambda: Rotation(5, bytes(16)), "16 bytes, expected 32"),
        (lambda: Rotation(5, bytes(32)).apply(np.zeros(6)), r"shape \(6,\) .* expected \(5,\)"),
        (lambda: Rotation(17, bytes(32)).invert(np.zeros(16)), r"expected \(18,\)|expected \(17,\)"),
        (lambda: Rotation(5, bytes(32)).apply(np.zeros(5, dtype=np.int64)), "int64"),  # type: ignore[type-var]
    ],
)
def test_misuse_is_refused(call: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        call()
