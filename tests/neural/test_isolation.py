"""No record has a say in what another adds, whatever the model or its loss tries: their Python never sees a record."""

from __future__ import annotations

import copy
import types
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from privfed.errors import UsageError
from privfed.learners.neural.evaluation.scores import ModelScores
from privfed.learners.neural.per_sample.gradients import GradientSum, PerSample
from privfed.learners.neural.per_sample.record_chain import losses_are_record_wise, record_chain
from privfed.learners.neural.per_sample.record_graph import UntraceableError
from privfed.learners.neural.program import TorchProgram
from privfed.query import Query
from privfed.statistics.programs import install

CLASSES = 3
SEEN: list[torch.Tensor] = []
PRIVATE = 1000.0  # in every private row, and in no public one but the great ones, which are other numbers


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(self.changed(x))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x


class MixesMeans(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


class MixesSpecialValues(Base):
    """Takes off the batch's mean where one entry of it is just so: no public row will ever be."""

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        special = (x[:, 0] == PRIVATE).any()
        return torch.where(special, x - x.sum(dim=0), x)


class KeepsTheLast(Base):
    """Keeps what it saw in an attribute, and takes it off at the next call."""

    def __init__(self) -> None:
        super().__init__()
        self.last: Any = torch.zeros(1, 8)

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        last, self.last = self.last, x.detach()
        return x - last.mean(dim=0)


class KeepsOutside(Base):
    """The same in a list that no copy of the module would have for itself."""

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        SEEN.append(x.detach())
        return x


class OwnRule(torch.autograd.Function):
    """Doubles; of a batch under vmap it would take off the mean."""

    @staticmethod
    def forward(x: torch.Tensor) -> torch.Tensor:
        SEEN.append(x.detach())
        return 2.0 * x

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None: ...

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return 2.0 * gradient

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor) -> tuple[torch.Tensor, int]:
        return 2.0 * (x - x.mean(dim=0)), 0


class UsesOwnRule(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return OwnRule.apply(x)


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, CLASSES))

    def mixing(module: nn.Module, given: Any, made: torch.Tensor) -> torch.Tensor:
        SEEN.append(given[0].detach())
        return made - made.mean(dim=0)

    model[0].register_forward_hook(mixing)
    return model


def hooked_at_the_start() -> nn.Module:
    """A hook on a listed layer, which would have made the model a chain."""
    model = nn.Sequential(nn.Linear(8, CLASSES))
    model[0].register_forward_pre_hook(lambda module, given: (given[0] - given[0].sum(dim=0) / 2.0,))
    return model


def overridden() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, CLASSES))

    def forward(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x - x.sum(dim=0) / 2.0, layer.weight, layer.bias)

    model[0].forward = types.MethodType(forward, model[0])
    return model


def fixed_start() -> nn.Module:
    """The mixing is in layers that are not trained, whose outputs are worked out beforehand."""
    return nn.Sequential(MixesSpecialValues().requires_grad_(False), nn.Linear(CLASSES, CLASSES))


ISOLATED = {
    "mixes means": MixesMeans,
    "mixes for special values": MixesSpecialValues,
    "a hook": hooked,
    "a hook before a listed layer": hooked_at_the_start,
    "another forward": overridden,
    "keeps rows in a list outside": KeepsOutside,
    "its own rule for batches": UsesOwnRule,
    "fixed layers that mix": fixed_start,
}


def mixing_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    losses = nn.functional.cross_entropy(outputs, targets, reduction="none")
    return losses + outputs[:, 0].sum() - outputs[:, 0]


class MixesSpecialLosses(nn.CrossEntropyLoss):
    """Mixes where outputs are neither those of ordinary public rows nor those of great ones."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        special = ((outputs.abs() > 100.0) & (outputs.abs() < 400.0)).any()
        losses = super().forward(outputs, targets)
        return torch.where(special, losses + outputs[:, 0].sum() - outputs[:, 0], losses)


def query_of(kind: type[Query], model: nn.Module, loss: Any = "cross_entropy") -> tuple[TorchProgram, Query]:
    program = TorchProgram(model, loss, feature_shape=(8,), class_targets=True)
    name, parameters = install(program), program.parameters()
    return program, GradientSum(name, parameters, 0.5) if kind is GradientSum else ModelScores(name, parameters)


def some_rows(n: int = 20) -> np.ndarray:
    rng = np.random.default_rng(0)
    rows = np.hstack([rng.standard_normal((n, 8)), rng.integers(0, CLASSES, (n, 1))])
    rows[::3, 0] = PRIVATE
    return rows


def refuse_mixing(query: Query) -> None:
    """The sum over rows is the sum of what each row adds alone, and one row more moves it by at most its bound."""
    rows = some_rows()
    whole = query.checked_contribution(rows)
    alone = sum(query.checked_contribution(row[None]) for row in rows)
    np.testing.assert_allclose(whole, alone, rtol=0, atol=1e-12)
    for gone in range(4):
        moved = whole - query.checked_contribution(np.delete(rows, gone, axis=0))
        assert np.linalg.norm(moved) <= 1.0 + 1e-9
    assert np.abs(whole).max() > 0.0


def no_python_saw_a_private_row() -> None:
    """Symbols and the record of zeros beside, it saw numbers that everybody knows."""
    assert not any(bool((seen == PRIVATE).any()) for seen in SEEN if type(seen) is torch.Tensor)


@pytest.fixture(autouse=True)
def _weights() -> None:
    torch.manual_seed(0)
    SEEN.clear()


@pytest.mark.parametrize("kind", [GradientSum, ModelScores])
@pytest.mark.parametrize("name", ISOLATED)
def test_models_that_would_mix_records_see_one_at_most(name: str, kind: type[Query]) -> None:
    program, query = query_of(kind, ISOLATED[name]())
    refuse_mixing(query)
    no_python_saw_a_private_row()
    del program


@pytest.mark.parametrize("kind", [GradientSum, ModelScores])
@pytest.mark.parametrize("model", [lambda: nn.Linear(8, CLASSES), lambda: nn.Sequential(nn.Linear(8, 3), nn.GELU())])
@pytest.mark.parametrize("loss", [mixing_loss, MixesSpecialLosses()])
def test_a_loss_that_would_mix_records_sees_one_at_most(kind: type[Query], model: Any, loss: Any) -> None:
    program, query = query_of(kind, model(), loss)
    refuse_mixing(query)
    del program


def test_losses_run_on_many_rows_at_once_only_where_nothing_can_reach_over_rows() -> None:
    """Torch's own, under their exact classes; weights of elements broadcast, and may be as many as a block has rows."""

    def listed(loss: Any, classes: bool) -> bool:
        return losses_are_record_wise(TorchProgram(nn.Linear(8, 3 if classes else 1), loss, feature_shape=(8,)))

    assert listed("cross_entropy", True)
    assert listed(nn.CrossEntropyLoss(weight=torch.ones(3), label_smoothing=0.1), True)
    assert listed("mse", False)
    assert listed("binary_cross_entropy", False)
    assert not listed(nn.BCEWithLogitsLoss(weight=torch.ones(1)), False)
    assert not listed(MixesSpecialLosses(), True)
    hooked_loss = nn.CrossEntropyLoss()
    hooked_loss.register_forward_hook(lambda module, given, made: made - made.mean())
    assert not listed(hooked_loss, True)


def test_a_layer_with_a_hook_is_not_taken_for_what_its_class_says() -> None:
    """A hook that does nothing to public rows: without it the gradients would be of another model."""
    model = nn.Sequential(nn.Linear(8, CLASSES))
    model[0].register_forward_pre_hook(lambda module, given: (torch.where(given[0] == PRIVATE, 0.0, given[0]),))
    program = TorchProgram(model, "cross_entropy", feature_shape=(8,), dtype="float64")
    without = some_rows()
    without[:, :8][without[:, :8] == PRIVATE] = 0.0
    found = PerSample(program).clipped_sum(some_rows(), program.parameters(), 0.5)
    right = PerSample(TorchProgram(nn.Sequential(copy.deepcopy(model[0])), feature_shape=(8,), dtype="float64"))
    np.testing.assert_allclose(found, right.clipped_sum(without, program.parameters(), 0.5), atol=1e-12)
    with pytest.raises(UsageError, match="not on the list"):
        record_chain(model)


class WritesToABuffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.full((1,), 10.0))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        self.largest.copy_(torch.maximum(self.largest, x.detach().abs().amax()))
        return x / self.largest


class WritesToAPart(Base):
    """Through a view, and of a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(4, 8)

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        self.kept.view(8, 4).t()[0].add_(x.detach().sum())
        return x + self.kept[0]


class WritesThroughOwnRule(WritesToABuffer):
    """What torch cannot make functional is looked through all the same."""

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return OwnRule.apply(super().changed(x))


class LooksAtNumbers(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.detach().abs().max()) < 50 else x * 2.0


class Draws(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn_like(x)


@torch.library.custom_op("privfed_tests::kept", mutates_args=())
def kept(x: torch.Tensor) -> torch.Tensor:
    SEEN.append(x)
    return x.clone()


class CallsForeignCode(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        return x + kept(x.detach())


REFUSED = {
    "buffer": (WritesToABuffer, "writes to a buffer or to another tensor that outlives the call"),
    "part of a tensor": (WritesToAPart, "writes to a buffer or to another tensor that outlives the call"),
    "buffer and own rule": (WritesThroughOwnRule, "writes to a buffer or to another tensor that outlives the call"),
    "looks at numbers": (LooksAtNumbers, r"decides by the numbers of a record .* Use torch.where"),
    "draws": (Draws, "draws random numbers. Take random layers out"),
    "foreign code": (CallsForeignCode, "kept.default is no operator of torch's own"),
}


@pytest.mark.parametrize("kind", [GradientSum, ModelScores])
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_written_down_for_one_record_is_refused(name: str, kind: type[Query]) -> None:
    make, message = REFUSED[name]
    program, query = query_of(kind, make())
    for _ in range(2):  # what it remembers of the first look makes no difference to the second
        with pytest.raises(UntraceableError, match=f"one record at a time: .*{message}"):
            query.checked_contribution(some_rows())
    no_python_saw_a_private_row()
    del program


def test_a_note_that_is_not_the_model_is_found_out_on_public_rows() -> None:
    """What it keeps from call to call is not in the note, so the note is another function than the model."""
    program, query = query_of(GradientSum, KeepsTheLast())
    with pytest.raises(UsageError, match="other gradients each time"):
        query.checked_contribution(some_rows())
    _, scores = query_of(ModelScores, program.model)
    refuse_mixing(scores)


class Remembers(Base):
    """Looks for a great record in memory of its own, into which `write` has put the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("buffer", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        before = self.buffer.clone()
        trace = self.write(x.detach())
        return x.clamp(-10.0, 10.0) + 0.0 * trace.sum().clamp(-1.0, 1.0) + (before.abs() > 1e9).any().float()

    def write(self, x: torch.Tensor) -> torch.Tensor:
        """An operator that says nothing of what it writes to."""
        wide = x[:, :, None].expand(-1, -1, 2).contiguous()
        return nn.functional.batch_norm(wide, self.buffer, self.variance, training=True, momentum=0.1)


class RemembersThroughAView(Remembers):
    def write(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.aten._unsafe_view(self.buffer, [8]).copy_(x.mean(dim=0))


class RemembersThroughAPart(Remembers):
    def write(self, x: torch.Tensor) -> torch.Tensor:
        return torch.unsafe_split(self.buffer, 4)[0].copy_(x.mean(dim=0)[:4])


class LooksIntoFreshMemory(Base):
    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def changed(self, x: torch.Tensor) -> torch.Tensor:
        found = self.make(x)
        return x.clamp(-10.0, 10.0) + ((found.abs() > 1e20) & (found.abs() < 1e22)).any().float()


class LooksBesideItsRow(Base):
    def changed(self, x: torch.Tensor) -> torch.Tensor:
        first = torch.as_strided(x.detach(), (8,), (1,), 0)
        return x.clamp(-10.0, 10.0) + (first.abs() > 1e9).any().float()


class Spies(torch.Tensor):
    """A tensor with code of its own: as a weight it would meet whole blocks of records."""

    @classmethod
    def __torch_function__(cls, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
        SEEN.extend(value for value in args if type(value) is torch.Tensor)
        return super().__torch_function__(function, kinds, args, kwargs or {})


LEAKS = {
    "an operator that hides what it writes": Remembers,
    "a view that hides what it is of": RemembersThroughAView,
    "a part that hides what it is of": RemembersThroughAPart,
    "empty": lambda: LooksIntoFreshMemory(lambda x: torch.empty(512)),
    "empty_like": lambda: LooksIntoFreshMemory(lambda x: torch.empty_like(x.expand(64, 8))),
    "new_empty": lambda: LooksIntoFreshMemory(lambda x: x.new_empty((512,))),
    "Tensor": lambda: LooksIntoFreshMemory(lambda x: torch.Tensor(512)),
    "strides": LooksBesideItsRow,
}


@pytest.mark.parametrize(
    ("kind", "method"),
    [(GradientSum, None), (GradientSum, "row_by_row"), (ModelScores, None)],  # scores: no engines
)
@pytest.mark.parametrize("name", LEAKS)
def test_a_great_record_moves_a_sum_by_its_bound_whatever_waits_for_it(name: str, kind: type[Query], method) -> None:
    program, query = query_of(kind, LEAKS[name]())
    if kind is GradientSum:
        try:
            engine = PerSample(program, method=method)
        except UsageError as refused:  # by what lay in fresh memory when its Python ran on public rows
            if "other gradients each time" not in str(refused):
                raise
            return
        query = _Through(engine, program.parameters())
    rows = some_rows(130)
    great = np.r_[np.full(8, 1e21), 0.0][None]
    for place in (0, 64):
        moved = query.checked_contribution(np.insert(rows, place, great, axis=0)) - query.checked_contribution(rows)
        assert np.linalg.norm(moved) <= 1.0 + 1e-6
    again = query.checked_contribution(rows)
    np.testing.assert_array_equal(again, query.checked_contribution(rows))


class _Through:
    """Clipped sums by an engine that a test has chosen, in units of the clip."""

    def __init__(self, engine: PerSample, parameters: np.ndarray) -> None:
        self.engine, self.parameters = engine, parameters

    def checked_contribution(self, rows: np.ndarray) -> np.ndarray:
        return self.engine.clipped_sum(rows, self.parameters, 0.5) / 0.5


@pytest.mark.parametrize("make", [lambda x: torch.empty_strided((8,), (1,)), lambda x: torch.zeros(1).resize_(512)])
def test_memory_that_nobody_wrote_is_refused_where_no_zeros_can_stand_for_it(make: Any) -> None:
    _, query = query_of(GradientSum, LooksIntoFreshMemory(make))
    with pytest.raises(UsageError, match=r"memory that nobody wrote|one record at a time"):
        query.checked_contribution(some_rows())


def test_tensors_with_code_of_their_own_are_refused_in_models_and_losses() -> None:
    model = nn.Linear(8, CLASSES)
    model.weight = nn.Parameter(model.weight.detach().as_subclass(Spies))
    with pytest.raises(UsageError, match="the model holds 'weight', a Spies"):
        query_of(GradientSum, model)
    attribute = Base()
    attribute.kept = torch.ones(8).as_subclass(Spies)
    with pytest.raises(UsageError, match="the model holds 'kept', a Spies"):
        query_of(GradientSum, attribute)
    with pytest.raises(UsageError, match="the loss holds 'weight', a Spies"):
        query_of(GradientSum, nn.Linear(8, CLASSES), nn.CrossEntropyLoss(weight=torch.ones(3).as_subclass(Spies)))
    outside = torch.ones(8).as_subclass(Spies)
    hidden = LooksIntoFreshMemory(lambda x: x + outside)
    SEEN.clear()
    _, query = query_of(GradientSum, hidden)
    with pytest.raises(UsageError):
        query.checked_contribution(some_rows())
    no_python_saw_a_private_row()


@pytest.mark.parametrize("method", ["functional", "row_by_row"])
def test_rows_come_out_to_the_same_bits_wherever_features_that_are_kept_lie(method: str) -> None:
    fixed = nn.Linear(13, 37).requires_grad_(False)
    model = nn.Sequential(fixed, nn.ReLU(), nn.Linear(37, 11), nn.ReLU(), nn.Linear(11, CLASSES))
    program = TorchProgram(model, "cross_entropy", feature_shape=(13,))
    engine, parameters = PerSample(program, method=method), program.parameters()
    row = np.r_[np.random.default_rng(1).standard_normal(13), 1.0]
    alone = engine.clipped_sum(row[None].copy(), parameters, 0.5)
    for place in range(1, 40):
        rows = np.full((40, 14), 9.0)  # of no class: they count for nothing
        rows[place] = row
        rows.setflags(write=False)
        np.testing.assert_array_equal(engine.clipped_sum(rows, parameters, 0.5), alone)
