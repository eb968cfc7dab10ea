"""Queries of whole clients: one clipped vector each, memories at home that follow the releases, and what they cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, BudgetExhausted, FederationError, Ledger, LocalFederation, Loss, UsageError
from privfed.federation.memory import StagedMemory
from privfed.query import Block, ClientQuery, decode_query, encode_query
from privfed.statistics.moments import Count, VectorSum
from privfed.statistics.transform import LinearMap, Transformed
from privfed_accounting import ClientGuard, GuardPolicy, Sampling


@dataclass(frozen=True, eq=False)
class MeanRow(ClientQuery):
    """The mean of a client's rows, however many they are, and how often this client took part before."""

    kind: ClassVar[str] = "test_mean_row"
    dimension: int
    bound: float = 1.0

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("sum", (self.dimension,), self.bound, 0.75), Block("turns", (), 1.0, 0.25))

    @property
    def n_features(self) -> int:
        return self.dimension

    def client_contribution(self, data: np.ndarray, memory: MutableMapping[str, np.ndarray]) -> Mapping[str, Any]:
        turns = memory.get("turns", np.zeros(()))
        memory["turns"] = turns + 1.0
        mean = data.mean(axis=0) if len(data) else np.zeros(self.dimension)
        return {"sum": mean, "turns": np.minimum(turns / 100.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Forgetful(MeanRow):
    """As `MeanRow`, but says that it remembers nothing; it is held to its word."""

    kind: ClassVar[str] = "test_forgetful"

    @property
    def remembers(self) -> bool:
        return False


@dataclass(frozen=True, eq=False)
class Boundless(ClientQuery):
    """Breaks its bound by far: clips nothing, and its row's error is unknown."""

    kind: ClassVar[str] = "test_boundless"
    dimension: int

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("sum", (self.dimension,), 1.0),)

    @property
    def row_error(self) -> float:
        return math.inf

    def client_contribution(self, data: np.ndarray, memory: MutableMapping[str, np.ndarray]) -> Mapping[str, Any]:
        return {"sum": np.resize(data.sum(axis=0), self.dimension)}


@dataclass(frozen=True, eq=False)
class Failing(ClientQuery):
    """Writes its memory, then fails on a client whose first number is negative."""

    kind: ClassVar[str] = "test_failing_client"
    how: str = "raise"

    @property
    def blocks(self) -> tuple[Block, ...]:
        return (Block("sum", (), 1.0),)

    def client_contribution(self, data: np.ndarray, memory: MutableMapping[str, np.ndarray]) -> Mapping[str, Any]:
        memory["turns"] = memory.get("turns", np.zeros(())) + 1.0
        if self.how == "in place":
            memory["kept"] += 1.0
        if data[0, 0] < 0 and self.how == "raise":
            raise ValueError("not on these rows")
        return {"sum": np.nan if data[0, 0] < 0 and self.how == "nan" else 0.0}


def silos(n: int = 6, d: int = 3, rows: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {f"c{index}": rng.uniform(-0.5, 0.5, (rows + 7 * index, d)) for index in range(n)}


def plan_without_noise(plan):
    return dataclasses.replace(plan, mechanism="none")


def turns(memories: Mapping[str, MutableMapping[str, np.ndarray]]) -> dict[str, float]:
    return {name: float(memory["turns"]) if "turns" in memory else 0.0 for name, memory in memories.items()}


# --- the sum ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_every_client_counts_once_however_many_rows_it_holds(mode) -> None:
    clients = silos()
    with LocalFederation(clients, mode=mode) as federation:
        release = federation.release(MeanRow(3))
    np.testing.assert_allclose(release["sum"], sum(rows.mean(axis=0) for rows in clients.values()), atol=1e-9)


def test_a_client_without_rows_takes_part() -> None:
    clients = {**silos(), "empty": lambda: np.empty((0, 3))}
    expected = sum(rows.mean(axis=0) for rows in silos().values())
    release = LocalFederation(clients).release(MeanRow(3))
    np.testing.assert_allclose(release["sum"], expected, atol=1e-9)
    assert release.survivors == 7


@pytest.mark.parametrize("unit", ["record", "client"])
@pytest.mark.parametrize("size", [1e3, 1e99])
def test_the_clients_side_clips_what_a_query_should_have(unit, size) -> None:
    """One vector of norm 1 each: unclipped, the sum would be a thousand times longer."""
    rows = np.full((3, 4), size)
    budget = Budget(epsilon=20.0, delta=1e-5, unit=unit)
    federation = LocalFederation([rows] * 3, budget=budget, mode="trusted", noise_seed=3)
    release = federation.release(Boundless(4), share=0.9)
    np.testing.assert_allclose(release["sum"], np.full(4, 1.5), atol=6 * release.noise_std["sum"])


def test_it_travels_as_data() -> None:
    query = MeanRow(3, bound=0.5)
    again = decode_query(encode_query(query))
    assert type(again) is MeanRow
    assert (again.dimension, again.bound, again.per_client) == (3, 0.5, True)


def test_queries_that_take_turns_keep_their_set_ups() -> None:
    """Training and evaluation alternate: each goes on in the epoch that it set up, and pays for that once."""
    clients = silos()
    with LocalFederation(clients) as federation:
        releases = [federation.release(query, rounds=9) for _ in range(3) for query in (MeanRow(3), Count())]
    sent = np.array([release.bytes_up for release in releases]).reshape(3, 2)
    assert (sent[1:] < sent[0] / 3).all()
    for release in releases[::2]:
        np.testing.assert_allclose(release["sum"], sum(rows.mean(axis=0) for rows in clients.values()), atol=1e-9)
    for release in releases[1::2]:
        assert float(release["count"]) == pytest.approx(sum(map(len, clients.values())))


# --- what it costs ----------------------------------------------------------------------------------------------------


def test_sensitivities_are_those_of_whole_vectors() -> None:
    """One client replaced by nothing: 1. One record may turn the vector about: 2. Weights in records do not matter."""
    for weight in (0.5, 1.0, 50.0):
        assert MeanRow(3).sensitivity("client", records_per_client=weight).l2 == 1.0
        assert MeanRow(3).sensitivity("record", records_per_client=weight).l2 == 2.0


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), size=st.sampled_from([1e-3, 1.0, 1e6, 1e99]))
def test_one_record_moves_the_clipped_vector_by_two_at_most(seed, size) -> None:
    """The promise behind the 2, in integers: both vectors are rounded, which counts twice as well."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((4, 3)) * size
    federation = LocalFederation([rows, rows[:1]], budget=Budget(1.0, 1e-5), mode="trusted", noise_seed=0)
    side = next(iter(federation._sides.values()))
    query = Boundless(3)
    plan = federation.plan(query, share=0.5)
    clean = plan_without_noise(plan)
    vectors = [side.contribution(query, clean, part).vector.astype(np.int64) for part in (rows, rows[:-1])]
    assert np.linalg.norm(vectors[0] - vectors[1]) <= plan.l2_sensitivity
    assert np.linalg.norm(vectors[0]) <= plan.l2_sensitivity / 2


def test_opposite_vectors_need_the_whole_sensitivity() -> None:
    """One record of four turns the vector about: no bound below twice the norm would hold."""
    federation = LocalFederation([np.ones((4, 2))] * 2, budget=Budget(1.0, 1e-5), mode="trusted", noise_seed=0)
    side, query = federation._sides["client-00"], Boundless(2)
    plan = federation.plan(query, share=0.5)
    rows = np.array([[1.0, 1.0], [1.0, 1.0], [-9.0, -9.0]])
    ends = [
        side.contribution(query, plan_without_noise(plan), part).vector.astype(np.int64) for part in (rows, rows[:2])
    ]
    assert np.linalg.norm(ends[0] - ends[1]) > 1.999 * plan.scale
    assert plan.l2_sensitivity >= np.linalg.norm(ends[0] - ends[1])


CASES = {
    "fine, record": ({"unit": "record"}, {}, 2.0, 1e-3),
    "fine, client": ({"unit": "client"}, {}, 1.0, 1e-3),
    "fine, client, weights of 40 records": ({"unit": "client"}, {"records_per_client": 40.0}, 1.0, 1e-3),
    "coarse, record": ({"unit": "record", "accounting": "renyi"}, {"bits": 16}, 2.0, 0.3),
    "coarse, client": ({"unit": "client", "accounting": "renyi"}, {"bits": 16}, 1.0, 0.3),
    "coarse, client, chosen bits": ({"unit": "client", "accounting": "renyi"}, {"noise": "skellam"}, 1.0, 0.02),
}


@pytest.mark.parametrize("case", CASES)
def test_the_plan_and_the_ledger_count_whole_vectors(case) -> None:
    of_budget, options, bound, room = CASES[case]
    budget = Budget(epsilon=4.0, delta=1e-5, **of_budget)
    federation = LocalFederation([np.zeros((3, 500))] * 8, budget=budget, mode="trusted", noise_seed=5, **options)
    release = federation.release(MeanRow(500), share=0.5)
    plan, entry = release.plan, federation.ledger.rounds()[0].plan
    assert plan.unit_bound == bound
    assert plan.capacity == 1.0
    assert bound <= plan.l2_sensitivity / plan.scale <= bound * (1 + room)
    assert entry.l2_sensitivity == plan.l2_sensitivity
    assert entry.unit == budget.unit
    assert plan.regime == case.split(",")[0]


def test_records_cost_twice_the_noise_of_clients() -> None:
    """The same epsilon, twice the sensitivity, whatever max_records and records_per_client are."""
    noise = {}
    for unit in ("record", "client"):
        for most, weight in ((100, 1.0), (100_000, 7.0)):
            federation = LocalFederation(
                silos(), budget=Budget(1.0, 1e-5, unit=unit), max_records=most, records_per_client=weight
            )
            noise[unit, most] = federation.noise_std(MeanRow(3), 0.5)["sum"]
    assert noise["record", 100] == pytest.approx(2 * noise["client", 100], rel=1e-6)
    assert noise["record", 100_000] == pytest.approx(noise["record", 100], rel=1e-9)
    assert noise["client", 100_000] == pytest.approx(noise["client", 100], rel=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_the_noise_is_what_the_release_says_within_two_per_cent(case) -> None:
    """20 000 coordinates of nothing but noise: the standard deviation is known to half a per cent, so that noise 2 %
    larger or smaller than declared would be seen.
    """  # fmt: skip
    of_budget, options, bound, _ = CASES[case]
    budget = Budget(epsilon=4.0, delta=1e-5, **of_budget)
    options = {"bits": 18} | options if "bits" in options else options
    federation = LocalFederation([np.zeros((1, 20_000))] * 6, budget=budget, mode="trusted", noise_seed=8, **options)
    release = federation.release(MeanRow(20_000), share=0.5)
    found = float(np.std(release["sum"]))
    declared = release.noise_std["sum"]
    if release.plan.regime == "coarse":  # rounding at random adds a quarter of a step squared per client at most
        declared = math.hypot(declared, 0.5 * math.sqrt(6 / 3) / release.plan.scale / math.sqrt(0.75))
    assert declared * 0.985 < found < declared * 1.015
    ideal = bound / math.sqrt(0.75) / (math.sqrt(0.5) * federation.total_mu)
    assert release.noise_std["sum"] >= 0.999 * ideal


BUDGETS = {
    "none": None,
    "record": Budget(epsilon=4.0, delta=1e-5, unit="record", accounting="renyi"),
    "client": Budget(epsilon=4.0, delta=1e-5, unit="client", accounting="renyi"),
}


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("options", [{}, {"bits": 18}, {"drop_outs": "exact"}, {"security": "malicious"}], ids=str)
def test_secure_and_trusted_mode_give_the_same_integers(budget, options) -> None:
    found = []
    for mode in ("secure", "trusted"):
        kept = {name: {} for name in silos(8)}
        extra = {key: value for key, value in options.items() if not (key == "security" and mode == "trusted")}
        with LocalFederation(
            silos(8),
            budget=BUDGETS[budget],
            mode=mode,
            noise_seed=4,
            dropout=0.25,
            losses=[Loss("c3", "masked", rounds={2}), Loss("c5", "unmask", rounds={1})],
            memories=kept,
            **extra,
        ) as federation:
            query = MeanRow(3)
            for _ in range(2):
                release = federation.release(query, share=None if BUDGETS[budget] is None else 0.3, rounds=2)
        found.append((release["sum"], release["turns"], release.noise_std, turns(kept)))
    (sums, counts, noise, memories), (trusted_sums, trusted_counts, trusted_noise, trusted_memories) = found
    np.testing.assert_array_equal(sums, trusted_sums)
    np.testing.assert_array_equal(counts, trusted_counts)
    assert noise == trusted_noise
    assert memories == trusted_memories


def test_a_client_side_guard_counts_the_two() -> None:
    """A guard that allows one record to move a sum by 1 refuses a vector that it can turn about."""
    budget = Budget(2.0, 1e-5)
    for allowed, fits in ((1.5, False), (2.1, True)):
        policy = GuardPolicy(budget=budget, queries={"test_mean_row": allowed}, noise_sources=frozenset({"seeded"}))
        guard = ClientGuard(policy, Ledger.open(None, budget=budget))
        federation = LocalFederation(silos(), budget=budget, guards={"c1": guard}, noise_seed=1)
        if fits:
            assert federation.release(MeanRow(3), share=0.3).survivors == 6
        else:
            with pytest.raises(FederationError, match="guard of client 'c1' refuses"):
                federation.release(MeanRow(3), share=0.3)
            assert federation.remaining_share == 1.0


# --- what saves nothing -----------------------------------------------------------------------------------------------


def test_sampled_records_are_refused_under_a_budget_for_clients_remember() -> None:
    """A record that a client remembers speaks in rounds that did not draw it: a charge for the drawn would be false."""
    records = Sampling.poisson(0.1, unit="record")
    budget = Budget(4.0, 1e-5, accounting="renyi")
    federation = LocalFederation(silos(), budget=budget, sampling=records, mode="trusted")
    for call in (federation.release, federation.plan, federation.noise_std):
        with pytest.raises(UsageError, match="may remember records"):
            call(MeanRow(3), share=0.3)
    assert federation.ledger.rounds() == []
    assert federation.release(MeanRow(3), share=0.3, sampling=Sampling.none()).survivors == 6
    assert federation.release(VectorSum(3, 1.0), share=0.3).survivors == 6
    assert LocalFederation(silos(), sampling=records).release(MeanRow(3)).survivors == 6


def test_a_client_refuses_sampled_records_whatever_the_server_says(monkeypatch) -> None:
    budget = Budget(4.0, 1e-5, accounting="renyi")
    federation = LocalFederation(
        silos(), budget=budget, sampling=Sampling.poisson(0.1, unit="record"), mode="trusted", noise_seed=1
    )
    monkeypatch.setattr("privfed.federation.door.check_remembered", lambda *_, **__: None)
    with pytest.raises(UsageError, match="may remember records"):
        federation.release(MeanRow(3), share=0.3)
    assert federation.remaining_share == 1.0


def test_sampled_clients_are_fine() -> None:
    """A client that is not drawn says nothing, and remembers nothing new."""
    kept = {name: {} for name in silos(10)}
    federation = LocalFederation(
        silos(10),
        budget=Budget(8.0, 1e-5, unit="client", accounting="renyi"),
        sampling=Sampling.fixed_size(4, 10, unit="client"),
        mode="trusted",
        memories=kept,
        noise_seed=2,
    )
    for _ in range(3):
        assert federation.release(MeanRow(3), share=0.1).survivors == 4
    assert sum(turns(kept).values()) == 12


def test_a_cohort_of_fixed_size_hides_nobody_from_clients_that_remember() -> None:
    """Where the charge would count on the sample: what others remember tells that the missing one was not drawn."""
    budget = Budget(8.0, 1e-5, unit="client", view="released", accounting="renyi")
    fixed = Sampling.fixed_size(4, 10, unit="client")
    federation = LocalFederation(
        silos(10), budget=budget, dropout=0.25, drop_outs="exact", sampling=fixed, mode="trusted", noise_seed=2
    )
    with pytest.raises(UsageError, match="may remember who was drawn"):
        federation.release(MeanRow(3), share=0.1)
    assert federation.ledger.rounds() == []
    assert federation.release(Forgetful(3), share=0.1).survivors == 4


def test_a_query_that_says_it_forgets_gets_an_empty_memory() -> None:
    kept = {name: {} for name in silos(4)}
    federation = LocalFederation(silos(4), mode="trusted", memories=kept)
    for _ in range(2):
        federation.release(Forgetful(3))
    assert all(not memory for memory in kept.values())


def test_no_map_stands_before_whole_clients() -> None:
    """A wrapper that forgot that one record moves the vector by two would be charged for half of what it shows."""
    with pytest.raises(UsageError, match="of whole clients"):
        Transformed.of(MeanRow(3), LinearMap(np.zeros(3), np.eye(3), 9.0))


# --- memories ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_what_is_kept_stays_only_with_those_in_the_sum(mode) -> None:
    kept = {name: {} for name in silos()}
    losses = [Loss("c1", "masked", rounds={1}), Loss("c2", "unmask", rounds={2}), Loss("c4", "masked", rounds={2})]
    federation = LocalFederation(silos(), mode=mode, dropout=0.34, losses=losses, memories=kept)
    federation.release(MeanRow(3), rounds=3)
    assert turns(kept) == {"c0": 1.0, "c1": 0.0, "c2": 1.0, "c3": 1.0, "c4": 1.0, "c5": 1.0}
    assert float(federation.release(MeanRow(3))["turns"]) == pytest.approx(0.04, abs=1e-9)  # c0, c2, c3, c5, once each
    assert turns(kept) == {"c0": 2.0, "c1": 1.0, "c2": 2.0, "c3": 2.0, "c4": 1.0, "c5": 2.0}


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_a_release_with_too_few_clients_changes_no_memory(mode) -> None:
    kept = {name: {} for name in silos()}
    losses = [Loss(f"c{index}", "unmask" if mode == "secure" else "masked", rounds={2}) for index in range(5)]
    federation = LocalFederation(silos(), mode=mode, dropout=0.34, losses=losses, memories=kept)
    federation.release(MeanRow(3), rounds=4)
    with pytest.raises(FederationError):
        federation.release(MeanRow(3))
    assert turns(kept) == dict.fromkeys(kept, 1.0)
    federation._losses = ()
    assert float(federation.release(MeanRow(3))["turns"]) == pytest.approx(0.06, abs=1e-9)


@pytest.mark.parametrize("mode", ["secure", "trusted"])
@pytest.mark.parametrize("how", ["raise", "nan"])
def test_a_query_that_fails_on_one_client_changes_no_memory_and_stays_charged(mode, how) -> None:
    clients = silos()
    clients["c2"] = -np.ones((3, 3))
    kept = {name: {} for name in clients}
    federation = LocalFederation(clients, budget=Budget(2.0, 1e-5), mode=mode, memories=kept)
    with pytest.raises(FederationError, match="failed on its rows") as caught:
        federation.release(Failing(how), share=0.4)
    assert caught.value.charged
    assert federation.remaining_share == pytest.approx(0.6)
    assert kept == {name: {} for name in clients}


def test_a_refused_release_changes_no_memory() -> None:
    kept = {name: {} for name in silos()}
    federation = LocalFederation(silos(), budget=Budget(2.0, 1e-5), mode="trusted", memories=kept)
    federation.release(MeanRow(3), share=0.9)
    with pytest.raises(BudgetExhausted):
        federation.release(MeanRow(3), share=0.5)
    assert turns(kept) == dict.fromkeys(kept, 1.0)


def test_queries_of_records_leave_memories_alone() -> None:
    kept = {name: {} for name in silos()}
    LocalFederation(silos(), mode="trusted", memories=kept).release(Count())
    assert kept == {name: {} for name in silos()}


def test_memories_without_a_home_live_as_long_as_the_federation() -> None:
    federation = LocalFederation(silos(), mode="trusted")
    assert [float(federation.release(MeanRow(3))["turns"]) for _ in range(3)] == pytest.approx([0.0, 0.06, 0.12])
    assert float(LocalFederation(silos(), mode="trusted").release(MeanRow(3))["turns"]) == 0.0


def test_a_home_outlives_the_federation() -> None:
    kept = {name: {} for name in silos()}
    for _ in range(2):
        LocalFederation(silos(), mode="trusted", memories=kept).release(MeanRow(3))
    assert turns(kept) == dict.fromkeys(kept, 2.0)


def test_what_is_kept_is_not_written_in_place() -> None:
    """`memory["kept"] += 1` on an array that the user brought would move it even if the release fails."""
    kept = {name: {"kept": np.zeros(2)} for name in silos()}
    with pytest.raises(FederationError, match="failed on its rows"):
        LocalFederation(silos(), mode="trusted", memories=kept).release(Failing("in place"))
    for memory in kept.values():
        np.testing.assert_array_equal(memory["kept"], np.zeros(2))
        assert list(memory) == ["kept"]


def test_a_round_asked_anew_starts_from_what_was_committed() -> None:
    """An engine that broke off without a word: what the client wrote then is no part of the next round."""
    federation = LocalFederation(silos(), mode="trusted")
    side, query = federation._sides["c0"], MeanRow(3)
    plan = federation.plan(query)
    first = side.contribution(query, plan, silos()["c0"]).vector
    np.testing.assert_array_equal(side.contribution(query, plan, silos()["c0"]).vector, first)
    side.close(participants=6, survivors=6)
    assert not np.array_equal(side.contribution(query, plan, silos()["c0"]).vector, first)


@pytest.mark.parametrize(("outcome", "kept"), [({"survivors": 5, "summed": False}, 0), ({}, 0), ({"survivors": 5}, 1)])
def test_a_client_that_computed_in_vain_remembers_nothing(outcome, kept) -> None:
    """Its message was lost after it had computed: the others went on without it, or not at all."""
    home: dict[str, np.ndarray] = {}
    federation = LocalFederation(silos(), mode="trusted", memories={"c0": home})
    side, query = federation._sides["c0"], MeanRow(3)
    side.contribution(query, federation.plan(query), silos()["c0"])
    side.close(participants=6, **outcome)
    assert len(home) == kept


@pytest.mark.parametrize(
    ("memories", "match"),
    [
        ([{}], "expected a dict"),
        ({"c9": {}}, r"name clients \['c9'\], expected some of"),
        ({"c1": [1, 2]}, "expected a mutable mapping"),
        ({"c1": None}, "expected a mutable mapping"),
    ],
)
def test_memories_of_other_kinds_are_refused(memories, match) -> None:
    with pytest.raises(UsageError, match=match):
        LocalFederation(silos(), memories=memories)


def test_two_clients_do_not_share_a_memory() -> None:
    shared: dict[str, np.ndarray] = {}
    with pytest.raises(UsageError, match="share one memory"):
        LocalFederation(silos(), memories={"c1": shared, "c2": shared})


class Recording(dict):
    """A home that notes how it is written to."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls: list[tuple[str, ...]] = []

    def update(self, *args: Any, **kwargs: Any) -> None:
        self.calls.append(("update", *sorted(args[0])))
        super().update(*args, **kwargs)

    def pop(self, name: str, *default: Any) -> Any:
        self.calls.append(("pop", name))
        return super().pop(name, *default)

    def __setitem__(self, name: str, value: np.ndarray) -> None:
        raise TypeError("one array at a time: a crash between two would leave half a memory")


class TestStagedMemory:
    def test_what_is_written_is_read_at_once_and_kept_later(self) -> None:
        kept: dict[str, np.ndarray] = {"old": np.ones(2)}
        staged = StagedMemory(kept)
        staged["new"] = np.arange(3)
        del staged["old"]
        assert "old" not in staged
        assert "new" in staged
        assert (sorted(staged), len(staged), list(kept)) == (["new"], 1, ["old"])
        with pytest.raises(KeyError):
            staged["old"]
        with pytest.raises(KeyError):
            del staged["old"]
        staged.commit()
        assert list(kept) == ["new"]
        np.testing.assert_array_equal(kept["new"], np.arange(3))

    def test_discard_leaves_everything_as_it_was(self) -> None:
        kept = {"old": np.ones(2)}
        staged = StagedMemory(kept)
        staged["old"] = np.zeros(2)
        staged["new"] = np.zeros(2)
        del staged["new"]
        assert "new" not in staged
        staged.discard()
        staged.commit()
        assert list(kept) == ["old"]
        np.testing.assert_array_equal(staged["old"], np.ones(2))

    def test_a_release_is_kept_in_one_write(self) -> None:
        kept = Recording({"gone": np.ones(1), "stays": np.ones(1)})
        staged = StagedMemory(kept)
        staged["a"], staged["b"] = np.ones(1), np.ones(1)
        del staged["gone"]
        staged.commit()
        staged.commit()
        assert kept.calls == [("update", "a", "b"), ("pop", "gone")]
        assert sorted(kept) == ["a", "b", "stays"]

    def test_it_copies_and_freezes(self) -> None:
        array = np.ones(2)
        kept: dict[str, np.ndarray] = {"mine": np.ones(2)}
        staged = StagedMemory(kept)
        staged["a"] = array
        array[:] = 7.0
        np.testing.assert_array_equal(staged["a"], np.ones(2))
        for name in ("a", "mine"):
            with pytest.raises(ValueError, match="read-only"):
                staged[name][0] = 3.0
        kept["mine"][0] = 2.0  # its owner may
        assert staged["mine"][0] == 2.0

    @pytest.mark.parametrize("value", [1.0, [1.0], None, np.array(["text"]), np.array([object()])])
    def test_only_arrays_of_numbers_are_kept(self, value) -> None:
        with pytest.raises(UsageError, match="arrays of numbers"):
            StagedMemory({})["a"] = value
        with pytest.raises(UsageError, match="arrays of numbers"):
            StagedMemory({})[3] = np.ones(1)

    def test_it_shows_no_number(self) -> None:
        assert repr(StagedMemory({"a": np.full(3, 4242.0)})) == "<StagedMemory of 1 arrays>"
