"""How the server opens a sum: shares to secrets, secrets to masks, masks out of the accumulators."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from . import derivation
from .errors import RoundFailed
from .masks import Mask, mask_into
from .offer import Offer
from .packing import reduce
from .primitives import Agreement, equal, public_key
from .robust import disagreeing, recover
from .server_round import ServerRound
from .server_setup import ServerRoster
from .shamir import LIMBS, Field, combine, from_limbs, lagrange_at_zero
from .suites import suite
from .vectors import VectorSpec
from .workers import Workers, pool, shares_memory

IndexDisputes: TypeAlias = tuple[tuple[int, tuple[int, ...]], ...]
_DEALERS_AT_ONCE: Final = 256
_ROWS_AT_ONCE: Final = 4096  # mask keys that wait together: about a megabyte


@dataclass(frozen=True)
class Opened:
    """The secrets of a round, by client, and whose shares did not fit: (dealer, givers) by index."""

    seeds: dict[int, bytes] = field(repr=False)
    keys: dict[int, bytes] = field(repr=False)
    disputes: IndexDisputes


class Unopenable(RoundFailed):
    """The secret of a client cannot be opened.

    Attributes:
        dealer: index of the client whose secret does not open from enough shares, -1 if there are too few shares.
        found: the disputes up to this one and with it, by index.
    """

    def __init__(self, message: str, *, round: int, dealer: int = -1, found: IndexDisputes = ()) -> None:
        super().__init__(message, round=round)
        self.dealer = dealer
        self.found = found


@dataclass(frozen=True)
class _Given:
    """All shares of a round, sorted by dealer: those of dealer d lie from start[d] to start[d + 1].

    Attributes:
        start: shape (n + 1,).
        givers: who gave each.
        points: where the dealer's polynomial was evaluated for the giver.
        shares: shape (shares, 9), below p.
    """

    start: npt.NDArray[np.int64]
    givers: npt.NDArray[np.int64]
    points: Field = field(repr=False)
    shares: npt.NDArray[np.uint32] = field(repr=False)

    def of(self, dealer: int) -> slice:
        """Where the shares of a dealer lie."""
        return slice(int(self.start[dealer]), int(self.start[dealer + 1]))


def _collect(current: ServerRound, roster: ServerRoster) -> _Given:
    """Sort the answers by dealer."""
    topology = roster.topology
    answered = np.array(sorted(current.answers), np.int64)
    rows, places = topology.rows[answered], topology.places[answered]
    asked = current.invited[rows]
    dealers = rows[asked]
    order = np.argsort(dealers, kind="stable")
    raw = b"".join(current.answers[giver] for giver in answered.tolist())
    start = np.zeros(roster.n + 1, np.int64)
    np.cumsum(np.bincount(dealers, minlength=roster.n), out=start[1:])
    return _Given(
        start=start,
        givers=np.repeat(answered, asked.sum(axis=1))[order],
        points=(places[asked][order] + 1).astype(np.uint64),
        shares=np.frombuffer(raw, "<u4").reshape(-1, LIMBS)[order],
    )


def open_secrets(current: ServerRound, *, offer: Offer, roster: ServerRoster, epoch: bytes) -> Opened:
    """Open b of each survivor and e of each participant that dropped out, and check each against its commitment.

    Raises:
        Unopenable: fewer shares than the threshold, or shares that do not open what was committed to.
    """
    t, given = roster.parameters.t, _collect(current, roster)
    short = sum(given.of(dealer).stop - given.of(dealer).start < t for dealer in current.participants)
    if short:
        raise Unopenable(
            f"{len(current.answers)} answers leave {short} clients with fewer than {t} shares", round=current.number
        )
    check = _Check(current, offer, roster, epoch)
    seeds: dict[int, bytes] = {}
    keys: dict[int, bytes] = {}
    disputes: list[tuple[int, tuple[int, ...]]] = []
    suspected: Counter[int] = Counter()
    alive = set(current.survivors)
    for dealer, candidate in _candidates(current.participants, given, t):
        secret = candidate
        if secret is None or not check.fits(secret, dealer):
            secret, wrong = _recover(dealer, given, t, check, suspected)
            disputes.append((dealer, wrong))
            if secret is None:
                count = len(given.givers[given.of(dealer)])
                problem = f"the {count} shares of client {dealer} do not open what it committed to"
                raise Unopenable(problem, round=current.number, dealer=dealer, found=tuple(disputes))
        (seeds if dealer in alive else keys)[dealer] = secret
    return Opened(seeds, keys, tuple(disputes))


def _candidates(dealers: Sequence[int], given: _Given, t: int) -> Iterator[tuple[int, bytes | None]]:
    """For each dealer, what its first t shares open."""
    for begin in range(0, len(dealers), _DEALERS_AT_ONCE):
        block = dealers[begin : begin + _DEALERS_AT_ONCE]
        first = given.start[np.array(block, np.int64)][:, None] + np.arange(t)
        weights = lagrange_at_zero(given.points[first])
        yield from zip(block, from_limbs(combine(weights, given.shares[first].astype(np.uint64))), strict=True)


@dataclass(frozen=True)
class _Check:
    """Whether a secret is the one its dealer committed to for this round."""

    current: ServerRound
    offer: Offer
    roster: ServerRoster
    epoch: bytes

    def fits(self, secret: bytes, dealer: int) -> bool:
        """Hold the seed b of a survivor against its commitment, the key e of a drop-out against its public key."""
        current, roster = self.current, self.roster
        if dealer not in current.masked:
            return equal(public_key(secret), roster.round_key(dealer, current.number))
        found = derivation.seed_commitment(
            secret,
            epoch=self.epoch,
            identity=roster.identities[dealer],
            round=current.number,
            suite=self.offer.suite,
        )
        return equal(found, roster.commitment(dealer, current.number))


def _recover(
    dealer: int, given: _Given, t: int, check: _Check, suspected: Counter[int]
) -> tuple[bytes | None, tuple[int, ...]]:
    """Open a secret of which some shares are wrong; who gave those, or all givers if it does not open.

    `suspected` counts who gave wrong shares so far. The shares of the t least suspected are tried before the decoder is
    run: one client that gives garbage for everybody costs one run of it, not one for each dealer.
    """
    part = given.of(dealer)
    givers: list[int] = given.givers[part].tolist()
    shares, points = given.shares[part].astype(np.uint64), given.points[part]
    if suspected:
        trusted = sorted(range(len(givers)), key=lambda place: suspected[givers[place]])[:t]
        secret = from_limbs(combine(lagrange_at_zero(points[trusted][None]), shares[trusted][None]))[0]
        if secret is not None and check.fits(secret, dealer):
            wrong = tuple(givers[place] for place in disagreeing(shares, points, trusted))
            # so few, or none but these, that the decoder would name the same
            if 2 * len(wrong) <= len(givers) - t or all(suspected[giver] for giver in wrong):
                suspected.update(wrong)
                return secret, wrong
    outcome = recover(
        shares,
        points=points,
        threshold=t,
        accept=lambda secret: secret is not None and check.fits(secret, dealer),
    )
    if outcome.secret is None:
        return None, tuple(givers)
    wrong = tuple(givers[place] for place in outcome.wrong)
    suspected.update(wrong)
    return outcome.secret, wrong


def remove_masks(
    current: ServerRound, opened: Opened, *, offer: Offer, roster: ServerRoster, workers: Workers = None
) -> None:
    """Take the self masks of survivors and the half-open pair masks of drop-outs out of the accumulators."""
    with pool(workers) as executor:
        hired = workers if executor is None else executor
        rows = _rows(current, opened, offer, roster, executor)
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            for position, spec in enumerate(offer.vectors):
                total = current.sums[spec.name]
                mask_into(total, total, [row[position] for row in batch], suite=suite(offer.suite), workers=hired)
    for spec in offer.vectors:
        reduce(current.sums[spec.name], spec.bits)


def _rows(
    current: ServerRound, opened: Opened, offer: Offer, roster: ServerRoster, executor: Executor | None
) -> Iterator[list[Mask]]:
    """One row per mask that is still in the sums, one column per vector."""
    context, vectors, number = current.context, offer.vectors, offer.suite
    for index, seed in opened.seeds.items():
        yield derivation.self_masks(seed, context=context, index=index, vectors=vectors, subtract=True, suite=number)
    alive = roster.topology.mask(current.survivors)
    jobs = [
        _Recovery(
            index,
            key,
            {peer: roster.round_key(peer, current.number) for peer in roster.topology.among(index, alive)},
            context,
            vectors,
            number,
        )
        for index, key in opened.keys.items()
    ]
    elsewhere = executor is not None and not shares_memory(executor)  # agreements hold the interpreter's lock
    recovered = executor.map(_pair_rows, jobs) if executor is not None and elsewhere else map(_pair_rows, jobs)
    for rows in recovered:
        yield from rows


@dataclass(frozen=True)
class _Recovery:
    """A drop-out whose pair masks are computed again, maybe in another process."""

    index: int
    key: bytes = field(repr=False)
    peers: dict[int, bytes] = field(repr=False)
    context: bytes = field(repr=False)
    vectors: tuple[VectorSpec, ...]
    suite: int


def _pair_rows(job: _Recovery) -> list[list[Mask]]:
    """What a drop-out would have applied: the opposite of what its neighbours did."""
    agreement = Agreement(job.key)
    return [
        derivation.pair_masks(
            agreement.shared_secret(public),
            context=job.context,
            index=job.index,
            peer=peer,
            vectors=job.vectors,
            suite=job.suite,
        )
        for peer, public in job.peers.items()
    ]
