"""Reference values of others, at the tolerances given with them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from privfed_accounting import ddg_tau, gaussian_epsilon

GOLDEN = json.loads((Path(__file__).resolve().parents[2] / "accounting" / "golden.json").read_text(encoding="utf-8"))


def cases(*prefixes: str) -> list[Any]:
    found = [pytest.param(case, id=case["id"]) for case in GOLDEN if case["id"].startswith(prefixes)]
    if not found:
        raise LookupError(f"no golden value starts with {prefixes}")
    return found


@pytest.mark.parametrize("case", cases("gauss_exact_"))
def test_exact_gaussian(case: dict[str, Any]) -> None:
    mu = math.sqrt(case["params"]["T"]) / case["params"]["sigma"]
    assert gaussian_epsilon(case["params"]["delta"], mu) == pytest.approx(case["value"], rel=case["rel_tol"], abs=0.0)


@pytest.mark.parametrize("case", cases("tree_"))
def test_tree_aggregation(case: dict[str, Any]) -> None:
    """Each value is in ceil(log2(steps + 1)) nodes of the tree, each a Gaussian release."""
    params = case["params"]
    mu = math.sqrt(params["epochs"] * math.ceil(math.log2(params["steps"] + 1))) / params["sigma"]
    assert gaussian_epsilon(params["delta"], mu) == pytest.approx(
        case["value"]["exact_gdp"], rel=case["rel_tol"], abs=0.0
    )


@pytest.mark.parametrize("case", cases("replace_one"))
def test_replace_one(case: dict[str, Any]) -> None:
    """Replacing moves the sum by up to twice the bound."""
    params = case["params"]
    mu = 2.0 * math.sqrt(params["T"]) / params["sigma"]
    epsilon = gaussian_epsilon(params["delta"], mu)
    assert epsilon == pytest.approx(case["value"]["exact"], rel=case["rel_tol"], abs=0.0)
    assert epsilon > 2 * case["value"]["dpa_rdp_WRONG"]


@pytest.mark.parametrize("case", cases("ddg_tau_"))
def test_tau(case: dict[str, Any]) -> None:
    tau = ddg_tau(share_sigma=case["params"]["sigma_int"], shares=case["params"]["n"])
    assert tau == pytest.approx(case["value"], rel=case["rel_tol"], abs=0.0)
