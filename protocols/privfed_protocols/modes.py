"""The three modes: what each of them has signed, how many round trips its rounds take, and what it protects against.

Semi-honest: everybody follows the protocol, and some clients pool what they see with the server's.

Semi-malicious: the server may also lie in set-up, about keys and about who takes part, and by telling clients different
survivors it cannot gather both secrets of any one client. There is no round in which clients agree on the survivors,
so that nothing protects against a server with two faces beyond that: on a ring it can cut one client off from the
others and learn that client's vector, even without a colluder, and on the complete graph it can learn sums of fewer
than n_min clients. Take it where the server is trusted to run the rounds as written.

Malicious: the server may deviate at any time, in the rounds too, at the price of one more round trip.
"""

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
