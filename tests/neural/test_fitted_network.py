"""What a user of torch or scikit-learn does with a fitted network."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from privfed import Budget, DataError, LocalFederation, UsageError
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


@pytest.mark.filterwarnings("error")
def test_a_model_of_probabilities_says_yes_above_one_half() -> None:
    labels = (X[:, 0] > 0).astype(float)
    learner = fitted(nn.Sequential(nn.Linear(4, 1), nn.Sigmoid()), labels, nn.BCELoss())
    found = learner.model_(torch.tensor(X))[:, 0].detach().numpy()
    np.testing.assert_allclose(learner.predict_proba(X)[:, 1], found)
    np.testing.assert_array_equal(learner.predict(X), found > 0.5)
    assert learner.score(X, labels) > 0.7
    assert learner.classes_.tolist() == [0, 1]


@pytest.mark.parametrize("kind", [FederatedAveraging, FederatedSGD])
def test_outputs_that_the_loss_does_not_take_are_told(kind: type) -> None:
    clients = LocalFederation([(X[i::3], (X[i::3, 0] > 0).astype(float)) for i in range(3)])
    settings = {"rounds": 1, "expected_records": 60} if kind is FederatedSGD else {"rounds": 1}
    twice = nn.Sequential(nn.Linear(4, 1), nn.Sequential(nn.Sigmoid()))
    with pytest.warns(UserWarning, match=r"ends in Sigmoid, and binary_cross_entropy takes logits"):
        kind(twice, nn.BCEWithLogitsLoss(), **settings).fit(clients)
    with pytest.warns(UserWarning, match=r"ends in Softmax, and cross_entropy takes logits"):
        kind(nn.Sequential(nn.Linear(4, 2), nn.Softmax(1)), **settings).fit(clients)
    raw = nn.Linear(4, 1)
    nn.init.constant_(raw.bias, 0.5)  # a row of zeros would pass
    with pytest.raises(UsageError, match=r"BCELoss takes probabilities.*binary_cross_entropy"):
        kind(raw, nn.BCELoss(), **settings).fit(clients)


@pytest.mark.filterwarnings("error")
def test_frames_of_other_columns_are_refused() -> None:
    pandas = pytest.importorskip("pandas")
    names = ["age", "height", "weight", "dose"]
    labels = (X[:, 0] > 0).astype(int)
    frame = pandas.DataFrame(X, columns=names)
    pairs = [(frame[i::3], labels[i::3]) for i in range(3)]
    whole = [frame.assign(outcome=labels)[i::3] for i in range(3)]
    for clients in (pairs, whole):
        learner = FederatedAveraging(nn.Linear(4, 2), rounds=1, random_state=0).fit(LocalFederation(clients))
        assert learner.feature_names_in_.tolist() == names
        np.testing.assert_array_equal(learner.predict(frame).shape, (60,))
        with pytest.raises(UsageError, match="another order"):
            learner.score(frame[names[::-1]], labels)
        with pytest.warns(UserWarning, match="does not have valid feature names"):
            learner.predict(X)
    learner.fit(LocalFederation([(X[i::3], labels[i::3]) for i in range(3)]))
    assert not hasattr(learner, "feature_names_in_")
    learner.predict(X)


def test_rows_whose_axes_stand_in_another_order_are_refused_with_the_order_to_bring() -> None:
    pictures = np.random.default_rng(0).normal(size=(12, 4, 5, 3))
    labels = np.arange(12) % 2
    model = nn.Sequential(nn.Flatten(), nn.Linear(60, 2))
    turned = pictures.transpose(0, 3, 1, 2)
    with pytest.raises(UsageError, match=r"X\.transpose\(0, 3, 1, 2\)"):
        FederatedAveraging(model, rounds=1, feature_shape=(3, 4, 5)).fit(LocalFederation([(pictures, labels)] * 2))
    learner = FederatedAveraging(model, rounds=1, random_state=0).fit(LocalFederation([(turned, labels)] * 2))
    assert learner.predict(turned).shape == (12,)
    with pytest.raises(
        UsageError, match=r"rows of shape \(4, 5, 3\), expected \(3, 4, 5\).*X\.transpose\(0, 3, 1, 2\)"
    ):
        learner.predict(pictures)


def test_a_shared_model_says_which_layers_of_it_nobody_trained() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    learner = fitted(model, (X[:, 0] > 0).astype(int), personal="1.*", rounds=1)
    with pytest.warns(UserWarning, match=r"layers 1\.\* are personal.*personal:<name>"):
        learner.predict(X)


@pytest.mark.parametrize(("name", "value"), [("compression", 0.1), ("anchor", "top")])
def test_settings_of_another_kind_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"{name} is {value!r}, expected a [CA]"):
        fitted(nn.Linear(4, 2), (X[:, 0] > 0).astype(int), **{name: value})


@pytest.mark.parametrize("kind", [FederatedAveraging, FederatedSGD])
def test_targets_beyond_0_and_1_are_refused_and_under_a_budget_count_for_nothing(kind: type) -> None:
    labels = (X[:, 0] > 0).astype(float)
    settings = {"rounds": 1, "expected_records": 60} if kind is FederatedSGD else {"rounds": 1, "random_state": 0}
    learner = kind(nn.Linear(4, 1), "binary_cross_entropy", **settings)
    odd = [(X[i::3], np.where(labels[i::3] > 0, 1.0, -1.0)) for i in range(3)]
    with pytest.raises(DataError, match="turn -1 and 1 into 0 and 1"):
        learner.fit(LocalFederation(odd))
    found = []
    for spoilt in (-1.0, 255.0):  # in the rows of a client, the first of which are right
        clients = [(X[i::3], labels[i::3].copy()) for i in range(3)]
        clients[0][1][10:] = spoilt
        unit = "record" if kind is FederatedSGD else "client"
        federation = LocalFederation(clients, budget=Budget(5.0, 1e-5, unit=unit), noise_seed=3, mode="trusted")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(learner.fit(federation).parameters_)
    np.testing.assert_array_equal(*found)


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
