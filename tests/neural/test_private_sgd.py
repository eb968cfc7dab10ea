"""FederatedSGD: what it computes, what it charges, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from privfed import Budget, BudgetExhausted, Count, DataError, LocalFederation, Sampling, UsageError
from privfed.learners.neural.per_sample.gradients import GradientSum
from privfed.learners.neural.private_sgd.learner import FederatedSGD
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.state import TrainingState, Verdict
from privfed.statistics.programs import install
from privfed_accounting import Ledger, calibrate

DELTA = 1e-5
RENYI = Budget(2.0, DELTA, accounting="renyi")


def blobs(n: int = 300, d: int = 4, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    return rng.standard_normal((n, d)) + 2.0 * np.eye(classes, d)[y], y


def silos(count: int = 5, **shape: int) -> list[tuple[np.ndarray, np.ndarray]]:
    X, y = blobs(**shape)
    return [(X[i::count], y[i::count]) for i in range(count)]


def federation(budget: Budget | None = None, **settings: object) -> LocalFederation:
    settings = {"mode": "trusted", "max_records": 100, "noise_seed": 1, **settings}
    return LocalFederation(silos(), budget=budget, **settings)


def model(seed: int = 0, d: int = 4, classes: int = 3) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Linear(d, classes)


def learner(**settings: object) -> FederatedSGD:
    return FederatedSGD(
        model(), **{"rounds": 5, "clip": 0.5, "learning_rate": 0.5, "expected_records": 300, **settings}
    )


def torch_sgd(rounds: int, *, clip: float, averaging: int = 0, **settings: float) -> np.ndarray:
    """The same full-batch training by torch.optim.SGD and one backward pass per record."""
    X, y = blobs()
    net = model().double()
    optimizer = torch.optim.SGD(net.parameters(), **settings)
    seen = []
    for _ in range(rounds):
        total = [torch.zeros_like(value) for value in net.parameters()]
        for row, target in zip(torch.tensor(X), torch.tensor(y), strict=True):
            net.zero_grad()
            nn.functional.cross_entropy(net(row[None]), target[None]).backward()
            norm = math.sqrt(sum(float(value.grad.square().sum()) for value in net.parameters()))
            for part, value in zip(total, net.parameters(), strict=True):
                part += value.grad * min(1.0, clip / norm)
        for part, value in zip(total, net.parameters(), strict=True):
            value.grad = part / len(X)
        optimizer.step()
        seen.append(np.concatenate([value.detach().numpy().ravel() for value in net.parameters()]))
    return np.mean(seen[-averaging:], axis=0) if averaging else seen[-1]


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_without_noise_it_is_clipped_gradient_descent_on_all_records_at_once(mode: str) -> None:
    fitted = learner(momentum=0.9, weight_decay=0.01, dtype="float64").fit(federation(mode=mode, noise_seed=None))
    right = torch_sgd(5, clip=0.5, lr=0.5, momentum=0.9, weight_decay=0.01)
    np.testing.assert_allclose(fitted.parameters_, right, atol=2e-9)


def test_the_tail_is_averaged() -> None:
    fitted = learner(rounds=6, averaging=0.5, dtype="float64").fit(federation())
    np.testing.assert_allclose(fitted.parameters_, torch_sgd(6, clip=0.5, averaging=3, lr=0.5), atol=2e-9)


def test_the_sum_carries_the_noise_of_one_curator_and_no_other() -> None:
    """Residuals of a release against the same query without noise: one of 60 300 coordinates."""
    torch.manual_seed(0)
    rows, net = silos(count=20, n=400, d=200, classes=3), nn.Linear(200, 300)
    program = TorchProgram(net, "cross_entropy", feature_shape=(200,))
    query = GradientSum(install(program), program.parameters(), clip=0.25)
    settings = {"mode": "trusted", "max_records": 200}
    clear = LocalFederation(rows, **settings).release(query)["gradient"]
    private = LocalFederation(rows, budget=Budget(8.0, DELTA), noise_seed=5, **settings)
    release = private.release(query, noise_multiplier=3.0)
    residuals = release["gradient"] - clear
    assert release.noise_std["gradient"] == pytest.approx(3.0 * 0.25, rel=1e-3)

    def fits(standard: float) -> bool:
        """Two-sided test of the variance at 1 %: 60 300 normals tell 1.5 % of it, which is .75 % of the deviation."""
        statistic = float(np.sum(np.square(residuals / standard)))
        return 0.005 < stats.chi2.cdf(statistic, residuals.size) < 0.995

    assert residuals.size == 60_300
    assert fits(3.0 * 0.25)
    assert not fits(3.0 * 0.25 * 1.015)
    assert not fits(3.0 * 0.25 / 1.015)
    assert stats.kstest(residuals / 0.75, "norm").pvalue > 0.01
    assert stats.kstest(residuals / 0.75 / 1.03, "norm").pvalue < 0.01


def test_secret_samples_hold_about_the_right_part_of_the_records() -> None:
    """A gradient that is the same for every record counts who was drawn."""
    X, y = np.ones((400, 1)), np.zeros(400)
    with LocalFederation([(X, y)] * 3, mode="trusted", max_records=400, noise_seed=2) as clients:
        net = nn.Linear(1, 1, bias=False)
        program = TorchProgram(net, "mse", feature_shape=(1,))
        with torch.no_grad():
            program.model.weight.fill_(5.0)
        query = GradientSum(install(program), np.array([5.0]), clip=1.0)
        sampling = Sampling.poisson(0.3, unit="record")
        drawn = [float(clients.release(query, sampling=sampling)["gradient"][0]) for _ in range(40)]
    assert stats.binomtest(round(sum(drawn)), 40 * 1200, 0.3).pvalue > 0.01
    assert len({round(count) for count in drawn}) > 20


def test_the_budget_pays_for_all_rounds_and_nearly_nothing_is_left() -> None:
    # What a Renyi filter keeps back, lest rounds be chosen by what was seen, an epsilon of rounds as they stand gets.
    for budget, rate, least in ((Budget(2.0, DELTA), 1.0, 1.999), (RENYI, 0.2, 1.8)):
        clients = federation(budget)
        fitted = learner(rounds=7, sampling_rate=rate).fit(clients)
        assert fitted.n_rounds_ == 7
        assert least < fitted.epsilon_["server"] <= 2.0
        assert clients.remaining_share < 1e-5
        with pytest.raises(BudgetExhausted):
            clients.release(Count(), noise_multiplier=50.0)


def test_what_the_plan_says_is_what_is_charged() -> None:
    clients = federation(RENYI, mode="secure", noise_seed=None)
    estimator = learner(rounds=30, sampling_rate=0.1)
    schedule = estimator.plan(clients)
    assert clients.remaining_share == 1.0
    fitted = estimator.fit(clients)
    assert fitted.schedule_ == schedule
    assert schedule.epsilon == pytest.approx(fitted.epsilon_["server"], rel=1e-6)
    assert schedule.tight_epsilon == pytest.approx(fitted.tight_epsilon_, rel=1e-3)
    assert schedule.tight_epsilon < 0.95 * schedule.epsilon
    assert "30 rounds at rate 0.1" in str(schedule)


def test_a_fixed_schedule_needs_less_noise_than_a_filter_lets_through() -> None:
    guaranteed = learner(rounds=50, sampling_rate=0.1).plan(federation(RENYI)).noise_multiplier
    sampling = Sampling.poisson(0.1, unit="record")
    tight = calibrate(2.0, DELTA, 50, "server", shares=5, sampling=sampling, schedule="fixed")
    adaptive = calibrate(2.0, DELTA, 50, "server", shares=5, sampling=sampling)
    assert tight < 0.97 * guaranteed
    assert guaranteed == pytest.approx(adaptive, rel=1e-3)
    wide = federation(Budget(4.0, DELTA, accounting="renyi"))
    schedule = learner(rounds=50, sampling_rate=0.1, noise_multiplier=tight).plan(wide)
    assert schedule.tight_epsilon == pytest.approx(2.0, rel=2e-3)


def test_records_are_counted_with_noise_where_nobody_gives_their_number() -> None:
    clients = federation(Budget(8.0, DELTA))
    fitted = learner(expected_records=None).fit(clients)
    assert [record.plan.query for record in clients.ledger.rounds()] == ["count"] + ["gradient_sum"] * 5
    assert fitted.expected_records_ != 300
    assert abs(fitted.expected_records_ - 300) < 60
    assert fitted.epsilon_["server"] <= 8.0
    exact = learner(expected_records=None).fit(federation())
    assert exact.expected_records_ == pytest.approx(300, abs=1e-6)


def test_the_true_number_of_records_has_no_bearing_on_a_step() -> None:
    """Twice the expected number halves the step: nothing is divided by what is secret."""
    one, two = (learner(rounds=1, expected_records=n).fit(federation()) for n in (300, 600))
    start = TorchProgram(model(), "cross_entropy", feature_shape=(4,)).parameters()
    np.testing.assert_allclose(two.parameters_ - start, 0.5 * (one.parameters_ - start), atol=1e-7)


def test_part_of_the_budget_can_be_left_for_others() -> None:
    clients = federation(Budget(2.0, DELTA))
    learner(share=0.25).fit(clients)
    assert clients.remaining_share == pytest.approx(0.75, abs=1e-5)

    class Wants:
        def budget_share(self, rounds: int) -> float:
            return 0.1

        def on_round_end(self, state: TrainingState) -> None:
            return None

    learner(callbacks=Wants()).fit(clients)
    assert clients.remaining_share == pytest.approx(0.1, abs=1e-5)
    with pytest.raises(UsageError, match=r"of which 0\.1 is left for it"):
        learner(share=0.5).fit(clients)


def test_callbacks_see_and_stop_a_run_and_it_goes_on_from_there() -> None:
    seen: list[TrainingState] = []

    def stop(state: TrainingState) -> Verdict:
        seen.append(state)
        return Verdict(stop=state.round == 2, reason="enough", metrics={"twice": 2 * state.round})

    budget = Budget(2.0, DELTA)
    clients = federation(budget)
    stopped = learner(callbacks=stop).fit(clients)
    assert (stopped.n_rounds_, stopped.stop_reason_) == (2, "enough")
    assert [row["twice"] for row in stopped.history_] == [2, 4]
    assert clients.remaining_share == pytest.approx(0.6, abs=1e-4)
    whole = learner().fit(clients, resume_from=stopped.state_)
    assert (whole.n_rounds_, len(whole.history_)) == (5, 5)
    assert whole.epsilon_["server"] <= 2.0
    np.testing.assert_allclose(whole.parameters_, learner().fit(federation(budget)).parameters_, atol=1e-6)
    with pytest.raises(UsageError, match="all 5 rounds of the run are done"):
        learner().fit(clients, resume_from=whole.state_)
    with pytest.raises(UsageError, match=r"clip 0\.5, this learner has 0\.25"):
        learner(clip=0.25).fit(clients, resume_from=stopped.state_)


def test_drop_outs_leave_no_less_noise_than_was_charged() -> None:
    from privfed import Loss

    clients = federation(
        Budget(2.0, DELTA), dropout=0.4, losses=[Loss("client-01", "masked"), Loss("client-03", "masked")]
    )
    fitted = learner().fit(clients)
    assert {row["lost"] for row in fitted.history_} == {2}
    assert fitted.epsilon_["server"] <= 2.0
    plain = learner().fit(federation(Budget(2.0, DELTA)))
    assert fitted.history_[0]["noise_std"] == pytest.approx(plain.history_[0]["noise_std"], rel=1e-6)


REFUSED = {
    "both": ({"epochs": 2}, None, "rounds and epochs are two ways"),
    "neither": ({"rounds": None}, None, "exactly one of them"),
    "rate": ({"sampling_rate": 1.5}, None, "expected a probability"),
    "clip": ({"clip": -1}, None, "clip is -1"),
    "momentum": ({"momentum": 1.0}, None, "momentum is 1.0"),
    "averaging": ({"averaging": 2}, None, "averaging is 2"),
    "learning rate": ({"learning_rate": 0}, None, "learning_rate is 0"),
    "noise without a budget": ({"noise_multiplier": 1.0}, None, "without a budget there is no noise"),
    "unit": ({}, Budget(1.0, DELTA, "client"), r'unit="record"\), or FederatedAveraging'),
    "accounting": ({"sampling_rate": 0.1}, Budget(1.0, DELTA), r'accounting="renyi"'),
    "too little noise": (
        {"noise_multiplier": 1.0},
        Budget(1.0, DELTA),
        "5 rounds with noise_multiplier=1 cost epsilon",
    ),
    "records": ({"expected_records": 0}, None, "expected_records is 0"),
    "rows": ({"n_targets": 3, "feature_shape": (9,)}, None, "rows of 5 columns cannot hold"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_refused_is_refused_before_anything_is_charged(kind: str) -> None:
    settings, budget, message = REFUSED[kind]
    clients = federation(budget)
    with pytest.raises(UsageError, match=message):
        learner(**settings).fit(clients)
    assert clients.ledger.rounds() == []


def test_a_model_that_cannot_be_private_is_refused_before_anything_is_charged() -> None:
    clients = federation(Budget(1.0, DELTA))
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))
    with pytest.raises(UsageError, match=r"GroupNorm\(2, 6\)"):
        FederatedSGD(net, rounds=2, clip=1.0, learning_rate=0.1).fit(clients)
    with pytest.raises(UsageError, match="fit takes a federation"):
        learner().fit(blobs())  # type: ignore[arg-type]  # on purpose
    assert clients.ledger.rounds() == []


def test_a_grid_that_many_records_make_too_coarse_is_explained() -> None:
    clients = federation(Budget(1e-3, DELTA), max_records=10**12)
    with pytest.raises(UsageError, match="max_records"):
        learner().fit(clients)


def test_epochs_are_rounds_at_a_rate() -> None:
    assert learner(rounds=None, epochs=3, sampling_rate=0.1).plan(federation(RENYI)).rounds == 30
    assert learner(rounds=None, epochs=2.5, sampling_rate=1.0).plan(federation()).rounds == 3


def test_it_is_an_estimator() -> None:
    X, y = blobs()
    estimator = learner(rounds=40, learning_rate=1.0)
    assert estimator.set_params(clip=1.0).get_params()["clip"] == 1.0
    fitted = estimator.fit(federation())
    assert fitted.score(X, y) > 0.85
    assert fitted.predict(X).shape == (300,)
    outputs = fitted.model_(torch.tensor(X, dtype=torch.float32)).detach().numpy()
    np.testing.assert_allclose(fitted.decision_function(X), outputs, atol=1e-6)
    with pytest.raises(UsageError, match="X has 2 features"):
        fitted.predict(X[:, :2])


def test_regression_too() -> None:
    X, _ = blobs()
    y = X @ [1.0, -1.0, 0.5, 0.0]
    clients = LocalFederation([(X[i::3], y[i::3]) for i in range(3)], mode="trusted")
    torch.manual_seed(0)
    fitted = FederatedSGD(nn.Linear(4, 1), "mse", rounds=60, clip=10.0, learning_rate=0.3, expected_records=300)
    assert fitted.fit(clients).score(X, y) > -0.01


def test_a_federation_that_cannot_plan_is_paid_by_shares() -> None:
    inner = federation(Budget(2.0, DELTA))

    class Remote:
        """A federation by the protocol alone."""

        n_features, unit, records_per_client, n_targets, feature_shape = 5, "record", 1.0, 1, (4,)

        def __getattr__(self, name: str) -> object:
            if name == "plan":
                raise AttributeError(name)
            return getattr(inner, name)

    fitted = learner().fit(Remote())  # type: ignore[arg-type]  # it has what the protocol asks
    assert fitted.n_rounds_ == 5
    assert 1.99 < inner.ledger.epsilon("server") <= 2.0
    assert replace(fitted.schedule_, payment={}).noise_multiplier is None


def test_a_ledger_that_has_spent_some_pays_for_the_rest(tmp_path) -> None:
    path = tmp_path / "budget.db"
    with federation(RENYI, ledger=path) as clients:
        clients.release(Count(), share=0.3, sampling=Sampling.none())
    with federation(RENYI, ledger=path) as clients:
        learner(sampling_rate=0.1, rounds=20).fit(clients)
    with Ledger.open(path, budget=RENYI) as ledger:
        assert len(ledger.rounds()) == 21
        assert ledger.epsilon() <= 2.0


def test_a_budget_that_is_spent_is_named_as_such() -> None:
    guarded = federation(Budget(2.0, 1e-5))
    learner(rounds=2).fit(guarded)
    spent = len(guarded.ledger.rounds())
    with pytest.raises(UsageError, match="of the budget is left, too little to train: open a federation with a larger"):
        learner(rounds=2).fit(guarded)
    assert len(guarded.ledger.rounds()) == spent


def test_classes_that_the_model_does_not_have_are_refused_where_nothing_is_protected_and_add_nothing_else() -> None:
    clients = [(X, y + 3) for X, y in silos()]
    with pytest.raises(DataError, match="no classes of this model: expected whole numbers from 0 to"):
        learner(rounds=1).fit(LocalFederation(clients, mode="trusted", max_records=100))
    odd = [silos()[0], *clients[1:]]
    guarded = LocalFederation(odd, budget=Budget(2.0, 1e-5), mode="trusted", max_records=100, noise_seed=1)
    with pytest.warns(UserWarning, match="no classes of this model.*under a budget such rows count for nothing"):
        assert learner(rounds=1).fit(guarded).n_rounds_ == 1


def test_a_fit_without_any_gradient_is_pointed_out_where_no_noise_hides_it() -> None:
    class Mute(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return 0.0 * self.layer(inputs)

    with pytest.warns(UserWarning, match="no record gave a gradient"):
        FederatedSGD(Mute(), rounds=1).fit(federation())


@pytest.mark.parametrize("targets", [["0", "1"], [0, 1, 2]])
def test_targets_that_cannot_be_scored_are_refused(targets: list[object]) -> None:
    fitted = learner(rounds=1).fit(federation())
    with pytest.raises(UsageError, match="expected 2 numbers"):
        fitted.score(np.zeros((2, 4)), targets)
