"""Clients come and go between releases: the sum is of those who are there, and a refusal changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

from privfed import Budget, DataError, FederationError, Ledger, LocalFederation, Loss, UsageError
from privfed.statistics.moments import Count, VectorSum
from privfed_accounting import ClientGuard, GuardPolicy, Sampling, verify
from tests.privfed.test_client_queries import MeanRow, turns

BUDGET = Budget(epsilon=4.0, delta=1e-5)


def rows(n: int, d: int = 3) -> np.ndarray:
    return np.full((n, d), 0.25)


def federation(n: int = 4, **options) -> LocalFederation:
    return LocalFederation({f"c{index}": rows(10 + index) for index in range(n)}, **options)


def count(silos: LocalFederation, **options) -> int:
    return round(float(silos.release(Count(), **options)["count"]))


@pytest.mark.parametrize("mode", ["secure", "trusted"])
@pytest.mark.parametrize("budget", [None, Budget(30.0, 1e-5)], ids=["no budget", "budget"])
def test_the_sum_is_of_those_who_are_there(mode, budget) -> None:
    silos = federation(mode=mode, budget=budget, noise_seed=1)
    options = {} if budget is None else {"share": 0.1}
    noise = 0 if budget is None else 30
    assert abs(count(silos, rounds=9, **options) - 46) <= noise
    silos.join({"d0": rows(100), "d1": lambda: rows(200)})
    assert silos.clients == ("c0", "c1", "c2", "c3", "d0", "d1")
    assert silos.n_clients == 6
    release = silos.release(Count(), rounds=9, **options)
    assert abs(round(float(release["count"])) - 346) <= noise
    assert (release.participants, release.survivors, release.round) == (6, 6, 2)
    silos.leave(["c1", "d0"])
    assert abs(count(silos, **options) - (346 - 111)) <= noise
    silos.leave("d1")
    assert abs(count(silos, **options) - 35) <= noise


def test_both_modes_give_the_same_integers_throughout() -> None:
    found = []
    for mode in ("secure", "trusted"):
        silos = federation(mode=mode, budget=BUDGET, noise_seed=3, dropout=0.34, losses=[Loss("c2", "masked")])
        query = VectorSum(3, 1.0)
        sums = [silos.release(query, share=0.1)]
        silos.join({"d0": rows(5), "d1": rows(6)})
        sums.append(silos.release(query, share=0.1))
        silos.leave(["c0", "d1"])
        sums.append(silos.release(query, share=0.1))
        found.append(sums)
    for secure, trusted in zip(*found, strict=True):
        np.testing.assert_array_equal(secure["sum"], trusted["sum"])
        assert (secure.survivors, secure.lost) == (trusted.survivors, trusted.lost)


def test_malicious_security_pins_the_keys_of_those_who_are_there() -> None:
    silos = federation(security="malicious")
    assert count(silos, rounds=5) == 46
    before = silos._keys
    silos.join({"d0": rows(100)})
    assert set(silos._keys.clients) == {b"c0", b"c1", b"c2", b"c3", b"d0"}
    assert count(silos, rounds=5) == 146
    silos.leave("c0")
    assert set(silos._keys.clients) == {b"c1", b"c2", b"c3", b"d0"}
    assert count(silos) == 136
    assert before.server is not silos._keys.server


def test_noise_and_survivors_follow_the_number_of_clients() -> None:
    """Shares are sized for those who are there: the sum's noise stays, each client's share of it does not."""
    silos = federation(n=10, budget=BUDGET, dropout=0.3, mode="trusted")
    assert silos.guaranteed_survivors == 7
    before = silos.plan(Count(), share=0.2)
    silos.join({f"d{index}": rows(3) for index in range(10)})
    assert silos.guaranteed_survivors == 14
    after = silos.plan(Count(), share=0.2)
    assert after.noise_std(14) == pytest.approx(before.noise_std(7), rel=1e-6)
    assert after.share_sigma / after.scale < 0.8 * before.share_sigma / before.scale
    entry_before = silos.release(Count(), share=0.2).plan
    silos.leave([f"d{index}" for index in range(10)] + ["c0"])
    assert silos.guaranteed_survivors == 7
    assert (entry_before.terms.planned, silos.plan(Count(), share=0.2).terms.planned) == (20, 9)


def test_the_budget_is_one_for_all_who_ever_were_there(tmp_path) -> None:
    silos = federation(budget=BUDGET, ledger=tmp_path / "b.db")
    silos.release(Count(), share=0.5)
    silos.leave("c0")
    silos.join({"d0": rows(3)})
    silos.release(Count(), share=0.3)
    assert silos.remaining_share == pytest.approx(0.2)
    assert [record.plan.planned_shares for record in silos.ledger.rounds()] == [4, 4]
    silos.close()
    assert verify(tmp_path / "b.db").ok


def test_memories_stay_with_those_who_stay() -> None:
    kept = {name: {} for name in ("c0", "c1", "c2", "c3")}
    silos = federation(mode="trusted", memories=kept)
    silos.release(MeanRow(3))
    joined: dict[str, np.ndarray] = {}
    silos.join({"d0": rows(3), "d1": rows(3)}, memories={"d0": joined})
    assert float(silos.release(MeanRow(3))["turns"]) == pytest.approx(0.04, abs=1e-9)
    silos.leave(["c1", "d1"])
    assert float(silos.release(MeanRow(3))["turns"]) == pytest.approx(0.02 * 3 + 0.01, abs=1e-9)
    assert turns(kept | {"d0": joined}) == {"c0": 3, "c1": 2, "c2": 3, "c3": 3, "d0": 2}


def test_who_comes_back_finds_its_home_and_nothing_else() -> None:
    home: dict[str, np.ndarray] = {}
    silos = federation(mode="trusted", memories={"c0": home})
    silos.release(MeanRow(3))
    silos.leave(["c0", "c1"])
    silos.release(MeanRow(3))
    silos.join({"c0": rows(10), "c1": rows(11)})
    # c0 remembers 1 turn at home; c1 kept its turn in this process and forgot it; c2 and c3 had 2.
    assert float(silos.release(MeanRow(3))["turns"]) == pytest.approx(0.01 + 0.0 + 0.02 + 0.02, abs=1e-9)
    assert float(home["turns"]) == 2.0


def guard(share: float = 1.0) -> ClientGuard:
    policy = GuardPolicy(
        budget=BUDGET, queries={"count": 1.1}, largest_share=share, noise_sources=frozenset({"seeded", "os"})
    )
    return ClientGuard(policy, Ledger.open(None, budget=BUDGET))


def test_guards_come_with_their_clients_and_go_with_them() -> None:
    early, late = guard(), guard(share=0.2)
    silos = federation(budget=BUDGET, guards={"c0": early}, noise_seed=1)
    silos.release(Count(), share=0.3)
    silos.join({"d0": rows(3)}, guards={"d0": late})
    silos.release(Count(), share=0.1)
    assert (len(early.ledger.rounds()), len(late.ledger.rounds())) == (2, 1)
    with pytest.raises(FederationError, match="guard of client 'd0' refuses"):
        silos.release(Count(), share=0.3)
    assert silos.remaining_share == pytest.approx(0.6)
    silos.leave("d0")
    silos.release(Count(), share=0.3)
    taken = [len([record for record in one.ledger.rounds() if record.status != "void"]) for one in (early, late)]
    assert taken == [4, 1]  # c0 had computed its part of the one that d0 refused, and keeps it charged


def test_a_client_refuses_terms_from_before_somebody_came() -> None:
    silos = federation(budget=BUDGET, mode="trusted")
    old = silos._terms
    silos.join({"d0": rows(3)})
    silos._terms = old
    with pytest.raises(FederationError, match="refuses the terms"):
        silos.release(Count(), share=0.2)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda silos: silos.join({"c1": rows(3)}), UsageError, r"has 'c1' already"),
        (lambda silos: silos.join({"d0": rows(3), "c1": rows(3)}), UsageError, "already"),
        (lambda silos: silos.join([rows(3)]), UsageError, "expected a dict"),
        (lambda silos: silos.join({"d0": rows(3), "d1": rows(3, 4)}), DataError, "'d1' has 4 features"),
        (lambda silos: silos.join({"d0": (rows(3, 2), np.ones(3))}), DataError, "target"),
        (lambda silos: silos.join({"d0": rows(0)}), DataError, "empty client"),
        (lambda silos: silos.join({"d0": np.full((3, 3), np.nan)}), DataError, "NaN"),
        (lambda silos: silos.join({"d0": rows(101)}), DataError, "max_records"),
        (lambda silos: silos.join({"": rows(3)}), UsageError, "name is empty"),
        (lambda silos: silos.join({"d0": rows(3)}, guards={"d1": guard()}), UsageError, "guards name"),
        (lambda silos: silos.join({"d0": rows(3)}, guards={"d0": "strict"}), UsageError, "ClientGuard"),
        (lambda silos: silos.join({"d0": rows(3)}, memories={"d1": {}}), UsageError, "memories name"),
        (lambda silos: silos.join({"d0": rows(3)}, memories={"c0": {}}), UsageError, "memories name"),
        (lambda silos: silos.join({"d0": rows(3)}, memories={"d0": 3}), UsageError, "mutable mapping"),
        (lambda silos: silos.leave(["c0", "x"]), UsageError, "no client 'x'"),
        (lambda silos: silos.leave("x"), UsageError, "no client 'x'"),
        (lambda silos: silos.leave(["c0", "c1", "c2"]), UsageError, "fewer than 2"),
    ],
)
@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_a_refused_change_changes_nothing(change, error, match, mode) -> None:
    kept = {name: {} for name in ("c0", "c1", "c2", "c3")}
    silos = federation(mode=mode, max_records=100, memories=kept)
    silos.release(MeanRow(3), rounds=4)
    before = (silos.clients, silos.n_clients, silos.feature_shape, silos.n_targets, silos.plan(Count()).terms)
    with pytest.raises(error, match=match):
        change(silos)
    assert before == (silos.clients, silos.n_clients, silos.feature_shape, silos.n_targets, silos.plan(Count()).terms)
    assert float(silos.release(MeanRow(3))["turns"]) == pytest.approx(0.04, abs=1e-9)
    assert count(silos) == 46


def test_columns_of_those_who_were_refused_bind_nobody() -> None:
    """Callables that nobody has loaded: a joiner that is refused must not have set the width for them."""
    silos = LocalFederation({"a": lambda: rows(3, 2), "b": lambda: rows(4, 2)})
    with pytest.raises(DataError, match="'d' has 4 features"):
        silos.join({"c": rows(3, 3), "d": rows(3, 4)})
    assert count(silos) == 7
    assert silos.feature_shape == (2,)


def test_names_of_columns_are_forgotten_with_those_who_were_refused() -> None:
    pandas = pytest.importorskip("pandas")
    silos = LocalFederation({"a": rows(3, 2), "b": rows(4, 2)})
    frame = pandas.DataFrame(rows(2, 2), columns=["x", "y"])
    with pytest.raises(DataError, match="one order"):
        silos.join({"c": frame, "d": frame[["y", "x"]]})
    assert silos.feature_names is None
    silos.join({"d": frame[["y", "x"]]})
    assert silos.feature_names == ("y", "x")


def test_colluders_bound_how_few_may_stay() -> None:
    silos = federation(n=5, budget=Budget(2.0, 1e-5, view="colluders(3)"))
    with pytest.raises(UsageError, match="at most 2"):
        silos.leave("c0")
    assert silos.n_clients == 5
    silos.join({"d0": rows(3)})
    silos.leave("c0")
    assert silos.release(Count(), share=0.3).survivors == 5


def test_cohorts_of_a_fixed_population_do_not_change() -> None:
    silos = federation(sampling=Sampling.fixed_size(2, 4, unit="client"))
    for change in (lambda: silos.join({"d0": rows(3)}), lambda: silos.leave("c0")):
        with pytest.raises(UsageError, match="use that population"):
            change()
    assert silos.release(Count()).participants == 2


@pytest.mark.parametrize("security", ["semi-honest", "malicious"])
def test_another_client_of_an_old_name_is_another_client(security) -> None:
    """The set-up of those who left serves nobody else: neither their keys nor their rows."""
    silos = federation(security=security)
    assert count(silos, rounds=9) == 46
    silos.leave("c3")
    silos.join({"c3": rows(1000)})
    assert count(silos, rounds=9) == 1033


def test_nobody_comes_or_goes_without_a_name() -> None:
    silos = federation()
    silos.join({})
    silos.leave([])
    assert count(silos) == 46
