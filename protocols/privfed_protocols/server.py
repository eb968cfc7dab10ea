"""The server of one epoch: bytes in, events and bytes out.

It decides when a step is over (`close_*`), never what a client may do twice; that is in `states.py`. It holds one
accumulator per vector whatever the number of clients.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from . import bitmap, derivation
from .errors import InfeasibleParameters, LocalProtocolError, RoundFailed
from .events import RoundResult
from .exclusive import exclusive
from .labels import VERSION
from .messages import Quorum, Start, Survivors, encode
from .opening import Unopenable, open_secrets, remove_masks
from .server_intake import ServerIntake
from .server_round import ServerRound
from .server_setup import Advertised, make_deliveries, make_rosters
from .states import ServerTrigger, SlotState, SlotTrigger
from .surplus import lost_shares
from .workers import Workers

_UNOPENED: Final = "its shares did not open; left out of later rounds"


class Server(ServerIntake):
    """Runs one epoch: set-up once, then up to R rounds.

    The driver carries bytes and watches the time: it broadcasts `offer`, feeds messages to `receive`, and closes a
    step when `pending` is empty or its deadline is over. In malicious mode a round has one step more: after
    `close_inputs` come the signatures on the survivors, and `close_signatures` before the answers.

    Args:
        offer: what the epoch is.
        invited: the identities that may take part; None takes whoever the transport lets through. Only with a list
            can `pending` tell who has not advertised yet.
        signer: the server's key, in the modes with identities.
        directory: how it finds the clients' keys, in the modes with identities.
        workers: threads or processes for the opening of sums: an executor, a number, or None for none.

    Guarantees:
        A round's result is the sum modulo 2^bits of exactly the survivors' vectors, or `RoundFailed`.
        Whatever arrives late, twice or malformed is refused and changes no sum.
        Calls from several threads, of which one runs at a time, change none of this; a fork is refused.
        Memory is O(d) for vectors of d elements: no masked vector is kept.

    Raises:
        LocalProtocolError: the mode has identities, and signer or directory is missing.
    """

    @exclusive
    def close_advertise(self) -> Mapping[bytes, bytes]:
        """Close the first step; the M2 for each client that advertised, each made when it is asked for.

        Raises:
            EpochFailed: fewer clients than n_min, or no parameters for so many.
        """
        following = self._may(ServerTrigger.CLOSE_ADVERTISE)
        taken = self._advertised.taken
        if len(taken) < self._offer.n_min:
            raise self._fail_epoch(f"{len(taken)} clients advertised, offered at least {self._offer.n_min}")
        try:
            roster, rosters = make_rosters(self._offer, self._epoch, taken)
        except InfeasibleParameters as error:
            raise self._fail_epoch(str(error)) from None
        self._slots.number(roster.identities)
        self._roster, self._state = roster, following
        self._advertised = Advertised(self._offer, self._epoch)
        return rosters

    @exclusive
    def close_shares(self) -> Mapping[bytes, bytes]:
        """Close the second step; the M4 for each client whose shares arrived, each made when it is asked for.

        The shares are held by what is returned, and by nothing else: drop it when all are delivered. On a ring, clients
        with too few neighbours left get none; they are out for the epoch.

        Raises:
            EpochFailed: fewer clients than a round needs.
        """
        following = self._may(ServerTrigger.CLOSE_SHARES)
        roster, shares = self._require_roster(), self._shares
        receivers = roster.topology.viable(roster.topology.mask(list(shares)), roster.parameters.t)
        problem = self._shortage(receivers)
        if problem is not None:
            raise self._fail_epoch(f"set-up: {problem}")
        able = np.flatnonzero(receivers).tolist()
        self._present, self._shares, self._state = frozenset(able), {}, following
        return make_deliveries(shares, able, roster=roster, offer=self._offer, epoch=self._epoch)

    @exclusive
    def start_round(
        self,
        *,
        model_digest: bytes,
        plan_digest: bytes,
        participants: Iterable[bytes] | None = None,
        deadline: int = 0,
    ) -> Mapping[bytes, bytes]:
        """Start the next round; the M5 for each participant.

        Args:
            model_digest: 32 bytes, digest of the model that clients compute on.
            plan_digest: 32 bytes, digest of the plan that clients compute by.
            participants: identities to invite; None invites everybody whose set-up is complete, but for those who
                are left out (`slots`).
            deadline: Unix seconds after which clients refuse the start, the survivors and the quorum; 0 for none.

        Raises:
            LocalProtocolError: no rounds left, a participant that cannot take part, or too few of them.
            EpochFailed: too few clients are left for any round.
        """
        following = self._may(ServerTrigger.START)
        roster = self._require_roster()
        if self.rounds_left == 0:
            raise LocalProtocolError(f"all {self._offer.rounds} rounds of the epoch were used; start a new epoch")
        if len(model_digest) != 32 or len(plan_digest) != 32:
            raise LocalProtocolError("model and plan digests have 32 bytes each")
        members = self._participants(participants)
        number, invited = self._last + 1, bitmap.pack(members, roster.n)
        context = derivation.round_context(
            epoch=self._epoch,
            round=number,
            root=roster.root,
            participants=invited,
            model_digest=model_digest,
            plan_digest=plan_digest,
            suite=self._offer.suite,
        )
        sums = {spec.name: np.zeros(spec.length, spec.dtype) for spec in self._offer.vectors}
        start = encode(Start(VERSION, self._epoch, number, invited, bytes(model_digest), bytes(plan_digest), deadline))
        mask = roster.topology.mask(members)
        self._round = ServerRound(number, members, mask, context, sums)
        self._last, self._state = number, following
        for index in self._present:
            self._slots.note(roster.identities[index], SlotTrigger.INVITE if mask[index] else SlotTrigger.REST)
        return dict.fromkeys(roster.mail(members), start)

    @exclusive
    def close_inputs(self) -> Mapping[bytes, bytes]:
        """Close the inputs; the M7 for each survivor.

        Raises:
            RoundFailed: fewer survivors than n_min, or than the threshold needs to open every participant's secret.
                Nothing was or will be opened.
        """
        asks = self._offer.rules.consistency
        following = self._may(ServerTrigger.ASK_SIGNATURES if asks else ServerTrigger.CLOSE_INPUTS)
        roster, current = self._require_roster(), self._require_round()
        alive = roster.topology.mask(sorted(current.masked))
        problem = self._shortage(alive, current.invited) if current.intact else "an addition was interrupted"
        if problem is not None:
            raise self._fail_round(RoundFailed(f"round {current.number}: {problem}", round=current.number))
        current.survivors = tuple(sorted(current.masked))
        current.survivors_bitmap = bitmap.pack(current.survivors, roster.n)
        self._state = following
        body = encode(Survivors(VERSION, self._epoch, current.number, current.survivors_bitmap))
        return dict.fromkeys(roster.mail(current.survivors), self._dressed(Survivors, body, epoch=self._epoch))

    @exclusive
    def close_signatures(self) -> Mapping[bytes, bytes]:
        """Close the signatures, in malicious mode; the M9 for each survivor that signed.

        Raises:
            RoundFailed: too few signed for any of them to answer. Nothing was or will be opened.
        """
        following = self._may(ServerTrigger.CLOSE_SIGNATURES)
        roster, current = self._require_roster(), self._require_round()
        signers = sorted(current.signatures)
        problem = self._shortage(roster.topology.mask(signers), current.invited)
        if problem is not None:
            reason = f"round {current.number}: too few signatures on the survivors: {problem}"
            raise self._fail_round(RoundFailed(reason, round=current.number))
        self._state = following
        for index in current.survivors:
            if self._slots[roster.identities[index]].state is SlotState.MASKED:
                self._slots.note(roster.identities[index], SlotTrigger.LATE, "did not sign the survivors in time")
        signatures = b"".join(current.signatures[index] for index in signers)
        signed = bitmap.pack(signers, roster.n)
        quorum = encode(Quorum(VERSION, self._epoch, current.number, signed, memoryview(signatures)))
        return dict.fromkeys(roster.mail(signers), quorum)

    @exclusive
    def close_unmask(self, *, workers: Workers = None) -> RoundResult:
        """Open the sum.

        Args:
            workers: in place of those given to the server.

        Raises:
            RoundFailed: too few shares, or a client whose secret does not open from enough of them. The accumulators
                are dropped. That client is left out of the rounds that follow, lest each of them fail the same way;
                this is no verdict on it, since its shares may have been altered by those who gave them.
        """
        following = self._may(ServerTrigger.CLOSE_UNMASK)
        roster, current, offer = self._require_roster(), self._require_round(), self._offer
        try:
            opened = open_secrets(current, offer=offer, roster=roster, epoch=self._epoch)
        except Unopenable as error:
            if error.dealer >= 0:
                self._slots.note(roster.identities[error.dealer], SlotTrigger.LEAVE_OUT, _UNOPENED)
            disputes = roster.named(error.found)
            message = f"round {current.number}: {error}"
            raise self._fail_round(RoundFailed(message, round=current.number, disputes=disputes)) from None
        self._round, self._state = None, following  # first, so that an interrupted removal cannot be repeated
        workers = self._workers if workers is None else workers
        remove_masks(current, opened, offer=offer, roster=roster, workers=workers)
        return RoundResult(
            round=current.number,
            sums=current.sums,
            participants=tuple(roster.identities[index] for index in current.participants),
            survivors=tuple(roster.identities[index] for index in current.survivors),
            disputes=roster.named(opened.disputes),
            surplus={roster.identities[index]: seed for index, seed in sorted(current.surplus.items())},
            dropped=lost_shares(shares=offer.shares, survivors=len(current.survivors)),
        )
