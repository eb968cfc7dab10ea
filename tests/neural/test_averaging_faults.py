"""Clients drop out, join, leave, have nothing, diverge; runs stop and go on: right, or a clear error."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from privfed import Budget, FederationError, LocalFederation, Loss, Sampling, UsageError
from privfed.learners.neural import Callback, FederatedAveraging, TrainingState, Verdict
from privfed.learners.neural.state import Callbacks
from tests.neural import reference_averaging as reference
from tests.neural.test_averaging import BY_HAND, HOW, make_clients, make_model, seed_of

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")


def named(clients, first=0):
    return {f"c{first + i}": data for i, data in enumerate(clients)}


def learner(model=None, **settings):
    settings = {"rounds": 3, "random_state": 5, "dtype": "float64", **HOW, **settings}
    return FederatedAveraging(make_model() if model is None else model, **settings)


def after_one(parameters, clients, number):
    """One round by the reference, from any parameters."""
    seed = reference.local_seed(seed_of(5), number)
    model = make_model()
    moved = [reference.walk(model, parameters, *data, seed=seed, **BY_HAND)[0] - parameters for data in clients]
    sizes = np.array([float(len(x)) for x, _ in clients])
    return parameters + sizes @ np.array(moved) / sizes.sum()


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_who_is_lost_is_missing_and_nothing_else(mode) -> None:
    clients = make_clients()
    losses = [Loss("c1", "masked", rounds=[1]), Loss("c3", "masked", rounds=[2])]
    federation = LocalFederation(named(clients), mode=mode, losses=losses, dropout=0.3)
    trained = learner().fit(federation)
    assert [row["lost"] for row in trained.history_] == [1, 1, 0]
    assert [row["contributed"] for row in trained.history_] == [3, 3, 4]
    x = reference.flat(make_model())
    for number, missing in ((1, 1), (2, 3), (3, None)):
        x = after_one(x, [data for i, data in enumerate(clients) if i != missing], number)
    np.testing.assert_allclose(trained.parameters_, x, rtol=0, atol=1e-10)


def test_too_many_lost_is_an_error_that_callbacks_outlive() -> None:
    ended = []

    class Ends(Callback):
        def on_train_end(self, state):
            ended.append(state)

    federation = LocalFederation(named(make_clients()), mode="trusted", losses=[Loss("c1", "masked", rounds=[2])])
    with pytest.raises(FederationError, match="clients are left"):
        learner(callbacks=Ends()).fit(federation)
    (state,) = ended
    assert state.round == 1
    again = learner().fit(LocalFederation(named(make_clients()), mode="trusted"), resume_from=state)
    whole = learner().fit(LocalFederation(named(make_clients()), mode="trusted"))
    np.testing.assert_array_equal(again.parameters_, whole.parameters_)


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_clients_join_and_leave_between_rounds(mode) -> None:
    clients = make_clients(sizes=(20, 31, 12, 17, 25))
    here = named(clients[:3])
    federation = LocalFederation(here, mode=mode)

    def change(state: TrainingState) -> None:
        if state.round == 1:
            federation.join(named(clients[3:], first=3))
        if state.round == 2:
            federation.leave(["c0", "c4"])

    trained = learner(callbacks=change).fit(federation)
    assert [row["clients"] for row in trained.history_] == [3, 5, 3]
    x = reference.flat(make_model())
    for number, present in ((1, [0, 1, 2]), (2, [0, 1, 2, 3, 4]), (3, [1, 2, 3])):
        x = after_one(x, [clients[i] for i in present], number)
    np.testing.assert_allclose(trained.parameters_, x, rtol=0, atol=1e-10)


def test_cohorts_follow_the_number_of_clients() -> None:
    clients = make_clients(sizes=(8,) * 8)
    federation = LocalFederation(named(clients[:4]), mode="trusted")

    def join(state: TrainingState) -> None:
        if state.round == 1:
            federation.join(named(clients[4:], first=4))

    trained = learner(clients_per_round=3, callbacks=join).fit(federation)
    assert [release.participants for release in trained.releases_] == [3, 3, 3]


def test_silos_whose_sample_is_empty_add_nothing() -> None:
    federation = LocalFederation(make_clients(sizes=(1,) * 6), mode="trusted", noise_seed=3)
    trained = learner(sampling=Sampling.poisson(0.5, unit="record")).fit(federation)
    assert all(0 < row["contributed"] < 6 == row["clients"] for row in trained.history_)
    assert np.isfinite(trained.parameters_).all()


def test_a_single_row_is_a_client() -> None:
    clients = make_clients(sizes=(1, 20))
    trained = learner().fit(LocalFederation(clients, mode="trusted"))
    x = reference.flat(make_model())
    for number in (1, 2, 3):
        x = after_one(x, clients, number)
    np.testing.assert_allclose(trained.parameters_, x, rtol=0, atol=1e-10)


@pytest.mark.parametrize("weighting", ["records", "uniform"])
def test_nobody_with_rows_leaves_the_model_and_says_so(weighting) -> None:
    federation = LocalFederation(make_clients(), mode="trusted")
    nobody = Sampling.poisson(1e-9, unit="record")
    with pytest.warns(UserWarning, match="nobody contributed to round 1"):
        trained = learner(rounds=1, sampling=nobody, weighting=weighting, clip="adaptive").fit(federation)
    np.testing.assert_array_equal(trained.parameters_, reference.flat(make_model()))
    assert trained.state_.arrays["clip"] == 0.1


@pytest.mark.parametrize("uniform", [False, True])
def test_a_client_that_diverges_is_left_out_and_the_others_go_on(uniform, caplog) -> None:
    """Features of 1e60 send plain regression to infinity at one client."""
    rng = np.random.default_rng(0)
    calm = [(rng.normal(size=(9, 2)), rng.normal(size=9)) for _ in range(2)]
    wild = (1e60 * rng.normal(size=(9, 2)), rng.normal(size=9))
    torch.manual_seed(0)
    model = torch.nn.Linear(2, 1)
    settings = {"loss": "mse", "rounds": 2, "learning_rate": 0.1, "dtype": "float64", "random_state": 0}
    weighting = "uniform" if uniform else "records"
    settings = {**settings, "local_epochs": 20, "weighting": weighting}
    trained = FederatedAveraging(model, **settings).fit(LocalFederation([*calm, wild], mode="trusted"))
    alone = FederatedAveraging(model, **settings).fit(LocalFederation(calm, mode="trusted"))
    np.testing.assert_allclose(trained.parameters_, alone.parameters_, rtol=0, atol=1e-11)
    assert [row["contributed"] for row in trained.history_] == [2, 2]
    assert "contributes nothing in this round" in caplog.text


def test_a_model_with_frozen_layers_and_integer_buffers_comes_back_whole() -> None:
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)
            self.body.requires_grad_(False)
            self.register_buffer("calls", torch.tensor(7))

        def forward(self, x):
            self.calls += 1
            return self.head(torch.relu(self.body(x)))

    model = Counting()
    trained = learner(model, dtype="float32").fit(LocalFederation(make_clients(), mode="trusted"))
    assert trained.parameters_.shape == (15,)
    assert torch.equal(trained.model_.body.weight, model.body.weight)
    assert not torch.equal(trained.model_.head.weight, model.head.weight)
    assert trained.model_.calls == 7
    assert model.calls == 7
    assert not trained.model_.body.weight.requires_grad


def interrupted(rounds=5, stop_at=2, **settings):
    """Stop a run after two rounds, and go on with what a checkpoint would hold."""
    federation = LocalFederation(make_clients(), mode="trusted")
    first = learner(rounds=rounds, callbacks=lambda state: state.round == stop_at, **settings).fit(federation)
    assert first.n_rounds_ == stop_at
    assert first.stop_reason_ == "<lambda>"
    kept = dataclasses.replace(first.state_, releases=(), model=None, federation=None)
    return learner(rounds=rounds, **settings).fit(federation, resume_from=kept)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"server_optimizer": "yogi", "server_learning_rate": 0.1},
        {"server_momentum": 0.9},
        {"control_variates": True},
        {"clip": "adaptive", "initial_clip": 0.3},
    ],
    ids=["plain", "yogi", "momentum", "scaffold", "adaptive"],
)
def test_a_run_that_stopped_goes_on_as_if_it_had_not(settings) -> None:
    whole = learner(rounds=5, **settings).fit(LocalFederation(make_clients(), mode="trusted"))
    going_on = interrupted(**settings)
    np.testing.assert_array_equal(going_on.parameters_, whole.parameters_)
    assert [row["round"] for row in going_on.history_] == [1, 2, 3, 4, 5]
    assert len(going_on.releases_) == 3


def test_going_on_spends_what_is_left_and_no_more() -> None:
    federation = LocalFederation(
        make_clients(sizes=(9,) * 8), mode="trusted", budget=Budget(epsilon=4.0, delta=1e-5, unit="client")
    )
    first = learner(rounds=4, callbacks=lambda state: state.round == 1).fit(federation)
    assert federation.remaining_share == pytest.approx(0.75, abs=1e-6)
    second = learner(rounds=4).fit(federation, resume_from=first.state_)
    assert second.n_rounds_ == 4
    assert 0 <= federation.remaining_share < 1e-6
    done = learner(rounds=4).fit(federation, resume_from=second.state_)
    np.testing.assert_array_equal(done.parameters_, second.parameters_)


def test_a_state_of_another_run_is_refused() -> None:
    federation = LocalFederation(make_clients(), mode="trusted")
    state = learner(rounds=1).fit(federation).state_
    with pytest.raises(UsageError, match=r"had training .*this learner has"):
        learner(learning_rate=0.3).fit(federation, resume_from=state)
    with pytest.raises(UsageError, match="bring the model"):
        learner(torch.nn.Linear(5, 3)).fit(federation, resume_from=state)
    settings = {name: value for name, value in state.settings.items() if name != "run"}
    with pytest.raises(UsageError, match="does not name its run"):
        learner().fit(federation, resume_from=dataclasses.replace(state, settings=settings))


class Recorder(Callback):
    def __init__(self, verdict=None):
        self.verdict, self.states, self.began, self.ended = verdict, [], [], []

    def on_train_begin(self, state):
        self.began.append(state.round)

    def on_round_end(self, state):
        self.states.append(state)
        return self.verdict(state) if self.verdict else None

    def on_train_end(self, state):
        self.ended.append(state.round)
        return Verdict(parameters=np.zeros_like(state.parameters))


def test_callbacks_see_each_other_stop_the_run_and_choose_the_parameters() -> None:
    first = Recorder(lambda state: Verdict(metrics={"loss": 1.0 / state.round}))
    second = Recorder(lambda state: Verdict(stop=state.history[-1]["loss"] < 0.6, reason="low enough"))
    trained = learner(callbacks=[first, second]).fit(LocalFederation(make_clients(), mode="trusted"))
    assert [row["loss"] for row in trained.history_] == [1.0, 0.5]
    assert trained.stop_reason_ == "low enough"
    assert (first.began, first.ended, second.ended) == ([0], [2], [2])
    assert not trained.parameters_.any()
    state = second.states[-1]
    assert not state.parameters.flags.writeable
    assert state.model is trained.program_
    with pytest.raises(TypeError):
        state.arrays["clip"] = np.zeros(())
    with pytest.raises(dataclasses.FrozenInstanceError):
        state.round = 7


def test_callbacks_that_do_not_fit_are_refused() -> None:
    state = learner(rounds=1).fit(LocalFederation(make_clients(), mode="trusted")).state_
    with pytest.raises(UsageError, match="figures named clients already"):
        Callbacks(lambda state: Verdict(metrics={"clients": 1})).round_end(state)
    with pytest.raises(UsageError, match=r"chose parameters of shape \(2,\)"):
        Callbacks(lambda state: Verdict(parameters=np.zeros(2))).round_end(state)
    with pytest.raises(UsageError, match="no round yet"):
        dataclasses.replace(state, history=()).with_metrics({"a": 1})
    for wrong in ("text", Recorder, [3]):
        with pytest.raises(UsageError, match="is no callback"):
            Callbacks(wrong)

    class Greedy:
        def on_round_end(self, state):
            return None

        def budget_share(self, rounds):
            return 1.0

    with pytest.raises(UsageError, match="leave some for training"):
        Callbacks(Greedy()).budget_share(3)


def test_only_the_last_release_keeps_its_long_blocks() -> None:
    model = torch.nn.Linear(5, 30)
    federation = LocalFederation(make_clients(), mode="trusted")
    trained = FederatedAveraging(model, rounds=3, random_state=0).fit(federation)
    assert [list(release) for release in trained.releases_] == [[], [], ["limbs"]]


def test_an_interrupted_fit_leaves_what_it_paid_for() -> None:
    clients = named(make_clients())

    class Interrupts(Callback):
        def on_round_end(self, state):
            if state.round == 2:
                raise KeyboardInterrupt
            return Verdict()

    stopped = learner(callbacks=Interrupts())
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(LocalFederation(clients, mode="trusted"))
    assert stopped.state_.round == 2  # that round was released and paid for
    going_on = learner().fit(LocalFederation(clients, mode="trusted"), resume_from=stopped.state_)
    whole = learner().fit(LocalFederation(clients, mode="trusted"))
    np.testing.assert_array_equal(going_on.parameters_, whole.parameters_)


@pytest.mark.parametrize(
    ("settings", "what"),
    [({"control_variates": True, "momentum": 0.0}, "control variates"), ({"personal": "*bias"}, "personal layers")],
)
def test_a_run_that_goes_on_without_what_clients_remember_says_so(settings, what) -> None:
    clients = named(make_clients())
    first = LocalFederation(clients, mode="trusted")
    kept = learner(rounds=1, **settings).fit(first).state_
    with pytest.warns(UserWarning, match=rf"clients keep {what} .* remembers anything"):
        learner(rounds=2, **settings).fit(LocalFederation(clients, mode="trusted"), resume_from=kept)
    learner(rounds=2, **settings).fit(first, resume_from=kept)  # which remembers: no warning, they are errors here
    homes = {name: {} for name in clients}
    state = learner(rounds=1, **settings).fit(LocalFederation(clients, mode="trusted", memories=homes)).state_
    learner(rounds=2, **settings).fit(LocalFederation(clients, mode="trusted", memories=homes), resume_from=state)
