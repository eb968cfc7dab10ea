"""Choosing among mixtures: scikit-learn's criteria from sums, bounds that hold, choices that are right, costs shown."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture as Peer

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture, select_mixture
from privfed.learners.mixture.select import search as module
from privfed.statistics.hold_out import HoldOut, held_out_mask
from privfed.statistics.mixture_candidates import CandidateLikelihoods, candidate_block, capped_log_likelihoods
from privfed.statistics.mixture_model import MixtureModel
from tests.mixture.cases import TYPES, clusters, random_model, rows_of
from tests.privfed.query_contract import QueryContract, hostile_rows


def candidates(d=3, reach=(4.0, 0.5, 2.0, 1.0), **changes):
    models = [random_model(kind, K, d, seed=K) for K, kind in ((1, "full"), (3, "full"), (2, "tied"), (4, "diag"))]
    arguments = {
        "low": np.full(d, -40.0),
        "high": np.full(d, 40.0),
        "reference": 1,
        "typical": np.array([-1.0, -5.0, -0.2, 0.1]),
        "reach": np.array(reach),
        "shares": np.array([1.0, 0.1, 2.0, 0.5]),
    }
    return CandidateLikelihoods.of(models, **(arguments | changes))


class TestCandidateLikelihoods(QueryContract):
    def make(self):
        return candidates()


# --- the sums ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_likelihoods_are_the_models_within_the_cap(kind):
    model = random_model(kind, 3, 4, 2)
    rows = rows_of(model, 300, 1)
    np.testing.assert_allclose(capped_log_likelihoods(model, rows), model.log_likelihoods(rows), rtol=1e-10)
    far = np.full((1, 4), 1e150)
    assert np.isfinite(capped_log_likelihoods(model, far)).all()
    assert capped_log_likelihoods(model, far)[0] < -300


def test_blocks_are_clipped_differences():
    query, rows = candidates(), rows_of(random_model("full", 3, 3, 3), 200, 0)
    sums = query.contribution(rows)
    each = [capped_log_likelihoods(model, rows) for model in query._models]
    assert sums["rows"] == 200
    assert set(sums) == {"rows", "reference", "candidate_0", "candidate_2", "candidate_3"}
    for c in (0, 2, 3):
        expected = np.clip(each[c] - each[1] - query.typical[c], -query.reach[c], query.reach[c]).sum()
        assert sums[candidate_block(c)] == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_one_row_moves_the_judgement_by_one_at_most(seed):
    query = candidates()
    for row in hostile_rows(seed, 4, 3):
        assert np.linalg.norm(query.checked_contribution(row[None])) <= 1 + 1e-9


def test_the_bound_is_reached():
    """Rows whose differences all lie at the end of their reach: the noise is not more than is needed."""
    query = candidates(reach=(0.01, 0.01, 0.01, 0.01))
    rows = 30 * np.random.default_rng(0).standard_normal((200, 3))
    assert max(np.linalg.norm(query.checked_contribution(row[None])) for row in rows) > 0.999


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": 4}, "reference from 0 to 3"),
        ({"reach": np.array([1.0, 1.0, 1.0, 1e-9])}, "reach"),
        ({"shares": np.zeros(4)}, "shares > 0"),
        ({"typical": np.zeros(3)}, "one number for each"),
        ({"low": np.full(3, 50.0)}, "low <= high"),
        ({"largest_distance": 0.0}, "largest_distance"),
    ],
)
def test_bad_questions_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        candidates(**changes)
    assert candidates(largest_distance=1e300).row_error == np.inf  # no budget admits the uncapped one


# --- without a budget -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_criteria_on_rows_are_scikit_learns(criterion):
    X = clusters(n=400, K=3, seed=1)
    chosen = select_mixture(X, (1, 3), covariance_types=("full", "diag"), criterion=criterion, random_state=0)
    random = np.random.RandomState(0)
    random.randint(2**31)
    for one in chosen.candidates:
        peer = Peer(one.n_components, covariance_type=one.covariance_type, random_state=random).fit(X)
        assert one.criterion == pytest.approx(getattr(peer, criterion)(X), rel=1e-6)
        assert one.n_parameters == peer._n_parameters()
    assert chosen.chosen.criterion == min(one.criterion for one in chosen.candidates)
    assert chosen.mixture.n_components == chosen.chosen.n_components


def test_criteria_from_sums_are_those_of_the_pooled_rows():
    X = clusters(n=500, K=3, seed=1)
    silos = LocalFederation(np.array_split(X[np.argsort(X[:, 0])], 4), mode="trusted")
    chosen = select_mixture(silos, (2, 3, 4), covariance_types=("full", "tied"), random_state=0)
    assert (chosen.chosen.n_components, chosen.n_rows) == (3, pytest.approx(500))
    fitted = chosen.mixture
    assert chosen.chosen.criterion == pytest.approx(fitted.to_sklearn().bic(X), rel=1e-7)
    assert chosen.chosen.log_likelihood == pytest.approx(fitted.score(X), abs=1e-6)
    assert all(one.std_error == 0 for one in chosen.candidates)
    assert sum(release.query == "candidate_likelihoods" for release in chosen.releases) == 1
    assert len(chosen.releases) == len(silos.ledger.rounds())


@pytest.mark.parametrize("federated", [False, True])
def test_rows_kept_back_choose_without_a_penalty(federated):
    X = clusters(n=600, K=3, seed=1)
    data = LocalFederation(np.array_split(X, 4), mode="trusted") if federated else X
    chosen = select_mixture(data, (2, 3, 4), criterion="held_out", random_state=0, max_iter=300)
    assert chosen.chosen.n_components >= 3
    assert chosen.chosen.criterion == max(one.criterion for one in chosen.candidates)
    out = held_out_mask(X, 0.2, int(np.random.RandomState(0).randint(2**31)))
    assert chosen.n_rows == pytest.approx(out.sum())
    assert chosen.mixture.score(X) > -np.inf  # refitted to all rows


# --- under a budget ---------------------------------------------------------------------------------------------------


def apart(n=4000, seed=0):
    random = np.random.default_rng(seed)
    centres = np.array([[-9.0, 0], [9, 0], [0, 9]])
    return centres[random.integers(3, size=n)] + random.standard_normal((n, 2))


def under(X, epsilon=4.0, noise_seed=1, share=None, silos=None, sizes=(2, 3, 4), **arguments):
    silos = silos or LocalFederation(
        np.array_split(X, 5), mode="trusted", budget=Budget(epsilon, 1e-5), noise_seed=noise_seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return silos, select_mixture(silos, sizes, bounds=(-20, 20), share=share, random_state=0, **arguments)


@pytest.mark.parametrize("criterion", ["bic", "held_out"])
def test_three_clusters_are_found_and_fitted(criterion):
    X = apart()
    silos, chosen = under(X, criterion=criterion)
    assert chosen.chosen.n_components == 3
    assert chosen.mixture.score(X) > GaussianMixture(3, random_state=0).fit(X).score(X) - 0.02
    assert silos.remaining_share < 1e-3
    assert chosen.epsilon["server"] <= 4.0
    assert chosen.epsilon == dict(chosen.releases[-1].epsilon)
    judged = [release for release in chosen.releases if release.query == "candidate_likelihoods"]
    assert len(judged) == 2  # one among refits of the over-complete fit, one among the candidates
    assert all(release.private for release in chosen.releases)
    assert len(silos.ledger.rounds()) == len(chosen.releases)
    noise = [one.std_error for one in chosen.candidates]
    assert sorted(noise)[0] == 0.0  # the one that others are compared with
    assert sorted(noise)[1] > 0
    assert all(one.expected_excess > 0 for one in chosen.candidates)


def test_a_part_of_the_budget_pays_for_all_of_it():
    silos, _ = under(apart(), share=0.5)
    assert silos.remaining_share == pytest.approx(0.5, abs=1e-3)


def test_the_noise_that_the_table_states_is_the_noise(monkeypatch):
    """One question, many releases: differences spread by their stated error; two thirds or half as much more would
    be noticed.
    """  # fmt: skip
    X = apart(800)
    fits = [GaussianMixture(K, random_state=0).fit(X)._model() for K in (2, 3, 4)]
    question = CandidateLikelihoods.of(
        fits,
        low=np.full(2, -20.0),
        high=np.full(2, 20.0),
        reference=1,
        typical=np.zeros(3),
        reach=np.array([3.0, 20.0, 0.5]),
        shares=np.ones(3),
    )
    differences, errors = [], []
    for seed in range(80):
        with LocalFederation([X[:300], X[300:]], mode="trusted", budget=Budget(2.0, 1e-5), noise_seed=seed) as silos:
            values, errors = module._differences(question, silos.release(question, share=0.5), 800.0)
        differences.append(values - values[1])
    spread = np.std(differences, axis=0)[[0, 2]] / errors[[0, 2]]
    assert (np.abs(spread - 1) < 0.25).all()
    exact = np.array([np.clip(m.log_likelihoods(X) - fits[1].log_likelihoods(X), -r, r).mean() for m, r in
                      zip(fits, question.reach, strict=True)])  # fmt: skip
    np.testing.assert_allclose(np.mean(differences, axis=0), exact, atol=4 * errors.max() / np.sqrt(80))


def test_components_that_noise_put_anywhere_are_left_out():
    """A stray of 1 % of the weight would cost a candidate of few components one of them."""
    model = random_model("full", 3, 2, 1)
    weights = np.array([0.6, 0.39, 0.01])
    for kind in TYPES:
        over = MixtureModel.from_matrices(weights, model.means, model.covariances, kind)
        kept = module._without_strays(over)
        np.testing.assert_allclose(kept.weights, weights[:2] / 0.99)
        np.testing.assert_allclose(kept.means, model.means[:2])
        np.testing.assert_allclose(kept.full_covariances(), over.full_covariances()[:2])


def test_ties_go_to_the_simpler_model():
    job = module._Job(((1, "full"), (2, "full"), (3, "full")), "held_out", HoldOut(0.2), {})
    likelihoods = np.array([-6.0, -5.01, -5.0])
    _, sharp = module._judged(job, likelihoods, 1000.0, np.array([0.0, 0.001, 0.0]), 2)
    _, blurred = module._judged(job, likelihoods, 1000.0, np.array([0.0, 0.01, 0.0]), 2)
    _, blind = module._judged(job, likelihoods, 1000.0, np.array([1.0, 1.0, 0.0]), 2)
    assert (sharp, blurred, blind) == (2, 1, 0)


def test_what_the_budget_cannot_carry_is_not_chosen():
    job = module._Job(((1, "full"), (2, "full"), (2, "tied")), "bic", HoldOut(0.2), {})
    likelihoods, noise = np.array([-6.0, -3.0, -3.5]), np.zeros(3)
    assert module._judged(job, likelihoods, 1000.0, noise, 2, losses=np.array([0.1, 0.2, 0.1]))[1] == 1
    assert module._judged(job, likelihoods, 1000.0, noise, 2, losses=np.array([0.1, 3.0, 0.1]))[1] == 2
    assert module._judged(job, likelihoods, 1000.0, noise, 2, losses=np.array([9.0, 9.0, 9.0]))[1] == 0


def test_little_budget_ends_in_a_small_mixture_and_no_error():
    _, chosen = under(apart(300), epsilon=0.2)
    assert chosen.mixture.means_.shape[0] <= 3
    assert np.isfinite(chosen.mixture.means_).all()


def test_seeds_fix_all_but_the_noise():
    X = apart(1500)
    first, again, other = (under(X, noise_seed=seed, sizes=(1, 2))[1] for seed in (1, 1, 2))
    assert first.as_dict() == again.as_dict()
    assert first.as_dict() != other.as_dict()


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_table_json_and_figure():
    X = clusters(n=300, K=3, seed=1)
    chosen = select_mixture(X, (1, 3), covariance_types=("full", "tied"), random_state=0)
    document = json.loads(json.dumps(chosen.as_dict()))
    assert document["n_components"] == chosen.chosen.n_components
    assert [one["chosen"] for one in document["candidates"]].count(True) == 1
    assert str(chosen).count("chosen") == 1
    assert len(str(chosen).splitlines()) == 5
    axes = chosen.plot().axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["chosen", "full", "tied"]
    assert axes.get_ylabel() == "BIC, lower is better"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_components": ()}, "n_components is empty"),
        ({"n_components": 3}, r"n_components is 3, expected the numbers to try"),
        ({"n_components": (0, 1)}, "n_components is 0"),
        ({"covariance_types": "full"}, "covariance_types"),
        ({"covariance_types": ("round",)}, "covariance_types"),
        ({"criterion": "icl"}, "expected 'bic', 'aic' or 'held_out'"),
        ({"held_out": 1.0}, "between 0 and 1"),
        ({"means_init": [[0.0]]}, "differ by candidate"),
        ({}, "needs public bounds"),
        ({"bounds": (-20, 20), "share": 2.0}, "of it is left"),
    ],
)
def test_refusals_cost_nothing(arguments, message):
    silos = LocalFederation(np.array_split(apart(90), 3), mode="trusted", budget=Budget(1.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match=message):
        select_mixture(silos, **arguments)
    assert silos.remaining_share == 1.0
    assert silos.ledger.rounds() == []
