"""Personal weights: they stay at home, suit their client, and enter a fit only where that protects everybody."""

from __future__ import annotations

import math
import warnings
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, LocalFederation
from privfed.errors import UsageError
from privfed.learners.mixture import GaussianMixture
from privfed.learners.mixture.exact.personal import PersonalFederation
from privfed.query import decode_query, encode_query
from privfed.statistics.mixture import MixtureStatistics, WhitenedMixtureStatistics
from privfed.statistics.mixture_coordinates import Coordinates
from privfed.statistics.mixture_model import MixtureModel
from privfed.statistics.mixture_personal import (
    PersonalMixtureStatistics,
    PersonalWhitenedStatistics,
    personal_weights,
    with_weights,
)
from tests.mixture.cases import TYPES, random_model, rows_of
from tests.mixture.test_queries import coordinates
from tests.privfed.query_contract import QueryContract, hostile_rows


def silos_of(K=3, clients=8, n=150, seed=0, concentration=0.3):
    """Clients that hold the same clusters in proportions of their own; rows to fit to and rows to score."""
    rng = np.random.default_rng(seed)
    model = random_model("full", K, 2, seed, spread=3.0)
    parts = []
    for _ in range(2 * clients):
        mine = with_weights(model, rng.dirichlet(np.full(K, concentration)))
        parts.append(rows_of(mine, n, int(rng.integers(2**31))))
        if len(parts) % 2 == 1:
            train = mine
        else:
            parts[-1] = rows_of(train, n, int(rng.integers(2**31)))
    return parts[::2], parts[1::2]


# --- the weights ------------------------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), kind=st.sampled_from(TYPES), K=st.integers(1, 4), prior=st.sampled_from([0.0, 5.0]))
def test_weights_maximise_the_clients_likelihood(seed, kind, K, prior):
    """Against a general optimiser over the simplex: the problem is concave."""
    model = random_model(kind, K, 2, seed, spread=1.5)
    rows = rows_of(random_model(kind, K, 2, seed + 1, spread=1.5), 60, seed)
    shared = model.weights / model.weights.sum()

    def objective(weights):
        likelihood = with_weights(model, weights).log_likelihoods(rows).sum()
        return likelihood + prior * float(shared @ np.log(np.maximum(weights, 1e-300)))

    found = personal_weights(model, rows, prior_rows=prior)
    assert found.sum() == pytest.approx(1.0)

    # Optimal where the gain of weight on each component is the same (Karush, Kuhn and Tucker), up to what EM leaves.
    densities = np.exp(model.log_densities(rows))
    gains = (densities / (densities @ found)[:, None]).sum(axis=0) + prior * shared / np.maximum(found, 1e-300)
    assert (gains <= (60 + prior) * 1.02 + 1e-9).all()
    assert objective(found) >= objective(shared) - 1e-9


def test_few_rows_stay_near_the_shared_weights_and_none_keep_them():
    model = random_model("full", 3, 2, 1)
    shared = model.weights
    np.testing.assert_allclose(personal_weights(model, np.zeros((0, 2))), shared)
    rows = np.repeat(model.means[:1], 2, axis=0)
    drift = [np.abs(personal_weights(model, rows, prior_rows=prior) - shared).max() for prior in (0.0, 5.0, 500.0)]
    assert drift[0] > drift[1] > drift[2]
    far = personal_weights(model, np.full((4, 2), 1e200))
    assert np.isfinite(far).all()


# --- the queries ------------------------------------------------------------------------------------------------------


class NotAdditive:
    """What personal weights break, on purpose: a client's rows are judged together."""

    def test_one_row_obeys_every_bound(self):
        query = self.make()
        for row in hostile_rows(1, 60, self.width):
            for block, value in query.contribution(row[None, :]).items():
                bound = {block.name: block.bound for block in query.blocks}[block]
                assert np.linalg.norm(np.ravel(value)) <= bound * (1 + 1e-9)

    def test_contribution_is_a_sum_over_rows(self):
        query = self.make()
        assert query.row_error == math.inf  # no budget of unit "record" admits it

    def test_a_row_counts_alike_wherever_it_stands(self):
        """Order changes nothing."""
        query = self.make()
        rows = np.random.default_rng(0).standard_normal((60, 3))
        np.testing.assert_allclose(query.checked_contribution(rows), query.checked_contribution(rows[::-1]), atol=1e-8)


class TestPersonalExact(NotAdditive, QueryContract):
    def make(self):
        return PersonalMixtureStatistics.of(random_model("full", 4, 3, seed=1), coordinates(3), radius=7.0)


def whitened(kind="full", K=4, d=3):
    plain = WhitenedMixtureStatistics.of(random_model(kind, K, d, seed=1), coordinates(d))
    return PersonalWhitenedStatistics(*(getattr(plain, field.name) for field in fields(plain)))


class TestPersonalWhitened(NotAdditive, QueryContract):
    def make(self):
        return whitened()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**31), kind=st.sampled_from(TYPES), n=st.integers(1, 40))
def test_a_client_contributes_no_more_than_its_rows_might(seed, kind, n):
    """What the sensitivity of unit "client" rests on, whatever the weights turn out to be."""
    query = whitened(kind)
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((n, 3)) * 10.0 ** rng.uniform(-3, 6, (n, 1))
    assert np.linalg.norm(query.checked_contribution(rows)) <= n * (1 + 1e-9)


def test_it_is_the_plain_query_under_the_clients_weights():
    model, frame = random_model("full", 3, 2, 4), Coordinates.shifted(np.zeros(2))
    rows = rows_of(random_model("full", 3, 2, 4), 80, 1)[:40]
    mine = with_weights(model, personal_weights(model, rows))
    for personal, plain in (
        (
            PersonalMixtureStatistics.of(model, frame, radius=50.0),
            MixtureStatistics.of(mine, frame, radius=50.0),
        ),
    ):
        for name, value in plain.contribution(rows).items():
            np.testing.assert_allclose(personal.contribution(rows)[name], value, rtol=1e-8, atol=1e-8)
        assert decode_query(encode_query(personal)).kind == "personal_mixture_statistics"
    with pytest.raises(UsageError, match="prior_rows"):
        PersonalMixtureStatistics.of(model, frame, radius=1.0, prior_rows=-1.0)


def test_one_row_moves_the_others_contributions():
    """Why no budget of unit "record" goes with it: a row changes the sum by more than a row's bound could say."""
    model = MixtureModel.from_covariances([0.5, 0.5], [[-0.5, 0, 0], [0.5, 0, 0]], np.ones(2), "spherical")
    plain = WhitenedMixtureStatistics.of(model, Coordinates.shifted(np.zeros(3)))
    query = PersonalWhitenedStatistics(*(getattr(plain, field.name) for field in fields(plain)), 0.0)
    rows = np.zeros((20, 3))  # between the components: they follow the one row that takes sides
    rows[0, 0] = 3.0
    without, with_row = query.checked_contribution(rows[1:]), query.checked_contribution(rows)
    assert np.linalg.norm(with_row - without) > 2.0


# --- fits -------------------------------------------------------------------------------------------------------------


def own_score(mixture, train, test, **arguments):
    return np.mean([mixture.personalise(mine, **arguments).score(held) for mine, held in zip(train, test, strict=True)])


def test_personal_weights_are_worth_nats_where_silos_differ():
    train, test = silos_of()
    plain = GaussianMixture(3, random_state=0).fit(LocalFederation(train, mode="trusted"))
    shared = np.mean([plain.score(held) for held in test])
    assert own_score(plain, train, test) > shared + 0.2
    personal = GaussianMixture(3, random_state=0, personal_weights=True).fit(LocalFederation(train, mode="trusted"))
    assert own_score(personal, train, test) >= own_score(plain, train, test) - 0.01
    assert (np.diff(personal.lower_bounds_) > -1e-4).all()
    assert "personal_mixture_statistics" in {release.query for release in personal.releases_}


def test_personalising_leaves_the_mixture_and_sends_nothing():
    train, _ = silos_of()
    silos = LocalFederation(train, mode="trusted")
    fit = GaussianMixture(3, random_state=0).fit(silos)
    before, rounds = fit.weights_.copy(), len(silos.ledger.rounds())
    mine = fit.personalise(train[0])
    np.testing.assert_array_equal(fit.weights_, before)
    assert len(silos.ledger.rounds()) == rounds
    np.testing.assert_array_equal(mine.means_, fit.means_)
    assert np.abs(mine.weights_ - before).max() > 0.05
    assert not hasattr(mine, "releases_")
    with pytest.raises(UsageError, match="prior_rows"):
        fit.personalise(train[0], prior_rows=-1.0)
    with pytest.raises(UsageError, match="features"):
        fit.personalise(np.zeros((3, 5)))


def test_single_records_are_not_protected_by_it_so_it_is_refused():
    train, test = silos_of(n=400)
    silos = LocalFederation(train, mode="trusted", budget=Budget(8.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match=r"call mixture\.personalise\(rows\)"):
        GaussianMixture(3, bounds=(-30, 30), personal_weights=True).fit(silos)
    assert silos.remaining_share == 1.0
    assert silos.ledger.rounds() == []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = GaussianMixture(3, bounds=(-30, 30), random_state=0).fit(silos)  # the remedy
    assert own_score(fit, train, test) > np.mean([fit.score(held) for held in test]) + 0.2
    assert fit.epsilon_["server"] > 0
    assert not {"epsilon_", "releases_", "choice_"} & set(vars(fit.personalise(train[0])))  # none of it covers the rows
    warm = fit.personalise(train[0]).set_params(warm_start=True)
    with pytest.raises(UsageError, match="unprotected rows"):  # its weights tell about a client's rows
        warm.fit(LocalFederation(train, mode="trusted", budget=Budget(1.0, 1e-5)))


def test_clients_as_the_unit_may_have_their_own():
    rng = np.random.default_rng(1)
    model = random_model("full", 2, 2, 3, spread=4.0)
    clients = [rows_of(with_weights(model, rng.dirichlet([0.3] * 2)), 30, seed) for seed in range(60)]
    budget = Budget(20.0, 1e-5, unit="client")
    with LocalFederation(clients, mode="trusted", budget=budget, noise_seed=2, records_per_client=30.0) as silos:
        assert isinstance(PersonalFederation(silos).noise_std(whitened(d=2), 0.5)["counts"], float)
        start = {"means_init": model.means, "personal_weights": True, "rounds": 4}
        fit = GaussianMixture(2, bounds=(-20, 20), random_state=0, **start).fit(silos)
        kinds = {entry.plan.query for entry in silos.ledger.rounds()}
    X = np.concatenate(clients)
    assert "personal_whitened_statistics" in kinds
    assert fit.score(X) > GaussianMixture(2, random_state=0).fit(X).score(X) - 0.3
    with pytest.raises(UsageError, match="one owner"):
        GaussianMixture(2, personal_weights=True).fit(X)
