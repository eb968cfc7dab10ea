"""Drop-outs taken out exactly: the sum carries the same noise whoever is lost, and what a lying server gains."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import pytest

from privfed import Budget, FederationError, LocalFederation, Loss, UsageError
from privfed.federation.client import ClientSide
from privfed.federation.vector import components_of
from privfed.mechanism.encode import from_ring, to_ring
from privfed.mechanism.surplus import surplus_noise
from privfed.statistics.moments import VectorSum
from privfed_protocols import PeerProtocolError, Server, bitmap
from privfed_protocols.labels import VERSION
from privfed_protocols.messages import Masked, Survivors, encode

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


@pytest.mark.parametrize("security", ["semi-honest", "malicious"])
@pytest.mark.parametrize("lost", [0, 2])
def test_the_protocol_carries_the_target(lost, security) -> None:
    """Through masks and signatures; a late client keeps its surplus in, and the release says so."""
    clients, width = 10, 20_000
    rows = {f"c{i}": np.zeros((1, width)) for i in range(clients)}
    losses = [*(Loss(f"c{i}", "masked") for i in range(lost)), *([Loss("c9", "unmask")] if lost else [])]
    options = {"drop_outs": "exact", "dropout": 0.3, "max_records": 1, "security": "semi-honest", "noise_seed": 8}
    if security == "malicious":
        options |= {"security": security, "dropout": 0.2}
        losses = losses[:2]
    with LocalFederation(rows, budget=BUDGET, losses=losses, **options) as federation:
        result = federation.release(VectorSum(width, 1.0), share=0.5)
    assert result.kept_surplus == (1 if len(losses) == 3 else 0)
    assert within(spread(result), result.noise_std["sum"], width)
    assert not within(spread(result), 1.035 * result.noise_std["sum"], width)


class Understating(Server):
    """Claims that a lost client is still there, so that survivors give more noise back than they should."""

    attempts: ClassVar[list[str]] = []

    def close_inputs(self):
        current, invented = self._require_round(), []
        for index in set(current.participants) - set(current.masked):
            identity = self._require_roster().identities[index]
            size = sum(spec.nbytes for spec in self._offer.vectors)
            forged = encode(Masked(VERSION, self._epoch, current.number, memoryview(bytes(size))))
            try:
                self.receive(identity, forged)
                self.attempts.append("taken")
                invented.append(identity)
            except PeerProtocolError as error:
                self.attempts.append(type(error).__name__)
        return {name: message for name, message in super().close_inputs().items() if name not in invented}


def attacked(server, monkeypatch, *, security):
    monkeypatch.setattr("privfed.engines.secure.Server", server)
    rows = {f"c{i}": np.zeros((1, 500)) for i in range(10)}
    federation = LocalFederation(
        rows,
        budget=BUDGET,
        drop_outs="exact",
        dropout=0.2,
        losses=[Loss("c3", "masked")],
        max_records=1,
        security=security,
        noise_seed=2,
    )
    return federation, lambda: federation.release(VectorSum(500, 1.0), share=0.5)


def test_a_server_that_understates_drop_outs_opens_nothing(monkeypatch) -> None:
    """It invents an input of the lost client: the survivors give all surplus back, but the lost client's pairwise masks
    stay in the sum, because nobody hands out the key of a client that is said to be there."""
    Understating.attempts = []
    federation, ask = attacked(Understating, monkeypatch, security="semi-honest")
    result = ask()
    assert Understating.attempts == ["taken"]
    ring = 2.0**result.plan.bits / result.plan.scale
    assert np.std(result["sum"]) == pytest.approx(ring / math.sqrt(12), rel=0.15)  # uniform: it learned nothing
    assert federation.remaining_share < 1.0


def test_signed_inputs_cannot_be_invented(monkeypatch) -> None:
    Understating.attempts = []
    _, ask = attacked(Understating, monkeypatch, security="malicious")
    result = ask()
    assert len(Understating.attempts) == 1
    assert "taken" not in Understating.attempts
    assert result.survivors == 9
    plan = result.plan
    assert result.noise_std["sum"] == pytest.approx(plan.terms.noise_multiplier * plan.l2_sensitivity / plan.scale)
    assert within(spread(result), result.noise_std["sum"], 500)


class TwoFaced(Server):
    """Shows one half of the survivors the lost client as well: two numbers of drop-outs, two sets of seeds."""

    asked_to_unmask = 0

    def close_inputs(self):
        mail = dict(super().close_inputs())
        everybody = bitmap.pack(self._require_round().participants, self._require_roster().n)
        body = encode(Survivors(VERSION, self._epoch, self._require_round().number, everybody))
        lie = self._dressed(Survivors, body, epoch=self._epoch)
        return {identity: lie if place % 2 else told for place, (identity, told) in enumerate(mail.items())}

    def _check_signature(self, index, signature, signed):
        """Take any: an honest server refuses a signature over another set; this one passes it on."""

    def close_unmask(self, **options):
        type(self).asked_to_unmask += 1
        return super().close_unmask(**options)


def test_survivors_must_agree_before_any_seed_goes_out(monkeypatch) -> None:
    TwoFaced.asked_to_unmask = 0
    federation, ask = attacked(TwoFaced, monkeypatch, security="malicious")
    with pytest.raises(FederationError, match=r"signature|quorum|survivors"):
        ask()
    assert TwoFaced.asked_to_unmask == 0
    assert federation.ledger.rounds()[0].status in ("void", "reserved")


class TwoFacedUnsigned(Server):
    """Tells the last `lied_to` survivors that nobody was lost, and takes out all that they give back."""

    lied_to = 0
    plan = None
    variance_left = math.nan

    def close_inputs(self):
        mail = dict(super().close_inputs())
        everybody = bitmap.pack(self._require_round().participants, self._require_roster().n)
        lie = encode(Survivors(VERSION, self._epoch, self._require_round().number, everybody))
        self.believers = list(mail)[len(mail) - self.lied_to :]
        return {identity: lie if identity in self.believers else told for identity, told in mail.items()}

    def close_unmask(self, **options):
        result = super().close_unmask(**options)
        (total,), plan = result.sums.values(), type(self).plan
        components = components_of(plan)
        for identity, seed in result.surplus.items():
            first = 1 if identity in self.believers else result.dropped + 1
            excess = surplus_noise(components, seed, plan.length, first=first, law=plan.mechanism)
            total = total - to_ring(excess, plan.bits)
        type(self).variance_left = from_ring(total, plan.bits).var() / components.total
        return result


@pytest.mark.parametrize("lied_to", [0, 2])
def test_what_a_two_faced_server_gains_where_nobody_signs(monkeypatch, lied_to) -> None:
    """Those lied to leave v/n instead of v/(n - lost): never less than (n - t)/n of the variance is left in all.

    That is the price of the semi-honest mode if the server does not follow the protocol; the malicious mode stops it.
    """
    clients, tolerated, lost, width = 10, 3, 2, 20_000
    monkeypatch.setattr("privfed.engines.secure.Server", TwoFacedUnsigned)
    agree = ClientSide.agree

    def watched(side, task):
        TwoFacedUnsigned.plan = agree(side, task)[1]
        return agree(side, task)

    monkeypatch.setattr(ClientSide, "agree", watched)
    TwoFacedUnsigned.lied_to = lied_to
    options = {"drop_outs": "exact", "dropout": tolerated / clients, "max_records": 1, "noise_seed": 9}
    losses = [Loss(f"c{i}", "masked") for i in range(lost)]
    rows = {f"c{i}": np.zeros((1, width)) for i in range(clients)}
    with LocalFederation(rows, budget=BUDGET, losses=losses, **options) as federation:
        federation.release(VectorSum(width, 1.0), share=0.5)
    expected = (clients - lost - lied_to) / (clients - lost) + lied_to / clients
    assert (clients - tolerated) / clients <= expected <= 1.0
    assert within(math.sqrt(TwoFacedUnsigned.variance_left), math.sqrt(expected), width)
    assert not within(math.sqrt(TwoFacedUnsigned.variance_left), 1.035 * math.sqrt(expected), width)


@pytest.mark.parametrize("drop_outs", ["exact", "provision"])
@pytest.mark.parametrize("mode", ["secure", "trusted"])
def test_the_mode_that_stops_no_two_faced_server_is_not_offered(drop_outs, mode) -> None:
    options = {"drop_outs": drop_outs, "dropout": 0.2, "budget": BUDGET, "max_records": 1, "mode": mode}
    with pytest.raises(UsageError, match=r"expected 'semi-honest' or 'malicious'.*Use 'malicious'"):
        LocalFederation([np.zeros((1, 3))] * 10, security="semi-malicious", **options)
