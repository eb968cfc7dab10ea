"""Early stopping: by noisy evaluations whose noise it knows."""

from __future__ import annotations

import json

import numpy as np
import pytest

from privfed import Budget, LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging, FederatedSGD
from privfed.learners.neural.evaluation.early_stopping import EarlyStopping
from privfed.learners.neural.evaluation.evaluation import Evaluation, Measured
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.state import TrainingState
from privfed.statistics.hold_out import HoldOut

# The federations are tiny: what they pay for is looked at, not what is learnt.
pytestmark = pytest.mark.filterwarnings("ignore:noise will drown")

torch = pytest.importorskip("torch")


def silos(n: int = 4, rows: int = 60, noise: float = 0.0, seed: int = 0):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(n):
        X = rng.normal(size=(rows, 3))
        y = (X.sum(axis=1) + noise * rng.normal(size=rows) > 0).astype(float)
        found.append((X, y))
    return found


def model() -> torch.nn.Linear:
    made = torch.nn.Linear(3, 2)
    with torch.no_grad():
        made.weight.zero_()
        made.bias.zero_()
    return made


class Scripted:
    """Feeds early stopping with given figures, one per round."""

    def __init__(self, monkeypatch, figures, *, metric="loss") -> None:
        self.program = TorchProgram(model(), feature_shape=(3,))
        self.federation = HoldOut(0.2).training(LocalFederation(silos(), mode="trusted"))
        self.figures, self.asked, self.metric = figures, [], metric

        def evaluated(federation, model, *, parameters, **options) -> Evaluation:
            round = int(parameters[0])
            self.asked.append(round)
            value, error = figures[round - 1]
            return Evaluation(Measured(100.0, 1.0), 4.0, 4.0, **{metric: Measured(value, error)})

        monkeypatch.setattr("privfed.learners.neural.evaluation.early_stopping.evaluate", evaluated)

    def state(self, round: int, rounds: int) -> TrainingState:
        return TrainingState(
            learner="Test",
            settings={"run": "x"},
            program="",
            seed=0,
            round=round,
            rounds=rounds,
            parameters=np.full(8, float(round)),
            history=({"round": round},) if round else (),
            model=self.program,
            federation=self.federation,
        )

    def run(self, stopper: EarlyStopping, *, first: int = 0, rounds: int | None = None):
        """Return the round after which it stopped, and the parameters that it chose."""
        rounds = len(self.figures) if rounds is None else rounds
        stopper.on_train_begin(self.state(first, rounds))
        last = first
        for last in range(first + 1, rounds + 1):
            said = stopper.on_round_end(self.state(last, rounds))
            if said is not None and said.stop:
                break
        chosen = stopper.on_train_end(self.state(last, rounds))
        return last, None if chosen is None else int(chosen.parameters[0])


def test_it_stops_when_nothing_improves_and_brings_the_best_back(monkeypatch) -> None:
    falling = [(1.0, 0.0), (0.8, 0.0), (0.6, 0.0), (0.7, 0.0), (0.65, 0.0), (0.9, 0.0), (0.1, 0.0)]
    scripted = Scripted(monkeypatch, falling)
    stopper = EarlyStopping(patience=3)
    assert scripted.run(stopper) == (6, 3)
    assert (stopper.best_round_, stopper.best_.value, stopper.waited_, stopper.restored_) == (3, 0.6, 3, True)
    assert list(stopper.evaluations_) == [1, 2, 3, 4, 5, 6]


def test_accuracy_rises_where_a_loss_falls(monkeypatch) -> None:
    scripted = Scripted(monkeypatch, [(0.5, 0.0), (0.7, 0.0), (0.6, 0.0), (0.69, 0.0)], metric="accuracy")
    assert scripted.run(EarlyStopping(patience=2, metric="accuracy")) == (4, 2)


def test_a_difference_within_the_noise_is_none(monkeypatch) -> None:
    """0.5 +- 0.1 is no better than 0.6 +- 0.1 (2 standard errors of the difference are 0.28), and 0.7 is no worse."""
    figures = [(0.6, 0.1), (0.5, 0.1), (0.55, 0.1), (0.7, 0.1), (0.1, 0.1)]
    scripted = Scripted(monkeypatch, figures)
    stopper = EarlyStopping(patience=3)
    assert scripted.run(stopper) == (4, None)  # stopped, and kept the last: it is not clearly worse
    assert (stopper.best_round_, stopper.restored_) == (1, False)
    assert scripted.run(EarlyStopping(patience=4)) == (5, None)  # 0.1 is clearly better
    loud = EarlyStopping(patience=3, standard_errors=0.5)
    assert scripted.run(loud) == (5, None)
    assert loud.best_round_ == 5


def test_small_improvements_add_up(monkeypatch) -> None:
    """Each is within the noise of the one before, together they are not."""
    falling = [(1.0 - 0.06 * index, 0.05) for index in range(16)]
    stopper = EarlyStopping(patience=3)
    assert Scripted(monkeypatch, falling).run(stopper)[0] == 16
    flat = [(1.0 - 0.01 * index, 0.05) for index in range(16)]
    assert Scripted(monkeypatch, flat).run(EarlyStopping(patience=3))[0] == 4


def test_min_delta_counts_on_top_of_the_noise(monkeypatch) -> None:
    figures = [(1.0, 0.0), (0.95, 0.0), (0.92, 0.0), (0.7, 0.0)]
    assert Scripted(monkeypatch, figures).run(EarlyStopping(patience=2, min_delta=0.1)) == (3, None)
    assert Scripted(monkeypatch, figures).run(EarlyStopping(patience=3, min_delta=0.1)) == (4, None)


def test_the_last_clearly_worse_round_gives_way_to_the_best(monkeypatch) -> None:
    figures = [(0.5, 0.05), (0.9, 0.05), (0.95, 0.05)]
    assert Scripted(monkeypatch, figures).run(EarlyStopping(patience=9)) == (3, 1)
    assert Scripted(monkeypatch, figures).run(EarlyStopping(patience=9, restore_best=False)) == (3, None)


def test_rounds_between_evaluations_are_left_alone_but_the_last(monkeypatch) -> None:
    scripted = Scripted(monkeypatch, [(1.0, 0.0)] * 8)
    scripted.run(EarlyStopping(every=3, patience=9))
    assert scripted.asked == [3, 6, 8]


def test_what_noise_drowns_neither_stops_nor_improves(monkeypatch) -> None:
    nothing = (float("nan"), float("inf"))
    scripted = Scripted(monkeypatch, [(1.0, 0.1), nothing, nothing, nothing, (1.0, 0.1)])
    stopper = EarlyStopping(patience=2)
    with pytest.warns(UserWarning, match="drowns in its noise"):
        assert scripted.run(stopper) == (5, None)
    assert stopper.waited_ == 1


def test_a_second_run_begins_anew(monkeypatch) -> None:
    scripted = Scripted(monkeypatch, [(0.5, 0.0), (0.6, 0.0), (0.6, 0.0)])
    stopper = EarlyStopping(patience=2)
    assert scripted.run(stopper) == scripted.run(stopper) == (3, 1)


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_it_goes_on_where_it_was(monkeypatch, at) -> None:
    figures = [(1.0, 0.0), (0.6, 0.0), (0.7, 0.0), (0.65, 0.0), (0.66, 0.0), (0.1, 0.0)]
    whole = Scripted(monkeypatch, figures).run(EarlyStopping(patience=3))
    first, second = EarlyStopping(patience=3), EarlyStopping(patience=3)
    scripted = Scripted(monkeypatch, figures)
    first.on_train_begin(scripted.state(0, 6))
    for round in range(1, at + 1):
        first.on_round_end(scripted.state(round, 6))
    arrays, saved = first.saved()
    second.restore(arrays, json.loads(json.dumps(saved)))
    assert scripted.run(second, first=at, rounds=6) == whole == (5, 2)


def test_only_its_own_state_is_taken_up() -> None:
    for figures in ({}, {"waited": "x", "best_round": 1}, {"waited": 1}):
        with pytest.raises(UsageError, match=r"early stopping's|waited"):
            EarlyStopping().restore({}, figures)


@pytest.mark.parametrize(
    ("every", "rounds", "offset"), [(1, 10, 0), (3, 10, 0), (3, 8, 2), (4, 9, 3), (5, 5, 0), (7, 3, 0)]
)
def test_what_it_asks_of_the_budget_covers_what_it_spends(monkeypatch, every, rounds, offset) -> None:
    scripted = Scripted(monkeypatch, [(1.0, 0.0)] * (offset + rounds))
    stopper = EarlyStopping(every=every, patience=99, share=0.01)
    scripted.run(stopper, first=offset, rounds=offset + rounds)
    spent = 0.01 * len(scripted.asked)
    assert stopper.budget_share(rounds) == pytest.approx(spent)


@pytest.mark.parametrize(("every", "rounds", "times"), [(3, 6, 2), (2, 6, 3), (2, 5, 3), (7, 3, 1)])
def test_a_run_that_has_not_begun_is_asked_for_no_evaluation_too_many(every, rounds, times) -> None:
    assert EarlyStopping(every=every, share=0.05).budget_share(rounds) == pytest.approx(0.05 * times)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"every": 0}, "every"),
        ({"patience": 0}, "patience"),
        ({"min_delta": -1.0}, "min_delta"),
        ({"share": 0.0}, "share"),
        ({"metric": "auc"}, "metric"),
        ({"hold_out": 2.0}, "hold_out"),
        ({"standard_errors": -2}, "standard_errors"),
    ],
)
def test_arguments_of_other_kinds_are_refused(options, match) -> None:
    with pytest.raises(UsageError, match=match):
        EarlyStopping(**options)


# --- with a learner ---------------------------------------------------------------------------------------------------


def learner(**options) -> FederatedAveraging:
    settings = {"rounds": 40, "learning_rate": 0.5, "random_state": 0, **options}
    return FederatedAveraging(model(), **settings)


def test_a_run_that_no_longer_improves_ends_early() -> None:
    federation = HoldOut(0.3).training(LocalFederation(silos(noise=1.5), mode="trusted"))
    stopper = EarlyStopping(patience=3, min_delta=0.005)
    fitted = learner(callbacks=stopper).fit(federation)
    assert fitted.n_rounds_ < 40
    assert "no better loss in 3 evaluations" in fitted.stop_reason_
    row = fitted.history_[0]
    assert row["eval_loss"] == stopper.evaluations_[1].loss.value
    assert row["eval_loss_se"] == 0.0


def test_under_a_budget_it_evaluates_by_its_own_share_and_leaves_the_rest_to_training() -> None:
    federation = LocalFederation(
        silos(n=40, rows=30), budget=Budget(6.0, 1e-5, unit="client"), mode="trusted", max_records=30, noise_seed=1
    )
    stopper = EarlyStopping(every=2, patience=9, share=0.2)
    fitted = learner(rounds=3, callbacks=stopper).fit(HoldOut(0.3).training(federation))
    kinds = [record.plan.purpose.split()[0] for record in federation.ledger.rounds()]
    assert kinds.count("evaluation") == 2
    assert len(kinds) == 5
    assert fitted.n_rounds_ == 3
    assert 0.0 <= federation.remaining_share < 1e-6
    assert all(found.accuracy is None and found.loss.standard_error > 0 for found in stopper.evaluations_.values())


def test_under_a_budget_a_share_is_asked_for_before_anything_is_spent() -> None:
    federation = LocalFederation(silos(), budget=Budget(2.0, 1e-5, unit="client"), mode="trusted")
    with pytest.raises(UsageError, match=r"EarlyStopping\(share="):
        learner(callbacks=EarlyStopping()).fit(HoldOut(0.2).training(federation))
    assert federation.ledger.rounds() == []


@pytest.mark.parametrize("by", ["averaging", "sgd"])
@pytest.mark.parametrize(
    ("loss", "outputs", "stopper", "match"),
    [
        ("mse", 1, EarlyStopping(share=0.01), "largest_loss"),
        ("mse", 1, EarlyStopping(share=0.01, metric="accuracy", largest_loss=4.0), "ask for 'loss' alone"),
        ("cross_entropy", 2, EarlyStopping(share=0.01, largest_loss=-1.0), "largest_loss is -1"),
    ],
)
def test_settings_of_evaluation_are_refused_before_training_spends(by, loss, outputs, stopper, match) -> None:
    federation = LocalFederation(silos(), budget=Budget(8.0, 1e-5), mode="trusted", noise_seed=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        given = torch.nn.Linear(3, outputs)
    kind = FederatedAveraging if by == "averaging" else FederatedSGD
    with pytest.raises(UsageError, match=match):
        kind(given, loss, rounds=3, callbacks=stopper).fit(HoldOut(0.2).training(federation))
    assert federation.ledger.rounds() == []


def test_evaluating_on_the_rows_of_training_is_pointed_out() -> None:
    with pytest.warns(UserWarning, match="rows of training"):
        learner(rounds=2, callbacks=EarlyStopping()).fit(LocalFederation(silos(), mode="trusted"))
