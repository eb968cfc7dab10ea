"""Models are tried on rows that belong to nobody, of a kind that they take, before anything is charged."""

from __future__ import annotations

import numpy as np
import pytest

from privfed import Budget, LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging, FederatedSGD
from privfed.learners.neural.evaluation.evaluation import evaluate
from privfed.learners.neural.per_sample.engines import steady
from privfed.learners.neural.per_sample.public_rows import PublicRows, public_rows
from privfed.learners.neural.program import TorchProgram

torch = pytest.importorskip("torch")


class Words(torch.nn.Module):
    """Numbers of words, as rows hold them: floating-point columns."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(words, 4)
        self.head = torch.nn.Linear(4, 2)

    def forward(self, rows):
        return self.head(self.table(rows.long()).mean(dim=1))


class Logarithm(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, rows):
        return self.head(torch.log(rows))


class Never(torch.nn.Module):
    """Numbers on nothing but what nobody thinks of."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, rows):
        return self.head(torch.log(rows - 1000.0))


def made(kind, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*arguments)


def program(model) -> TorchProgram:
    return TorchProgram(model, feature_shape=(3,))


def clients(low: float, high: float, *, whole: bool = False) -> dict:
    rng = np.random.default_rng(0)
    found = {}
    for number in range(3):
        X = rng.uniform(low, high, size=(30, 3))
        X = np.floor(X) if whole else X
        found[f"c{number}"] = (X, (X[:, 0] > X.mean()).astype(float))
    return found


@pytest.mark.parametrize(
    ("model", "kind", "wild"),
    [
        (made(torch.nn.Linear, 3, 2), "normal", True),
        (made(Words, 50), "digits", False),
        (made(Words, 2), "bits", False),
        (made(Logarithm), "positive", True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_public_rows_are_of_a_kind_that_the_model_takes(model, kind, wild) -> None:
    found = PublicRows(program(model))
    assert (found.kind, found.suits, found.wild) == (kind, True, wild)
    rows = public_rows(program(model), 8, wild=8)
    assert rows.shape == (16, 4)
    assert set(rows[:, 3]) <= {0.0, 1.0}
    assert (np.abs(rows[8:, :3]).max() > 1e4) is np.bool_(wild)


def test_a_model_that_takes_no_such_rows_says_so() -> None:
    found = PublicRows(program(made(Never)))
    assert not found.suits
    assert not found.finite
    assert "not finite" in found.trouble


@pytest.mark.parametrize(
    ("model", "data"),
    [(made(Words, 20), clients(0, 20, whole=True)), (made(Logarithm), clients(0.1, 5.0))],
    ids=["words", "logarithm"],
)
def test_models_of_words_and_of_positive_numbers_are_evaluated(model, data) -> None:
    found = evaluate(LocalFederation(data), model, metrics=("loss", "accuracy"))
    X, y = np.concatenate([X for X, _ in data.values()]), np.concatenate([y for _, y in data.values()])
    with torch.no_grad():
        outputs = model(torch.tensor(X, dtype=torch.float32))
    expected = torch.nn.functional.cross_entropy(outputs, torch.tensor(y).long())
    assert float(found.loss) == pytest.approx(float(expected), abs=1e-5)
    assert float(found.accuracy) == pytest.approx(float((outputs.argmax(1).numpy() == y).mean()), abs=1e-6)


def test_a_model_of_words_learns_by_gradients_per_record() -> None:
    federation = LocalFederation(clients(0, 20, whole=True), budget=Budget(30.0, 1e-5), noise_seed=1)
    learner = FederatedSGD(made(Words, 20), rounds=3, expected_records=90.0, learning_rate=1.0).fit(federation)
    moved = learner.parameters_ - program(made(Words, 20)).parameters()
    assert np.abs(moved).max() > 0.01


def test_rows_beyond_what_public_rows_show_go_one_at_a_time_in_evaluation() -> None:
    data = clients(1001.0, 1010.0)
    model = made(Never)
    found = evaluate(LocalFederation(data), model, metrics="loss")
    X, y = np.concatenate([X for X, _ in data.values()]), np.concatenate([y for _, y in data.values()])
    with torch.no_grad():
        outputs = model(torch.tensor(X, dtype=torch.float32))
    expected = torch.nn.functional.cross_entropy(outputs, torch.tensor(y).long())
    assert float(found.loss) == pytest.approx(float(expected), abs=1e-5)


def test_gradients_of_a_model_that_takes_no_public_rows_are_refused_with_the_reason() -> None:
    federation = LocalFederation(clients(1001.0, 1010.0), budget=Budget(5.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match=r"public rows.*not finite"):
        FederatedSGD(made(Never), rounds=3, expected_records=90.0).fit(federation)
    with pytest.raises(UsageError, match=r"public rows.*not finite"):
        FederatedSGD(made(Never), rounds=3, expected_records=90.0).plan(federation)
    assert federation.remaining_share == 1.0


class Picky(torch.nn.Module):
    """Takes the row of zeros on which shapes are found, and no other."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, rows):
        if len(rows) > 1 or bool((rows != 0).any()):
            raise ValueError("not these")
        return self.head(rows)


def test_what_cannot_be_evaluated_is_refused_before_it_is_charged() -> None:
    federation = LocalFederation(clients(0, 1), budget=Budget(5.0, 1e-5), noise_seed=1)
    with pytest.raises(UsageError, match="Python code decides by the numbers"):
        evaluate(federation, made(Picky), share=0.2)
    assert federation.remaining_share == 1.0
    assert not federation.ledger.rounds()


class Trains(torch.nn.Module):
    """Fails in training mode alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward(self, rows):
        if self.training:
            raise RuntimeError("not while training")
        return self.head(rows)


def constant(outputs, targets):
    return targets[:, 0] * 0.0


@pytest.mark.parametrize(
    ("model", "settings", "match"),
    [
        (made(Trains), {}, "RuntimeError: not while training"),
        (made(Picky), {}, "ValueError: not these"),
        (made(torch.nn.Linear, 3, 1), {"loss": constant}, "RuntimeError: .*grad"),
        (made(torch.nn.Linear, 3, 1), {"loss": torch.nn.BCELoss()}, "BCELoss"),
        (made(torch.nn.Linear, 3, 1), {"loss": torch.nn.functional.mse_loss}, "reduction='none'"),
    ],
)
def test_averaging_refuses_what_cannot_train_before_anything_is_spent(model, settings, match) -> None:
    federation = LocalFederation(clients(0, 1), budget=Budget(5.0, 1e-5, unit="client"), noise_seed=1)
    for attempt in (lambda learner: learner.fit(federation), lambda learner: learner.plan(federation)):
        with pytest.raises(UsageError, match=match):
            attempt(FederatedAveraging(model, rounds=2, **settings))
    assert federation.remaining_share == 1.0
    assert not federation.ledger.rounds()


def test_averaging_trains_words_and_logarithms_and_what_public_rows_do_not_suit() -> None:
    for model, data in (
        (made(Words, 20), clients(0, 20, whole=True)),
        (made(Logarithm), clients(0.1, 5.0)),
        (made(Never), clients(1001.0, 1010.0)),
    ):
        trained = FederatedAveraging(model, rounds=1, random_state=0).fit(LocalFederation(data, mode="trusted"))
        assert trained.history_[0]["contributed"] == 3


def test_nan_in_the_same_places_is_the_same_row() -> None:
    def constant(which):
        return (torch.full((len(which), 2), torch.nan),)

    def counted(which):
        counted.calls += 1
        return (torch.full((len(which), 2), torch.nan if counted.calls == 1 else 1.0),)

    counted.calls = 0
    assert steady(constant, 8, 8)
    assert not steady(counted, 8, 8)
