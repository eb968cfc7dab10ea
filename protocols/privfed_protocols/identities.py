"""Who is who: Ed25519 keys (RFC 8032) behind the identities, from a pinned list or from certificates.

Without them a server that lies can register clients of its own around an honest one, and no other defence matters.
A federation of silos pins its members' keys; where there are too many, an authority certifies them. The server's key
is pinned in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Final, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import labels
from .errors import BadNeighbour, LocalProtocolError, UnknownFormat
from .primitives import frame, number
from .signed import CERTIFICATE_LIMIT
from .uncopied import Uncopied
from .wire import Digest, Identity, Signature, decode

KEY_BYTES: Final = 32
_PRIME: Final = 2**255 - 19
_ORDER_8: Final = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7  # y of two points, -y of two
_LOW_ORDER: Final = frozenset({0, 1, _PRIME - 1, _ORDER_8, _PRIME - _ORDER_8})  # y of all eight points


class Signer(Uncopied):
    """A private key that signs; its repr shows nothing.

    Args:
        sign: gives the 64-byte Ed25519 signature of a message; may ask a hardware module.
        public_key: 32 bytes.
        certificate: what `issue_certificate` gave, where peers do not pin this key.

    Raises:
        LocalProtocolError: the public key has another length.
    """

    instead: ClassVar[str] = "load the key where it is used"

    def __init__(self, sign: Callable[[bytes], bytes], *, public_key: bytes, certificate: bytes = b"") -> None:
        if len(public_key) != KEY_BYTES:
            raise LocalProtocolError(f"public key has {len(public_key)} bytes, expected {KEY_BYTES}")
        self.sign = sign
        self.public_key = bytes(public_key)
        self.certificate = bytes(certificate)

    @classmethod
    def from_private_key(cls, private: Ed25519PrivateKey, *, certificate: bytes = b"") -> Signer:
        """Sign with a private key in memory."""
        return cls(private.sign, public_key=private.public_key().public_bytes_raw(), certificate=certificate)

    @classmethod
    def from_seed(cls, seed: bytes, *, certificate: bytes = b"") -> Signer:
        """Sign with the private key of 32 secret bytes.

        Raises:
            LocalProtocolError: another length.
        """
        if len(seed) != KEY_BYTES:
            raise LocalProtocolError(f"private key has {len(seed)} bytes, expected {KEY_BYTES}")
        return cls.from_private_key(Ed25519PrivateKey.from_private_bytes(bytes(seed)), certificate=certificate)

    @classmethod
    def generate(cls, *, certificate: bytes = b"") -> Signer:
        """Sign with a fresh private key that lives as long as this object."""
        return cls.from_private_key(Ed25519PrivateKey.generate(), certificate=certificate)

    def __repr__(self) -> str:
        return f"<Signer {self.public_key.hex()}>"


def verify(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is one of this key over this message."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _low_order(key: bytes) -> bool:
    """Whether an Ed25519 public key is one of the eight points of low order, in any encoding."""
    return (int.from_bytes(key, "little") & (2**255 - 1)) % _PRIME in _LOW_ORDER


class Certificate(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An authority's word that a key belongs to an identity until a time.

    Attributes:
        version: "privfed-certificate-1".
        identity: 1 to 128 bytes.
        key: Ed25519 public key of the identity.
        expiry: Unix seconds until which the authority vouches, at least 1.
        authority: Ed25519 public key of the authority.
        signature: the authority's, over all other fields.
    """

    version: Literal["privfed-certificate-1"]
    identity: Identity
    key: Digest
    expiry: Annotated[int, msgspec.Meta(ge=1, le=2**62)]
    authority: Digest
    signature: Signature


_CERTIFICATE: Final = msgspec.msgpack.Decoder(Certificate)


def _certified(identity: bytes, key: bytes, expiry: int, authority: bytes) -> bytes:
    return frame(labels.CERTIFICATE, identity, key, number(expiry), authority)


def issue_certificate(authority: Signer, *, identity: bytes, key: bytes, expiry: int) -> bytes:
    """Certify a key.

    Args:
        authority: signs.
        identity: 1 to 128 bytes.
        key: Ed25519 public key of 32 bytes.
        expiry: Unix seconds; the certificate serves epochs whose offers expire no later.

    Returns:
        The certificate, at most 512 bytes.

    Raises:
        LocalProtocolError: an argument out of range.
    """
    try:
        signature = authority.sign(_certified(identity, key, expiry, authority.public_key))
        made = Certificate("privfed-certificate-1", identity, key, expiry, authority.public_key, signature)
        encoded = msgspec.msgpack.encode(made)
        read_certificate(encoded)
    except (UnknownFormat, OverflowError, TypeError) as error:
        raise LocalProtocolError(f"certificate is not valid: {error}") from None
    return encoded


def read_certificate(data: bytes) -> Certificate:
    """Decode a certificate; its signature is not verified here.

    Raises:
        UnknownFormat: it is none of this version.
    """
    return decode(_CERTIFICATE, data, CERTIFICATE_LIMIT)


@dataclass(frozen=True)
class Directory:
    """How to find the key of an identity.

    Attributes:
        pinned: identity -> Ed25519 public key, 32 bytes each, all different.
        authorities: public keys of those whose certificates are believed, for identities that are not pinned.

    Raises:
        LocalProtocolError: a key of wrong length or low order, or one key for two identities.
    """

    pinned: Mapping[bytes, bytes] = field(default_factory=dict, repr=False)
    authorities: frozenset[bytes] = field(default=frozenset(), repr=False)

    def __post_init__(self) -> None:
        keys = [*self.pinned.values(), *self.authorities]
        if any(len(key) != KEY_BYTES for key in keys):
            raise LocalProtocolError(f"public keys have {KEY_BYTES} bytes each")
        if any(_low_order(key) for key in keys):
            raise LocalProtocolError("a public key is of low order: anybody can sign for it; pin the right one")
        if len(set(keys)) != len(keys):
            raise LocalProtocolError("two identities with one key; whoever holds it could be both")

    def key_of(self, identity: bytes, certificate: bytes, *, until: int) -> bytes:
        """Public key of an identity.

        Certificates are read without a clock: they must outlive the epoch, so that all parties judge alike.

        Args:
            identity: whose key.
            certificate: what came with its message, empty if nothing did.
            until: expiry of the offer in Unix seconds; 0 for none, which no certificate outlives.

        Raises:
            BadNeighbour: the identity is not pinned, and the certificate does not vouch for it for so long.
        """
        pinned = self.pinned.get(identity)
        if pinned is not None and not certificate:
            return pinned
        if pinned is not None or not certificate or not self.authorities:
            found = "a certificate beside its pinned key" if pinned is not None else "no key that is believed"
            raise BadNeighbour(f"identity {identity.hex()} has {found}")
        return self._certified_key(identity, certificate, until)

    def _certified_key(self, identity: bytes, certificate: bytes, until: int) -> bytes:
        read = read_certificate(certificate)
        problems = {
            "is for another identity": read.identity != identity,
            "is for a key of low order, for which anybody can sign": _low_order(read.key),
            "is by an authority that is not believed": read.authority not in self.authorities,
            f"expires at {read.expiry}, before the epoch at {until}": not 0 < until <= read.expiry,
            "is not signed by its authority": not verify(
                read.authority, read.signature, _certified(read.identity, read.key, read.expiry, read.authority)
            ),
        }
        found = [text for text, holds in problems.items() if holds]
        if found:
            raise BadNeighbour(f"certificate of {identity.hex()} {'; '.join(found)}")
        return read.key


@dataclass(frozen=True)
class Credentials:
    """What a client needs in the modes with identities.

    Attributes:
        signer: its own key; with a certificate where peers do not pin it.
        directory: how it finds its peers' keys.
        server_key: the server's Ed25519 public key, 32 bytes.

    Raises:
        LocalProtocolError: the server's key has another length.
    """

    signer: Signer
    directory: Directory
    server_key: bytes

    def __post_init__(self) -> None:
        if len(self.server_key) != KEY_BYTES:
            raise LocalProtocolError(f"server key has {len(self.server_key)} bytes, expected {KEY_BYTES}")
