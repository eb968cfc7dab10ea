"""A model as a program: what travels, what stays, what makes two of them the same, and what is refused."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from privfed import DataError, LocalFederation, UsageError
from privfed.learners.neural.losses import row_loss
from privfed.learners.neural.program import TorchProgram
from privfed.learners.neural.running import program_for
from privfed.learners.neural.usable import usable_rows
from privfed.statistics.programs import install, installed
from tests.neural.row_losses import row_losses


class Odd(torch.nn.Module):
    """Frozen weights, a float buffer, an integer buffer, and a scalar parameter."""

    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Linear(3, 4)
        self.backbone.weight.requires_grad_(False)
        self.head = torch.nn.Linear(4, 2)
        self.temperature = torch.nn.Parameter(torch.tensor(1.0))
        self.register_buffer("centre", torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):
        self.calls += 1
        self.centre += 1.0  # what a layer with running statistics does
        return self.head(torch.relu(self.backbone(x - self.centre))) * self.temperature


def odd(seed=0, **settings):
    torch.manual_seed(seed)
    return TorchProgram(Odd(), feature_shape=(3,), **{"dtype": "float64", **settings})


def rows(n=4, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=(n, 3)), rng.integers(0, 2, n)])


def test_the_vector_holds_what_is_trained_in_order() -> None:
    program = odd()
    assert program.layout == (
        ("temperature", ()),
        ("backbone.bias", (4,)),
        ("head.weight", (2, 4)),
        ("head.bias", (2,)),
    )
    vector = program.parameters()
    assert vector.shape == (program.n_parameters,) == (15,)
    assert vector[0] == 1.0
    np.testing.assert_array_equal(vector[5:13], program.model.head.weight.detach().numpy().ravel())


def test_loading_sets_parameters_and_every_buffer() -> None:
    program = odd()
    frozen = program.model.backbone.weight.detach().clone()
    vector = np.arange(15.0)
    row_losses(program, rows()).sum().backward()
    assert program.model.calls == 2  # one of them the probe's
    program.load(vector)
    np.testing.assert_array_equal(program.parameters(), vector)
    assert program.model.calls == 0
    assert torch.equal(program.model.centre, torch.ones(3, dtype=torch.float64))
    assert torch.equal(program.model.backbone.weight, frozen)
    assert all(value.grad is None for _, value in program.trainable())
    with pytest.raises(UsageError, match=r"shape \(14,\), the model has 15"):
        program.load(np.zeros(14))


def test_one_clients_rows_do_not_change_what_the_next_one_computes() -> None:
    program = odd()
    vector = program.parameters()
    program.load(vector)
    expected = row_losses(program, rows(seed=1)).detach().numpy()
    row_losses(program, rows(seed=2))
    program.load(vector)
    np.testing.assert_array_equal(row_losses(program, rows(seed=1)).detach().numpy(), expected)


def test_the_callers_model_is_left_alone() -> None:
    model = Odd()
    before = copy.deepcopy(model.state_dict())
    program = TorchProgram(model, feature_shape=(3,), dtype="float64")
    program.load(np.zeros(15))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert model.head.weight.dtype is torch.float32


def test_programs_are_the_same_by_what_they_compute_not_by_where_they_start() -> None:
    model = Odd()
    moved = copy.deepcopy(model)
    with torch.no_grad():
        moved.head.weight += 1.0
    name = install(kept := TorchProgram(model, feature_shape=(3,)))
    assert install(again := TorchProgram(moved, feature_shape=(3,))) == name
    assert installed(name, of=TorchProgram) is again is not kept
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.backbone.weight += 1.0  # frozen: it never travels, so another value is another program
    thawed = copy.deepcopy(model)
    thawed.backbone.weight.requires_grad_(True)
    changed = [
        TorchProgram(other, feature_shape=(3,)),
        TorchProgram(thawed, feature_shape=(3,)),
        TorchProgram(model, feature_shape=(3,), dtype="float64"),
        TorchProgram(model, "mse", feature_shape=(3,), n_targets=2),
        TorchProgram(model, torch.nn.CrossEntropyLoss(label_smoothing=0.1), feature_shape=(3,)),
        TorchProgram(model, torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0])), feature_shape=(3,)),
    ]
    names = {install(program) for program in changed}
    assert len(names) == len(changed)
    assert name not in names


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("cross_entropy", torch.nn.CrossEntropyLoss(reduction="none")),
        (
            torch.nn.CrossEntropyLoss(label_smoothing=0.1),
            torch.nn.CrossEntropyLoss(label_smoothing=0.1, reduction="none"),
        ),
        (torch.nn.MultiMarginLoss(), torch.nn.MultiMarginLoss(reduction="none")),
    ],
)
def test_losses_of_classes(loss, expected) -> None:
    program = odd(loss=loss)
    data = rows(6)
    program.load(program.parameters())
    outputs = program.forward(data)
    want = expected(outputs, torch.tensor(data[:, 3]).long())
    torch.testing.assert_close(program.per_sample_losses(outputs, program.targets(data)), want)
    assert program.n_classes == 2


@pytest.mark.parametrize(
    ("loss", "outputs", "targets", "by_hand"),
    [
        ("mse", 1, 1, lambda o, t: (o[:, 0] - t[:, 0]) ** 2),
        ("mse", 2, 2, lambda o, t: ((o - t) ** 2).mean(axis=1)),
        ("binary_cross_entropy", 1, 1, lambda o, t: np.log1p(np.exp(o[:, 0])) - t[:, 0] * o[:, 0]),
        (lambda o, t: (o - t).abs().sum(dim=1), 2, 2, lambda o, t: np.abs(o - t).sum(axis=1)),
    ],
)
def test_losses_of_numbers(loss, outputs, targets, by_hand) -> None:
    data = np.random.default_rng(0).normal(size=(5, 3 + targets))
    model = torch.nn.Linear(3, outputs)
    program = TorchProgram(model, loss, feature_shape=(3,), n_targets=targets, dtype="float64")
    out = program.forward(data).detach().numpy()
    np.testing.assert_allclose(row_losses(program, data).detach().numpy(), by_hand(out, data[:, 3:]), rtol=1e-12)
    assert program.n_classes is None


def test_images_and_targets_in_several_places() -> None:
    model = torch.nn.Conv2d(1, 3, 2)
    program = TorchProgram(model, feature_shape=(1, 4, 4), n_targets=9, dtype="float64")
    data = np.column_stack([np.random.default_rng(0).normal(size=(2, 16)), np.full((2, 9), 2.0)])
    assert program.features(data).shape == (2, 1, 4, 4)
    assert program.targets(data).shape == (2, 3, 3)
    assert row_losses(program, data).shape == (2,)
    assert program.predict(data[:, :16]).shape == (2, 3, 3, 3)


def test_words_are_whole_numbers() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(7, 4), torch.nn.Flatten(), torch.nn.Linear(8, 2))
    program = TorchProgram(model, feature_shape=(2,), integer_features=True)
    assert row_losses(program, np.array([[3.0, 6.0, 1.0]])).shape == (1,)


@pytest.mark.parametrize("label", [-1.0, 2.0, 0.5])
def test_labels_that_are_no_classes_are_refused_and_would_count_for_nothing(label) -> None:
    program, data = odd(), rows()
    data[1, 3] = label
    with pytest.raises(DataError, match="no classes of this model: expected whole numbers from 0 to 1"):
        program.check_rows(data)
    losses = row_losses(program, data).detach().numpy()
    assert losses[1] == 0.0
    assert (losses[[0, 2, 3]] > 0).all()
    with pytest.raises(DataError, match="expected 4"):
        program.check_rows(data[:, :3])


def test_prediction_goes_in_batches_in_evaluation_mode() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.9))
    program = TorchProgram(model, feature_shape=(3,), dtype="float64")
    data = np.random.default_rng(0).normal(size=(10, 3))
    expected = model[0].double()(torch.tensor(data)).detach().numpy()
    np.testing.assert_allclose(program.predict(data, batch_size=3), expected, rtol=1e-12)
    assert program.model.training
    assert program.predict(data[:0]).shape == (0, 2)


def lazy():
    return torch.nn.LazyLinear(2)


def frozen():
    return torch.nn.Linear(3, 2).requires_grad_(False)


@pytest.mark.parametrize(
    ("make", "settings", "match"),
    [
        (lambda: "a model", {}, "model is a str"),
        (lazy, {}, "no values yet: run one batch"),
        (frozen, {}, "nothing to train"),
        (lambda: torch.nn.Linear(3, 2, device="meta"), {}, "no values yet"),
        (lambda: torch.nn.Linear(3, 2, dtype=torch.complex64), {}, "expected real"),
        (lambda: torch.nn.Linear(4, 2), {}, r"does not take a batch of one row of features of shape \(3,\)"),
        (lambda: torch.nn.Linear(3, 2), {"dtype": "int8"}, "dtype is 'int8'"),
        (lambda: torch.nn.Linear(3, 2), {"device": "nowhere"}, "cannot be used here"),
        (lambda: torch.nn.Linear(3, 2), {"loss": "hinge"}, "loss is 'hinge', expected one of cross_entropy"),
        (lambda: torch.nn.Linear(3, 2), {"loss": 3}, "loss is 3"),
        (lambda: torch.nn.Linear(3, 2), {"n_targets": 2}, r"for 2 class target.*argmax\(axis=1\)"),
        (lambda: torch.nn.Linear(3, 1), {}, "one score per row.*binary_cross_entropy"),
        (lambda: torch.nn.LSTM(3, 2), {}, "returns no tensor"),
    ],
)
def test_models_that_cannot_be_used_are_refused(make, settings, match) -> None:
    with pytest.raises(UsageError, match=match):
        TorchProgram(make(), feature_shape=(3,), **{"dtype": "float32", **settings})


def crossed(outputs, targets):
    return (outputs - targets.reshape(-1)) ** 2


LOSSES_THAT_MISFIT = [
    (1, lambda outputs, targets: ((outputs - targets) ** 2).mean(), 1, "reduction='none'"),
    (1, torch.nn.functional.mse_loss, 1, "reduction='none'"),
    (1, lambda outputs, targets: 1 / 0, 1, "ZeroDivisionError"),
    (1, crossed, 1, r"\(2, 2\) for 2 rows and \(3, 3\) for 3 rows.*against all others"),
    (2, torch.nn.functional.cross_entropy, 1, "float32 targets of shape.*class_targets=True"),
    (1, torch.nn.CosineEmbeddingLoss(), 1, "TypeError"),
    (2, "binary_cross_entropy", 1, "as many outputs as there are targets"),
    (1, "binary_cross_entropy", 3, "as many outputs as there are targets"),
    (2, "mse", 1, "as many outputs as there are targets"),
    (2, torch.nn.L1Loss(), 1, "as many outputs as there are targets"),
    (1, torch.nn.MSELoss, 1, r"the class MSELoss.*MSELoss\(\)"),
]


@pytest.mark.parametrize(("outputs", "loss", "targets", "match"), LOSSES_THAT_MISFIT)
def test_a_loss_that_does_not_fit_is_refused_before_anybody_is_asked(outputs, loss, targets, match) -> None:
    with pytest.raises(UsageError, match=match):
        TorchProgram(torch.nn.Linear(3, outputs), loss, feature_shape=(3,), n_targets=targets)


@pytest.mark.parametrize(
    ("name", "module"),
    [
        ("cross_entropy", torch.nn.CrossEntropyLoss()),
        ("binary_cross_entropy", torch.nn.BCEWithLogitsLoss(reduction="sum")),
        ("mse", torch.nn.MSELoss().train(False)),
    ],
)
def test_modules_that_are_built_in_losses_go_by_their_name(name, module) -> None:
    assert row_loss(module).description == name
    assert row_loss(module).class_targets == row_loss(name).class_targets


@pytest.mark.parametrize(
    "module",
    [
        torch.nn.CrossEntropyLoss(label_smoothing=0.1),
        torch.nn.CrossEntropyLoss(weight=torch.ones(2)),
        torch.nn.BCEWithLogitsLoss(pos_weight=torch.ones(1)),
    ],
)
def test_modules_with_settings_of_their_own_keep_them(module) -> None:
    found = row_loss(module)
    assert type(module).__name__ in found.description
    assert found.function is not module


def test_targets_of_a_binary_loss_are_from_0_to_1() -> None:
    program = TorchProgram(torch.nn.Linear(3, 1), "binary_cross_entropy", feature_shape=(3,))
    data = rows(n=4)
    data[:, -1] = [0.0, 1.0, 0.5, -1.0]
    assert program.known_targets(data).tolist() == [True, True, True, False]
    np.testing.assert_array_equal(usable_rows(program, data), data[:3])
    program.check_rows(data[:3])
    with pytest.raises(DataError, match="turn -1 and 1 into 0 and 1"):
        program.check_rows(data)


def test_without_torch_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(UsageError, match=r"pip install 'privfed\[torch\]'"):
        TorchProgram(None, feature_shape=(3,))


def test_naming_the_learners_loads_no_torch() -> None:
    code = "import sys, privfed.learners.neural; sys.exit('torch' in sys.modules)"
    subprocess.run(
        [sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )


def test_what_is_no_federation_and_plain_rows_of_features_alone_are_pointed_out() -> None:
    with pytest.raises(UsageError, match=r"expected a federation.*not list"):
        program_for([np.zeros((5, 4))] * 2, torch.nn.Linear(4, 2), "cross_entropy")
    plain = LocalFederation([np.zeros((5, 4))] * 2, mode="trusted")
    with pytest.raises(UsageError, match=r"of shape \(3,\).*last column was taken for the target.*pairs \(X, y\)"):
        program_for(plain, torch.nn.Linear(4, 2), "cross_entropy")
