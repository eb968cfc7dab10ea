"""What every query owes. Each query's test subclasses this once and says how to make one."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed.errors import DataError
from privfed.query import Query, decode_query, encode_query, query_digest

ROUNDING = 1e-9  # relative: the plan's float term is larger


def hostile_rows(seed: int, n: int, d: int) -> np.ndarray:
    """Rows of every size, with zeros, repeats, and single huge entries: what a bound must survive."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, d)) * 10.0 ** rng.uniform(-12, 12, (n, 1))
    rows[rng.random((n, d)) < 0.2] = 0.0
    rows[rng.random(n) < 0.1] = 0.0
    return rows


class QueryContract(ABC):
    """Bounds hold for any row; sums do not depend on how rows are grouped; a query travels as data."""

    width = 3

    @abstractmethod
    def make(self) -> Query:
        """Return the query that is held to the contract."""

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(seed=st.integers(0, 2**32))
    def test_one_row_obeys_every_bound(self, seed: int) -> None:
        query = self.make()
        for row in hostile_rows(seed, 20, self.width):
            contribution = query.contribution(row[None, :])
            for block in query.blocks:
                norm = np.linalg.norm(np.ravel(contribution[block.name]))
                assert norm <= block.bound * (1 + ROUNDING), (block.name, row)
            assert np.linalg.norm(query.checked_contribution(row[None, :])) <= 1 + ROUNDING

    @settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(seed=st.integers(0, 2**32), cut=st.integers(0, 40))
    def test_contribution_is_a_sum_over_rows(self, seed: int, cut: int) -> None:
        query = self.make()
        rows = np.random.default_rng(seed).standard_normal((40, self.width))
        whole = query.checked_contribution(rows)
        order = np.random.default_rng(seed + 1).permutation(40)
        parts = [rows[order[:cut]], rows[order[cut:]]]
        split = sum(query.checked_contribution(part) for part in parts if len(part))
        np.testing.assert_allclose(split, whole, rtol=0, atol=1e-10)

    def test_it_travels_as_data(self) -> None:
        query = self.make()
        rows = np.random.default_rng(3).standard_normal((50, self.width))
        encoded = encode_query(query)
        again = decode_query(encoded)
        assert type(again) is type(query)
        assert encode_query(again) == encoded
        assert query_digest(encode_query(again)) == query_digest(encoded)
        np.testing.assert_array_equal(again.checked_contribution(rows), query.checked_contribution(rows))

    def test_layout_undoes_itself(self) -> None:
        query = self.make()
        rows = np.random.default_rng(4).standard_normal((50, self.width))
        contribution = query.contribution(rows)
        back = query.layout.unflatten(query.checked_contribution(rows))
        for block in query.blocks:
            np.testing.assert_allclose(back[block.name], contribution[block.name], rtol=1e-12, atol=1e-300)
            assert not back[block.name].flags.writeable

    def test_bad_rows_are_refused(self) -> None:
        query = self.make()
        for value in (np.nan, np.inf, -np.inf, 1e101):
            with pytest.raises(DataError, match="NaN, infinity or values beyond"):
                query.admit(np.full((2, self.width), value))
        with pytest.raises(DataError, match="dimensions"):
            query.admit(np.zeros(self.width))
        if query.n_features is not None:
            with pytest.raises(DataError, match="features"):
                query.admit(np.zeros((2, self.width + 1)))

    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.differing_executors])
    @given(
        rows=hnp.arrays(np.float64, st.tuples(st.integers(0, 3), st.just(3)), elements=st.floats(-1e100, 1e100)),
        seed=st.integers(0, 2**32),
    )
    def test_it_is_defined_on_all_admitted_rows(self, rows, seed) -> None:
        """A query that failed on some rows would tell which rows there are."""
        query = self.make()
        rows = np.resize(rows, (len(rows), self.width))
        query.admit(rows)
        assert np.isfinite(query.checked_contribution(rows)).all()

    def test_a_row_counts_alike_wherever_it_stands(self) -> None:
        """Among other rows, and with any number of them: only the summation may differ, by its own small term."""
        query = self.make()
        rng = np.random.default_rng(11)
        row = rng.standard_normal((1, self.width))
        alone = query.checked_contribution(row)
        for n in (1, 2, 3, 7, 64, 150, 151, 865):
            others = rng.standard_normal((n, self.width))
            with_row = query.checked_contribution(np.insert(others, n // 2, row, axis=0))
            moved = with_row - query.checked_contribution(others)
            assert np.linalg.norm(moved - alone) <= 1e-11 * (n + 1), n
