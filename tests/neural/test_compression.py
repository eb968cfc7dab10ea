from __future__ import annotations

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.federation.memory import StagedMemory
from privfed.learners.neural.averaging.compression import Compression, Compressor

LAYOUT = (("body.weight", (6, 3, 2)), ("body.bias", (6,)), ("head.weight", (4, 15)), ("head.bias", (4,)), ("t", ()))
LENGTH = 36 + 6 + 60 + 4 + 1


def seed_of(number: int) -> bytes:
    return hashlib.sha256(str(number).encode()).digest()


def matrix_of(compressor: Compressor, seed: bytes) -> np.ndarray:
    """The linear map, column by column, by a client that remembers nothing."""
    return np.stack([compressor.compress(unit, seed, {}) for unit in np.eye(compressor.length)], axis=1)


settings_of = st.builds(
    Compression,
    parameters=st.sampled_from([None, ("head.*",), ("*.bias", "t"), ("body.weight", "head.weight")]),
    rank=st.sampled_from([None, 1, 2, 7, 50]),
    keep=st.floats(0.01, 1.0),
    error_feedback=st.booleans(),
)


@settings(max_examples=40, deadline=None)
@given(setting=settings_of, number=st.integers(0, 10**6))
def test_it_is_a_linear_map_with_singular_values_of_one(setting, number) -> None:
    """Orthonormal rows: sums commute with it, and no norm or distance grows."""
    compressor, seed = setting.over(LAYOUT), seed_of(number)
    matrix = matrix_of(compressor, seed)
    assert matrix.shape == (compressor.compressed_length, LENGTH)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(len(matrix)), atol=1e-12)
    deltas = np.random.default_rng(number).standard_normal((3, LENGTH))
    short = sum(compressor.compress(delta, seed, {}) for delta in deltas)
    np.testing.assert_allclose(short, matrix @ deltas.sum(axis=0), atol=1e-10)
    back = np.stack([compressor.expand(unit, seed) for unit in np.eye(compressor.compressed_length)], axis=1)
    if setting.error_feedback:
        np.testing.assert_allclose(back, matrix.T, atol=1e-12)
    else:  # each step's transpose, scaled: the rows keep their directions
        norms = np.linalg.norm(back, axis=0)
        assert (norms > 1.0 - 1e-12).all()


def test_the_lengths_are_those_of_the_arithmetic() -> None:
    assert Compression().over(LAYOUT).compressed_length == LENGTH
    assert Compression(parameters=("head.*",)).over(LAYOUT).compressed_length == 64
    # (6, 6) of rank 2 is 12; a vector of 6 whole; (4, 15) is 8; 4 and 1 whole
    assert Compression(rank=2).over(LAYOUT).compressed_length == 12 + 6 + 8 + 4 + 1
    assert Compression(rank=2, keep=0.5).over(LAYOUT).compressed_length == round(31 / 2)
    assert Compression(keep=0.001).over(LAYOUT).compressed_length == 1
    assert Compression(rank=50).over(LAYOUT).is_lossless


@pytest.mark.parametrize(
    "setting",
    [
        Compression(keep=0.3, error_feedback=False),
        Compression(rank=2, error_feedback=False),
        Compression(rank=3, keep=0.5, parameters=("head.*",), error_feedback=False),
    ],
)
def test_without_feedback_the_mean_over_seeds_is_the_update(setting) -> None:
    """And a wrong scale would be seen: the mean is within five standard errors, and those are small."""
    compressor, delta, runs = setting.over(LAYOUT), np.linspace(-1.0, 2.0, LENGTH), 3000
    found = np.empty((runs, LENGTH))
    for number in range(runs):
        found[number] = compressor.expand(compressor.compress(delta, seed_of(number), {}), seed_of(number))
    travels = np.zeros(LENGTH, dtype=bool)
    start = 0
    for name, shape in LAYOUT:
        travels[start : start + math.prod(shape)] = setting.parameters is None or name.startswith("head")
        start += math.prod(shape)
    assert not found[:, ~travels].any()
    errors = found.std(axis=0)[travels] / math.sqrt(runs) + 1e-12
    off = (found.mean(axis=0) - delta)[travels]
    assert (np.abs(off) < 5 * errors).all()
    slope = float(found.mean(axis=0)[travels] @ delta[travels] / (delta[travels] @ delta[travels]))
    assert slope == pytest.approx(1.0, abs=0.03)


def test_with_feedback_nothing_is_lost_for_good() -> None:
    """What was sent and what is remembered add up to all updates, exactly; a constant update arrives in full."""
    compressor, memory, delta = (
        Compression(rank=2, keep=0.4, error_feedback=True).over(LAYOUT),
        {},
        np.linspace(-1.0, 2.0, LENGTH),
    )
    arrived, rounds = np.zeros(LENGTH), 300
    for number in range(rounds):
        arrived += compressor.expand(compressor.compress(delta, seed_of(number), memory), seed_of(number))
        unsent = memory[compressor.memory_name()]
        np.testing.assert_allclose(arrived + unsent, (number + 1) * delta, atol=1e-9)
    sent = 0.4 * 2 / 15  # part of the squared length of the matrix that fares worst
    assert np.linalg.norm(unsent) < 2 / sent * np.linalg.norm(delta)  # the sum of a geometric series in sqrt(1 - sent)
    assert np.linalg.norm(arrived / rounds - delta) < 0.1 * np.linalg.norm(delta)


def test_memory_holds_nothing_without_need() -> None:
    delta = np.ones(LENGTH)
    for setting in (
        Compression(error_feedback=True),
        Compression(parameters=("head.*",), error_feedback=True),
        Compression(keep=0.1),
    ):
        memory: dict[str, np.ndarray] = {}
        setting.over(LAYOUT).compress(delta, seed_of(0), memory)
        assert memory == {}


def test_memory_of_parameters_that_never_travel_does_not_grow() -> None:
    compressor = Compression(parameters=("head.*",), keep=0.5, error_feedback=True).over(LAYOUT)
    memory: dict[str, np.ndarray] = {}
    compressor.compress(np.ones(LENGTH), seed_of(0), memory)
    assert memory[compressor.memory_name()].shape == (64,)


def test_a_staged_memory_that_is_discarded_changes_nothing() -> None:
    compressor, delta = Compression(keep=0.2, error_feedback=True).over(LAYOUT), np.arange(LENGTH, dtype=float)
    kept: dict[str, np.ndarray] = {}
    memory = StagedMemory(kept)
    first = compressor.compress(delta, seed_of(0), memory)
    memory.discard()
    np.testing.assert_array_equal(compressor.compress(delta, seed_of(0), memory), first)
    memory.commit()
    assert list(kept) == [compressor.memory_name()]
    assert (
        not np.array_equal(compressor.compress(delta, seed_of(0), memory), first)
        or not kept[compressor.memory_name()].any()
    )


def test_an_update_that_is_not_finite_sends_nothing_and_spoils_no_memory() -> None:
    compressor, memory = Compression(keep=0.5, error_feedback=True).over(LAYOUT), {}
    compressor.compress(np.ones(LENGTH), seed_of(0), memory)
    before = memory[compressor.memory_name()]
    delta = np.ones(LENGTH)
    delta[3] = np.nan
    short = compressor.compress(delta, seed_of(1), memory)
    np.testing.assert_allclose(
        compressor.expand(short, seed_of(1)) + memory[compressor.memory_name()], before, atol=1e-12
    )


def test_a_memory_of_another_model_is_left_alone() -> None:
    setting = Compression(keep=0.5, error_feedback=True)
    one, other = setting.over(LAYOUT), setting.over((("w", (LENGTH,)),))
    assert one.memory_name() != other.memory_name()
    memory = {one.memory_name(): np.ones(3)}
    np.testing.assert_array_equal(
        one.compress(np.ones(LENGTH), seed_of(0), memory), one.compress(np.ones(LENGTH), seed_of(0), {})
    )


def test_a_run_does_not_send_what_another_left() -> None:
    compressor, memory = Compression(keep=0.5, error_feedback=True).over(LAYOUT), {}
    compressor.compress(np.ones(LENGTH), seed_of(0), memory, run="one")
    np.testing.assert_array_equal(
        compressor.compress(np.ones(LENGTH), seed_of(1), memory, run="two"),
        compressor.compress(np.ones(LENGTH), seed_of(1), {}),
    )
    assert len(memory) == 2


def test_the_choice_moves_with_the_seed_and_with_nothing_else() -> None:
    for setting in (Compression(keep=0.2), Compression(rank=1)):
        one, again = setting.over(LAYOUT), setting.over(LAYOUT)
        np.testing.assert_array_equal(matrix_of(one, seed_of(1)), matrix_of(again, seed_of(1)))
        assert not np.allclose(matrix_of(one, seed_of(1)), matrix_of(one, seed_of(2)))


def test_layers_of_one_shape_are_sketched_differently() -> None:
    compressor = Compression(rank=1).over((("a", (3, 8)), ("b", (3, 8))))
    short = compressor.compress(np.tile(np.arange(24.0), 2), seed_of(0), {})
    assert not np.allclose(short[:3], short[3:])


def test_settings_travel_as_fields() -> None:
    for setting in (Compression(), Compression(parameters=("a", "b*"), rank=3, keep=0.25, error_feedback=True)):
        assert Compression.from_fields(setting.as_fields()) == setting
    for fields in (
        (),
        ("a", 1, 0.5, True),
        ((), 1, 0.5),
        ((), 1.5, 0.5, True),
        ((), 1, 2.0, True),
        ((1,), 1, 0.5, True),
    ):
        with pytest.raises(UsageError):
            Compression.from_fields(fields)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"rank": 0}, "rank"),
        ({"rank": True}, "rank"),
        ({"keep": 0.0}, "keep"),
        ({"keep": 1.1}, "keep"),
        ({"keep": float("nan")}, "keep"),
        ({"keep": True}, "keep"),
        ({"parameters": ()}, "parameters"),
        ({"parameters": (3,)}, "parameters"),
        ({"error_feedback": 1}, "error_feedback"),
    ],
)
def test_settings_are_checked(arguments, match) -> None:
    with pytest.raises(UsageError, match=match):
        Compression(**arguments)


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(UsageError, match=r"no parameter.*'tail.*body\.weight"):
        Compression(parameters=("tail.*",)).over(LAYOUT)
    with pytest.raises(UsageError, match="empty"):
        Compression().over(())
    compressor = Compression(keep=0.5).over(LAYOUT)
    with pytest.raises(UsageError, match="shape"):
        compressor.compress(np.ones(3), seed_of(0), {})
    with pytest.raises(UsageError, match="shape"):
        compressor.expand(np.ones(3), seed_of(0))
    with pytest.raises(UsageError, match="32"):
        compressor.compress(np.ones(LENGTH), b"short", {})
