"""What a server is, beside what it does: its state, what may follow it, who can take part, and how it fails."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from . import derivation
from .errors import EpochFailed, LocalProtocolError, RoundFailed
from .exclusive import Exclusive
from .identities import Directory, Signer
from .messages import Survivors, encode
from .offer import Offer
from .server_round import ServerRound
from .server_setup import Advertised, ServerRoster
from .signed import fingerprint_of, is_signed, statement, wrap
from .slots import Slot, SlotBook
from .states import SERVER_TRANSITIONS, IllegalTransition, ServerState, ServerTrigger, SlotState, step
from .workers import Workers


class ServerCore(Exclusive):
    """State of the server of one epoch. Use `Server`."""

    def __init__(
        self,
        offer: Offer,
        *,
        invited: Iterable[bytes] | None = None,
        signer: Signer | None = None,
        directory: Directory | None = None,
        workers: Workers = None,
    ) -> None:
        if offer.rules.identities and (signer is None or directory is None):
            raise LocalProtocolError(f"{offer.mode} mode has identities; give the server a signer and a directory")
        super().__init__()
        self._offer = offer
        self._signer = signer if offer.rules.identities else None
        self._directory = directory if offer.rules.identities else None
        self._workers = workers
        self._offer_bytes = self._dressed(Offer, encode(offer), epoch=b"")
        self._epoch = derivation.epoch_id(self._offer_bytes, suite=offer.suite)
        self._invited = None if invited is None else frozenset(invited)
        self._state = ServerState.ADVERTISE
        self._slots = SlotBook(self._invited or ())
        self._advertised = Advertised(offer, self._epoch, self._directory)
        self._roster: ServerRoster | None = None
        self._shares: dict[int, bytes] = {}
        self._present: frozenset[int] = frozenset()
        self._last = 0
        self._round: ServerRound | None = None

    @property
    def offer(self) -> bytes:
        """M0, for every client."""
        return self._offer_bytes

    @property
    def state(self) -> ServerState:
        """Where the server stands."""
        return self._state

    @property
    def round(self) -> int:
        """Number of the round that runs or ran last; 0 before the first."""
        return self._last

    @property
    def rounds_left(self) -> int:
        """Rounds that the epoch still has."""
        return 0 if self._state is ServerState.FAILED else self._offer.rounds - self._last

    @property
    def slots(self) -> Mapping[bytes, Slot]:
        """What is known of each client, by identity."""
        return {slot.identity: slot for slot in self._slots}

    @property
    def pending(self) -> frozenset[bytes]:
        """Identities that the current step still waits for; empty when it can be closed."""
        return self._slots.awaited(self._state)

    def __repr__(self) -> str:
        return f"<Server {self._state.name} round {self._last} of {self._offer.rounds}>"

    def _dressed(self, kind: type[Offer] | type[Survivors], body: bytes, *, epoch: bytes) -> bytes:
        """A message as the mode has it: signed or as it is."""
        if self._signer is None or not is_signed(kind, self._offer.mode):
            return body
        signed = statement(kind, fingerprint_of(body), epoch=epoch, suite=self._offer.suite)
        return wrap(body, self._signer.sign(signed))

    def _able(self) -> npt.NDArray[np.bool_]:
        """Who can take part in a round: set-up complete, not left out, and enough such neighbours."""
        roster = self._require_roster()
        left = [
            index for index in self._present if self._slots[roster.identities[index]].state is not SlotState.LEFT_OUT
        ]
        return roster.topology.viable(roster.topology.mask(left), roster.parameters.t)

    def _participants(self, wanted: Iterable[bytes] | None) -> tuple[int, ...]:
        """Whom to invite, ascending."""
        roster, able = self._require_roster(), self._able()
        if wanted is None:
            problem = self._shortage(able)
            if problem is not None:
                raise self._fail_epoch(f"too few clients are left: {problem}")
            return tuple(np.flatnonzero(able).tolist())
        chosen = {identity: self._slots[identity].index for identity in frozenset(wanted)}
        unable = sorted(identity.hex() for identity, index in chosen.items() if index < 0 or not able[index])
        if unable:
            raise LocalProtocolError(
                f"clients {unable} did not finish set-up or are left out of the epoch; name others"
            )
        problem = self._shortage(roster.topology.mask(list(chosen.values())))
        if problem is not None:
            raise LocalProtocolError(f"too few participants: {problem}")
        return tuple(sorted(chosen.values()))

    def _shortage(self, alive: npt.NDArray[np.bool_], whose: npt.NDArray[np.bool_] | None = None) -> str | None:
        """Why a round cannot go on with these clients only, or None.

        Args:
            alive: mask of the clients that are left.
            whose: mask of those whose secrets have to be opened; those that are left if not given.
        """
        roster = self._require_roster()
        found, fewest = int(alive.sum()), max(self._offer.n_min, roster.parameters.survivors)
        if found < fewest:
            return f"{found} clients, at least {fewest} are needed"
        neighbours = int(roster.topology.live(alive)[alive if whose is None else whose].min())
        if neighbours < roster.parameters.t:
            return f"{found} clients; one has {neighbours} live neighbours, threshold is {roster.parameters.t}"
        return None

    def _may(self, trigger: ServerTrigger) -> ServerState:
        try:
            return step(SERVER_TRANSITIONS, self._state, trigger)
        except IllegalTransition as error:
            raise LocalProtocolError(str(error)) from None

    def _fail_epoch(self, reason: str) -> EpochFailed:
        self._state = step(SERVER_TRANSITIONS, self._state, ServerTrigger.FAIL_EPOCH)
        self._shares = {}
        return EpochFailed(reason)

    def _fail_round(self, error: RoundFailed) -> RoundFailed:
        self._state = step(SERVER_TRANSITIONS, self._state, ServerTrigger.FAIL_ROUND)
        self._round = None
        return error

    def _require_roster(self) -> ServerRoster:
        if self._roster is None:
            raise LocalProtocolError("no roster yet; close the advertise step first")
        return self._roster

    def _require_round(self) -> ServerRound:
        if self._round is None:
            raise LocalProtocolError("no round runs; start one first")
        return self._round
