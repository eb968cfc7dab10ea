"""What `privfed verify` and `privfed diff` say, as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from privfed.report.scales import format_number
from privfed_accounting import Difference, Verification

__all__ = ["difference_text", "verification_text"]


def verification_text(verification: Verification) -> str:
    """Return the verdict as lines: what was read, the epsilons by two routes, warnings, problems, the verdict last."""
    lines = [f"{verification.source:<9}{verification.path or 'in memory'}"]
    if verification.entries:
        lines += [
            f"budget   {verification.budget or 'none (no differential privacy)'}",
            f"entries  {verification.entries}",
            f"head     {verification.identifier}:{verification.entries}:{verification.head}",
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
    lines += _signatures(verification)
    if verification.peer is not None:
        lines += [f"beside   {_one_line(line)}" for line in _peer(verification.peer)]
    if verification.entries:
        lines += [f"warning  {_one_line(warning)}" for warning in verification.warnings]
    lines += [f"problem  {_one_line(problem)}" for problem in verification.problems]
    lines.append("verdict  ok" if verification.ok else "verdict  NOT ok: do not rely on this ledger")
    return "\n".join(lines) + "\n"


def difference_text(difference: Difference) -> str:
    """Return a comparison as lines: which two, rounds, epsilon per view, the verdict last."""
    lines = [f"before   {difference.before or 'in memory'}", f"after    {difference.after or 'in memory'}"]
    if difference.common_entries is not None:
        lines.append(f"common   {difference.common_entries} entries from the start")
    before, after = (words or "none" for words in difference.budget)
    lines.append(f"budget   {before}" if before == after else f"budget   {before}, now {after}")
    for name, entries in (("added", difference.added), ("missing", difference.missing)):
        if entries:
            lines.append(f"{name:<9}{len(entries)} rounds: entries {_some(entries)}")
    for change in difference.changed:
        fields = ", ".join(f"{name}: {old} -> {new}" for name, (old, new) in change.fields.items())
        lines.append(_one_line(f"changed  entry {change.entry}: {fields}"))
    lines += ["", _row("view", "before", "after")]
    for one in difference.epsilons:
        cells = ("none" if value is None else _digits(value) for value in (one.before, one.after))
        lines.append(_row(one.view, *cells))
    if difference.same:
        verdict = "nothing differs"
    elif difference.continues:
        verdict = "the second goes on from the first"
    else:
        verdict = "the second does NOT go on from the first"
    return "\n".join([*lines, "", f"verdict  {verdict}"]) + "\n"


def _some(entries: tuple[int, ...]) -> str:
    more = f" and {len(entries) - 8} more" if len(entries) > 8 else ""
    return ", ".join(map(str, entries[:8])) + more


def _signatures(verification: Verification) -> list[str]:
    lines = [f"anchor   {_one_line(anchor)}" for anchor in verification.anchors]
    for one in verification.signatures:
        whose = one.signer or f"key {one.public_key}"
        verdict = "" if one.genuine else ", NOT genuine"
        lines.append(f"signed   entries to {one.signs} by the {one.role}, {_one_line(whose)}{verdict}")
    return lines


def _peer(peer: Mapping[str, Any]) -> list[str]:
    """Return dp-accounting's numbers beside ours, whatever it could tell of these rounds."""
    about = f"view {peer.get('view')}, delta {peer.get('delta')}"
    numbers = {name.replace("_", " "): value for name, value in peer.items() if isinstance(value, float)}
    numbers.pop("delta", None)
    return [f"dp-accounting, {about}", *(f"  {name:<14}{_digits(value)}" for name, value in numbers.items())]


def _row(view: str, *cells: str) -> str:
    return f"{view:<16}" + "".join(f"{cell:>18}" for cell in cells)


def _digits(epsilon: float) -> str:
    return format_number(epsilon, digits=12)


def _one_line(text: str) -> str:
    """Return `text` without what a terminal would obey: names in a ledger are somebody's input."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())
