"""The choice of regime and bits, the coarse grid's promises, and what a plan says of itself."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, DataError, LocalFederation, UsageError
from privfed.federation.vector import noised_vector, opened_vector
from privfed.mechanism.randomness import Keystream
from privfed.plan import SamplingTerms, Terms, make_plan, preview
from privfed.statistics.moments import Count, Moments, VectorSum
from privfed_accounting import Sampling

DIGEST = bytes(32)


def terms(**changes: object) -> Terms:
    base = {
        "unit": "client",
        "view": "server",
        "noise_multiplier": 2.0,
        "planned": 40,
        "guaranteed": 32,
        "max_records": 1,
        "records_per_client": 1.0,
        "protection": "secure_aggregation",
    }
    return Terms(**(base | changes))


def plan(dimension=5000, query=None, **changes):
    return make_plan(VectorSum(dimension, 3.0) if query is None else query, DIGEST, terms(**changes))


@pytest.mark.parametrize(
    ("changes", "regime", "bits"),
    [
        ({"dimension": 100}, "fine", 64),
        ({"dimension": 10_000}, "fine", 32),
        ({"dimension": 10_000, "noise_multiplier": 0.0}, "fine", 64),
        ({"bits": 48}, "fine", 48),
        ({"bits": 32}, "fine", 32),
        ({"bits": 16}, "coarse", 16),
        ({"bits": 11}, "coarse", 11),
        ({"noise": "skellam", "bits": 32}, "coarse", 32),
        ({"noise": "discrete_gaussian", "bits": 32}, "fine", 32),
        ({"unit": "record", "max_records": 10**6, "dimension": 10_000}, "fine", 64),
    ],
)
def test_the_plan_chooses(changes, regime, bits) -> None:
    chosen = plan(**changes)
    assert (chosen.regime, chosen.bits) == (regime, bits)
    private = changes.get("noise_multiplier", 2.0) > 0
    assert chosen.mechanism == {"fine": "discrete_gaussian", "coarse": "skellam"}[regime] if private else "none"
    if private:
        total = chosen.share_sigma * math.sqrt(32)
        assert total >= 2.0 * chosen.l2_sensitivity
        assert total == pytest.approx(2.0 * chosen.l2_sensitivity)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"noise": "discrete_gaussian", "bits": 12}, "give bits=None, or noise='auto'"),
        ({"bits": 8}, r"use at least \d+ bits"),
        ({"bits": 8, "noise_multiplier": 30.0}, r"use at least \d+ bits"),
        ({"noise": "skellam", "unit": "record", "max_records": 10**9}, "lower max_records"),
        ({"noise": "skellam", "noise_multiplier": 1e-9}, "grid worth its noise"),
    ],
)
def test_meaningless_settings_are_refused_with_the_remedy(changes, match) -> None:
    with pytest.raises(UsageError, match=match):
        plan(**changes)


def test_the_remedy_is_right() -> None:
    """The bits that the refusal names do work, and one fewer does not."""
    with pytest.raises(UsageError) as caught:
        plan(bits=8, noise_multiplier=30.0)
    needed = int(str(caught.value).split("at least ")[1].split()[0])
    assert plan(bits=needed, noise_multiplier=30.0).bits == needed
    with pytest.raises(UsageError):
        plan(bits=needed - 1, noise_multiplier=30.0)


@settings(max_examples=30, deadline=None)
@given(
    bits=st.integers(11, 24),
    unit=st.sampled_from(["client", "record"]),
    seed=st.integers(0, 2**32),
    size=st.floats(0.0, 1.0),
    rows=st.integers(1, 5),
)
def test_no_coarse_vector_is_longer_than_the_plan_says(bits, unit, seed, size, rows) -> None:
    """Without noise, so that the rounded vector shows: its L2 and L1 norms, and its largest entry, keep the bounds."""
    rng = np.random.default_rng(seed)
    chosen = plan(700, bits=bits, unit=unit, max_records=rows if unit == "record" else 1, planned=10, guaranteed=10)
    if chosen.regime == "fine":
        return
    direction = rng.standard_normal(700)
    vector = direction / np.linalg.norm(direction) * size
    silent = type(chosen)(**(vars(chosen) | {"mechanism": "none", "share_sigma": 0.0}))
    sent = noised_vector(vector, silent, Keystream.seeded(str(seed).encode())).vector
    shift = np.uint64(64 - bits)
    integers = (sent.astype(np.uint64) << shift).view(np.int64) >> np.int64(64 - bits)
    slack = 1.0 if unit == "client" else 1.0 + 1e-9
    assert np.linalg.norm(integers) <= chosen.l2_sensitivity * slack
    assert np.abs(integers).sum() <= chosen.l1_sensitivity * slack
    assert np.abs(integers).max(initial=0) <= chosen.bound
    back = opened_vector(sent, silent, survivors=1, surplus=(), keystream=Keystream())
    assert np.linalg.norm(back - vector) <= 2.0 * math.sqrt(chosen.length) / chosen.scale


def test_a_record_moves_the_rounded_sum_of_its_client_by_no_more_than_the_plan_says() -> None:
    chosen = plan(300, bits=20, unit="record", max_records=50, planned=10, guaranteed=10)
    silent = type(chosen)(**(vars(chosen) | {"mechanism": "none", "share_sigma": 0.0}))
    rng = np.random.default_rng(1)
    for _ in range(20):
        rows = rng.standard_normal((50, 300))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        encoded = [
            noised_vector(part.sum(axis=0), silent, Keystream()).vector.astype(np.int64) for part in (rows, rows[1:])
        ]
        difference = (encoded[0] - encoded[1] + 2**19) % 2**20 - 2**19
        assert 0.5 * chosen.scale < np.linalg.norm(difference) <= chosen.l2_sensitivity
        assert np.abs(difference).sum() <= chosen.l1_sensitivity


def test_the_worst_clients_hardly_ever_wrap() -> None:
    """Forty clients all send the same vector of the largest norm: the plan allows a wrap in 10 000 rounds."""
    query = VectorSum(3000, 1.0)
    vector = np.zeros(3000)
    vector[0] = 1.0
    for number in range(20):
        chosen = make_plan(query, DIGEST, terms(bits=14, rotation_seed=number.to_bytes(32, "big")))
        assert chosen.wrap_probability <= 1e-4
        parts = [noised_vector(vector, chosen, Keystream.seeded(bytes([number, i]))).vector for i in range(40)]
        total = opened_vector(np.sum(parts, axis=0), chosen, survivors=40, surplus=(), keystream=Keystream())
        error = np.abs(total - 40 * vector).max()
        assert error < 7 * chosen.noise_std(40)
        assert error < 0.5 * 2**14 / chosen.scale


def test_a_coarse_round_costs_what_the_ledger_counts() -> None:
    budget = Budget(epsilon=3.0, delta=1e-6, unit="client", accounting="renyi")
    rows = [np.zeros((1, 2000))] * 20
    with LocalFederation(rows, budget=budget, bits=14, mode="trusted", max_records=1) as federation:
        explained = federation.plan(VectorSum(2000, 1.0), share=0.5)
        for _ in range(2):
            release = federation.release(VectorSum(2000, 1.0), share=0.5)
        assert release.plan.digest != explained.digest  # another rotation each time
        assert release.plan.share_sigma == explained.share_sigma
        assert 2.5 < release.epsilon["server"] <= 3.0
        assert federation.remaining_share == pytest.approx(0.0, abs=0.01)
        entry = federation.ledger.rounds()[0].plan
    assert (entry.mechanism, entry.bits, entry.dimension) == ("skellam", 14, release.plan.length)
    assert entry.l1_sensitivity >= entry.l2_sensitivity > 0


def test_plans_explain_themselves_in_numbers() -> None:
    fine = " ".join(plan(10_000).explain())
    for words in (
        "Fine grid, 32 bits",
        "40,000 bytes",
        "halve the bytes",
        "discrete Gaussian",
        "Up to 8 of 40",
        "11.8%",
    ):
        assert words in fine
    coarse = " ".join(plan(5000, bits=14, drop_outs="exact").explain())
    for words in ("Coarse grid, 14 bits", "too few for a fine grid", "wraps with probability", "Skellam", "back"):
        assert words in coarse
    assert "No noise" in " ".join(plan(5, noise_multiplier=0.0, planned=32).explain())


# --- preview ---------------------------------------------------------------------------------------------------------


def test_a_preview_is_what_then_happens() -> None:
    outlook = preview(
        epsilon=2.0, delta=1e-6, rounds=5, clients=20, dropout=0.2, dimension=300, unit="record", max_records=1000
    )
    rows = [np.ones((3, 300))] * 20
    budget = Budget(epsilon=2.0, delta=1e-6)
    with LocalFederation(rows, budget=budget, dropout=0.2, mode="trusted", max_records=1000) as federation:
        for _ in range(5):
            release = federation.release(VectorSum(300, 1.0), share=1 / 5)
        promised = federation.noise_std(VectorSum(300, 1.0), 1 / 5)["sum"]
    assert outlook.noise_std == pytest.approx(promised)
    assert outlook.mean_noise_std == pytest.approx(promised / 16)
    for view, epsilon in release.epsilon.items():
        assert outlook.epsilons[view] == pytest.approx(epsilon) or math.isinf(epsilon)
        assert outlook.epsilons_if_nobody_is_lost[view] <= outlook.epsilons[view]
    assert outlook.bytes_per_client == release.plan.nbytes


def test_the_worked_case_of_the_design() -> None:
    """n = 50, T = 10, delta 1e-6, 4.0 released: fellow client 4.05, ten colluders 4.54, unmasked 45."""
    outlook = preview(epsilon=4.0, delta=1e-6, rounds=10, clients=50, colluders=10, view="released", dimension=10)
    assert outlook.epsilons["released"] == pytest.approx(4.0, abs=1e-3)
    assert outlook.epsilons["client"] == pytest.approx(4.05, abs=0.005)
    assert outlook.epsilons["colluders(10)"] == pytest.approx(4.54, abs=0.005)
    assert outlook.epsilons["unmasked"] == pytest.approx(45, abs=0.5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bits": 16, "dimension": 10_000},
        {"protection": "local"},
        {"protection": "central", "view": "released"},
        {"drop_outs": "exact"},
        {"unit": "record", "max_records": 500, "sampling": Sampling.poisson(0.05, unit="record")},
        {"sampling": Sampling.fixed_size(10, 40, unit="client")},
        {"colluders": 5, "view": "colluders(5)"},
    ],
)
def test_previews_are_plain_numbers(settings) -> None:
    outlook = preview(**({"epsilon": 3.0, "delta": 1e-6, "rounds": 4, "clients": 40, "dropout": 0.2} | settings))
    fields = json.loads(json.dumps(outlook.as_dict(), allow_nan=False))
    assert fields["epsilons"][outlook.view] <= 3.0 + 1e-9
    assert fields["noise_std"] > 0
    assert fields["total_bytes"] == fields["bytes_per_client"] * fields["clients"]["planned"] * 4
    assert len(fields["explanation"]) >= 4


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"rounds": 0}, "rounds"),
        ({"clients": 1}, "clients"),
        ({"dropout": 0.99}, "tolerate fewer"),
        ({"bits": 8, "dimension": 10_000}, "bits"),
        ({"protection": "none"}, "protection"),
        ({"dropout": "many"}, "a fraction"),
        ({"sampling": Sampling.poisson(0.1, unit="record")}, "amplify nothing for unit 'client'"),
        ({"sampling": Sampling.poisson(0.1, unit="client")}, "raise the rate to"),
        ({"sampling": Sampling.fixed_size(5, 21, unit="client")}, "21 clients, the federation has 20"),
        ({"sampling": 0.1}, "expected privfed.Sampling"),
        ({"epsilon": 35.1}, "expected at most 35"),
        ({"colluders": -1}, "colluders"),
        ({"colluders": 20}, "from 0 to 19"),
        ({"view": "colluders(19)"}, "at most 18 colluders"),
    ],
)
def test_previews_refuse_what_no_federation_would_do(settings, match) -> None:
    with pytest.raises(UsageError, match=match):
        preview(**({"epsilon": 1.0, "delta": 1e-6, "rounds": 10, "clients": 20} | settings))


@pytest.mark.parametrize(
    "settings",
    [
        {"sampling": Sampling.poisson(0.1, unit="record")},
        {"sampling": Sampling.poisson(0.1, unit="client")},
        {"sampling": Sampling.fixed_size(5, 21, unit="client")},
        {"epsilon": 36.0},
        {"view": "colluders(19)"},
    ],
)
def test_previews_and_federations_refuse_in_the_same_words(settings) -> None:
    with pytest.raises(UsageError) as previewed:
        preview(**({"epsilon": 1.0, "delta": 1e-6, "rounds": 10, "clients": 20} | settings))
    budget = Budget(settings.get("epsilon", 1.0), delta=1e-6, unit="client", view=settings.get("view", "server"))
    with pytest.raises(UsageError) as refused:
        LocalFederation([np.ones((1, 2))] * 20, budget=budget, sampling=settings.get("sampling"))
    assert str(previewed.value) == str(refused.value)


@pytest.mark.parametrize(("clients", "delta"), [(3, 1e-6), (20, 1e-6), (500, 1e-5), (10_000, 1e-8)])
def test_the_least_rate_of_a_hidden_sample_is_named(clients, delta) -> None:
    """Found by another route: the binomial's own tail."""
    from scipy.stats import binom

    with pytest.raises(UsageError, match="raise the rate to") as refused:
        preview(epsilon=1.0, delta=delta, rounds=10, clients=clients, sampling=Sampling.poisson(1e-5, unit="client"))
    named = float(str(refused.value).split("raise the rate to ")[1].split()[0])
    assert binom.cdf(1, clients - 1, named) <= 1e-6 * delta < binom.cdf(1, clients - 1, 0.999 * named)
    preview(epsilon=1.0, delta=delta, rounds=10, clients=clients, sampling=Sampling.poisson(named, unit="client"))


def test_no_rate_hides_one_of_two() -> None:
    with pytest.raises(UsageError, match="bring more clients"):
        preview(epsilon=1.0, delta=1e-6, rounds=1, clients=2, sampling=Sampling.poisson(0.9, unit="client"))


def test_a_plan_says_what_a_sample_of_records_saves() -> None:
    sampling = SamplingTerms.of(Sampling.poisson(0.1, unit="record"))
    said = {unit: " ".join(plan(5, unit=unit, sampling=sampling).explain()) for unit in ("record", "client")}
    assert "every view gains" in said["record"]
    assert "gains" not in said["client"]
    assert "nothing is saved" in said["client"]


# --- what was left over ----------------------------------------------------------------------------------------------


def test_two_federations_on_one_ledger_see_each_other_spend(tmp_path) -> None:
    rows, budget = [np.ones((3, 2))] * 3, Budget(epsilon=1.0, delta=1e-5)
    with (
        LocalFederation(rows, budget=budget, ledger=tmp_path / "b.db", mode="trusted") as first,
        LocalFederation(rows, budget=budget, ledger=tmp_path / "b.db", mode="trusted") as second,
    ):
        first.release(Count(), share=0.25)
        assert second.remaining_share == pytest.approx(0.75, abs=1e-6)
    assert second.remaining_share == pytest.approx(0.75, abs=1e-6)


def test_too_many_rows_of_a_client_name_both_remedies() -> None:
    rows = [np.ones((30, 2)), np.ones((3, 2))]
    with pytest.raises(DataError, match=r"raise max_records.*records_per_client"):
        LocalFederation(rows, budget=Budget(1.0, 1e-5, unit="client"), max_records=10)
    with pytest.raises(DataError) as caught:
        LocalFederation(rows, max_records=10)
    assert "records_per_client" not in str(caught.value)


@pytest.mark.parametrize("value", [0, -1, 2.5, True, "3", None, np.True_])
def test_what_is_no_count_is_refused(value) -> None:
    with pytest.raises(UsageError, match="max_records"):
        LocalFederation([lambda: np.ones((2, 2))] * 2, max_records=value)
    assert Moments(center=np.zeros(2), radius=np.int64(3)).radius == 3.0
