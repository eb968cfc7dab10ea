"""Sampling behind the door: who takes part, what it is charged as, and in which views it saves anything."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from privfed import Budget, FederationError, LocalFederation, Loss, UsageError, protected_mean
from privfed.federation.sampling import draw_cohort, own_turn, poisson, turns
from privfed.mechanism.randomness import Keystream
from privfed.plan.outlook import preview
from privfed.statistics.moments import Count, VectorSum
from privfed.statistics.vectors import AdaptiveSum
from privfed_accounting import RoundPlan, Sampling, Total

RECORDS = Sampling.poisson(0.2, unit="record")


def federation(clients=12, rows=60, **options):
    data = {f"c{i:02d}": np.ones((rows, 2)) for i in range(clients)}
    return LocalFederation(data, **({"mode": "trusted", "noise_seed": 4, "max_records": 100} | options))


def budget(unit="record", view="server", accounting="renyi", epsilon=4.0):
    return Budget(epsilon=epsilon, delta=1e-6, unit=unit, view=view, accounting=accounting)


def coins(n: int, rate: float) -> tuple[float, float]:
    """Mean of n coins, and three of its standard deviations."""
    return rate, 3.3 * math.sqrt(rate * (1 - rate) / n)


@pytest.mark.parametrize("rate", [1e-3, 0.3, 0.999])
def test_coins_have_their_rate_and_not_another(rate) -> None:
    found = poisson(400_000, rate, Keystream.seeded(b"coins")).mean()
    expected, room = coins(400_000, rate)
    assert abs(found - expected) < room
    assert abs(found - expected * 0.9) > room or rate * 400_000 < 1000
    assert poisson(10, 1.0, Keystream.seeded(b"x")).all()


def test_records_are_drawn_anew_each_round_and_the_sum_is_of_the_drawn() -> None:
    silos = federation(clients=10, rows=1000, sampling=RECORDS, max_records=1000)
    counts = [float(silos.release(Count())["count"]) for _ in range(6)]
    assert len(set(counts)) > 3
    expected, room = coins(60_000, 0.2)
    assert abs(np.mean(counts) / 10_000 - expected) < room


def test_everybody_takes_part_unless_a_release_says_otherwise() -> None:
    silos = federation()
    assert silos.release(Count())["count"] == pytest.approx(720)
    assert silos.release(Count(), sampling=RECORDS)["count"] < 400


def test_secret_records_cost_less_in_every_view_and_the_ledger_says_why() -> None:
    silos = federation(budget=budget())
    whole = silos.noise_std(Count(), noise_multiplier=2.0)
    release = silos.release(Count(), noise_multiplier=2.0, sampling=RECORDS)
    assert release.noise_std == pytest.approx(whole)
    plan = silos.ledger.rounds()[0].plan
    assert plan.sampling == RECORDS
    plain = {view: RoundPlan(**(vars(plan) | {"sampling": Sampling.none()})).charge(view) for view in release.epsilon}
    for view, epsilon in release.epsilon.items():
        if math.isfinite(epsilon):
            assert epsilon < Total.of([plain[view]]).epsilon(1e-6)


def test_a_share_buys_quieter_sums_where_the_sample_is_hidden() -> None:
    hidden = federation(budget=budget()).noise_std(Count(), 0.1, sampling=RECORDS)["count"]
    seen = federation(budget=budget()).noise_std(Count(), 0.1)["count"]
    assert hidden < 0.5 * seen


@pytest.mark.parametrize(
    ("view", "drop_outs", "saves"),
    [("released", "exact", True), ("released", "provision", False), ("server", "exact", False)],
)
def test_clients_drawn_by_the_coordinator_hide_from_whom_they_hide(view, drop_outs, saves) -> None:
    """The coordinator knows its own sample, and provisioned noise tells how many came."""
    silos = federation(60, 1, budget=budget("client", view), drop_outs=drop_outs)
    sampling = Sampling.poisson(0.5, unit="client")
    sampled = silos.noise_std(VectorSum(2, 1.0), 0.05, sampling=sampling)["sum"]
    whole = silos.noise_std(VectorSum(2, 1.0), 0.05)["sum"]
    assert (sampled < 0.9 * whole) is saves


def test_a_fixed_size_is_drawn_evenly() -> None:
    names = [f"c{i}" for i in range(10)]
    sampling = Sampling.fixed_size(3, 10, unit="client")
    keystream = Keystream.seeded(b"cohorts")
    drawn = [draw_cohort(names, sampling, keystream) for _ in range(3000)]
    assert {len(cohort) for cohort in drawn} == {3}
    counts = np.array([sum(name in cohort for cohort in drawn) for name in names])
    expected, room = coins(3000, 0.3)
    assert np.all(np.abs(counts / 3000 - expected) < room)
    pairs = sum({"c0", "c1"} <= set(cohort) for cohort in drawn) / 3000
    assert abs(pairs - 3 / 10 * 2 / 9) < 3.3 * math.sqrt(0.0667 * 0.933 / 3000)


def test_cohorts_take_turns_and_each_counts_its_own_rounds() -> None:
    sampling = Sampling.round_robin(4, 12, unit="client", turn=0)
    silos = federation(12, 1, budget=budget("client", accounting="gaussian"), sampling=sampling)
    releases = [silos.release(VectorSum(2, 2.0), share=1 / 6) for _ in range(6)]
    turns = [record.plan.sampling.turn for record in silos.ledger.rounds()]
    assert turns == [0, 1, 2, 0, 1, 2]
    assert all(release.participants == 4 for release in releases)
    assert silos.ledger.epsilon() == pytest.approx(4.0, rel=1e-3)
    everybody = federation(12, 1, budget=budget("client", accounting="gaussian")).noise_std(VectorSum(2, 2.0), 1 / 6)
    assert releases[0].noise_std["sum"] == pytest.approx(everybody["sum"] / math.sqrt(3), rel=1e-3)


def test_sampled_cohorts_are_the_round() -> None:
    silos = federation(20, 1, budget=budget("client"), sampling=Sampling.fixed_size(8, 20, unit="client"), dropout=0.25)
    release = silos.release(VectorSum(2, 2.0), share=0.5)
    plan = silos.ledger.rounds()[0].plan
    assert (plan.planned_shares, plan.guaranteed_shares, release.participants) == (8, 6, 8)


@pytest.mark.parametrize(
    ("sampling", "options", "match"),
    [
        ("poisson", {}, "expected privfed.Sampling"),
        (Sampling.fixed_size(5, 60, unit="record"), {}, "coins only"),
        (RECORDS, {"budget": budget("client")}, "nothing for unit 'client'"),
        (Sampling.fixed_size(3, 11, unit="client"), {}, "12"),
        (Sampling.fixed_size(1, 12, unit="client"), {}, "fewer than 2"),
        (Sampling.round_robin(2, 12, unit="client", turn=0), {"dropout": 0.5}, "fewer than 2"),
        (Sampling.poisson(0.3, unit="client"), {"budget": budget("client")}, "fixed_size"),
    ],
)
def test_samples_that_mean_nothing_are_refused(sampling, options, match) -> None:
    with pytest.raises(UsageError, match=match):
        federation(**options, sampling=sampling)
    silos = federation(**options)
    with pytest.raises(UsageError, match=match):
        silos.release(Count(), sampling=sampling, share=0.5)
    assert silos.ledger.rounds() == []


def test_a_cohort_of_one_is_no_round() -> None:
    silos = federation(sampling=Sampling.poisson(1e-9, unit="client"))
    with pytest.raises(FederationError, match="raise its rate"):
        silos.release(Count())


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({}, "share=0.1"),
        ({"share": 0.5, "noise_multiplier": 2.0}, "one of them"),
        ({"noise_multiplier": 0.0}, "noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier"),
        ({"noise_multiplier": "2"}, "noise_multiplier"),
    ],
)
def test_exactly_one_price_is_given(given, match) -> None:
    silos = federation(budget=budget())
    with pytest.raises(UsageError, match=match):
        silos.release(Count(), **given)
    assert silos.ledger.rounds() == []


def test_a_noise_multiplier_is_the_noise_over_the_sensitivity() -> None:
    silos = federation(budget=budget(accounting="gaussian"), dropout=0.25)
    release = silos.release(Count(), noise_multiplier=3.0)
    plan = silos.ledger.rounds()[0].plan
    assert plan.noise_multiplier == pytest.approx(3.0)
    assert release.noise_std["count"] == pytest.approx(3.0 * math.sqrt(12 / 9), rel=1e-3)
    assert silos.ledger.spent().mu2 == pytest.approx(1 / 9, rel=1e-6)


def test_exact_accounting_refuses_what_it_cannot_count() -> None:
    silos = federation(budget=budget(accounting="gaussian"))
    with pytest.raises(UsageError, match="accounting='renyi'"):
        silos.release(Count(), share=0.5, sampling=RECORDS)
    assert silos.ledger.rounds() == []


@pytest.mark.parametrize("count", [1, 4])
def test_as_many_releases_as_shares_fit_the_budget(count) -> None:
    silos = federation(budget=budget(), sampling=RECORDS)
    for done in range(count):
        silos.release(Count(), share=1 / count)
        assert silos.remaining_share == pytest.approx(1 - (done + 1) / count, abs=0.02)
    assert silos.ledger.epsilon() <= 4.0


@pytest.mark.parametrize("bits", [None, 16])
def test_a_hidden_sample_leaves_no_trace_of_its_size(bits) -> None:
    """Scale, sensitivity and noise are the same however many were drawn: the released numbers must not tell."""
    silos = federation(
        60, 1, budget=budget("client", "released"), drop_outs="exact", dropout=0.2, bits=bits, mode="trusted"
    )
    sampling = Sampling.poisson(0.5, unit="client")
    releases = [silos.release(VectorSum(2, 2.0), noise_multiplier=20.0, sampling=sampling) for _ in range(8)]
    assert len({release.participants for release in releases}) >= 3
    assert len({(release.plan.scale, release.plan.l2_sensitivity, release.plan.bits) for release in releases}) == 1
    assert np.ptp([release.noise_std["sum"] for release in releases]) < 1e-9


HALF = Sampling.poisson(0.5, unit="client")


def hidden(**options):
    settings = {"budget": budget("client", "released", epsilon=6.0), "drop_outs": "exact", "sampling": HALF}
    return federation(60, 1, **(settings | options))


def test_what_is_divided_in_public_is_divided_by_what_is_public() -> None:
    """Two cohorts of different sizes and the same noised sums: what is made of them must not differ, or tell a size."""
    silos, query = hidden(), AdaptiveSum(2, clip=1.0, count_weight=0.3)
    releases = [silos.release(query, noise_multiplier=6.0) for _ in range(6)]
    assert len({release.survivors for release in releases}) >= 3
    assert {release.divisor for release in releases} == {30.0}
    same = {"sum": np.full(2, 0.01), "unclipped": np.asarray(0.02)}
    alike = [dataclasses.replace(release, values=same) for release in releases]
    assert len({query.unclipped(release) for release in alike}) == 1
    assert len({query.following(release).clip for release in alike}) == 1
    for release in releases:  # an attacker's quotient of two released numbers is a constant
        moved = query.unclipped(release) - 0.5
        if abs(moved) < 0.5:
            assert float(release["unclipped"]) / moved == pytest.approx(30.0)


def test_a_mean_over_a_hidden_sample_is_over_the_expected(monkeypatch) -> None:
    totals = []

    class Sampled(LocalFederation):
        def __init__(self, *clients, **options):
            super().__init__(*clients, **options, sampling=HALF)

        def release(self, *query, **options):
            totals.append(super().release(*query, **options))
            return totals[-1]

    monkeypatch.setattr("privfed.pipeline.LocalFederation", Sampled)
    options = {"view": "released", "drop_outs": "exact", "mode": "trusted", "accounting": "renyi"}
    for _ in range(4):
        mean = protected_mean([[1.0, 1.0]] * 60, clip=2.0, epsilon=4.0, delta=1e-6, **options)
        np.testing.assert_allclose(mean * 30.0, totals[-1]["sum"])
    assert any(release.survivors != 30 for release in totals)


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"drop_outs": "provision"}, HALF),
        ({"budget": budget("record", "released")}, HALF),
        ({"budget": None}, HALF),
        ({}, Sampling.none()),
        ({}, Sampling.round_robin(20, 60, unit="client", turn=0)),
        ({"budget": budget("record")}, RECORDS),
    ],
)
def test_samples_that_nothing_is_saved_by_are_divided_by_the_survivors(options, sampling) -> None:
    price = {"noise_multiplier": 20.0} if options.get("budget", True) else {}
    release = hidden(**options).release(VectorSum(2, 1.0), sampling=sampling, **price)
    assert (release.divisor, release.expected_clients) == (release.survivors, None)


def test_a_cohort_of_fixed_size_is_divided_by_its_size_whoever_is_lost() -> None:
    losses = [Loss(f"c{i:02d}", "masked") for i in range(60)][:6]
    silos = hidden(dropout=0.3, losses=losses, sampling=Sampling.fixed_size(30, 60, unit="client"))
    releases = [silos.release(VectorSum(2, 1.0), noise_multiplier=20.0) for _ in range(4)]
    assert {release.divisor for release in releases} == {30.0}
    assert any(release.survivors < 30 for release in releases)


def test_clients_drawn_save_nothing_for_records() -> None:
    options = {"epsilon": 2.0, "delta": 1e-6, "rounds": 10, "clients": 60, "view": "released", "drop_outs": "exact"}
    drawn = preview(**options, unit="record", max_records=100, sampling=HALF)
    whole = preview(**options, unit="record", max_records=100)
    assert drawn.epsilons["released"] == pytest.approx(2.0, rel=2e-3)
    assert drawn.noise_std == pytest.approx(whole.noise_std, rel=2e-3)
    assert preview(**options, sampling=HALF).noise_std < 0.9 * whole.noise_std  # for a client it saves
    assert "nothing is saved" in drawn.explain()[-2]


def test_every_client_has_one_turn() -> None:
    names = tuple(f"c{i}" for i in (3, 1, 4, 5, 9, 2, 6))
    sampling = Sampling.round_robin(3, 7, unit="client", turn=0)
    for turn, cohort in enumerate(turns(names, sampling)):
        assert {own_turn(names, name, sampling) for name in cohort} == {(turn, len(cohort))}
    with pytest.raises(UsageError, match="name all clients"):
        own_turn(names, "c0", sampling)


def test_cohorts_of_one_ledger_are_the_same_clients(tmp_path) -> None:
    """Each cohort counts its own rounds, so that a client must not change cohorts between runs on one budget."""
    sampling = Sampling.round_robin(2, 4, unit="client", turn=0)
    options = {"ledger": tmp_path / "b.db", "sampling": sampling, "budget": budget("client", accounting="gaussian")}
    rows = {name: np.ones((1, 2)) for name in ("a", "b", "c", "d")}
    for names in ("abcd", "dbca"):  # the order in which clients are named does not matter
        with LocalFederation({name: rows[name] for name in names}, mode="trusted", max_records=1, **options) as silos:
            silos.release(VectorSum(2, 2.0), share=0.1)
    other = dict.fromkeys(("b", "c", "d", "e"), rows["a"])
    with LocalFederation(other, mode="trusted", max_records=1, **options) as silos:
        with pytest.raises(UsageError, match="cohorts of other clients"):
            silos.release(VectorSum(2, 2.0), share=0.1)
        assert len(silos.ledger.rounds()) == 2


@pytest.mark.parametrize("bits", [None, 24])
def test_the_noise_that_a_release_states_does_not_tell_how_many_were_drawn(bits):
    """Not in its last bit either: servers weigh by it, so that it goes into what they publish."""
    options = {"drop_outs": "exact", "dropout": 0.1} | ({} if bits is None else {"bits": bits})
    drawn, stated = set(), set()
    with federation(60, 2, budget=budget("client", "released", epsilon=20.0), **options) as silos:
        for _ in range(12):
            release = silos.release(
                VectorSum(2, clip=1.0), noise_multiplier=20.0, sampling=Sampling.poisson(0.6, unit="client")
            )
            assert release.kept_surplus == 0
            drawn.add(release.participants)
            stated.add(release.noise_std["sum"])
    assert len(drawn) > 3
    assert len(stated) == 1
    assert stated.pop() == pytest.approx(20.0, rel=0.01)


@pytest.mark.parametrize("sampling", [Sampling.poisson(0.96, unit="client"), Sampling.fixed_size(8, 12, unit="client")])
def test_a_hidden_sample_releases_nothing_that_carries_the_surplus_of_a_lost_client(sampling):
    """Else the noise is larger where that client was drawn: a long vector shows it, and no charge counts on it."""
    options = {"drop_outs": "exact", "dropout": 0.3, "losses": [Loss(f"c{i:02d}", "unmask") for i in range(12)]}
    guarded = budget("client", "released", epsilon=20.0)
    with federation(12, 2, budget=guarded, **options) as silos:
        with pytest.raises(FederationError, match="would tell that they were drawn: nothing is released") as caught:
            silos.release(VectorSum(2, clip=1.0), noise_multiplier=20.0, sampling=sampling)
        assert caught.value.charged
        assert silos.remaining_share < 1.0
        of_all = silos.release(VectorSum(2, clip=1.0), noise_multiplier=20.0, sampling=Sampling.none())
        assert of_all.kept_surplus == of_all.survivors


def test_samples_of_records_are_no_reason_to_refuse_surplus_that_was_kept():
    """Who takes part is no secret then, nor what noise there is: a client adds its noise whatever it drew."""
    options = {"drop_outs": "exact", "dropout": 0.3, "losses": [Loss("c03", "unmask")]}
    drawn = Sampling.poisson(0.01, unit="record")
    with federation(12, 60, budget=budget(epsilon=20.0), **options) as silos:
        release = silos.release(VectorSum(2, clip=1.0), noise_multiplier=20.0, sampling=drawn)
        whole = silos.release(VectorSum(2, clip=1.0), noise_multiplier=20.0, sampling=Sampling.none())
    assert (release.survivors, release.kept_surplus) == (12, 1)
    assert release.noise_std["sum"] == pytest.approx(whole.noise_std["sum"], rel=1e-12)
    assert release.expected_clients is None
