"""Federated averaging under a budget: spent exactly, noise of the right size, divisors that are released or public."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from privfed import Budget, BudgetExhausted, LocalFederation, Sampling, UsageError
from privfed.learners.neural import Callback, FederatedAveraging
from privfed_accounting import View
from tests.neural import reference_averaging as reference
from tests.neural.test_averaging import make_clients, make_model

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")

CLIENT = Budget(epsilon=8.0, delta=1e-5, unit="client")


def many(n=12):
    return make_clients(sizes=tuple(10 + 3 * i for i in range(n)))


def guarded(clients=None, budget=CLIENT, **settings):
    settings = {"mode": "trusted", "noise_seed": 1, **settings}
    return LocalFederation(many() if clients is None else clients, budget=budget, **settings)


def learner(model=None, **settings):
    settings = {"rounds": 4, "learning_rate": 0.2, "batch_size": 8, "random_state": 5, "dtype": "float64", **settings}
    return FederatedAveraging(make_model() if model is None else model, **settings)


@pytest.mark.parametrize("unit", ["client", "record"])
@pytest.mark.parametrize("accounting", ["gaussian", "renyi"])
def test_the_whole_budget_is_spread_over_the_rounds(unit, accounting) -> None:
    federation = guarded(budget=Budget(epsilon=3.0, delta=1e-5, unit=unit, accounting=accounting))
    trained = learner().fit(federation)
    spent = trained.epsilon_[str(federation.budget.view)]
    assert (0.97 if accounting == "gaussian" else 0.85) * 3.0 < spent <= 3.0  # a Renyi filter counts more than is shown
    assert trained.history_[-1]["epsilon"] == spent
    stds = [
        release.noise_std["delta"] / row["clip"]
        for release, row in zip(trained.releases_, trained.history_, strict=True)
    ]
    np.testing.assert_allclose(stds, stds[0], rtol=1e-3)
    with pytest.raises((UsageError, BudgetExhausted)):
        learner().fit(federation)


def test_shares_and_multipliers_are_as_given() -> None:
    federation = guarded()
    trained = learner(share=0.3, rounds=3).fit(federation)
    assert federation.remaining_share == pytest.approx(0.7, abs=1e-6)
    assert trained.n_rounds_ == 3
    federation = guarded()
    trained = learner(noise_multiplier=5.0, rounds=2, clip=0.3).fit(federation)
    assert trained.releases_[0].noise_std["delta"] == pytest.approx(0.3 * 5.0, rel=1e-3)


def still(n=12):
    """Clients whose rows move nothing: gradients are zero where every answer is right by far."""
    rows = [np.zeros((5 + i, 5)) for i in range(n)]
    return [(x, np.zeros(len(x))) for x in rows]


def sure():
    """A model that answers class 0 to zeros, with no doubt that a float could hold."""
    model = torch.nn.Linear(5, 3)
    with torch.no_grad():
        model.bias.copy_(torch.tensor([1e4, 0.0, 0.0]))
    return model


def test_noise_on_the_model_is_what_the_release_states() -> None:
    """Changes are zero, so what moves the model is noise over the number of clients; wrong scales are rejected."""
    trained = learner(sure(), rounds=20, clip=0.5).fit(guarded(still()))
    scaled = [
        (row["update_norm"] * release.divisor / release.noise_std["delta"]) ** 2
        for release, row in zip(trained.releases_, trained.history_, strict=True)
    ]
    chi = stats.chi2(18 * 20)
    assert 1e-4 < chi.cdf(sum(scaled)) < 1 - 1e-4
    for wrong in (2 / 3, 3 / 2):
        assert not 1e-4 < chi.cdf(sum(scaled) * wrong**2) < 1 - 1e-4


@pytest.mark.filterwarnings("ignore:the clients' weights drown in noise")
def test_the_weights_of_all_rounds_make_one_estimate() -> None:
    trained = learner(sure(), rounds=20, clip=0.5, largest_weight=20).fit(guarded(still()))
    mean, deviation = (float(trained.state_.arrays[f"weight_{name}"]) for name in ("mean", "precision"))
    deviation **= -0.5
    assert deviation == pytest.approx(trained.releases_[0].noise_std["weight"] / 12 / np.sqrt(20), rel=1e-6)
    truth = np.mean([len(x) for x, _ in still()])
    assert abs(mean - truth) < 4 * deviation
    released = np.mean([release["weight"] for release in trained.releases_]) / 12
    assert mean == pytest.approx(float(released), rel=1e-6)
    last = trained.releases_[-1]
    expected = np.linalg.norm(last["delta"]) / (12 * min(max(mean, deviation), 20))
    assert trained.history_[-1]["update_norm"] == pytest.approx(expected, rel=1e-9)


def test_the_divisor_is_a_released_weight_never_the_true_one() -> None:
    federation = guarded()
    trained = learner(rounds=1, largest_weight=40, clip=0.5, weight_share=0.3).fit(federation)
    release = trained.releases_[0]
    released = max(float(release["weight"]), float(release.noise_std["weight"]))
    truth = sum(min(len(x), 40) for x, _ in many())
    assert released != truth
    start = reference.flat(make_model())
    np.testing.assert_allclose(trained.parameters_, start + release["delta"] / min(released, 40 * 12), rtol=1e-12)


def test_uniform_weights_need_no_block_and_divide_by_the_public_number() -> None:
    trained = learner(rounds=1, clip=0.5).fit(guarded())
    release = trained.releases_[0]
    assert list(release) == ["delta"]
    np.testing.assert_allclose(trained.parameters_ - reference.flat(make_model()), release["delta"] / 12, rtol=1e-9)


def test_weights_that_drown_are_pointed_out() -> None:
    federation = guarded(make_clients(), budget=Budget(epsilon=0.5, delta=1e-5, unit="client"))
    with pytest.warns(UserWarning, match="weights drown in noise"):
        learner(rounds=1, largest_weight=1000, clip=0.5).fit(federation)


def test_adaptive_clipping_is_the_default_and_finds_the_quantile() -> None:
    clients = make_clients(sizes=(16,) * 30)
    budget = Budget(epsilon=30.0, delta=1e-5, unit="client")
    trained = learner(rounds=15, initial_clip=2.0, quantile=0.4, clip_rate=0.6).fit(guarded(clients, budget=budget))
    assert set(trained.releases_[-1]) == {"unclipped"} | {"delta"}
    assert trained.history_[0]["clip"] == 2.0
    assert trained.history_[-1]["clip"] < 0.7
    short = [0.5 + float(release["unclipped"]) / 30 for release in trained.releases_]
    assert short[0] > 0.8
    assert abs(np.mean(short[-5:]) - 0.4) < 0.2
    noise = [release.noise_std["unclipped"] for release in trained.releases_]
    np.testing.assert_allclose(noise, 30 / 20, rtol=0.02)  # the paper's sigma_b = n / 20


class Evaluates(Callback):
    def __init__(self):
        self.seen = []

    def budget_share(self, rounds):
        return 0.02 * rounds

    def on_round_end(self, state):
        from privfed.statistics.moments import Count

        release = state.federation.release(Count(), share=0.02)
        self.seen.append(float(release["count"]))


def test_callbacks_get_their_share_before_training_takes_the_rest() -> None:
    federation, evaluates = guarded(budget=Budget(epsilon=3.0, delta=1e-5, unit="client")), Evaluates()
    trained = learner(rounds=5, callbacks=evaluates).fit(federation)
    assert len(evaluates.seen) == trained.n_rounds_ == 5
    assert federation.remaining_share < 1e-6
    assert trained.stop_reason_ == "rounds"


def test_training_ends_where_the_budget_does() -> None:
    federation = guarded()
    multiplier = learner(rounds=1, share=0.3).plan(federation).noise_multiplier
    with pytest.warns(UserWarning, match="budget is spent after 3 of 10 rounds"):
        trained = learner(rounds=10, noise_multiplier=multiplier).fit(federation)
    assert (trained.n_rounds_, trained.stop_reason_) == (3, "budget")
    assert trained.model_ is not None
    with pytest.raises(BudgetExhausted):
        learner(rounds=10, noise_multiplier=multiplier).fit(federation)


def test_a_share_is_of_the_whole_run_and_has_to_be_there() -> None:
    federation = guarded()
    first = learner(rounds=1, share=0.4).fit(federation)
    assert federation.remaining_share == pytest.approx(0.6, abs=1e-6)
    with pytest.raises(UsageError, match=r"4 round.* to come are to cost 0.7 .* which 0.6 is left"):
        learner(rounds=4, share=0.7).fit(federation)
    assert federation.remaining_share == pytest.approx(0.6, abs=1e-6)
    learner(rounds=4, share=0.4).fit(federation, resume_from=first.state_)  # three rounds of a tenth each
    assert federation.remaining_share == pytest.approx(0.3, abs=1e-6)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling.poisson(0.6, unit="client"),
        Sampling.fixed_size(20, 40, unit="client"),
        Sampling.round_robin(20, 40, unit="client", turn=0),
        lambda n: Sampling.fixed_size(n // 2, n, unit="client"),
    ],
    ids=["poisson", "fixed", "turns", "function"],
)
def test_cohorts(sampling) -> None:
    clients = make_clients(sizes=(20,) * 40)
    view = View.parse("released")
    federation = guarded(clients, budget=Budget(epsilon=8.0, delta=1e-5, unit="client", view=view, accounting="renyi"))
    trained = learner(rounds=4, sampling=sampling, clip=0.5).fit(federation)
    assert trained.epsilon_["released"] <= 8.0
    hidden = trained.releases_[0].expected_clients is not None
    for release, row in zip(trained.releases_, trained.history_, strict=True):
        assert release.participants < 40
        assert row["clients"] == release.divisor == (24 if hidden else release.survivors)
        assert (row["lost"], row["bytes_up"]) == ((None, None) if hidden else (0, release.bytes_up))
    last = trained.releases_[-1]
    assert np.linalg.norm(last["delta"]) / last.divisor == pytest.approx(trained.history_[-1]["update_norm"])


def test_sampled_records_are_for_clients_that_forget() -> None:
    federation = guarded(budget=Budget(epsilon=8.0, delta=1e-5, accounting="renyi", view=View.parse("released")))
    sampling = Sampling.poisson(0.3, unit="record")
    for remembered in ({"control_variates": True, "control_clip": 1.0}, {"personal": "2.*"}):
        with pytest.raises(UsageError, match=r"sampled\s+records save nothing"):
            learner(sampling=sampling, **remembered).fit(federation)
    assert federation.remaining_share == 1.0
    assert learner(rounds=2, sampling=sampling, clip=0.5).fit(federation).n_rounds_ == 2


@pytest.mark.filterwarnings("ignore:the clients' weights drown in noise")
def test_fednova_and_scaffold_under_a_budget_keep_everything_in_the_vector() -> None:
    nova = learner(rounds=2, normalisation="fednova", largest_weight=40, clip=0.1).fit(guarded())
    assert set(nova.releases_[0]) == {"delta", "weight", "steps"}
    scaffold = learner(rounds=2, control_variates=True, control_clip=1.0, clip=0.5).fit(guarded())
    assert set(scaffold.releases_[0]) == {"delta", "control"}
    for trained in (nova, scaffold):
        assert trained.epsilon_["server"] <= 8.0
        assert np.isfinite(trained.parameters_).all()


BATCH_NORM = torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.BatchNorm1d(4), torch.nn.Linear(4, 3))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"model": BATCH_NORM}, "GroupNorm|LayerNorm"),
        ({"weighting": "records"}, "needs largest_weight="),
        ({"weighting": "rows"}, "weighting is 'rows'"),
        ({"normalisation": "fednova"}, "largest_weight="),
        ({"normalisation": "nova"}, "normalisation is 'nova'"),
        ({"control_variates": True}, "need control_clip="),
        ({"control_variates": True, "control_clip": 1.0, "momentum": 0.9}, "plain SGD"),
        ({"control_variates": True, "control_clip": 1.0, "personal": "2.*"}, "whole models"),
        ({"optimizer": "adam", "normalisation": "fednova", "largest_weight": 9}, "steps of SGD"),
        ({"share": 0.1, "noise_multiplier": 1.0}, "two ways to say one thing"),
        ({"share": 2.0}, "share is 2.0"),
        ({"clip": "median"}, "clip is 'median'"),
        ({"clip": -1.0}, "clip is -1"),
        ({"rounds": 0}, "rounds is 0"),
        ({"clients_per_round": 3, "sampling": Sampling.none()}, "both say who takes part"),
        ({"clients_per_round": 99}, "clients_per_round is 99, the federation has 12"),
        ({"sampling": 0.5}, "sampling is 0.5"),
        ({"server_optimizer": "lamb"}, "server_optimizer is 'lamb'"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"personal": "nobody.*"}, "no parameter's name matches personal"),
        ({"callbacks": 3}, "is no callback"),
        ({"feature_shape": (7,)}, "cannot hold features of shape"),
        ({"largest_weight": 0}, "largest_weight is 0"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_charged(settings, match) -> None:
    federation = guarded()
    with pytest.raises(UsageError, match=match):
        learner(**settings).fit(federation)
    assert federation.remaining_share == 1.0
    assert not federation.ledger.rounds()


def test_a_multiplier_without_a_budget_and_a_list_for_a_federation_are_refused() -> None:
    with pytest.raises(UsageError, match="no budget"):
        learner(noise_multiplier=1.0).fit(LocalFederation(make_clients(), mode="trusted"))
    with pytest.raises(UsageError, match="fit takes a federation"):
        learner().fit(make_clients())


def test_a_budget_for_records_is_pointed_to_the_learner_for_records() -> None:
    plans = {unit: learner().plan(guarded(budget=Budget(8.0, 1e-5, unit=unit))) for unit in ("record", "client")}
    assert "FederatedSGD" in str(plans["record"])
    assert "FederatedSGD" not in str(plans["client"])
