"""What no reader of a ledger must overlook, wherever it is shown: trusted mode, seeded noise, loose ends and more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from privfed_accounting.records import Book, RoundRecord

Code = Literal[
    "no_budget", "non_private", "trusted", "central", "seeded", "guarantee_broken", "local", "outcome_unknown", "void"
]
Severity = Literal["danger", "caution", "info"]

SEVERITIES: dict[Code, Severity] = {
    "no_budget": "danger",
    "non_private": "danger",
    "trusted": "danger",
    "central": "danger",
    "seeded": "danger",
    "guarantee_broken": "danger",
    "local": "caution",
    "outcome_unknown": "caution",
    "void": "info",
}
TEXTS: dict[Code, str] = {
    "no_budget": "The ledger has no budget: nothing in it is differentially private.",
    "non_private": "Released without noise: no differential privacy at all.",
    "trusted": "Trusted mode, for experiments: the operator saw every client's vector. The budget is charged as if "
    "masks had hidden them; in the views server and colluders the epsilons are those of vectors without masks.",
    "central": "Central noise, for comparison: the operator saw every client's data without noise and added the noise "
    "to the sum; the epsilons hold for those who see the released sums only.",
    "seeded": "Seeded noise, for tests and demos: whoever knows the seed can subtract it, and another run with the "
    "same seed repeats it, so that both together give it away. The epsilons hold for others, and for this run alone.",
    "guarantee_broken": "Opened with fewer noise shares than the plan guaranteed; the true cost is charged.",
    "local": "Local noise, for comparison: no masks, every client's vector carries enough noise for itself.",
    "outcome_unknown": "Charged, and never settled: the run was interrupted or still goes on.",
    "void": "Given back by the coordinator, who states that nothing was revealed.",
}


@dataclass(frozen=True)
class Mark:
    """One thing to be told loudly, and the entries it is about (none: the whole ledger)."""

    code: Code
    entries: tuple[int, ...]

    @property
    def severity(self) -> Severity:
        """One of danger, caution, info."""
        return SEVERITIES[self.code]

    @property
    def text(self) -> str:
        """One sentence."""
        return TEXTS[self.code]

    def __str__(self) -> str:
        if not self.entries:
            return self.text
        more = f" and {len(self.entries) - 8} more" if len(self.entries) > 8 else ""
        return f"{self.text} (entries {', '.join(map(str, self.entries[:8]))}{more})"


def round_marks(record: RoundRecord) -> list[Code]:
    """Codes that apply to one round, the gravest first."""
    plan = record.plan
    holds: dict[Code, bool] = {
        "non_private": not plan.private,
        "trusted": plan.protection == "trusted",
        "central": plan.protection == "central",
        "seeded": plan.private and plan.noise_source == "seeded",
        "guarantee_broken": record.broke_guarantee,
        "local": plan.protection == "local",
        "outcome_unknown": record.status == "reserved",
        "void": record.status == "void",
    }
    return [code for code, applies in holds.items() if applies]


def ledger_marks(book: Book) -> list[Mark]:
    """All marks of a ledger, the gravest first."""
    found: dict[Code, list[int]] = {code: [] for code in SEVERITIES}
    for record in book.rounds.values():
        for code in round_marks(record):
            found[code].append(record.entry)
    marks = [Mark(code, tuple(entries)) for code, entries in found.items() if entries]
    return [Mark("no_budget", ()), *marks] if book.budget is None else marks
