"""The report's data fit their schema, are JSON without infinities, and say loudly what must not be overlooked."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from privfed_accounting import (
    Budget,
    GuaranteeBroken,
    Ledger,
    ParameterError,
    Sampling,
    gaussian_epsilon,
    report_data,
    verify,
)
from privfed_accounting.marks import SEVERITIES
from privfed_accounting.reporting import epsilon_value
from tests.accounting.plans import BUDGET, Clock, open_plan, plan

SCHEMA = json.loads(
    (Path(__file__).resolve().parents[2] / "accounting" / "report.schema.json").read_text(encoding="utf-8")
)


def checked(data: dict[str, Any]) -> dict[str, Any]:
    """Data as they come back from a file, after the schema has seen them."""
    again: dict[str, Any] = json.loads(json.dumps(data, allow_nan=False))
    jsonschema.Draft202012Validator(SCHEMA).validate(again)
    return again


def a_ledger(path: Path | None = None, budget: Budget | None = BUDGET) -> Ledger:
    ledger = Ledger.open(path, budget=budget, clock=Clock())
    for part, survivors in ((0.2, 50), (0.3, 35)):
        entry = ledger.reserve(plan(mu2=part * ledger.total_mu2()))
        ledger.settle(entry, participants=50, survivors=survivors, bytes_up=10, facts={"log_likelihood": -1.5})
    ledger.note("half-time", {"rounds": 2})
    return ledger


def codes(data: dict[str, Any]) -> list[str]:
    return [mark["code"] for mark in data["marks"]]


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["additionalProperties"] is False


def test_a_plain_run(tmp_path: Path) -> None:
    path = tmp_path / "my ledger.db"
    with a_ledger(path) as ledger:
        data = checked(report_data(ledger))
        assert data["spending"]["guaranteed"]["epsilon"] == ledger.epsilon()
    assert data == checked(report_data(path)) == checked(report_data(str(path))), "the ledger alone decides"
    assert data["marks"] == []
    assert data["setting"]["budget"] == {
        "epsilon": 4.0,
        "delta": 1e-6,
        "slack_reserve": None,
        "accounting": "gaussian",
    }
    assert data["setting"]["mechanisms"] == ["discrete_gaussian"]
    assert [each["policy"] for each in data["setting"]["drop_outs"]] == ["provision"]
    assert data["empirical"] is None
    assert data["setting"]["relation"] == "add/remove"
    assert data["spending"]["fraction"] == pytest.approx(0.5, rel=1e-6, abs=0.0)
    assert (data["spending"]["settled"], data["spending"]["bytes_up"]) == (2, 20)
    assert [view["view"] for view in data["views"]] == ["released", "server", "client", "colluders(7)", "unmasked"]
    assert [view["guarded"] for view in data["views"]] == [False, True, False, False, False]
    assert data["verification"]["ok"]
    assert data["command"] == f"privfed verify '{path}'"
    assert data["notes"][0]["facts"] == {"rounds": 2}
    assert {"cohort sizes and participation", "drop-out timing", "tuning runs"} <= {
        each["what"] for each in data["not_protected"]
    }


def test_epsilons_per_round_and_view() -> None:
    with a_ledger() as ledger:
        data = checked(report_data(ledger))
        first, second = data["releases"]
        for index, view in enumerate(data["views"]):
            name = view["view"]
            rounds = [first["epsilons"][index], second["epsilons"][index]]
            assert [each["view"] for each in rounds] == [name, name]
            assert rounds[0]["guaranteed"] == rounds[0]["cumulative_guaranteed"]
            assert rounds[1]["cumulative_guaranteed"] == view["guaranteed"]
            assert rounds[1]["cumulative_realised"] == view["realised"]
            assert view["guaranteed"]["epsilon"] == ledger.epsilon(name)
            assert view["realised"]["epsilon"] == ledger.epsilon(name, realised=True)
            assert rounds[1]["guaranteed"]["epsilon"] < rounds[1]["cumulative_guaranteed"]["epsilon"]
    at = data["views"][1]["at_deltas"]
    assert [each["delta"] for each in at] == pytest.approx([1e-6, 1e-7, 1e-9], abs=0.0)
    assert at[0]["guaranteed"]["epsilon"] < at[1]["guaranteed"]["epsilon"] < at[2]["guaranteed"]["epsilon"]
    assert (first["survivors"], first["guaranteed_shares"], first["planned_shares"]) == (50, 35, 50)
    assert first["noise_multiplier"] == pytest.approx(1 / math.sqrt(0.2 * ledger.total_mu2()))
    assert first["facts"] == {"log_likelihood": -1.5}


def test_readers_of_a_report_know_how_many_clients_were_drawn() -> None:
    """What hides drawn clients in the view `released` is in every report, so that its reader is not in that view."""
    drawn = {"unit": "client", "drop_outs": "exact", "sampling": Sampling.poisson(0.1, unit="client")}
    rota = {"unit": "client", "sampling": Sampling.round_robin(50, 500, unit="client", turn=2)}
    budget = Budget(4.0, 1e-6, unit="client", view="released", accounting="renyi")
    for changes, told in ((drawn, True), ({**drawn, "drop_outs": "provision"}, False), (rota, False)):
        with Ledger.open(None, budget=budget, clock=Clock()) as ledger:
            ledger.settle(ledger.reserve(plan(**changes)), participants=50, survivors=45, bytes_up=70)
            data = checked(report_data(ledger))
        (release,) = data["releases"]
        assert (release["participants"], release["survivors"], release["bytes_up"]) == (50, 45, 70)
        assert any("epsilons of the view server hold" in line for line in data["meaning"]) == told
        assert any("whoever reads the ledger" in each["why"] for each in data["not_protected"])
    with Ledger.open(None, budget=budget, clock=Clock()) as ledger:
        ledger.void(ledger.reserve(plan(**drawn)), reason="nobody came")
        assert not any("view server hold" in line for line in report_data(ledger)["meaning"])


def test_error_terms_are_stated() -> None:
    with a_ledger() as ledger:
        terms = checked(report_data(ledger))["error_terms"]
        assert terms["with_them"]["epsilon"] == ledger.epsilon()
    assert terms["without_them"]["epsilon"] < terms["with_them"]["epsilon"]
    assert terms["without_them"]["epsilon"] == pytest.approx(terms["with_them"]["epsilon"], rel=1e-6, abs=0.0)
    assert 0 < terms["epsilon_slack"] < 1e-10
    assert 0 < terms["delta_tail"] < 1e-100
    assert 0 < terms["delta_leak"] < 1e-20


def test_what_must_not_be_overlooked() -> None:
    with a_ledger() as ledger:
        ledger.reserve(plan(mu2=1e-4, protection="trusted", noise_source="seeded"))
        ledger.void(ledger.reserve(plan(mu2=1e-4)), reason="nobody came")
        entry = ledger.reserve(plan(mu2=1e-4))
        with pytest.raises(GuaranteeBroken):
            ledger.settle(entry, participants=50, survivors=3, bytes_up=0)
        data = checked(report_data(ledger))
    assert codes(data) == ["trusted", "seeded", "guarantee_broken", "outcome_unknown", "void"]
    assert [mark["severity"] for mark in data["marks"][:3]] == ["danger"] * 3
    assert data["releases"][2]["marks"] == ["trusted", "seeded", "outcome_unknown"]
    assert data["releases"][3]["epsilons"][0]["guaranteed"] == {"epsilon": 0.0, "infinite": False}
    infinite = {view["view"]: view["realised"] for view in data["views"]}
    assert infinite["colluders(7)"] == {"epsilon": None, "infinite": True}
    assert not infinite["server"]["infinite"]


def test_no_budget_is_infinite_and_null() -> None:
    with Ledger.open(None, budget=None, clock=Clock()) as ledger:
        before = checked(report_data(ledger))
        ledger.settle(ledger.reserve(open_plan()), participants=50, survivors=50, bytes_up=3)
        data = checked(report_data(ledger))
    assert codes(before) == ["no_budget"]
    assert codes(data) == ["no_budget", "non_private"]
    assert data["setting"]["private"] is False
    for view in data["views"]:
        assert view["guaranteed"] == view["realised"] == {"epsilon": None, "infinite": True}
        assert view["mu_guaranteed"] is None
    assert data["releases"][0]["charge"] is None
    assert data["command"] == "privfed verify LEDGER"


def test_a_new_ledger_has_a_report() -> None:
    with Ledger.open(None, budget=BUDGET) as ledger:
        data = checked(report_data(ledger, views=["colluders(3)"]))
    assert [view["view"] for view in data["views"]] == ["colluders(3)", "server"]
    assert data["spending"]["guaranteed"] == {"epsilon": 0.0, "infinite": False}


def test_an_overspent_budget_is_not_hidden() -> None:
    with a_ledger() as ledger:
        entry = ledger.reserve(plan(mu2=0.5 * ledger.total_mu2()))
        with pytest.raises(GuaranteeBroken):
            ledger.settle(entry, participants=50, survivors=10, bytes_up=0)
        data = checked(report_data(ledger))
    assert data["spending"]["fraction"] > 2.0
    assert not data["verification"]["ok"]


def test_the_tight_bounds_and_mu_gdp_stand_beside_the_guaranteed_value() -> None:
    """Of plain Gaussians all three are one, up to the error terms; each at every delta."""
    with a_ledger() as ledger:
        data = checked(report_data(ledger))
    for view in data["views"]:
        for each in (view, *view["at_deltas"]):
            assert each["tight"]["upper"]["epsilon"] == pytest.approx(each["guaranteed"]["epsilon"], rel=1e-9, abs=0.0)
            assert each["tight"]["lower"]["epsilon"] == pytest.approx(each["guaranteed"]["epsilon"], rel=1e-6, abs=0.0)
        for each in view["at_deltas"]:
            again = math.sqrt(sum(release["charge"]["mu2"] for release in data["releases"]))
            if view["view"] == "server":
                assert view["mu_guaranteed"] == pytest.approx(again)
                assert each["gdp"]["epsilon"] == pytest.approx(gaussian_epsilon(each["delta"], again))
    terms = {term["name"]: term for term in data["error_terms"]["terms"]}
    assert terms["conversion"]["value"] == pytest.approx(0.0, abs=1e-9)
    assert terms["sampler distance"]["value"] == data["error_terms"]["sampler_distance"]
    assert terms["wrap-around"]["value"] is None


def test_a_sampled_run_has_a_tight_estimate_below_the_guaranteed_value() -> None:
    budget = Budget(4.0, 1e-6, view="released", accounting="renyi")
    sampling = Sampling.poisson(0.25, unit="record")
    with Ledger.open(None, budget=budget, clock=Clock()) as ledger:
        for _ in range(4):
            entry = ledger.reserve(plan(mu2=0.25, sampling=sampling))
            ledger.settle(entry, participants=50, survivors=40, bytes_up=1, facts={"wrap_probability": 1e-5})
        data = checked(report_data(ledger, views=["released", "unmasked"]))
    released = data["views"][0]
    tight, guaranteed = released["tight"], released["guaranteed"]["epsilon"]
    assert tight["lower"]["epsilon"] <= tight["upper"]["epsilon"] < guaranteed
    assert tight["upper"]["epsilon"] > 0.7 * guaranteed
    assert released["at_deltas"][0]["gdp"] is None
    terms = {term["name"]: term["value"] for term in data["error_terms"]["terms"]}
    assert terms["conversion"] == pytest.approx(guaranteed - tight["upper"]["epsilon"])
    assert terms["wrap-around"] == pytest.approx(4e-5)
    assert data["releases"][0]["sampling"]["rate"] == 0.25
    assert data["setting"]["sampling"][0]["kind"] == "poisson"
    assert len(data["releases"][0]["charge"]["rdp"]) > 10
    assert data["verification"]["ok"]


def test_skellam_rounds_say_their_event_and_claim_no_tight_estimate() -> None:
    budget = Budget(8.0, 1e-6, accounting="renyi")
    coarse = {"mechanism": "skellam", "l2_sensitivity": 40.0, "l1_sensitivity": 160.0, "share_sigma": 32.0, "bits": 16}
    with Ledger.open(None, budget=budget, clock=Clock()) as ledger:
        ledger.reserve(plan(**coarse))
        data = checked(report_data(ledger, views=["server"]))
    event, row = data["releases"][0]["zcdp"], data["releases"][0]["charge"]["rdp"]
    assert row[0] == pytest.approx(2 * event["rho"] + event["xi"])
    assert data["views"][0]["tight"] is None


def test_trusted_mode_is_not_shown_as_masked() -> None:
    """The budget counts as if masks were on; the operator's views tell what it saw."""
    with Ledger.open(None, budget=BUDGET, clock=Clock()) as masked:
        masked.reserve(plan(mu2=0.05))
        honest = checked(report_data(masked))
    with Ledger.open(None, budget=BUDGET, clock=Clock()) as ledger:
        ledger.reserve(plan(mu2=0.05, protection="trusted"))
        data = checked(report_data(ledger))
        assert data["spending"]["guaranteed"] == honest["spending"]["guaranteed"]
        verdict = verify(ledger)
    views = {view["view"]: view for view in data["views"]}
    for name in ("server", "colluders(7)"):
        assert views[name]["guaranteed"] == views["unmasked"]["guaranteed"]
        assert views[name]["charged"] == {each["view"]: each for each in honest["views"]}[name]["guaranteed"]
        shown = {each.view: each for each in verdict.views}[name]
        assert shown.guaranteed == views["unmasked"]["guaranteed"]["epsilon"]
        assert shown.agrees
    for name in ("released", "client"):
        assert views[name]["guaranteed"] == views[name]["charged"]


def test_what_an_audit_found_stands_beside_the_claim() -> None:
    found = {
        "audit": "privacy",
        "claimed": {"epsilon": 2.7, "delta": 1e-6, "view": "released", "unit": "record"},
        "lower_bound": {"epsilon": 0.4, "confidence": 0.95, "method": "one run", "canaries": 1000},
        "caveat": "a lower bound",
    }
    with a_ledger() as ledger:
        data = checked(report_data(ledger, empirical=found))
        assert data["empirical"] == found
        assert any("smoke test" in line for line in data["meaning"])
        with pytest.raises(ParameterError):
            report_data(ledger, empirical={"epsilon": math.nan})


def test_epsilon_encoding() -> None:
    assert epsilon_value(1.5) == {"epsilon": 1.5, "infinite": False}
    assert epsilon_value(math.inf) == {"epsilon": None, "infinite": True}


@pytest.mark.parametrize(
    "value", [{"epsilon": None, "infinite": False}, {"epsilon": 1.0, "infinite": True}, {"epsilon": 1.0}, 1.0, None]
)
def test_the_schema_refuses_other_epsilons(value: object) -> None:
    with a_ledger() as ledger:
        data = report_data(ledger)
    data["spending"]["guaranteed"] = value
    with pytest.raises(jsonschema.ValidationError):
        checked(data)


@pytest.mark.parametrize("where", [(), ("setting",), ("spending",), ("releases", 0), ("views", 0), ("verification",)])
def test_the_schema_refuses_missing_and_unknown_fields(where: tuple[str | int, ...]) -> None:
    with a_ledger() as ledger:
        whole = report_data(ledger)
    for change in ("drop", "add"):
        data = json.loads(json.dumps(whole))
        part = data
        for key in where:
            part = part[key]
        if change == "drop":
            part.pop(sorted(part)[0])
        else:
            part["surprise"] = 1
        with pytest.raises(jsonschema.ValidationError):
            checked(data)


def test_every_mark_is_in_the_schema() -> None:
    assert SCHEMA["$defs"]["mark"]["properties"]["code"]["enum"] == list(SEVERITIES)
