"""Sensitivity: no pair of neighbours that we can find is further apart than the bound, and each term is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.mechanism.clip import clip_l2, clip_rows
from privfed.mechanism.encode import encode
from privfed.mechanism.rotation import Rotation
from privfed.mechanism.sensitivity import (
    LATER_ROUNDINGS,
    MAX_CHUNK,
    MIN_CHUNK,
    ROW_ERROR,
    chunked_sum,
    client_sensitivity,
    client_terms,
    record_sensitivity,
    record_terms,
)

Rows = npt.NDArray[np.float64]


def row_sums(rows: Rows) -> dict[str, Rows]:
    return {"sum": rows.sum(axis=0)}


def distance(one: npt.NDArray[np.int64], other: npt.NDArray[np.int64]) -> float:
    """Exact L2 distance, rounded up a little only at the very end."""
    return math.sqrt(sum((int(a) - int(b)) ** 2 for a, b in zip(one, other, strict=True)))


def record_bound(bound: float, scale: float, rows: Rows) -> float:
    return record_sensitivity(bound=bound, scale=scale, dimension=rows.shape[1], max_records=len(rows))


# ---- one record


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    n=st.integers(1, 400),
    d=st.integers(1, 12),
    exponent=st.integers(0, 45),
    spread=st.floats(-8, 8),
    chunks=st.tuples(st.integers(MIN_CHUNK, 200), st.integers(MIN_CHUNK, 200)),
)
def test_one_record_moves_the_integers_by_at_most_the_bound(
    seed: int, n: int, d: int, exponent: int, spread: float, chunks: tuple[int, int]
) -> None:
    # Rows of very different sizes, all clipped; a row removed anywhere, the rest in another order and other chunks.
    random = np.random.default_rng(seed)
    rows = clip_rows(random.normal(size=(n, d)) * np.exp(spread * random.normal(size=(n, 1))), 1.0)
    neighbour = random.permutation(np.delete(rows, random.integers(n), axis=0))
    scale = 2.0**exponent
    one = encode(chunked_sum(row_sums, rows, chunk=chunks[0])["sum"], scale=scale)
    other = encode(chunked_sum(row_sums, neighbour, chunk=chunks[1])["sum"], scale=scale)
    assert distance(one, other) <= record_bound(1.0, scale, rows)


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 300), exponent=st.integers(10, 40))
def test_matrix_products_keep_the_bound_too(seed: int, n: int, exponent: int) -> None:
    # Second moments by BLAS, whose blocking and fused operations change with the number of rows; weights from exp.
    random = np.random.default_rng(seed)
    rows = clip_rows(random.normal(size=(n, 5)), 1.0)

    def function(part: Rows) -> dict[str, Rows]:
        weights = np.exp(-np.square(part).sum(axis=1))
        return {"second": (part * weights[:, np.newaxis]).T @ part}

    scale = 2.0**exponent
    neighbour = np.delete(rows, random.integers(n), axis=0)
    one = encode(chunked_sum(function, rows, chunk=64)["second"].ravel(), scale=scale)
    other = encode(chunked_sum(function, neighbour, chunk=97)["second"].ravel(), scale=scale)
    bound = record_sensitivity(bound=1.0, scale=scale, dimension=25, max_records=n)
    assert distance(one, other) <= bound


def test_without_the_summation_term_the_bound_is_false() -> None:
    # 2^13 rows of 1.0 bring the sum to a power of two, where the spacing of floats doubles. Chunks of tiny rows add 0.6
    # spacings each: rounded up to 1 from above, but to 0.5 from just below, where one row of 1.0 was removed.
    spacing = 2.0 ** (13 - 52)
    ones, tiny = np.ones((2**13, 1)), np.full((2**13, 1), 0.6 * spacing / 64)
    rows = np.concatenate([ones, tiny])
    scale = 2.0**45
    one = encode(chunked_sum(row_sums, rows, chunk=64)["sum"], scale=scale)
    other = encode(chunked_sum(row_sums, rows[1:], chunk=64)["sum"], scale=scale)
    terms = record_terms(bound=1.0, scale=scale, dimension=1, max_records=len(rows))
    assert distance(one, other) > terms.contribution + terms.rounding + 1000
    assert distance(one, other) <= terms.l2


def test_without_the_rounding_term_the_bound_is_false() -> None:
    # A record that moves each coordinate across a rounding boundary by next to nothing moves each integer by one.
    d = 400
    base, record = np.full((1, d), 0.5), np.full((1, d), 1e-3 / math.sqrt(d))
    one = encode(chunked_sum(row_sums, base)["sum"], scale=1.0)
    other = encode(chunked_sum(row_sums, np.concatenate([base, record]))["sum"], scale=1.0)
    terms = record_terms(bound=1e-3, scale=1.0, dimension=d, max_records=2)
    assert distance(one, other) == 20.0 > 19 + terms.contribution + terms.summation
    assert distance(one, other) <= terms.l2


def gamma(k: int) -> float:
    return k * 2.0**-53 / (1 - k * 2.0**-53)


@pytest.mark.parametrize("max_records", [1, 64, 10_000, 1_000_000])
def test_terms_are_the_documented_formula(max_records: int) -> None:
    terms = record_terms(bound=3.0, scale=2.0**33, dimension=50, max_records=max_records, row_error=1e-10)
    depth = MAX_CHUNK + math.ceil(max_records / MIN_CHUNK) + LATER_ROUNDINGS
    error = max_records * 3.0 * ((1 + 1e-10) * gamma(depth) + 1e-10)
    assert terms.contribution == 3 * 2.0**33
    assert math.sqrt(50) <= terms.rounding <= math.nextafter(math.sqrt(50), 8)
    assert terms.summation == pytest.approx(2 * 2.0**33 * error, rel=1e-12)
    assert terms.l2 == pytest.approx(terms.contribution + terms.rounding + terms.summation, rel=1e-15)
    assert terms.l2 == record_sensitivity(
        bound=3.0, scale=2.0**33, dimension=50, max_records=max_records, row_error=1e-10
    )


def test_error_of_a_map_after_the_sum_is_counted_at_both_neighbours() -> None:
    arguments = {"bound": 3.0, "scale": 2.0**33, "dimension": 50, "max_records": 1000, "row_error": 0.0}
    plain = record_terms(**arguments)  # type: ignore[arg-type]
    mapped = record_terms(**arguments, transform_error=1e-6)  # type: ignore[arg-type]
    assert mapped.summation - plain.summation == pytest.approx(2 * 2.0**33 * 1000 * 3.0 * 1e-6, rel=1e-9)
    assert (mapped.contribution, mapped.rounding) == (plain.contribution, plain.rounding)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), n=st.integers(2, 300), d=st.integers(1, 100), exponent=st.integers(0, 40))
def test_rotated_sums_of_neighbours_are_within_the_bound(seed: int, n: int, d: int, exponent: int) -> None:
    random, scale = np.random.default_rng(seed), 2.0**exponent
    rows = clip_rows(random.normal(size=(n, d)), 1.0)
    rotation = Rotation(d, seed.to_bytes(32, "big"))
    neighbour = random.permutation(np.delete(rows, random.integers(n), axis=0))
    one, other = (rotation.apply(chunked_sum(row_sums, part, chunk=64)["sum"]) for part in (rows, neighbour))
    terms = record_terms(
        bound=1.0, scale=scale, dimension=rotation.length, max_records=n, transform_error=rotation.error
    )
    assert distance(encode(one, scale=scale), encode(other, scale=scale)) <= terms.l2


@given(
    bound=st.floats(1e-10, 1e10),
    scale=st.floats(1e-3, 1e15),
    dimension=st.integers(1, 10**9),
    max_records=st.integers(1, 10**7),
)
def test_sums_are_rounded_up_and_grow_with_everything(
    bound: float, scale: float, dimension: int, max_records: int
) -> None:
    terms = record_terms(bound=bound, scale=scale, dimension=dimension, max_records=max_records)
    exact = Fraction(bound) * Fraction(scale)
    assert Fraction(terms.contribution) >= exact
    assert Fraction(terms.rounding) ** 2 >= dimension
    assert Fraction(terms.l2) >= sum(map(Fraction, (terms.contribution, terms.rounding, terms.summation)))
    assert terms.l1 >= terms.l2 * min(math.sqrt(dimension), terms.l2) * (1 - 1e-12)
    more = [
        record_sensitivity(bound=2 * bound, scale=scale, dimension=dimension, max_records=max_records),
        record_sensitivity(bound=bound, scale=2 * scale, dimension=dimension, max_records=max_records),
        record_sensitivity(bound=bound, scale=scale, dimension=4 * dimension, max_records=max_records),
        record_sensitivity(bound=bound, scale=scale, dimension=dimension, max_records=2 * max_records),
        record_sensitivity(
            bound=bound, scale=scale, dimension=dimension, max_records=max_records, row_error=2 * ROW_ERROR
        ),
    ]
    assert min(more) >= terms.l2


@given(vector=st.lists(st.integers(-5, 5), min_size=1, max_size=20))
def test_l1_bound_follows_from_l2_for_integer_vectors(vector: list[int]) -> None:
    l2 = math.sqrt(sum(x * x for x in vector))
    assert sum(map(abs, vector)) <= l2 * min(math.sqrt(len(vector)), l2) * (1 + 1e-12)


# ---- one client


@given(seed=st.integers(0, 2**32), d=st.integers(1, 60), bound=st.floats(1e-3, 1e3), scale=st.floats(1e-3, 1e6))
def test_one_client_is_no_longer_than_the_bound(seed: int, d: int, bound: float, scale: float) -> None:
    random = np.random.default_rng(seed)
    vector = clip_l2(random.normal(size=d) * 10 ** random.uniform(-3, 6), bound)
    encoded = encode(vector, scale=scale)
    assert distance(encoded, np.zeros_like(encoded)) <= client_sensitivity(bound=bound, scale=scale, dimension=d)


def test_one_clients_rounding_term_is_needed_and_nearly_attained() -> None:
    # All coordinates just above a half round up to one: the worst case of both rounding bounds at once.
    d = 10_000
    vector = np.full(d, 0.5 + 1e-9)
    bound = float(np.linalg.norm(vector)) * (1 + 1e-12)
    encoded = encode(vector, scale=1.0)
    terms = client_terms(bound=bound, scale=1.0, dimension=d)
    assert distance(encoded, np.zeros_like(encoded)) == 100.0 > 1.9 * (terms.contribution + terms.summation)
    assert 100.0 <= terms.l2 < 100.001


def test_one_client_is_cheaper_than_one_record_of_the_same_size() -> None:
    client = client_terms(bound=1.0, scale=2.0**20, dimension=100)
    record = record_terms(bound=1.0, scale=2.0**20, dimension=100, max_records=1)
    assert client.rounding == record.rounding / 2
    assert client_terms(bound=1.0, scale=0.5, dimension=100).rounding == pytest.approx(0.5)  # coarse: |y| <= 2 |z|


# ---- the summation scheme


def chunks_seen(n: int, chunk: int) -> Iterator[int]:
    seen: list[int] = []

    def function(part: Rows) -> dict[str, Rows]:
        seen.append(len(part))
        return {"sum": part.sum(axis=0)}

    chunked_sum(function, np.ones((n, 1)), chunk=chunk)
    yield from seen


@pytest.mark.parametrize(
    ("n", "chunk", "expected"),
    [(0, 64, [0]), (1, 64, [1]), (64, 64, [64]), (65, 64, [64, 1]), (5000, 4096, [4096, 904])],
)
def test_rows_are_taken_in_chunks(n: int, chunk: int, expected: list[int]) -> None:
    assert list(chunks_seen(n, chunk)) == expected


@given(seed=st.integers(0, 2**32), n=st.integers(0, 500), chunk=st.integers(MIN_CHUNK, 130))
def test_sum_is_within_its_error_of_the_exact_sum(seed: int, n: int, chunk: int) -> None:
    rows = np.random.default_rng(seed).uniform(-1, 1, size=(n, 1))
    total = chunked_sum(row_sums, rows, chunk=chunk)["sum"][0]
    assert abs(total - math.fsum(rows[:, 0])) <= n * gamma(MAX_CHUNK + math.ceil(n / MIN_CHUNK)) + 1e-300


def test_every_name_and_shape_is_summed() -> None:
    rows = np.arange(300.0).reshape(100, 3)
    sums = chunked_sum(lambda part: {"n": float(len(part)), "gram": part.T @ part}, rows, chunk=64)
    assert sums["n"].shape == ()
    assert sums["n"] == 100
    np.testing.assert_allclose(sums["gram"], rows.T @ rows, rtol=1e-14)


def test_the_functions_arrays_are_not_written_to() -> None:
    kept = np.ones(2)
    sums = chunked_sum(lambda _: {"same": kept}, np.ones((200, 1)), chunk=64)
    assert (kept == 1).all()
    assert (sums["same"] == 4).all()


@pytest.mark.parametrize("chunk", [0, MIN_CHUNK - 1, MAX_CHUNK + 1])
def test_chunks_that_the_bound_does_not_cover_are_refused(chunk: int) -> None:
    with pytest.raises(UsageError, match="the error bound holds for those"):
        chunked_sum(row_sums, np.ones((10, 1)), chunk=chunk)


def test_functions_that_change_their_layout_are_refused() -> None:
    with pytest.raises(UsageError, match="unlike its first chunk"):
        chunked_sum(lambda part: {"sum": part[:, 0]}, np.ones((100, 1)), chunk=64)
    with pytest.raises(UsageError, match="unlike its first chunk"):
        chunked_sum(lambda part: {f"n{len(part)}": 1.0}, np.ones((100, 1)), chunk=64)


@pytest.mark.parametrize(
    "change",
    [
        {"bound": 0.0},
        {"bound": math.inf},
        {"scale": -1.0},
        {"scale": math.nan},
        {"dimension": 0},
        {"max_records": 0},
        {"row_error": -1e-9},
        {"row_error": 1.0},
        {"transform_error": -1e-9},
        {"transform_error": 1.0},
        {"max_records": 2**60},
    ],
)
def test_arguments_out_of_range_are_refused(change: dict[str, float]) -> None:
    arguments = {"bound": 1.0, "scale": 1.0, "dimension": 1, "max_records": 1, "row_error": 0.0}
    arguments |= {"transform_error": 0.0} | change
    with pytest.raises(UsageError):
        record_terms(**arguments)  # type: ignore[arg-type]
    if not {"max_records", "row_error", "transform_error"} & set(change):
        del arguments["max_records"], arguments["row_error"], arguments["transform_error"]
        with pytest.raises(UsageError):
            client_terms(**arguments)  # type: ignore[arg-type]
