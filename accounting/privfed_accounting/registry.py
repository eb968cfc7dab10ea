"""An entry for the differential-privacy deployments registry (OpenDP, NIST), tier 3: what the ledger knows, filled in.

Follows `schemas/deployments-schema.yaml` of github.com/opendp/deployments-registry-data at commit 3e9c812a924c
(2026-07-15). What a ledger cannot know (names, uses, the data's domain) comes from whoever registers the deployment;
what it does know is not theirs to change.
"""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from privfed_accounting.errors import ParameterError
from privfed_accounting.ledger import Ledger
from privfed_accounting.reporting import report_data

SCHEMA_SOURCE: Final = "opendp/deployments-registry-data@3e9c812a924c"

# Section -> fields that whoever registers may fill; those marked True are demanded by the registry's schema.
FIELDS: Final[Mapping[str, Mapping[str, bool]]] = {
    "basic": {
        "name": True,
        "data_curators": True,
        "intended_use": True,
        "data_product_type": True,
        "data_product_region": True,
        "description": True,
        "publication_date": True,
        "data_product_sector": False,
    },
    "dp_variant": {"data_domain": False},
    "deployment_model": {
        "release_type_details": False,
        "data_source_type": False,
        "data_source_type_details": False,
        "access_type": False,
        "access_type_details": False,
    },
    "accounting": {"post_processing": False},
    "implementation": {"preprocessing_and_hyperparameter_tuning": False, "justification": False},
    "administrative": {"sources": False, "notes": False, "registry_authors": True},
}
_LISTS: Final = ("data_curators", "registry_authors")
_CHOICES: Final[Mapping[str, tuple[str, ...]]] = {
    "data_product_type": (
        "Summary statistics",
        "Machine learning model",
        "Dataset",
        "Synthetic data",
        "Interactive API",
        "SQL queries",
    ),
    "data_product_sector": ("Technology", "Healthcare", "Education", "Government", "Energy", "Finance"),
    "data_source_type": ("Static", "Dynamic"),
    "access_type": ("Interactive", "Non-interactive"),
}
_DEFAULTS: Final = {
    "data_source_type": "Static",
    "access_type": "Non-interactive",
    "data_domain": "Rows held by each client; not described further by who registered this deployment.",
    "post_processing": "None is recorded in the ledger.",
    "preprocessing_and_hyperparameter_tuning": "Not described by who registered this deployment. Runs outside the "
    "ledger are not in its epsilon.",
    "justification": "Not described by who registered this deployment.",
}
_MODELS: Final = {"secure_aggregation": "Federated", "trusted": "Central", "central": "Central", "local": "Local"}
_PROTECTIONS: Final = {
    "secure_aggregation": "Clients add their noise shares before anything leaves them; masks let sums through only",
    "trusted": "Clients add their noise shares; the operator sees every client's noised vector, for experiments",
    "local": "Every client adds enough noise for itself before its vector leaves it; nothing is masked",
    "central": "The operator sees every client's vector without noise and adds the noise to the sum",
}
_MECHANISMS: Final = {
    "discrete_gaussian": "discrete Gaussian noise on an integer grid, one share at each client, accounted exactly as a "
    "Gaussian with the grid's error terms added",
    "skellam": "Skellam noise on an integer grid, one share at each client, accounted by its Renyi divergences",
}


def registry_entry(ledger: Ledger | str | Path, deployment: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in an entry of the deployments registry, tier 3, status "Draft", from a ledger.

    Args:
        ledger: an open ledger, its file or URL; it must have a budget and verify.
        deployment: what the ledger cannot know, by the registry's own field names: `name`, `data_curators` (list),
            `intended_use`, `data_product_type`, `data_product_region`, `description`, `publication_date` (YYYY-MM-DD)
            and `registry_authors` (list) are demanded; see `FIELDS` for the others.

    Raises:
        ParameterError: a field is missing, unknown or of another type; the ledger has no budget or does not verify.
        LedgerError: it cannot be read.
    """
    given = _checked(deployment)
    data = report_data(ledger)
    if data["setting"]["budget"] is None:
        raise ParameterError(
            "a ledger without a budget has no differential privacy to register: give one with a budget"
        )
    if not data["verification"]["ok"]:
        raise ParameterError("the ledger does not verify and is not to be registered: run verify on it first")
    computed = {
        "dp_variant": {"variant_name": "Approximate DP", "unprotected_quantities": _points(data["not_protected"])},
        "privacy_loss": _privacy_loss(data),
        "deployment_model": _model(data),
        "accounting": {"composition": _composition(data)},
        "implementation": {"mechanisms": _mechanisms(data)},
    }
    sections = [*FIELDS, "privacy_loss"]
    order = (
        "basic",
        "dp_variant",
        "privacy_loss",
        "deployment_model",
        "accounting",
        "implementation",
        "administrative",
    )
    merged = {section: given.get(section, {}) | computed.get(section, {}) for section in sections}
    return {
        "url_slug": _slug(merged["basic"]),
        "status": "Draft",
        "tier": 3,
        "deployment": {section: merged[section] for section in order},
    }


def registry_yaml(ledger: Ledger | str | Path, deployment: Mapping[str, Any]) -> str:
    """An entry as YAML in the registry's style: long texts as literal blocks, fields in the schema's order.

    Args:
        ledger, deployment: as in `registry_entry`, and so are the errors.

    Raises:
        ParameterError: PyYAML is not installed, or as in `registry_entry`.
    """
    try:
        import yaml
    except ImportError as error:
        raise ParameterError("PyYAML is not installed, expected it for this: install privfed[verify]") from error

    class Dumper(yaml.SafeDumper):
        """Literal blocks for what has several lines."""

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)

    Dumper.add_representer(str, text)
    entry = registry_entry(ledger, deployment)
    written: str = yaml.dump(entry, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=10**6)
    return written


def registry_form() -> str:
    """Return YAML to fill in for `registry_entry`: every field that a ledger cannot know, and what may stand there.

    Demanded fields are empty; the others are commented out, with what is written for them where nothing is given.
    """
    lines = [
        "# What a ledger cannot know of a deployment. Fill in what is demanded; take the # away from the rest.",
        f"# Fields of {SCHEMA_SOURCE}.",
    ]
    for section, fields in FIELDS.items():
        lines += ["", f"# {section}"]
        for name, demanded in fields.items():
            kind = "a list of names" if name in _LISTS else ""
            kind = "YYYY-MM-DD" if name == "publication_date" else kind
            kind = f"one of: {', '.join(_CHOICES[name])}" if name in _CHOICES else kind
            notes = "; ".join(note for note in ("demanded" if demanded else "", kind) if note)
            value = "[]" if name in _LISTS else f'"{_DEFAULTS.get(name, "")}"'
            lines.append(f"{'' if demanded else '# '}{name}: {value}" + (f"  # {notes}" if notes else ""))
    return "\n".join(lines) + "\n"


def _checked(deployment: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The given fields by section, defaults filled in."""
    known = {name: section for section, fields in FIELDS.items() for name in fields}
    unknown = sorted(set(deployment) - set(known))
    if unknown:
        raise ParameterError(f"the registry has no fields {unknown} to fill in, expected some of {sorted(known)}")
    required = [name for fields in FIELDS.values() for name, needed in fields.items() if needed]
    missing = [name for name in required if not deployment.get(name)]
    if missing:
        raise ParameterError(f"the registry demands {missing}, which no ledger knows: give them, see registry_form()")
    sections: dict[str, dict[str, Any]] = {section: {} for section in FIELDS}
    for name, section in known.items():
        value = deployment.get(name, _DEFAULTS.get(name))
        if value is not None:
            sections[section][name] = _field(name, value)
    return sections


def _field(name: str, value: Any) -> Any:
    if name in _LISTS:
        if isinstance(value, str) or not all(isinstance(each, str) and each for each in value):
            raise ParameterError(f"{name} is {value!r}, expected a list of names")
        return list(value)
    if not isinstance(value, str) or not value:
        raise ParameterError(f"{name} is {value!r}, expected text")
    if value not in _CHOICES.get(name, (value,)):
        raise ParameterError(f"{name} is {value!r}, expected one of {', '.join(_CHOICES[name])}")
    if name == "publication_date":
        try:
            datetime.datetime.strptime(value, "%Y-%m-%d")
        except ValueError:
            raise ParameterError(f"publication_date is {value!r}, expected YYYY-MM-DD") from None
    return value


def _slug(basic: Mapping[str, Any]) -> str:
    """The registry's own rule: name, curators and year, in lower case, joined by hyphens."""
    parts = (basic["name"], "-".join(basic["data_curators"]), basic["publication_date"][:4])
    return "-".join(re.sub(r"\W+", "-", part.lower()) for part in parts).replace("_", "-")


def _privacy_loss(data: Mapping[str, Any]) -> dict[str, Any]:
    setting, budget = data["setting"], data["setting"]["budget"]
    spent = data["spending"]["guaranteed"]["epsilon"]
    epsilon = max(budget["epsilon"], math.inf if spent is None else spent)
    lines = [
        f"- Enforced before each release: epsilon {budget['epsilon']:g} at delta {budget['delta']:g} in the view "
        f"`{setting['guarded_view']}`; it holds although rounds may be chosen after seeing earlier answers.",
        f"- Spent of it: epsilon {_shown(data['spending']['guaranteed'])} by {data['spending']['rounds']} rounds.",
    ]
    for view in data["views"]:
        bounds = view["tight"]
        tight = "" if bounds is None else f", tight {_shown(bounds['upper'])} had the schedule been fixed"
        lines.append(
            f"- View `{view['view']}` ({view['description']}): guaranteed epsilon {_shown(view['guaranteed'])}, with "
            f"the survivors there were {_shown(view['realised'])}{tight}; delta {budget['delta']:g}."
        )
    return {
        "privacy_unit": {"record": "Record-level", "client": "Client-level"}[setting["unit"]],
        "privacy_unit_details": f"Adjacent datasets differ by {setting['unit_means']} ({setting['relation']}).",
        "privacy_parameters": {"epsilon": epsilon, "delta": budget["delta"]},
        "privacy_parameters_details": "\n".join(lines) + "\n",
    }


def _model(data: Mapping[str, Any]) -> dict[str, Any]:
    protections = data["setting"]["protections"]
    names = list(dict.fromkeys(_MODELS[name] for name in protections)) or ["Federated"]
    rounds = data["spending"]["rounds"]
    actors = [
        f"- {view['description'][:1].upper()}{view['description'][1:]} (`{view['view']}`)." for view in data["views"]
    ]
    marks = [f"- Note: {mark['text']}" for mark in data["marks"]]
    return {
        "model_name": names[0] if len(names) == 1 else "Varies",
        "model_name_details": "\n".join(f"- {_PROTECTIONS[name]}." for name in protections) + "\n",
        "actors": "\n".join([*actors, *marks]) + "\n",
        "release_type": "One release" if rounds == 1 else "Many releases",
    }


def _composition(data: Mapping[str, Any]) -> str:
    accounting = data["setting"]["budget"]["accounting"]
    how = "exact Gaussian accounting (mu-GDP)" if accounting == "gaussian" else "Renyi divergences at integer orders"
    sampling = "; ".join(f"{each['kind']}: {each['means']}" for each in data["setting"]["sampling"])
    drop_outs = "; ".join(f"{each['policy']}: {each['means']}" for each in data["setting"]["drop_outs"])
    terms = ", ".join(
        f"{term['name']} {term['value']:.3g} (in {term['counts_in']})"
        for term in data["error_terms"]["terms"]
        if term["value"] is not None
    )
    return (
        f"- Sequential composition by {how}, as a filter: each round is charged in an append-only ledger before it "
        "is revealed, and refused if it would pass the budget.\n"
        f"- Sampling: {sampling or 'no rounds yet'}.\n- Drop-outs: {drop_outs or 'no rounds yet'}.\n"
        f"- Numerical error terms: {terms}.\n"
        f"- Ledger {data['ledger']['identifier']}, head {data['ledger']['head']} at entry {data['ledger']['entries']}; "
        "every epsilon was recomputed by a second, independent route.\n"
    )


def _mechanisms(data: Mapping[str, Any]) -> str:
    names = [_MECHANISMS[name] for name in data["setting"]["mechanisms"] if name in _MECHANISMS]
    software = sorted({release["software"] for release in data["releases"] if release["software"]})
    sources = sorted({release["noise_source"] for release in data["releases"]})
    return (
        f"- {'; '.join(names) or 'no rounds yet'}.\n"
        f"- Software: {', '.join(software) or 'not stated'}.\n"
        "- Floating point: values are rounded to integers before noise, noise is drawn on the integers, and the "
        "rounding is in the sensitivity; the samplers' distance from the ideal is in delta.\n"
        f"- Randomness: {', '.join(sources) or 'no rounds yet'} (os: the operating system; seeded: for tests).\n"
        "- Timing and other side channels of clients are not covered.\n"
    )


def _points(items: list[dict[str, str]]) -> str:
    return "".join(f"- {each['what'][:1].upper()}{each['what'][1:]}: {each['why']}.\n" for each in items)


def _shown(epsilon: Mapping[str, Any]) -> str:
    return "infinite" if epsilon["infinite"] else f"{epsilon['epsilon']:.4g}"
