"""Evaluation by protected sums: the figures are those of the pooled rows, bounded per record, with honest errors."""

from __future__ import annotations

import json
import math
from contextlib import nullcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, BudgetExhausted, DataError, LocalFederation, UsageError
from privfed.learners.neural import FederatedAveraging
from privfed.learners.neural.evaluation.evaluation import evaluate, quantile_of
from privfed.learners.neural.evaluation.scores import ModelScores, SiloAccuracies, row_scores
from privfed.learners.neural.program import TorchProgram
from privfed.query import decode_query, encode_query
from privfed.statistics.hold_out import HoldOut
from privfed.statistics.programs import install

torch = pytest.importorskip("torch")

ALL = ("loss", "accuracy", "calibration", "confusion", "silos")


def linear(inputs: int = 5, outputs: int = 3, seed: int = 0) -> torch.nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Linear(inputs, outputs)


def rows(n: int = 300, inputs: int = 5, classes: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, inputs))
    return X, np.clip((X[:, 0] + 1.5).astype(int), 0, classes - 1)


def silos(n: int = 6) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    return {f"c{index}": rows(40 + 11 * index, seed=index) for index in range(n)}


def pooled(clients) -> tuple[np.ndarray, np.ndarray]:
    return np.concatenate([X for X, _ in clients.values()]), np.concatenate([y for _, y in clients.values()])


def by_hand(model, X, y, n_bins=10) -> dict:
    """The same figures by ordinary torch and numpy, on the pooled rows."""
    with torch.no_grad():
        outputs = model(torch.tensor(X, dtype=torch.float32)).double()
    probability = torch.softmax(outputs, 1).numpy()
    confidence, found = probability.max(axis=1), probability.argmax(axis=1)
    right = found == y
    gaps = 0.0
    for index in range(n_bins):
        inside = (confidence * n_bins).astype(int).clip(max=n_bins - 1) == index
        if inside.any():
            gaps += abs(confidence[inside].mean() - right[inside].mean()) * inside.sum()
    confusion = np.zeros((probability.shape[1],) * 2)
    np.add.at(confusion, (y, found), 1.0)
    return {
        "loss": float(torch.nn.functional.cross_entropy(outputs, torch.tensor(y))),
        "accuracy": right.mean(),
        "calibration": gaps / len(y),
        "confusion": confusion,
    }


# --- the figures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_without_noise_the_figures_are_those_of_the_pooled_rows(mode) -> None:
    clients, model = silos(), linear()
    found = evaluate(LocalFederation(clients, mode=mode), model, metrics=ALL)
    X, y = pooled(clients)
    expected = by_hand(model, X, y)
    assert float(found.records) == pytest.approx(len(y), abs=1e-6)
    assert float(found.loss) == pytest.approx(expected["loss"], abs=1e-6)
    assert float(found.accuracy) == pytest.approx(expected["accuracy"], abs=1e-9)
    assert float(found.calibration.error) == pytest.approx(expected["calibration"], abs=1e-6)
    np.testing.assert_allclose(found.confusion, expected["confusion"], atol=1e-6)
    assert found.loss.standard_error == found.accuracy.standard_error == 0.0
    own = sorted(by_hand(model, *pair)["accuracy"] for pair in clients.values())
    assert found.silos.value <= own[0] < found.silos.value + 0.05
    assert found.silos.low == found.silos.value == found.silos.high


def test_a_large_budget_shows_the_same_figures_and_small_ones_are_within_their_errors() -> None:
    clients, model = silos(), linear()
    X, y = pooled(clients)
    expected = by_hand(model, X, y)
    off = {"loss": [], "accuracy": []}
    for seed in range(30):
        federation = LocalFederation(
            clients, budget=Budget(2.0, 1e-5), max_records=200, mode="trusted", noise_seed=seed
        )
        found = evaluate(federation, model, share=0.3, largest_loss=4.0)
        for name, values in off.items():
            measured = getattr(found, name)
            assert 0.0 < measured.standard_error < 0.3
            values.append((measured.value - expected[name]) / measured.standard_error)
    for values in off.values():  # the declared error is the true one: 30 draws know it to 13 %
        assert 0.7 < np.std(values) < 1.4
        assert abs(np.mean(values)) < 0.6


def test_noise_of_the_sums_is_what_is_said_within_two_per_cent() -> None:
    """20 000 bins of calibration without a row in them are nothing but noise."""
    model = linear()
    X, y = rows(4)
    federation = LocalFederation([(X, y)] * 4, budget=Budget(2.0, 1e-5), max_records=10, mode="trusted", noise_seed=4)
    query = ModelScores(install(program := TorchProgram(model, feature_shape=(5,))), program.parameters(), n_bins=7000)
    release = federation.release(query, share=0.5)
    ratio = float(np.std(release["calibration"])) / release.noise_std["calibration"]
    assert 0.985 < ratio < 1.015
    ideal = math.sqrt(3.0) * math.sqrt(4.0) / (math.sqrt(0.5) * federation.total_mu)  # bound, a quarter of the cost
    assert release.noise_std["calibration"] == pytest.approx(ideal, rel=2e-3)


def test_losses_are_cut_where_it_was_said() -> None:
    clients, model = silos(), linear()
    model.weight.data *= 50.0
    X, y = pooled(clients)
    with torch.no_grad():
        outputs = model(torch.tensor(X, dtype=torch.float32))
        losses = torch.nn.functional.cross_entropy(outputs, torch.tensor(y), reduction="none")
    found = evaluate(LocalFederation(clients), model, largest_loss=2.0)
    assert float(found.loss) == pytest.approx(float(losses.clamp(max=2.0).mean()), rel=1e-5)
    assert float(losses.mean()) > 5.0


def test_yes_and_no() -> None:
    X, y = rows(200, classes=2)
    model = linear(5, 1)
    for targets, n in ((y, 1), (np.stack([y, 1 - y], axis=1), 2)):
        module = model if n == 1 else linear(5, 2)
        found = evaluate(LocalFederation([(X, targets)] * 2), module, loss="binary_cross_entropy", metrics=ALL)
        with torch.no_grad():
            logits = module(torch.tensor(X, dtype=torch.float32)).double()
        right = ((logits > 0).numpy() == targets.reshape(len(X), n).astype(bool)).mean()
        assert float(found.accuracy) == pytest.approx(right)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.tensor(targets).reshape(-1, n).double()
        )
        assert float(found.loss) == pytest.approx(float(loss), abs=1e-6)
        assert found.confusion.shape == (2, 2)
        assert found.confusion.sum() == pytest.approx(400)


def test_numbers_have_a_loss_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(80, 5)), rng.normal(size=80)
    model, clients = linear(5, 1), [(X, y)] * 2
    with torch.no_grad():
        expected = float(((model(torch.tensor(X, dtype=torch.float32))[:, 0].double() - torch.tensor(y)) ** 2).mean())
    found = evaluate(LocalFederation(clients), model, loss="mse")
    assert float(found.loss) == pytest.approx(expected, rel=1e-5)
    assert found.accuracy is None
    with pytest.raises(UsageError, match="ask for 'loss' alone"):
        evaluate(LocalFederation(clients), model, loss="mse", metrics=("loss", "accuracy"))
    with pytest.raises(UsageError, match="no natural bound"):
        evaluate(LocalFederation(clients, budget=Budget(1.0, 1e-5)), model, loss="mse", share=0.1)


def test_many_places_of_one_row_count_once_together() -> None:
    model = torch.nn.Conv1d(1, 3, 1)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(30, 1, 4)), rng.integers(0, 3, (30, 4))
    found = evaluate(LocalFederation([(X, y)] * 2), model, metrics=("accuracy", "confusion"))
    with torch.no_grad():
        guessed = model(torch.tensor(X, dtype=torch.float32)).argmax(1).numpy()
    assert float(found.accuracy) == pytest.approx((guessed == y).mean())
    assert found.confusion.sum() == pytest.approx(60)


# --- the bounds -------------------------------------------------------------------------------------------------------


def scored(model, sums=("loss", "correct", "calibration", "confusion"), shape=(5,), **options) -> tuple:
    program = TorchProgram(model, feature_shape=shape)
    return program, ModelScores(install(program), program.parameters(), sums, **options)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), scale=st.sampled_from([1e-6, 1.0, 1e8, 1e30, 1e99]))
def test_one_row_obeys_every_bound_and_never_fails(seed, scale) -> None:
    model = linear(seed=1)
    model.weight.data *= 1e3
    program, query = scored(model, largest_loss=3.0)
    rng = np.random.default_rng(seed)
    for _ in range(4):
        row = np.append(rng.normal(size=5) * scale, rng.integers(0, 3))[None]
        contribution = query.contribution(row)
        for block in query.blocks:
            assert np.linalg.norm(np.ravel(contribution[block.name])) <= block.bound * (1 + 1e-12)
        vector = query.checked_contribution(row)
        assert np.isfinite(vector).all()
        assert np.linalg.norm(vector) <= 1 + 1e-12
        assert (contribution["calibration"][:, 0] > 0).sum() == 1
    del program


@pytest.mark.parametrize("value", [1e30, 1e99, -1e99])
def test_a_model_that_overflows_counts_as_wrong_and_lost(value) -> None:
    program, query = scored(linear(), largest_loss=3.0)
    found = query.contribution(np.full((1, 6), value) * [1, 1, 1, 1, 1, 0])
    assert found["loss"] in (0.0, 3.0)
    assert np.isfinite(query.checked_contribution(np.full((1, 6), value) * [1, 1, 1, 1, 1, 0])).all()
    del program


class Brittle(torch.nn.Module):
    """Fails on any batch that holds a large number: an embedding of a word that it does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.words = linear(), torch.nn.Embedding(100, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x + self.words(x[:, 0].abs().long()))


def test_a_row_on_which_the_model_fails_takes_no_other_down() -> None:
    program, query = scored(Brittle(), largest_loss=3.0)
    X, y = rows(50)
    good = np.column_stack([X, y])
    bad = good[:1].copy()
    bad[0, 0] = 1000.0
    alone, both = query.contribution(good), query.contribution(np.vstack([good[:20], bad, good[20:]]))
    assert both["records"] - alone["records"] == 1.0
    assert float(both["loss"]) - float(alone["loss"]) == pytest.approx(3.0)
    np.testing.assert_array_equal(both["correct"], alone["correct"])
    np.testing.assert_array_equal(both["confusion"], alone["confusion"])
    del program


MODELS = {
    "linear": (lambda: linear(16, 4), (16,)),
    "deep": (
        lambda: torch.nn.Sequential(torch.nn.Linear(16, 33), torch.nn.ReLU(), torch.nn.Linear(33, 4)),
        (16,),
    ),
    "convolution": (
        lambda: torch.nn.Sequential(
            torch.nn.Conv2d(1, 5, 3),
            torch.nn.GroupNorm(1, 5),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Linear(20, 4),
        ),
        (1, 4, 4),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_row_has_the_same_bits_wherever_it_stands(name) -> None:
    """Else one record more would change the others' side of a bin or a decision, beyond any bound."""
    make, shape = MODELS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    program = TorchProgram(model, feature_shape=shape)
    rng = np.random.default_rng(1)
    table = np.column_stack([rng.normal(size=(300, 16)), rng.integers(0, 4, 300)])
    whole = row_scores(program, program.parameters(), table, largest_loss=5.0)
    for order in (np.arange(300)[::-1], rng.permutation(300)[:211], np.arange(1, 300), np.array([7])):
        part = row_scores(program, program.parameters(), table[order], largest_loss=5.0)
        for field in ("loss", "correct", "confidence", "found"):
            np.testing.assert_array_equal(getattr(part, field), getattr(whole, field)[order], field)


def test_a_model_that_is_not_steady_is_refused() -> None:
    class Noisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x) + torch.rand(len(x), 3)

    program = TorchProgram(Noisy(), feature_shape=(5,))
    with pytest.raises(UsageError, match="draws random numbers"):
        row_scores(program, program.parameters(), np.zeros((2, 6)), largest_loss=1.0)


def test_a_client_is_in_one_bin_of_the_silos() -> None:
    program = TorchProgram(linear(), feature_shape=(5,))
    query = SiloAccuracies(install(program), program.parameters(), n_bins=8)
    X, y = rows(30)
    counts = query.client_contribution(np.column_stack([X, y]), {})["silos"]
    assert sorted(counts) == [0.0] * 7 + [1.0]
    assert counts.argmax() == int(by_hand(program.model, X, y)["accuracy"] * 8)
    assert not query.client_contribution(np.empty((0, 6)), {})["silos"].any()
    assert (query.sensitivity("client").l2, query.sensitivity("record").l2) == (1.0, 2.0)
    scores = row_scores(program, program.parameters(), np.column_stack([X, y]), largest_loss=1.0)
    perfect = np.column_stack([X, scores.found])
    assert query.client_contribution(perfect, {})["silos"][-1] == 1.0


def test_queries_travel_as_data() -> None:
    program, query = scored(linear(), largest_loss=2.5, n_bins=4)
    silo = SiloAccuracies(query.program, query.parameters)
    for one in (query, silo):
        again = decode_query(encode_query(one))
        assert encode_query(again) == encode_query(one)
        assert again.blocks == one.blocks
    del program


# --- silos ------------------------------------------------------------------------------------------------------------


def test_the_worst_tenth_of_many_silos_is_found_under_noise() -> None:
    """300 silos, 45 of them bad: the tenth percentile is a bad silo's accuracy, and the interval says how sure."""
    model = linear(1, 2)
    model.weight.data[:] = torch.tensor([[-9.0], [9.0]])
    model.bias.data[:] = 0.0
    x = np.linspace(-1, 1, 20).reshape(-1, 1)
    good, bad = (x[:, 0] > 0).astype(int), np.where(np.arange(20) < 8, 1 - (x[:, 0] > 0), x[:, 0] > 0).astype(int)
    clients = [(x, bad if index < 45 else good) for index in range(300)]
    truth = LocalFederation(clients, mode="trusted")
    exact = evaluate(truth, model, metrics="silos").silos
    assert exact.value == pytest.approx(0.6, abs=0.051)
    budget = Budget(2.0, 1e-5, unit="client")
    federation = LocalFederation(clients, budget=budget, mode="trusted", noise_seed=3, max_records=20)
    found = evaluate(federation, model, metrics=("silos",), share=1.0).silos
    assert found.low <= exact.value <= found.high
    assert found.value == pytest.approx(exact.value, abs=0.11)


def test_few_silos_drown_and_say_so() -> None:
    federation = LocalFederation(silos(), budget=Budget(1.0, 1e-5), mode="trusted", noise_seed=3, max_records=200)
    found = evaluate(federation, linear(), metrics=("accuracy", "silos"), share=0.2)
    assert math.isnan(found.silos.value)
    assert found.as_dict()["silos"]["value"] is None
    assert "nan" in repr(found)


def test_quantiles_of_known_counts() -> None:
    class Fake:
        divisor, noise_std = 10.0, {"silos": 0.0}

        def __getitem__(self, name):
            return np.array([0.0, 2.0, 0.0, 8.0])

    assert quantile_of(Fake(), 0.1).value == 0.25
    assert quantile_of(Fake(), 0.2).value == 0.25
    assert quantile_of(Fake(), 0.21).value == 0.75


# --- cost, arguments, words -------------------------------------------------------------------------------------------


def test_an_evaluation_costs_its_share_and_no_more() -> None:
    federation = LocalFederation(silos(), budget=Budget(2.0, 1e-5), max_records=200, mode="trusted", noise_seed=1)
    found = evaluate(federation, linear(), metrics=ALL, share=0.1, purpose="a look")
    assert federation.remaining_share == pytest.approx(0.9)
    assert [record.plan.purpose for record in federation.ledger.rounds()] == ["a look", "a look, silos"]
    assert found.epsilon == found.releases[-1].epsilon
    evaluate(federation, linear(), share=0.25)
    assert federation.remaining_share == pytest.approx(0.65)
    with pytest.raises(BudgetExhausted):
        evaluate(federation, linear(), share=0.7)
    with pytest.raises(UsageError, match="needs its share"):
        evaluate(federation, linear())


def test_what_noise_drowns_is_told_as_unknown() -> None:
    few = [rows(3, seed=index) for index in range(4)]
    federation = LocalFederation(few, budget=Budget(0.1, 1e-5), mode="trusted", noise_seed=2, max_records=5)
    found = evaluate(federation, linear(), share=0.01)
    for measured in (found.loss, found.accuracy, found.calibration.error):
        assert math.isnan(measured.value)
        assert measured.standard_error == math.inf
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["loss"] is None


def test_fitted_learners_and_programs_are_models_as_well() -> None:
    clients = silos()
    federation = LocalFederation(clients, mode="trusted")
    learner = FederatedAveraging(linear(), rounds=2, random_state=0).fit(federation)
    found = evaluate(federation, learner)
    expected = by_hand(learner.model_, *pooled(clients))
    assert float(found.loss) == pytest.approx(expected["loss"], abs=1e-6)
    program = learner.program_
    again = evaluate(federation, program, parameters=learner.parameters_)
    assert float(again.loss) == float(found.loss)
    start = evaluate(federation, program, parameters=np.zeros(program.n_parameters))
    assert float(start.loss) == pytest.approx(math.log(3), abs=1e-6)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"metrics": ("auc",)}, "metrics is"),
        ({"metrics": ()}, "metrics is"),
        ({"hold_out": 1.5}, "hold_out is 1.5"),
        ({"largest_loss": 0.0}, "largest_loss"),
        ({"n_bins": 0}, "n_bins"),
        ({"silo_quantile": 1.0}, "silo_quantile"),
        ({"parameters": np.zeros(3)}, r"shape \(3,\), the model has 18"),
        ({"loss": "huber"}, "loss is 'huber'"),
    ],
)
def test_arguments_of_other_kinds_are_refused_before_anything_is_asked(options, match) -> None:
    federation = LocalFederation(silos(), budget=Budget(2.0, 1e-5), mode="trusted")
    with pytest.raises(UsageError, match=match):
        evaluate(federation, linear(), share=0.1, **options)
    assert federation.ledger.rounds() == []


def test_targets_that_are_no_classes_are_refused_by_name_where_nothing_is_protected() -> None:
    clients = silos() | {"odd": (np.ones((3, 5)), np.array([0.0, 1.0, 7.0]))}
    with pytest.raises(DataError, match=r"'odd'.*no classes"):
        evaluate(LocalFederation(clients, mode="trusted"), linear())


@pytest.mark.parametrize("unit", ["record", "client"])
def test_under_a_budget_targets_that_are_no_classes_count_nowhere_and_their_client_is_warned(unit) -> None:
    """The classes are the coordinator's choice: a refusal would tell it, free of charge, who has which label."""
    plain = silos() | {"odd": (np.ones((2, 5)), np.array([0.0, 1.0]))}
    odd = plain | {"odd": (np.ones((3, 5)), np.array([0.0, 1.0, 7.0]))}
    query_of = SiloAccuracies if unit == "client" else ModelScores
    program = TorchProgram(linear(), "cross_entropy", feature_shape=(5,), n_targets=1)
    query = query_of(install(program), program.parameters())
    releases = []
    for clients in (plain, odd):
        budget = Budget(2.0, 1e-5, unit=unit)
        federation = LocalFederation(clients, budget=budget, mode="trusted", noise_seed=3, max_records=200)
        with pytest.warns(UserWarning, match="'odd'.*count for nothing") if clients is odd else nullcontext():
            releases.append(federation.release(query, share=0.1))
        federation.release(query, share=0.1)  # and no second warning
        assert federation.remaining_share == pytest.approx(0.8)
    for block in releases[0]:
        np.testing.assert_array_equal(releases[0][block], releases[1][block])


def test_what_an_evaluation_says_of_itself() -> None:
    federation = LocalFederation(silos(), budget=Budget(4.0, 1e-5), max_records=200, mode="trusted", noise_seed=1)
    found = evaluate(federation, linear(), metrics=ALL, share=0.5)
    text = repr(found)
    for word in ("records", "loss", "accuracy", "calibration_error", "worst 10% of silos", "epsilon, server", "+-"):
        assert word in text
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["accuracy"] == found.accuracy.value
    assert len(plain["confusion"]) == 3
    assert "releases" not in plain


def test_figures_are_drawn() -> None:
    pytest.importorskip("matplotlib")
    federation = LocalFederation(silos(), budget=Budget(4.0, 1e-5), max_records=200, mode="trusted", noise_seed=1)
    found = evaluate(federation, linear(), metrics=ALL, share=0.5)
    assert len(found.plot().axes) == 3
    with pytest.raises(UsageError, match="nothing to draw"):
        evaluate(federation, linear(), metrics="loss", share=0.1).plot()


# --- hold-out ---------------------------------------------------------------------------------------------------------


def test_evaluation_is_on_the_rows_that_training_never_saw() -> None:
    clients, model = silos(), linear()
    federation, hold_out = LocalFederation(clients), HoldOut(0.3, seed=5)
    held = {name: hold_out_rows(X, y, hold_out) for name, (X, y) in clients.items()}
    expected = by_hand(model, *pooled(held))
    for found in (
        evaluate(federation, model, hold_out=hold_out),
        evaluate(hold_out.training(federation), model),
        evaluate(hold_out.evaluation(federation), model, hold_out=hold_out),
    ):
        assert float(found.records) == pytest.approx(sum(len(y) for _, y in held.values()))
        assert float(found.loss) == pytest.approx(expected["loss"], abs=1e-6)
    with pytest.raises(UsageError, match="part of one split"):
        evaluate(hold_out.training(federation), model, hold_out=0.2)


def hold_out_rows(X, y, hold_out):
    from privfed.statistics.hold_out import held_out_mask

    mask = held_out_mask(np.column_stack([X, y]), hold_out.fraction, hold_out.seed)
    return X[mask], y[mask]
