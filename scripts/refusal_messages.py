"""Messages as a lying server or client would make them, from the epochs that the negative vectors start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.reference import words as w
from tests.reference.epoch import SIGNED, Epoch

Json = dict[str, Any]
un = bytes.fromhex
OTHER: Final = bytes(range(32))
AUTHORITY: Final = bytes(range(100, 132))


def changed(items: Sequence[Any], place: int, value: object) -> list[Any]:
    """Return a list with one item replaced."""
    return [*items[:place], value, *items[place + 1 :]]


def signature_key(seed: bytes) -> bytes:
    """Return the Ed25519 public key of a seed."""
    return Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()


class Base:
    """An epoch without losses, and forgeries of its messages to and from its first client."""

    def __init__(self, name: str, inputs: Json) -> None:
        self.name, self.inputs, self.mode = name, inputs, inputs["offer"]["mode"]
        self.epoch_of = Epoch(inputs)
        self.epoch, self.names = self.epoch_of.epoch, self.epoch_of.names
        self.round_1 = self.epoch_of.round(1, inputs["rounds"][0])

    def seed(self, index: int) -> bytes:
        """Return the signature seed of a client."""
        return un(self.inputs["clients"][index]["signature_seed"])

    def wrap(
        self,
        number: int,
        body: bytes,
        epoch: bytes,
        seed: bytes | None = None,
        *,
        suite: int = 1,
        certificate: bytes = b"",
        signed: bytes | None = None,
    ) -> bytes:
        """Return a signed message; `signed` is the body that the signature is really for."""
        fingerprint = hashlib.sha256(body if signed is None else signed).digest()
        text = w.frame(SIGNED[number], suite, epoch, fingerprint)
        seed = un(self.inputs["server_seed"]) if seed is None else seed
        return w.message(11, body, certificate, w.sign(seed, text))

    def honest(self) -> dict[str, bytes]:
        """Return long messages that the epoch's own file has in full."""
        first = self.names[0]
        return {"m0": self.epoch_of.m0, "m1": self.epoch_of.m1[first], "m2": self.epoch_of.roster(0),
                "m4": self.epoch_of.delivery(0)}  # fmt: skip

    # --- set-up

    def offer_fields(self, **changes: object) -> list[Any]:
        """Return number, version and fields of the offer."""
        told = self.inputs["offer"] | {key: un(self.inputs["offer"][key]) for key in ("nonce", "plan_digest")}
        return [0, "sa1", *(told | changes).values()]

    def offer(self, **changes: object) -> bytes:
        """Return the offer, unsigned."""
        return w.pack(self.offer_fields(**changes))

    def channel(self, index: int) -> bytes:
        """Return a client's channel key."""
        return w.public_of(self.epoch_of.own(index, "channel"))

    def keys(self, index: int) -> bytes:
        """Return a client's round keys."""
        return b"".join(w.public_of(un(key)) for key in self.inputs["clients"][index]["mask_keys"])

    def fresh(self, count: int) -> bytes:
        """Return round keys of nobody."""
        return b"".join(w.public_of(bytes([at + 1]) * 32) for at in range(count))

    def m1(self, index: int, **changes: bytes) -> bytes:
        """Return an advertise, unsigned."""
        rounds = range(1, self.inputs["offer"]["rounds"] + 1)
        seeds = (
            w.sha("self-mask seed commitment", 1, self.epoch, un(self.names[index]), w.num(r),
                  self.epoch_of.own(index, "self_seeds", r))
            for r in rounds
        )  # fmt: skip
        told = {
            "epoch": self.epoch,
            "identity": un(self.names[index]),
            "channel": self.channel(index),
            "keys": self.keys(index),
            "commitments": b"".join(seeds),
        }
        return w.message(1, *(told | changes).values())

    def entries(self) -> list[list[Any]]:
        """Return the neighbours of an honest roster."""
        return [[i, self.epoch_of.m1[self.names[i]], []] for i in range(1, len(self.names))]

    def roster(self, leaves: Mapping[int, bytes], **changes: Any) -> bytes:
        """Return a roster with some advertises replaced, under the root that holds them."""
        sent = [leaves.get(i, self.epoch_of.m1[name]) for i, name in enumerate(self.names)]
        told = {
            "epoch": self.epoch, "n": len(sent), "k": self.epoch_of.k, "t": self.epoch_of.t, "root": w.tree(sent),
            "index": 0, "path": w.path(sent, 0), "entries": [[i, sent[i], []] for i in range(1, len(sent))],
        }  # fmt: skip
        return w.message(2, *(told | changes).values())

    def pieces(self) -> list[bytes]:
        """Return what the others sealed for the first client."""
        return [self.epoch_of.sealed(sender, 0) for sender in range(1, len(self.names))]

    def sealed_under(self, *, root: bytes | None = None, n: int = 5, plaintext: bytes | None = None) -> bytes:
        """Return what client 1 might have sealed for client 0."""
        root = self.epoch_of.root if root is None else root
        ends = (w.num(1), w.num(0))
        salt = w.sha("share encryption salt", 1, self.epoch, root, w.num(n))
        shared = w.dh(self.epoch_of.own(0, "channel"), self.channel(1))
        key = w.kdf(salt, shared, w.frame("share encryption key", 1, *ends))
        plaintext = self.epoch_of.dealt(1)[0] if plaintext is None else plaintext
        associated = w.frame("share encryption associated data", 1, self.epoch, self.epoch_of.root, *ends)
        return w.seal(1, key, plaintext, associated)

    def delivery(self, *, present: bytes = b"\x1f", sealed: bytes | None = None, epoch: bytes | None = None) -> bytes:
        """Return a delivery."""
        sealed = b"".join(self.pieces()) if sealed is None else sealed
        return w.message(4, self.epoch if epoch is None else epoch, present, sealed)

    # --- rounds

    def start(
        self, *, r: int = 1, u: bytes = b"\x1f", deadline: int = 500, epoch: bytes | None = None, model: bytes = b""
    ) -> bytes:
        """Return a start."""
        told = self.inputs["rounds"][0]
        digests = (model or un(told["model_digest"]), un(told["plan_digest"]))
        return w.message(5, self.epoch if epoch is None else epoch, r, u, *digests, deadline)

    def survivors_body(self, members: Sequence[int], *, r: int = 1, epoch: bytes | None = None) -> bytes:
        """Return survivors, unsigned."""
        return w.message(7, self.epoch if epoch is None else epoch, r, w.bitmap(members, len(self.names)))

    def survivors(self, members: Sequence[int], *, r: int = 1, epoch: bytes | None = None) -> bytes:
        """Return survivors as the mode has them."""
        body = self.survivors_body(members, r=r, epoch=epoch)
        return self.wrap(7, body, self.epoch) if self.mode == "malicious" else body

    def quorum_text(self, members: Sequence[int] = (0, 1, 2, 3, 4), context: bytes | None = None) -> bytes:
        """Return what M8 signs."""
        context = un(self.round_1["context"]) if context is None else context
        return w.frame("consistency of survivors", 1, context, w.bitmap(members, len(self.names)))

    def quorum(
        self,
        signers: Sequence[int],
        *,
        texts: Mapping[int, bytes] | None = None,
        seeds: Mapping[int, bytes] | None = None,
        bits: bytes | None = None,
        cut: int | None = None,
        r: int = 1,
        epoch: bytes | None = None,
    ) -> bytes:
        """Return a quorum; some signers may sign other texts, or with other keys."""
        texts, seeds = texts or {}, seeds or {}
        signed = [w.sign(seeds.get(i, self.seed(i)), texts.get(i, self.quorum_text())) for i in signers]
        bits = w.bitmap(signers, len(self.names)) if bits is None else bits
        raw = (b"".join(signed) + bytes(64))[: 64 * len(signed) if cut is None else cut]
        return w.message(9, self.epoch if epoch is None else epoch, r, bits, raw)

    def masked_body(self, index: int) -> bytes:
        """Return masked vectors of the right size, unsigned."""
        return w.message(6, self.epoch, 1, bytes(18))

    def masked(self, index: int) -> bytes:
        """Return an honest M6 of round 1."""
        return un(self.round_1["m6"][self.names[index]])

    # --- certificates

    def certificate(
        self,
        index: int = 0,
        *,
        identity: bytes | None = None,
        authority: bytes = AUTHORITY,
        expiry: int = 1000,
        key: bytes | None = None,
        spoiled: bool = False,
        version: str = "privfed-certificate-1",
        surplus: Sequence[int] = (),
    ) -> bytes:
        """Return a certificate for a client."""
        identity = un(self.names[index]) if identity is None else identity
        certified = signature_key(self.seed(index) if key is None else key)
        by = signature_key(authority)
        text = w.frame("certificate of an identity", None, identity, certified, w.num(expiry), by)
        signature = bytes(64) if spoiled else w.sign(authority, text)
        return w.pack([version, identity, certified, expiry, by, signature, *surplus])

    def certified(self, expiry: int, *, key: bytes | None = None) -> Json:
        """Return credentials of the first client that rest on a certificate."""
        certificate = self.certificate(0, expiry=expiry, key=key)
        return {"authority": signature_key(AUTHORITY).hex(), "certificate": certificate.hex()}
