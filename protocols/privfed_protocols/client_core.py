"""What a client is, beside what it does: its state, what may follow it, saving and restoring, and burning."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import ClassVar, Self

from .client_round import Round
from .errors import LocalProtocolError, UnexpectedMessage, UnknownFormat
from .exclusive import Exclusive, exclusive
from .identities import Credentials, Signer, read_certificate
from .labels import VERSION
from .offer import Offer
from .policy import ClientPolicy
from .roster import RosterView
from .saved import SavedClient, pack, unpack
from .states import CLIENT_TRANSITIONS, SET_UP, ClientState, ClientTrigger, IllegalTransition, step
from .vault import Vault


class ClientCore(Exclusive):
    """State of one client in one epoch. Use `Client`."""

    instead: ClassVar[str] = "save before forking and restore the saved state in exactly one process"

    def __init__(
        self,
        identity: bytes,
        *,
        policy: ClientPolicy | None = None,
        credentials: Credentials | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 1 <= len(identity) <= 128:
            raise LocalProtocolError(f"identity has {len(identity)} bytes, expected 1 to 128")
        super().__init__()
        self._identity = bytes(identity)
        self._policy = ClientPolicy() if policy is None else policy
        self._credentials = credentials
        self._check_own_key()
        self._randomness = randomness
        self._state = ClientState.NEW
        self._offer: Offer | None = None
        self._epoch = b""
        self._advertise = b""
        self._vault: Vault | None = None
        self._view: RosterView | None = None
        self._present: frozenset[int] = frozenset()
        self._last = 0  # largest round that was ever started; all up to it are burned, but for the running one
        self._answered = 0  # largest round whose survivors were answered
        self._round: Round | None = None
        self._accepted = b""  # SHA-256 of the message that was accepted last

    @property
    def identity(self) -> bytes:
        """The identity given at construction."""
        return self._identity

    @property
    def state(self) -> ClientState:
        """Where the client stands."""
        return self._state

    @property
    def round(self) -> int:
        """Number of the round that runs, or 0."""
        return 0 if self._round is None else self._round.number

    @property
    def last_round(self) -> int:
        """Largest round ever started; none up to it can start again."""
        return self._last

    def __repr__(self) -> str:
        return f"<Client {self._state.name}>"

    @exclusive
    def burn(self) -> None:
        """Give up the running round, if any, and forget its secrets; later rounds can run.

        Raises:
            LocalProtocolError: as `save`.
        """
        self._burn()

    def _burn(self) -> None:
        if self._state not in SET_UP and self._state is not ClientState.ABORTED:
            self._refuse()

    @exclusive
    def save(self) -> bytes:
        """The whole state as bytes, between any two messages.

        They hold secrets of the rounds to come and of the one that runs: keep them as you would keep a private key,
        and overwrite the older ones. They never hold secrets of burned rounds.

        Raises:
            LocalProtocolError: this process is a fork of the one that made the client, or the call comes from inside
                another one of this client.
        """
        saved = SavedClient(
            version=VERSION,
            state=self._state,
            identity=self._identity,
            offer=self._offer,
            epoch=self._epoch,
            advertise=self._advertise,
            vault=None if self._vault is None else self._vault.dump(),
            view=self._view,
            present=tuple(sorted(self._present)),
            last=self._last,
            answered=self._answered,
            round=self._round,
            accepted=self._accepted,
        )
        return pack(saved)

    @classmethod
    def restore(
        cls,
        data: bytes,
        *,
        policy: ClientPolicy | None = None,
        credentials: Credentials | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
        at_least_round: int = 0,
    ) -> Self:
        """Go on from saved bytes.

        Saved bytes cannot tell that newer ones exist. Restored from an older state than the last that it sent
        something from, a client could mask a second vector under the same masks, or answer a round a second time. Keep
        `last_round` in another place than the bytes and pass it here; and if the bytes may be older than what that
        round sent, call `burn` on the restored client, which gives up that round only.

        Args:
            data: what `save` gave.
            policy: as for a new client; it is not saved.
            credentials: as for a new client; they are not saved.
            randomness: as for a new client.
            at_least_round: refuse a state whose `last_round` is smaller. States within one round it cannot tell apart.

        Raises:
            CorruptState: the bytes were altered, cut short or written by another version.
            LocalProtocolError: the state is older than `at_least_round`.
        """
        saved = unpack(data)
        if saved.last < at_least_round:
            raise LocalProtocolError(
                f"saved state is of round {saved.last}, expected round {at_least_round} or later: an older state could "
                f"use masks twice; restore the newest one, or start over with a new Client and a new offer"
            )
        client = cls(saved.identity, policy=policy, credentials=credentials, randomness=randomness)
        client._state = saved.state
        client._offer, client._epoch, client._advertise = saved.offer, saved.epoch, saved.advertise
        client._vault = None if saved.vault is None else Vault.load(saved.vault)
        client._view, client._present = saved.view, frozenset(saved.present)
        client._last, client._answered, client._round = saved.last, saved.answered, saved.round
        client._accepted = saved.accepted
        return client

    def _check_own_key(self) -> None:
        """Refuse credentials under which the peers would not know this client."""
        if self._credentials is None:
            return
        own, pinned = self._credentials.signer.public_key, self._credentials.directory.pinned.get(self._identity)
        if pinned is not None and pinned != own:
            raise LocalProtocolError(f"own key is not the one pinned for {self._identity.hex()}; load the right one")
        if self._credentials.signer.certificate:
            try:
                read_certificate(self._credentials.signer.certificate)
            except UnknownFormat as error:
                raise LocalProtocolError(f"own certificate cannot be read: {error}; load the right one") from None

    def _refuse(self, *, starting: int = 0) -> None:
        """Fail closed: abort set-up, or burn the running round and the one that a refused M5 would have started."""
        if self._state in SET_UP:
            self._state = step(CLIENT_TRANSITIONS, self._state, ClientTrigger.ABORT)
            if self._vault is not None:
                self._vault.erase()
            return
        offer, vault = self._require_epoch()
        if starting <= offer.rounds:
            self._last = max(self._last, starting)
        vault.erase_round(through=self._last)
        self._round = None
        self._state = step(CLIENT_TRANSITIONS, self._state, ClientTrigger.BURN)

    def _awaits(self, trigger: ClientTrigger) -> ClientState:
        """Next state on a message, or the peer's mistake."""
        try:
            return step(CLIENT_TRANSITIONS, self._state, trigger)
        except IllegalTransition as error:
            raise UnexpectedMessage(str(error)) from None

    def _may(self, trigger: ClientTrigger) -> ClientState:
        """Next state on a call, or the caller's mistake."""
        try:
            return step(CLIENT_TRANSITIONS, self._state, trigger)
        except IllegalTransition as error:
            raise LocalProtocolError(str(error)) from None

    def _require_credentials(self) -> Credentials | None:
        """The credentials, which a client that was restored into a mode with identities has to be given again."""
        if self._credentials is None and self._offer is not None and self._offer.rules.identities:
            raise LocalProtocolError("this epoch has identities; restore the client with its credentials")
        return self._credentials

    def _require_signer(self) -> Signer:
        if self._credentials is None:
            raise LocalProtocolError("this epoch has identities; restore the client with its credentials")
        return self._credentials.signer

    def _require_epoch(self) -> tuple[Offer, Vault]:
        if self._offer is None or self._vault is None:
            raise LocalProtocolError("no epoch yet; receive an offer first")
        return self._offer, self._vault

    def _require_view(self) -> RosterView:
        if self._view is None:
            raise LocalProtocolError("no roster yet; receive one first")
        return self._view

    def _require_round(self) -> tuple[Offer, Vault, RosterView, Round]:
        offer, vault = self._require_epoch()
        if self._round is None:
            raise LocalProtocolError("no round runs; receive a start first")
        return offer, vault, self._require_view(), self._round
