"""A client of one epoch: bytes in, events and bytes out.

No socket, no clock, no thread; randomness is an argument. What may follow what is in `states.py`, what is computed
and checked in `client_setup.py` and `client_round.py`; this file ties them together and burns what is over.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import ClassVar, Final

from . import events
from .client_round import Round, check_start, check_survivors, make_masked, make_unmask
from .client_setup import RosterView, check_roster, ciphertext_bytes, make_advertise, make_shares, open_delivery
from .derivation import epoch_id
from .errors import (
    AfterBurned,
    DigestMismatch,
    LocalProtocolError,
    PeerProtocolError,
    SecondSurvivors,
    UnexpectedMessage,
    WrongRound,
)
from .labels import VERSION
from .messages import (
    OFFER_LIMIT,
    Delivery,
    FromServer,
    Offer,
    Roster,
    Start,
    Survivors,
    decode_from_server,
    decode_offer,
    payload_limit,
    roster_limit,
)
from .policy import ClientPolicy, check_not_expired
from .primitives import equal
from .saved import SavedClient, pack, unpack
from .states import CLIENT_TRANSITIONS, ClientState, ClientTrigger, IllegalTransition, step
from .uncopied import Uncopied
from .vault import Vault
from .vectors import Array, check_vectors

_SET_UP: Final = frozenset(
    {ClientState.NEW, ClientState.OFFERED, ClientState.ADVERTISED, ClientState.ROSTERED, ClientState.SHARED}
)


class Client(Uncopied):
    """One client in one epoch; the next epoch takes a new object.

    Every message goes through `receive`, which returns an event with the reply to send. Between `RoundStarted` and
    the survivors the caller hands in its vectors with `submit`. **Save before you send**: persist `save()` before a
    reply or a masked vector leaves, so that a restart can never answer or mask a second time.

    Guarantees, if the caller saves before it sends:
        For each (peer, round), at most one of the two shares it holds is ever given out.
        The masks of a round are used for one vector, and rounds only ascend.
        A refused message burns the round that runs or that it would start, or aborts set-up; burned rounds leave no
        secrets behind in saved states, nor in the arrays that this object keeps. Copies that the cryptographic library
        and Python make for the time of a call are dropped and not overwritten.
        Messages about rounds that are over or about other epochs are refused and change nothing.

    Args:
        identity: 1 to 128 bytes, as the transport authenticates it to the server.
        policy: what the client agrees to.
        randomness: gives that many fresh secret bytes; replace it only in tests.

    Raises:
        LocalProtocolError: the identity is empty or too long.
    """

    instead: ClassVar[str] = "use save() and restore() in exactly one process"

    def __init__(
        self,
        identity: bytes,
        *,
        policy: ClientPolicy | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
    ) -> None:
        if not 1 <= len(identity) <= 128:
            raise LocalProtocolError(f"identity has {len(identity)} bytes, expected 1 to 128")
        self._process = os.getpid()
        self._identity = bytes(identity)
        self._policy = ClientPolicy() if policy is None else policy
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

    def receive(self, message: bytes, *, now: int) -> events.ClientEvent:
        """Take in a message of the server.

        Args:
            message: the bytes as they arrived.
            now: Unix time in seconds, against which expiry and deadlines are checked.

        Returns:
            The event, with the reply to send after the client was saved.

        Raises:
            PeerProtocolError: the message is refused; its class and `refusal` say why. Set-up is aborted, or the
                running round is burned, unless the message is about another epoch or a round that was over already.
            LocalProtocolError: this process is a fork of the one that made the client. Nothing was changed.
        """
        self._require_process()
        if self._state is ClientState.ABORTED:
            raise AfterBurned("set-up of this client was aborted; start over with a new Client and a new offer")
        try:
            decoded = self._decode(message)
        except PeerProtocolError:
            self._refuse()
            raise
        if self._state not in _SET_UP:
            self._refuse_stale(decoded)
        try:
            return self._handle(decoded, message, now)
        except PeerProtocolError:
            self._refuse(starting=decoded.round if isinstance(decoded, Start) else 0)
            raise

    def submit(self, vectors: Mapping[str, Array], *, model_digest: bytes, plan_digest: bytes) -> bytes:
        """Mask this client's vectors for the round that runs.

        Args:
            vectors: by name, exactly those of the offer: unsigned, contiguous, shape (length,), dtype of the
                specification. They are not changed.
            model_digest: digest of the model that the caller computed on.
            plan_digest: digest of the plan that the caller computed on.

        Returns:
            M6, to be sent after the client was saved. The client's own secrets of the round are erased.

        Raises:
            LocalProtocolError: no round waits for a vector, a vector differs from its specification, or this process is
                a fork of the one that made the client.
            DigestMismatch: the server started the round on another model or plan; the round is burned.
        """
        self._require_process()
        following = self._may(ClientTrigger.MASK)
        offer, vault, view, current = self._require_round()
        arrays = check_vectors(vectors, offer.vectors)
        for name, own, told in (
            ("model", model_digest, current.model_digest),
            ("plan", plan_digest, current.plan_digest),
        ):
            if not equal(own, told):
                self.burn()
                raise DigestMismatch(f"round {current.number} was started on another {name} than was computed on")
        message = make_masked(arrays, offer=offer, epoch=self._epoch, view=view, current=current, vault=vault)
        vault.erase_own(through=current.number)
        self._state = following
        return message

    def burn(self) -> None:
        """Give up the running round, if any, and forget its secrets; later rounds can run."""
        if self._state not in _SET_UP and self._state is not ClientState.ABORTED:
            self._refuse()

    def save(self) -> bytes:
        """The whole state as bytes, between any two messages.

        They hold secrets of the rounds to come and of the one that runs: keep them as you would keep a private key,
        and overwrite the older ones. They never hold secrets of burned rounds.

        Raises:
            LocalProtocolError: this process is a fork of the one that made the client.
        """
        self._require_process()
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
        )
        return pack(saved)

    @classmethod
    def restore(
        cls,
        data: bytes,
        *,
        policy: ClientPolicy | None = None,
        randomness: Callable[[int], bytes] = os.urandom,
        at_least_round: int = 0,
    ) -> Client:
        """Go on from saved bytes.

        Saved bytes cannot tell that newer ones exist. Restored from an older state than the last that it sent
        something from, a client could mask a second vector under the same masks, or answer a round a second time. Keep
        `last_round` in another place than the bytes and pass it here; and if the bytes may be older than what that
        round sent, call `burn` on the restored client, which gives up that round only.

        Args:
            data: what `save` gave.
            policy: as for a new client; it is not saved.
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
        client = cls(saved.identity, policy=policy, randomness=randomness)
        client._state = saved.state
        client._offer, client._epoch, client._advertise = saved.offer, saved.epoch, saved.advertise
        client._vault = None if saved.vault is None else Vault.load(saved.vault)
        client._view, client._present = saved.view, frozenset(saved.present)
        client._last, client._answered, client._round = saved.last, saved.answered, saved.round
        return client

    def _decode(self, message: bytes) -> FromServer:
        offer = self._offer
        if offer is None:
            return decode_from_server(message, limit=OFFER_LIMIT)
        limit = roster_limit(offer)
        if self._view is not None:
            payload = ciphertext_bytes(offer.rounds) * len(self._view.neighbours)
            limit = max(payload_limit(payload, self._view.n), OFFER_LIMIT)
        return decode_from_server(message, limit=limit)

    def _handle(self, decoded: FromServer, message: bytes, now: int) -> events.ClientEvent:
        if self._offer is not None:
            check_not_expired(self._offer, now=now)
        match decoded:
            case Offer():
                return self._on_offer(message, now)
            case Roster():
                return self._on_roster(decoded)
            case Delivery():
                return self._on_delivery(decoded)
            case Start():
                return self._on_start(decoded, now)
            case Survivors():
                return self._on_survivors(decoded, now)

    def _on_offer(self, message: bytes, now: int) -> events.Advertise:
        offered = self._awaits(ClientTrigger.OFFER)
        offer = decode_offer(message)
        self._policy.check_offer(offer, now=now)
        epoch = epoch_id(message)
        vault = Vault(offer.rounds, self._randomness)
        advertise = make_advertise(self._identity, epoch=epoch, vault=vault)
        self._offer, self._epoch, self._vault, self._advertise = offer, epoch, vault, advertise
        self._state = step(CLIENT_TRANSITIONS, offered, ClientTrigger.ADVERTISE)
        return events.Advertise(reply=advertise, offer=offer)

    def _on_roster(self, roster: Roster) -> events.Rostered:
        rostered = self._awaits(ClientTrigger.ROSTER)
        offer, vault = self._require_epoch()
        view = check_roster(
            roster,
            offer=offer,
            epoch=self._epoch,
            identity=self._identity,
            advertise=self._advertise,
            policy=self._policy,
        )
        shares = make_shares(view, epoch=self._epoch, vault=vault)
        vault.erase_sharing_seed()
        self._view, self._advertise = view, b""
        self._state = step(CLIENT_TRANSITIONS, rostered, ClientTrigger.SHARES)
        return events.Rostered(reply=shares, n=view.n, threshold=view.t)

    def _on_delivery(self, delivery: Delivery) -> events.Ready:
        ready = self._awaits(ClientTrigger.DELIVERY)
        _, vault = self._require_epoch()
        view = self._require_view()
        present, vault.held = open_delivery(delivery, view=view, epoch=self._epoch, vault=vault)
        vault.erase_channel()
        self._present, self._state = frozenset(present), ready
        return events.Ready(present=present)

    def _on_start(self, start: Start, now: int) -> events.RoundStarted:
        started = self._awaits(ClientTrigger.START)
        offer, vault = self._require_epoch()
        current = check_start(
            start,
            offer=offer,
            epoch=self._epoch,
            view=self._require_view(),
            present=self._present,
            last=self._last,
            now=now,
        )
        vault.erase_round(through=current.number - 1)
        self._round, self._last, self._state = current, current.number, started
        return events.RoundStarted(
            round=current.number,
            participants=current.participants,
            model_digest=current.model_digest,
            plan_digest=current.plan_digest,
            deadline=start.deadline,
        )

    def _on_survivors(self, survivors: Survivors, now: int) -> events.Unmasking:
        ready = self._awaits(ClientTrigger.SURVIVORS)
        offer, vault, view, current = self._require_round()
        if survivors.round != current.number:
            raise WrongRound(f"survivors of round {survivors.round} while round {current.number} runs")
        alive = check_survivors(survivors, offer=offer, view=view, current=current, now=now)
        reply = make_unmask(alive, epoch=self._epoch, view=view, current=current, vault=vault)
        vault.erase_round(through=current.number)
        self._round, self._answered, self._state = None, current.number, ready
        return events.Unmasking(reply=reply, round=current.number, survivors=alive)

    def _refuse_stale(self, decoded: FromServer) -> None:
        """Refuse what is about another epoch or about something that is over, without burning anything."""
        if isinstance(decoded, Offer | Roster | Delivery):
            raise UnexpectedMessage(f"{decoded} after set-up")
        if not equal(decoded.epoch, self._epoch):
            raise WrongRound(f"{decoded} of another epoch")
        if decoded.round > self._last or decoded.round == self.round:
            return
        if isinstance(decoded, Start):
            raise WrongRound(f"round {decoded.round} cannot start after round {self._last}")
        if decoded.round == self._answered:
            raise SecondSurvivors(f"survivors of round {decoded.round} were answered before")
        raise AfterBurned(f"round {decoded.round} was burned without an answer")

    def _refuse(self, *, starting: int = 0) -> None:
        """Fail closed: abort set-up, or burn the running round and the one that a refused M5 would have started."""
        if self._state in _SET_UP:
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

    def _require_process(self) -> None:
        """Refuse to go on in a forked process, where this client would be there twice."""
        if os.getpid() != self._process:
            raise LocalProtocolError(
                f"this Client belongs to process {self._process}, this is its fork {os.getpid()}: both would use the "
                f"same masks; save before forking and restore the saved state in exactly one process"
            )

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
