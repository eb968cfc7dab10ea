"""What a fit of a network will cost and what its noise is against, before anything is spent."""

from __future__ import annotations

import dataclasses
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from privfed import Budget, LocalFederation
from privfed.learners.neural import FederatedAveraging, FederatedSGD
from privfed.learners.neural.schedule import DROWNED, Schedule


def federation(
    unit: str, clients: int = 20, *, epsilon: float = 4.0, width: int = 3, **settings: object
) -> LocalFederation:
    rng = np.random.default_rng(0)
    data = {f"c{i}": (rng.standard_normal((10, width)), rng.integers(0, 2, 10)) for i in range(clients)}
    budget = Budget(epsilon, 1e-5, unit=unit, accounting="renyi")
    return LocalFederation(data, budget=budget, mode="trusted", noise_seed=1, max_records=20, **settings)


def averaging(**settings: object) -> FederatedAveraging:
    return FederatedAveraging(nn.Linear(3, 2), **{"rounds": 4, "clip": 0.5, "random_state": 0, **settings})


def sgd(width: int = 3, **settings: object) -> FederatedSGD:
    return FederatedSGD(nn.Linear(width, 2), **{"rounds": 4, "clip": 0.5, "expected_records": 200, **settings})


@pytest.mark.filterwarnings("ignore:noise will drown")
@pytest.mark.parametrize(
    "settings",
    [{}, {"clip": "adaptive"}, {"largest_weight": 10.0}, {"noise_multiplier": 30.0}, {"share": 0.1}],
)
def test_the_plan_of_averaging_is_what_a_fit_costs_and_carries(settings: dict[str, object]) -> None:
    clients, learner = federation("client"), averaging(**settings)
    plan = learner.plan(clients)
    assert clients.remaining_share == 1.0  # nothing was spent
    assert not clients.ledger.rounds()
    learner.fit(clients)
    spent = learner.releases_[-1].epsilon
    assert plan.epsilons == pytest.approx({view: spent[view] for view in plan.epsilons}, rel=1e-6)
    assert plan.epsilon == plan.epsilons[plan.view]
    first = learner.releases_[0]
    assert first.plan is not None
    assert plan.noise_multiplier == pytest.approx(first.plan.terms.noise_multiplier, rel=1e-9)
    weight = float(settings.get("largest_weight", 1.0))
    clip = float(learner.history_[0]["clip"])
    by_hand = math.sqrt(8) * first.noise_std["delta"] / (20 * clip * weight)
    assert plan.noise_ratio == pytest.approx(by_hand, rel=1e-6)
    assert (plan.rounds, plan.n_coordinates) == (4, 8)
    assert f"a round's noise is {plan.noise_ratio:.3g} times the clip" in str(plan)


@pytest.mark.filterwarnings("ignore:noise will drown")
def test_the_plan_of_descent_says_what_its_noise_is_against() -> None:
    clients, learner = federation("record"), sgd(sampling_rate=0.5)
    plan = learner.plan(clients)
    assert clients.remaining_share == 1.0
    learner.fit(clients)
    row = learner.history_[0]
    assert plan.noise_ratio == pytest.approx(math.sqrt(8) * float(row["noise_std"]) / 0.5, rel=1e-6)
    assert plan.epsilons["server"] == pytest.approx(learner.epsilon_["server"], rel=1e-6)
    assert {"server", "released"} <= set(plan.epsilons)
    assert sgd(expected_records=None).plan(federation("record")).noise_ratio is None


def test_the_ratio_is_the_length_of_noise_over_the_clip() -> None:
    """Drawn, not worked out: the mean length of the noise of a release."""
    width, model = 60, nn.Linear(60, 10)
    clients = federation("client", width=width)
    learner = FederatedAveraging(model, rounds=2, clip=0.5, learning_rate=1e-12, random_state=0)
    plan = learner.plan(clients)
    with pytest.warns(UserWarning, match="noise will drown"):
        learner.fit(clients)
    moved = [float(row["update_norm"]) / 0.5 for row in learner.history_]
    assert plan.noise_ratio == pytest.approx(np.mean(moved), rel=0.05)


@pytest.mark.parametrize("kind", ["averaging", "descent"])
def test_noise_that_drowns_a_model_is_pointed_out_before_anything_is_charged(kind: str) -> None:
    unit, learner = ("client", averaging()) if kind == "averaging" else ("record", sgd())
    seen: list[int] = []
    clients = federation(unit, epsilon=0.05)

    def look(message: object, *_: object, **__: object) -> None:
        seen.append(len(clients.ledger.rounds()))

    remedy = "more clients a round, fewer parameters" if kind == "averaging" else "fewer parameters .* more records"
    with warnings.catch_warnings():
        warnings.showwarning = look
        warnings.simplefilter("always")
        learner.fit(clients)
    assert seen[0] == 0  # the first of them came before the first charge
    with pytest.warns(UserWarning, match=f"noise will drown what the model could learn: .* Use {remedy}"):
        (averaging() if kind == "averaging" else sgd()).fit(federation(unit, epsilon=0.05))


def test_noise_that_a_model_can_bear_is_not() -> None:
    plenty = federation("record", epsilon=8.0)
    learner = sgd()
    assert learner.plan(plenty).drowning < DROWNED
    learner.fit(plenty)


def test_drowning_is_of_all_rounds_together() -> None:
    plan = sgd(rounds=16).plan(federation("record"))
    assert plan.noise_ratio is not None
    assert plan.drowning == pytest.approx(plan.noise_ratio / 4.0)
    assert dataclasses.replace(plan, noise_ratio=None).drowning is None


def test_without_a_budget_there_is_no_noise_to_speak_of() -> None:
    torch.manual_seed(0)
    clients = LocalFederation([(np.ones((4, 3)), np.array([0, 1, 0, 1]))] * 2)
    for learner in (averaging(clip=None), sgd()):
        plan = learner.plan(clients)
        assert isinstance(plan, Schedule)
        assert (plan.noise_multiplier, plan.noise_ratio, plan.drowning) == (0.0, None, None)
        assert str(plan) == "4 rounds without noise"
