"""Drop-outs taken out exactly: the sum carries the same noise whoever is lost, and a lying server gains nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from privfed import Budget, LocalFederation, Loss
from privfed.statistics.moments import VectorSum

CLIENTS, TOLERATED, WIDTH = 8, 3, 40_000
BUDGET = Budget(epsilon=2.0, delta=1e-5, unit="client", accounting="renyi")


def release(losses, *, mode="trusted", drop_outs="exact", noise_seed=5, **options):
    clients = {f"c{i}": np.zeros((1, WIDTH)) for i in range(CLIENTS)}
    with LocalFederation(
        clients,
        budget=BUDGET,
        mode=mode,
        drop_outs=drop_outs,
        dropout=TOLERATED / CLIENTS,
        losses=losses,
        max_records=1,
        noise_seed=noise_seed,
        **options,
    ) as federation:
        return federation.release(VectorSum(WIDTH, 1.0), share=0.5)


def spread(result) -> float:
    return float(np.std(result["sum"]))


def within(found: float, expected: float, width: int = WIDTH) -> bool:
    """Whether a sample's standard deviation fits: 3.3 standard errors, so that 2.4 % more or less would not."""
    return abs(found / expected - 1) < 3.3 / math.sqrt(2 * width)


@pytest.mark.parametrize("noise", ["discrete_gaussian", "skellam"])
@pytest.mark.parametrize("lost", range(TOLERATED + 1))
def test_the_sum_carries_the_target_for_every_number_of_drop_outs(lost, noise) -> None:
    losses = [Loss(f"c{i}", "masked") for i in range(lost)]
    result = release(losses, noise=noise)
    plan = result.plan
    target = plan.terms.noise_multiplier * plan.l2_sensitivity / plan.scale
    assert result.survivors == CLIENTS - lost
    assert result.noise_std["sum"] == pytest.approx(target, rel=1e-9)
    assert result.kept_surplus == 0
    assert within(spread(result), target)
    assert not within(spread(result), 1.024 * target)
    assert not within(spread(result), 0.976 * target)


def test_provision_carries_more_the_fewer_are_lost() -> None:
    whole, few = (
        release([Loss(f"c{i}", "masked") for i in range(lost)], drop_outs="provision") for lost in (0, TOLERATED)
    )
    assert whole.noise_std["sum"] == pytest.approx(few.noise_std["sum"] * math.sqrt(8 / 5))
    assert within(spread(whole), whole.noise_std["sum"])
    assert release([]).noise_std["sum"] == pytest.approx(few.noise_std["sum"])


@pytest.mark.parametrize("late", [1, 3])
def test_surplus_that_is_not_given_back_stays_and_is_told(late) -> None:
    losses = [Loss("c0", "masked"), *(Loss(f"c{i}", "unmask") for i in range(1, 1 + late))]
    result = release(losses)
    plan = result.plan
    assert (result.survivors, result.kept_surplus) == (CLIENTS - 1, late)
    total = (plan.share_sigma / plan.scale) ** 2 * plan.terms.guaranteed
    expected = math.sqrt(total * (1 + late * (1 / 5 - 1 / 7)))
    assert result.noise_std["sum"] == pytest.approx(expected, rel=1e-9)
    assert within(spread(result), expected)
    assert not within(spread(result), math.sqrt(total))
