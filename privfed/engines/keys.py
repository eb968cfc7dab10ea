"""The keys of clients and server, for the modes of the protocol in which messages are signed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Self

from privfed_protocols import Credentials, Directory, Signer

__all__ = ["Keys", "Security"]

Security = Literal["semi-honest", "malicious"]


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
