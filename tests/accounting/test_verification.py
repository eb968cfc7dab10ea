"""The second route is independent, accurate, and would notice if the first were wrong."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    Budget,
    BudgetExhausted,
    Charge,
    GuaranteeBroken,
    Ledger,
    Sampling,
    Total,
    fine_grid_charge,
    gaussian_delta,
    second_route,
    verify,
)
from privfed_accounting import charge as charge_module
from privfed_accounting import fine_grid as fine_grid_module
from privfed_accounting.fine_grid import TAIL_EXPONENT
from tests.accounting import reference
from tests.accounting.forge import body, forge
from tests.accounting.plans import BUDGET, SIGMA, Clock, open_plan, plan


def ledger_with(path: Path | None = None, **changes: object) -> Ledger:
    ledger = Ledger.open(path, budget=BUDGET, clock=Clock())
    for part, survivors in ((0.2, 50), (0.3, 35), (0.1, 41)):
        entry = ledger.reserve(plan(mu2=part * ledger.total_mu2(), **changes))
        ledger.settle(entry, participants=50, survivors=survivors, bytes_up=10)
    return ledger


def test_the_second_route_shares_no_code() -> None:
    source = Path(second_route.__file__).read_text(encoding="utf-8")
    imported = {
        name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    }
    assert not any(name.startswith(("privfed", "scipy")) for name in imported)


@pytest.mark.parametrize("mu", [1e-7, 1e-4, 0.05, 0.8, 3.0, 20.0, 100.0])
@pytest.mark.parametrize("a", [-9.0, -2.0, -0.01, 0.0, 0.5, 3.0, 9.0, 25.0, 37.0])
def test_quadrature_against_many_digits(a: float, mu: float) -> None:
    epsilon = max(0.0, (a + mu / 2) * mu)
    exact = reference.gaussian_delta(epsilon, mu)
    found = second_route.delta_by_quadrature(epsilon, mu)
    assert float(abs(mpmath.mpf(found) - exact) / exact) < 1e-10
    assert found == pytest.approx(gaussian_delta(epsilon, mu), rel=1e-10, abs=0.0)


@given(
    st.floats(0.5, 2.0**40), st.integers(1, 300), st.integers(1, 10**7), st.floats(1e-6, 2.0**30), st.floats(0.0, 1e-20)
)
@settings(max_examples=100, deadline=None)
def test_both_routes_charge_the_same(
    share_sigma: float, shares: int, dimension: int, l2: float, distance: float
) -> None:
    first = fine_grid_charge(
        l2_sensitivity=l2, dimension=dimension, share_sigma=share_sigma, shares=shares, sampler_distance=distance
    )
    second = second_route.round_cost(
        l2_sensitivity=l2,
        dimension=dimension,
        share_sigma=share_sigma,
        shares=shares,
        sampler_distance=distance,
        exponent=TAIL_EXPONENT,
    )
    for name in ("mu2", "epsilon_slack", "delta_tail", "sampler_distance"):
        assert getattr(first, name) == pytest.approx(getattr(second, name), rel=1e-10, abs=1e-290)
        assert getattr(first, name) >= getattr(second, name) * (1 - 1e-13)


@given(
    st.lists(
        st.tuples(st.floats(1e-6, 3.0), st.floats(0, 1e-3), st.floats(0, 1e-25), st.floats(0, 1e-25)),
        min_size=1,
        max_size=5,
    ),
    st.floats(-25.0, -2.0).map(math.exp),
)
@settings(max_examples=40, deadline=None)
def test_both_routes_find_the_same_epsilon(costs: list[tuple[float, ...]], delta: float) -> None:
    first = Total.of(Charge(*cost) for cost in costs).epsilon(delta)
    second = second_route.total_epsilon([second_route.Cost(*cost) for cost in costs], delta)
    assert first == second or first == pytest.approx(second, rel=1e-9, abs=1e-11)
    assert first >= second * (1 - 1e-12)


def test_an_epsilon_beyond_the_floats_is_infinite_on_both_routes() -> None:
    """Ten thousand clients' noise, and only one of them unmasked: e^epsilon has no float."""
    with Ledger.open(None, budget=BUDGET) as ledger:
        shares = 10_000
        ledger.reserve(plan(mu2=ledger.total_mu2(), shares=shares, planned=shares, sigma=2.0**30))
        verdict = verify(ledger)
    assert verdict.ok, verdict.problems
    assert verdict.views[-1].guaranteed == verdict.views[-1].guaranteed_again == math.inf
    assert second_route.total_epsilon([second_route.Cost(7000.0, 0.0, 0.0, 0.0)], 1e-6) == pytest.approx(
        Total.of([Charge(mu2=7000.0)]).epsilon(1e-6), rel=1e-9
    )


def test_the_ends_of_the_second_route() -> None:
    none = second_route.Cost(0.0, 0.0, 0.0, 0.0)
    assert second_route.total_epsilon([], 1e-6) == 0.0
    assert second_route.total_epsilon([none], 1e-6) == 0.0
    assert second_route.delta_by_quadrature(1.0, 0.0) == 0.0
    assert second_route.total_epsilon([second_route.Cost(math.inf, 0.0, 0.0, 0.0)], 1e-6) == math.inf
    assert second_route.total_epsilon([second_route.Cost(1.0, 700.0, 0.0, 0.0)], 1e-6) == math.inf
    assert second_route.total_epsilon([second_route.Cost(1e-12, 0.25, 0.0, 0.0)], 1e-3) == 0.25
    assert second_route.total_epsilon([second_route.Cost(1.0, 0.0, 1e-5, 0.0)], 1e-6) == math.inf


def test_a_good_ledger(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger_with(path).close()
    verdict = verify(path)
    assert verdict.ok
    assert verdict.problems == []
    assert verdict.warnings == []
    assert (verdict.entries, verdict.rounds, verdict.settled, verdict.void, verdict.reserved) == (7, 3, 3, 0, 0)
    assert [result.view for result in verdict.views] == ["released", "server", "client", "colluders(7)", "unmasked"]
    for result in verdict.views:
        assert result.agrees
        assert result.realised <= result.guaranteed
        assert result.guaranteed == pytest.approx(result.guaranteed_again, rel=1e-11, abs=0.0)
    with Ledger.open(path, budget=None) as ledger:
        assert verdict.views[1].guaranteed == ledger.epsilon("server")
        assert verdict.views[4].realised == ledger.epsilon("unmasked", realised=True)
        assert verify(ledger, views=["client"]).views[0].view == "client"
        assert [result.view for result in verify(ledger, views=["client"]).views] == ["client", "server"]
    assert verdict.budget == str(BUDGET)
    assert verdict.delta == BUDGET.delta
    assert verdict.path == str(path)


def test_reading_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    ledger_with(path).close()
    before = path.read_bytes(), path.stat().st_mtime_ns
    verify(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [each.name for each in tmp_path.iterdir()] == ["ledger.db"]


def test_colluders_are_those_guarded_against() -> None:
    with Ledger.open(None, budget=Budget(4.0, 1e-6, view="colluders(12)")) as ledger:
        ledger.reserve(plan(mu2=0.01))
        assert [result.view for result in verify(ledger).views][3] == "colluders(12)"


def test_what_deserves_a_look_is_told() -> None:
    with ledger_with() as ledger:
        ledger.reserve(plan(mu2=1e-4, protection="trusted"))
        ledger.reserve(plan(mu2=1e-4, noise_source="seeded"))
        ledger.void(ledger.reserve(plan(mu2=1e-4)), reason="nobody came")
        verdict = verify(ledger)
    assert verdict.ok
    text = "\n".join(verdict.warnings)
    assert "saw every client's vector" in text
    assert "(entries 8)" in text
    assert "whoever knows the seed" in text
    assert "Charged, and never settled" in text
    assert "Given back" in text
    assert (verdict.reserved, verdict.void) == (2, 1)


def test_long_lists_of_entries_are_shortened() -> None:
    with Ledger.open(None, budget=BUDGET) as ledger:
        for _ in range(12):
            ledger.reserve(plan(mu2=1e-4, noise_source="seeded"))
        assert any("and 4 more" in warning for warning in verify(ledger).warnings)


def test_without_a_budget_there_is_nothing_to_recompute_and_it_says_so() -> None:
    with Ledger.open(None, budget=None) as ledger:
        ledger.reserve(open_plan())
        verdict = verify(ledger)
    assert verdict.ok
    assert verdict.views == ()
    assert verdict.delta is None
    assert any("no budget" in warning for warning in verdict.warnings)
    assert any("without noise" in warning for warning in verdict.warnings)


def test_a_broken_guarantee_is_told_and_counted_in_both_routes() -> None:
    with ledger_with() as ledger:
        entry = ledger.reserve(plan(mu2=0.01, shares=35))
        with pytest.raises(GuaranteeBroken):
            ledger.settle(entry, participants=50, survivors=4, bytes_up=0)
        verdict = verify(ledger)
    assert verdict.ok, "told, but within the budget"
    assert any("fewer noise shares" in warning for warning in verdict.warnings)
    seven = verdict.views[3]
    assert seven.view == "colluders(7)"
    assert seven.guaranteed == seven.guaranteed_again == math.inf
    assert seven.agrees


# --- mutations of the first route: the second one notices ------------------------------------------------------------


def test_a_charge_below_the_truth_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if fine_grid_charge forgot the rounding slack, or halved mu^2: the ledger is consistent, and wrong."""
    honest = fine_grid_module.fine_grid_charge
    for factor_mu2, factor_slack in ((0.5, 1.0), (1.0, 0.5), (1.0 - 1e-8, 1.0)):

        def wrong(factor_mu2: float = factor_mu2, factor_slack: float = factor_slack, **arguments: float) -> Charge:
            charge = honest(**arguments)
            return Charge(
                charge.mu2 * factor_mu2, charge.epsilon_slack * factor_slack, charge.delta_tail, charge.sampler_distance
            )

        monkeypatch.setattr("privfed_accounting.round_charge.fine_grid_charge", wrong)
        with ledger_with() as ledger:
            verdict = verify(ledger)
        assert not verdict.ok
        assert "entry 2 charges" in verdict.problems[0]


def test_a_wrong_epsilon_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the first route lost the sixth digit of epsilon."""
    honest = charge_module.gaussian_epsilon
    with ledger_with() as ledger:
        monkeypatch.setattr(charge_module, "gaussian_epsilon", lambda delta, mu: honest(delta, mu) * (1 - 1e-6))
        verdict = verify(ledger)
    assert any("the two routes differ" in problem for problem in verdict.problems)


def test_a_filter_that_sleeps_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with Ledger.open(None, budget=BUDGET) as ledger:
        ledger.reserve(plan(mu2=0.9 * ledger.total_mu2()))
        with pytest.raises(BudgetExhausted):
            ledger.reserve(plan(mu2=0.2 * ledger.total_mu2()))
        monkeypatch.setattr(ledger, "_check_budget_left", lambda *_: None)
        ledger.reserve(plan(mu2=0.2 * ledger.total_mu2()))
        verdict = verify(ledger)
    assert verdict.problems[0].startswith("entry 3 was accepted although it passes the budget (mu^2 would be ")
    assert any("overspent" in problem for problem in verdict.problems)


def test_seven_digits_of_the_worked_case_by_the_second_route() -> None:
    costs = [
        second_route.round_cost(
            l2_sensitivity=SIGMA,
            dimension=100,
            share_sigma=SIGMA * 1.2,
            shares=shares,
            sampler_distance=2.0**-112,
            exponent=TAIL_EXPONENT,
        )
        for shares in (10, 20, 30)
    ]
    mu2 = sum(1 / (1.44 * shares) for shares in (10, 20, 30))
    found = second_route.total_epsilon(costs, 1e-6)
    with mpmath.workdps(40):
        exact = mpmath.findroot(lambda e: reference.gaussian_delta(e, math.sqrt(mu2)) - mpmath.mpf(10) ** -6, found)
    assert found == pytest.approx(float(exact), rel=1e-7, abs=0.0)


# --- every kind of round ----------------------------------------------------------------------------------------------

COARSE = {"mechanism": "skellam", "l2_sensitivity": 2.0**6, "l1_sensitivity": 2.0**8, "share_sigma": 2.0**8, "bits": 16}


@pytest.mark.parametrize(
    "changes",
    [
        COARSE,
        {**COARSE, "drop_outs": "exact"},
        {"drop_outs": "exact"},
        {"protection": "local"},
        {"protection": "central", "sigma": SIGMA * 35**0.5},
        {"sampling": Sampling.poisson(0.1, unit="record")},
        {"sampling": Sampling.fixed_size(5, 50, unit="record")},
        {"sampling": Sampling.round_robin(10, 30, unit="record", turn=1)},
    ],
    ids=["skellam", "skellam-exact", "exact", "local", "central", "poisson", "fixed-size", "round-robin"],
)
def test_every_kind_of_round_agrees_by_both_routes(tmp_path: Path, changes: dict[str, object]) -> None:
    """Written, read back from the file, and verified; and a charge that is forged below its cost is found."""
    path = tmp_path / "l.db"
    with Ledger.open(path, budget=Budget(8.0, 1e-6, view="released", accounting="renyi")) as ledger:
        ledger.settle(ledger.reserve(plan(**changes)), participants=50, survivors=41, bytes_up=1)
        written = ledger.rounds()
    with Ledger.open(path, budget=None) as again:
        assert again.rounds() == written
        assert verify(again, views=["released"]).ok
    verdict = verify(path, views=["released"])
    assert verdict.ok, verdict.problems
    assert 0.0 < verdict.views[0].realised <= verdict.views[0].guaranteed < math.inf
    charge = written[0].reserved_charge.as_dict()
    cheaper = [value if value is None else value * 0.999 for value in charge.get("rdp", [])]
    forged = {**charge, "mu2": charge["mu2"] * 0.999, **({"rdp": cheaper} if cheaper else {})}
    forge(path, 2, body(charge=forged))
    assert any("entry 2 charges" in problem for problem in verify(path, views=["released"]).problems)


def test_dp_accounting_is_asked_and_both_numbers_are_told() -> None:
    with ledger_with() as ledger:
        peer = verify(ledger, peer=True).peer
        assert verify(ledger).peer is None
    assert peer is not None
    assert peer["theirs_exact"] == pytest.approx(peer["ours_bare"], rel=1e-6)
    assert peer["ours"] >= peer["ours_bare"]
    assert peer["theirs_pld"] >= peer["ours_bare"] * (1 - 1e-6)
    with Ledger.open(None, budget=None) as bare:
        assert verify(bare, peer=True).peer is None


def test_dp_accounting_that_disagrees_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = {"ours_bare": 1.0, "theirs_exact": 1.1, "theirs_pld": None}
    monkeypatch.setattr("privfed_accounting.verification.peer_of", lambda book: wrong)
    with ledger_with() as ledger:
        verdict = verify(ledger, peer=True)
    assert verdict.problems == ["dp-accounting finds epsilon 1.1 for the Gaussian rounds, ours is 1.0"]


def test_the_rule_of_the_check_is_the_rule_of_the_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    """All caps, not the first: a ledger that let slack, or sampler distance, pass is told."""
    for changes, what in (
        ({"sigma": 2.0**5, "dimension": 10**6}, "grid slack"),
        ({"sampler_distance": 1e-12}, "tails"),
    ):
        with Ledger.open(None, budget=BUDGET) as ledger:
            monkeypatch.setattr(ledger, "_check_budget_left", lambda *_: None)
            ledger.reserve(plan(mu2=1e-6, **changes))
            assert any(
                what in problem for problem in verify(ledger).problems if problem.startswith("entry 2 was accepted")
            )
