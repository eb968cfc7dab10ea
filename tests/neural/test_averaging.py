"""Federated averaging without a budget equals the papers' updates, worked out by an independent route."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from privfed import LocalFederation
from privfed.learners.neural import Anchor, Compression, FederatedAveraging
from tests.neural import reference_averaging as reference

SIZES = (30, 51, 7, 80)


def make_clients(sizes=SIZES, seed=0):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(5, 3))
    features = [rng.normal(size=(n, 5)) + 0.5 * rng.normal(size=5) for n in sizes]
    return [(x, (x @ truth + 0.3 * rng.normal(size=(len(x), 3))).argmax(axis=1).astype(float)) for x in features]


def make_model(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Tanh(), torch.nn.Linear(6, 3)).double()


def seed_of(random_state: int) -> int:
    return int(np.random.RandomState(random_state).randint(2**31))


def fit(clients, model=None, **settings):
    settings = {"rounds": 3, "random_state": 5, "dtype": "float64", **settings}
    mode = settings.pop("mode", "trusted")
    learner = FederatedAveraging(make_model() if model is None else model, **settings)
    return learner.fit(LocalFederation(clients, mode=mode))


HOW = {"learning_rate": 0.2, "local_epochs": 2, "batch_size": 8}
BY_HAND = {"rate": 0.2, "epochs": 2, "batch": 8}


def test_one_full_batch_step_is_pooled_gradient_descent() -> None:
    """To 1e-12 in float64, over several rounds and through real masks."""
    clients, model = make_clients(), make_model()
    learner = FederatedAveraging.gradient_descent(
        model, rounds=4, learning_rate=0.7, dtype="float64", random_state=0
    ).fit(LocalFederation(clients))
    x, y = np.concatenate([x for x, _ in clients]), np.concatenate([y for _, y in clients])
    pooled = make_model()
    optimizer = torch.optim.SGD(pooled.parameters(), lr=0.7)
    for _ in range(4):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(pooled(torch.tensor(x)), torch.tensor(y).long()).backward()
        optimizer.step()
    np.testing.assert_allclose(learner.parameters_, reference.flat(pooled), rtol=0, atol=1e-12)
    np.testing.assert_allclose(reference.flat(learner.model_), reference.flat(pooled), rtol=0, atol=1e-12)
    assert np.abs(learner.parameters_ - reference.flat(model)).max() > 0.01


class Point(torch.nn.Module):
    """A model that is its own parameter: its answer to every row."""

    def __init__(self, start):
        super().__init__()
        self.w = torch.nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), -1)


def half_squares(outputs, targets):
    return 0.5 * ((outputs - targets) ** 2).sum(dim=1)


@pytest.mark.parametrize("weighting", ["records", "uniform"])
@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_the_textbook_example_comes_out_exactly(weighting, mode) -> None:
    """theta + mean of the changes: ([.1,.2,.3], [.2,.3,.4], [.3,.4,.5]) -> [.2,.3,.4], to the last bit."""
    targets = ([0.1, 0.2, 0.3], [0.2, 0.3, 0.4], [0.3, 0.4, 0.5])
    clients = [(np.zeros((1, 1)), np.array([target])) for target in targets]
    learner = FederatedAveraging.gradient_descent(
        Point([0.0] * 3),
        half_squares,
        rounds=1,
        learning_rate=1.0,
        dtype="float64",
        weighting=weighting,
        largest_weight=1,
    ).fit(LocalFederation(clients, mode=mode))
    assert learner.parameters_.tolist() == [0.2, 0.3, 0.4]


@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.parametrize(
    ("settings", "by_hand"),
    [
        ({}, {}),
        ({"momentum": 0.9, "weight_decay": 0.01}, {"momentum": 0.9, "decay": 0.01}),
        ({"proximal": 0.5}, {"proximal": 0.5}),
        ({"normalisation": "fednova"}, {"fednova": True}),
        ({"normalisation": "fednova", "momentum": 0.7}, {"fednova": True, "momentum": 0.7}),
        ({"normalisation": "fednova", "proximal": 0.5}, {"fednova": True, "proximal": 0.5}),
    ],
    ids=["fedavg", "momentum", "fedprox", "fednova", "fednova-momentum", "fednova-proximal"],
)
def test_rounds_equal_the_papers(uniform, settings, by_hand) -> None:
    clients = make_clients()
    learner = fit(clients, weighting="uniform" if uniform else "records", **HOW, **settings)
    expected = reference.averaging(
        make_model(), clients, rounds=3, seed=seed_of(5), uniform=uniform, **BY_HAND, **by_hand
    )
    np.testing.assert_allclose(learner.parameters_, expected, rtol=0, atol=1e-10)


def test_the_variants_differ() -> None:
    """Otherwise the comparisons above would compare nothing."""
    clients = make_clients()
    variants = ({}, {"proximal": 0.5}, {"normalisation": "fednova"}, {"control_variates": True}, {"momentum": 0.5})
    found = [fit(clients, **HOW, **settings).parameters_ for settings in (*variants, {"weighting": "uniform"})]
    for i, first in enumerate(found):
        for second in found[:i]:
            assert np.abs(first - second).max() > 1e-4


class ReddiServer:
    """Algorithm 2 of arXiv:2003.00295v5, line by line, one coordinate at a time."""

    def __init__(self, rule, eta, beta1, beta2, tau):
        self.rule, self.eta, self.beta1, self.beta2, self.tau = rule, eta, beta1, beta2, tau
        self.m, self.v = {}, {}

    def __call__(self, x, change):
        x = x.copy()
        for j, delta in enumerate(change):
            self.m[j] = self.beta1 * self.m.get(j, 0.0) + (1 - self.beta1) * delta
            v = self.v.get(j, self.tau**2)
            if self.rule == "adagrad":
                v = v + delta**2
            elif self.rule == "yogi":
                v = v - (1 - self.beta2) * delta**2 * np.sign(v - delta**2)
            else:
                v = self.beta2 * v + (1 - self.beta2) * delta**2
            self.v[j] = v
            x[j] += self.eta * self.m[j] / (np.sqrt(v) + self.tau)
        return x


@pytest.mark.parametrize("rule", ["adam", "yogi", "adagrad"])
def test_server_optimisers_equal_the_paper(rule) -> None:
    clients = make_clients()
    learner = fit(
        clients,
        rounds=4,
        server_optimizer=rule,
        server_learning_rate=0.03,
        server_momentum=0.8,
        server_second_moment=0.95,
        server_adaptivity=0.01,
        **HOW,
    )
    server = ReddiServer(rule, 0.03, 0.8, 0.95, 0.01)
    expected = reference.averaging(make_model(), clients, rounds=4, seed=seed_of(5), server=server, **BY_HAND)
    np.testing.assert_allclose(learner.parameters_, expected, rtol=0, atol=1e-10)


def test_server_momentum_is_that_of_fedavgm() -> None:
    """Hsu, Qi and Brown 2019 (arXiv:1909.06335): v = beta v + change, x = x + eta v."""
    velocity = 0.0

    def server(x, change):
        nonlocal velocity
        velocity = 0.9 * velocity + change
        return x + 0.5 * velocity

    clients = make_clients()
    learner = fit(clients, rounds=4, server_learning_rate=0.5, server_momentum=0.9, **HOW)
    expected = reference.averaging(make_model(), clients, rounds=4, seed=seed_of(5), server=server, **BY_HAND)
    np.testing.assert_allclose(learner.parameters_, expected, rtol=0, atol=1e-10)


def test_adaptive_clipping_equals_the_paper() -> None:
    clients = make_clients()
    settings = {"clip": "adaptive", "initial_clip": 0.4, "quantile": 0.6, "clip_rate": 0.5}
    learner = fit(clients, rounds=6, **HOW, **settings)
    expected, norms = reference.averaging(
        make_model(), clients, rounds=6, seed=seed_of(5), clip=(0.4, 0.6, 0.5), **BY_HAND
    )
    np.testing.assert_allclose([row["clip"] for row in learner.history_], norms, rtol=1e-12)
    np.testing.assert_allclose(learner.parameters_, expected, rtol=0, atol=1e-10)
    assert len(set(np.sign(np.diff(norms)))) == 2  # it went both ways


def test_a_fixed_clip_cuts_each_change_before_it_is_weighted() -> None:
    clients = make_clients()
    learner = fit(clients, clip=0.3, **HOW)
    frozen = reference.averaging(make_model(), clients, rounds=3, seed=seed_of(5), clip=(0.3, 0.5, 0.0), **BY_HAND)
    np.testing.assert_allclose(learner.parameters_, frozen[0], rtol=0, atol=1e-10)
    assert all(row["clipped"] > 0 for row in learner.history_)


@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_scaffold_equals_the_paper(mode) -> None:
    clients = make_clients()
    learner = fit(clients, rounds=4, weighting="uniform", control_variates=True, mode=mode, **HOW)
    everybody = [range(len(clients))] * 4
    x, c, _ = reference.scaffold(make_model(), clients, rounds=4, seed=seed_of(5), cohorts=everybody, **BY_HAND)
    np.testing.assert_allclose(learner.parameters_, x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(learner.state_.arrays["control"], c, rtol=0, atol=1e-9)


def test_scaffold_keeps_every_clients_variate_at_home_and_starts_anew_in_another_run() -> None:
    clients = make_clients()
    memories = {str(i): {} for i in range(len(clients))}
    federation = LocalFederation({str(i): data for i, data in enumerate(clients)}, mode="trusted", memories=memories)
    settings = {"rounds": 3, "control_variates": True, "weighting": "uniform", "random_state": 5, "dtype": "float64"}
    first = FederatedAveraging(make_model(), **settings, **HOW).fit(federation)
    _, _, own = reference.scaffold(make_model(), clients, rounds=3, seed=seed_of(5), cohorts=[range(4)] * 3, **BY_HAND)
    for i, expected in enumerate(own):
        (kept,) = memories[str(i)].values()
        np.testing.assert_allclose(kept, expected, rtol=0, atol=1e-9)
    again = FederatedAveraging(make_model(), **settings, **HOW).fit(federation)
    np.testing.assert_array_equal(again.parameters_, first.parameters_)


def test_scaffold_with_cohorts_moves_the_servers_variate_by_the_cohorts_part() -> None:
    clients = make_clients(sizes=(12, 20, 9, 15, 11, 18))
    memories = {str(i): {} for i in range(6)}
    federation = LocalFederation(
        {str(i): data for i, data in enumerate(clients)}, mode="trusted", memories=memories, noise_seed=2
    )
    cohorts, before = [], dict.fromkeys(memories, ())

    def look(state):
        now = {name: tuple(value.sum() for value in kept.values()) for name, kept in memories.items()}
        cohorts.append([int(name) for name in sorted(now) if now[name] != before[name]])
        before.update(now)

    settings = {"control_variates": True, "weighting": "uniform", "random_state": 5, "dtype": "float64"}
    learner = FederatedAveraging(
        make_model(), rounds=5, clients_per_round=3, callbacks=look, server_learning_rate=0.5, **settings, **HOW
    ).fit(federation)
    assert {len(cohort) for cohort in cohorts} == {3}
    x, c, _ = reference.scaffold(
        make_model(), clients, rounds=5, seed=seed_of(5), cohorts=cohorts, server_rate=0.5, **BY_HAND
    )
    np.testing.assert_allclose(learner.parameters_, x, rtol=0, atol=1e-10)
    np.testing.assert_allclose(learner.state_.arrays["control"], c, rtol=0, atol=1e-9)


def test_the_same_seed_gives_the_same_model_and_another_seed_another() -> None:
    clients = make_clients()
    first, again, other = (fit(clients, random_state=seed, **HOW).parameters_ for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-6


def test_dropout_layers_draw_from_the_run_and_leave_torchs_generator_alone() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), torch.nn.Dropout(0.5), torch.nn.Linear(6, 3))
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = fit(make_clients(), model, **HOW)
    assert torch.equal(torch.rand(4), expected)
    torch.manual_seed(99)
    np.testing.assert_array_equal(fit(make_clients(), model, **HOW).parameters_, first.parameters_)


def test_the_users_model_stays_and_the_trained_one_is_a_torch_module() -> None:
    model = make_model().float()
    before = reference.flat(model)
    model.train(False)
    learner = fit(make_clients(), model, dtype="float32", **HOW)
    np.testing.assert_array_equal(reference.flat(model), before)
    assert not model.training
    assert isinstance(learner.model_, torch.nn.Sequential)
    assert not learner.model_.training
    assert next(learner.model_.parameters()).dtype is torch.float32
    np.testing.assert_allclose(reference.flat(learner.model_), learner.parameters_, rtol=1e-6)
    x, y = make_clients()[3]
    own = learner.model_(torch.tensor(x, dtype=torch.float32)).argmax(dim=1).numpy()
    np.testing.assert_array_equal(learner.predict(x), own)
    assert np.mean(learner.predict(x) == y) > 0.5
    assert learner.score(x, y) == np.mean(own == y)


def test_secure_aggregation_gives_the_integers_of_the_trusted_mode() -> None:
    clients = make_clients()
    found = [fit(clients, mode=mode, normalisation="fednova", **HOW).parameters_ for mode in ("secure", "trusted")]
    np.testing.assert_array_equal(*found)


def test_weights_beyond_the_public_bound_are_cut_and_pointed_out() -> None:
    clients = make_clients()
    with pytest.warns(UserWarning, match=r"2 client\(s\) have more rows than the largest weight 40"):
        learner = fit(clients, rounds=1, largest_weight=40, **HOW)
    x = reference.flat(make_model())
    seed = reference.local_seed(seed_of(5), 1)
    weights = np.minimum([len(x) for x, _ in clients], 40)
    changes = [reference.walk(make_model(), x, *data, seed=seed, **BY_HAND)[0] - x for data in clients]
    np.testing.assert_allclose(learner.parameters_, x + weights @ np.array(changes) / weights.sum(), rtol=0, atol=1e-10)


def test_what_was_cut_without_being_asked_is_pointed_out() -> None:
    clients = [(np.zeros((1, 1)), np.array([[3e4]])), (np.zeros((1, 1)), np.array([[1.0]]))]
    with pytest.warns(UserWarning, match=r"changes of 1 client\(s\) were longer than 4096"):
        learner = FederatedAveraging.gradient_descent(
            Point([0.0]), half_squares, rounds=1, learning_rate=1.0, dtype="float64"
        ).fit(LocalFederation(clients, mode="trusted"))
    assert learner.parameters_[0] == pytest.approx(4097 / 2)
    wide = FederatedAveraging.gradient_descent(
        Point([0.0]), half_squares, rounds=1, learning_rate=1.0, dtype="float64", clip=1e6
    ).fit(LocalFederation(clients, mode="trusted"))
    assert wide.parameters_[0] == pytest.approx(30001 / 2, rel=1e-12)


def test_history_says_what_happened() -> None:
    learner = fit(make_clients(), **HOW)
    assert [row["round"] for row in learner.history_] == [1, 2, 3]
    assert all(
        row["clients"] == row["contributed"] == 4 and row["clipped"] == row["lost"] == 0 for row in learner.history_
    )
    assert len(learner.releases_) == learner.n_rounds_ == 3
    assert learner.epsilon_ == {}
    assert learner.stop_reason_ == "rounds"
    assert all(row["bytes_up"] > 0 and row["seconds"] > 0 and row["update_norm"] > 0 for row in learner.history_)


def test_an_anchor_at_the_start_is_one_round_of_the_proximal_term() -> None:
    model = make_model()
    anchor = Anchor(reference.flat(model), np.full(4, 0.25), np.array([30, 6, 18, 3]))
    anchored = fit(make_clients(), model, rounds=1, anchor=anchor, **HOW)
    proximal = fit(make_clients(), model, rounds=1, proximal=0.5, **HOW)
    np.testing.assert_allclose(anchored.parameters_, proximal.parameters_, rtol=0, atol=1e-14)


def test_short_changes_arrive_where_they_belong() -> None:
    clients, model = make_clients(), make_model()
    whole = fit(clients, model, rounds=1, **HOW).parameters_
    lossless = fit(clients, model, rounds=1, compression=Compression(), **HOW).parameters_
    np.testing.assert_allclose(lossless, whole, rtol=0, atol=1e-12)
    head = fit(clients, model, rounds=1, compression=Compression(parameters=("2.*",)), **HOW)
    np.testing.assert_array_equal(head.parameters_[:36], reference.flat(model)[:36])
    np.testing.assert_allclose(head.parameters_[36:], whole[36:], rtol=0, atol=1e-12)
    half = fit(clients, model, rounds=1, compression=Compression(keep=0.5), **HOW)
    assert np.count_nonzero(half.parameters_ - reference.flat(model)) <= 29
    assert half.history_[0]["bytes_up"] < 0.6 * fit(clients, model, rounds=1, **HOW).history_[0]["bytes_up"]
