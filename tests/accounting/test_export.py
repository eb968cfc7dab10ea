"""The same ledger in dp-accounting's words, and its answers beside ours."""

from __future__ import annotations

import math
import sys

import dp_accounting
import pytest

from privfed_accounting import Budget, GuaranteeBroken, Ledger, ParameterError, Sampling
from privfed_accounting.export import compare, dp_event
from tests.accounting.plans import BUDGET, open_plan, plan


@pytest.fixture
def ledger() -> Ledger:
    ledger = Ledger.open(None, budget=BUDGET)
    for part, survivors in ((0.1, 50), (0.1, 35), (0.3, 41)):
        entry = ledger.reserve(plan(mu2=part * ledger.total_mu2()))
        ledger.settle(entry, participants=50, survivors=survivors, bytes_up=1)
    ledger.void(ledger.reserve(plan(mu2=0.2 * ledger.total_mu2())), reason="nobody came")
    return ledger


def test_events(ledger: Ledger) -> None:
    event = dp_event(ledger)
    assert isinstance(event, dp_accounting.ComposedDpEvent)
    counts = [each.count for each in event.events]
    assert sorted(counts) == [1, 2], "equal rounds are counted together, void ones are left out"
    multipliers = sorted(each.event.noise_multiplier for each in event.events)
    mu2 = ledger.total_mu2()
    assert multipliers == pytest.approx([1 / math.sqrt(0.3 * mu2), 1 / math.sqrt(0.1 * mu2)])


@pytest.mark.parametrize(
    ("view", "realised"), [(None, False), (None, True), ("client", True), ("colluders(10)", False), ("unmasked", False)]
)
def test_both_numbers(ledger: Ledger, view: str | None, realised: bool) -> None:
    both = compare(ledger, view=view, realised=realised)
    assert both.ours == ledger.epsilon(view, realised=realised)
    assert both.ours_bare == pytest.approx(both.theirs_exact, rel=1e-9, abs=0.0)
    assert both.ours == pytest.approx(both.ours_bare, rel=1e-6, abs=0.0)
    assert both.ours >= both.ours_bare
    assert both.theirs_pld == pytest.approx(both.theirs_exact, rel=2e-3, abs=0.0)
    assert both.theirs_pld >= both.theirs_exact * (1 - 1e-9), "theirs is an upper bound"
    assert both.view == (view or "server")


def test_their_rdp_is_looser(ledger: Ledger) -> None:
    accountant = dp_accounting.rdp.RdpAccountant()
    accountant.compose(dp_event(ledger))
    assert accountant.get_epsilon(BUDGET.delta) > 1.05 * ledger.epsilon()


def test_rounds_that_are_no_plain_gaussians() -> None:
    """Skellam rounds as zCDP events and sampled ones as what they are: their Renyi accountant finds ours."""
    budget = Budget(8.0, 1e-5, view="released", accounting="renyi")
    records = Sampling.poisson(0.05, unit="record")
    skellam = plan(mechanism="skellam", mu2=0.01, sigma=1000.0, l1_sensitivity=500.0)
    sampled = plan(mu2=0.5, sampling=records)
    with Ledger.open(None, budget=budget) as ledger:
        for each in (skellam, skellam, sampled, plan(mu2=0.02)):
            ledger.settle(ledger.reserve(each), participants=50, survivors=40, bytes_up=1)
        for realised in (False, True):
            event = dp_event(ledger, realised=realised)
            inner = [each.event for each in event.events]
            assert [type(each).__name__ for each in inner] == ["ZCDpEvent", "PoissonSampledDpEvent", "GaussianDpEvent"]
            assert [each.count for each in event.events] == [2, 1, 1]
            both = compare(ledger, realised=realised)
            assert both.theirs_rdp == pytest.approx(both.ours_bare, rel=1e-6)
            assert both.theirs_exact is None
            assert both.theirs_pld is None, "their loss distributions know no zCDP"
            assert both.ours >= both.ours_bare
        spent = ledger.epsilon()
    with Ledger.open(None, budget=budget) as ledger:
        for _ in range(3):
            ledger.reserve(sampled)
        both = compare(ledger)
        assert both.theirs_pld is not None
        assert both.theirs_rdp is not None
        assert both.theirs_pld < both.ours_bare == pytest.approx(both.theirs_rdp, rel=1e-6)
    assert spent > 0.0


def test_cohorts_as_they_are() -> None:
    budget = Budget(8.0, 1e-5, unit="client", view="released", accounting="renyi")
    whole = {"unit": "client", "drop_outs": "exact"}
    cohort = plan(mu2=0.2, sampling=Sampling.fixed_size(5, 100, unit="client"), **whole)
    turns = [Sampling.round_robin(25, 100, unit="client", turn=turn) for turn in (0, 1, 1, 2)]
    rota = [plan(mu2=0.1, sampling=each, **whole) for each in turns]
    with Ledger.open(None, budget=budget) as ledger:
        for each in (cohort, *rota):
            ledger.reserve(each)
        event = dp_event(ledger)
        kinds = {type(each.event).__name__: each.count for each in event.events}
        assert kinds == {"SampledWithoutReplacementDpEvent": 1, "GaussianDpEvent": 2}, "of the rota the dearest cohort"
        (drawn,) = [each.event for each in event.events if hasattr(each.event, "sample_size")]
        assert (drawn.source_dataset_size, drawn.sample_size) == (100, 5)
        assert compare(ledger).theirs_rdp is None, "they have no such relation"


def test_nothing_and_everything() -> None:
    with Ledger.open(None, budget=BUDGET) as empty:
        both = compare(empty)
        assert both.ours == both.theirs_exact == both.theirs_pld == 0.0
        entry = empty.reserve(plan())
        with pytest.raises(GuaranteeBroken):
            empty.settle(entry, participants=1, survivors=0, bytes_up=0)
        both = compare(empty)
        assert both.ours == both.ours_bare == both.theirs_exact == both.theirs_pld == math.inf
    with Ledger.open(None, budget=None) as bare:
        bare.reserve(open_plan())
        assert isinstance(dp_event(bare).events[0], dp_accounting.NonPrivateDpEvent)
        with pytest.raises(ParameterError, match="no delta"):
            compare(bare)


def test_the_extra_is_named_where_it_is_missing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "dp_accounting", None)
    with pytest.raises(ParameterError, match=r"install privfed\[verify\]"):
        dp_event(ledger)
