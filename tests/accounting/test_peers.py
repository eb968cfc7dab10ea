"""Other accountants on the same schedules: opacus (Renyi and PRV), prv-accountant, and a training loop of opacus."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
from prv_accountant import PoissonSubsampledGaussianMechanism, PRVAccountant

from privfed_accounting import LossLedger, Odometer, Sampling, Total, rdp_epsilon, schedule_bounds
from privfed_accounting.second_route_plans import sampled_gaussian_divergence
from privfed_accounting.subsampled import poisson_gaussian_row
from tests.accounting.plans import plan

SCHEDULE = {"rate": 0.02, "mu": 1 / 1.1, "rounds": 200}


def bracket(delta: float, *, rate: float, mu: float, rounds: int) -> tuple[float, float]:
    values = []
    for optimistic in (True, False):
        ledger = LossLedger(optimistic=optimistic)
        ledger.compose(rate=rate, mu=mu, rounds=rounds)
        values.append(ledger.epsilon(delta))
    return values[0], values[1]


def test_prv_accountant() -> None:
    lower, upper = bracket(1e-6, **SCHEDULE)  # type: ignore[arg-type]
    mechanism = PoissonSubsampledGaussianMechanism(
        sampling_probability=SCHEDULE["rate"], noise_multiplier=1 / SCHEDULE["mu"]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PRVAccountant(
            prvs=mechanism, max_self_compositions=SCHEDULE["rounds"], eps_error=5e-3, delta_error=1e-10
        )
        low, estimate, high = theirs.compute_epsilon(delta=1e-6, num_self_compositions=[SCHEDULE["rounds"]])
    assert low < lower < upper < high
    assert upper == pytest.approx(estimate, rel=1e-4)


def test_two_kinds_of_round_by_prv_accountant() -> None:
    mechanisms = [
        PoissonSubsampledGaussianMechanism(sampling_probability=q, noise_multiplier=s)
        for q, s in ((0.05, 1.5), (0.2, 4.0))
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = PRVAccountant(prvs=mechanisms, max_self_compositions=[30, 20], eps_error=5e-3, delta_error=1e-10)
        low, _, high = theirs.compute_epsilon(delta=1e-5, num_self_compositions=[30, 20])
    ledger = LossLedger()
    ledger.compose(rate=0.05, mu=1 / 1.5, rounds=30)
    ledger.compose(rate=0.2, mu=1 / 4.0, rounds=20)
    assert low < ledger.epsilon(1e-5) < high


@pytest.mark.slow
def test_opacus_accountants() -> None:
    from opacus.accountants import PRVAccountant as OpacusPRV
    from opacus.accountants import RDPAccountant

    orders = tuple(range(2, 64))
    renyi, prv = RDPAccountant(), OpacusPRV()
    for each in (renyi, prv):
        each.history = [(1 / SCHEDULE["mu"], SCHEDULE["rate"], SCHEDULE["rounds"])]
    row = SCHEDULE["rounds"] * poisson_gaussian_row(SCHEDULE["rate"], SCHEDULE["mu"] ** 2, orders)  # type: ignore[arg-type]
    # Theirs passes over the last term of the conversion: a little above ours.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs, theirs_tight = renyi.get_epsilon(1e-6, alphas=orders), prv.get_epsilon(1e-6)
    assert rdp_epsilon(row, 1e-6, orders=orders) == pytest.approx(theirs, rel=1e-6)
    lower, upper = bracket(1e-6, **SCHEDULE)  # type: ignore[arg-type]
    assert lower * 0.99 < theirs_tight < upper * 1.02


@pytest.mark.slow
def test_a_training_loop_of_opacus_costs_the_same() -> None:
    """Thirty steps of a tiny model: what opacus counts on the way is what the rounds cost here."""
    import torch
    from opacus import PrivacyEngine
    from torch.utils.data import DataLoader, TensorDataset

    torch.manual_seed(0)
    samples, batch, noise, delta = 200, 20, 1.3, 1e-5
    data = TensorDataset(torch.randn(samples, 3), torch.randint(0, 2, (samples,)))
    model: Any = torch.nn.Linear(3, 2)
    optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine = PrivacyEngine(accountant="rdp")
        model, optimizer, loader = engine.make_private(
            module=model,
            optimizer=optimizer,
            data_loader=DataLoader(data, batch_size=batch),
            noise_multiplier=noise,
            max_grad_norm=1.0,
            poisson_sampling=True,
        )
        odometer, steps = Odometer(delta), 0
        each = plan(
            sampling=Sampling.poisson(batch / samples, unit="record"),
            protection="central",
            l2_sensitivity=2.0**24,
            share_sigma=noise * 2.0**24,
        )
        for _ in range(3):
            for features, labels in loader:
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(model(features), labels).backward()
                optimizer.step()
                odometer.add(each.charge("released"))
                steps += 1
    (history,) = engine.accountant.history
    assert history == (noise, batch / samples, steps)
    integers = [a for a in engine.accountant.DEFAULT_ALPHAS if a == int(a) and a >= 2]
    theirs = engine.accountant.get_epsilon(delta, alphas=integers)
    assert odometer.epsilon() == pytest.approx(theirs, rel=5e-3)
    row = [steps * sampled_gaussian_divergence(a, batch / samples, noise**-2) for a in integers]
    assert rdp_epsilon(row, delta, orders=tuple(integers)) == pytest.approx(theirs, rel=1e-6)
    bounds = schedule_bounds([(each, None, steps)], "released", delta)
    assert bounds is not None
    assert 0.8 * theirs < bounds.upper < theirs
    assert odometer.epsilon() == pytest.approx(Total.of([each.charge("released")]).times(steps).epsilon(delta))
    assert math.isfinite(theirs)
