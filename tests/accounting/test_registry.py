"""An entry for the deployments registry fits the registry's own schema and says what the ledger says."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from privfed_accounting import (
    Budget,
    GuaranteeBroken,
    Ledger,
    ParameterError,
    registry_entry,
    registry_form,
    registry_yaml,
)
from privfed_accounting.registry import FIELDS, SCHEMA_SOURCE
from tests.accounting.plans import BUDGET, Clock, plan

# The registry's schema with its descriptions left out; the file says where it is from.
SCHEMA = json.loads((Path(__file__).parent / "data" / "registry-schema.json").read_text(encoding="utf-8"))
DEPLOYMENT: dict[str, Any] = {
    "name": "Ward occupancy, model 2",
    "data_curators": ["Hospital A", "Hospital B"],
    "intended_use": "Planning of beds.",
    "data_product_type": "Machine learning model",
    "data_product_region": "Northern district",
    "description": "A mixture of occupancy patterns.\nUpdated once.",
    "publication_date": "2026-03-01",
    "data_product_sector": "Healthcare",
    "registry_authors": ["R. Egistrar"],
}


def ledger(budget: Budget | None = BUDGET, **changes: Any) -> Ledger:
    made = Ledger.open(None, budget=budget, clock=Clock())
    for _ in range(2):
        made.settle(made.reserve(plan(mu2=0.05, **changes)), participants=50, survivors=41, bytes_up=1)
    return made


def valid(made: Ledger) -> dict[str, Any]:
    """The entry read back from YAML, as the registry reads it, after the registry's schema has seen it."""
    again: dict[str, Any] = yaml.safe_load(registry_yaml(made, DEPLOYMENT))
    validator = jsonschema.Draft7Validator(SCHEMA, format_checker=jsonschema.Draft7Validator.FORMAT_CHECKER)
    validator.validate(again)
    assert again == registry_entry(made, DEPLOYMENT)
    return again


def test_the_schema_is_the_one_it_names() -> None:
    source, commit = SCHEMA_SOURCE.split("@")
    assert source in SCHEMA["$comment"]
    assert commit in SCHEMA["$comment"]
    sections = SCHEMA["properties"]["deployment"]["properties"]
    for section, fields in FIELDS.items():
        assert set(fields) <= set(sections[section]["properties"])
        assert {name for name, needed in fields.items() if needed} == set(sections[section].get("required", ()))


def test_an_entry_of_tier_3() -> None:
    with ledger() as made:
        entry = valid(made)
        epsilon = made.epsilon()
    assert entry["url_slug"] == "ward-occupancy-model-2-hospital-a-hospital-b-2026"
    assert (entry["status"], entry["tier"]) == ("Draft", 3)
    deployment = entry["deployment"]
    assert deployment["basic"]["description"] == DEPLOYMENT["description"]
    assert deployment["dp_variant"]["variant_name"] == "Approximate DP"
    loss = deployment["privacy_loss"]
    assert loss["privacy_parameters"] == {"epsilon": 4.0, "delta": 1e-6}
    assert f"Spent of it: epsilon {epsilon:.4g} by 2 rounds" in loss["privacy_parameters_details"]
    assert "one row at one client, present or absent (add/remove)" in loss["privacy_unit_details"]
    for view in ("released", "server", "client", "colluders(7)", "unmasked"):
        assert f"`{view}`" in loss["privacy_parameters_details"]
        assert f"`{view}`" in deployment["deployment_model"]["actors"]
    assert deployment["deployment_model"]["model_name"] == "Federated"
    assert made.head in deployment["accounting"]["composition"]
    assert "discrete Gaussian" in deployment["implementation"]["mechanisms"]


def test_every_tier_3_field_of_the_schema_is_filled() -> None:
    with ledger() as made:
        deployment = registry_entry(made, DEPLOYMENT)["deployment"]
    optional = {"release_type_details", "data_source_type_details", "access_type_details", "sources", "notes"}
    for section, part in SCHEMA["properties"]["deployment"]["properties"].items():
        assert set(part["properties"]) - set(deployment[section]) <= optional


@pytest.mark.parametrize(
    ("changes", "model"), [({"protection": "trusted"}, "Central"), ({"protection": "local"}, "Local")]
)
def test_other_modes_are_not_registered_as_federated(changes: dict[str, Any], model: str) -> None:
    with ledger(Budget(4.0, 1e-6, view="released"), **changes) as made:
        entry = valid(made)
        assert entry["deployment"]["deployment_model"]["model_name"] == model
        assert "Note: " in entry["deployment"]["deployment_model"]["actors"]
        made.reserve(plan(mu2=0.01))
        assert registry_entry(made, DEPLOYMENT)["deployment"]["deployment_model"]["model_name"] == "Varies"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": None}, r"demands \['name'\]"),
        ({"registry_authors": []}, "registry_authors"),
        ({"epsilon": 0.1}, r"no fields \['epsilon'\]"),
        ({"privacy_unit": "user"}, "no fields"),
        ({"data_product_type": "Vibes"}, "expected one of Summary statistics"),
        ({"data_curators": "Hospital A"}, "expected a list of names"),
        ({"publication_date": "1/3/2026"}, "expected YYYY-MM-DD"),
        ({"intended_use": 3}, "expected text"),
    ],
)
def test_what_is_given_must_fit(changes: dict[str, Any], message: str) -> None:
    with ledger() as made, pytest.raises(ParameterError, match=message):
        registry_entry(made, {**DEPLOYMENT, **changes})


def test_nothing_to_register() -> None:
    with Ledger.open(None, budget=None) as bare, pytest.raises(ParameterError, match="no differential privacy"):
        registry_entry(bare, DEPLOYMENT)
    with ledger() as made:
        entry = made.reserve(plan(mu2=0.5))
        with pytest.raises(GuaranteeBroken):
            made.settle(entry, participants=50, survivors=1, bytes_up=0)
        with pytest.raises(ParameterError, match="does not verify"):
            registry_entry(made, DEPLOYMENT)


def test_without_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ParameterError, match=r"install privfed\[verify\]"):
        registry_yaml("never-read.db", {})


def test_the_form_asks_for_every_field_and_what_is_filled_in_goes_through() -> None:
    made, form = ledger(), registry_form()
    asked = {line.lstrip("# ").partition(":")[0] for line in form.splitlines() if ": " in line}
    assert {name for fields in FIELDS.values() for name in fields} <= asked
    empty = yaml.safe_load(form)
    assert set(empty) == {name for fields in FIELDS.values() for name, demanded in fields.items() if demanded}
    with pytest.raises(ParameterError, match="the registry demands"):
        registry_entry(made, empty)
    assert registry_entry(made, empty | DEPLOYMENT) == registry_entry(made, DEPLOYMENT)
    open_too = "\n".join(line.removeprefix("# ") if ': "' in line else line for line in form.splitlines())
    filled = {name: value for name, value in yaml.safe_load(open_too).items() if value}
    assert registry_entry(made, filled | DEPLOYMENT) == registry_entry(made, DEPLOYMENT)  # the defaults are as shown
