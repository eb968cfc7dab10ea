"""Sums over source features: bounded, additive, and each row on its own whatever the source does."""

from __future__ import annotations

import numpy as np
import pytest

from privfed.errors import UsageError
from privfed.query import decode_query, encode_query
from privfed.statistics.features import ExpectedPredictor, SourceSums, evaluated
from privfed.statistics.programs import install
from tests.privfed.query_contract import QueryContract


class Source:
    """Two inputs, three features (one of them of any size), two source labels."""

    kind = "test_source"
    width, n_labels = 3, 2

    def __init__(self, description: str = "one") -> None:
        self.description = description

    def features_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = 1.0 / (1.0 + np.exp(-np.clip(row[0], -50, 50)))
        return np.array([row[0], row[1] ** 3, 1.0]), np.array([share, 1.0 - share])


class Headless(Source):
    width, n_labels = 1, 0

    def features_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return row[:1] * 2.0, np.zeros(0)


SOURCES = (Source(), Headless("headless"))
NAMES = tuple(install(source) for source in SOURCES)


def sums(parts: tuple[str, ...] = ("cross", "gram", "third", "fourth", "table")) -> SourceSums:
    return SourceSums(NAMES, (3, 1), (2, 0), (1.5, 0.25), n_inputs=2, n_classes=3, parts=parts)


def predictor() -> ExpectedPredictor:
    table = np.array([[0.7, 0.1], [0.2, 0.5], [0.1, 0.4]])
    return ExpectedPredictor(NAMES[:1], (2,), table.ravel(), n_inputs=2, n_classes=3, least=0.01)


class LabelledContract(QueryContract):
    """Hostile rows have odd labels; a second look puts classes there."""

    def test_labelled_rows_obey_every_bound(self) -> None:
        query, rng = self.make(), np.random.default_rng(5)
        for size in (1e-9, 1.0, 30.0, 1e9, 1e100):
            for label in (0.0, 1.0, 2.0):
                row = np.array([*(rng.standard_normal(2) * size), label])[None].clip(-1e100, 1e100)
                contribution = query.contribution(row)
                for block in query.blocks:
                    assert np.linalg.norm(np.ravel(contribution[block.name])) <= block.bound * (1 + 1e-9), block.name
                assert np.linalg.norm(query.checked_contribution(row)) <= 1 + 1e-9

    def test_labelled_rows_add_up(self) -> None:
        rng = np.random.default_rng(6)
        rows = np.column_stack([rng.standard_normal((400, 2)), rng.integers(-1, 4, 400)])
        whole = self.make().checked_contribution(rows)
        alone = sum(self.make().checked_contribution(row[None]) for row in rows)
        np.testing.assert_allclose(alone, whole, rtol=0, atol=1e-10)


class TestSourceSums(LabelledContract):
    def make(self) -> SourceSums:
        return sums()


class TestExpectedPredictor(LabelledContract):
    def make(self) -> ExpectedPredictor:
        return predictor()


def test_the_joint_sensitivity_is_attained() -> None:
    """All blocks at their bounds at once: were the bound of any block larger than need be, this would stay below 1."""

    class Certain(Source):
        def features_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            return np.array([row[0] * 1e6, 0.0, 0.0]), np.array([1.0, 0.0])

    certain = Certain("certain")
    name = install(certain)
    query = SourceSums((name, name), (3, 3), (2, 2), (2.0, 7.0), n_inputs=2, n_classes=3, parts=sums().parts)
    assert np.linalg.norm(query.checked_contribution(np.array([[1.0, 0.0, 2.0]]))) == pytest.approx(1.0, abs=1e-9)


def test_the_sums_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.standard_normal((50, 2)) * 0.3, rng.integers(0, 3, 50)])
    found = sums().contribution(rows)
    f, q = evaluated(SOURCES[0], rows[:, :-1], 1.5)
    assert np.linalg.norm(f, axis=1).max() <= 1.5
    assert np.linalg.norm(f, axis=1).max() > 1.0
    y = np.eye(3)[rows[:, -1].astype(int)]
    np.testing.assert_allclose(found["counts"], y.sum(axis=0))
    np.testing.assert_allclose(found["cross_0"], f.T @ y)
    assert np.linalg.norm(found["gram_0"]) == pytest.approx(np.linalg.norm(f.T @ f))
    np.testing.assert_allclose(found["third_0"], (f * (f**2).sum(axis=1, keepdims=True)).sum(axis=0))
    assert found["fourth_0"] == pytest.approx(((f**2).sum(axis=1) ** 2).sum())
    np.testing.assert_allclose(found["table_0"], y.T @ q)
    assert "table_1" not in found


def test_likelihoods_are_what_they_say() -> None:
    rng = np.random.default_rng(0)
    rows = np.column_stack([rng.standard_normal((50, 2)), rng.integers(0, 3, 50)])
    query = predictor()
    table = query.predictors.reshape(3, 2)
    expected = 0.0
    for row in rows:
        _, q = SOURCES[0].features_of(row[:-1])
        expected += max(np.log(table[int(row[-1])] @ q), np.log(0.01)) - np.log(0.01) / 2
    assert query.contribution(rows)["likelihood"][0] == pytest.approx(expected, rel=1e-12)


def test_a_row_of_no_class_counts_nowhere() -> None:
    rows = np.array([[1.0, 1.0, 3.0], [1.0, 1.0, -1.0], [1.0, 1.0, 0.5]])
    assert not np.any(sums().checked_contribution(rows))
    assert not np.any(predictor().checked_contribution(rows))


def test_a_source_cannot_tie_rows_together() -> None:
    """Whatever it does with the rows it is given, it is given one at a time."""

    class Tied(Source):
        def features_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            assert row.shape == (2,)
            return super().features_of(row)

    f, _ = evaluated(Tied(), np.ones((5, 2)), 10.0)
    assert (f == f[0]).all()


class _OddError(Exception):
    """No child of anything that numpy or torch raise."""


@pytest.mark.parametrize("failure", ["raise", "key", "assertion", "odd", "nan", "shape", "words", "one part"])
def test_a_row_on_which_the_source_fails_adds_its_count_alone(failure: str) -> None:
    class Failing(Source):
        def features_of(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            features, labels = super().features_of(row)
            if row[0] < 0:
                if failure == "raise":
                    raise ValueError(f"the row is {row}")
                if failure in ("key", "assertion", "odd"):
                    raise {"key": KeyError, "assertion": AssertionError, "odd": _OddError}[failure]("no such word")
                if failure == "words":
                    return np.array(["a", "b", "c"]), labels
                if failure == "one part":
                    return (features,)
                if failure == "nan":
                    return features * np.nan, labels * np.inf
                return features[:1], labels
            return features, labels

    f, q = evaluated(Failing(), np.array([[1.0, 0.0], [-1.0, 0.0]]), 10.0)
    assert f[0].any()
    assert q[0].any()
    assert not f[1].any()
    assert not q[1].any()


def test_a_source_that_is_not_installed_is_refused() -> None:
    lost = decode_query(encode_query(SourceSums(("test_source:00",), (3,), (2,), (1.0,), n_inputs=2, n_classes=3)))
    with pytest.raises(UsageError, match="no program"):
        lost.contribution(np.zeros((1, 3)))
    other = SourceSums(NAMES[:1], (4,), (2,), (1.0,), n_inputs=2, n_classes=3)
    with pytest.raises(UsageError, match="3 features and 2 labels here, the query says 4 and 2"):
        other.contribution(np.zeros((1, 3)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"programs": ()}, "names of installed sources"),
        ({"widths": (3,)}, "one width, label count and bound each"),
        ({"widths": (3, 0)}, "a width is 0"),
        ({"labels": (2, -1)}, "labels is -1"),
        ({"bounds": (1.0, np.inf)}, "a feature bound is inf"),
        ({"bounds": (1.0, 1e30)}, "moderate"),
        ({"n_classes": 1}, "n_classes is 1"),
        ({"n_inputs": 0}, "n_inputs is 0"),
        ({"parts": ()}, "parts are"),
        ({"parts": ("gram", "cross")}, "in this order"),
    ],
)
def test_wrong_sums_are_refused(change: dict, message: str) -> None:
    good = {"programs": NAMES, "widths": (3, 1), "labels": (2, 0), "bounds": (1.0, 1.0), "n_inputs": 2, "n_classes": 3}
    with pytest.raises(UsageError, match=message):
        SourceSums(**(good | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"predictors": np.full(5, 0.5)}, "do not go with predictors"),
        ({"predictors": np.full(6, 1.5)}, "no probabilities"),
        ({"predictors": np.full(6, np.nan)}, "no probabilities"),
        ({"least": 0.0}, "least is 0.0"),
        ({"least": 1.0}, "least is 1.0"),
        ({"labels": (0,)}, "labels is 0"),
    ],
)
def test_wrong_predictors_are_refused(change: dict, message: str) -> None:
    good = {
        "programs": NAMES[:1],
        "labels": (2,),
        "predictors": np.full(6, 0.5),
        "n_inputs": 2,
        "n_classes": 3,
        "least": 0.1,
    }
    with pytest.raises(UsageError, match=message):
        ExpectedPredictor(**(good | change))
