"""A report is checked by itself: its form by the schema, its numbers by computing them again from its rounds."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    GuaranteeBroken,
    Ledger,
    LedgerUnreadable,
    LedgerVersionError,
    NotALedger,
    ParameterError,
    report_data,
    verify,
)
from privfed_accounting.json_schema import violations
from privfed_accounting.report_check import schema
from tests.accounting.plans import BUDGET, Clock, open_plan, plan

SCHEMA = schema()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a ledger in which everything happened."""
    with Ledger.open(tmp_path_factory.mktemp("ledger") / "l.db", budget=BUDGET, clock=Clock()) as ledger:
        for part, survivors in ((0.2, 50), (0.3, 35)):
            entry = ledger.reserve(plan(mu2=part * ledger.total_mu2()))
            ledger.settle(entry, participants=50, survivors=survivors, bytes_up=10, facts={"log_likelihood": -1.5})
        ledger.void(ledger.reserve(plan(mu2=1e-4)), reason="nobody came")
        ledger.reserve(plan(mu2=1e-4, protection="trusted", noise_source="seeded"))
        entry = ledger.reserve(plan(mu2=1e-4))
        with pytest.raises(GuaranteeBroken):
            ledger.settle(entry, participants=50, survivors=20, bytes_up=0)
        ledger.note("half-time", {"rounds": 2})
        data: dict[str, Any] = json.loads(json.dumps(report_data(ledger)))
    return data


def written(folder: Path, data: object) -> Path:
    path = folder / "report.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def test_a_report_verifies_without_its_ledger(whole: dict[str, Any], tmp_path: Path) -> None:
    verdict = verify(written(tmp_path, whole))
    assert verdict.ok, verdict.problems
    assert verdict.source == "report"
    assert [view.as_dict() for view in verdict.views] == whole["verification"]["views"]
    assert (verdict.rounds, verdict.settled, verdict.void, verdict.reserved) == (5, 3, 1, 1)
    assert "a report has no chain" in verdict.cannot_show[0]
    assert any("seeded" in warning.lower() for warning in verdict.warnings)


def test_without_a_budget(tmp_path: Path) -> None:
    with Ledger.open(None, budget=None, clock=Clock()) as ledger:
        ledger.settle(ledger.reserve(open_plan()), participants=50, survivors=50, bytes_up=3)
        verdict = verify(written(tmp_path, report_data(ledger)))
    assert verdict.ok, verdict.problems
    assert verdict.budget is None


def place(data: Any, path: str) -> tuple[Any, Any]:
    """Container and key of a place such as /views/0/view."""
    keys = [int(key) if key.isdecimal() else key for key in path.strip("/").split("/")]
    for key in keys[:-1]:
        data = data[key]
    return data, keys[-1]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("/views/1/guaranteed/epsilon", 1.0, "/views/1/guaranteed/epsilon is 1.0, computed again it is"),
        ("/views/4/at_deltas/1/gdp/epsilon", 0.5, "/views/4/at_deltas/1/gdp/epsilon"),
        ("/views/0/tight/upper/epsilon", 0.5, "/views/0/tight/upper/epsilon"),
        ("/releases/0/survivors", 41, "/releases/0/epsilons/0/realised/epsilon"),
        ("/releases/0/share_sigma", 2.0**23, "charges"),
        ("/releases/0/charge/mu2", 1e-6, "entry 2 charges mu2"),
        ("/releases/2/status", "reserved", "/releases/2/marks"),
        ("/releases/3/protection", "secure_aggregation", "/setting/protections is"),
        ("/spending/fraction", 0.1, "/spending/fraction"),
        ("/setting/budget/epsilon", 40.0, "/spending/mu2_budget"),
        ("/error_terms/delta_tail", 0.0, "/error_terms/delta_tail"),
        ("/marks", [], "/marks is"),
        ("/verification/views/1/realised_again/epsilon", 1.0, "/verification/views/1/realised_again/epsilon"),
        ("/verification/ok", False, "the report itself says that its ledger does not verify"),
        ("/ledger/head", "ab" * 32, "/verification/head"),
    ],
)
def test_a_number_that_does_not_follow_is_named(
    whole: dict[str, Any], tmp_path: Path, path: str, value: object, message: str
) -> None:
    data = copy.deepcopy(whole)
    container, key = place(data, path)
    container[key] = value
    verdict = verify(written(tmp_path, data))
    assert not verdict.ok
    assert any(message in problem for problem in verdict.problems), verdict.problems[:5]


def test_a_round_left_out(whole: dict[str, Any], tmp_path: Path) -> None:
    """What is gone is missed by the totals, unless they are computed anew: then only the ledger tells."""
    data = copy.deepcopy(whole)
    del data["releases"][0]
    assert any(problem.startswith("/spending/rounds") for problem in verify(written(tmp_path, data)).problems)


def test_the_head_is_compared_with_one_noted_elsewhere(whole: dict[str, Any], tmp_path: Path) -> None:
    path = written(tmp_path, whole)
    assert verify(path, expected_head=whole["ledger"]["head"]).ok
    assert any("another head" in problem for problem in verify(path, expected_head="ab" * 32).problems)


def test_files_that_are_no_reports(whole: dict[str, Any], tmp_path: Path) -> None:
    for text, message in (
        ("{", "is no report"),
        ('{"a": NaN}', "is no report"),
        ('{"format": "x"}', "no report of privfed"),
    ):
        (tmp_path / "x.json").write_text(text)
        with pytest.raises(NotALedger, match=message):
            verify(tmp_path / "x.json")
    with pytest.raises(LedgerVersionError, match="use a newer privfed"):
        verify(written(tmp_path, {**whole, "version": 2}))
    with pytest.raises(LedgerUnreadable):
        verify(tmp_path / "none.json")


# --- the schema's reader, against the reference implementation ----------------------------------------------------


def leaves(value: Any, at: str = "") -> list[str]:
    if isinstance(value, dict):
        return [at, *(leaf for key, each in value.items() for leaf in leaves(each, f"{at}/{key}"))]
    if isinstance(value, list):
        return [at, *(leaf for number, each in enumerate(value[:2]) for leaf in leaves(each, f"{at}/{number}"))]
    return [at]


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_the_reader_of_schemas_agrees_with_jsonschema(whole: dict[str, Any], data: st.DataObject) -> None:
    """Any one value replaced, removed or added: both accept, or both refuse."""
    changed = copy.deepcopy(whole)
    path = data.draw(st.sampled_from(leaves(whole)[1:]))
    container, key = place(changed, path)
    new = data.draw(
        st.sampled_from([None, True, 0, -1, 1, 1.5, 1e400, "", "x", "server", [], {}, {"epsilon": 1.0}, "drop", "add"])
    )
    if new == "drop":
        del container[key]
    elif new == "add" and isinstance(container, dict):
        container["surprise"] = 1
    else:
        container[key] = new
    ours = next(violations(changed, SCHEMA), None) is None
    theirs = jsonschema.Draft202012Validator(SCHEMA).is_valid(changed)
    assert ours == theirs or new == 1e400, (path, new)


def test_a_keyword_that_is_not_read_is_an_error() -> None:
    with pytest.raises(ParameterError, match="'maxProperties'"):
        list(violations({}, {"maxProperties": 3}))
