"""The audit of a release: faults planted in the real path are found, correct federations are left in peace."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from privfed import LocalFederation, UsageError
from privfed.audit.privacy import CAVEAT, PrivacyAudit, audit_privacy
from privfed.audit.privacy.known_answer import clipped_sum, freshness_p_value, noise_p_values
from privfed.audit.privacy.surface import dependence
from privfed.mechanism.clip import clip_rows
from tests.audit.planted_faults import (
    HalfTheClaim,
    Plant,
    WeightBeside,
    clip_skipped,
    only_the_first_client,
    stale_noise,
    times,
    weighted_after_the_clip,
    with_plan,
    without_noise,
)

SMALL = {"epsilon": 1.0, "delta": 1e-5, "canaries": 400, "clients": 16, "dimension": 2_000}


def audit(**changes: Any) -> PrivacyAudit:
    return audit_privacy(**{"noise_seed": 1, **SMALL, **changes})


PLANTED: dict[str, tuple[Plant, set[str]]] = {
    "no noise": (with_plan(without_noise), {"one_run", "canary_clients", "noise", "noise_is_fresh"}),
    "noise once instead of per client": (with_plan(only_the_first_client), {"canary_clients", "noise"}),
    "half of the noise": (with_plan(times(0.5)), {"noise"}),
    "twice the noise": (with_plan(times(2.0)), {"noise"}),
    "clip skipped": (clip_skipped, {"one_run", "noise"}),
    "weight outside of the vector's bound": (weighted_after_the_clip, {"noise"}),
    "the same noise in every round": (stale_noise, {"noise_is_fresh"}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_fault_planted_in_the_path_of_a_release_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, expected = PLANTED[name]
    plant(monkeypatch)
    found = audit(canaries=500, guesses=200, clients=40 if "canary_clients" in expected else 16)
    assert expected <= set(found.failed)
    assert not found.ok


@pytest.mark.parametrize(("federation", "expected"), [(WeightBeside, {"surface"}), (HalfTheClaim, {"noise_suffices"})])
def test_a_federation_that_shows_or_claims_the_wrong_things_is_found(
    federation: type[LocalFederation], expected: set[str]
) -> None:
    assert set(audit(federation=federation).failed) == expected


@pytest.mark.parametrize("factor", [0.98, 1.02])
def test_noise_that_is_two_percent_off_is_found_with_enough_coordinates(
    factor: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_plan(times(factor))(monkeypatch)
    assert audit(clients=8, dimension=100_000).failed == ("noise",)


def test_correct_runs_are_left_in_peace() -> None:
    """At the default rate, one false alarm in a million; and at one in ten, more than 4 of 8 have a chance of 5e-4."""
    runs = [
        audit(false_alarm=0.1, random_state=seed, noise_seed=seed, canaries=200, dimension=500) for seed in range(8)
    ]
    assert sum(not run.ok for run in runs) <= 4
    assert all(finding.p_value is None or finding.p_value > 1e-6 / 17 for run in runs for finding in run.findings)
    assert sum(run.lower_bound > run.epsilon for run in runs) <= 4


@pytest.mark.parametrize("epsilon", [0.1, 8.0])
def test_correct_runs_with_noise_of_the_system_pass(epsilon: float) -> None:
    found = audit_privacy(**{**SMALL, "epsilon": epsilon})
    assert found.ok
    assert found.noise_source == "os"
    assert found.protection == "secure_aggregation"
    assert found.epsilon <= epsilon  # the lower bound may pass it in one run of twenty: that is its confidence


def test_the_trusted_mode_gives_the_same_audit_and_says_so() -> None:
    secure, trusted = audit(), audit(federation=functools.partial(LocalFederation, mode="trusted"))
    assert trusted.protection == "trusted"
    assert dataclasses.replace(trusted, protection=secure.protection, findings=secure.findings) == secure


@pytest.mark.parametrize(
    ("options", "accounting"),
    [
        ({"drop_outs": "exact", "dropout": 0.25}, "gaussian"),
        ({"mode": "local"}, "gaussian"),
        ({"bits": 28, "noise": "skellam"}, "renyi"),
        ({"bits": 20, "max_records": 2000}, "renyi"),
    ],
    ids=str,
)
def test_other_regimes_keep_their_claims(options: dict[str, Any], accounting: Any) -> None:
    found = audit(federation=functools.partial(LocalFederation, **options), accounting=accounting)
    assert found.failed == ()
    assert found.lower_bound <= found.epsilon <= 1.0


def test_the_audit_as_a_report_shows_it() -> None:
    found = audit()
    data = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert data["ok"] is True
    assert data["lower_bound"]["epsilon"] == found.lower_bound
    assert data["lower_bound"]["canaries"] == 400
    assert data["claimed"]["epsilon"] == found.epsilon
    assert data["canary_clients"]["clients"] == 16
    assert data["caveat"] == CAVEAT
    assert data["noise_source"] == "seeded"
    assert [finding["check"] for finding in data["findings"]] == [
        "one_run", "canary_clients", "noise", "noise_is_fresh", "noise_suffices", "surface",
    ]  # fmt: skip
    with pytest.raises(KeyError, match="no check 'other'"):
        found["other"]


def test_an_infinite_estimate_is_json_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with_plan(without_noise)(monkeypatch)
    found = audit(clients=8, dimension=100_000)
    assert found.canary_clients.estimate == math.inf
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["canary_clients"]["estimate"] is None


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"canaries": 100}, "canaries is 100, expected an integer from 200"),
        ({"clients": 7}, "clients is 7"),
        ({"clients": 301}, "from 8 to 300"),
        ({"dimension": 10}, "dimension is 10"),
        ({"guesses": 7}, "expected an even number"),
        ({"confidence": 1.5}, "confidence is 1.5"),
        ({"false_alarm": 0.0}, "false_alarm is 0.0"),
    ],
)
def test_senseless_options_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        audit(**changes)


def test_progress_is_told() -> None:
    told: list[str] = []
    audit(progress=told.append)
    assert told == ["400 canary records", "16 canary clients", "two data sets, twice each"]


def test_the_auditors_own_sum_is_that_of_clipped_rows() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((50, 7)) * rng.uniform(0, 5, (50, 1))
    rows[3] = 0.0
    np.testing.assert_allclose(clipped_sum(rows, 1.5), clip_rows(rows, 1.5).sum(axis=0), atol=1e-12)


def test_the_noise_tests_are_valid_and_each_refutes_what_it_is_for() -> None:
    rng = np.random.default_rng(1)
    found = [noise_p_values(rng.standard_normal(500) * 3, 3.0) for _ in range(400)]
    for name in ("scale", "mean", "shape", "neighbours"):
        assert stats.kstest([p_values[name] for p_values in found], "uniform").pvalue > 1e-4
    n = 60_000
    z = rng.standard_normal(n)
    assert noise_p_values(z * 0.98, 1.0)["scale"] < 1e-6
    assert noise_p_values(z * 1.02, 1.0)["scale"] < 1e-6
    assert noise_p_values(z + 0.03, 1.0)["mean"] < 1e-6
    assert noise_p_values(rng.laplace(size=n) / math.sqrt(2), 1.0)["shape"] < 1e-6
    assert noise_p_values(np.repeat(z[: n // 2], 2), 1.0)["neighbours"] < 1e-6
    assert set(noise_p_values(z, 0.0).values()) == {0.0}
    assert set(noise_p_values(np.full(200, math.nan), 1.0).values()) == {0.0}
    assert freshness_p_value(z, z) < 1e-6
    assert freshness_p_value(np.zeros(500), np.zeros(500)) < 1e-6
    assert freshness_p_value(z, rng.standard_normal(n)) > 1e-6


def test_a_public_field_that_the_data_fix_is_named_and_one_that_varies_by_itself_is_not() -> None:
    first = [{"a": "1", "time": "3", "same": "x"}, {"a": "1", "time": "4", "same": "x"}]
    second = [{"a": "2", "time": "5", "same": "x", "new": "y"}, {"a": "2", "time": "6", "same": "x", "new": "y"}]
    assert dependence(first, second) == ["a", "new"]
