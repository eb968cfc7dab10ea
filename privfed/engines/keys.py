"""The keys of clients and server, for the modes of the protocol in which messages are signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from privfed.errors import UsageError
from privfed.plan.terms import DropOuts
from privfed_protocols import Credentials, Directory, Signer

__all__ = ["Keys", "Security", "check_drop_outs"]

Security = Literal["semi-honest", "semi-malicious", "malicious"]


@dataclass(frozen=True)
class Keys:
    """One Ed25519 key for each client and for the server, pinned by everybody; none in mode "semi-honest".

    Attributes:
        mode: of the protocol.
        server: the server's key.
        clients: identity -> the client's key.
    """

    mode: Security
    server: Signer | None = None
    clients: Mapping[bytes, Signer] = field(default_factory=dict, repr=False)

    @classmethod
    def generate(cls, mode: Security, identities: Iterable[bytes]) -> Self:
        """Return fresh keys that live as long as this object."""
        if mode == "semi-honest":
            return cls(mode)
        return cls(mode, Signer.generate(), {identity: Signer.generate() for identity in identities})

    @property
    def directory(self) -> Directory:
        """The clients' public keys."""
        return Directory({identity: signer.public_key for identity, signer in self.clients.items()})

    def credentials(self, identity: bytes) -> Credentials | None:
        """Return what a client needs to take part; None where nothing is signed."""
        if self.server is None:
            return None
        return Credentials(self.clients[identity], self.directory, self.server.public_key)


def check_drop_outs(security: Security, drop_outs: DropOuts) -> None:
    """Refuse exact drop-outs where the server may lie, but survivors do not sign what it told them.

    A server that tells some survivors of n that nobody was lost has them give all surplus noise back. They keep v/n
    each of the variance v that the sum is to carry: down to (n - t)/n of it is left where t losses are tolerated.

    Raises:
        UsageError: naming the remedies.
    """
    if security == "semi-malicious" and drop_outs == "exact":
        raise UsageError(
            "security='semi-malicious' with drop_outs='exact': a server that tells survivors different drop-outs would"
            " get noise back that it should not. Use security='malicious', where survivors sign what they were told, or"
            " drop_outs='provision'"
        )
