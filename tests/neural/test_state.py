"""States of a run and what callbacks may say of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest

from privfed import Budget, LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging, FederatedSGD
from privfed.learners.neural.state import Callback, Callbacks, TrainingState, Verdict

torch = pytest.importorskip("torch")


def clients() -> list:
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(30, 2)) for _ in range(3)]
    return [(x, (x.sum(axis=1) > 0).astype(float)) for x in X]


def model() -> torch.nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Linear(2, 2)


def state(**changes) -> TrainingState:
    given = {"learner": "Test", "settings": {}, "program": "", "seed": 0, "round": 1, "rounds": 2}
    arrays = {"control": np.ones(2)}
    return TrainingState(**given, parameters=np.zeros(2), arrays=arrays, history=({"round": 1},), **changes)


@pytest.mark.parametrize("said", [None, False, np.False_, Verdict()])
def test_these_let_the_run_go_on(said) -> None:
    assert not Callbacks(lambda state: said).round_end(state())[1].stop


@pytest.mark.parametrize("said", [True, np.True_, Verdict(stop=True)])
def test_these_stop_the_run(said) -> None:
    assert Callbacks(lambda state: said).round_end(state())[1].stop


@pytest.mark.parametrize(
    "said", [0.5, 0, 1, "stop", np.ones(2), np.float64(0.0), {"figure": 1.0}, state().with_metrics({"figure": 1.0})]
)
def test_whatever_else_a_callback_returns_is_no_yes(said) -> None:
    def look(state):
        return said

    with pytest.raises(UsageError, match=r"callback look returned a .*Verdict\(metrics="):
        Callbacks(look).round_end(state())


def test_what_is_said_at_the_end_is_a_verdict_too() -> None:
    class Ends(Callback):
        def on_train_end(self, state):
            return np.ones(2)

    with pytest.raises(UsageError, match="callback Ends returned a ndarray"):
        Callbacks(Ends()).end(state())


def test_parameters_may_be_any_vector_of_the_right_length() -> None:
    def end(parameters):
        return Callbacks(lambda state: Verdict(parameters=parameters)).round_end(state())[0].parameters

    np.testing.assert_array_equal(end([1.0, 2.0]), [1.0, 2.0])
    np.testing.assert_array_equal(end(torch.ones(2)), [1.0, 1.0])
    for wrong, match in (([1.0], "shape"), ("words", "vector of numbers")):
        with pytest.raises(UsageError, match=match):
            end(wrong)


def test_a_callback_refuses_before_anything_is_spent() -> None:
    class Refuses:
        def check(self, state):
            raise UsageError("not with me")

        def on_round_end(self, state):
            return None

    federation = LocalFederation(clients(), budget=Budget(8.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match="not with me"):
        FederatedSGD(model(), rounds=2, callbacks=Refuses()).fit(federation)  # it would count the records first
    assert not federation.ledger.rounds()


def test_the_state_gives_the_network_of_its_round() -> None:
    found = []
    learner = FederatedAveraging(model(), rounds=2, random_state=0, callbacks=lambda s: found.append(s.network()))
    learner.fit(LocalFederation(clients(), mode="trusted"))
    last = torch.nn.utils.parameters_to_vector(found[1].parameters()).detach().double().numpy()
    np.testing.assert_allclose(last, learner.parameters_)
    assert not np.allclose(torch.nn.utils.parameters_to_vector(found[0].parameters()).detach(), last)
    with pytest.raises(UsageError, match="names no model"):
        state().network()


def test_fitted_learners_are_copied_without_their_federation() -> None:
    federation = LocalFederation(clients(), mode="trusted")
    for learner in (
        FederatedAveraging(model(), rounds=1, random_state=0),
        FederatedSGD(model(), rounds=1, expected_records=90.0),
    ):
        learner.fit(federation)
        again = copy.deepcopy(learner)
        X = clients()[0][0]
        np.testing.assert_array_equal(again.decision_function(X), learner.decision_function(X))
        assert again.state_.federation is None
        assert learner.state_.federation is not None
        assert not again.state_.parameters.flags.writeable
        again.set_params(rounds=2)
        if isinstance(again, FederatedAveraging):
            again.fit(federation, resume_from=again.state_)
            assert (again.n_rounds_, learner.n_rounds_) == (2, 1)


def test_a_copied_state_cannot_be_written_to() -> None:
    again = copy.deepcopy(state())
    with pytest.raises(TypeError):
        again.arrays["control"] = np.zeros(2)
    assert not again.arrays["control"].flags.writeable


def test_a_federation_in_the_place_of_rows_is_sent_to_evaluate() -> None:
    federation = LocalFederation(clients(), mode="trusted")
    learner = FederatedAveraging(model(), rounds=1, random_state=0).fit(federation)
    for call in (learner.score, learner.predict):
        with pytest.raises(UsageError, match=r"privfed\.learners\.neural\.evaluate"):
            call(federation)
    with pytest.raises(UsageError, match="give y"):
        learner.score(clients()[0][0])
