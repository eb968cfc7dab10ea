"""Who sees what: each adversary as a view, with the noise that is still unknown to it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal, get_args

from privfed_accounting.errors import ParameterError

ViewKind = Literal["released", "server", "client", "colluders", "unmasked"]
KINDS: Final[tuple[str, ...]] = get_args(ViewKind)
_PATTERN: Final = re.compile(r"(released|server|client|unmasked|colluders)(?:\((\d{1,9})\))?")

DESCRIPTIONS: Final[dict[str, str]] = {
    "released": "anybody who is shown the released sums, and nothing else",
    "server": "the coordinator: the sums, who took part and who survived",
    "client": "a fellow client: the sums, and it knows its own noise share",
    "colluders": "the coordinator together with t clients: only the honest survivors' noise counts",
    "unmasked": "whoever would see one client's vector without its mask: what is left if secure aggregation fails",
}


@dataclass(frozen=True)
class View:
    """One adversary. `str(view)` and `View.parse` are each other's inverse.

    Attributes:
        kind: released | server | client | colluders | unmasked.
        t: number of colluding clients; only for colluders, >= 1 there and 0 elsewhere.

    >>> View.parse("colluders(3)").noise_shares(50)
    47
    >>> str(View("client"))
    'client'
    """

    kind: ViewKind
    t: int = 0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ParameterError(f"view {self.kind!r} is not known, expected one of {', '.join(KINDS)}")
        if isinstance(self.t, bool) or not isinstance(self.t, int):
            raise ParameterError(f"the number of colluders is {self.t!r}, expected an integer")
        if self.kind == "colluders" and self.t < 1:
            raise ParameterError(f"colluders({self.t}) is not a view: name at least one client, or use 'server'")
        if self.kind != "colluders" and self.t != 0:
            raise ParameterError(f"view {self.kind!r} takes no number of colluders, found t={self.t}")

    @classmethod
    def parse(cls, text: str | View) -> View:
        """Read a view from its name: "server", "client", "colluders(3)", ...; a View is passed through."""
        if isinstance(text, View):
            return text
        found = _PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise ParameterError(
                f"view {text!r} is not known, expected released, server, client, colluders(t) or unmasked"
            )
        kind: ViewKind = found.group(1)  # type: ignore[assignment]  # the pattern lists the kinds
        return cls(kind, int(found.group(2) or 0))

    def noise_shares(self, surviving: int) -> int:
        """Noise shares in the sum that this adversary does not know, of `surviving` shares in all; never below 0.

        A result of 0 means no privacy in this view: its charge is infinite.
        """
        if isinstance(surviving, bool) or not isinstance(surviving, int) or surviving < 0:
            raise ParameterError(f"surviving shares are {surviving!r}, expected an integer >= 0")
        known = {"released": 0, "server": 0, "client": 1, "colluders": self.t}
        if self.kind == "unmasked":
            return min(1, surviving)
        return max(0, surviving - known[self.kind])

    @property
    def description(self) -> str:
        """One phrase on who this is."""
        return DESCRIPTIONS[self.kind]

    def __str__(self) -> str:
        return f"colluders({self.t})" if self.kind == "colluders" else self.kind


def standard_views(t: int) -> tuple[View, ...]:
    """All five kinds of view, colluders with `t` clients (at least 1), in the order of their power."""
    return (View("released"), View("server"), View("client"), View("colluders", max(1, t)), View("unmasked"))
