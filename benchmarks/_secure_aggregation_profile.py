"""Where the time of a client and of the server goes, by what it is spent on.

The profiler reads the wall clock, which costs it least; run this on a machine with nothing else to do. It makes small
Python functions look dearer than they are, so that "Python around it" is an upper bound.
"""

from __future__ import annotations

import cProfile
import pstats
from collections.abc import Callable
from typing import Final

from _secure_aggregation_rounds import Epoch, Shape

# Own time of a function is put under the first heading one of whose words is in its name or file.
HEADINGS: Final = {
    "keystream (cipher)": ("update_into",),
    "adding streams to the vector": ("masks.py",),
    "adding masked vectors": ("packing.py", "server_round.py add"),
    "X25519": ("x25519", "X25519", "shared_secret"),
    "Ed25519": ("ed25519", "Ed25519"),
    "cipher set-up": ("encryption_ctx", "ciphers", "suites.py"),
    "sealing shares": ("encrypt", "decrypt", "aead"),
    "HKDF and hashes": (
        "hmac",
        "_hashlib",
        "sha256",
        "hkdf",
        "digest",
        "derivation.py",
        "merkle.py",
        "frame",
        "number",
    ),
    "Shamir": ("shamir.py",),
    "codec and copies": ("msgspec", "wire.py", "messages.py", "BytesIO", "masked_writer.py", "tobytes"),
}


def profiles() -> dict[str, dict[str, float]]:
    """Shares of CPU time, for one client's set-up and round and for the server's round, at some shapes."""
    return {
        "client, k=100, d=1e6, uint32": client(Shape(101, 1_000_000, 32)),
        "client, k=100, d=1e6, uint16": client(Shape(101, 1_000_000, 16)),
        "client, k=100, d=1000": client(Shape(101, 1_000, 32)),
        "server, n=100, d=1e6, uint32, 10 % dropped": server(Shape(100, 1_000_000, 32, dropped=0.1)),
        "server, n=300, d=1e4, uint32, 10 % dropped": server(Shape(300, 10_000, 32, dropped=0.1)),
    }


def client(shape: Shape) -> dict[str, float]:
    """One client from its first message to its last."""
    epoch = Epoch(shape)
    recorder = cProfile.Profile()
    chosen = epoch.timed[-1]  # the first ones pay for imports
    party = epoch.parties[chosen]
    for name in ("receive", "submit"):
        setattr(party, name, recorded(recorder, getattr(party, name)))
    epoch.set_up()
    epoch.round()
    return shares(recorder)


def server(shape: Shape) -> dict[str, float]:
    """The server from the first masked vector to the sum."""
    epoch = Epoch(shape)
    epoch.set_up()
    recorder = cProfile.Profile()
    for name in ("receive", "start_round", "close_inputs", "close_unmask"):
        setattr(epoch.server, name, recorded(recorder, getattr(epoch.server, name)))
    epoch.round()
    return shares(recorder)


def recorded(recorder: cProfile.Profile, work: Callable[..., object]) -> Callable[..., object]:
    def call(*args: object, **kwargs: object) -> object:
        recorder.enable()
        try:
            return work(*args, **kwargs)
        finally:
            recorder.disable()

    return call


def shares(recorder: cProfile.Profile) -> dict[str, float]:
    """Own time by heading, as shares of all, largest first, and milliseconds in all."""
    found: dict[str, float] = {}
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(recorder).stats.items():  # type: ignore[attr-defined]
        heading = heading_of(f"{file.rsplit('/', 1)[-1]} {name}")
        found[heading] = found.get(heading, 0.0) + own
    total = sum(found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1])
    return {"milliseconds": total * 1e3} | {heading: own / total for heading, own in ordered}


def heading_of(name: str) -> str:
    for heading, words in HEADINGS.items():
        if any(word in name for word in words):
            return heading
    return "Python around it"


def table(found: dict[str, dict[str, float]]) -> str:
    lines = []
    for shape, row in found.items():
        lines.append(f"{shape}: {row['milliseconds']:.1f} ms under the profiler")
        lines += [
            f"  {share:6.1%} {heading}" for heading, share in row.items() if heading != "milliseconds" and share > 0.005
        ]
    return "\n".join(lines)
