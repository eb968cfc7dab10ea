"""Runs the negative vectors against `privfed_protocols`: brings a client or a server to where a case starts, and asks.

Also used by `mutation_refusals.py`, on copies of the package that have lost a refusal.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np

from privfed_protocols import Client, ClientPolicy, Credentials, Directory, ProtocolError, Signer
from privfed_protocols.modes import MODES
from tests.protocols.replay_library import LibraryEpoch
from tests.protocols.vector_files import load, scenarios

Json = dict[str, Any]
un = bytes.fromhex
# What a client that has processed a message waits for: where the replay stops.
_FOLLOWING = {"M0": "M1", "M2": "M3", "M4": "M5", "M5": "vectors", "M6": "M6", "M7": "M8", "M10": "M10"}


@cache
def inputs_of(base: str) -> Json:
    """The inputs of the epoch that cases start from."""
    found: Json = load(base)["cases"][0]["inputs"]
    return found


@cache
def honest(base: str) -> Json:
    """Its long messages, of which those of the cases are changes."""
    return {key: one if key == "m0" else one[min(one)] for key, one in load(base)["cases"][0]["outputs"].items()
            if key in ("m0", "m1", "m2", "m4")}  # fmt: skip


@cache
def saved_states(base: str) -> dict[str, bytes]:
    """The first client of the epoch, saved after each of its messages of set-up and round 1."""
    epoch = LibraryEpoch(inputs_of(base))
    first = epoch.clients[min(epoch.clients)]
    found: dict[str, bytes] = {}
    for step, _ in epoch.steps():
        found.setdefault(step, first.save())
    return found


def message_of(case: Json) -> bytes:
    """The bytes that arrive."""
    if "splices" not in case:
        return un(case["message"]) + bytes(case.get("append_zeros", 0))
    raw = bytearray(un(honest(case["base"])[case["like"]]))
    for offset, taken, put in reversed(case["splices"]):
        raw[offset : offset + taken] = un(put)
    return bytes(raw) + bytes(case.get("append_zeros", 0))


def policy_of(case: Json) -> ClientPolicy:
    """What the client agrees to: bytes and sets as hexadecimal lists."""
    told: Json = dict(case.get("policy", {}))
    for key in ("identities", "plan_digests"):
        if key in told:
            told[key] = frozenset(un(one) for one in told[key])
    if "modes" in told:
        told["modes"] = frozenset(told["modes"])
    else:
        told["modes"] = frozenset(MODES)
    return ClientPolicy(**told)


def credentials_of(case: Json, epoch: LibraryEpoch) -> Credentials | None:
    """What the first client knows of others."""
    name = min(epoch.clients)
    known = epoch.credentials(name)
    told = case.get("credentials", {})
    if known is None or told == "none":
        return None
    pinned = dict(known.directory.pinned)
    for one in case.get("unpinned", []):
        del pinned[un(one)]
    if "unpinned" in case:
        return Credentials(known.signer, Directory(pinned, frozenset({_authority()})), known.server_key)
    if told:
        signer = Signer(known.signer.sign, public_key=known.signer.public_key, certificate=un(told["certificate"]))
        return Credentials(signer, Directory(authorities=frozenset({un(told["authority"])})), known.server_key)
    return known


@cache
def _authority() -> bytes:
    return Signer.from_seed(bytes(range(100, 132))).public_key


def error_of(case: Json) -> str:
    """Name of the error that a case ends in, and its refusal number where it has one; "accepted" if there is none."""
    ask = _ask_server if case.get("receiver") == "server" else _ask_client
    try:
        ask(case)
    except ProtocolError as error:
        return told(type(error).__name__, getattr(error, "refusal", 0))
    except Exception as error:  # noqa: BLE001 -- any other end is a finding, and is named
        return f"{type(error).__name__}, which is no error of the protocol"
    return "accepted"


def told(name: str, refusal: int) -> str:
    """How results are compared."""
    return f"{name} ({refusal})"


def _ask_client(case: Json) -> None:
    epoch = LibraryEpoch(inputs_of(case["base"]))
    name, policy, credentials = min(epoch.clients), policy_of(case), credentials_of(case, epoch)
    if case["after"] == "nothing":
        client = epoch.client(epoch.inputs["clients"][0], policy=policy, credentials=False)
        client._credentials = credentials
    else:
        state = saved_states(case["base"])[_FOLLOWING[case["after"]]]
        client = Client.restore(state, policy=policy, credentials=credentials)
    epoch.clients[name] = client
    for one in case.get("first", []):
        try:
            client.receive(un(one), now=0)
        except ProtocolError:
            continue
    round_1 = epoch.inputs["rounds"][0]
    if case.get("submit_first"):
        epoch.submit(name, round_1)
    if "submit" in case:
        changes = {key: un(one) for key, one in case["submit"].items() if key != "vectors"}
        if "vectors" in case["submit"]:
            rows = zip(epoch.offer.vectors, case["submit"]["vectors"], strict=True)
            changes["vectors"] = {spec.name: np.array(row, spec.dtype) for spec, row in rows}
        epoch.submit(name, round_1, **changes)
        return
    client.receive(message_of(case), now=case.get("now", 0))


def _ask_server(case: Json) -> None:
    epoch = LibraryEpoch(inputs_of(case["base"]))
    for step, _ in epoch.steps():
        if step == case["after"]:
            break
    for sender, one in case.get("first", []):
        try:
            epoch.server.receive(un(sender), un(one))
        except ProtocolError:
            continue
    epoch.server.receive(un(case["sender"]), message_of(case))


def wrong_cases() -> Iterator[str]:
    """Cases that do not end as their file says, in words."""
    for scenario in scenarios("negative"):
        for case in load(scenario)["cases"]:
            found, expected = error_of(case), told(case["error"], case["refusal"])
            if found != expected:
                yield f"{scenario}: {case['name']}: {found}, expected {expected}"
