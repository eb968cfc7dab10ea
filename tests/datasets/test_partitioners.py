from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.datasets import (
    Dataset,
    Partition,
    load_sklearn,
    partition_by_group,
    partition_dirichlet,
    partition_feature_shift,
    partition_iid,
    partition_quantity,
    partition_shards,
)
from privfed.errors import UsageError

N = 240
LABELS = np.random.default_rng(0).integers(0, 6, N)
FEATURES = np.random.default_rng(1).standard_normal((N, 5)) + LABELS[:, None]

MAKERS = {
    "iid": lambda n, least, state: partition_iid(N, n, min_records=least, random_state=state),
    "quantity": lambda n, least, state: partition_quantity(N, n, alpha=0.3, min_records=least, random_state=state),
    "dirichlet": lambda n, least, state: partition_dirichlet(
        LABELS, n, alpha=0.2, min_records=least, random_state=state
    ),
    "shards": lambda n, least, state: partition_shards(LABELS, n, shards_per_client=least, random_state=state),
    "feature shift": lambda n, least, state: partition_feature_shift(
        FEATURES, n, strength=0.7, min_records=least, random_state=state
    ),
}


@settings(max_examples=60, deadline=None)
@given(method=st.sampled_from(sorted(MAKERS)), n=st.integers(1, 40), least=st.integers(1, 6), state=st.integers(0, 99))
def test_the_laws_of_a_partition(method, n, least, state) -> None:
    """Disjoint, complete, nobody below the minimum, and the same again for the same state."""
    partition = MAKERS[method](n, least, state)
    dealt = [row for rows in partition.indices.values() for row in rows.tolist()]
    assert len(partition) == n
    assert sorted(dealt) == list(range(N))
    assert partition.sizes.min() >= least
    assert partition.sizes.sum() == N
    again = MAKERS[method](n, least, state)
    assert list(again.indices) == list(partition.indices)
    for name, rows in partition.indices.items():
        np.testing.assert_array_equal(rows, again.indices[name])
        assert (np.diff(rows) > 0).all()


@pytest.mark.parametrize("method", sorted(MAKERS))
def test_another_state_is_another_partition(method) -> None:
    one, other = MAKERS[method](8, 2, 0), MAKERS[method](8, 2, 1)
    assert any(not np.array_equal(one.indices[name], other.indices[name]) for name in one.indices)


@pytest.mark.parametrize("method", sorted(MAKERS))
def test_too_few_records_are_refused(method) -> None:
    with pytest.raises(UsageError, match="240 records are too few for 100 clients of at least 3"):
        MAKERS[method](100, 3, 0)


def test_a_generator_goes_on() -> None:
    rng = np.random.default_rng(5)
    one, other = partition_iid(N, 4, random_state=rng), partition_iid(N, 4, random_state=rng)
    assert not np.array_equal(one.indices["client-00"], other.indices["client-00"])


def test_names_sort_as_they_count() -> None:
    assert list(partition_iid(N, 12).indices)[::11] == ["client-00", "client-11"]
    names = list(partition_iid(N, 101, random_state=0).indices)
    assert names == sorted(names)
    assert names[-1] == "client-100"


def test_even_parts_are_even() -> None:
    sizes = partition_iid(1000, 7, random_state=0).sizes
    assert sizes.max() - sizes.min() == 1
    shares = np.stack(
        [np.bincount(LABELS[rows], minlength=6) for rows in partition_iid(N, 3, random_state=1).indices.values()]
    )
    assert np.abs(shares / 80 - np.bincount(LABELS) / N).max() < 0.15


def test_alpha_says_how_much_clients_differ() -> None:
    """The distance of a client's labels from everybody's falls with alpha, towards that of an even split."""
    labels = np.repeat(np.arange(10), 300)
    distance = {
        alpha: partition_dirichlet(labels, 10, alpha=alpha, random_state=0).summary().label_distance
        for alpha in (0.05, 0.5, 5.0, 500.0)
    }
    found = list(distance.values())
    assert found == sorted(found, reverse=True)
    assert distance[0.05] > 0.65
    assert distance[500.0] < 0.05


def test_shares_of_a_label_have_the_moments_of_a_dirichlet() -> None:
    """Variance of a share of a symmetric Dirichlet(a) over K: (K - 1) / (K^2 (K a + 1)); another alpha is seen."""
    alpha, clients, labels = 0.7, 5, np.zeros(4000, dtype=int)
    rng = np.random.default_rng(3)
    shares = np.array(
        [partition_dirichlet(labels, clients, alpha=alpha, random_state=rng).sizes / len(labels) for _ in range(400)]
    )
    expected = (clients - 1) / (clients**2 * (clients * alpha + 1))
    assert shares.var() == pytest.approx(expected, rel=0.1)
    sizes = np.array(
        [partition_quantity(4000, clients, alpha=alpha, random_state=rng).sizes / 4000 for _ in range(400)]
    )
    assert sizes.var() == pytest.approx(expected, rel=0.1)


def test_quantity_does_not_look_at_labels() -> None:
    partition = partition_quantity(6000, 4, alpha=2.0, random_state=0)
    summary = partition.summary(np.arange(6000) % 3)
    assert summary.label_distance < 0.05
    assert summary.largest > 1.5 * summary.smallest


def test_shards_leave_few_labels() -> None:
    labels = np.repeat(np.arange(10), 100)
    summary = partition_shards(np.random.default_rng(0).permutation(labels), 10, random_state=0).summary()
    assert summary.labels_per_client <= 2
    assert (summary.smallest, summary.largest) == (100, 100)


def test_a_feature_shift_orders_a_feature_and_breaks_ties_by_chance() -> None:
    partition = partition_feature_shift(FEATURES, 6, column=2, random_state=0)
    ranges = [(FEATURES[rows, 2].min(), FEATURES[rows, 2].max()) for rows in partition.indices.values()]
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))
    means = {
        strength: np.ptp(
            [
                FEATURES[rows].mean()
                for rows in partition_feature_shift(FEATURES, 6, strength=strength, random_state=0).indices.values()
            ]
        )
        for strength in (0.0, 0.5, 1.0)
    }
    assert means[0.0] < means[0.5] < means[1.0]
    tied = partition_feature_shift(np.zeros((100, 1)), 2, column=0, random_state=0)
    assert 35 < tied.indices["client-00"].mean() < 65  # the first fifty would have 24.5


def test_groups_become_clients() -> None:
    banks = np.array(["north", "south", "north", "east", "south", "north"])
    partition = partition_by_group(banks)
    assert {name: rows.tolist() for name, rows in partition.indices.items()} == {
        "east": [3],
        "north": [0, 2, 5],
        "south": [1, 4],
    }
    assert list(partition_by_group([3.0, 1.0, 3.0]).indices) == ["1", "3"]
    assert list(partition_by_group(np.array(["a", "b"], dtype=object)).indices) == ["a", "b"]


def test_small_groups_are_refused_or_merged() -> None:
    groups = ["a"] * 5 + ["b"] + ["c"] * 2
    with pytest.raises(UsageError, match=r"2 groups have fewer than 3 records \('b', 'c'\).*merge"):
        partition_by_group(groups, min_records=3)
    merged = partition_by_group(groups, min_records=3, small="merge")
    assert {name: len(rows) for name, rows in merged.indices.items()} == {"a": 5, "others": 3}
    with pytest.raises(UsageError, match="3 records together"):
        partition_by_group(groups, min_records=4, small="merge")
    with pytest.raises(UsageError, match="others"):
        partition_by_group(["others"] * 4 + ["b"] * 2 + ["c"] * 2, min_records=3, small="merge")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: partition_dirichlet(LABELS, 5, alpha=0.0), "alpha"),
        (lambda: partition_dirichlet(LABELS + 0.5, 5), "digitize"),
        (lambda: partition_dirichlet(np.array(["a", "b"]), 2), "numpy.unique"),
        (lambda: partition_dirichlet(LABELS.reshape(-1, 2), 2), "shape"),
        (lambda: partition_quantity(10, 2, alpha=float("nan")), "alpha"),
        (lambda: partition_iid(10, 0), "n_clients"),
        (lambda: partition_iid(10, 2, min_records=0), "min_records"),
        (lambda: partition_iid(10, 2, random_state=-1), "random_state"),
        (lambda: partition_iid(10.0, 2), "n_records"),
        (lambda: partition_shards(LABELS, 5, shards_per_client=0), "shards_per_client"),
        (lambda: partition_feature_shift(FEATURES, 5, strength=1.5), "strength"),
        (lambda: partition_feature_shift(FEATURES, 5, column=5), "column"),
        (lambda: partition_feature_shift(LABELS, 5), "shape"),
        (lambda: partition_by_group([["a"], ["b"]]), "groups"),
        (lambda: partition_by_group(np.array(["a", None], dtype=object)), "missing"),
        (lambda: partition_by_group(["a"], small="drop"), "small"),
        (lambda: Partition({"a": np.array([0, 1]), "b": np.array([1, 2])}, 3), "exactly one"),
        (lambda: Partition({"a": np.array([0, 1])}, 3), "exactly one"),
        (lambda: Partition({"a": np.array([0, 1]), "b": np.array([], dtype=int)}, 2), "one or more"),
        (lambda: Partition({"a": np.array([0])}, 1, labels=np.array([1, 2])), "2 labels for 1"),
        (lambda: partition_iid(10, 2).label_counts(), "labels="),
    ],
)
def test_what_cannot_be_is_refused(make, match) -> None:
    with pytest.raises(UsageError, match=match):
        make()


def test_indices_cannot_be_changed() -> None:
    partition = partition_iid(10, 2, random_state=0)
    with pytest.raises(ValueError, match="read-only"):
        partition.indices["client-00"][0] = 1
    with pytest.raises(TypeError):
        partition.indices["client-00"] = np.arange(3)  # type: ignore[index]
    given_rows = np.array([1, 0])
    Partition({"a": given_rows}, 2)
    assert given_rows.tolist() == [1, 0]


def test_clients_get_their_own_records() -> None:
    data = Dataset("numbers", np.arange(20.0).reshape(10, 2), np.arange(10) % 3)
    partition = partition_iid(10, 3, random_state=0)
    clients = partition.clients(data)
    for name, rows in partition.indices.items():
        np.testing.assert_array_equal(clients[name][0], data.X[rows])
        np.testing.assert_array_equal(clients[name][1], data.y[rows])
    plain = partition.clients(Dataset("numbers", data.X))
    np.testing.assert_array_equal(plain["client-00"], clients["client-00"][0])
    with pytest.raises(UsageError, match="9 records, the partition shares out 10"):
        partition.clients(data.subset(range(9)))


def test_clients_split_their_own_records() -> None:
    digits = load_sklearn("digits")
    partition = partition_dirichlet(digits.labels, 20, min_records=5, random_state=0)
    train, test = partition.split_clients(digits, held_out=0.25, random_state=1)
    again, _ = partition.split_clients(digits, held_out=0.25, random_state=1)
    for name, rows in partition.indices.items():
        assert len(test[name][0]) == max(1, round(0.25 * len(rows)))
        together = np.concatenate([train[name][0], test[name][0]])
        assert sorted(map(tuple, together)) == sorted(map(tuple, digits.X[rows]))
        np.testing.assert_array_equal(again[name][0], train[name][0])
    with pytest.raises(UsageError, match="single record"):
        partition_iid(3, 3).split_clients(digits.subset(range(3)))


def test_the_summary_counts() -> None:
    partition = Partition({"a": np.arange(4), "b": np.arange(4, 10)}, 10, "by hand", np.array([0] * 4 + [1] * 6))
    summary = partition.summary()
    assert (summary.clients, summary.records, summary.smallest, summary.median, summary.largest) == (2, 10, 4, 5.0, 6)
    assert (summary.labels, summary.labels_per_client) == (2, 1.0)
    assert summary.label_distance == pytest.approx((0.6 + 0.4) / 2)
    assert "by hand: 10 records at 2 clients of 4 to 6" in str(summary)
    assert "labels" not in str(partition_iid(10, 2).summary())


def test_the_figure_shows_every_count() -> None:
    pytest.importorskip("matplotlib").use("Agg")
    import matplotlib.pyplot as plt

    partition = partition_dirichlet(LABELS, 8, random_state=0)
    axes = partition.plot()
    labels, counts = partition.label_counts()
    assert [[bar.get_width() for bar in bars] for bars in axes.containers] == counts.T.tolist()
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [str(label) for label in labels]
    assert [tick.get_text() for tick in axes.get_yticklabels()] == list(partition.indices)
    axes.figure.savefig(io.BytesIO(), format="png")
    plt.close(axes.figure)

    figure, given_axes = plt.subplots()
    many = partition_iid(N, 60, random_state=0)
    assert many.plot(given_axes) is given_axes
    assert [bar.get_width() for bar in given_axes.patches] == many.sizes.tolist()
    assert given_axes.get_legend() is None
    plt.close(figure)


def test_no_record_in_a_repr() -> None:
    assert repr(partition_iid(10, 2)) == "<Partition, even, at random: 10 records at 2 clients>"


def test_arrays_in_the_place_of_a_data_set_or_a_number_are_named_and_not_shown() -> None:
    with pytest.raises(UsageError, match=r"found ndarray, expected a privfed\.datasets\.Dataset"):
        partition_iid(4, 2).clients(np.zeros((4, 2)))
    with pytest.raises(UsageError, match=r"n_records is of type ndarray, expected an integer") as caught:
        partition_iid(np.full((4, 2), 7.25), 2)
    assert "7.25" not in str(caught.value)
