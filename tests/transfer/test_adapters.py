"""Adapters: nothing at first, exactly a low-rank change afterwards, and their mean is the mean of the models."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed.errors import UsageError
from privfed.transfer import merge_adapters, with_adapters, with_new_head
from privfed.transfer.adapters import adapter_class

torch = pytest.importorskip("torch")
nn = torch.nn


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(54, 12), nn.Tanh(), nn.Linear(12, 7)
    ).double()


INPUTS = torch.randn(9, 2, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def shaken(model: nn.Module, seed: int) -> nn.Module:
    """Trainable parameters moved at random."""
    moved = copy.deepcopy(model)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in moved.parameters():
            if value.requires_grad:
                value += torch.randn(value.shape, generator=draw, dtype=value.dtype)
    return moved


def test_an_adapter_changes_nothing_before_it_is_trained() -> None:
    model = network()
    adapted = with_adapters(model, rank=3)
    torch.testing.assert_close(adapted(INPUTS), model(INPUTS), rtol=0, atol=0)
    names = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert names == {"0.up.weight", "3.up.weight", "5.up.weight"}
    travels = sum(value.numel() for value in adapted.parameters() if value.requires_grad)
    assert travels < 0.15 * sum(value.numel() for value in adapted.parameters())
    assert all(value.requires_grad for value in model.parameters())


def test_merging_gives_the_old_architecture_and_the_new_outputs() -> None:
    model = network()
    trained = shaken(with_adapters(model, rank=2, scale=0.5), 3)
    merged = merge_adapters(trained)
    assert str(merged) == str(model)
    torch.testing.assert_close(merged(INPUTS), trained(INPUTS), rtol=1e-12, atol=1e-12)
    assert (merged(INPUTS) - model(INPUTS)).abs().max() > 0.1
    change = merged[3].weight - model[3].weight
    assert np.linalg.matrix_rank(change.detach().numpy()) == 2
    assert all(value.requires_grad for value in merged.parameters())


@settings(max_examples=10, deadline=None)
@given(seeds=st.lists(st.integers(0, 1000), min_size=2, max_size=4, unique=True))
def test_the_mean_of_adapters_is_the_mean_of_models(seeds: list[int]) -> None:
    """What averaging A and B apart would not give."""
    start = with_adapters(network(), rank=2)
    clients = [shaken(start, seed) for seed in seeds]
    averaged = copy.deepcopy(start)
    with torch.no_grad():
        for name, value in averaged.named_parameters():
            value.copy_(torch.stack([dict(client.named_parameters())[name] for client in clients]).mean(dim=0))
    merged = dict(merge_adapters(averaged).named_parameters())
    for name, value in merged.items():
        mean = torch.stack([dict(merge_adapters(client).named_parameters())[name] for client in clients]).mean(dim=0)
        torch.testing.assert_close(value, mean, rtol=1e-12, atol=1e-12)


def test_the_frozen_half_is_public_and_orthonormal() -> None:
    one, other = with_adapters(network(), rank=3, seed=5), with_adapters(network(), rank=3, seed=5)
    for layer in ("0", "3", "5"):
        down = one.get_submodule(layer).down.weight
        assert torch.equal(down, other.get_submodule(layer).down.weight)
        flat = down.detach().flatten(1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(3, dtype=torch.float64), rtol=0, atol=1e-12)
        assert not down.requires_grad
    assert not torch.equal(one[3].down.weight, with_adapters(network(), rank=3, seed=6)[3].down.weight)


def test_a_head_may_be_trained_whole() -> None:
    adapted = with_adapters(network(), rank=3, also_train="5.*")
    assert not isinstance(adapted[5], adapter_class())
    names = {name for name, value in adapted.named_parameters() if value.requires_grad}
    assert names == {"0.up.weight", "3.up.weight", "5.weight", "5.bias"}


def test_layers_too_small_or_grouped_are_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 10))
    adapted = with_adapters(nn.Sequential(model, nn.Linear(10, 10)), rank=5)
    assert [name for name, part in adapted.named_modules() if isinstance(part, adapter_class())] == ["1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rank": 0}, "rank is 0"), ({"rank": 50}, "no linear or convolutional layer"), ({"layers": "body.*"}, "matches"),
     ({"scale": 0.0}, "scale is 0.0")],
)  # fmt: skip
def test_wrong_adapters_are_refused(arguments: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with_adapters(network(), **arguments)


def test_a_new_head_is_all_that_is_new() -> None:
    model = network()
    fresh = with_new_head(model, 3, random_state=1)
    assert fresh(INPUTS).shape == (9, 3)
    assert torch.equal(fresh[3].weight, model[3].weight)
    assert fresh[5].weight.dtype == torch.float64
    assert torch.equal(fresh[5].weight, with_new_head(model, 3, random_state=1)[5].weight)
    assert model[5].out_features == 7
    with pytest.raises(UsageError, match=r"expected a torch\.nn\.Linear inside the model"):
        with_new_head(nn.Sequential(nn.Conv2d(1, 1, 1)), 3)
