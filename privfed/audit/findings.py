"""What a check found: the form in which all audits report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Audited", "Finding", "Outcome", "Status", "judge"]

Status = Literal["passed", "failed", "not examined", "error"]


@dataclass(frozen=True)
class Outcome:
    """What one check saw, before it is judged.

    Attributes:
        what: one sentence; says what is wrong where `problem` is true.
        problem: something is wrong for certain, whatever the statistics say.
        p_values: of the statistical tests, each valid by itself: under the claim, P[p <= x] <= x.
    """

    what: str
    problem: bool = False
    p_values: tuple[float, ...] = ()


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    Attributes:
        check: its name.
        status: "passed"; "failed"; "not examined", where the audited code does not expose what the check needs;
            "error", where it broke down under the check.
        what: one sentence for a reader.
        p_value: the smallest p-value of the check's statistical tests, uncorrected; None without any.
        tests: how many there were.
    """

    check: str
    status: Status
    what: str
    p_value: float | None = None
    tests: int = 0

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the audited code: it passed, or was not examined."""
        return self.status in ("passed", "not examined")

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON types."""
        return {
            "check": self.check,
            "status": self.status,
            "what": self.what,
            "p_value": self.p_value,
            "tests": self.tests,
        }


class Audited:
    """What an audit came to; the base of all their reports, which hold `findings`."""

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return all(finding.ok for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed or broke down."""
        return tuple(finding.check for finding in self.findings if not finding.ok)

    def __getitem__(self, check: str) -> Finding:
        """Return the finding of a check by name."""
        for finding in self.findings:
            if finding.check == check:
                return finding
        raise KeyError(f"no check {check!r}, there are {[finding.check for finding in self.findings]}")


def judge(outcomes: Mapping[str, Outcome | Finding], *, false_alarm: float) -> tuple[Finding, ...]:
    """Turn outcomes into findings: each statistical test is held to `false_alarm` over the number of all tests.

    Args:
        outcomes: check name -> what it saw; a `Finding` is passed on as it is.
        false_alarm: chance, over all checks together, that code which does what it claims is reported as failed.

    Guarantees:
        By the union bound (Bonferroni), that chance is at most `false_alarm`, however the tests depend on each other.
        A p-value that is not a number fails its check.
    """
    tests = sum(len(outcome.p_values) for outcome in outcomes.values() if isinstance(outcome, Outcome))
    level = false_alarm / max(tests, 1)
    return tuple(_judge_one(name, outcome, level) for name, outcome in outcomes.items())


def _judge_one(name: str, outcome: Outcome | Finding, level: float) -> Finding:
    if isinstance(outcome, Finding):
        return outcome
    values = outcome.p_values
    least = None if not values else (math.nan if any(math.isnan(p) for p in values) else min(values))
    unlikely = least is not None and not least >= level
    what = outcome.what
    if unlikely and not outcome.problem:
        what = f"chance gives this in {least:.1e} of cases, held to {level:.1e}: {what}"
    status: Status = "failed" if outcome.problem or unlikely else "passed"
    return Finding(name, status, what, least, len(values))
