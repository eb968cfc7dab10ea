"""What the slow reference gives for the cases of `protocols/vectors`: JSON values in, JSON values out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.reference import numbers
from tests.reference import words as w
from tests.reference.epoch import Epoch

Json = dict[str, Any]
un = bytes.fromhex


def _hash(i: Json) -> Json:
    parts = [un(part) for part in i["parts"]]
    return {
        "frame": w.frame(i["label"], i["suite"], *parts).hex(),
        "sha256": w.sha(i["label"], i["suite"], *parts).hex(),
    }


def _key(label: str, i: Json, salt: bytes, *parts: bytes) -> Json:
    return {"key": w.kdf(salt, un(i["secret"]), w.frame(label, i["suite"], *parts)).hex()}


def _share_key(i: Json) -> Json:
    ends, bound = (w.num(i["sender"]), w.num(i["receiver"])), (un(i["epoch"]), un(i["root"]))
    salt = w.sha("share encryption salt", i["suite"], *bound, w.num(i["n"]))
    associated = w.frame("share encryption associated data", i["suite"], *bound, *ends).hex()
    return _key("share encryption key", i, salt, *ends) | {"associated_data": associated}


def _shape(spec: list[Any]) -> tuple[bytes, bytes, bytes]:
    return spec[0].encode(), w.num(spec[1]), w.num(spec[2])


def _pair_mask_key(i: Json) -> Json:
    low, high = sorted((i["index"], i["peer"]))
    found = _key("pair mask", i, un(i["context"]), w.num(low), w.num(high), *_shape(i["vector"]))
    return found | {"subtract": i["index"] > i["peer"]}


def _masked(i: Json) -> Json:
    total = list(i["values"])
    for key, subtract in i["masks"]:
        mask = numbers.elements(i["suite"], un(key), len(total), i["bits"])
        total = [one + (-other if subtract else other) for one, other in zip(total, mask, strict=True)]
    return {"packed": numbers.packed(total, i["bits"]).hex()}


def _stream(i: Json) -> Json:
    made = w.stream(i["suite"], un(i["key"]), i["size"])
    return {"head": made[:80].hex(), "tail": made[-16:].hex(), "sha256": hashlib.sha256(made).hexdigest()}


def _certificate(i: Json) -> Json:
    seed, identity, key = un(i["authority_seed"]), un(i["identity"]), un(i["key"])
    authority = un(i["authority"])
    text = w.frame("certificate of an identity", None, identity, key, w.num(i["expiry"]), authority)
    fields = ["privfed-certificate-1", identity, key, i["expiry"], authority, w.sign(seed, text)]
    return {"signed": text.hex(), "certificate": w.pack(fields).hex()}


def _surplus(i: Json) -> Json:
    chain = [un(i["seed"])]
    while len(chain) < i["length"]:
        chain.append(w.sha("surplus noise seed", None, chain[-1]))
    return {"seeds": [seed.hex() for seed in chain]}


def _signed(i: Json) -> Json:
    body, seed = un(i["body"]), un(i["seed"])
    text = w.frame(i["label"], i["suite"], un(i["epoch"]), hashlib.sha256(body).digest())
    return {"text": text.hex(), "envelope": w.message(11, body, un(i["certificate"]), w.sign(seed, text)).hex()}


def _parameters(i: Json) -> Json:
    found = numbers.parameters(**i)
    return {"k": found[0], "t": found[1]} if found else {"error": "InfeasibleParameters"}


def _merkle(i: Json) -> Json:
    leaves = [un(leaf) for leaf in i["leaves"]]
    paths = [[one.hex() for one in w.path(leaves, index)] for index in range(len(leaves))]
    return {"root": w.tree(leaves).hex(), "paths": paths}


def _x25519(i: Json) -> Json:
    private = un(i["private"])
    return {"own_public": w.public_of(private).hex(), "shared": w.dh(private, un(i["public"])).hex()}


def _ed25519(i: Json) -> Json:
    public = Ed25519PrivateKey.from_private_bytes(un(i["seed"])).public_key().public_bytes_raw()
    return {"public": public.hex(), "signature": w.sign(un(i["seed"]), un(i["message"])).hex()}


FUNCTIONS: dict[str, Callable[[Json], Json]] = {
    "hash": _hash,
    "kdf": lambda i: {"key": w.kdf(un(i["salt"]), un(i["secret"]), un(i["info"])).hex()},
    "x25519": _x25519,
    "ed25519": _ed25519,
    "seal": lambda i: {"sealed": w.seal(i["suite"], un(i["key"]), un(i["plaintext"]), un(i["associated_data"])).hex()},
    "share_key": _share_key,
    "coefficient_key": lambda i: _key(
        "sharing polynomial coefficients", i, un(i["root"]), un(i["epoch"]), un(i["root"]), w.num(i["n"])
    ),
    "pair_mask_key": _pair_mask_key,
    "self_mask_key": lambda i: _key("self mask", i, un(i["context"]), w.num(i["index"]), *_shape(i["vector"])),
    "merkle": _merkle,
    "neighbours": lambda i: {
        "neighbours": [numbers.neighbours(i["n"], i["k"], un(i["seed"]), one) for one in i["clients"]]
    },
    "parameters": _parameters,
    "share": lambda i: {
        "shares": [
            one.hex()
            for one in numbers.share([un(s) for s in i["secrets"]], i["points"], i["t"], i["suite"], un(i["key"]))
        ]
    },
    "combine": lambda i: {"secret": numbers.combine(i["points"], [un(one) for one in i["shares"]]).hex()},
    "stream": _stream,
    "pack": lambda i: {"packed": numbers.packed(i["values"], i["bits"]).hex()},
    "masked": _masked,
    "surplus": _surplus,
    "signed": _signed,
    "certificate": _certificate,
    "epoch": lambda i: Epoch(i).outputs(),
}
