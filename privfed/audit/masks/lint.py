"""The mask lint: every check on one implementation, and the report."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from privfed.audit.findings import Audited, Finding, Outcome, judge
from privfed.audit.masks.adapter import Adapter, NotExposed, Refused
from privfed.audit.masks.probe import Probe, Unusable
from privfed.audit.masks.secret_checks import (
    both_shares,
    public_is_secret,
    seed_entropy,
    set_up_loss,
    shared_secret,
    silent_wrap,
)
from privfed.audit.masks.vector_checks import (
    byte_lane_check,
    distinct_masks,
    float_masks,
    full_range,
    generator,
    mask_reuse,
    pair_cancellation,
    scalar_mask,
)
from privfed.audit.masks.wire_checks import side_values, transcript_independence
from privfed.errors import UsageError

__all__ = ["CHECKS", "MaskReport", "lint_masks"]

FALSE_ALARM: Final = 1e-6
SEEDS: Final = 300_000  # finds a space of 2^32 seeds with a chance of 1 - 3e-5, in a few seconds

CHECKS: Final[Mapping[str, Callable[[Probe], Outcome]]] = {
    "float_masks": float_masks,
    "scalar_mask": scalar_mask,
    "byte_lanes": byte_lane_check,
    "full_range": full_range,
    "generator": generator,
    "seed_entropy": seed_entropy,
    "pair_cancellation": pair_cancellation,
    "distinct_masks": distinct_masks,
    "mask_reuse": mask_reuse,
    "shared_secret": shared_secret,
    "public_is_secret": public_is_secret,
    "both_shares": both_shares,
    "side_values": side_values,
    "transcript_independence": transcript_independence,
    "silent_wrap": silent_wrap,
    "set_up_loss": set_up_loss,
}


@dataclass(frozen=True)
class MaskReport(Audited):
    """What the lint found in one implementation.

    Attributes:
        name: of the implementation.
        findings: one for each check that was asked for, in the order of `CHECKS`.
        false_alarm: chance that a sound implementation is reported, over all statistical tests together.
    """

    name: str
    findings: tuple[Finding, ...]
    false_alarm: float

    @property
    def not_examined(self) -> tuple[str, ...]:
        """Names of the checks that the adapter gave no access for."""
        return tuple(finding.check for finding in self.findings if finding.status == "not examined")

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON types."""
        return {
            "audit": "masks",
            "implementation": self.name,
            "ok": self.ok,
            "failed": list(self.failed),
            "not_examined": list(self.not_examined),
            "false_alarm": self.false_alarm,
            "findings": [finding.as_dict() for finding in self.findings],
        }


def lint_masks(
    adapter: Callable[[], Adapter],
    *,
    checks: Collection[str] | None = None,
    clients: int = 5,
    seeds: int = SEEDS,
    false_alarm: float = FALSE_ALARM,
    random_state: int = 0,
    progress: Callable[[str], None] | None = None,
) -> MaskReport:
    """Run every check on an implementation of secure aggregation.

    Args:
        adapter: makes a fresh adapter; usually a subclass of `Adapter` itself.
        checks: names of those to run, of `CHECKS`; all by default.
        clients: in the rounds that are run, 4 to 100.
        seeds: random seeds to expand in search of two that give one mask, >= 2. `m` of them find a space of 2^b seeds
            with a chance of 1 - exp(-m^2 / 2^(b+1)).
        false_alarm: chance that a sound implementation is reported as failed, over all statistical tests together (a
            Bonferroni correction); in (0, 0.1].
        random_state: of the made-up inputs and seeds. The implementation draws its own keys: two runs differ.
        progress: called with the name of each check before it runs.

    Guarantees:
        A check that cannot run is reported as "not examined" or "error", never as passed. Passing is no proof: see the
        manual for what the checks cannot see.

    Raises:
        UsageError: an argument out of range.
    """
    if not 4 <= clients <= 100:
        raise UsageError(f"clients is {clients!r}, expected 4 to 100: with fewer, one pair is like another")
    if not 0 < false_alarm <= 0.1:
        raise UsageError(f"false_alarm is {false_alarm!r}, expected a chance in (0, 0.1]")
    if seeds < 2:
        raise UsageError(f"seeds is {seeds!r}, expected at least 2")
    unknown = set(checks or ()) - set(CHECKS)
    if unknown:
        raise UsageError(f"unknown checks {sorted(unknown)}: choose from {', '.join(CHECKS)}")
    outcomes: dict[str, Outcome | Finding] = {}
    for number, (name, check) in enumerate(CHECKS.items()):
        if checks is not None and name not in checks:
            continue
        if progress is not None:
            progress(name)
        probe = Probe(adapter, np.random.default_rng([random_state, number]), seeds, clients)
        outcomes[name] = _run(name, check, probe)
    return MaskReport(adapter().name, judge(outcomes, false_alarm=false_alarm), false_alarm)


def _run(name: str, check: Callable[[Probe], Outcome], probe: Probe) -> Outcome | Finding:
    try:
        outcome = check(probe)
    except NotExposed as missing:
        return Finding(name, "not examined", f"the adapter does not expose {missing}")
    except Refused as refusal:
        return Finding(name, "error", f"an ordinary request was refused: {refusal}")
    except Unusable as error:
        return Finding(name, "error", f"the adapter breaks its promise: {error}")
    except Exception as error:  # noqa: BLE001 - a stranger's code may fail in any way; the other checks go on
        return Finding(name, "error", f"{type(error).__name__} in the audited code or its adapter: {error}")
    if any(math.isnan(p) for p in outcome.p_values):
        return Finding(name, "error", "a statistic is not a number")
    return outcome
