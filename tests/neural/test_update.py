"""What every client sends: bounded whatever its rows are, total, one vector; remembered only if it counted."""

from __future__ import annotations

import dataclasses
import logging

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed import Budget, DataError, LocalFederation, Loss, UsageError
from privfed.learners.neural.averaging.compression import Compression
from privfed.learners.neural.averaging.local import LocalTraining, batches, effective_steps, train
from privfed.learners.neural.averaging.objective import Anchor
from privfed.learners.neural.averaging.update import ModelUpdate
from privfed.learners.neural.program import TorchProgram
from privfed.query import decode_query, encode_query
from privfed.statistics.programs import install
from tests.privfed.query_contract import hostile_rows

START = np.linspace(-0.2, 0.2, 8)
VARIANTS = {
    "plain": {},
    "weighted": {"largest_weight": 8.0, "weight_share": 0.1},
    "everything": {
        "largest_weight": 8.0,
        "weight_share": 0.1,
        "count_weight": 0.3,
        "normalise": True,
        "proximal": 0.1,
        "control": np.full(8, 0.3),
        "control_clip": 0.5,
        "control_share": 0.3,
    },
    "exact": {"exact": True},
    "exact everything": {"exact": True, "largest_weight": 8.0, "normalise": True, "control": np.full(8, 0.3)},
    "compressed": {"compression": Compression(keep=0.5).as_fields(), "round_seed": b"r" * 32},
    "personal": {"personal": ("bias",), "weight_share": 0.1, "largest_weight": 5.0},
    "momentum": {"training": LocalTraining(0.5, 2, 3, momentum=0.9).as_fields(), "normalise": True, "exact": True},
}


@pytest.fixture(scope="module")
def program():
    torch.manual_seed(0)
    found = TorchProgram(torch.nn.Linear(3, 2), feature_shape=(3,), dtype="float64")
    install(found)
    return found


def query_of(program, **fields):
    usual = {"parameters": START, "seed": 4, "training": LocalTraining(0.5, 2, 3).as_fields(), "clip": 0.7}
    return ModelUpdate(program=install(program), **{**usual, **fields})


def labelled(features, seed=0):
    return np.column_stack([features, np.random.default_rng(seed).integers(0, 2, len(features))])


@pytest.mark.parametrize("variant", VARIANTS)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32))
def test_a_clients_vector_has_norm_at_most_one_whatever_its_rows_are(program, variant, seed) -> None:
    query = query_of(program, **VARIANTS[variant])
    data = labelled(hostile_rows(seed, 6, 3), seed)
    memory: dict[str, np.ndarray] = {}
    for rows in (data, data[:1], data[:0]):
        vector = query.checked_contribution(rows, memory)
        assert np.linalg.norm(vector) <= 1 + 1e-9
        values = query.client_contribution(rows, memory)
        for block in query.blocks:
            assert np.linalg.norm(np.ravel(values[block.name])) <= block.bound * (1 + 1e-9), block.name


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_travels_as_data(program, variant) -> None:
    query, rows = query_of(program, **VARIANTS[variant]), labelled(np.eye(3))
    again = decode_query(encode_query(query))
    assert type(again) is ModelUpdate
    assert encode_query(again) == encode_query(query)
    np.testing.assert_array_equal(again.checked_contribution(rows, {}), query.checked_contribution(rows, {}))


@pytest.mark.parametrize("variant", VARIANTS)
def test_nobody_learns_that_training_failed(program, variant, caplog) -> None:
    """Training that comes to NaN adds zeros, changes no memory, and is for the client's own log."""
    wild = {**VARIANTS[variant], "training": LocalTraining(1e100, 5, 1).as_fields()}
    query, memory = query_of(program, **wild), {"kept": np.ones(1)}
    with caplog.at_level(logging.WARNING):
        vector = query.checked_contribution(labelled(np.full((4, 3), 1e100)), memory)
    assert not vector.any()
    assert list(memory) == ["kept"]
    assert "contributes nothing in this round" in caplog.text
    assert "1e+100" not in caplog.text


def test_an_error_inside_the_model_is_no_error_of_the_round(caplog) -> None:
    class Fussy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            if (x > 5).any():
                raise RuntimeError("too large for me")
            return self.layer(x)

    fussy = TorchProgram(Fussy(), feature_shape=(3,))
    query = query_of(fussy)
    with caplog.at_level(logging.WARNING):
        assert not query.checked_contribution(labelled(np.full((2, 3), 9.0)), {}).any()
    assert "local training failed" in caplog.text
    assert query.checked_contribution(labelled(np.eye(3)), {}).any()


def test_an_error_of_any_kind_is_the_clients_own_affair_and_quotes_no_row_in_its_log(caplog) -> None:
    class OddError(Exception):
        pass

    class Telling(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(3, 2)

        def forward(self, x):
            if (x > 5).any():
                raise OddError(f"a value of {float(x.max())} is no good")
            return self.layer(x)

    telling = TorchProgram(Telling(), feature_shape=(3,))
    with caplog.at_level(logging.WARNING):
        assert not query_of(telling).checked_contribution(labelled(np.full((2, 3), 8.25)), {}).any()
    assert "local training failed with OddError" in caplog.text
    assert "8.25" not in caplog.text


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize(
    "hostile",
    [
        {"normalise": True, "proximal": 1e9},
        {"control": np.full(8, 1e99), "training": LocalTraining(1e-300, 1, 2).as_fields()},
        {"control": np.full(8, 1e300), "control_clip": 1e-200},
        {"anchor": np.zeros(3), "anchor_strengths": np.ones(1)},
        {"proximal": 1e300},
        {"largest_weight": 1e99, "normalise": True},
    ],
    ids=["steps", "rate", "control", "anchor", "proximal", "weight"],
)
def test_a_server_learns_nothing_by_asking_for_the_absurd(program, hostile) -> None:
    """Whatever the query says, the rows decide between zeros and a bounded vector, never between that and an error."""
    query = query_of(program, **hostile)
    for n in (0, 1, 40):
        memory: dict[str, np.ndarray] = {}
        vector = query.checked_contribution(labelled(np.random.default_rng(0).normal(size=(n, 3))), memory)
        assert np.linalg.norm(vector) <= 1 + 1e-9
        assert all(np.isfinite(value).all() for value in memory.values())


def test_the_parts_ride_together_and_say_what_they_should(program) -> None:
    query = query_of(program, **VARIANTS["everything"])
    rows = labelled(np.random.default_rng(0).normal(size=(11, 3)))
    memory: dict[str, np.ndarray] = {}
    values = query.client_contribution(rows, memory)
    assert [block.name for block in query.blocks] == ["delta", "weight", "steps", "control", "unclipped"]
    assert sum(block.share for block in query.blocks) == pytest.approx(1.0)
    assert values["weight"] == 8.0  # 11 rows count for 8
    anchored = train(
        program,
        query.parameters,
        rows,
        LocalTraining(0.5, 2, 3),
        seed=4,
        objectives=[Anchor(query.parameters, np.full(2, 0.05), np.array([6, 2]))],
        shift=np.full(8, 0.3),
    )
    assert anchored.steps == 8  # 2 epochs of 4 batches
    steps = effective_steps(8, LocalTraining(0.5, 2, 3), 0.1)
    np.testing.assert_allclose(values["steps"], 8.0 * min(steps, 6.0))  # 8 rows make 6 steps at most
    delta = anchored.delta / steps
    np.testing.assert_allclose(values["delta"], 8.0 * delta * min(1.0, 0.7 / np.linalg.norm(delta)), rtol=1e-12)
    moved = -np.full(8, 0.3) - anchored.delta / (8 * 0.5)
    moved *= min(1.0, 0.5 / np.linalg.norm(moved))
    np.testing.assert_allclose(values["control"], 8.0 * moved, rtol=1e-12)
    np.testing.assert_allclose(memory["scaffold.control."], moved, rtol=1e-12)
    assert values["unclipped"] == (0.5 if np.linalg.norm(delta) <= 0.7 else -0.5)


def test_rows_of_another_kind_are_refused_before_anything_is_computed(program) -> None:
    query = query_of(program)
    with pytest.raises(DataError, match="no classes"):
        query.vet(np.full((2, 4), 7.0))
    query.admit(np.full((2, 4), 7.0))
    with pytest.raises(DataError, match="expects 4"):
        query.admit(np.ones((2, 3)))
    with pytest.raises(UsageError, match="no program 'torch_model:0' is installed"):
        dataclasses.replace(query, program="torch_model:0").admit(labelled(np.eye(3)))
    with pytest.raises(UsageError, match="8 parameters, the query brings 7"):
        dataclasses.replace(query, parameters=np.zeros(7)).admit(labelled(np.eye(3)))


def test_labels_of_no_class_are_refused_without_a_budget_and_train_nothing_under_one(program) -> None:
    """Under a budget a refusal would tell the coordinator, who chose the classes, that somebody has such a label."""
    data = [labelled(np.eye(3)), np.full((3, 4), 7.0)]
    with pytest.raises(DataError, match=r"client 'client-01'.*no classes"):
        LocalFederation(data).release(query_of(program, exact=True))
    federation = LocalFederation(data, budget=Budget(epsilon=1.0, delta=1e-5, unit="client"))
    with pytest.warns(UserWarning, match=r"client 'client-01'.*no classes.*count for nothing"):
        federation.release(query_of(program), share=0.5)
    assert federation.remaining_share == pytest.approx(0.5)
    rows = labelled(np.random.default_rng(0).normal(size=(6, 3)))
    with_odd = np.insert(rows, 2, [1.0, 1.0, 1.0, -3.0], axis=0)
    query = query_of(program)
    np.testing.assert_array_equal(query.checked_contribution(with_odd, {}), query.checked_contribution(rows, {}))


def test_personal_layers_stay_at_home_from_round_to_round(program) -> None:
    rows, memory = labelled(np.random.default_rng(1).normal(size=(9, 3))), {}
    query = query_of(program, personal=("bias",), clip=100.0)
    assert query.length == 6
    first = query.client_contribution(rows, memory)["delta"]
    whole = train(program, query.parameters, rows, LocalTraining(0.5, 2, 3), seed=4).delta
    np.testing.assert_allclose(first, whole[:6], rtol=1e-12)
    np.testing.assert_allclose(memory["personal:bias"], query.parameters[6:] + whole[6:], rtol=1e-12)
    second = query.client_contribution(rows, memory)["delta"]
    own = query.parameters.copy()
    own[6:] += whole[6:]
    np.testing.assert_allclose(
        second, train(program, own, rows, LocalTraining(0.5, 2, 3), seed=4).delta[:6], rtol=1e-12
    )
    np.testing.assert_array_equal(query.expand(np.arange(1.0, 7.0)), [1, 2, 3, 4, 5, 6, 0, 0])


def test_a_lost_clients_variate_stays_as_it_was(program) -> None:
    rng = np.random.default_rng(0)
    data = {name: labelled(rng.normal(size=(5, 3))) for name in "abcd"}
    memories: dict[str, dict] = {name: {} for name in data}
    query = query_of(program, exact=True, control=np.zeros(8), run="r")
    federation = LocalFederation(data, memories=memories, losses=[Loss("c", "masked")], dropout=0.3)
    release = federation.release(query)
    assert release.lost == ("c",)
    assert [len(memories[name]) for name in "abcd"] == [1, 1, 0, 1]
    assert query.sums(release).contributed == 3


@given(n=st.integers(0, 40), size=st.integers(0, 50), epochs=st.integers(1, 4), seed=st.integers(0, 2**62))
def test_batches_visit_every_row_once_an_epoch(n, size, epochs, seed) -> None:
    training = LocalTraining(0.1, epochs, size)
    found = list(batches(n, training, seed))
    assert len(found) == training.steps(n)
    assert np.bincount(np.concatenate([np.empty(0, int), *found]), minlength=n).tolist() == [epochs] * n
    assert all(len(one) == (size or n) for one in found if one is not found[-1]) or n % (size or 1)


def test_effective_steps_are_the_l1_norm_of_the_papers_weights() -> None:
    """Momentum: a_j = (1 - rho^(tau-j)) / (1 - rho); proximal: a_j = (1 - eta mu)^(tau-1-j)."""
    for steps in (0, 1, 7):
        assert effective_steps(steps, LocalTraining(0.1)) == steps
        weights = [(1 - 0.9 ** (steps - j)) / 0.1 for j in range(steps)]
        assert effective_steps(steps, LocalTraining(0.1, momentum=0.9)) == pytest.approx(sum(weights))
        weights = [(1 - 0.1 * 2.0) ** (steps - 1 - j) for j in range(steps)]
        assert effective_steps(steps, LocalTraining(0.1), 2.0) == pytest.approx(sum(weights))


@pytest.mark.parametrize(("name", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0), ("adamw", 0.0)])
def test_local_training_is_torchs_own_loop(program, name, momentum) -> None:
    rows = labelled(np.random.default_rng(0).normal(size=(10, 3)))
    training = LocalTraining(0.05, 3, 4, name, momentum, weight_decay=0.1)
    start = START
    found = train(program, start, rows, training, seed=9)
    layer = torch.nn.Linear(3, 2).double()
    torch.nn.utils.vector_to_parameters(torch.tensor(start), layer.parameters())
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[name]
    optimizer = made(layer.parameters(), lr=0.05, weight_decay=0.1, **({"momentum": momentum} if momentum else {}))
    for index in batches(10, training, 9):
        optimizer.zero_grad()
        x, y = torch.tensor(rows[index, :3]), torch.tensor(rows[index, 3]).long()
        torch.nn.functional.cross_entropy(layer(x), y).backward()
        optimizer.step()
    expected = torch.nn.utils.parameters_to_vector(layer.parameters()).detach().numpy() - start
    np.testing.assert_allclose(found.delta, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"clip": 0.0}, "clip is 0.0"),
        ({"parameters": np.array([np.nan] * 8)}, "all finite"),
        ({"control": np.zeros(3)}, "3 coordinates, the model 8"),
        ({"weight_share": 0.7, "count_weight": 0.6}, "leave some for the change"),
        ({"seed": -1}, "seed is -1"),
        ({"largest_weight": np.inf}, "largest_weight is inf"),
        ({"proximal": -1.0}, "proximal is -1"),
        ({"training": (0.1,)}, "six settings"),
        ({"training": (0.1, 0, 3, "sgd", 0.0, 0.0)}, "local_epochs is 0"),
        ({"training": (0.1, 1, 3, "lion", 0.0, 0.0)}, "optimizer is 'lion'"),
        ({"training": (0.1, 1, 3, "sgd", 1.0, 0.0)}, "momentum is 1.0"),
        ({"training": (0.1, 1, 3, "adam", 0.5, 0.0)}, "moments of its own"),
    ],
)
def test_nonsense_is_refused_wherever_it_comes_from(program, wrong, match) -> None:
    with pytest.raises(UsageError, match=match):
        dataclasses.replace(query_of(program), **wrong)


class Hoarding(torch.nn.Module):
    """Keeps the rows that it saw, in an attribute and in a buffer, and takes off their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.rows = torch.nn.Linear(3, 2), [torch.zeros(1, 3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.rows.append(x.detach())
        return self.layer(x - torch.cat(self.rows).mean(dim=0))


def test_nothing_passes_from_one_client_to_the_next_of_a_process_but_memories() -> None:
    torch.manual_seed(0)
    program = TorchProgram(Hoarding(), "cross_entropy", feature_shape=(3,))
    training = LocalTraining(0.5, epochs=2, batch_size=4).as_fields()
    query = ModelUpdate(install(program), program.parameters(), training, seed=1)
    rng = np.random.default_rng(0)
    mine, others = (np.column_stack([rng.normal(size=(10, 3)), rng.integers(0, 2, 10)]) for _ in range(2))
    first = query.client_contribution(mine, {})["delta"]
    query.client_contribution(others * 3.0, {})
    np.testing.assert_array_equal(query.client_contribution(mine, {})["delta"], first)
    assert np.abs(first).max() > 0
    assert len(program.model.rows) <= 2  # of zeros: what the program was tried on when it was made
    assert not torch.cat(program.model.rows).any()
