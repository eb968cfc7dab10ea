"""Fine-tuning: the stated objective is what is minimised, what is frozen stays, what is personal stays at home."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest

from privfed import Budget, LocalFederation
from privfed.errors import DataError, UsageError
from privfed.learners.neural.evaluation.early_stopping import EarlyStopping
from privfed.statistics.hold_out import HoldOut
from privfed.transfer import FineTuning, Stage, gradual_unfreezing, personalise
from privfed.transfer.schedule import freeze_all_but, head_of, layers_of, strengths_of

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")

torch = pytest.importorskip("torch")
nn = torch.nn

RATE = 0.3


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def silos(count: int = 4, seed: int = 0, sizes: tuple[int, ...] | None = None) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    weights = np.random.default_rng(9).standard_normal((4, 3))
    made = []
    for k in range(count):
        X = rng.standard_normal((20 if sizes is None else sizes[k], 4))
        made.append((X, (X @ weights).argmax(axis=1).astype(float)))
    return made


def federation(clients: list | None = None, **options) -> LocalFederation:
    return LocalFederation(silos() if clients is None else clients, mode="trusted", max_records=50, **options)


def pooled(source: nn.Module, clients: list, steps: int, strengths: dict[str, float]) -> dict[str, torch.Tensor]:
    """Gradient descent on `sum_k n_k/n L_k(w) + sum_j lambda_j |w_j - w0_j|^2`, by autograd on everybody's rows."""
    model = copy.deepcopy(source).double()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    X = torch.tensor(np.concatenate([one for one, _ in clients]))
    y = torch.tensor(np.concatenate([one for _, one in clients])).long()
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(X), y)
        loss = loss + sum(
            strength * (value - start[name]).square().sum()
            for name, value in model.named_parameters()
            for strength in [strengths.get(name, 0.0)]
        )
        model.zero_grad()
        loss.backward()
        with torch.no_grad():
            for value in model.parameters():
                value -= RATE * value.grad
    return {name: value.detach() for name, value in model.named_parameters()}


def test_it_is_pooled_descent_on_the_stated_objective() -> None:
    """One full-batch step a round: clients of unequal sizes weigh by their rows, and each tensor has its own pull."""
    clients, source = silos(sizes=(3, 30, 12, 7)), network()
    proximal = {"2.*": 0.02, "0.weight": 0.4}
    tuned = FineTuning(
        source,
        rounds=6,
        training={"learning_rate": RATE, "batch_size": None},
        proximal=proximal,
        dtype="float64",
        random_state=0,
    ).fit(federation(clients))
    expected = pooled(source, clients, 6, {"2.weight": 0.02, "2.bias": 0.02, "0.weight": 0.4})
    for name, value in tuned.model_.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=1e-10)
    free = pooled(source, clients, 6, {})
    assert max((expected[name] - free[name]).abs().max() for name in free) > 1e-3


def test_per_record_gradients_take_the_proximal_step() -> None:
    """Forward-backward splitting: a step down the loss, then the exact prox of the pull."""
    clients, source = silos(), network()
    tuned = FineTuning(
        source,
        rounds=4,
        learner="sgd",
        training={"learning_rate": RATE, "clip": 1e6, "expected_records": 80},
        proximal=0.2,
        dtype="float64",
    ).fit(federation(clients))
    model = copy.deepcopy(source).double()
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    X = torch.tensor(np.concatenate([one for one, _ in clients]))
    y = torch.tensor(np.concatenate([one for _, one in clients])).long()
    for _ in range(4):
        model.zero_grad()
        nn.functional.cross_entropy(model(X), y).backward()
        with torch.no_grad():
            for name, value in model.named_parameters():
                value -= RATE * value.grad
                value.copy_((value + 2 * RATE * 0.2 * start[name]) / (1 + 2 * RATE * 0.2))
    for name, value in tuned.model_.named_parameters():
        torch.testing.assert_close(value.detach(), dict(model.named_parameters())[name].detach(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("learner", ["averaging", "sgd"])
def test_a_strong_pull_holds_the_source(learner: str) -> None:
    source = network()
    settings = {"averaging": {"learning_rate": 0.01, "batch_size": None}, "sgd": {"learning_rate": 0.3}}[learner]
    moved = {}
    for strength in (0.0, 30.0):
        tuned = FineTuning(source, rounds=8, learner=learner, training=settings, proximal=strength).fit(federation())
        pairs = zip(tuned.model_.parameters(), source.parameters(), strict=True)
        moved[strength] = math.sqrt(sum(float((a - b).detach().square().sum()) for a, b in pairs))
    assert 0.0 < moved[30.0] < moved[0.0] / 2


def changed(tuned: FineTuning, source: nn.Module) -> set[str]:
    old = dict(source.named_parameters())
    return {name for name, value in tuned.model_.named_parameters() if not torch.equal(value, old[name])}


def test_what_is_frozen_stays() -> None:
    source = network()
    tuned = FineTuning(source, rounds=2, mode="head", random_state=0).fit(federation())
    assert changed(tuned, source) == {"2.weight", "2.bias"}
    tuned = FineTuning(source, rounds=2, stages=[Stage(1, ("0.bias",)), Stage(1, ("2.bias",))]).fit(federation())
    assert changed(tuned, source) == {"0.bias", "2.bias"}
    assert [(row["stage"], row["round"]) for row in tuned.history_] == [(0, 1), (1, 1)]


def test_gradual_unfreezing_goes_from_the_head_down() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU()), nn.Linear(2, 2))
    assert layers_of(model) == ("0", "1", "2.0", "3")
    assert head_of(model) == "3.*"
    stages = gradual_unfreezing(model, 10)
    assert [stage.rounds for stage in stages] == [3, 3, 2, 2]
    assert stages[1].trainable == ("3.*", "2.0.*")
    assert stages[-1].trainable == ("*",)
    seen = []
    for stage in stages:
        freeze_all_but(model, stage.trainable, [name for name, _ in model.named_parameters()])
        seen.append(sum(value.requires_grad for value in model.parameters()))
    assert seen == [2, 4, 6, 8]
    assert gradual_unfreezing(model, 1) == (Stage(1),)
    assert gradual_unfreezing(model, 6, stages=2) == (Stage(3, ("3.*",)), Stage(3))


def test_adapters_send_little_and_leave_a_plain_model() -> None:
    source = network()
    tuned = FineTuning(source, rounds=3, mode="adapters", rank=2, training={"learning_rate": 0.5}).fit(federation())
    assert str(tuned.model_) == str(source)
    assert tuned.learners_[0].parameters_.size == 5 * 2 + 3 * 5 + 3
    change = tuned.model_[0].weight - source[0].weight
    assert np.linalg.matrix_rank(change.detach().numpy(), tol=1e-6) == 2
    assert torch.equal(tuned.model_[0].bias, source[0].bias)


def test_personal_heads_stay_at_home() -> None:
    """Clients whose labels contradict each other: only heads of their own can serve both."""
    clients = silos(4)
    flipped = [(X, y if k % 2 else 2.0 - y) for k, (X, y) in enumerate(clients)]
    homes: dict[str, dict] = {f"client {k}": {} for k in range(4)}
    source = network()
    rows = LocalFederation(
        {f"client {k}": one for k, one in enumerate(flipped)}, mode="trusted", max_records=50, memories=homes
    )
    tuned = FineTuning(
        source, rounds=25, personal="2.*", training={"learning_rate": 0.5, "local_epochs": 4}, random_state=0
    ).fit(rows)
    assert changed(tuned, source) == {"0.weight", "0.bias"}
    own, shared = [], []
    for k, (X, y) in enumerate(flipped):
        inputs = torch.tensor(X, dtype=torch.float32)
        personal = tuned.personal_model(homes[f"client {k}"])
        own.append(float((personal(inputs).argmax(dim=1).numpy() == y).mean()))
        shared.append(float((tuned.predict(X) == y).mean()))
    assert np.mean(own) > 0.9
    assert np.mean(shared) < 0.7
    with pytest.raises(UsageError, match="no parameters of the model"):
        tuned.personal_model({})


def test_cycles_move_the_anchor() -> None:
    source = network()
    settings = {"rounds": 4, "training": {"learning_rate": 0.3, "batch_size": None}, "proximal": 1.0}
    once = FineTuning(source, **settings, dtype="float64").fit(federation())
    twice = FineTuning(source, **settings, cycles=2, dtype="float64").fit(federation())
    again = FineTuning(once.model_, **settings, dtype="float64").fit(federation())
    for one, other in zip(twice.model_.parameters(), again.model_.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
    assert {row["cycle"] for row in twice.history_} == {0, 1}


def test_the_source_is_left_as_it_was() -> None:
    source = network()
    source[0].weight.requires_grad_(False)
    before = copy.deepcopy(source.state_dict())
    tuned = FineTuning(source, rounds=1).fit(federation())
    assert all(torch.equal(before[name], value) for name, value in source.state_dict().items())
    assert source.training
    assert not source[0].weight.requires_grad
    assert torch.equal(tuned.model_[0].weight, source[0].weight)  # what its owner froze stays frozen


class TestComparison:
    def clients(self) -> list:
        return silos(5, sizes=(48,) * 5)

    def test_transfer_that_helps(self) -> None:
        clients = self.clients()
        X, y = (np.concatenate(parts) for parts in zip(*clients, strict=True))
        source = personalise(network(), X, y, proximal=0.0, epochs=60, learning_rate=0.5)
        tuned = FineTuning(
            source,
            rounds=2,
            training={"learning_rate": 0.02},
            compare_with=("source", "scratch"),
            hold_out=0.3,
            random_state=1,
        ).fit(federation(clients))
        found = tuned.comparison_
        assert found.verdict("scratch") == "better"
        assert found.verdict("source") == "undecided"
        assert found.negative_transfer is None
        assert found["tuned"].accuracy.value > 0.9
        assert found.held_out
        assert "better" in str(found)
        assert found.as_dict()["gains"]["scratch"]["verdict"] == "better"

    def test_transfer_that_harms_is_told(self) -> None:
        """A source that is sure of the wrong answers, and hardly any rounds to unlearn them."""
        clients = self.clients()
        X, y = (np.concatenate(parts) for parts in zip(*clients, strict=True))
        source = personalise(network(), X, (y + 1) % 3, proximal=0.0, epochs=100, learning_rate=0.5)
        tuned = FineTuning(
            source,
            rounds=8,
            training={"learning_rate": 0.5, "local_epochs": 3},
            proximal=0.05,
            compare_with="scratch",
            hold_out=0.3,
            random_state=1,
        ).fit(federation(clients))
        assert tuned.comparison_.verdict("scratch") == "worse"
        assert tuned.comparison_.negative_transfer is True

    def test_all_of_it_fits_the_budget(self) -> None:
        rows = federation(self.clients(), budget=Budget(8.0, 1e-5), noise_seed=1)
        tuned = FineTuning(
            network(), rounds=3, learner="sgd", compare_with=("source", "scratch"), check_share=0.2, hold_out=0.3
        ).fit(rows)
        assert rows.remaining_share == pytest.approx(0.0, abs=1e-6)
        assert tuned.epsilon_["server"] == pytest.approx(8.0, rel=0.01)
        assert tuned.comparison_.share == 0.2
        assert tuned.comparison_["tuned"].accuracy.standard_error > 0
        purposes = [record.plan.purpose for record in rows.ledger.rounds()]
        assert purposes[-3:] == ["compare: tuned", "compare: source", "compare: scratch"]

    @pytest.mark.filterwarnings("ignore:noise will drown")
    def test_client_level_averaging_fits_the_budget(self) -> None:
        rows = federation(self.clients(), budget=Budget(8.0, 1e-5, unit="client"), noise_seed=1)
        tuned = FineTuning(network(), rounds=3, mode="gradual", training={"clip": 0.5}, share=0.6).fit(rows)
        assert rows.remaining_share == pytest.approx(0.4, abs=1e-6)
        assert len(tuned.history_) == 3
        assert tuned.comparison_ is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": 3}, "expected a torch.nn.Module"),
        ({"mode": "some"}, "mode is 'some'"),
        ({"learner": "adam"}, "learner is 'adam'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"cycles": 0}, "cycles is 0"),
        ({"learner": "sgd", "personal": "2.*"}, "personal parameters need"),
        ({"compare_with": "nothing"}, "compare_with is"),
        ({"training": {"rounds": 3, "share": 0.1}}, "training holds rounds, share"),
        ({"mode": "adapters", "stages": [Stage(1)]}, "leave stages= out"),
        ({"mode": "adapters", "rank": 2, "personal": "0.*"}, "personal= names adapters, 0.up.weight"),
        ({"stages": ["*"]}, "at least one Stage"),
        ({"proximal": -1.0}, "proximal strength of '\\*' is -1.0"),
        ({"proximal": {"tail.*": 1.0}}, "matches proximal 'tail"),
        ({"head": "tail.*", "mode": "head"}, "no parameter's name matches"),
        ({"share": 2.0}, "training would get"),
        ({"check_share": 0.0, "compare_with": "source"}, "check_share is 0.0"),
    ],
)
def test_wrong_settings_are_refused_and_cost_nothing(arguments: dict, message: str) -> None:
    rows = federation(budget=Budget(1.0, 1e-6, unit="client"))
    with pytest.raises(UsageError, match=message):
        FineTuning(**({"source": network(), "rounds": 2} | arguments)).fit(rows)
    assert rows.remaining_share == 1.0


def test_it_takes_federations_only_and_predicts_once_fitted() -> None:
    with pytest.raises(UsageError, match="fit takes a federation"):
        FineTuning(network()).fit(np.zeros((3, 5)))
    with pytest.raises(AttributeError, match="not fitted"):
        FineTuning(network()).predict(np.zeros((1, 4)))
    tuned = FineTuning(network(), rounds=1).fit(federation())
    with pytest.raises(UsageError, match="X has 5 features, FineTuning expects 4"):
        tuned.predict(np.zeros((1, 5)))


@pytest.mark.parametrize("mode", ["all", "head", "adapters"])
def test_what_it_predicts_and_scores_is_what_the_tuned_model_says(mode: str) -> None:
    tuned = FineTuning(network(), rounds=2, mode=mode, rank=1, random_state=0).fit(federation())
    X, y = np.random.default_rng(0).normal(size=(50, 4)), np.random.default_rng(1).integers(0, 3, 50)
    with torch.no_grad():
        outputs = tuned.model_(torch.tensor(X, dtype=torch.float32)).double().numpy()
    np.testing.assert_array_equal(tuned.decision_function(X), outputs)
    np.testing.assert_array_equal(tuned.predict(X), outputs.argmax(axis=1))
    assert tuned.score(X, y) == np.mean(outputs.argmax(axis=1) == y)
    assert tuned.n_rounds_ == len(tuned.history_) == 2


def test_models_of_numbers_predict_numbers_and_score_by_their_loss() -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(30, 4)) for _ in range(3)]
    rows = LocalFederation([(X, X @ np.array([1.0, -1.0, 0.5, 0.0])) for X in parts], mode="trusted")
    tuned = FineTuning(torch.nn.Linear(4, 1), "mse", rounds=20, training={"learning_rate": 0.2}).fit(rows)
    predicted = tuned.predict(parts[0])
    y = parts[0] @ np.array([1.0, -1.0, 0.5, 0.0])
    assert predicted.shape == (30,)
    assert tuned.score(parts[0], y) == pytest.approx(-np.mean((predicted - y) ** 2), rel=1e-5)
    assert tuned.score(parts[0], y) > -0.05
    yes = FineTuning(torch.nn.Linear(4, 1), "binary_cross_entropy", rounds=1).fit(
        LocalFederation([(X, (X[:, 0] > 0).astype(float)) for X in parts], mode="trusted")
    )
    assert set(np.unique(yes.predict(parts[0]))) <= {0, 1}


def test_its_settings_are_those_of_an_estimator() -> None:
    assert FineTuning(network(), rounds=7).get_params()["rounds"] == 7


def test_strengths_go_by_the_first_pattern() -> None:
    names = ["a.weight", "a.bias", "b.weight"]
    np.testing.assert_allclose(strengths_of(names, {"a.weight": 2.0, "a.*": 1.0}), [2.0, 1.0, 0.0])
    np.testing.assert_allclose(strengths_of(names, 0.5), 0.5)


class TestPersonalise:
    X, y = silos(1, seed=4, sizes=(60,))[0]

    def accuracy(self, model: nn.Module) -> float:
        return float((model(torch.tensor(self.X, dtype=torch.float32)).argmax(dim=1).numpy() == self.y).mean())

    def test_it_fits_the_client(self) -> None:
        model = network()
        own = personalise(model, self.X, self.y, proximal=0.0, epochs=60, learning_rate=0.5)
        assert self.accuracy(own) > 0.9 > self.accuracy(model)
        assert not own.training

    def test_the_pull_is_towards_the_shared_model(self) -> None:
        """Full batches: the same as gradient descent on the objective."""
        model = network()
        own = personalise(
            model, self.X, self.y, proximal=0.3, epochs=5, learning_rate=RATE, batch_size=None, dtype="float64"
        )
        names = [name for name, _ in model.named_parameters()]
        expected = pooled(model, [(self.X, self.y)], 5, dict.fromkeys(names, 0.3))
        for name, value in own.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=1e-12)

    def test_only_what_is_named_is_tuned(self) -> None:
        model = network()
        own = personalise(model, self.X, self.y, trainable="2.*")
        assert torch.equal(own[0].weight, model[0].weight)
        assert not torch.equal(own[2].weight, model[2].weight)
        assert all(value.requires_grad for value in own.parameters())

    @pytest.mark.parametrize(
        ("X", "y", "options", "error", "message"),
        [
            (np.zeros((0, 4)), np.zeros(0), {}, DataError, "at least one"),
            (np.zeros((3, 4)), np.zeros(2), {}, DataError, "as many rows"),
            (np.full((1, 4), np.nan), np.zeros(1), {}, DataError, "NaN or infinity"),
            (np.zeros((1, 4)), np.full(1, 3.0), {}, DataError, "no classes"),
            (np.ones((1, 4)), np.zeros(1), {"learning_rate": 1e300, "dtype": "float64"}, UsageError, "lower learning"),
            (np.ones((1, 4)), np.zeros(1), {"trainable": "tail"}, UsageError, "no parameter's name"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_tuned_is_refused(self, X, y, options, error, message) -> None:
        with pytest.raises(error, match=message):
            personalise(network(), X, y, **options)


# --- the comparison is checked before training is paid for ------------------------------------------------------------


def numbers(count: int = 4) -> list[tuple[np.ndarray, np.ndarray]]:
    return [(X, X.sum(axis=1)) for X, _ in silos(count)]


def test_a_comparison_of_models_of_numbers_is_cut_to_the_bound_that_is_given() -> None:
    clients = federation(numbers(), budget=Budget(8.0, 1e-5), noise_seed=1)
    source = nn.Linear(4, 1)
    settings = {"rounds": 2, "learner": "sgd", "training": {"expected_records": 60}, "compare_with": "source"}
    with pytest.raises(UsageError, match="largest_loss"):
        FineTuning(source, "mse", hold_out=0.2, **settings).fit(clients)
    assert clients.remaining_share == 1.0
    tuned = FineTuning(source, "mse", hold_out=0.2, largest_loss=9.0, **settings).fit(clients)
    figures = tuned.comparison_["source"]
    assert 0.0 <= figures.loss.value <= 9.0
    assert figures.accuracy is None


def test_a_loss_of_ones_own_is_compared_by_what_the_model_gives() -> None:
    def squares(outputs, targets):
        return (outputs - targets).square().mean(dim=1)

    tuned = FineTuning(nn.Linear(4, 1), squares, rounds=1, compare_with="source", random_state=0)
    assert tuned.fit(federation(numbers())).comparison_["tuned"].accuracy is None


@pytest.mark.filterwarnings("ignore:the evaluation after")
def test_stages_that_end_with_an_evaluation_each_are_all_provided_for() -> None:
    clients = federation(budget=Budget(8.0, 1e-5, unit="client"), noise_seed=1)
    stages = [Stage(1)] * 4
    stopper = EarlyStopping(every=3, share=0.1, patience=9)
    tuned = FineTuning(network(), stages=stages, callbacks=stopper, random_state=0)
    tuned.fit(HoldOut(0.3).training(clients))
    assert len(tuned.history_) == 4
    assert 0.0 <= clients.remaining_share < 1e-6
