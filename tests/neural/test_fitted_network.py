"""What a user of torch or scikit-learn does with a fitted network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from privfed import LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging, FederatedSGD

X = np.random.default_rng(0).standard_normal((60, 4))


def fitted(
    model: nn.Module, targets: np.ndarray, loss: object = "cross_entropy", **settings: object
) -> FederatedAveraging:
    torch.manual_seed(0)
    clients = [(X[i::3], targets[i::3]) for i in range(3)]
    options = {"rounds": 3, "learning_rate": 0.5, "random_state": 0, "dtype": "float64", **settings}
    return FederatedAveraging(model, loss, **options).fit(LocalFederation(clients))


def test_probabilities_of_classes_are_those_of_the_softmax() -> None:
    labels = (X[:, 0] > 0).astype(int) + (X[:, 1] > 1)
    learner = fitted(nn.Linear(4, 3), labels)
    found = learner.predict_proba(X)
    expected = torch.softmax(learner.model_(torch.tensor(X)), dim=1).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert learner.classes_.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(learner.classes_[found.argmax(axis=1)], learner.predict(X))
    assert learner.score(X, labels) == np.mean(learner.predict(X) == labels)


def test_probabilities_of_logits_too_large_for_exp_are_right() -> None:
    learner = fitted(nn.Linear(4, 3), np.zeros(60, dtype=int))
    learner.parameters_ = learner.parameters_ * 0.0 + np.repeat([0.0, 1e4, 0.0], [12, 2, 1])
    np.testing.assert_array_equal(learner.predict_proba(X[:2]), [[0.5, 0.5, 0.0]] * 2)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("loss", ["binary_cross_entropy", nn.BCEWithLogitsLoss()])
def test_probabilities_of_yes_and_no_are_two_columns(loss: object) -> None:
    labels = (X[:, 0] > 0).astype(float)
    learner = fitted(nn.Linear(4, 1), labels, loss)
    found = learner.predict_proba(X)
    np.testing.assert_allclose(found[:, 1], torch.sigmoid(learner.model_(torch.tensor(X)))[:, 0].detach().numpy())
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert learner.classes_.tolist() == [0, 1]
    np.testing.assert_array_equal(found.argmax(axis=1), learner.predict(X))
    assert learner.score(X, labels) > 0.7
    learner.parameters_ = learner.parameters_ * 0.0 + np.array([0.0] * 4 + [-5000.0])
    np.testing.assert_array_equal(learner.predict_proba(X[:1]), [[1.0, 0.0]])


def test_models_of_numbers_have_no_probabilities() -> None:
    learner = fitted(nn.Linear(4, 1), X[:, 0], "mse", learning_rate=0.1)
    with pytest.raises(UsageError, match=r"predict_proba needs a loss .* not mse"):
        learner.predict_proba(X)
    assert not hasattr(learner, "classes_")


@pytest.mark.parametrize("kind", [FederatedAveraging, FederatedSGD])
def test_verbose_shows_every_round_or_every_so_many(kind: type, capsys: pytest.CaptureFixture[str]) -> None:
    clients = LocalFederation([(X[i::3], (X[i::3, 0] > 0).astype(int)) for i in range(3)])
    settings = {"rounds": 5, "expected_records": 60} if kind is FederatedSGD else {"rounds": 5, "random_state": 0}
    lines = {}
    for verbose in (False, True, 2):
        kind(nn.Linear(4, 2), verbose=verbose, **settings).fit(clients)
        lines[verbose] = [line.split()[1] for line in capsys.readouterr().err.splitlines()]
    assert lines == {False: [], True: ["1/5", "2/5", "3/5", "4/5", "5/5"], 2: ["2/5", "4/5", "5/5"]}
    with pytest.raises(UsageError, match="verbose is 'loud'"):
        kind(nn.Linear(4, 2), verbose="loud", **settings).fit(clients)


def test_verbose_comes_behind_what_callbacks_found(capsys: pytest.CaptureFixture[str]) -> None:
    clients = LocalFederation([(X[i::3], (X[i::3, 0] > 0).astype(int)) for i in range(3)])
    seen = []
    FederatedAveraging(nn.Linear(4, 2), rounds=1, verbose=True, callbacks=lambda state: seen.append(state.round)).fit(
        clients
    )
    assert seen == [1]
    assert "1/1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [FederatedAveraging, FederatedSGD])
def test_what_is_no_state_is_refused_with_what_to_do(kind: type) -> None:
    clients = LocalFederation([(X[i::3], (X[i::3, 0] > 0).astype(int)) for i in range(3)])
    with pytest.raises(UsageError, match=r"resume_from is a str, expected the state_ .*neural\.resume\(path, learner"):
        kind(nn.Linear(4, 2), rounds=2).fit(clients, resume_from="runs/one")


@pytest.mark.parametrize("kind", [FederatedAveraging, FederatedSGD])
def test_learners_take_and_give_parameters_as_scikit_learns_do(kind: type) -> None:
    base = pytest.importorskip("sklearn.base")
    model = nn.Linear(4, 2)
    learner = kind(model, "cross_entropy", rounds=3, share=0.5, class_targets=True)
    assert learner.get_params()["model"] is model
    again = base.clone(learner)
    assert again.get_params().keys() == learner.get_params().keys()
    assert (again.rounds, again.share, again.loss) == (3, 0.5, "cross_entropy")
    assert repr(learner.set_params(rounds=4)).startswith(f"{kind.__name__}(")
    assert hash(learner) != hash(again)
    with pytest.raises(TypeError, match="positional"):
        kind(model, "mse", 3)
