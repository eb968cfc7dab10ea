"""Reading `protocols/vectors`, and what its files leave out of long transcripts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "protocols" / "vectors"
LONG = ("m2", "m3", "m4")


def load(name: str) -> dict[str, Any]:
    """One scenario."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def scenarios(kind: str) -> list[str]:
    """Names of the scenarios of a kind, "positive" or "negative"."""
    return [path.stem for path in sorted(FOLDER.glob("*.json")) if load(path.stem)["kind"] == kind]


def secret(*words: object, size: int = 32) -> str:
    """Bytes that stand for random ones, as hexadecimal text."""
    return hashlib.shake_256("/".join(map(str, words)).encode()).hexdigest(size)


def numbers(*words: object, count: int, bits: int) -> list[int]:
    """Integers of so many bits that stand for random ones."""
    size = -(-bits // 8)
    raw = bytes.fromhex(secret(*words, size=size * count))
    return [int.from_bytes(raw[size * at : size * (at + 1)], "little") % (1 << bits) for at in range(count)]


def client(tag: str, at: int, rounds: int, signed: bool) -> dict[str, Any]:
    """The secrets of a client."""
    return {
        "identity": (b"client-%04d" % at).hex(),
        "channel": secret(tag, at, "c"),
        "sharing_seed": secret(tag, at, "s"),
        "mask_keys": [secret(tag, at, "e", r) for r in range(rounds)],
        "self_seeds": [secret(tag, at, "b", r) for r in range(rounds)],
        "signature_seed": secret(tag, at, "sign") if signed else "",
    }


def expanded(inputs: dict[str, Any]) -> dict[str, Any]:
    """Inputs of an epoch with many clients, whose secrets and vectors the file gives by a rule."""
    if not isinstance(inputs.get("clients"), dict):
        return inputs
    told, offer = inputs["clients"], inputs["offer"]
    clients = [client(told["tag"], at, offer["rounds"], False) for at in range(told["count"])]
    names = [one["identity"] for one in clients]
    rounds = []
    for one in inputs["rounds"]:
        tag = one["vectors"]["tag"]
        rows = {name: [numbers(tag, name, n, count=size, bits=b) for n, size, b in offer["vectors"]] for name in names}
        rounds.append(one | {"vectors": rows})
    return inputs | {"clients": clients, "rounds": rounds}


def abridged(outputs: dict[str, Any], inputs: dict[str, Any]) -> dict[str, Any]:
    """Outputs as the files have them: of an epoch, long messages to other clients than the first as SHA-256 only.

    A case with "brief" in its inputs has all messages as SHA-256, those of all clients together.
    """
    if "m2" not in outputs:
        return outputs
    if inputs.get("brief"):
        return _brief(outputs)
    return outputs | {kind: _long(outputs[kind]) for kind in LONG}


def _long(messages: dict[str, str]) -> dict[str, str]:
    first = min(messages)
    return {name: one if name == first else _digest(bytes.fromhex(one)) for name, one in messages.items()}


def _brief(outputs: dict[str, Any]) -> dict[str, Any]:
    short: dict[str, Any] = {}
    for key, value in outputs.items():
        if isinstance(value, dict) and value:
            short[key] = _digest(b"".join(bytes.fromhex(value[name]) for name in sorted(value)))
        else:
            short[key] = [_brief(one) for one in value] if key == "rounds" else value
    return short


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()
