"""What `privfed_protocols` gives for the cases of `protocols/vectors`: JSON values in, JSON values out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from privfed_protocols import (
    Client,
    ClientPolicy,
    Credentials,
    Directory,
    InfeasibleParameters,
    Offer,
    Server,
    Signer,
    VectorSpec,
    derivation,
    issue_certificate,
    select_parameters,
    surplus_seed,
)
from privfed_protocols import labels as names
from privfed_protocols import masks as mask_streams
from privfed_protocols import merkle as trees
from privfed_protocols import packing as packs
from privfed_protocols import primitives as prime
from privfed_protocols import shamir as sharing
from privfed_protocols.graph import CompleteGraph, HararyGraph
from privfed_protocols.identities import verify
from privfed_protocols.masks import Mask
from privfed_protocols.messages import Advertise, Masked, Survivors
from privfed_protocols.modes import MODES
from privfed_protocols.signed import fingerprint_of, statement, wrap
from privfed_protocols.suites import suite

Json = dict[str, Any]
un = bytes.fromhex


def _label(i: Json) -> bytes:
    text: str = i["label"]
    return f"privfed/sa1/{text}".encode() if i["suite"] is None else names.of(text.encode(), i["suite"])


def _hash(i: Json) -> Json:
    parts = [un(part) for part in i["parts"]]
    return {"frame": prime.frame(_label(i), *parts).hex(), "sha256": prime.digest(_label(i), *parts).hex()}


def _share_key(i: Json) -> Json:
    bound = {"epoch": un(i["epoch"]), "root": un(i["root"]), "sender": i["sender"], "receiver": i["receiver"]}
    key = derivation.share_key(un(i["secret"]), n=i["n"], suite=i["suite"], **bound)
    return {"key": key.hex(), "associated_data": derivation.share_associated_data(suite=i["suite"], **bound).hex()}


def _coefficient_key(i: Json) -> Json:
    found = derivation.coefficient_key(
        un(i["secret"]), epoch=un(i["epoch"]), root=un(i["root"]), n=i["n"], suite=i["suite"]
    )
    return {"key": found.hex()}


def _pair_mask_key(i: Json) -> Json:
    (mask,) = derivation.pair_masks(
        un(i["secret"]), context=un(i["context"]), index=i["index"], peer=i["peer"],
        vectors=[VectorSpec(*i["vector"])], suite=i["suite"],
    )  # fmt: skip
    return {"key": mask.key.hex(), "subtract": mask.subtract}


def _self_mask_key(i: Json) -> Json:
    (mask,) = derivation.self_masks(
        un(i["secret"]),
        context=un(i["context"]),
        index=i["index"],
        vectors=[VectorSpec(*i["vector"])],
        suite=i["suite"],
    )
    return {"key": mask.key.hex()}


def _merkle(i: Json) -> Json:
    hashes = [trees.leaf_hash(un(leaf)) for leaf in i["leaves"]]
    tree = trees.Tree(hashes)
    for index, one in enumerate(hashes):
        assert trees.verify_path(one, index=index, size=len(hashes), path=tree.path(index), root=tree.root)
    return {"root": tree.root.hex(), "paths": [[one.hex() for one in tree.path(at)] for at in range(len(hashes))]}


def _neighbours(i: Json) -> Json:
    graph = CompleteGraph(i["n"]) if i["k"] == i["n"] - 1 else HararyGraph(i["n"], i["k"], un(i["seed"]))
    return {"neighbours": [list(graph.neighbours(one)) for one in i["clients"]]}


def _parameters(i: Json) -> Json:
    try:
        found = select_parameters(**i)
    except InfeasibleParameters:
        return {"error": "InfeasibleParameters"}
    return {"k": found.k, "t": found.t}


def _share(i: Json) -> Json:
    shares = sharing.share(
        sharing.to_limbs(b"".join(un(one) for one in i["secrets"])),
        points=np.arange(1, i["points"] + 1, dtype=np.uint64),
        threshold=i["t"],
        stream=sharing.FieldStream(un(i["key"]), suite=suite(i["suite"])),
    )
    return {"shares": [row.astype("<u4").tobytes().hex() for row in shares]}


def _combine(i: Json) -> Json:
    points = np.array([i["points"]], np.uint64)
    shares = np.array([[np.frombuffer(un(one), "<u4") for one in i["shares"]]], np.uint64)
    (secret,) = sharing.from_limbs(sharing.combine(sharing.lagrange_at_zero(points), shares))
    assert secret is not None
    return {"secret": secret.hex()}


def _stream(i: Json) -> Json:
    """The stream as masks read it, and once more entered in the middle."""
    zeros = np.zeros(i["size"], np.uint8)
    mask_streams.mask_into(zeros, zeros, [Mask(un(i["key"]))], suite=suite(i["suite"]))
    made = zeros.tobytes()
    at = i["size"] // 128 * 64
    rest = bytearray(i["size"] - at)
    suite(i["suite"]).keystream(un(i["key"]), offset=at).update_into(bytes(len(rest)), rest)
    assert made[at:] == rest
    return {"head": made[:80].hex(), "tail": made[-16:].hex(), "sha256": hashlib.sha256(made).hexdigest()}


def _pack(i: Json) -> Json:
    packed = packs.pack(np.array(i["values"], packs.native_dtype(i["bits"])), i["bits"])
    assert packs.unpack(packed, length=len(i["values"]), bits=i["bits"]).tolist() == i["values"]
    return {"packed": packed.hex()}


def _masked(i: Json) -> Json:
    source = np.array(i["values"], packs.native_dtype(i["bits"]))
    target = np.empty_like(source)
    masks = [Mask(un(key), subtract) for key, subtract in i["masks"]]
    mask_streams.mask_into(source, target, masks, suite=suite(i["suite"]))
    return {"packed": packs.pack(target, i["bits"]).hex()}


def _signed(i: Json) -> Json:
    kinds = {"signed offer": Offer, "signed advertise": Advertise, "signed masked vectors": Masked,
             "signed survivors": Survivors}  # fmt: skip
    body, signer = un(i["body"]), Signer.from_seed(un(i["seed"]))
    text = statement(kinds[i["label"]], fingerprint_of(body), epoch=un(i["epoch"]), suite=i["suite"])
    return {"text": text.hex(), "envelope": wrap(body, signer.sign(text), certificate=un(i["certificate"])).hex()}


def _certificate(i: Json) -> Json:
    authority, identity, key = Signer.from_seed(un(i["authority_seed"])), un(i["identity"]), un(i["key"])
    assert authority.public_key.hex() == i["authority"]
    made = issue_certificate(authority, identity=identity, key=key, expiry=i["expiry"])
    assert Directory(authorities=frozenset({authority.public_key})).key_of(identity, made, until=i["expiry"]) == key
    text = prime.frame(names.CERTIFICATE, identity, key, prime.number(i["expiry"]), authority.public_key)
    return {"signed": text.hex(), "certificate": made.hex()}


def _x25519(i: Json) -> Json:
    prime.check_public_key(un(i["public"]), owner="the peer")
    shared = prime.Agreement(un(i["private"])).shared_secret(un(i["public"]))
    return {"own_public": prime.public_key(un(i["private"])).hex(), "shared": shared.hex()}


def _ed25519(i: Json) -> Json:
    signer = Signer.from_seed(un(i["seed"]))
    signature = signer.sign(un(i["message"]))
    assert verify(signer.public_key, signature, un(i["message"]))
    return {"public": signer.public_key.hex(), "signature": signature.hex()}


def _seal(i: Json) -> Json:
    key, associated, ciphers = un(i["key"]), un(i["associated_data"]), suite(i["suite"])
    sealed = prime.seal(key, un(i["plaintext"]), associated, suite=ciphers)
    assert prime.unseal(key, sealed, associated, sender="x", suite=ciphers) == un(i["plaintext"])
    return {"sealed": sealed.hex()}


class LibraryEpoch:
    """An epoch run with the state machines, whose secrets are those of the case; it can stop after any step."""

    def __init__(self, inputs: Json) -> None:
        self.inputs, told = inputs, dict(inputs["offer"])
        told |= {"nonce": un(told["nonce"]), "plan_digest": un(told["plan_digest"])}
        self.offer = Offer.new(**(told | {"vectors": [VectorSpec(*spec) for spec in told["vectors"]]}))
        signed = self.offer.rules.identities
        self.server_signer = Signer.from_seed(un(inputs["server_seed"])) if inputs["server_seed"] else None
        self.signers = {
            un(one["identity"]): Signer.from_seed(un(one["signature_seed"]))
            for one in inputs["clients"]
            if one["signature_seed"]
        }
        self.directory = Directory({name: signer.public_key for name, signer in self.signers.items()})
        self.server = Server(self.offer, signer=self.server_signer, directory=self.directory if signed else None)
        self.clients = {un(one["identity"]): self.client(one) for one in inputs["clients"]}
        self.outputs: Json = {}

    def credentials(self, name: bytes) -> Credentials | None:
        """What a client needs in the modes with identities."""
        if not self.offer.rules.identities or self.server_signer is None:
            return None
        return Credentials(self.signers[name], self.directory, self.server_signer.public_key)

    def client(self, one: Json, *, policy: ClientPolicy | None = None, credentials: bool = True) -> Client:
        """A new client that will draw the secrets of the case."""
        drawn = iter([one["channel"], one["sharing_seed"], *one["mask_keys"], *one["self_seeds"]])
        name = un(one["identity"])
        return Client(
            name,
            policy=policy or ClientPolicy(n_max=400, modes=frozenset(MODES)),
            credentials=self.credentials(name) if credentials else None,
            randomness=lambda size: un(next(drawn)),
        )

    def steps(self) -> Iterator[tuple[str, int]]:
        """Run the epoch; before each step of sending, say which message comes next and in which round."""
        lost, out = self.inputs["lost"], self.outputs
        out |= {"m0": self.server.offer.hex()} | {key: {} for key in ("m1", "m2", "m3", "m4")} | {"rounds": []}
        yield "M0", 0
        for name in self.clients:
            if name.hex() not in lost["advertise"]:
                out["m1"][name.hex()] = self.tell(name, self.server.offer).hex()
        yield "M1", 0
        self.take(out["m1"])
        rosters = dict(self.server.close_advertise())
        roster = self.server._require_roster()
        out |= {"epoch_id": self.server._epoch.hex(), "root": roster.root.hex()}
        out |= {"n": roster.n, "k": roster.parameters.k, "t": roster.parameters.t}
        out["m2"] = {name.hex(): message.hex() for name, message in rosters.items()}
        yield "M2", 0
        for name, message in rosters.items():
            if name.hex() not in lost["shares"]:
                out["m3"][name.hex()] = self.tell(name, message).hex()
        yield "M3", 0
        self.take(out["m3"])
        deliveries = dict(self.server.close_shares())
        out["m4"] = {name.hex(): message.hex() for name, message in deliveries.items()}
        yield "M4", 0
        for name, message in deliveries.items():
            if name.hex() not in lost["delivery"]:
                self.clients[name].receive(message, now=0)
        for number, told in enumerate(self.inputs["rounds"], start=1):
            yield from self.round(number, told)

    def round(self, number: int, told: Json) -> Iterator[tuple[str, int]]:
        """One round of it."""
        lost, here = told["lost"], {"m6": {}, "m8": {}, "m9": "", "m10": {}}
        self.outputs["rounds"].append(here)
        model, plan = un(told["model_digest"]), un(told["plan_digest"])
        wanted = None if told["participants"] is None else [un(name) for name in told["participants"]]
        mail = dict(
            self.server.start_round(
                model_digest=model, plan_digest=plan, participants=wanted, deadline=told["deadline"]
            )
        )
        here["m5"] = _one(mail)
        here["context"] = self.server._require_round().context.hex()
        yield "M5", number
        started = [name for name in mail if name.hex() not in {*self.inputs["lost"]["delivery"], *lost["start"]}]
        for name in started:
            self.clients[name].receive(mail[name], now=0)
        yield "vectors", number
        for name in started:
            if name.hex() not in lost["input"]:
                here["m6"][name.hex()] = self.submit(name, told).hex()
        yield "M6", number
        self.take(here["m6"])
        mail = dict(self.server.close_inputs())
        here["m7"] = _one(mail)
        yield "M7", number
        if self.offer.rules.consistency:
            for name, message in mail.items():
                if name.hex() not in lost["signature"]:
                    here["m8"][name.hex()] = self.tell(name, message).hex()
            yield "M8", number
            self.take(here["m8"])
            mail = dict(self.server.close_signatures())
            here["m9"] = _one(mail)
            yield "M9", number
        here["m10"] = {name.hex(): self.tell(name, message).hex() for name, message in mail.items()}
        yield "M10", number
        self.take({name: one for name, one in here["m10"].items() if name not in lost["unmask"]})
        result = self.server.close_unmask()
        here["surplus"] = {name.hex(): seed.hex() for name, seed in result.surplus.items()}
        here["sums"] = [result.sums[spec.name].tolist() for spec in self.offer.vectors]
        here["dropped"] = result.dropped

    def tell(self, name: bytes, message: bytes) -> bytes:
        """Give a client a message; its reply."""
        reply = self.clients[name].receive(message, now=0).reply
        assert reply is not None
        return reply

    def take(self, messages: Mapping[str, str]) -> None:
        """Give the server messages."""
        for name, message in messages.items():
            self.server.receive(un(name), un(message))

    def submit(self, name: bytes, told: Json, **changes: object) -> bytes:
        """A client's M6."""
        rows = zip(self.offer.vectors, told["vectors"][name.hex()], strict=True)
        arguments: Json = {
            "vectors": {spec.name: np.array(row, spec.dtype) for spec, row in rows},
            "model_digest": un(told["model_digest"]),
            "plan_digest": un(told["plan_digest"]),
            "surplus_seed": un(told["surplus_seeds"][name.hex()]) if self.offer.shares else None,
        }
        return self.clients[name].submit(**(arguments | changes))

    def run(self) -> Json:
        """To the end."""
        for _ in self.steps():
            pass
        return self.outputs


def _one(mail: Mapping[bytes, bytes]) -> str:
    """A message that is the same for all."""
    (message,) = set(mail.values())
    return message.hex()


FUNCTIONS: dict[str, Callable[[Json], Json]] = {
    "hash": _hash,
    "kdf": lambda i: {
        "key": prime.hkdf_expand(prime.hkdf_extract(un(i["salt"]), un(i["secret"])), un(i["info"])).hex()
    },
    "x25519": _x25519,
    "ed25519": _ed25519,
    "seal": _seal,
    "share_key": _share_key,
    "coefficient_key": _coefficient_key,
    "pair_mask_key": _pair_mask_key,
    "self_mask_key": _self_mask_key,
    "merkle": _merkle,
    "neighbours": _neighbours,
    "parameters": _parameters,
    "share": _share,
    "combine": _combine,
    "stream": _stream,
    "pack": _pack,
    "masked": _masked,
    "surplus": lambda i: {"seeds": [surplus_seed(un(i["seed"]), at + 1).hex() for at in range(i["length"])]},
    "signed": _signed,
    "certificate": _certificate,
    "epoch": lambda i: LibraryEpoch(i).run(),
}
