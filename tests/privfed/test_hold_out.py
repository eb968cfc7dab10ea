"""The split of rows: by each row alone, stable, the same for training and evaluation, and never both."""

from __future__ import annotations

import gc
import warnings
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from privfed import Budget, DataError, LocalFederation, UsageError
from privfed.federation import Federation
from privfed.query import decode_query, encode_query
from privfed.statistics import hold_out as module
from privfed.statistics.hold_out import ClientPart, FederationPart, HoldOut, RowPart, held_out_mask
from privfed.statistics.moments import Count, VectorSum
from privfed.statistics.transform import LinearMap, TransformedFederation
from privfed.statistics.vectors import AdaptiveSum
from tests.privfed.query_contract import QueryContract
from tests.privfed.test_client_queries import MeanRow, turns

tables = hnp.arrays(np.float64, st.tuples(st.integers(0, 30), st.just(3)), elements=st.floats(-1e100, 1e100))
SHOWN = "n_clients n_features budget ledger unit records_per_client total_mu feature_shape n_targets clients"


class TestRowPart(QueryContract):
    def make(self):
        return RowPart(encode_query(VectorSum(3, 1.7)), 0.4, 3, True)


@given(rows=tables, seed=st.integers(0, 99))
def test_a_row_is_where_it_is_whatever_stands_beside_it(rows, seed) -> None:
    mask = held_out_mask(rows, 0.4, seed)
    order = np.random.default_rng(seed).permutation(len(rows))
    np.testing.assert_array_equal(held_out_mask(rows[order], 0.4, seed), mask[order])
    np.testing.assert_array_equal(held_out_mask(np.asfortranarray(rows), 0.4, seed), mask)
    for index in range(min(len(rows), 3)):
        np.testing.assert_array_equal(held_out_mask(np.delete(rows, index, 0), 0.4, seed), np.delete(mask, index))


@pytest.mark.parametrize("fraction", [0.01, 0.2, 0.5, 0.9])
def test_the_fraction_is_that_and_not_another(fraction) -> None:
    """20 000 rows: three standard deviations are 0.3 to 1.1 points."""
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    room = 3.3 * np.sqrt(fraction * (1 - fraction) / 20_000)
    for seed in range(3):
        assert abs(held_out_mask(rows, fraction, seed).mean() - fraction) < room


def test_splits_of_other_seeds_are_independent_and_larger_ones_hold_smaller_ones() -> None:
    rows = np.random.default_rng(0).normal(size=(20_000, 2))
    first, second = held_out_mask(rows, 0.5, 0), held_out_mask(rows, 0.5, 1)
    assert abs((first & second).mean() - 0.25) < 0.012
    assert not (held_out_mask(rows, 0.2, 0) & ~first).any()


def test_copies_of_a_row_go_together_and_zeros_have_no_sign() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 2))
    rows[:, 1] = 0.0
    twin = rows.copy()
    twin[:, 1] = -0.0
    np.testing.assert_array_equal(held_out_mask(twin, 0.3), held_out_mask(rows, 0.3))
    np.testing.assert_array_equal(
        held_out_mask(np.tile(rows[:1], (9, 1)), 0.3), np.repeat(held_out_mask(rows[:1], 0.3), 9)
    )


def test_the_split_is_the_same_in_every_version() -> None:
    """Runs go on from checkpoints: a row that changed sides would leak into the evaluation."""
    rows = np.arange(40.0).reshape(20, 2)
    assert np.flatnonzero(held_out_mask(rows, 0.3, 7)).tolist() == [5, 10, 11, 13, 15, 18, 19]


def silos(n: int = 4) -> dict[str, np.ndarray]:
    return {f"c{index}": np.random.default_rng(index).uniform(-0.5, 0.5, (50 + index, 3)) for index in range(n)}


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_the_two_views_share_all_rows_between_them(mode) -> None:
    clients, hold_out = silos(), HoldOut(0.3, seed=2)
    federation = LocalFederation(clients, mode=mode)
    training, evaluation = hold_out.training(federation), hold_out.evaluation(federation)
    pooled = np.concatenate(list(clients.values()))
    mask = held_out_mask(pooled, 0.3, 2)
    for view, part in ((training, pooled[~mask]), (evaluation, pooled[mask])):
        assert float(view.release(Count())["count"]) == pytest.approx(len(part))
        np.testing.assert_allclose(view.release(VectorSum(3, 9.0))["sum"], part.sum(axis=0), atol=1e-8)
    assert 20 < mask.sum() < 100


def test_queries_of_clients_see_their_part_and_keep_their_memory() -> None:
    clients, hold_out = silos(), HoldOut(0.3)
    kept = {name: {} for name in clients}
    training = hold_out.training(LocalFederation(clients, memories=kept))
    release = training.release(MeanRow(3))
    parts = [rows[~held_out_mask(rows, 0.3)] for rows in clients.values()]
    np.testing.assert_allclose(release["sum"], sum(part.mean(axis=0) for part in parts), atol=1e-9)
    assert turns(kept) == dict.fromkeys(clients, 1.0)


def test_a_part_costs_what_the_query_costs() -> None:
    """Bounds and sensitivity are those of the inner query, and the ledger is charged like for any other."""
    federation = LocalFederation(silos(), budget=Budget(2.0, 1e-5), mode="trusted", noise_seed=1)
    view = HoldOut(0.3).training(federation)
    for query, sensitivity in ((VectorSum(3, 1.0), 1.0), (MeanRow(3), 2.0)):
        part = view.asked(query)
        assert part.sensitivity("record").l2 == sensitivity
        assert part.per_client == query.per_client
        assert view.noise_std(query, 0.2) == federation.noise_std(query, 0.2)
        assert view.plan(query, share=0.2).l2_sensitivity == federation.plan(query, share=0.2).l2_sensitivity
        assert part.row_error == query.row_error
        assert part.n_features == query.n_features
    view.release(VectorSum(3, 1.0), share=0.25)
    assert view.remaining_share == federation.remaining_share == pytest.approx(0.75)
    assert federation.ledger.rounds()[0].plan.purpose == "vector_sum"


def test_a_view_is_a_federation() -> None:
    federation = LocalFederation([(np.ones((4, 2, 2)), np.ones(4))] * 2, budget=Budget(2.0, 1e-5))
    view = HoldOut(0.3).training(federation)
    assert isinstance(view, Federation)
    for name in SHOWN.split():
        assert getattr(view, name) == getattr(federation, name), name
    assert not hasattr(view, "nothing_of_that_name")
    assert not hasattr(view, "_sides")
    assert "0.3 of the rows held out" in repr(view)


def test_clients_without_rows_in_a_part_still_take_part() -> None:
    clients = {"one": np.ones((3, 2)), "two": np.zeros((3, 2)) + 0.1, "three": np.full((3, 2), 0.7)}
    federation = LocalFederation(clients)
    counts = [
        float(view(federation).release(Count())["count"]) for view in (HoldOut(0.5).training, HoldOut(0.5).evaluation)
    ]
    assert sum(counts) == pytest.approx(9)
    assert {round(count) % 3 for count in counts} == {0}  # equal rows go together


def test_parts_are_kept_for_frozen_rows_and_let_go_with_them(monkeypatch) -> None:
    calls = []
    real = module.held_out_mask
    monkeypatch.setattr(module, "held_out_mask", lambda *arguments: calls.append(1) or real(*arguments))
    gc.collect()
    before = len(module._SPLITS)
    federation = LocalFederation(silos(), mode="trusted")
    view = HoldOut(0.25, seed=77).training(federation)
    view.release(Count())
    view.release(VectorSum(3, 1.0))
    assert len(calls) == 4
    loaded = LocalFederation([lambda rows=rows: rows.copy() for rows in silos().values()], mode="trusted")
    HoldOut(0.25, seed=77).training(loaded).release(Count())
    assert len(module._SPLITS) <= before + 4 + 4
    del federation, view, loaded
    gc.collect()
    assert len(module._SPLITS) == before


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan"), True, "0.2", None])
def test_fractions_of_other_kinds_are_refused(fraction) -> None:
    with pytest.raises(UsageError, match=r"expected a fraction in \(0, 1\)"):
        HoldOut(fraction)


def test_seeds_of_other_kinds_are_refused() -> None:
    for seed in (-1, 1.5, 2**63):
        with pytest.raises(UsageError, match="seed"):
            HoldOut(0.2, seed)


def test_a_part_of_a_part_is_refused() -> None:
    federation = LocalFederation(silos())
    view = HoldOut(0.2).training(federation)
    with pytest.raises(UsageError, match="part of a federation already"):
        HoldOut(0.2).training(view)
    once = view.asked(Count())
    with pytest.raises(UsageError, match="of a part of the rows already"):
        view.asked(once)
    with pytest.raises(UsageError, match="use the other class"):
        ClientPart(encode_query(Count()), 0.2, 0, True)
    with pytest.raises(UsageError, match="use the other class"):
        RowPart(encode_query(MeanRow(3)), 0.2, 0, True)
    with pytest.raises(UsageError, match="fraction"):
        RowPart(encode_query(Count()), 2.0, 0, True)
    with pytest.raises(UsageError, match=r"privfed\.Count"):
        view.release("count")
    assert isinstance(decode_query(encode_query(once)), RowPart)
    assert isinstance(view, FederationPart)


def test_a_part_answers_under_the_name_of_the_query_that_was_asked() -> None:
    query = AdaptiveSum(3, 1.0)
    release = HoldOut(0.2).training(LocalFederation(silos())).release(query)
    assert release.query == "adaptive_sum"
    assert isinstance(query.following(release), AdaptiveSum)


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_one_more_record_moves_one_of_the_two_sums_by_itself_and_the_other_not_at_all(mode) -> None:
    """What a budget per record rests on: nobody else's record changes sides, whatever place the new one takes."""
    clients, hold_out = silos(3), HoldOut(0.4, seed=5)
    for seed in range(4):
        row = np.random.default_rng(seed).uniform(-0.5, 0.5, (1, 3))
        more = clients | {"c1": np.insert(clients["c1"], 7 * seed, row, axis=0)}
        moved = []
        for part in (hold_out.training, hold_out.evaluation):
            sums = [part(LocalFederation(c, mode=mode)).release(VectorSum(3, 9.0))["sum"] for c in (clients, more)]
            moved.append(sums[1] - sums[0])
        held = bool(held_out_mask(row, 0.4, 5)[0])
        np.testing.assert_allclose(moved[held], row[0], atol=1e-8)
        np.testing.assert_allclose(moved[not held], 0.0, atol=1e-8)


@dataclass(frozen=True, eq=False)
class Picky(Count):
    """Cannot use values beyond 0.4 at all, and has no use for negative ones."""

    kind: ClassVar[str] = "picky-about-rows"

    def admit(self, data: np.ndarray, *, scanned: bool = False) -> None:
        super().admit(data, scanned=scanned)
        if (data > 0.4).any():
            raise DataError("beyond 0.4")

    def vet(self, data: np.ndarray) -> None:
        if (data < 0).any():
            raise DataError("below zero")


@pytest.mark.parametrize("of", ["training", "evaluation", "mapped"])
def test_what_the_inner_query_refuses_is_refused_through_a_view(of) -> None:
    def view(federation):
        if of == "mapped":
            return TransformedFederation(federation, LinearMap(np.zeros(3), np.eye(3), reach=9.0))
        return getattr(HoldOut(0.5), of)(federation)

    good, large, small = np.full((9, 3), 0.3), np.full((9, 3), 0.5), np.full((9, 3), -0.3)
    view(LocalFederation([good, good])).release(Picky())
    with pytest.raises(DataError, match=r"client-01.*beyond"):
        view(LocalFederation([good, large])).release(Picky())
    with pytest.raises(DataError, match=r"client-01.*below"):
        view(LocalFederation([good, small])).release(Picky())
    protected = LocalFederation([good, small], budget=Budget(1.0, 1e-5))
    with pytest.warns(UserWarning, match=r"client-01.*below zero; under a budget such rows count for nothing"):
        view(protected).release(Picky(), share=0.5)
    with pytest.raises(DataError, match="beyond"):
        view(LocalFederation([good, large], budget=Budget(1.0, 1e-5))).release(Picky(), share=0.5)


def test_a_budget_keeps_what_a_row_is_to_a_query_at_home_where_warnings_are_errors(caplog) -> None:
    """A warning that stopped the round would tell the coordinator, who chose the query, and give the charge back."""
    good, small = np.full((9, 3), 0.3), np.full((9, 3), -0.3)
    federation = LocalFederation([good, small], budget=Budget(1.0, 1e-5))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        federation.release(Picky(), share=0.5)
    assert "client-01" in caplog.text
    assert "count for nothing" in caplog.text
    assert federation.remaining_share == pytest.approx(0.5)
