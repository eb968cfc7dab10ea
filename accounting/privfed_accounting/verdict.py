"""What verification found, as data: one form for people's lines, for `--json` and for the report."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Final, Literal

from privfed_accounting.signing import Role

CANNOT_SHOW: Final = (
    "that no entries are missing at the end, or that the whole file was not written anew: compare the head with one "
    "published or signed elsewhere at the time",
    "that every release went through this ledger",
    "that sensitivities, noise and survivors were as recorded: the rounds' code and digests are for that",
    "that times are true: they are the coordinator's clock",
    "whose the keys under its signatures are: give the public keys you know",
)
REPORT_CANNOT_SHOW: Final = (
    "that the report is of the ledger it names, or complete: a report has no chain, verify the ledger itself",
    *CANNOT_SHOW[1:4],
)

# The two routes must agree to this: the first rounds up by 1e-12, quadrature is good to 1e-11.
AGREEMENT: Final = 1e-9


def epsilon_value(epsilon: float) -> dict[str, float | bool | None]:
    """Encode an epsilon as JSON can: {"epsilon": number or null, "infinite": flag}."""
    infinite = math.isinf(epsilon)
    return {"epsilon": None if infinite else epsilon, "infinite": infinite}


def _encoded(value: Any) -> Any:
    """An infinite number as null; the rest as it is."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Recomputed:
    """Epsilon in one view by the first and the second route, guaranteed and realised; infinite where not private."""

    view: str
    guaranteed: float
    guaranteed_again: float
    realised: float
    realised_again: float

    @property
    def agrees(self) -> bool:
        """Whether both routes give the same up to 1e-9, and the first is not below the second by more."""
        pairs = ((self.guaranteed, self.guaranteed_again), (self.realised, self.realised_again))
        return all(first == again or abs(first - again) <= AGREEMENT * max(1.0, again) for first, again in pairs)

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, epsilons encoded for JSON."""
        names = ("guaranteed", "guaranteed_again", "realised", "realised_again")
        return {"view": self.view} | {name: epsilon_value(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class SignedHead:
    """One signature found in a ledger.

    Attributes:
        entry: number of the entry that holds it.
        signs: number of the entry it is under; everything up to there is pinned.
        role: "coordinator" or "client".
        public_key: 64 hexadecimal digits.
        signer: name of the key among those given; None if it was not.
        genuine: whether the signature is that key's.
    """

    entry: int
    signs: int
    role: Role
    public_key: str
    signer: str | None
    genuine: bool


@dataclass(frozen=True)
class Verification:
    """Verdict on a ledger, or on a report.

    Attributes:
        ok: no problem was found.
        path: the file or URL; None for memory.
        problems: what does not hold, each naming its entry; empty if ok.
        warnings: what holds but deserves a look: seeded noise, trusted mode, rounds without noise, open reservations.
        entries: number of entries that were read and fit the chain.
        head: digest of the last of them.
        identifier: the ledger's random number.
        budget: in words, None without one.
        delta: at which the epsilons are; None without a budget.
        views: epsilon in every view by both routes; empty without a budget or where the chain is broken. Of rounds in
            trusted mode the server and those colluding with it are told what they really saw: unmasked vectors.
        rounds, settled, void, reserved: counts of rounds, in all and by status.
        cannot_show: what a hash chain by itself cannot show.
        source: "ledger", or "report" for a report checked without its ledger.
        signatures: every signature in the chain.
        signed_through: last entry pinned by a genuine signature, of a given key if keys were given; 0 for none.
        anchors: heads noted elsewhere that were looked for, and found unless a problem says otherwise.
        peer: dp-accounting's epsilons beside ours (`export.Comparison`), if they were asked for.
    """

    ok: bool
    path: str | None
    problems: list[str]
    warnings: list[str]
    entries: int
    head: str
    identifier: str
    budget: str | None
    delta: float | None
    views: tuple[Recomputed, ...]
    rounds: int
    settled: int
    void: int
    reserved: int
    cannot_show: tuple[str, ...] = CANNOT_SHOW
    source: Literal["ledger", "report"] = "ledger"
    signatures: tuple[SignedHead, ...] = ()
    signed_through: int = 0
    anchors: tuple[str, ...] = ()
    peer: dict[str, Any] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The verdict as JSON values, as it also stands in a report (accounting/report.schema.json, "verification").

        An epsilon is {"epsilon": number or null, "infinite": flag}; no NaN and no infinity occurs.
        """
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data |= {
            "problems": list(self.problems),
            "warnings": list(self.warnings),
            "cannot_show": list(self.cannot_show),
        }
        data |= {"views": [view.as_dict() for view in self.views], "anchors": list(self.anchors)}
        data["peer"] = None if self.peer is None else {name: _encoded(value) for name, value in self.peer.items()}
        data["signatures"] = [dataclasses.asdict(signature) for signature in self.signatures]
        return data
