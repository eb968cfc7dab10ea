"""The audit of a federation's claim: canaries through the real clip, encode, noise and mask, and what came out.

Two federations are made of invented data. In the first, each canary record is in or out by a coin; in the second, every
client is a canary. Both release sums under the budget that is to be audited.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
from scipy.special import ndtr

from privfed.audit.findings import Audited, Finding, Outcome, judge
from privfed.audit.privacy.cosine import CanaryClients, canary_clients, unit_vectors
from privfed.audit.privacy.known_answer import clipped_sum, freshness_p_value, noise_p_values
from privfed.audit.privacy.one_run import Guesses, guess, one_run_epsilon, one_run_p_value
from privfed.audit.privacy.surface import dependence, surface
from privfed.engines import LocalFederation
from privfed.errors import UsageError
from privfed.federation import FederationBase, Release
from privfed.query import FloatArray, Unit
from privfed.statistics.moments import VectorSum
from privfed_accounting import Budget
from privfed_accounting.gaussian import gaussian_epsilon, gaussian_mu

__all__ = ["CAVEAT", "FederationFactory", "PrivacyAudit", "audit_privacy"]

FALSE_ALARM: Final = 1e-6
CLIP: Final = 1.0
OVERLONG: Final = 50.0  # canaries are that much longer than the clip: a clip that is skipped cannot be overlooked
SILOS: Final = 4
SMALLER_DELTAS: Final = (1e-8, 1e-10, 1e-12)
MARGIN: Final = 1e-6  # relative; what the accountant's rounding to the safe side may differ by

CAVEAT: Final = (
    "A lower bound, weak by nature: it shows that noise is there, never that it suffices. A small bound is no evidence"
    " of privacy, and a proof is not replaced by it."
)

FederationFactory = Callable[..., FederationBase]


@dataclass(frozen=True)
class PrivacyAudit(Audited):
    """What canaries showed about a claim of (epsilon, delta)-DP.

    Attributes:
        epsilon: claimed for those who see the releases only: the smallest of all claims, so the first to be refuted.
        delta: of the claim.
        lower_bound: epsilon that the one-run audit shows to be exceeded, with `confidence`; 0.0 shows nothing.
        confidence: of the lower bound.
        guesses: canary records, guesses and correct ones.
        canary_clients: how clearly whole clients show, and the estimate that follows.
        claimed_client: epsilon claimed for a client, to which the estimate belongs.
        findings: verdicts of the checks, each with its p-value.
        false_alarm: chance that a federation which keeps its claim is reported, over all checks.
        protection: how the sums were formed, as the releases say.
        noise_source: "os", or "seeded" in tests.
    """

    epsilon: float
    delta: float
    lower_bound: float
    confidence: float
    guesses: Guesses
    canary_clients: CanaryClients
    claimed_client: float
    findings: tuple[Finding, ...]
    false_alarm: float
    protection: str
    noise_source: str

    def as_dict(self) -> dict[str, Any]:
        """Return the audit as JSON types; a report shows it in its slot `empirical`, next to the claim."""
        return {
            "audit": "privacy",
            "ok": self.ok,
            "failed": list(self.failed),
            "claimed": {"epsilon": self.epsilon, "delta": self.delta, "view": "released", "unit": "record"},
            "lower_bound": {
                "epsilon": self.lower_bound,
                "confidence": self.confidence,
                "method": "one run, arXiv:2305.08846",
                **self.guesses.as_dict(),
            },
            "canary_clients": {
                "claimed_epsilon": self.claimed_client,
                "method": "cosine of canary clients, arXiv:2302.03098",
                **self.canary_clients.as_dict(),
            },
            "false_alarm": self.false_alarm,
            "protection": self.protection,
            "noise_source": self.noise_source,
            "findings": [finding.as_dict() for finding in self.findings],
            "caveat": CAVEAT,
        }


@dataclass(frozen=True)
class _Run:
    """Releases of one federation, and what the auditor knows they should hold."""

    federation: FederationBase
    releases: tuple[Release, ...]
    exact: FloatArray

    @property
    def residuals(self) -> list[FloatArray]:
        return [release["sum"] - self.exact for release in self.releases]

    @property
    def claimed(self) -> float:
        return float(self.releases[-1].epsilon["released"])


def audit_privacy(
    *,
    epsilon: float,
    delta: float,
    canaries: int = 1000,
    guesses: int | None = None,
    clients: int = 40,
    dimension: int = 4096,
    confidence: float = 0.95,
    false_alarm: float = FALSE_ALARM,
    random_state: int = 0,
    federation: FederationFactory = LocalFederation,
    accounting: Literal["gaussian", "renyi"] = "gaussian",
    noise_seed: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> PrivacyAudit:
    """Audit what a federation makes of a budget, on invented data, through its real path in mode "secure".

    Args:
        epsilon: of the budget.
        delta: of the budget.
        canaries: records that are in or out by a coin each, at least 200; the vector has as many coordinates.
        guesses: how many the attacker ventures, even; a fifth of the canaries by default. Fixed beforehand, as the
            bound requires.
        clients: canary clients, 8 to 300.
        dimension: of their vectors, at least 256.
        confidence: of the lower bound.
        false_alarm: chance that a federation which keeps its claim is reported as failed, over all tests.
        random_state: of canaries and coins; never of the noise.
        federation: makes a federation of `(clients, budget=..., noise_seed=...)`.
        accounting: of the budget: "renyi" for Skellam noise and hidden samples, see `Budget`.
        noise_seed: for tests only, see `LocalFederation`.
        progress: called with words before each step.

    Guarantees:
        The lower bound exceeds the true epsilon with a chance of at most `1 - confidence`. A finding "failed" has a
        chance of at most `false_alarm` in all if the claim holds and the noise is as promised.

    Raises:
        UsageError: an argument out of range.
    """
    guesses = 2 * (canaries // 10) if guesses is None else guesses
    _check(canaries, clients, dimension, confidence, false_alarm)
    rng = np.random.default_rng(random_state)
    tell = progress or (lambda _: None)

    def make(data: Sequence[FloatArray], unit: Unit) -> FederationBase:
        budget = Budget(epsilon, delta, unit, accounting=accounting)
        return federation(list(data), budget=budget, noise_seed=noise_seed)

    tell(f"{canaries} canary records")
    present = rng.random(canaries) < 0.5
    records = _release_records(lambda data: make(data, "record"), present, rng)
    scores = np.mean([release["sum"] for release in records.releases], axis=0)
    counted = guess(scores, present, guesses=guesses)

    tell(f"{clients} canary clients")
    directions = unit_vectors(clients, dimension, rng)
    whole = _release_clients(lambda data: make(data, "client"), directions, rng)
    shown = canary_clients(whole.releases[0]["sum"], directions * CLIP, delta=delta)

    tell("two data sets, twice each")
    outcomes: dict[str, Outcome | Finding] = {
        "one_run": _judge_one_run(counted, records, delta),
        "canary_clients": _judge_canary_clients(shown, whole, delta),
        "noise": _judge_noise(records, whole),
        "noise_is_fresh": _judge_freshness(records),
        "noise_suffices": _judge_sufficiency({"record": records, "client": whole}, epsilon, delta),
        "surface": _judge_surface(lambda data: make(data, "record"), rng),
    }
    return PrivacyAudit(
        epsilon=records.claimed,
        delta=delta,
        lower_bound=one_run_epsilon(counted, delta=delta, confidence=confidence),
        confidence=confidence,
        guesses=counted,
        canary_clients=shown,
        claimed_client=whole.claimed,
        findings=judge(outcomes, false_alarm=false_alarm),
        false_alarm=false_alarm,
        protection=records.releases[0].protection,
        noise_source="os" if noise_seed is None else "seeded",
    )


def _check(canaries: int, clients: int, dimension: int, confidence: float, false_alarm: float) -> None:
    for name, value, least, most in (
        ("canaries", canaries, 200, 1_000_000),
        ("clients", clients, 8, 300),
        ("dimension", dimension, 256, 10_000_000),
    ):
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise UsageError(f"{name} is {value!r}, expected an integer from {least} to {most}")
    if not 0 < confidence < 1:
        raise UsageError(f"confidence is {confidence!r}, expected a number between 0 and 1")
    if not 0 < false_alarm <= 0.1:
        raise UsageError(f"false_alarm is {false_alarm!r}, expected a chance in (0, 0.1]")


def _release_records(
    make: Callable[[Sequence[FloatArray]], FederationBase], present: np.ndarray[Any, Any], rng: np.random.Generator
) -> _Run:
    """Release the sum of the canaries that are in, twice at half of the budget; canary k is axis k, far too long."""
    dimension = len(present)
    background = unit_vectors(3 * SILOS, dimension, rng) * CLIP * rng.uniform(0.2, 3.0, (3 * SILOS, 1))
    rows = np.concatenate([background, np.diag(np.full(dimension, OVERLONG * CLIP))[present]])
    order = np.concatenate([np.arange(3 * SILOS) % SILOS, rng.integers(0, SILOS, int(present.sum()))])
    federation = make([rows[order == silo] for silo in range(SILOS)])
    query = VectorSum(dimension=dimension, clip=CLIP)
    releases = tuple(federation.release(query, share=0.5, purpose="audit", rounds=2) for _ in range(2))
    return _Run(federation, releases, clipped_sum(rows, CLIP))


def _release_clients(
    make: Callable[[Sequence[FloatArray]], FederationBase], directions: FloatArray, rng: np.random.Generator
) -> _Run:
    """Release the sum of canary clients at the whole budget: one to three copies each, which weigh as one record."""
    copies = rng.integers(1, 4, len(directions))
    federation = make([np.tile(row * OVERLONG * CLIP, (n, 1)) for row, n in zip(directions, copies, strict=True)])
    query = VectorSum(dimension=directions.shape[1], clip=CLIP)
    release = federation.release(query, share=1.0, purpose="audit")
    return _Run(federation, (release,), clipped_sum(directions * CLIP, CLIP))


def _judge_one_run(counted: Guesses, run: _Run, delta: float) -> Outcome:
    """Test the claim at its own delta, and what the ledger claims at smaller ones.

    At the claim's delta the test cannot be sure: 2 m delta of its p-value is there whatever the guesses are.
    """
    deltas = [delta, *(smaller for smaller in SMALLER_DELTAS if smaller < delta)]
    claims = [run.claimed, *(run.federation.ledger.epsilon("released", delta=smaller) for smaller in deltas[1:])]
    p_values = [one_run_p_value(counted, epsilon=claim, delta=at) for claim, at in zip(claims, deltas, strict=True)]
    told = f"{counted.correct} of {counted.guesses} guesses about {counted.canaries} canaries are right"
    return Outcome(f"{told}, for a claim of {run.claimed:.3g}", p_values=tuple(p_values))


def _judge_canary_clients(shown: CanaryClients, run: _Run, delta: float) -> Outcome:
    """Under the claim the scaled cosines have a mean of at most mu, and a variance of about 1."""
    mu = gaussian_mu(run.claimed, delta)
    p_value = float(ndtr(-(shown.mean - mu) * math.sqrt(shown.clients)))
    return Outcome(f"canary clients show at {shown.mean:.3g} deviations, mu {mu:.3g} is claimed", p_values=(p_value,))


def _judge_noise(*runs: _Run) -> Outcome:
    p_values: list[float] = []
    ratios: list[float] = []
    for run in runs:
        for release, residual in zip(run.releases, run.residuals, strict=True):
            std = float(release.noise_std["sum"])
            p_values += noise_p_values(residual, std).values()
            ratios.append(float(np.sqrt(np.mean(residual**2))) / std if std > 0 else math.inf)
    told = ", ".join(f"{ratio:.4g}" for ratio in ratios)
    return Outcome(f"what is left beside the exact sums is {told} times the promised noise", p_values=tuple(p_values))


def _judge_freshness(run: _Run) -> Outcome:
    return Outcome("noises of two releases compared", p_values=(freshness_p_value(*run.residuals),))


def _judge_sufficiency(runs: dict[str, _Run], epsilon: float, delta: float) -> Outcome:
    """Recompute what the promised noise is worth: an independent use of the accountant's formula, on public figures."""
    told = []
    for unit, run in runs.items():
        stds = [float(release.noise_std["sum"]) for release in run.releases]
        mu = math.sqrt(math.fsum((CLIP / std) ** 2 if std > 0 else math.inf for std in stds))
        needed = gaussian_epsilon(delta, mu)
        if not needed <= run.claimed * (1 + MARGIN) or not run.claimed <= epsilon * (1 + MARGIN):
            words = f"the promised noise is worth epsilon {needed:.4g} per {unit}, claimed are {run.claimed:.4g}"
            return Outcome(f"{words} of a budget of {epsilon:.4g}", problem=True)
        told.append(f"{needed:.4g} per {unit} (claimed {run.claimed:.4g})")
    return Outcome(f"the promised noise is worth epsilon {', '.join(told)}")


def _judge_surface(make: Callable[[Sequence[FloatArray]], FederationBase], rng: np.random.Generator) -> Outcome:
    shown: list[list[dict[str, str]]] = []
    for rows in (3, 11):
        runs = []
        for _ in range(2):
            federation = make([rng.standard_normal((rows + silo, 16)) * rows for silo in range(SILOS)])
            release = federation.release(VectorSum(dimension=16, clip=CLIP), share=0.5, purpose="audit")
            runs.append(surface(federation, release))
        shown.append(runs)
    leaks = dependence(*shown)
    if leaks:
        return Outcome(f"depends on the data, without noise: {', '.join(leaks[:5])}", problem=True)
    return Outcome(f"{len(shown[0][0])} public fields beside the values do not depend on the data")
