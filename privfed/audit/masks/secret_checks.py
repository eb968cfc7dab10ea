"""Checks of keys, seeds and shares: who holds what, how much of it is random, who is told."""

from __future__ import annotations

import base64
from collections import defaultdict

from privfed.audit.findings import Outcome
from privfed.audit.masks.adapter import Adapter, NotExposed, Refused
from privfed.audit.masks.probe import SIDES, Probe
from privfed.audit.masks.vector_checks import seed_collisions

__all__ = ["both_shares", "public_is_secret", "seed_entropy", "set_up_loss", "shared_secret", "silent_wrap"]

ENOUGH_BITS = 128
SET_UPS = 10  # with 5 clients, 50 samples of every bit: one that always came out the same is no random bit
LEAST_SECRET = 8  # bytes; shorter ones are found anywhere by chance


def seed_entropy(probe: Probe) -> Outcome:
    """Seeds have at least 128 random bits, and all of them reach the mask."""
    notes = []
    collisions = seed_collisions(probe)
    if collisions is not None:
        bits = 8 * probe.make().seed_bytes
        if collisions.problem or bits < ENOUGH_BITS:
            return (
                collisions
                if collisions.problem
                else Outcome(f"seeds have {bits} bits, {ENOUGH_BITS} are needed", problem=True)
            )
        notes.append(collisions.what)
    try:
        samples = [[_secrets(adapter, client) for client in range(probe.clients)] for adapter in _fresh(probe)]
    except NotExposed:
        if not notes:
            raise
        return Outcome("; ".join(notes))
    for place in range(len(samples[0][0])):
        column = [[secrets[place] for secrets in clients] for clients in samples]
        varying = _varying_bits([secret for clients in column for secret in clients])
        if varying < ENOUGH_BITS:
            return Outcome(f"a client's secret number {place} has {varying} bits that ever change", problem=True)
        if len({secret for clients in column for secret in set(clients)}) < sum(
            len(set(clients)) for clients in column
        ):
            return Outcome(f"a client's secret number {place} comes back after a fresh set-up", problem=True)
    count = len(samples) * probe.clients
    return Outcome(
        "; ".join([*notes, f"in {count} samples no secret came twice, each has {ENOUGH_BITS} changing bits"])
    )


def _fresh(probe: Probe) -> list[Adapter]:
    return [probe.ready() for _ in range(SET_UPS)]


def _secrets(adapter: Adapter, client: int) -> list[bytes]:
    return [bytes(secret) for secret in adapter.secrets(client)]


def _varying_bits(secrets: list[bytes]) -> int:
    """Return how many bit positions are not the same in all `secrets`."""
    width = max(map(len, secrets))
    numbers = [int.from_bytes(secret.ljust(width, b"\0"), "little") for secret in secrets]
    ever = numbers[0]
    always = numbers[0]
    for number in numbers:
        ever |= number
        always &= number
    return (ever ^ always).bit_count()


def shared_secret(probe: Probe) -> Outcome:
    """A secret belongs to one client or to two: what three hold opens the masks of others to each of them."""
    adapter = probe.ready()
    holders: dict[bytes, set[int]] = defaultdict(set)
    for client in range(probe.clients):
        for secret in _secrets(adapter, client):
            holders[secret].add(client)
    most = max((len(clients) for clients in holders.values()), default=0)
    if most > 2:
        return Outcome(f"{most} of {probe.clients} clients hold one and the same secret", problem=True)
    return Outcome(f"{len(holders)} secrets, none held by more than two of {probe.clients} clients")


def public_is_secret(probe: Probe) -> Outcome:
    """No secret is published, neither as a public key nor anywhere in a message, in the usual spellings."""
    adapter = probe.ready()
    secrets = {secret for client in range(probe.clients) for secret in _secrets(adapter, client)}
    for client in range(probe.clients):
        adapter.masked(client, 1, probe.zeros(8), SIDES[0])
    published: list[bytes] = []
    for get in (adapter.public_keys, adapter.wire):
        try:
            published += [bytes(data) for client in range(probe.clients) for data in get(client)]
        except NotExposed:
            continue
    if not published:
        raise NotExposed("public_keys or wire")
    for secret in secrets:
        if secret in published or any(spelling in data for data in published for spelling in _spellings(secret)):
            return Outcome("a secret is among what was published", problem=True)
    return Outcome(f"none of {len(secrets)} secrets in {len(published)} published keys and messages")


def _spellings(secret: bytes) -> tuple[bytes, ...]:
    if len(secret) < LEAST_SECRET:
        return ()
    texts = (
        secret.hex(),
        secret.hex().upper(),
        str(int.from_bytes(secret, "big")),
        str(int.from_bytes(secret, "little")),
    )
    encoded = (base64.b64encode(secret).rstrip(b"="), base64.urlsafe_b64encode(secret).rstrip(b"="))
    spellings = (secret, secret[::-1], *(text.encode() for text in texts), *encoded)
    return tuple(spelling for spelling in spellings if len(spelling) >= LEAST_SECRET)


def both_shares(probe: Probe) -> Outcome:
    """A client never gives both shares of one peer: together they open that peer's vector to the server.

    It is asked as the protocol has it and then as a malicious server might go on, and once for both from the start.
    """
    everybody, about = set(range(probe.clients)), probe.clients - 1
    alive: _Request = (everybody, set())
    dropped: _Request = (everybody - {about}, {about})
    both: _Request = (everybody, {about})
    given, refusals = _given(probe, about, [alive, dropped, both])
    if not given:
        return Outcome("a client gave no share at all when it was asked as the protocol has it", problem=True)
    at_once, more_refusals = _given(probe, about, [both])
    if given >= {"self", "pair"} or at_once >= {"self", "pair"}:
        return Outcome("a client gave both shares of one peer in one round", problem=True)
    told = f"{refusals + more_refusals} of 3 requests out of order were refused"
    return Outcome(f"only the {', '.join(sorted(given))} share was given, {told}")


_Request = tuple[set[int], set[int]]


def _given(probe: Probe, about: int, requests: list[_Request]) -> tuple[set[str], int]:
    """Put requests to one client after a round of its own; the kinds of shares it gave of `about`, and its refusals."""
    adapter = probe.ready()
    for client in range(probe.clients):
        adapter.masked(client, 1, probe.zeros(8), SIDES[0])
    given: set[str] = set()
    refusals = 0
    for alive, dropped in requests:
        try:
            given |= set(adapter.reveal(0, 1, alive=alive, dropped=dropped).get(about, ()))
        except Refused:
            refusals += 1
    return given, refusals


def silent_wrap(probe: Probe) -> Outcome:
    """No number of clients is accepted whose largest sum leaves the ring."""
    adapter = probe.make()
    for exponent in range(1, 21):
        clients = 1 << exponent
        try:
            ring = adapter.ring_for(clients)
        except Refused:
            continue
        if clients * ring.largest >= ring.modulus:
            reach = f"{clients} values up to {ring.largest} in a ring of {ring.modulus}"
            return Outcome(f"the sum of {clients} clients wraps unseen: {reach}", problem=True)
    return Outcome("up to 2^20 clients, the largest sum stays in the ring or the number is refused")


def set_up_loss(probe: Probe) -> Outcome:
    """One client that is lost in the set-up does not kill the round of the others."""
    adapter = probe.make()
    lost = probe.clients - 1
    try:
        adapter.set_up(probe.setting(lost_in_set_up=frozenset({lost})))
        for client in range(lost):
            adapter.masked(client, 1, probe.zeros(8) + client + 1, SIDES[0])
        total = [round(float(value)) for value in adapter.total(1)]
    except Refused as refusal:
        return Outcome(f"one client lost in set-up ends the round of all: {refusal}", problem=True)
    if total != [lost * (lost + 1) // 2] * 8:
        return Outcome("with one client lost in set-up, the opened sum is not that of the others", problem=True)
    return Outcome(f"the other {lost} clients' sum is exact")
