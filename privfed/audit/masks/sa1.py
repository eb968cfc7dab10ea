"""The adapter for the secure aggregation of this distribution, "sa1"; also an example of how one is written.

It drives `privfed_protocols` by its messages, as a transport would. Secrets are known because the adapter hands out
the randomness; pair masks are computed a second time from them and from the messages.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import numpy as np
import numpy.typing as npt

from privfed.audit.masks.adapter import Adapter, Kind, NotExposed, Refused, Ring, Setting, Values
from privfed.errors import UsageError
from privfed.plan import Terms, make_plan
from privfed.query import encode_query, query_digest
from privfed.statistics.moments import Count
from privfed_protocols import (
    Client,
    EpochFailed,
    Offer,
    ProtocolError,
    RoundFailed,
    Server,
    ServerState,
    VectorSpec,
)
from privfed_protocols.bitmap import pack
from privfed_protocols.derivation import pair_masks, round_context
from privfed_protocols.masks import Mask, mask_into
from privfed_protocols.messages import Advertise, Masked, Roster, Start, Survivors, Unmask, encode
from privfed_protocols.primitives import Agreement, public_key
from privfed_protocols.saved import unpack
from privfed_protocols.shamir import SHARE_BYTES

__all__ = ["Sa1"]

MODEL, PLAN = bytes(32), bytes(range(32))
NOISE_TAIL = 7.0  # standard deviations of noise that a sum has to have room for: beyond lie 3e-12 of a Gaussian's mass


class Sa1(Adapter):
    """The protocol "sa1" in its semi-honest mode, with a ring of `bits` bits; subclass it for another width."""

    name: ClassVar[str] = "privfed sa1"
    generator: ClassVar[str] = "AES-256-CTR"
    bits: ClassVar[int] = 32

    def set_up(self, setting: Setting) -> None:
        """Run the set-up; a client that is lost advertises, then falls silent."""
        self._setting = setting
        spec = VectorSpec("x", setting.length, self.bits)
        lost = (setting.clients - setting.threshold) / setting.clients
        offer = Offer.new(
            vectors=(spec,),
            n_min=setting.threshold,
            n_max=setting.clients,
            rounds=setting.rounds,
            plan_digest=PLAN,
            dropout=lost,
        )
        self._spec, self._server = spec, Server(offer)
        self._drawn: list[list[bytes]] = [[] for _ in range(setting.clients)]
        self._names = [b"client-%03d" % number for number in range(setting.clients)]
        self._clients = [
            Client(name, randomness=_recording(self._drawn[number])) for number, name in enumerate(self._names)
        ]
        self._sent: list[list[bytes]] = [[] for _ in range(setting.clients)]
        self._totals: dict[int, npt.NDArray[Any]] = {}
        try:
            self._tell(dict.fromkeys(self._names, self._server.offer))
            rosters = self._server.close_advertise()
            self._root = msgspec.msgpack.decode(rosters[self._names[0]], type=Roster).root
            self._tell({n: m for n, m in rosters.items() if self._names.index(n) not in setting.lost_in_set_up})
            self._tell(self._server.close_shares())
        except ProtocolError as error:
            raise Refused(str(error)) from error

    @property
    def ring(self) -> Ring:
        """Sums modulo 2^bits; what a client may put in is the caller's business, and here an equal part of the ring."""
        return Ring(1 << self.bits, ((1 << self.bits) - 1) // self._setting.clients)

    def masked(self, client: int, round: int, values: Values, side: Mapping[str, float]) -> npt.NDArray[Any]:
        """Let a client submit; `side` has no place in the protocol."""
        self._start(round)
        vectors = {"x": np.ascontiguousarray(values.astype(self._spec.dtype))}
        try:
            message = self._clients[client].submit(vectors, model_digest=MODEL, plan_digest=PLAN)
            self._send(client, message)
        except ProtocolError as error:
            raise Refused(str(error)) from error
        payload = msgspec.msgpack.decode(message, type=Masked).payload
        return np.frombuffer(payload, self._spec.dtype)

    def total(self, round: int) -> npt.NDArray[Any]:
        """Close the round."""
        if round not in self._totals:
            try:
                self._tell(self._server.close_inputs())
                self._totals[round] = self._server.close_unmask().sums["x"]
            except (ProtocolError, EpochFailed, RoundFailed) as error:
                raise Refused(str(error)) from error
        return self._totals[round]

    def wire(self, client: int) -> Sequence[bytes]:
        """Return M1, M3, M6 and M10 as sent."""
        return self._sent[client]

    def public_keys(self, client: int) -> Sequence[bytes]:
        """Return the channel key and the keys of all rounds."""
        advertise = self._advertise(client)
        return [advertise.channel_key, *_keys(advertise)]

    def secrets(self, client: int) -> Sequence[bytes]:
        """Return everything that the client drew, then what it agrees with each peer, in round 1."""
        peers = [peer for peer in range(self._setting.clients) if peer != client]
        return [*self._drawn[client], *(self._agree(client, peer, 1) for peer in sorted(peers))]

    def pair_mask(self, client: int, peer: int, round: int) -> npt.NDArray[Any]:
        """Compute the mask of a pair from the client's private key and the messages."""
        self._start(round)
        masks = pair_masks(
            self._agree(client, peer, round), context=self._context, index=client, peer=peer, vectors=[self._spec]
        )
        return self._expanded(masks[0])

    def expand(self, seed: bytes, length: int, modulus: int) -> npt.NDArray[Any]:
        """Stretch a mask key."""
        target = np.zeros(length, np.dtype(f"<u{(modulus.bit_length() - 1) // 8}"))
        mask_into(target, target, [Mask(seed)])
        return target

    def reveal(
        self, client: int, round: int, *, alive: Collection[int], dropped: Collection[int]
    ) -> Mapping[int, Collection[Kind]]:
        """Send an M7 of one's own making. One bitmap says who is alive: a peer in both lists cannot be expressed."""
        if set(alive) & set(dropped):
            raise Refused("a peer that is both alive and dropped cannot be asked for")
        held = self._held(client, round)
        start = msgspec.msgpack.decode(self._started, type=Start)
        bitmap = pack(sorted(alive), self._setting.clients)
        try:
            event = self._clients[client].receive(
                encode(Survivors(start.version, start.epoch, round, bitmap)), now=int(time.time())
            )
        except ProtocolError as error:
            raise Refused(str(error)) from error
        answer = bytes(msgspec.msgpack.decode(event.reply or b"", type=Unmask).shares)
        return {peer: [kind for kind, share in kinds.items() if share in answer] for peer, kinds in held.items()}

    def ring_for(self, clients: int) -> Ring:
        """Return the ring of a count over so many clients as `privfed` plans it, noise included."""
        query = Count()
        terms = Terms(
            unit="record",
            view="server",
            noise_multiplier=1.0,
            planned=clients,
            guaranteed=clients,
            max_records=1_000_000,
            records_per_client=1.0,
            protection="secure_aggregation",
        )
        try:
            plan = make_plan(query, query_digest(encode_query(query)), terms)
        except UsageError as error:
            raise Refused(str(error)) from error
        return Ring(1 << plan.bits, int(2 * (plan.bound + NOISE_TAIL * plan.share_sigma)))

    def _start(self, round: int) -> None:
        """Start a round with everybody, giving up the one before it."""
        if self._server.round >= round:
            return
        if self._server.state is ServerState.INPUTS:
            try:
                self._server.close_inputs()
                self._server.close_unmask()
            except RoundFailed:
                pass  # nobody waits for its sum
        try:
            messages = self._server.start_round(model_digest=MODEL, plan_digest=PLAN)
            self._started = next(iter(messages.values()))
            for name, message in messages.items():
                self._clients[self._names.index(name)].receive(message, now=int(time.time()))
        except ProtocolError as error:
            raise Refused(str(error)) from error
        start = msgspec.msgpack.decode(self._started, type=Start)
        self._context = round_context(
            epoch=start.epoch,
            round=round,
            root=self._root,
            participants=start.participants,
            model_digest=MODEL,
            plan_digest=PLAN,
        )

    def _tell(self, messages: Mapping[bytes, bytes]) -> None:
        """Give clients their messages, and the server their replies."""
        for name, message in messages.items():
            client = self._names.index(name)
            reply = self._clients[client].receive(message, now=int(time.time())).reply
            if reply is not None:
                self._send(client, reply)

    def _send(self, client: int, message: bytes) -> None:
        self._sent[client].append(message)
        self._server.receive(self._names[client], message)

    def _advertise(self, client: int) -> Advertise:
        return msgspec.msgpack.decode(self._sent[client][0], type=Advertise)

    def _agree(self, client: int, peer: int, round: int) -> bytes:
        """Return the secret of a pair: the one of the client's drawn keys that fits what it advertised."""
        own = _keys(self._advertise(client))[round - 1]
        for secret in self._drawn[client]:
            if len(secret) == len(own) and public_key(secret) == own:
                return Agreement(secret).shared_secret(_keys(self._advertise(peer))[round - 1])
        raise NotExposed("the private key of a round")

    def _expanded(self, mask: Mask) -> npt.NDArray[Any]:
        target = np.zeros(self._spec.length, self._spec.dtype)
        mask_into(target, target, [mask])
        return target

    def _held(self, client: int, round: int) -> dict[int, dict[Kind, bytes]]:
        """Return the shares that a client holds: peer -> kind -> bytes."""
        saved = unpack(self._clients[client].save())
        if saved.vault is None or saved.view is None or not saved.vault.held_from <= round:
            return {}
        per_round = saved.vault.neighbours * 2 * SHARE_BYTES
        held = saved.vault.held[per_round * (round - saved.vault.held_from) :]
        pairs = {
            peer: held[2 * SHARE_BYTES * place : 2 * SHARE_BYTES * (place + 1)]
            for place, peer in enumerate(saved.view.neighbours)
        }
        return {peer: {"pair": both[:SHARE_BYTES], "self": both[SHARE_BYTES:]} for peer, both in pairs.items()}


def _keys(advertise: Advertise) -> list[bytes]:
    return [advertise.round_keys[start : start + 32] for start in range(0, len(advertise.round_keys), 32)]


def _recording(drawn: list[bytes]) -> Callable[[int], bytes]:
    def draw(size: int) -> bytes:
        secret = os.urandom(size)
        drawn.append(secret)
        return secret

    return draw
