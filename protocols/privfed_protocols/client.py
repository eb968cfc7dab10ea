"""A client of one epoch: bytes in, events and bytes out.

No socket, no clock, no thread of its own; randomness is an argument. What may follow what is in `states.py`, what is
computed and checked in `client_setup.py`, `roster.py` and `client_round.py`; this file ties them together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from . import events
from .bitmap import unpack
from .client_core import ClientCore
from .client_round import (
    check_quorum,
    check_start,
    check_survivors,
    make_consistency,
    make_masked,
    make_unmask,
)
from .client_setup import ciphertext_bytes, make_advertise, make_shares, open_delivery
from .derivation import epoch_id
from .errors import (
    AfterBurned,
    BadNeighbour,
    BadServerSignature,
    DigestMismatch,
    LocalProtocolError,
    OverBound,
    PeerProtocolError,
    SecondSurvivors,
    UnexpectedMessage,
    WeakParameters,
    WrongRound,
)
from .exclusive import exclusive
from .identities import Credentials, verify
from .messages import (
    OFFER_LIMIT,
    Delivery,
    FromServer,
    Offer,
    Quorum,
    Roster,
    Start,
    Survivors,
    payload_limit,
    roster_limit,
)
from .policy import check_not_expired
from .primitives import equal
from .roster import check_roster
from .signed import SIGNED_OVERHEAD, Proof, check_dress, read_from_server, statement
from .states import CLIENT_TRANSITIONS, SET_UP, ClientState, ClientTrigger, step
from .surplus import SEED_BYTES
from .vault import Vault
from .vectors import Array, check_vectors
from .workers import Workers

_SIGNATURE_BYTES: Final = 64


class Client(ClientCore):
    """One client in one epoch; the next epoch takes a new object.

    Every message goes through `receive`, which returns an event with the reply to send. Between `RoundStarted` and
    the survivors the caller hands in its vectors with `submit`. **Save before you send**: persist `save()` before a
    reply or a masked vector leaves, so that a restart can never answer or mask a second time.

    Guarantees, if the caller saves before it sends:
        For each (peer, round), at most one of the two shares it holds is ever given out.
        The masks of a round are used for one vector, and rounds only ascend.
        In malicious mode it signs one set of survivors a round, and answers only if t neighbours signed the same one.
        A refused message, but for a repeat of the one accepted last, burns the round that runs or that it would start,
        or aborts set-up; burned rounds leave no
        secrets behind in saved states, nor in the arrays that this object keeps. Copies that the cryptographic library
        and Python make for the time of a call are dropped and not overwritten.
        Messages about rounds that are over or about other epochs are refused and change nothing.
        All this holds for calls from several threads, of which one runs at a time; a fork is refused.

    Args:
        identity: 1 to 128 bytes, as the transport authenticates it to the server.
        policy: what the client agrees to.
        credentials: its own key, its peers' and the server's, for the modes with identities. A client that has them
            takes part in no other mode, so that a server cannot talk it out of them.
        randomness: gives that many fresh secret bytes; replace it only in tests.

    Raises:
        LocalProtocolError: the identity is empty or too long, or its key is not the one pinned for it.
    """

    @exclusive
    def receive(self, message: bytes, *, now: int) -> events.ClientEvent:
        """Take in a message of the server.

        Args:
            message: the bytes as they arrived.
            now: Unix time in seconds, against which expiry and deadlines are checked.

        Returns:
            The event, with the reply to send after the client was saved.

        Raises:
            PeerProtocolError: the message is refused; its class and `refusal` say why. Set-up is aborted, or the
                running round is burned, unless the message is about another epoch or a round that was over already, or
                is byte for byte the one that was accepted last: that one stands, and a repeat changes nothing.
            LocalProtocolError: this process is a fork of the one that made the client, or a client with an epoch in a
                mode with identities was restored without credentials. Nothing was changed.
        """
        if self._state is ClientState.ABORTED:
            raise AfterBurned("set-up of this client was aborted; start over with a new Client and a new offer")
        credentials = self._require_credentials()
        try:
            decoded, proof = self._decode(message)
        except PeerProtocolError:
            if not self._repeats(message):  # which may be longer than what is awaited now
                self._refuse()
            raise
        if self._state not in SET_UP:
            self._refuse_stale(decoded)
        try:
            self._check_signature(decoded, proof, credentials)
            event = self._handle(decoded, message, now)
        except PeerProtocolError:
            if not self._repeats(message):
                self._refuse(starting=decoded.round if isinstance(decoded, Start) else 0)
            raise
        self._accepted = hashlib.sha256(message).digest()
        return event

    @exclusive
    def submit(
        self,
        vectors: Mapping[str, Array],
        *,
        model_digest: bytes,
        plan_digest: bytes,
        surplus_seed: bytes | None = None,
        workers: Workers = None,
    ) -> bytes:
        """Mask this client's vectors for the round that runs.

        Args:
            vectors: by name, exactly those of the offer: unsigned, contiguous, shape (length,), dtype of the
                specification, each element below 2^bits. They are not changed.
            model_digest: digest of the model that the caller computed on.
            plan_digest: digest of the plan that the caller computed on.
            surplus_seed: 32 secret bytes that the client's surplus noise of this round was drawn from, seed 1 of the
                chain in `surplus.py`; needed if and only if the offer has `shares`.
            workers: threads for the mask streams: an executor, a number, or None for none.

        Returns:
            M6, to be sent after the client was saved. The client's own secrets of the round are erased.

        Raises:
            LocalProtocolError: no round waits for a vector, a vector differs from its specification, the seed is
                missing or out of place, or this process is a fork of the one that made the client.
            DigestMismatch: the server started the round on another model or plan; the round is burned.
        """
        credentials = self._require_credentials()
        following = self._may(ClientTrigger.MASK)
        offer, vault, view, current = self._require_round()
        arrays = check_vectors(vectors, offer.vectors)
        seed = _checked_surplus(surplus_seed, offer)
        for name, own, told in (
            ("model", model_digest, current.model_digest),
            ("plan", plan_digest, current.plan_digest),
        ):
            if not equal(own, told):
                self._burn()
                raise DigestMismatch(f"round {current.number} was started on another {name} than was computed on")
        message = make_masked(
            arrays,
            offer=offer,
            epoch=self._epoch,
            view=view,
            current=current,
            vault=vault,
            signer=None if credentials is None else credentials.signer,
            workers=workers,
        )
        vault.surplus[:] = seed
        vault.erase_own(through=current.number)
        self._state = following
        return message

    def _repeats(self, message: bytes) -> bool:
        """Whether this is the message accepted last; a transport that delivers it again says nothing about the server.

        It is refused all the same: no state awaits what led to it.
        """
        return equal(hashlib.sha256(message).digest(), self._accepted)

    def _decode(self, message: bytes) -> tuple[FromServer, Proof | None]:
        offer = self._offer
        if offer is None:
            return read_from_server(message, limit=OFFER_LIMIT + SIGNED_OVERHEAD)
        limit = roster_limit(offer)
        if self._view is not None:
            payload = (ciphertext_bytes(offer.rounds) + _SIGNATURE_BYTES) * (len(self._view.neighbours) + 1)
            limit = max(payload_limit(payload, self._view.n), OFFER_LIMIT)
        return read_from_server(message, limit=limit + SIGNED_OVERHEAD)

    def _check_signature(self, decoded: FromServer, proof: Proof | None, credentials: Credentials | None) -> None:
        """Hold a message's signature, or its absence, against the mode; refusal 1."""
        offer = decoded if isinstance(decoded, Offer) else self._offer
        if offer is None:
            return  # no epoch yet, and the message is no offer: the table refuses it
        check_dress(decoded, proof, mode=offer.mode, missing=BadServerSignature)
        if proof is None:
            return
        epoch = b"" if isinstance(decoded, Offer) else self._epoch
        signed = statement(type(decoded), proof.fingerprint, epoch=epoch, suite=offer.suite)
        if credentials is None:
            raise BadServerSignature(f"{decoded} is signed, but this client pins no server key; give it credentials")
        if not verify(credentials.server_key, proof.signature, signed):
            raise BadServerSignature(f"{decoded} is not signed by the pinned server key")

    def _handle(self, decoded: FromServer, message: bytes, now: int) -> events.ClientEvent:
        if self._offer is not None:
            check_not_expired(self._offer, now=now)
        match decoded:
            case Offer():
                return self._on_offer(decoded, message, now)
            case Roster():
                return self._on_roster(decoded)
            case Delivery():
                return self._on_delivery(decoded)
            case Start():
                return self._on_start(decoded, now)
            case Survivors():
                return self._on_survivors(decoded, now)
            case Quorum():
                return self._on_quorum(decoded, now)

    def _on_offer(self, offer: Offer, message: bytes, now: int) -> events.Advertise:
        offered = self._awaits(ClientTrigger.OFFER)
        self._check_mode(offer)
        self._policy.check_offer(offer, now=now, identified=self._credentials is not None)
        epoch = epoch_id(message, suite=offer.suite)
        vault = Vault(offer.rounds, self._randomness)
        advertise = make_advertise(self._identity, offer=offer, epoch=epoch, vault=vault, credentials=self._credentials)
        self._offer, self._epoch, self._vault, self._advertise = offer, epoch, vault, advertise
        self._state = step(CLIENT_TRANSITIONS, offered, ClientTrigger.ADVERTISE)
        return events.Advertise(reply=advertise, offer=offer)

    def _check_mode(self, offer: Offer) -> None:
        """Refuse to do without identities where there are some, and an epoch that outlives the own certificate."""
        credentials = self._credentials
        if credentials is None:
            return
        if not offer.rules.identities:
            raise WeakParameters(f"{offer.mode} mode has no identities; this client has credentials and insists")
        try:
            known = credentials.directory.key_of(self._identity, credentials.signer.certificate, until=offer.expiry)
        except BadNeighbour as error:
            raise OverBound(f"peers would not know this client in this epoch: {error}") from None
        if known != credentials.signer.public_key:
            raise OverBound("the own certificate is for another key")

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
            directory=None if self._credentials is None else self._credentials.directory,
        )
        shares = make_shares(view, offer=offer, epoch=self._epoch, vault=vault)
        vault.erase_sharing_seed()
        self._view, self._advertise = view, b""
        self._state = step(CLIENT_TRANSITIONS, rostered, ClientTrigger.SHARES)
        return events.Rostered(reply=shares, n=view.n, threshold=view.t)

    def _on_delivery(self, delivery: Delivery) -> events.Ready:
        ready = self._awaits(ClientTrigger.DELIVERY)
        offer, vault = self._require_epoch()
        view = self._require_view()
        present, vault.held = open_delivery(delivery, offer=offer, view=view, epoch=self._epoch, vault=vault)
        vault.erase_channel()
        self._present, self._state = frozenset(present), ready
        return events.Ready(present=present)

    def _on_start(self, start: Start, now: int) -> events.RoundStarted:
        started = self._awaits(ClientTrigger.START)
        offer, vault = self._require_epoch()
        view = self._require_view()
        current = check_start(
            start, offer=offer, epoch=self._epoch, view=view, present=self._present, last=self._last, now=now
        )
        vault.erase_round(through=current.number - 1)
        self._round, self._last, self._state = current, current.number, started
        return events.RoundStarted(
            round=current.number,
            participants=unpack(current.participants, view.n),
            model_digest=current.model_digest,
            plan_digest=current.plan_digest,
            deadline=start.deadline,
        )

    def _on_survivors(self, survivors: Survivors, now: int) -> events.Unmasking | events.Signing:
        if self._state is ClientState.SIGNED and survivors.round == self.round:
            raise SecondSurvivors(f"second survivors of round {survivors.round}, the first of which were signed")
        consistency = self._require_epoch()[0].rules.consistency
        following = self._awaits(ClientTrigger.SIGN if consistency else ClientTrigger.SURVIVORS)
        offer, _, view, current = self._require_round()
        check_survivors(survivors, view=view, current=current, now=now)
        if not consistency:
            return self._unmask(survivors.survivors, following)
        signer = self._require_signer()
        reply = make_consistency(survivors.survivors, offer=offer, epoch=self._epoch, current=current, signer=signer)
        self._round, self._state = replace(current, survivors=survivors.survivors), following
        return events.Signing(reply=reply, round=current.number, survivors=unpack(survivors.survivors, view.n))

    def _on_quorum(self, quorum: Quorum, now: int) -> events.Unmasking:
        following = self._awaits(ClientTrigger.QUORUM)
        offer, _, view, current = self._require_round()
        check_quorum(quorum, offer=offer, view=view, current=current, now=now)
        return self._unmask(current.survivors, following)

    def _unmask(self, survivors: bytes, following: ClientState) -> events.Unmasking:
        """Answer the survivors, and burn the round."""
        offer, vault, view, current = self._require_round()
        reply = make_unmask(survivors, offer=offer, epoch=self._epoch, view=view, current=current, vault=vault)
        vault.erase_round(through=current.number)
        self._round, self._answered, self._state = None, current.number, following
        return events.Unmasking(reply=reply, round=current.number, survivors=unpack(survivors, view.n))

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


def _checked_surplus(seed: bytes | None, offer: Offer) -> bytes:
    """The seed of the surplus noise, zeros where there is none to have."""
    if (offer.shares > 0) != (seed is not None):
        told = "needs" if offer.shares else "has no use for"
        raise LocalProtocolError(f"an offer with shares={offer.shares} {told} a surplus_seed")
    if seed is not None and len(seed) != SEED_BYTES:
        raise LocalProtocolError(f"surplus_seed has {len(seed)} bytes, expected {SEED_BYTES}")
    return bytes(SEED_BYTES) if seed is None else bytes(seed)
