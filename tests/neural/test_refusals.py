"""Models that cannot be private are refused before anything runs, with what to use instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from privfed.errors import UsageError
from privfed.learners.neural.refusals import refuse_unsuitable


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embedding.weight


def with_integers() -> nn.Module:
    model = nn.Linear(2, 2)
    model.steps = nn.Parameter(torch.zeros(2, dtype=torch.int64), requires_grad=False)
    return model


def with_complex() -> nn.Module:
    model = nn.Linear(2, 2)
    model.phase = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    return model


def with_nan() -> nn.Module:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = float("nan")
    return model


BOTH = {
    "batch norm": (lambda: nn.BatchNorm2d(48), r"BatchNorm2d, which mixes .* use GroupNorm\(16, 48\)"),
    "batch norm inside": (lambda: nn.Sequential(nn.Linear(2, 6), nn.BatchNorm1d(6)), r"layer '1' .* GroupNorm\(2, 6\)"),
    "running statistics": (
        lambda: nn.Sequential(nn.Conv2d(1, 8, 1), nn.InstanceNorm2d(8, track_running_stats=True)),
        "InstanceNorm2d with running statistics: use track_running_stats=False",
    ),
    "integers": (with_integers, "'steps' is torch.int64: use real floating-point numbers, or make it a buffer"),
    "complex": (with_complex, "'phase' is torch.complex64"),
    "NaN": (with_nan, "'weight' holds NaN or infinity: initialise it anew"),
    "nothing": (lambda: nn.ReLU(), "nothing to train"),
    "frozen": (lambda: nn.Linear(2, 2).requires_grad_(False), "nothing to train: call requires_grad_"),
    "lazy": (lambda: nn.LazyLinear(3), "has no values yet: run one batch"),
}
PER_SAMPLE = {
    "dropout": (lambda: nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "layer '1' is Dropout.* p=0 or Identity"),
    "random slope": (lambda: nn.Sequential(nn.Linear(2, 2), nn.RReLU()), "use LeakyReLU"),
    "tied": (Tied, "'embedding.weight' and 'head.weight' are one and the same"),
    "recurrent": (
        lambda: nn.LSTM(2, 2),
        r"LSTM, which has no gradients per sample: use torch.nn.LSTMCell, step by step",
    ),
    "attention": (lambda: nn.MultiheadAttention(4, 2, dropout=0.1), "use dropout=0"),
}


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("per_sample", [True, False])
def test_what_is_refused_for_records_and_for_clients(kind: str, per_sample: bool) -> None:
    make, message = BOTH[kind]
    with pytest.raises(UsageError, match=message):
        refuse_unsuitable(make(), per_sample=per_sample)


@pytest.mark.parametrize("kind", PER_SAMPLE)
def test_what_is_refused_for_records_alone(kind: str) -> None:
    make, message = PER_SAMPLE[kind]
    refuse_unsuitable(make(), per_sample=False)
    with pytest.raises(UsageError, match=message):
        refuse_unsuitable(make(), per_sample=True)


def test_all_that_is_wrong_is_said_at_once() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.1))
    with pytest.raises(UsageError, match=r"layer '1' is BatchNorm1d.*; layer '2' is Dropout"):
        refuse_unsuitable(model, per_sample=True)
    with pytest.raises(UsageError, match="model is a str"):
        refuse_unsuitable("model", per_sample=True)  # type: ignore[arg-type]  # on purpose


def test_what_is_fixed_may_stay() -> None:
    """A frozen batch norm with statistics is one map for all; dropout of nothing drops nothing."""
    backbone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)).requires_grad_(False)
    refuse_unsuitable(nn.Sequential(backbone, nn.Flatten(), nn.Dropout(0.0), nn.Linear(16, 2)), per_sample=True)
    without = nn.BatchNorm2d(4, track_running_stats=False).requires_grad_(False)
    with pytest.raises(UsageError, match="mixes the records"):
        refuse_unsuitable(nn.Sequential(without, nn.Flatten(), nn.Linear(16, 2)), per_sample=True)


def test_a_frozen_half_of_tied_weights_is_allowed() -> None:
    model = Tied()
    model.head.weight.requires_grad_(False)
    model.extra = nn.Linear(4, 5)
    refuse_unsuitable(model, per_sample=True)
