"""An epoch of secure aggregation between a server and clients that live in one process.

Every message crosses as the bytes it would be on a wire; the two sides share no object but those.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping

import msgspec

from privfed.engines.faults import Lost, Step
from privfed.engines.keys import Keys
from privfed.errors import FederationError, UsageError
from privfed.federation.client import ClientSide
from privfed.federation.rounds import RoundOutcome, RoundTask
from privfed.plan import Plan, SamplingTerms
from privfed.query import query_digest
from privfed_protocols import (
    Client,
    ClientPolicy,
    EpochFailed,
    LocalProtocolError,
    Offer,
    PeerProtocolError,
    RoundFailed,
    RoundStarted,
    Server,
    VectorSpec,
)

__all__ = ["SecureEpoch"]

logger = logging.getLogger(__name__)
VECTOR = "statistics"


class SecureEpoch:
    """One set-up of the protocol and the rounds that it carries.

    Args:
        clients: name -> the client's side of a release; all take part in every round.
        plan: of the first release; those that follow have its layout.
        keys: the mode of the protocol, and the identities that it asks for.
        rounds: most rounds that the epoch carries.
        colluders: number of clients that may work with the server; the threshold exceeds it whoever is lost.
        dropout: fraction of clients that may be lost.
        lost: says whether a client's message of a step never arrives.

    Raises:
        FederationError: too few clients completed the set-up.
    """

    def __init__(
        self,
        clients: Mapping[str, ClientSide],
        *,
        plan: Plan,
        keys: Keys,
        rounds: int,
        colluders: int,
        dropout: float,
        lost: Lost,
    ) -> None:
        self._layout = _layout_of(plan)
        self._cohort = tuple(clients)
        self._sides = {name.encode(): side for name, side in clients.items()}
        terms, spec = plan.terms, VectorSpec(VECTOR, plan.length, plan.bits)
        plan_digest = hashlib.sha256(repr(self._layout).encode()).digest()
        shares = terms.planned if plan.mechanism != "none" and terms.drop_outs == "exact" else 0
        try:
            offer = Offer.new(
                vectors=(spec,),
                n_min=terms.guaranteed,
                n_max=len(clients),
                rounds=rounds,
                plan_digest=plan_digest,
                corrupt=colluders / len(clients),
                dropout=dropout,
                mode=keys.mode,
                shares=shares,
            )
        except LocalProtocolError as error:
            raise UsageError(f"secure aggregation cannot be set up: {error}") from error
        self._server = Server(
            offer, invited=self._sides, signer=keys.server, directory=keys.directory if keys.server else None
        )
        # What each client would insist on without being told: nobody else, no fewer, no weaker, no other plan.
        policy = ClientPolicy(
            n_min=terms.guaranteed,
            n_max=len(clients),
            min_colluders=colluders,
            max_dropout=dropout,
            modes=frozenset({keys.mode}),
            identities=frozenset(self._sides),
            noise_shares=shares,
            plan_digests=frozenset({plan_digest}),
            max_rounds=rounds,
            max_vector_bytes=spec.nbytes,
        )
        self._consistent = offer.rules.consistency
        self._clients = {
            identity: Client(identity, policy=policy, credentials=keys.credentials(identity))
            for identity in self._sides
        }
        self._bytes_up = 0
        try:
            self._set_up(lost)
        except (EpochFailed, PeerProtocolError) as error:
            raise FederationError(f"the set-up failed: {error}") from error

    def carries(self, task: RoundTask) -> bool:
        """Return whether a round of this epoch can do the task."""
        same = self._layout == _layout_of(task.plan) and self._cohort == task.cohort
        return same and self._server.rounds_left > 0

    def _set_up(self, lost: Lost) -> None:
        offer = dict.fromkeys(self._clients, self._server.offer)
        self._exchange(offer, "advertise", lost)
        self._exchange(self._server.close_advertise(), "shares", lost)
        self._deliver(self._server.close_shares())

    def _exchange(self, messages: Mapping[bytes, bytes], step: Step, lost: Lost) -> None:
        """Deliver a message to each client and its reply to the server, unless the client is lost at this step."""
        for identity, message in messages.items():
            if not lost(identity.decode(), step):
                reply = self._clients[identity].receive(message, now=int(time.time())).reply
                if reply is not None:
                    self._to_server(identity, reply)

    def _deliver(self, messages: Mapping[bytes, bytes]) -> None:
        for identity, message in messages.items():
            self._clients[identity].receive(message, now=int(time.time()))

    def _to_server(self, identity: bytes, message: bytes) -> None:
        self._bytes_up += len(message)
        self._server.receive(identity, message)

    def run(self, task: RoundTask, lost: Lost) -> RoundOutcome:
        """Run one round of the protocol over `task`.

        Raises:
            FederationError: the round failed closed.
        """
        try:
            return self._run(task, lost)
        except RoundFailed as error:
            self._report(error.disputes)
            remedy = "" if error.disputes else "; tolerate more losses with a larger dropout="
            raise FederationError(f"the round failed: {error}{remedy}") from error
        except PeerProtocolError as error:
            raise FederationError(f"the round failed: {error}") from error

    def _run(self, task: RoundTask, lost: Lost) -> RoundOutcome:
        start = self._server.start_round(model_digest=task.query_digest, plan_digest=task.plan.digest)
        for identity, message in start.items():
            if not lost(identity.decode(), "masked"):
                self._to_server(identity, self._masked(identity, message, task))
        survivors = self._server.close_inputs()
        if self._consistent:
            self._exchange(survivors, "sign", lost)
            survivors = self._server.close_signatures()
        task.about_to_reveal()
        self._exchange(survivors, "unmask", lost)
        result = self._server.close_unmask()
        self._report(result.disputes)
        bytes_up, self._bytes_up = self._bytes_up, 0
        kept = set(result.survivors)
        return RoundOutcome(
            total=result.sums[VECTOR],
            participants=len(result.participants),
            survivors=len(kept),
            lost=tuple(sorted(name.decode() for name in self._sides if name not in kept)),
            bytes_up=bytes_up,
            surplus=tuple(result.surplus.values()),
        )

    def _report(self, disputes: tuple[tuple[bytes, tuple[bytes, ...]], ...]) -> None:
        """Tell the operator whose shares did not fit: dealer or givers, nobody can say which."""
        for dealer, givers in disputes:
            names = ", ".join(giver.decode() for giver in givers)
            logger.warning("shares of %s given by %s do not fit what was committed to", dealer.decode(), names)

    def _masked(self, identity: bytes, message: bytes, task: RoundTask) -> bytes:
        """Let one client compute its vector and mask it: the digests it submits are those it derived itself."""
        client, side = self._clients[identity], self._sides[identity]
        started = client.receive(message, now=int(time.time()))
        if not isinstance(started, RoundStarted):
            raise FederationError(f"client {identity.decode()!r} did not start the round")
        query, plan = side.agree(task.task)
        rows = side.admit(query)
        try:
            contribution = side.contribution(query, plan, rows)
        except FederationError:
            task.about_to_reveal()  # that a query fails on a client's rows tells something about them
            raise
        return client.submit(
            {VECTOR: contribution.vector},
            model_digest=query_digest(task.task.query),
            plan_digest=plan.digest,
            surplus_seed=contribution.surplus_seed,
        )


def _layout_of(plan: Plan) -> tuple[bytes, int, int]:
    """Return what rounds of one epoch have in common: the terms but for noise, sample and seed, and the vector."""
    terms = msgspec.structs.replace(plan.terms, noise_multiplier=0.0, sampling=SamplingTerms(), rotation_seed=bytes(32))
    return terms.encode(), plan.length, plan.bits
