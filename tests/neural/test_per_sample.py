"""The sum of clipped gradients: what each record adds, wherever it stands, and by whatever engine."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from privfed.errors import DataError, UsageError
from privfed.learners.neural.evaluation.scores import ModelScores
from privfed.learners.neural.per_sample.gradients import GradientSum, PerSample, per_sample
from privfed.learners.neural.program import TorchProgram
from privfed.query import Query
from privfed.statistics.programs import install
from tests.neural.row_losses import row_losses
from tests.privfed.query_contract import QueryContract

CLASSES = 3


def linear() -> nn.Module:
    return nn.Linear(8, CLASSES)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, CLASSES, bias=False))


def convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 2, 4)),
        nn.Conv2d(1, 4, 2),
        nn.GroupNorm(2, 4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(12, CLASSES),
    )


def with_fixed_start() -> nn.Module:
    fixed = nn.Linear(8, 6).requires_grad_(False)
    return nn.Sequential(fixed, nn.Tanh(), nn.Linear(6, CLASSES))


MODELS = {"linear": linear, "perceptron": perceptron, "convolution": convolution, "fixed start": with_fixed_start}


def program_of(kind: str, dtype: str = "float32", **settings: object) -> TorchProgram:
    torch.manual_seed(7)
    return TorchProgram(MODELS[kind](), "cross_entropy", feature_shape=(8,), dtype=dtype, **settings)


def some_rows(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.hstack([rng.standard_normal((n, 8)), rng.integers(0, CLASSES, (n, 1))])


def by_hand(program: TorchProgram, rows: np.ndarray, clip: float) -> np.ndarray:
    """Each record's gradient by a backward pass of its own, clipped in numpy."""
    program.load(program.parameters())
    program.model.train(False)
    total = np.zeros(program.n_parameters)
    for row in rows:
        program.model.zero_grad()
        row_losses(program, row[None]).sum().backward()
        gradient = program.gradient()
        total += gradient * min(1.0, clip / max(np.linalg.norm(gradient), 1e-300))
    return total


class TestGradientSum(QueryContract):
    width = 3

    def make(self) -> Query:
        if "contract" not in _KEPT:  # one for all examples: engines are tried on it once
            torch.manual_seed(3)
            _KEPT["contract"] = TorchProgram(nn.Linear(2, 4), "cross_entropy", feature_shape=(2,))
        program = _KEPT["contract"]
        return GradientSum(install(program), program.parameters(), clip=0.7)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["outer", "functional", "row_by_row"])
def test_every_engine_gives_the_gradients_that_a_backward_pass_gives(kind: str, method: str) -> None:
    if (kind, method) == ("convolution", "outer"):
        pytest.skip("no outer products")
    program = program_of(kind, "float64")
    rows = some_rows(37)
    engine = PerSample(program, method=method)
    assert engine.method == method
    for clip in (1e-3, 0.8, 1e3):
        found = engine.clipped_sum(rows, program.parameters(), clip)
        np.testing.assert_allclose(found, by_hand(program, rows, clip), rtol=1e-10, atol=1e-10 * clip)


def test_engines_are_chosen_by_what_they_can() -> None:
    assert {kind: PerSample(program_of(kind)).method for kind in MODELS} == {
        "linear": "outer",
        "perceptron": "outer",
        "convolution": "functional",
        "fixed start": "outer",
    }
    recurrent = TorchProgram(_Last(), "cross_entropy", feature_shape=(4, 2))
    assert PerSample(recurrent).method == "functional"
    assert PerSample(TorchProgram(_OwnStyle(), "cross_entropy", feature_shape=(2, 4))).method == "outer"
    with pytest.raises(UsageError, match="expected one of outer, functional, row_by_row"):
        PerSample(program_of("linear"), method="fast")


class _Last(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.recurrent, self.head = nn.GRU(2, 3, batch_first=True), nn.Linear(3, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(x)[0][:, -1])


class _OwnStyle(nn.Module):
    """A perceptron as people write one: a chain of listed layers all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 5), nn.Linear(5, CLASSES)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(x, 1)
        return self.second(nn.functional.relu(self.act(self.first(x)).tanh()))


class _Twice(nn.Module):
    """A layer that is applied twice: its gradient is no single outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class _Behind(nn.Module):
    """A weight that is also used behind its layer's back."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + nn.functional.linear(x.square(), self.layer.weight)


@pytest.mark.parametrize("model", [_Twice, _Behind])
def test_outer_products_are_not_taken_where_they_would_be_wrong(model: type[nn.Module]) -> None:
    torch.manual_seed(0)
    program = TorchProgram(model(), "cross_entropy", feature_shape=(8,), dtype="float64")
    engine, rows = PerSample(program), some_rows(20)
    assert engine.method == "functional"
    found = engine.clipped_sum(rows, program.parameters(), 0.5)
    np.testing.assert_allclose(found, by_hand(program, rows, 0.5), atol=1e-10)


@pytest.mark.parametrize("kind", MODELS)
def test_a_record_adds_the_same_bits_wherever_it_stands(kind: str) -> None:
    """In float32, where two kernels would differ by 1e-7: the difference of neighbours is one record, to 1e-15."""
    program = program_of(kind)
    name, rows = install(program), some_rows(300)
    query = GradientSum(name, program.parameters(), clip=0.3)
    whole = query.contribution(rows)["gradient"]
    for gone in (0, 1, 17, 255, 256, 299):
        alone = query.contribution(rows[gone : gone + 1])["gradient"]
        rest = query.contribution(np.delete(rows, gone, axis=0))["gradient"]
        assert np.abs(whole - rest - alone).max() < 1e-13
    order = np.random.default_rng(1).permutation(300)
    assert np.abs(query.contribution(rows[order])["gradient"] - whole).max() < 1e-13


def test_without_blocks_of_one_shape_it_would_not() -> None:
    """What the padding is for: plain float32 batches of other sizes move a row's gradient by a rounding."""
    torch.manual_seed(0)
    layer, rows = nn.Linear(300, 200), torch.randn(64, 300)
    whole = layer(rows)
    moved = [float((layer(rows[:n]) - whole[:n]).detach().abs().max()) for n in range(1, 64)]
    assert max(moved) > 0.0


def test_a_loss_that_cannot_be_used_says_why() -> None:
    def loss(outputs, targets):  # one number per row but for a row alone
        return outputs.mean(dim=1) if len(outputs) > 1 else outputs.mean()

    program = TorchProgram(linear(), loss, feature_shape=(8,), class_targets=True)
    with pytest.raises(UsageError, match=r"one record at a time: .* the loss gave shape \(\)"):
        PerSample(program)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), clip=st.sampled_from([1e-6, 0.1, 3.0]))
def test_no_record_adds_more_than_the_clip(seed: int, clip: float) -> None:
    program = _kept("perceptron")
    rng = np.random.default_rng(seed)
    row = some_rows(1, seed) * 10.0 ** rng.uniform(-20, 20)
    row[0, -1] = rng.integers(0, CLASSES)
    added = per_sample(install(program)).clipped_sum(row, program.parameters(), clip)
    assert np.linalg.norm(added) <= clip * (1 + 2.0**-40)


_KEPT: dict[str, TorchProgram] = {}


def _kept(kind: str) -> TorchProgram:
    return _KEPT.setdefault(kind, program_of(kind))


@pytest.mark.parametrize("kind", ["linear", "perceptron", "convolution"])
def test_records_that_cannot_be_used_add_nothing_and_spoil_nothing(kind: str) -> None:
    program = program_of(kind)
    query, good = GradientSum(install(program), program.parameters(), clip=0.3), some_rows(40)
    right = query.contribution(good)["gradient"]
    bad = some_rows(4, 1)
    bad[0, 0], bad[1, 0] = 1e100, -1e100  # infinite in float32
    bad[2, -1], bad[3, -1] = 17, 0.5  # no classes
    rows = np.vstack([bad[:2], good[:20], bad[2:], good[20:]])
    np.testing.assert_allclose(query.contribution(rows)["gradient"], right, atol=1e-13)
    assert not np.abs(query.contribution(bad)["gradient"]).any()
    assert not np.abs(query.contribution(rows[:0])["gradient"]).any()


def test_a_word_that_is_not_in_the_vocabulary_adds_nothing() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(12, CLASSES))
    program = TorchProgram(model, "cross_entropy", feature_shape=(3,), integer_features=True)
    query = GradientSum(install(program), program.parameters(), clip=0.3)
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.integers(0, 5, (50, 3)), rng.integers(0, CLASSES, (50, 1))]).astype(float)
    right = query.contribution(rows)["gradient"]
    strange = rows[:1].copy()
    strange[0, 1] = 9
    found = query.contribution(np.vstack([rows[:7], strange, rows[7:]]))["gradient"]
    np.testing.assert_allclose(found, right, atol=1e-13)
    assert np.abs(right).max() > 0


class _Words(nn.Module):
    """Looks numbers up in a table of nine: torch itself raises over others."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.layer = nn.Embedding(9, 4), nn.Linear(11, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(torch.cat([self.words(x[:, 0].abs().clamp(max=20).long()), x[:, 1:]], dim=1))


@pytest.mark.parametrize("kind", [GradientSum, ModelScores])
def test_a_row_over_which_torch_raises_takes_no_other_down(kind: type) -> None:
    torch.manual_seed(0)
    program = TorchProgram(_Words(), "cross_entropy", feature_shape=(8,))
    name = install(program)
    query = kind(name, program.parameters(), 0.3) if kind is GradientSum else kind(name, program.parameters())
    good = some_rows(5)
    strange = good[:1].copy()
    strange[0, 0] = 17.0
    together = query.checked_contribution(np.vstack([good[:2], strange, good[2:]]))
    apart = query.checked_contribution(good) + query.checked_contribution(strange)
    np.testing.assert_allclose(together, apart, atol=1e-13)
    assert np.linalg.norm(query.checked_contribution(strange)) <= 1 + 1e-12
    assert np.abs(query.checked_contribution(good)).max() > 0


@pytest.mark.parametrize("frozen_rows", [False, True])
def test_a_row_on_which_fixed_layers_fail_adds_nothing_and_spoils_nothing(frozen_rows: bool) -> None:
    """Outputs of fixed layers are worked out before the gradients, for many rows at once."""
    torch.manual_seed(0)
    words = nn.Embedding(5, 4).requires_grad_(False)
    model = nn.Sequential(words, nn.Flatten(), nn.Linear(12, CLASSES))
    program = TorchProgram(model, "cross_entropy", feature_shape=(3,), integer_features=True)
    query = GradientSum(install(program), program.parameters(), clip=0.3)
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.integers(0, 5, (50, 3)), rng.integers(0, CLASSES, (50, 1))]).astype(float)
    right = query.contribution(rows)["gradient"]
    strange = rows[:1].copy()
    strange[0, 1] = 9
    mixed = np.vstack([rows[:7], strange, rows[7:]])
    for array in (mixed, strange):
        array.setflags(write=not frozen_rows)
    np.testing.assert_allclose(query.contribution(mixed)["gradient"], right, atol=1e-13)
    assert not np.abs(query.contribution(strange)["gradient"]).any()
    assert np.abs(right).max() > 0


def test_fixed_features_are_computed_once_for_rows_that_cannot_change() -> None:
    calls: list[int] = []
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6).requires_grad_(False), nn.Linear(6, CLASSES))
    program = TorchProgram(model, "cross_entropy", feature_shape=(8,))
    engine, rows = PerSample(program), some_rows(300)
    inner = engine._prefix
    assert inner is not None

    def counting(features: torch.Tensor) -> torch.Tensor:
        calls.append(len(features))
        return inner(features)

    engine._prefix = counting
    rows.setflags(write=False)
    first = engine.clipped_sum(rows, program.parameters(), 1.0)
    assert calls
    calls.clear()
    np.testing.assert_array_equal(engine.clipped_sum(rows, program.parameters(), 1.0), first)
    assert calls == []
    changing = rows.copy()
    np.testing.assert_array_equal(engine.clipped_sum(changing, program.parameters(), 1.0), first)
    assert set(calls) == {engine.fixed_block}
    assert len(engine._kept) == 1
    del rows
    assert len(engine._kept) == 0


def test_rows_of_odd_width_go_in_blocks_too() -> None:
    """Rows that begin at odd addresses come out to other bits, and would go one by one: nine times slower."""
    program = TorchProgram(nn.Linear(3969, 10), "cross_entropy", feature_shape=(3969,))
    engine = PerSample(program)
    assert engine.method == "outer"
    assert engine.block > 1
    rng = np.random.default_rng(5)
    rows = np.hstack([rng.standard_normal((40, 3969)), rng.integers(0, 10, (40, 1))])
    whole = engine.clipped_sum(rows, program.parameters(), 1.0)
    parts = [engine.clipped_sum(rows[place : place + 1], program.parameters(), 1.0) for place in range(40)]
    np.testing.assert_allclose(sum(parts), whole, rtol=0, atol=1e-13)


def test_what_a_query_of_gradients_refuses() -> None:
    program = program_of("linear")
    name, parameters = install(program), program.parameters()
    with pytest.raises(UsageError, match="clip is 0"):
        GradientSum(name, parameters, clip=0)
    with pytest.raises(UsageError, match="parameters holds NaN"):
        GradientSum(name, parameters * np.nan, clip=1.0)
    with pytest.raises(UsageError, match="expected a name and one axis"):
        GradientSum(name, parameters.reshape(1, -1), clip=1.0)
    with pytest.raises(UsageError, match="no program 'torch_model:0000'"):
        GradientSum("torch_model:0000", parameters, clip=1.0).contribution(some_rows(3))
    with pytest.raises(DataError, match="have 4 features, query 'gradient_sum' expects 9"):
        GradientSum(name, parameters, clip=1.0).admit(np.zeros((2, 4)))
