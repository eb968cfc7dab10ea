"""What `privfed verify` says of a ledger: lines for people, JSON for pipelines."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from privfed.report.scales import format_number
from privfed_accounting import Verification

__all__ = ["verification_data", "verification_text"]


def verification_data(verification: Verification) -> dict[str, Any]:
    """Return the verdict as JSON values; an infinite epsilon is null, as in the report, beside `"private": false`."""
    data = dataclasses.asdict(verification)
    for view in data["views"]:
        view["private"] = math.isfinite(view["guaranteed"])
        for name, value in view.items():
            if isinstance(value, float) and not math.isfinite(value):
                view[name] = None
    return data


def verification_text(verification: Verification) -> str:
    """Return the verdict as lines: what was read, the epsilons by two routes, warnings, problems, the verdict last."""
    lines = [f"ledger   {verification.path or 'in memory'}"]
    if verification.entries:
        lines += [
            f"budget   {verification.budget or 'none (no differential privacy)'}",
            f"entries  {verification.entries}, last digest {verification.head}",
            f"rounds   {verification.rounds}: {verification.settled} settled, {verification.reserved} open,"
            f" {verification.void} void",
        ]
    else:
        lines.append("entries  none could be read")
    if verification.entries and verification.views:
        lines += ["", _row("view", "guaranteed", "second route", "realised", "second route")]
        lines += [
            _row(view.view, *map(_digits, (view.guaranteed, view.guaranteed_again, view.realised, view.realised_again)))
            for view in verification.views
        ]
        lines.append("")
    if verification.entries:
        lines += [f"warning  {_one_line(warning)}" for warning in verification.warnings]
    lines += [f"problem  {_one_line(problem)}" for problem in verification.problems]
    lines.append("verdict  ok" if verification.ok else "verdict  NOT ok: do not rely on this ledger")
    return "\n".join(lines) + "\n"


def _row(view: str, *cells: str) -> str:
    return f"{view:<16}" + "".join(f"{cell:>18}" for cell in cells)


def _digits(epsilon: float) -> str:
    return format_number(epsilon, digits=12)


def _one_line(text: str) -> str:
    """Return `text` without what a terminal would obey: names in a ledger are somebody's input."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
