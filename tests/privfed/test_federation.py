"""The one door, through the real protocol and the real ledger."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, BudgetExhausted, DataError, FederationError, Ledger, LocalFederation, Loss, UsageError
from privfed.federation import Federation
from privfed.query import Block, Query
from privfed.statistics.moments import Count, Moments, VectorSum
from privfed.statistics.transform import LinearMap, Transformed, TransformedFederation
from privfed_accounting import verify

BUDGET = Budget(epsilon=2.0, delta=1e-5)


def silos(n: int = 5, rows: int = 40, d: int = 3, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {f"silo-{i}": rng.standard_normal((rows + i, d)) for i in range(n)}


def pooled(clients: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate(list(clients.values()))


@settings(max_examples=15, deadline=None)
@given(
    n=st.integers(2, 8),
    lost=st.integers(0, 3),
    step=st.sampled_from(["advertise", "shares", "masked"]),
    seed=st.integers(0, 99),
)
def test_the_sum_is_that_of_the_survivors(n, lost, step, seed) -> None:
    clients = silos(n, seed=seed)
    lost = min(lost, n - 2)
    names = list(clients)[:lost]
    federation = LocalFederation(clients, dropout=lost / n, losses=[Loss(name, step) for name in names])
    release = federation.release(Moments(center=np.zeros(3), radius=100.0))
    rest = pooled({name: rows for name, rows in clients.items() if name not in names})
    assert release["count"] == pytest.approx(len(rest))
    np.testing.assert_allclose(release["sum"], rest.sum(axis=0), rtol=1e-9, atol=1e-6)
    assert release.lost == tuple(sorted(names))
    assert release.survivors == n - lost
    assert not release.private
    assert release.noise_std["sum"] == 0.0


def test_a_client_lost_after_its_input_stays_in_the_sum() -> None:
    clients = silos(6)
    federation = LocalFederation(clients, dropout=0.34, losses=[Loss("silo-1", "unmask"), Loss("silo-4", "unmask")])
    release = federation.release(Count())
    assert release["count"] == pytest.approx(len(pooled(clients)))
    assert release.survivors == 6


@pytest.mark.parametrize("unit", ["record", "client"])
def test_trusted_mode_gives_the_same_integers(unit) -> None:
    """Seeded noise makes the two paths comparable: one sums in the clear, the other through masks."""
    budget = Budget(epsilon=1.0, delta=1e-5, unit=unit)
    query = Moments(center=np.zeros(3), radius=3.0)
    releases = [
        LocalFederation(
            silos(6), budget=budget, mode=mode, dropout=0.34, losses=[Loss("silo-2", "masked")], noise_seed=7
        ).release(query, share=0.5)
        for mode in ("secure", "trusted")
    ]
    for block in ("count", "sum", "second"):
        np.testing.assert_array_equal(releases[0][block], releases[1][block])
    assert [release.protection for release in releases] == ["secure_aggregation", "trusted"]


def test_noise_has_the_declared_size_and_not_another() -> None:
    """2000 coordinates of pure noise: the standard deviation is within 5 %, which 10 % more or less would not be."""
    clients = {f"c{i}": np.zeros((1, 2000)) for i in range(4)}
    federation = LocalFederation(clients, budget=Budget(1.0, 1e-5), mode="trusted", noise_seed=1)
    release = federation.release(VectorSum(2000, 1.0), share=0.5)
    ratio = np.std(release["sum"]) / release.noise_std["sum"]
    assert 0.95 < ratio < 1.05
    assert release.noise_std["sum"] == pytest.approx(1 / (math.sqrt(0.5) * federation.total_mu), rel=1e-3)


def test_the_fewest_survivors_carry_the_target_noise() -> None:
    clients = {f"c{i}": np.zeros((1, 2000)) for i in range(10)}
    losses = [Loss(f"c{i}", "masked") for i in range(3)]
    federation = LocalFederation(
        clients, budget=Budget(1.0, 1e-5), mode="trusted", dropout=0.3, losses=losses, noise_seed=2
    )
    query = VectorSum(2000, 1.0)
    promised = federation.noise_std(query, 0.5)["sum"]
    release = federation.release(query, share=0.5)
    assert release.survivors == 7
    assert release.noise_std["sum"] == pytest.approx(promised)
    assert 0.95 < np.std(release["sum"]) / (1 / (math.sqrt(0.5) * federation.total_mu)) < 1.05


def test_a_client_with_many_rows_weighs_no_more_than_agreed() -> None:
    clients = {"small": np.ones((1, 2)), "large": np.full((1000, 2), 9.0)}
    federation = LocalFederation(
        clients, budget=Budget(20.0, 1e-5, unit="client"), mode="trusted", noise_seed=1, records_per_client=10
    )
    release = federation.release(VectorSum(2, 100.0), share=1.0)
    assert np.all(np.abs(release["sum"] - (1 + 90)) < 6 * release.noise_std["sum"])


def test_the_budget_is_charged_before_and_refuses_before_anything_moves(tmp_path) -> None:
    calls = []

    def load() -> np.ndarray:
        calls.append(1)
        return np.ones((10, 2))

    federation = LocalFederation([load] * 3, budget=BUDGET, ledger=tmp_path / "b.db")
    query = VectorSum(2, 2.0)
    for _ in range(4):
        federation.release(query, share=0.25)
    asked, entries = len(calls), len(federation.ledger.rounds())
    assert federation.remaining_share == pytest.approx(0.0, abs=1e-6)
    with pytest.raises(BudgetExhausted):
        federation.release(query, share=0.01)
    assert len(calls) == asked
    assert len(federation.ledger.rounds()) == entries
    assert federation.ledger.epsilon() <= 2.0
    assert federation.ledger.epsilon() == pytest.approx(2.0, rel=1e-3)
    federation.close()
    assert verify(tmp_path / "b.db").ok


def test_epsilon_per_view_and_round() -> None:
    federation = LocalFederation(silos(10), budget=BUDGET, mode="trusted")
    first = federation.release(Count(), share=0.3)
    second = federation.release(Count(), share=0.3)
    assert set(first.epsilon) == {"released", "server", "client", "unmasked"}
    assert first.epsilon["released"] <= first.epsilon["client"] < first.epsilon["unmasked"]
    assert all(second.epsilon[view] > first.epsilon[view] for view in first.epsilon)


def test_a_second_run_goes_on_from_the_same_ledger(tmp_path) -> None:
    for _ in range(2):
        with LocalFederation(silos(), budget=BUDGET, ledger=tmp_path / "b.db", mode="trusted") as federation:
            federation.release(Count(), share=0.4)
    with LocalFederation(silos(), budget=BUDGET, ledger=tmp_path / "b.db", mode="trusted") as federation:
        assert federation.remaining_share == pytest.approx(0.2, abs=1e-6)
        with pytest.raises(BudgetExhausted):
            federation.release(Count(), share=0.4)


def test_bad_data_found_on_the_way_gives_the_charge_back() -> None:
    rows = [np.ones((5, 2))]

    def load() -> np.ndarray:
        return rows[0]

    federation = LocalFederation({"a": np.ones((3, 2)), "b": load, "c": np.ones((3, 2))}, budget=BUDGET)
    query = VectorSum(2, 2.0)
    rows[0] = np.full((5, 2), np.nan)
    with pytest.raises(DataError, match=r"'b'.*NaN"):
        federation.release(query, share=0.5)
    assert federation.remaining_share == pytest.approx(1.0)
    rows[0] = np.ones((5, 2))
    assert federation.release(query, share=1.0).survivors == 3


@pytest.mark.parametrize("mode", ["secure", "trusted"])
@pytest.mark.parametrize(("step", "charged"), [("advertise", False), ("shares", False), ("masked", False)])
def test_too_few_clients_fail_closed_and_give_the_charge_back(mode, step, charged) -> None:
    losses = [Loss(f"silo-{i}", step) for i in range(3)]
    federation = LocalFederation(silos(6), budget=BUDGET, mode=mode, dropout=0.34, losses=losses)
    with pytest.raises(FederationError, match=r"dropout=|set-up") as caught:
        federation.release(Count(), share=0.5)
    assert caught.value.charged is charged
    assert federation.remaining_share == pytest.approx(1.0)


def test_a_round_that_fails_after_the_survivors_are_named_stays_charged(tmp_path) -> None:
    losses = [Loss(f"silo-{i}", "unmask", rounds={1}) for i in range(5)]
    federation = LocalFederation(silos(6), budget=BUDGET, ledger=tmp_path / "b.db", dropout=0.34, losses=losses)
    with pytest.raises(FederationError) as caught:
        federation.release(Count(), share=0.5)
    assert caught.value.charged
    assert federation.remaining_share == pytest.approx(0.5, abs=1e-6)
    federation.close()
    assert verify(tmp_path / "b.db").ok


def test_the_next_release_works_after_a_failed_one() -> None:
    losses = [Loss(f"silo-{i}", "masked", rounds={2}) for i in range(4)]
    federation = LocalFederation(silos(6), dropout=0.34, losses=losses)
    assert federation.release(Count(), rounds=5)["count"] > 0
    with pytest.raises(FederationError):
        federation.release(Count())
    with pytest.raises(FederationError):
        federation.release(Count())  # the failed release did not count: this is still number 2


def test_epochs_follow_one_another_and_the_layout() -> None:
    clients = silos(4)
    federation = LocalFederation(clients)
    for rounds in (3, 2, 1):
        assert federation.release(Count(), rounds=rounds)["count"] == pytest.approx(len(pooled(clients)))
    assert federation.release(Moments(center=np.zeros(3), radius=9.0))["count"] == pytest.approx(len(pooled(clients)))
    assert federation.release(Count())["count"] == pytest.approx(len(pooled(clients)))


@dataclass(frozen=True, eq=False)
class TooMuch(Query):
    """Breaks its own bound: one row moves the vector by 100 000."""

    kind: ClassVar[str] = "breaks-its-bound"

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("sum", (2,), 1.0),)

    @property
    def n_features(self) -> int:
        return 2

    def contribution(self, data: np.ndarray) -> dict[str, np.ndarray]:
        return {"sum": 1e5 * data.sum(axis=0)}


def test_no_client_can_wrap_the_sum() -> None:
    federation = LocalFederation({"a": np.ones((1, 2)), "b": np.ones((1, 2))}, mode="trusted", max_records=10)
    with pytest.raises(FederationError, match="beyond the plan's bound"):
        federation.release(TooMuch())


def test_a_client_unit_is_clipped_whatever_the_query_computes() -> None:
    federation = LocalFederation(
        {"a": np.ones((1, 2)), "b": np.ones((1, 2))},
        budget=Budget(20.0, 1e-5, unit="client"),
        mode="trusted",
        noise_seed=3,
    )
    release = federation.release(TooMuch(), share=1.0)
    assert np.linalg.norm(release["sum"]) <= 2 + 8 * release.noise_std["sum"]


@pytest.mark.parametrize(
    ("clients", "match"),
    [
        ([np.ones((3, 2))], "fewer than 2"),
        ([], "fewer than 2"),
        ([np.ones((3, 2)), np.ones((3, 3))], "features"),
        ([np.ones((3, 2)), np.ones((0, 2))], "empty client"),
        ([np.ones((3, 2)), np.full((3, 2), np.inf)], "NaN, infinity"),
        ([np.ones((3, 2)), np.ones(3)], "reshape"),
        ([np.ones((3, 2)), [["a", "b"]]], "real numbers"),
        ("abc", "expected a list"),
        (7, "expected a list"),
    ],
)
def test_bad_clients_are_refused_at_once(clients, match) -> None:
    with pytest.raises((UsageError, DataError), match=match):
        LocalFederation(clients)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "open"}, "mode"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": -0.1}, "dropout"),
        ({"dropout": 0.9}, "tolerate fewer"),
        ({"max_records": 10}, "max_records"),
        ({"losses": [Loss("nobody", "masked")]}, "nobody"),
        ({"losses": [Loss("silo-1", "lunch")]}, "lunch"),
    ],
)
def test_bad_options_are_refused_at_once(options, match) -> None:
    with pytest.raises((UsageError, DataError), match=match):
        LocalFederation(silos(), **options)


@pytest.mark.parametrize("share", [None, 0.0, -1.0, 1.5, math.nan])
def test_a_budget_needs_a_share(share) -> None:
    federation = LocalFederation(silos(), budget=BUDGET, mode="trusted")
    with pytest.raises(UsageError, match="share"):
        federation.release(Count(), share=share)
    assert federation.ledger.rounds() == []


def test_frames_keep_their_names_and_order() -> None:
    pandas = pytest.importorskip("pandas")
    frames = [pandas.DataFrame(np.ones((3, 2)), columns=["age", "dose"]) for _ in range(3)]
    federation = LocalFederation(frames)
    assert federation.feature_names == ("age", "dose")
    assert federation.release(VectorSum(2, 9.0))["sum"].tolist() == pytest.approx([9.0, 9.0])
    with pytest.raises(DataError, match="one order"):
        LocalFederation([frames[0], frames[1][["dose", "age"]]])


def test_it_is_a_federation() -> None:
    assert isinstance(LocalFederation(silos(), mode="trusted"), Federation)


def test_an_open_ledger_of_another_budget_is_refused() -> None:
    ledger = Ledger.open(None, budget=Budget(1.0, 1e-6))
    with pytest.raises(UsageError, match="opened for"):
        LocalFederation(silos(), budget=BUDGET, ledger=ledger)


@dataclass(frozen=True, eq=False)
class Oracle(Count):
    """Fails exactly when a row is large: what an attacker would ask."""

    kind: ClassVar[str] = "fails-on-large-rows"
    threshold: float = 3.0

    def contribution(self, data: np.ndarray) -> dict[str, np.ndarray]:
        if (np.abs(data) > self.threshold).any():
            raise DataError("large")
        return {"count": np.array(float(len(data)))}


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_a_query_that_fails_on_some_rows_stays_charged(mode) -> None:
    """That it fails tells something about the rows; a charge given back would make that free."""
    clients = silos(4) | {"silo-1": np.full((5, 3), 9.0)}
    federation = LocalFederation(clients, budget=BUDGET, mode=mode)
    with pytest.raises(FederationError, match="failed on its rows") as caught:
        federation.release(Oracle(), share=0.25)
    assert caught.value.charged
    assert federation.remaining_share == pytest.approx(0.75, abs=1e-6)


@dataclass(frozen=True, eq=False)
class IllConditioned(Count):
    kind: ClassVar[str] = "ill-conditioned-in-a-test"

    @property
    def row_error(self) -> float:
        return math.inf


def test_a_query_that_cannot_bound_rounding_is_for_no_budget() -> None:
    clients = silos(3)
    assert LocalFederation(clients).release(IllConditioned())["count"] == pytest.approx(len(pooled(clients)))
    federation = LocalFederation(clients, budget=BUDGET)
    with pytest.raises(UsageError, match="rounding"):
        federation.release(IllConditioned(), share=0.5)
    assert federation.ledger.rounds() == []


def test_a_loaded_client_may_have_lost_its_last_row() -> None:
    rows = [np.ones((1, 2))]
    federation = LocalFederation([lambda: rows[0], np.ones((4, 2)), np.ones((5, 2))], budget=BUDGET, noise_seed=1)
    federation.release(Count(), share=0.5)
    rows[0] = np.ones((0, 2))
    assert federation.release(Count(), share=0.5).survivors == 3


def test_the_threshold_exceeds_the_guarded_colluders_whoever_is_lost() -> None:
    """Six of ten work with the server and two honest clients are lost in set-up: six shares must still open nothing."""
    budget = Budget(1.0, 1e-5, view="colluders(6)")
    losses = [Loss("silo-0", "advertise"), Loss("silo-1", "advertise")]
    federation = LocalFederation(silos(10), budget=budget, dropout=0.2, losses=losses)
    assert federation.release(Count(), share=0.5).survivors == 8
    with pytest.raises(UsageError, match="at most 6 colluders"):
        LocalFederation(silos(10), budget=Budget(1.0, 1e-5, view="colluders(7)"), dropout=0.2)


SECRET = "Smith, HIV+"


@pytest.mark.parametrize("loaded", [False, True])
def test_no_error_quotes_a_row(loaded) -> None:
    pandas = pytest.importorskip("pandas")
    for data in (pandas.DataFrame({"age": [3.0], "name": [SECRET]}), [[SECRET, 1.0]]):
        client = (lambda data=data: data) if loaded else data
        with pytest.raises(DataError) as caught:
            LocalFederation([client, np.ones((2, 2)), np.ones((2, 2))]).release(Count())
        chain = [caught.value, caught.value.__cause__] + [caught.value.__context__] * (
            not caught.value.__suppress_context__
        )
        assert not any("Smith" in str(error) for error in chain)
    with pytest.raises(DataError, match="'name'"):
        LocalFederation([pandas.DataFrame({"age": [3.0], "name": [SECRET]})] * 2)


def test_loaded_frames_must_agree_on_their_columns() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(np.ones((3, 2)), columns=["a", "b"])
    federation = LocalFederation([lambda: frame, lambda: frame[["b", "a"]], lambda: frame])
    with pytest.raises(DataError, match="one order"):
        federation.release(Count())


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (np.ones((2, 2), dtype=complex), "real numbers"),
        (np.ones((2, 2), dtype="datetime64[D]"), "real numbers"),
        ([[1.0, 2.0], [3.0]], "same length"),
        ("file.csv", "real numbers"),
    ],
)
def test_data_of_other_kinds_are_refused(data, match) -> None:
    with pytest.raises(DataError, match=match):
        LocalFederation([data, np.ones((2, 2))])


def test_integer_columns_are_no_names() -> None:
    pandas = pytest.importorskip("pandas")
    assert LocalFederation([pandas.DataFrame(np.ones((3, 2)))] * 2).feature_names is None


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: LocalFederation(silos(), budget=(1, 1e-5)), r"privfed\.Budget"),
        (lambda: LocalFederation(silos(), budget=Budget(100.0, 1e-5)), "at most 35"),
        (lambda: LocalFederation(silos(), dropout="a"), "dropout"),
        (lambda: LocalFederation(silos(), ledger=""), "ledger"),
        (lambda: LocalFederation(silos(), ledger=3), "ledger"),
        (lambda: LocalFederation(silos(), ledger=":memory:"), "ledger=None"),
        (lambda: LocalFederation(silos(), max_records="a"), "max_records"),
        (lambda: LocalFederation(silos(), losses=["client-01"]), r"privfed\.Loss\('client-01'"),
        (lambda: LocalFederation(silos(), losses=Loss("silo-1", "masked")), "expected a list"),
        (lambda: LocalFederation(silos()).release(Count(), noise_multiplier=2), r"budget=privfed\.Budget"),
        (lambda: LocalFederation(silos()).noise_std(Count(), noise_multiplier=2), r"budget=privfed\.Budget"),
        (lambda: LocalFederation(silos(), records_per_client=0), "records_per_client"),
        (lambda: LocalFederation({"": np.ones((2, 2)), "b": np.ones((2, 2))}), "name"),
        (lambda: LocalFederation(silos()).release("count"), r"privfed\.Count"),
        (lambda: LocalFederation(silos()).release(Count), r"privfed\.Count"),
        (lambda: LocalFederation(silos()).release(Count(), rounds=0), "rounds"),
        (lambda: VectorSum(0, 1.0), "dimension"),
        (lambda: Moments(center=np.zeros(2), radius="1"), "radius"),
    ],
)
def test_arguments_of_other_kinds_get_a_clear_error(call, match) -> None:
    with pytest.raises(UsageError, match=match):
        call()


def test_what_a_federation_and_a_release_say_of_themselves() -> None:
    federation = LocalFederation(silos(), budget=BUDGET, mode="trusted")
    release = federation.release(Count(), share=0.25)
    assert "5 clients, trusted" in repr(federation)
    assert "75.0% of it left" in repr(federation)
    assert list(release) == list(release.keys()) == ["count"]
    assert "count" in release
    with pytest.raises(KeyError, match="there are"):
        release["sum"]


def test_numpy_scalars_travel() -> None:
    query = Moments(center=np.zeros(3), radius=np.linalg.norm([9, 9]))
    assert LocalFederation(silos()).release(query)["count"] == pytest.approx(len(pooled(silos())))


def test_a_map_hides_no_rounding() -> None:
    """The query behind a map states its own error, infinity included, and the plan counts it."""
    linear_map = LinearMap(np.zeros(3), np.eye(3), 9.0)
    assert Transformed.of(IllConditioned(), linear_map).row_error == math.inf
    federation = LocalFederation(silos(3), budget=BUDGET)
    with pytest.raises(UsageError, match="rounding"):
        TransformedFederation(federation, linear_map).release(IllConditioned(), share=0.5)
    assert federation.ledger.rounds() == []


def test_without_a_budget_a_share_is_ignored() -> None:
    assert LocalFederation(silos()).release(Count(), share=0.5)["count"] == pytest.approx(len(pooled(silos())))


def test_a_ledger_is_a_path_or_a_url(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for index, ledger in enumerate(("sqlite:///x.db", "x.db", f"sqlite:///{tmp_path}/x.db")):
        with LocalFederation(silos(), budget=BUDGET, ledger=ledger, mode="trusted") as federation:
            assert federation.remaining_share == pytest.approx(1.0 - 0.25 * index)
            federation.release(Count(), share=0.25)
    assert [path.name for path in tmp_path.iterdir()] == ["x.db"]


def test_the_url_of_a_server_reaches_the_ledger_as_it_is(monkeypatch) -> None:
    opened = []

    def remember(path, **_):
        opened.append(path)
        raise UsageError("no server here")

    monkeypatch.setattr("privfed.engines.local.Ledger.open", remember)
    url = "postgresql+psycopg://user@host/name"
    with pytest.raises(UsageError, match="no server"):
        LocalFederation(silos(), budget=BUDGET, ledger=url)
    assert opened == [url]


def test_a_dropout_that_tolerates_nobody_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match=r"no loss at all: use dropout=0\.3334") as caught:
        LocalFederation(silos(3), dropout=0.3)
    assert caught[0].filename == __file__
    assert LocalFederation(silos(3), dropout=0.3334).guaranteed_survivors == 2
    with pytest.warns(UserWarning, match="bring more clients"):
        LocalFederation(silos(2), dropout=0.3)


def test_tensors_that_require_grad_say_what_to_do() -> None:
    torch = pytest.importorskip("torch")
    tracked = torch.ones((3, 2), requires_grad=True)
    for data in (tracked, list(tracked)):
        with pytest.raises(DataError, match=r"\.detach\(\)"):
            LocalFederation([data, data])
    assert LocalFederation([tracked.detach()] * 2).n_features == 2
