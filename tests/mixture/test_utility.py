"""What a fit under a budget is worth: no collapse anywhere, and losses no larger than the design's table.

Noise is seeded here and nowhere else, so the figures are the same in every run.
"""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.mixture import GaussianMixture as Peer

from privfed import Budget, LocalFederation
from privfed.learners.mixture import GaussianMixture, expected_excess_nats
from privfed.learners.mixture.private import planning
from tests.mixture.cases import TYPES, random_model, rows_of

SILOS = 20


def private_fit(train, K, kind, epsilon, seed, bounds, *, n_silos=SILOS):
    """A fit through the trusted federation: the same integers as secure aggregation, sooner."""
    budget = Budget(epsilon=epsilon, delta=1e-5)
    with LocalFederation(
        np.array_split(train, min(n_silos, len(train))), mode="trusted", budget=budget, noise_seed=seed
    ) as silos:
        return GaussianMixture(K, covariance_type=kind, bounds=bounds, random_state=seed).fit(silos)


def gaps(train, test, K, kind, epsilon, bounds, seeds, pooled=None):
    """Held-out nats per row below scikit-learn's best of five starts on all rows, without privacy."""
    reference = (
        Peer(K, covariance_type=kind, n_init=5, random_state=0).fit(train).score(test) if pooled is None else pooled
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that noise dominates is expected at small epsilon
        return np.sort([private_fit(train, K, kind, epsilon, seed, bounds).score(test) - reference for seed in seeds])


def blobs(seed=1):
    X, _ = make_blobs(10_000, n_features=4, centers=5, random_state=seed)
    return X[:8000], X[8000:], (-20.0, 20.0)


def digits():
    X = np.random.RandomState(0).permutation(load_digits().data)
    pca = PCA(8, random_state=0).fit(X[:1437])
    train, test = pca.transform(X[:1437]), pca.transform(X[1437:])
    reach = 4.0 * train.std(axis=0)
    return train, test, (-reach, reach)


# --- no collapse ------------------------------------------------------------------------------------------------------


def assert_sound(train, K, kind, epsilon, seed):
    """Whatever the noise: no exception, nothing singular or infinite, and every loss of a component said."""
    reach = np.abs(train).max(axis=0) * 1.5 + 1e-3
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = private_fit(train, K, kind, epsilon, seed, (-reach, reach), n_silos=4)
    assert {warning.category for warning in caught} <= {UserWarning}
    values = np.linalg.eigvalsh(fit._model().full_covariances())
    assert np.isfinite(fit.means_).all()
    assert values.min() > 0
    assert fit.weights_.sum() == pytest.approx(1.0)
    assert fit.weights_.min() > 0
    assert np.isfinite(fit.score_samples(train)).all()
    assert np.isfinite(fit.precisions_).all()
    if len(fit.weights_) < K:
        assert any("instead" in str(warning.message) for warning in caught)


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
@pytest.mark.parametrize("n", [10, 1500])
def test_nothing_collapses(kind, epsilon, n):
    train = rows_of(random_model("full", 5, 3, seed=1, spread=6.0), n, seed=n)
    assert_sound(train, 5, kind, epsilon, seed=3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.0, 4.0, 8.0])
def test_nothing_collapses_anywhere(kind, epsilon):
    for n in (4, 20, 60, 400, 5000):
        for K, d in ((2, 1), (2, 6), (10, 2)):
            if n >= 2 * K:
                train = rows_of(random_model("full", K, d, seed=n, spread=6.0), n, seed=n)
                assert_sound(train, K, kind, epsilon, seed=n)
    for train in (np.zeros((200, 2)), np.repeat(np.eye(3), 50, axis=0), 1e3 * np.eye(40)[:, :4]):
        assert_sound(train, 3, kind, epsilon, seed=1)


def drawn_rows(shape: str, n: int, d: int, K: int, seed: int) -> np.ndarray:
    """Rows of one of the shapes that go wrong elsewhere."""
    random = np.random.default_rng(seed)
    centres = 6 * random.standard_normal((K, d))
    weights = random.dirichlet(np.full(K, 0.5))
    rows = centres[random.choice(K, n, p=weights)] + random.standard_normal((n, d))
    if shape == "outliers":
        far = random.random(n) < 0.02
        rows[far] = random.uniform(-200, 200, (int(far.sum()), d))
    elif shape == "heavy tails":
        rows += 0.5 * random.standard_cauchy((n, d))
    elif shape == "constant feature":
        rows[:, -1] = 3.0
    elif shape == "copied feature":
        rows[:, -1] = rows[:, 0]
    elif shape == "scales":
        rows *= 10.0 ** np.linspace(-3, 3, d)
    elif shape == "few values":
        rows = np.round(rows / 6)
    return rows


SHAPES = ("clusters", "outliers", "heavy tails", "constant feature", "copied feature", "scales", "few values")
sweeps = {
    "kind": st.sampled_from(TYPES),
    "shape": st.sampled_from(SHAPES),
    "epsilon": st.floats(0.1, 10.0),
    "K": st.integers(1, 8),
    "d": st.integers(1, 6),
    "each": st.integers(2, 60),
    "seed": st.integers(0, 2**20),
}


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(**sweeps)
@example(kind="full", shape="scales", epsilon=1.0, K=1, d=2, each=2, seed=0)  # rounding, bounded by norms: refused
def test_any_rows_give_a_sound_mixture(kind, shape, epsilon, K, d, each, seed):
    assert_sound(drawn_rows(shape, each * K, d, K, seed), K, kind, epsilon, seed)


@pytest.mark.slow
@settings(max_examples=250, deadline=None, derandomize=True, database=None)
@given(**(sweeps | {"K": st.integers(1, 20), "d": st.integers(1, 12), "each": st.integers(2, 400)}))
def test_any_rows_give_a_sound_mixture_at_length(kind, shape, epsilon, K, d, each, seed):
    assert_sound(drawn_rows(shape, each * K, d, K, seed), K, kind, epsilon, seed)


def test_clusters_that_noise_hides_leave_a_single_gaussian():
    """Three clusters in a row, 480 rows at epsilon 0.3: looked for, they lose half a nat against a single Gaussian."""
    random = np.random.default_rng(1)
    rows = 8.0 * random.integers(3, size=(4480, 1)) * np.ones(3) + random.standard_normal((4480, 3))
    train, test = rows[:480], rows[480:]
    bounds = (np.full(3, -30.0), np.full(3, 50.0))

    def scores(K, seeds=range(5)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = [private_fit(train, K, "full", 0.3, seed, bounds).score(test) for seed in seeds]
        return np.array(found), [str(warning.message) for warning in caught]

    single, _ = scores(1)
    careful, said = scores(3)
    assert sum("are too few to tell from noise" in message or "would lose" in message for message in said) == 5
    assert np.mean(careful) > np.mean(single) - 0.1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "FINDABLE", 0.0)
        careless, _ = scores(3)
    assert np.mean(careless) < np.mean(single) - 0.3


# --- utility ----------------------------------------------------------------------------------------------------------


def test_blobs_at_epsilon_one():
    train, test, bounds = blobs()
    found = gaps(train, test, 5, "full", 1.0, bounds, range(3))
    assert np.median(found) >= -0.005
    assert found[0] >= -0.01
    expected = expected_excess_nats(8000, 4, 5, 1.0)
    assert expected < 0.01  # and it said so beforehand


def test_one_gaussian_in_a_box_far_too_wide():
    """480 rows at epsilon 1, bounds two hundred times the width: 0.3 nats are lost, where three rounds lose 1.8."""
    random = np.random.default_rng(2)
    rows = random.standard_normal((4480, 3)) @ np.diag([8.0, 1.0, 1.0]) + np.array([30.0, 0.0, -30.0])
    exact = Peer(1, random_state=0).fit(rows[:480]).score(rows[480:])
    found = gaps(rows[:480], rows[480:], 1, "full", 1.0, (-200.0, 200.0), range(5), pooled=exact)
    assert np.median(found) > -0.8


def test_digits_tied_at_epsilon_four():
    train, test, bounds = digits()
    found = gaps(train, test, 10, "tied", 4.0, bounds, range(5))
    assert np.median(found) >= -0.06
    assert found[1] >= -0.15
    assert found[0] >= -0.4  # known: of twenty fits one or two lose a cluster, of some 140 rows


def test_clients_of_twenty_rows_each():
    """1000 clients protected whole: as if each held one row."""
    random = np.random.default_rng(0)
    means = random.normal(0, 4, (3, 4))
    rows = means[random.integers(3, size=4000)] + random.standard_normal((4000, 4))
    silos = np.array_split(rows[:2000], 200)
    budget = Budget(epsilon=6.0, delta=1e-5, unit="client")
    with LocalFederation(silos, mode="trusted", budget=budget, noise_seed=0) as federation:
        mixture = GaussianMixture(3, covariance_type="diag", bounds=(-16.0, 16.0), random_state=0).fit(federation)
    exact = Peer(3, covariance_type="diag", means_init=means, random_state=0).fit(rows[:2000])
    assert mixture.score(rows[2000:]) > exact.score(rows[2000:]) - 0.2


def test_heavy_tails_are_cut_less_where_noise_is_quiet():
    """Rows of Student's t with three degrees: bounds that suit a Gaussian would lose 0.15 nats."""
    random = np.random.default_rng(3)
    centres = 10 * random.standard_normal((3, 2))
    rows = centres[random.integers(3, size=12_000)] + random.standard_t(3, (12_000, 2))
    bounds = (-60.0, 60.0)
    with pytest.MonkeyPatch.context() as patch:
        wide = gaps(rows[:8000], rows[8000:], 3, "full", 8.0, bounds, range(2))
        patch.setattr(planning, "UNHEARD", 0.0)
        narrow = gaps(rows[:8000], rows[8000:], 3, "full", 8.0, bounds, range(2))
    assert wide.min() > narrow.max() + 0.05


@pytest.mark.slow
@pytest.mark.parametrize(
    ("epsilon", "median", "least"), [(0.5, -0.015, -0.03), (1.0, -0.004, -0.01), (4.0, -0.002, -0.005)]
)
def test_blobs(epsilon, median, least):
    """No cluster is lost in any fit: that would cost a tenth of a nat and more."""
    for instance in range(2):
        train, test, bounds = blobs(instance)
        found = gaps(train, test, 5, "full", epsilon, bounds, range(10))
        assert np.median(found) >= median
        assert found[0] >= least


@pytest.mark.slow
@pytest.mark.parametrize(("epsilon", "median"), [(0.5, -2.0), (1.0, -1.0), (2.0, -0.3), (4.0, -0.06), (8.0, -0.03)])
def test_digits_tied(epsilon, median):
    train, test, bounds = digits()
    assert np.median(gaps(train, test, 10, "tied", epsilon, bounds, range(12))) >= median


@pytest.mark.slow
def test_the_predicted_loss_is_of_the_right_size():
    """Within a factor of two where it is small, averaged over seeds and instances."""
    for epsilon in (0.5, 1.0):
        losses = []
        for instance in range(3):
            truth = random_model("full", 5, 4, seed=instance, spread=4.0)
            train, test = rows_of(truth, 8000, seed=1), rows_of(truth, 8000, seed=2)
            reach = np.abs(train).max(axis=0) + 1
            exact = Peer(5, means_init=truth.means, random_state=0).fit(train).score(test)
            losses.extend(-gaps(train, test, 5, "full", epsilon, (-reach, reach), range(6), pooled=exact))
        predicted = expected_excess_nats(8000, 4, 5, epsilon)
        assert predicted / 2.5 < np.median(losses) < predicted * 2.5
