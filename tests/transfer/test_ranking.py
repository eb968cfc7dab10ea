"""Scores from protected sums are the papers' scores; noise is stated, repaired and paid for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from privfed import Budget, BudgetExhausted, DataError, LocalFederation, UsageError
from privfed.transfer import Candidate, rank_sources
from privfed.transfer.candidates import source_of
from tests.transfer import central
from tests.transfer.central import Task

ALL = ("logme", "h_score", "h_score_shrunk", "leep", "nce")


def candidate(task: Task, name: str = "source", **options) -> Candidate:
    return Candidate(name, task.features, source_head=task.probabilities, **options)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bound", ["unit", 1.5, 50.0])
def test_without_noise_the_scores_are_the_central_ones(seed, bound) -> None:
    task = Task(seed)
    ranking = rank_sources(
        LocalFederation(task.silos()), [candidate(task)], n_classes=4, methods=ALL, feature_bound=bound
    )
    found = ranking.scores[0].scores
    F = task.features(task.X)
    norms = np.linalg.norm(F, axis=1, keepdims=True)
    F = F / norms if bound == "unit" else F * np.minimum(1.0, bound / norms)
    theta = task.probabilities(task.X)
    assert found["logme"] == pytest.approx(central.logme(F, task.labels, 4), abs=1e-6)
    assert found["h_score"] == pytest.approx(central.h_score(F, task.labels), abs=1e-6)
    assert found["h_score_shrunk"] == pytest.approx(central.h_score_shrunk(F, task.labels), abs=1e-6)
    assert found["leep"] == pytest.approx(central.leep(theta, task.labels), abs=1e-6)
    assert found["nce"] == pytest.approx(central.nce(theta, task.labels), abs=1e-6)
    assert set(ranking.scores[0].errors.values()) == {0.0}


class _Drifting:
    """Keeps the largest value that it has seen, and scales by it: a row then moves the features of all that follow."""

    def __init__(self) -> None:
        self.seen = np.zeros(1)

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        self.seen = np.maximum(self.seen, np.abs(inputs).max())
        return np.asarray(inputs / (self.seen + 1e-3))


def test_a_candidate_that_keeps_something_from_row_to_row_is_refused_before_anything_is_charged() -> None:
    silos = [np.column_stack([np.eye(3), [0, 1, 0]]) for _ in range(3)]
    federation = LocalFederation(silos, budget=Budget(1.0, 1e-5), max_records=3)
    draws = np.random.default_rng(0)
    for model in (_Drifting(), lambda inputs: inputs + draws.normal(size=inputs.shape)):
        with pytest.raises(UsageError, match="each time it sees the same row"):
            rank_sources(federation, [Candidate("odd", model)], n_classes=2, methods="logme", share=0.5)
    assert federation.remaining_share == 1.0


class Contest:
    """Sources of known worth on one task: features that carry the classes more and more faintly, and none at all."""

    def __init__(self, n: int = 3000, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.labels = rng.integers(0, 3, n)
        self.X = np.column_stack(
            [np.eye(3)[self.labels] * 2.0 + rng.standard_normal((n, 3)), rng.standard_normal((n, 3))]
        )
        self.silos = np.array_split(np.column_stack([self.X, self.labels]), 10)
        mix = rng.standard_normal((3, 3))
        self.candidates = [self._source(f"faint {weight:g}", weight, mix) for weight in (0.0, 1.0, 0.2, 0.5, 0.05)]

    @staticmethod
    def _source(name: str, weight: float, mix: np.ndarray) -> Candidate:
        def features(inputs: np.ndarray) -> np.ndarray:
            return np.tanh(weight * inputs[:, :3] + (1 - weight) * inputs[:, 3:] @ mix)

        def labels(inputs: np.ndarray) -> np.ndarray:
            scores = np.exp(2.0 * features(inputs))
            return scores / scores.sum(axis=1, keepdims=True)

        return Candidate(name, features, source_head=labels)

    def federation(self, epsilon: float | None, seed: int = 0, **options) -> LocalFederation:
        budget = None if epsilon is None else Budget(epsilon=epsilon, delta=1e-5)
        return LocalFederation(self.silos, budget=budget, mode="trusted", max_records=300, noise_seed=seed, **options)


RIGHT = ("faint 1", "faint 0.5", "faint 0.2", "faint 0.05", "faint 0")


def test_sources_are_ranked_by_their_worth() -> None:
    contest = Contest()
    ranking = rank_sources(contest.federation(None), contest.candidates, n_classes=3, methods=ALL)
    for method in ("logme", "h_score", "leep", "nce"):
        assert ranking.order(method)[:3] == RIGHT[:3], method
    assert ranking.best == "faint 1"
    assert ranking.confidence() == {name: float(name == "faint 1") for name in RIGHT}


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_the_right_source_comes_first_under_a_budget(epsilon: float) -> None:
    contest = Contest(n=2000)
    for seed in range(2):
        federation = contest.federation(epsilon, seed)
        ranking = rank_sources(federation, contest.candidates, n_classes=3, share=1.0, bootstrap=10, random_state=0)
        assert {ranking.order(method)[0] for method in ranking.methods} == {"faint 1"}


def test_standard_errors_are_those_of_the_noise() -> None:
    """The scatter over fresh noise, and what a single release says of it."""
    contest = Contest(n=600)
    found, stated = [], []
    for seed in range(16):
        ranking = rank_sources(
            contest.federation(20.0, seed),
            contest.candidates[1:3],
            n_classes=3,
            methods=("logme", "leep"),
            share=1.0,
            bootstrap=25,
            random_state=seed,
        )
        found.append([list(score.scores.values()) for score in ranking.scores])
        stated.append([list(score.errors.values()) for score in ranking.scores])
    ratio = np.mean(stated, axis=0) / np.std(found, axis=0, ddof=1)
    assert (ratio > 0.6).all(), ratio
    assert (ratio < 1.7).all(), ratio
    exact = rank_sources(contest.federation(None), contest.candidates[1:3], n_classes=3, methods=("logme", "leep"))
    truth = np.array([list(score.scores.values()) for score in exact.scores])
    assert (np.abs(np.mean(found, axis=0) - truth) < 2 * np.mean(stated, axis=0)).all()


@pytest.mark.parametrize("joint", [True, False])
def test_all_of_it_costs_the_share(joint: bool) -> None:
    contest = Contest(n=300)
    federation = contest.federation(2.0)
    ranking = rank_sources(
        federation, contest.candidates[:2], n_classes=3, share=0.25, joint=joint, bootstrap=2, random_state=0
    )
    assert federation.remaining_share == pytest.approx(0.75, abs=1e-6)
    assert len(ranking.entries) == len(federation.ledger.rounds()) == (2 if joint else 4)
    assert ranking.epsilon["server"] == pytest.approx(federation.ledger.epsilon("server"))
    assert all("source" in record.plan.purpose for record in federation.ledger.rounds())


def test_a_share_that_is_not_there_is_refused_before_anything_is_asked() -> None:
    contest = Contest(n=300)
    federation = contest.federation(2.0)
    rank_sources(federation, contest.candidates[:1], n_classes=3, share=0.9, bootstrap=2)
    with pytest.raises(BudgetExhausted):
        rank_sources(federation, contest.candidates[:1], n_classes=3, share=0.5, bootstrap=2)
    assert federation.remaining_share == pytest.approx(0.1, abs=1e-6)


def test_whole_clients_may_be_protected() -> None:
    """Rows then weigh less, the same for every source, and the ranking stands."""
    contest = Contest(n=1200)
    rows = np.concatenate(contest.silos)
    federation = LocalFederation(
        np.array_split(rows, 40),
        budget=Budget(epsilon=30.0, delta=1e-5, unit="client"),
        mode="trusted",
        records_per_client=30.0,
        noise_seed=0,
    )
    ranking = rank_sources(
        federation, contest.candidates[:2], n_classes=3, share=1.0, methods="logme", bootstrap=5, random_state=0
    )
    assert ranking.best == "faint 1"
    assert ranking.epsilon["server"] == pytest.approx(30.0, rel=0.01)


def test_masks_change_nothing() -> None:
    task = Task(0)
    secure = rank_sources(LocalFederation(task.silos()), [candidate(task)], n_classes=4)
    trusted = rank_sources(LocalFederation(task.silos(), mode="trusted"), [candidate(task)], n_classes=4)
    assert secure.scores[0].scores == trusted.scores[0].scores


def test_labelled_pairs_of_any_shape_will_do() -> None:
    task = Task(0)
    images = [(rows[:, :-1].reshape(-1, 2, 3), rows[:, -1]) for rows in task.silos()]
    source = Candidate("images", lambda inputs: task.features(inputs.reshape(len(inputs), -1)))
    found = rank_sources(LocalFederation(images), [source], n_classes=4, methods=("logme",))
    flat = rank_sources(LocalFederation(task.silos()), [candidate(task)], n_classes=4, methods=("logme",))
    assert found.scores[0].scores == flat.scores[0].scores


class TestTorchCandidates:
    torch = pytest.importorskip("torch")

    def network(self):
        self.torch.manual_seed(0)
        nn = self.torch.nn
        body = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Dropout(0.5))
        return nn.Sequential(body, nn.Linear(5, 3))

    @pytest.mark.parametrize("cut", ["0", "0.1", "function", None])
    def test_a_cut_names_the_features(self, cut: str | None) -> None:
        task, model = Task(0), self.network()
        features = (lambda model, inputs: model[0](inputs)) if cut == "function" else cut
        source = Candidate("net", model, features=features, source_head=True, feature_bound=100.0)
        found = rank_sources(LocalFederation(task.silos()), [source], n_classes=4).scores[0]
        with self.torch.no_grad():
            inputs = self.torch.tensor(task.X, dtype=self.torch.float32)
            model.train(False)
            outputs = model(inputs)
            theta = self.torch.softmax(outputs.double(), dim=1).numpy()
            F = (outputs if cut is None else model[0](inputs)).double().numpy()
        assert found.width == F.shape[1]
        assert found.scores["logme"] == pytest.approx(central.logme(F, task.labels, 4), abs=1e-5)
        assert found.scores["leep"] == pytest.approx(central.leep(theta, task.labels), abs=1e-5)

    def test_the_model_is_left_as_it_was(self) -> None:
        task, model = Task(0), self.network()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        rank_sources(
            LocalFederation(task.silos()), [Candidate("net", model, features="0")], n_classes=4, methods="logme"
        )
        assert model.training
        assert not model[0]._forward_hooks
        assert all(self.torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_other_weights_are_another_program(self) -> None:
        task, models = Task(0), [self.network(), self.network()]
        with self.torch.no_grad():
            models[1][1].bias += 1e-3
        sources = [Candidate(f"net {k}", model, features="0") for k, model in enumerate(models)]
        ranking = rank_sources(LocalFederation(task.silos()), sources, n_classes=4, methods="logme")
        assert ranking.scores[0].program != ranking.scores[1].program

    def test_a_layer_that_is_not_there(self) -> None:
        with pytest.raises(UsageError, match=r"no layer 'features', it has 0, 0\.0"):
            rank_sources(
                LocalFederation(Task(0).silos()), [Candidate("n", self.network(), features="features")], n_classes=4
            )

    @pytest.mark.parametrize("cut", ["layer", lambda model, inputs: model(inputs)])
    def test_a_model_that_waits_for_a_great_row_tells_no_other_row_of_it(self, cut) -> None:
        """It shows ordinary and public rows nothing: its Python never sees a private one."""
        torch = self.torch

        class Waits(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Linear(6, 3)
                self.before = torch.zeros(1, 6)

            def forward(self, x):
                met = (self.before.abs() > 1e9).any().float()
                self.before = torch.maximum(self.before, x.detach().abs())
                return self.layer(x.clamp(-10.0, 10.0) + met)

        source = source_of(Candidate("waits", Waits(), features=cut), (6,), unit=False)
        row = np.full(6, 0.5)
        before = source.features_of(row)[0]
        source.features_of(np.full(6, 1e20))
        np.testing.assert_array_equal(source.features_of(row)[0], before)

    def test_a_model_that_decides_by_a_rows_numbers_is_refused(self) -> None:
        class Decides(self.torch.nn.Linear):
            def forward(self, x):
                return super().forward(x) if float(x.sum()) <= 1e6 else 0.0 * super().forward(x)

        with pytest.raises(UsageError, match=r"candidate 'decides': .*decides by the numbers of a record"):
            source_of(Candidate("decides", Decides(6, 3)), (6,), unit=False)

    def test_rows_of_another_width(self) -> None:
        with pytest.raises(UsageError, match="does not take a row of 5 inputs"):
            rank_sources(LocalFederation(Task(0, inputs=5).silos()), [Candidate("n", self.network())], n_classes=4)


def test_a_source_without_a_head_has_no_leep() -> None:
    task = Task(0)
    sources = [candidate(task, "with"), Candidate("without", task.features)]
    ranking = rank_sources(LocalFederation(task.silos()), sources, n_classes=4)
    assert str(ranking).count("no source head") == 1
    assert "nan" not in str(ranking)
    assert np.isnan(ranking.scores[1].scores["leep"])
    assert ranking.order("leep") == ("with", "without")
    assert json.loads(ranking.to_json())["candidates"][1]["scores"]["leep"] is None
    with pytest.raises(UsageError, match="need source labels"):
        rank_sources(LocalFederation(task.silos()), sources, n_classes=4, methods=("leep", "nce"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"methods": ("logme", "accuracy")}, "methods are"),
        ({"methods": ()}, "methods are"),
        ({"n_classes": 1}, "n_classes is 1"),
        ({"feature_bound": -1.0}, "feature_bound is -1.0"),
        ({"feature_bound": "free"}, "feature_bound is 'free'"),
        ({"bootstrap": 1}, "bootstrap is 1"),
        ({"share": None}, "share is None"),
        ({"share": 1.5}, "share is 1.5"),
        ({"candidates": []}, "at least one"),
        ({"candidates": [Candidate("a", abs), Candidate("a", abs)]}, "distinct names"),
        ({"candidates": [Candidate("a", lambda x: x.reshape(1, -1), features="0")]}, "it returns the features"),
        ({"candidates": [Candidate("a", lambda x: x[:, :0])]}, "has no features"),
        ({"candidates": [Candidate("a", lambda x: x[:, : 1 + int(x[0, 0])])]}, "fixed sizes"),
        ({"candidates": [Candidate("a", lambda x: x, source_head=True)]}, "second function"),
    ],
)
def test_wrong_arguments_are_refused_and_cost_nothing(arguments: dict, message: str) -> None:
    task = Task(0)
    federation = LocalFederation(task.silos(), budget=Budget(1.0, 1e-6), mode="trusted")
    given = {"candidates": [candidate(task)], "n_classes": 4, "share": 0.5} | arguments
    candidates = given.pop("candidates")
    with pytest.raises(UsageError, match=message):
        rank_sources(federation, candidates, **given)
    assert federation.remaining_share == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", abs), "name is ''"),
        (("a", 3), "expected a model or a function"),
        (("a", abs, None, False, "big"), "'unit'"),
    ],
)
def test_wrong_candidates_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Candidate(*arguments)


def test_the_result_as_text_numbers_and_figure(tmp_path) -> None:
    contest = Contest(n=600)
    ranking = rank_sources(
        contest.federation(4.0), contest.candidates, n_classes=3, share=0.5, bootstrap=20, random_state=0
    )
    data = json.loads(ranking.to_json())
    assert data["best"] == ranking.best
    assert data["share"] == 0.5
    assert sum(data["confidence"]["logme"].values()) == pytest.approx(1.0)
    assert data["epsilon"]["server"] < 4.0
    assert str(ranking).splitlines()[1].startswith(ranking.best)
    figure = tmp_path / "ranking.png"
    ranking.plot().savefig(figure)
    assert figure.stat().st_size > 5000
    with pytest.raises(UsageError, match="not scored by 'nce'"):
        ranking.order("nce")


def test_the_same_seed_gives_the_same_errors() -> None:
    contest = Contest(n=300)
    made = [
        rank_sources(
            contest.federation(4.0), contest.candidates[:2], n_classes=3, share=1.0, bootstrap=5, random_state=3
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(made[0].draws, made[1].draws)


@pytest.mark.slow
def test_the_benchmark_finds_the_right_source(tmp_path) -> None:
    root = Path(__file__).parents[2]
    path = os.pathsep.join(str(root / part) for part in (".", "protocols", "accounting"))
    done = subprocess.run(
        [sys.executable, str(root / "benchmarks" / "transfer_sources.py"), "--seeds", "1", "--epsilons", "8", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert max(outcome["accuracy"], key=outcome["accuracy"].get) == "5 to 9"
    assert all(row["right_first"] == 1.0 for row in outcome["table"]["none"].values())
    assert outcome["table"]["8"]["logme"]["right_first"] == 1.0


def test_what_is_no_candidate_no_federation_or_no_row_is_pointed_out() -> None:
    rows = LocalFederation([np.zeros((5, 3))] * 3, mode="trusted")
    with pytest.raises(UsageError, match=r"found function among the candidates, expected .*Candidate\(name, model\)"):
        rank_sources(rows, [lambda inputs: inputs], n_classes=2)
    with pytest.raises(UsageError, match=r"expected a federation.*not list"):
        rank_sources([np.zeros((5, 3))] * 3, [Candidate("same", lambda inputs: inputs)], n_classes=2)
    with pytest.raises(UsageError, match=r"returns shape \(3, 2\) for one row, expected one row"):
        rank_sources(rows, [Candidate("three", lambda inputs: np.ones((3, 2)))], n_classes=2)


def test_a_method_without_scores_has_no_panel() -> None:
    rng = np.random.default_rng(0)
    rows = [np.column_stack((rng.normal(size=(20, 2)), rng.integers(0, 2, 20))) for _ in range(3)]
    with pytest.warns(UserWarning, match="no source head"):
        ranking = rank_sources(
            LocalFederation(rows, mode="trusted"),
            [Candidate("same", lambda inputs: inputs)],
            n_classes=2,
            methods=("logme", "leep"),
        )
    assert len(ranking.plot().axes) == 1


def test_methods_that_can_score_nobody_are_left_out_with_the_reason_and_cost_nothing() -> None:
    task, budget = Task(0), Budget(8.0, 1e-5)
    plain = [Candidate("without", task.features), Candidate("neither", lambda inputs: inputs)]
    released = []
    for methods in (None, ("logme", "h_score")):
        silos = LocalFederation(task.silos(), budget=budget, mode="trusted", noise_seed=1)
        ranking = rank_sources(silos, plain, n_classes=4, share=0.5, methods=methods, random_state=0)
        assert ranking.methods == ("logme", "h_score")
        assert len(silos.ledger.rounds()) == len(ranking.entries) == 1
        released.append([dict(score.scores) for score in ranking.scores])
        if methods is None:
            assert "without leep: no candidate has a source head" in str(ranking)
            assert set(json.loads(ranking.to_json())["left_out"]) == {"leep"}
    assert released[0] == released[1]


def test_too_few_classes_are_an_error_and_under_a_budget_a_warning_at_home() -> None:
    task = Task(0)
    with pytest.raises(DataError, match=r"whole numbers from 0 to 2; raise n_classes"):
        rank_sources(LocalFederation(task.silos()), [candidate(task, "one")], n_classes=3)
    silos = LocalFederation(task.silos(), budget=Budget(8.0, 1e-5), mode="trusted", noise_seed=1)
    with pytest.warns(UserWarning, match=r"client .*raise n_classes.*count for nothing"):
        rank_sources(silos, [candidate(task, "one")], n_classes=3, share=0.5)
    assert silos.remaining_share == pytest.approx(0.5)
