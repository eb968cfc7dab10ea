"""FederatedSGD against opacus on the pooled records: the same weights without noise, the same epsilon with it."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from privfed import Budget, LocalFederation
from privfed.federation import client
from privfed.learners.neural.private_sgd.learner import FederatedSGD

opacus = pytest.importorskip("opacus")
pytestmark = pytest.mark.filterwarnings("ignore")  # of opacus

DELTA, N, SILOS = 1e-5, 240, 4


def images() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, N)
    return rng.standard_normal((N, 1, 6, 6)) + y[:, None, None, None] * np.eye(6), y


def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def perceptron() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))


def pooled(model: nn.Module, batches: list[np.ndarray], *, rate: float, clip: float, **sgd: float) -> np.ndarray:
    """Opacus' own DP-SGD without noise on the given records of each step."""
    from opacus.grad_sample import GradSampleModule
    from opacus.optimizers import DPOptimizer

    X, y = images()
    wrapped = GradSampleModule(copy.deepcopy(model))
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), **sgd),
        noise_multiplier=0.0,
        max_grad_norm=clip,
        expected_batch_size=rate * N,
    )
    for batch in batches:
        optimizer.zero_grad()
        outputs = wrapped(torch.tensor(X[batch], dtype=torch.float32))
        nn.functional.cross_entropy(outputs, torch.tensor(y[batch])).backward()
        optimizer.step()
    return np.concatenate([value.detach().double().numpy().ravel() for value in wrapped.parameters()])


@pytest.mark.parametrize("make", [network, perceptron])
@pytest.mark.parametrize("rate", [1.0, 0.3])
def test_without_noise_the_weights_are_those_of_pooled_opacus(make, rate, monkeypatch) -> None:
    X, y = images()
    parts = [np.arange(N)[i::SILOS] for i in range(SILOS)]
    drawn: list[np.ndarray] = []

    def recorded(size: int, chance: float, keystream: object) -> np.ndarray:
        mask = original(size, chance, keystream)
        drawn.append(mask)
        return mask

    original = client.poisson
    monkeypatch.setattr(client, "poisson", recorded)
    federation = LocalFederation([(X[part], y[part]) for part in parts], max_records=N)
    rounds, sgd = 12, {"momentum": 0.9, "weight_decay": 1e-3}
    model = make()
    fitted = FederatedSGD(
        model, rounds=rounds, sampling_rate=rate, clip=0.8, learning_rate=0.3, expected_records=N, **sgd
    ).fit(federation)
    if rate == 1.0:
        assert drawn == []
        batches = [np.arange(N)] * rounds
    else:
        assert len(drawn) == rounds * SILOS
        batches = [
            np.concatenate([part[mask] for part, mask in zip(parts, drawn[SILOS * t : SILOS * (t + 1)], strict=True)])
            for t in range(rounds)
        ]
    right = pooled(model, batches, rate=rate, clip=0.8, lr=0.3, **sgd)
    assert np.abs(fitted.parameters_ - right).max() < 1e-5
    start = np.concatenate([value.detach().double().numpy().ravel() for value in model.parameters()])
    assert np.abs(right - start).max() > 0.05


@pytest.mark.parametrize(("rate", "noise", "rounds"), [(0.1, 1.2, 60), (0.5, 4.0, 40)])
def test_the_same_schedule_costs_what_opacus_says(rate, noise, rounds) -> None:
    """Guaranteed against opacus' RDP, whose orders are other ones (1 %); tight against its PRV, at 0.01 either way."""
    from opacus.accountants import PRVAccountant, RDPAccountant

    X, y = images()
    federation = LocalFederation(
        [(X[i::SILOS], y[i::SILOS]) for i in range(SILOS)],
        budget=Budget(20.0, DELTA, accounting="renyi"),
        max_records=N,
    )
    estimator = FederatedSGD(
        perceptron(), rounds=rounds, sampling_rate=rate, clip=1.0, noise_multiplier=noise, expected_records=N
    )
    schedule = estimator.plan(federation)
    rdp, prv = RDPAccountant(), PRVAccountant()
    for accountant in (rdp, prv):
        accountant.history = [(noise, rate, rounds)]
    orders = list(range(2, 129))
    assert schedule.epsilon == pytest.approx(rdp.get_epsilon(DELTA, alphas=orders), rel=0.01)
    assert schedule.epsilon >= rdp.get_epsilon(DELTA, alphas=orders) * (1 - 1e-3)
    assert schedule.tight_epsilon == pytest.approx(prv.get_epsilon(DELTA), abs=0.015)
    for wrong in (0.97, 1.03):
        other = PRVAccountant()
        other.history = [(noise * wrong, rate, rounds)]
        assert schedule.tight_epsilon != pytest.approx(other.get_epsilon(DELTA), abs=0.015)


def test_full_batches_cost_what_opacus_says() -> None:
    from opacus.accountants import PRVAccountant

    X, y = images()
    federation = LocalFederation(
        [(X[i::SILOS], y[i::SILOS]) for i in range(SILOS)], budget=Budget(3.0, DELTA), max_records=N
    )
    schedule = FederatedSGD(perceptron(), rounds=50, clip=1.0, expected_records=N).plan(federation)
    accountant = PRVAccountant()
    accountant.history = [(schedule.noise_multiplier, 1.0, 50)]
    assert schedule.tight_epsilon == pytest.approx(3.0, rel=1e-3)
    assert accountant.get_epsilon(DELTA) == pytest.approx(3.0, abs=0.02)
