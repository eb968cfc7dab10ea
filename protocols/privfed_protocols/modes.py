"""The three modes: what each of them has signed, and how many round trips its rounds take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

ModeName = Literal["semi-honest", "semi-malicious", "malicious"]


@dataclass(frozen=True)
class ModeRules:
    """What a mode asks for beyond the messages that all modes share.

    Attributes:
        identities: M0 and M1 are signed, so both sides need credentials.
        consistency: M6 and M7 are signed too, and survivors are confirmed by a quorum (M8, M9) before shares go out.
        round_trips: of one round.
    """

    identities: bool
    consistency: bool
    round_trips: int


MODES: Final[Mapping[str, ModeRules]] = MappingProxyType(
    {
        "semi-honest": ModeRules(identities=False, consistency=False, round_trips=2),
        "semi-malicious": ModeRules(identities=True, consistency=False, round_trips=2),
        "malicious": ModeRules(identities=True, consistency=True, round_trips=3),
    }
)
