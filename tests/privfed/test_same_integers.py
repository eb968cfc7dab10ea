"""Masks change nothing: for every combination the protocol gives the very integers that a trusted sum would."""

from __future__ import annotations

import numpy as np
import pytest

from privfed import Budget, LocalFederation, Loss
from privfed.statistics.moments import VectorSum
from privfed_accounting import Sampling

LOSSES = (Loss("c2", "masked"), Loss("c4", "unmask"))


def release(mode, *, budget=None, width=12, losses=(), clients=10, **options):
    rng = np.random.default_rng(3)
    rows = {f"c{i}": rng.standard_normal((4, width)) for i in range(clients)}
    options = {"max_records": 10, "noise_seed": 11, "losses": losses, **options}
    with LocalFederation(rows, budget=budget, mode=mode, **options) as federation:
        return federation.release(VectorSum(width, 1.0), share=None if budget is None else 0.5)


def budget(unit="client", view="server"):
    return Budget(epsilon=4.0, delta=1e-5, unit=unit, view=view, accounting="renyi")


CASES = {
    "no budget": {},
    "no budget, 24 bits": {"bits": 24},
    "fine, record": {"budget": budget("record"), "losses": LOSSES, "dropout": 0.2},
    "fine, client": {"budget": budget(), "losses": LOSSES, "dropout": 0.2},
    "fine, exact": {"budget": budget(), "losses": LOSSES, "dropout": 0.2, "drop_outs": "exact"},
    "fine, exact, nobody lost": {"budget": budget(), "dropout": 0.2, "drop_outs": "exact"},
    "fine, exact, all lost that may be": {
        "budget": budget(),
        "dropout": 0.2,
        "drop_outs": "exact",
        "losses": (Loss("c2", "masked"), Loss("c3", "shares")),
    },
    "coarse, 13 bits": {"budget": budget(), "bits": 13, "losses": LOSSES, "dropout": 0.2},
    "coarse, 16 bits, exact": {
        "budget": budget(),
        "bits": 16,
        "width": 300,
        "losses": LOSSES,
        "dropout": 0.2,
        "drop_outs": "exact",
    },
    "coarse, record": {"budget": budget("record"), "bits": 20, "noise": "skellam"},
    "coarse, chosen bits": {"budget": budget(), "noise": "skellam"},
    "records sampled": {"budget": budget("record"), "sampling": Sampling.poisson(0.5, unit="record")},
    "clients sampled": {
        "budget": budget(view="released"),
        "clients": 40,
        "sampling": Sampling.poisson(0.6, unit="client"),
        "dropout": 0.3,
        "drop_outs": "exact",
    },
    "cohort of fixed size": {"budget": budget(), "sampling": Sampling.fixed_size(6, 10, unit="client")},
    "cohorts in turn": {"budget": budget(), "sampling": Sampling.round_robin(5, 10, unit="client", turn=1)},
}


@pytest.mark.parametrize("security", ["semi-honest", "malicious"])
@pytest.mark.parametrize("case", CASES)
def test_secure_and_trusted_mode_give_the_same_integers(case, security) -> None:
    secure = release("secure", security=security, **CASES[case])
    trusted = release("trusted", **CASES[case])
    np.testing.assert_array_equal(secure["sum"], trusted["sum"])
    assert secure.noise_std == trusted.noise_std
    assert (secure.survivors, secure.lost, secure.kept_surplus) == (
        trusted.survivors,
        trusted.lost,
        trusted.kept_surplus,
    )
    assert secure.plan.length == trusted.plan.length
    assert (secure.protection, trusted.protection) == ("secure_aggregation", "trusted")
    assert [release.private for release in (secure, trusted)] == ["budget" in CASES[case]] * 2


def test_more_clients_than_a_complete_graph_holds() -> None:
    """Above 300 the protocol takes a sparse graph: each client shares keys with some others only."""
    secure = release("secure", clients=320, width=2, dropout=0.02, budget=budget())
    trusted = release("trusted", clients=320, width=2, dropout=0.02, budget=budget())
    np.testing.assert_array_equal(secure["sum"], trusted["sum"])
