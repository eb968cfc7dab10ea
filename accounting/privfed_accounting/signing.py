"""Ed25519 signatures over a ledger's head, by its coordinator and by clients, and what a client checks before it signs.

A hash chain proves that what is there fits together; it cannot prove that nothing was cut off or that the whole was not
written anew. A signature under a head pins everything up to it: whoever holds a signed head, or the head alone, can
demand that the chain still contains it. Signatures are stored in the chain as entries of kind `checkpoint`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from privfed_accounting.canonical import digest
from privfed_accounting.chain import Row, parse_entry, read_chain
from privfed_accounting.errors import CorruptLedger, ParameterError

Role = Literal["coordinator", "client"]
ROLES: Final[tuple[Role, ...]] = ("coordinator", "client")
_LABEL: Final = b"privfed ledger head, version 1\x00"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_IDENTIFIER: Final = re.compile(r"[0-9a-f]{32}")
_SIGNATURE: Final = re.compile(r"[0-9a-f]{128}")


class Signer(Protocol):
    """Whatever signs as an Ed25519 private key of `cryptography` does: the key itself, or a token that holds it."""

    def sign(self, data: bytes) -> bytes:
        """Sign with Ed25519."""
        ...

    def public_key(self) -> Any:
        """Matching public key, an Ed25519PublicKey."""
        ...


@dataclass(frozen=True)
class Head:
    """A point of one ledger's chain: everything up to and with entry `seq`.

    Attributes:
        ledger: the ledger's random number, 32 hexadecimal digits.
        seq: number of the entry, >= 1.
        digest: of that entry, 64 hexadecimal digits.

    >>> Head.parse(str(Head("00" * 16, 3, "ab" * 32))).seq
    3
    """

    ledger: str
    seq: int
    digest: str

    def __post_init__(self) -> None:
        if not isinstance(self.ledger, str) or _IDENTIFIER.fullmatch(self.ledger) is None:
            raise ParameterError(f"the ledger of a head is {self.ledger!r}, expected 32 hexadecimal digits")
        if isinstance(self.seq, bool) or not isinstance(self.seq, int) or not 1 <= self.seq < 2**63:
            raise ParameterError(f"the entry of a head is {self.seq!r}, expected an integer >= 1")
        if not isinstance(self.digest, str) or _DIGEST.fullmatch(self.digest) is None:
            raise ParameterError(f"the digest of a head is {self.digest!r}, expected 64 hexadecimal digits")

    def message(self, role: Role) -> bytes:
        """Bytes that are signed: a label, the role, the ledger, the entry's number and its digest."""
        number = self.seq.to_bytes(8, "big")
        return _LABEL + role.encode() + b"\x00" + bytes.fromhex(self.ledger) + number + bytes.fromhex(self.digest)

    @classmethod
    def parse(cls, text: str) -> Head:
        """Read back `str(head)`: ledger:entry:digest."""
        parts = text.split(":") if isinstance(text, str) else []
        if len(parts) != 3 or not parts[1].isdecimal():
            raise ParameterError(f"{text!r} is no head of a ledger, expected ledger:entry:digest as it was printed")
        return cls(parts[0], int(parts[1]), parts[2])

    def __str__(self) -> str:
        return f"{self.ledger}:{self.seq}:{self.digest}"


@dataclass(frozen=True)
class HeadSignature:
    """A head with one signature under it.

    Attributes:
        head: what is signed.
        role: "coordinator" or "client"; part of what is signed.
        public_key: the signer's, raw, 64 hexadecimal digits. It proves who signed only to those who know whose it is.
        signature: 128 hexadecimal digits.
    """

    head: Head
    role: Role
    public_key: str
    signature: str

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise ParameterError(f"the role of a signer is {self.role!r}, expected one of {', '.join(ROLES)}")
        for name, pattern in (("public_key", _DIGEST), ("signature", _SIGNATURE)):
            value = getattr(self, name)
            if not isinstance(value, str) or pattern.fullmatch(value) is None:
                raise ParameterError(f"{name} of a signed head is {value!r}, expected lower-case hexadecimal digits")

    @property
    def valid(self) -> bool:
        """Whether the signature is that of the public key under this head and role."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self.head.message(self.role))
        except (InvalidSignature, ValueError):
            return False
        return True

    def as_dict(self) -> dict[str, Any]:
        """Fields by name, fit for JSON and for the transport between client and coordinator."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> HeadSignature:
        """Read back what `as_dict` gave; anything else is a ParameterError."""
        try:
            return cls(Head(**fields["head"]), fields["role"], fields["public_key"], fields["signature"])
        except (KeyError, TypeError) as error:
            raise ParameterError(f"this is no signed head ({error!r}), expected what as_dict() gave") from error


def sign_head(head: Head, signer: Signer, *, role: Role = "coordinator") -> HeadSignature:
    """Sign a head of a ledger.

    Args:
        head: from `Ledger.point`, or one that `check_extension` accepted.
        signer: an Ed25519 private key of `cryptography`, or what signs like one.
        role: "coordinator" for who keeps the ledger, "client" for who countersigns it.
    """
    signature = signer.sign(head.message(role))
    return HeadSignature(head, role, public_key_text(signer.public_key()), signature.hex())


def public_key_text(key: Any) -> str:
    """An Ed25519 public key as 64 hexadecimal digits; takes the key's object, its 32 bytes, or the digits themselves.

    Raises:
        ParameterError: it is none of these.
    """
    if isinstance(key, str) and _DIGEST.fullmatch(key):
        return key
    raw = getattr(key, "public_bytes_raw", None)
    data = raw() if callable(raw) else key
    if isinstance(data, bytes) and len(data) == 32:
        return data.hex()
    raise ParameterError(
        f"a public key is a {type(key).__name__}, expected an Ed25519 public key, its 32 bytes or 64 hexadecimal digits"
    )


def check_extension(known: Head | None, texts: Sequence[str], head: Head) -> Head:
    """Check, as a client does before it signs, that a ledger has grown from a head known before and lost nothing.

    Args:
        known: head accepted last time; None for the first time, when all entries are needed.
        texts: stored texts of the entries after `known`, in order (`Ledger.texts`).
        head: what the coordinator says the head is now.

    Returns:
        The head, now known.

    Raises:
        CorruptLedger: the entries do not lead from the one head to the other.
    """
    first = 1 if known is None else known.seq + 1
    if known is not None and known.ledger != head.ledger:
        raise CorruptLedger(f"the head is of ledger {head.ledger}, expected {known.ledger}: ask for the same ledger")
    last = known.digest if known is not None else "0" * 64
    for entry in read_chain(_rows(texts, first), after=last, last_seq=first - 1):
        last = entry.digest
        if entry.seq == 1 and entry.body.get("ledger") != head.ledger:
            raise CorruptLedger("entry 1 opens another ledger than the head's: ask for the same ledger", entry=1)
    reached = first - 1 + len(texts)
    if (reached, last) != (head.seq, head.digest):
        raise CorruptLedger(
            f"the entries lead to entry {reached}, not to the head {head}, so that some were dropped or rewritten: "
            "sign nothing",
            entry=min(reached, head.seq) or None,
        )
    return head


def _rows(texts: Iterable[str], first: int) -> Iterable[Row]:
    for number, text in enumerate(texts, first):
        yield Row(number, parse_entry(number, text).kind, text.encode(), digest(text))
