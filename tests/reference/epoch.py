"""A whole epoch of the protocol text, seen from above: from secrets, vectors and losses to every message and sum.

Inputs and outputs are those of the scenarios in `protocols/vectors`: bytes as hexadecimal text, clients by name.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

from tests.reference import numbers
from tests.reference import words as w
from tests.reference.words import frame, message, num, sha

un = bytes.fromhex
SIGNED = {0: "signed offer", 1: "signed advertise", 6: "signed masked vectors", 7: "signed survivors"}


class Epoch:
    """Everything that the parties of an epoch compute."""

    def __init__(self, inputs: dict[str, Any]) -> None:
        self.inputs, self.offer, self.lost = inputs, inputs["offer"], inputs["lost"]
        self.suite, self.mode, self.specs = self.offer["suite"], self.offer["mode"], self.offer["vectors"]
        self.secrets = {one["identity"]: one for one in inputs["clients"]}
        told = self.offer | {key: un(self.offer[key]) for key in ("nonce", "plan_digest")}
        self.m0 = self.dressed(0, message(0, *told.values()), b"", inputs["server_seed"])
        self.epoch = sha("epoch id", self.suite, self.m0)
        self.m1 = {name: self.advertise(name) for name in self.secrets if name not in self.lost["advertise"]}
        self.names = sorted(self.m1, key=un)
        self.n = len(self.names)
        fractions = [self.offer[key] for key in ("n_min", "n_max", "corrupt", "dropout", "sigma", "eta", "mode")]
        self.k, self.t = numbers.parameters(self.n, *fractions) or (0, 0)
        self.leaves = [self.m1[name] for name in self.names]
        self.root = w.tree(self.leaves)
        ring = sha("graph seed", self.suite, self.root, bytes(32))
        self.rows = [numbers.neighbours(self.n, self.k, ring, index) for index in range(self.n)]
        self.dealt = lru_cache(maxsize=None)(self.deal)
        self.present = [index for index, name in enumerate(self.names) if name not in self.lost["shares"]]

    def own(self, index: int, kind: str, r: int = 0) -> bytes:
        found = self.secrets[self.names[index]][kind]
        return un(found[r - 1] if r else found)

    def dressed(self, number: int, body: bytes, epoch: bytes, seed: str | bytes) -> bytes:
        """A message as the mode has it; nothing but M0, M1, M6 and M7 is ever signed."""
        if self.mode == "semi-honest" or (self.mode == "semi-malicious" and number > 1):
            return body
        text = frame(SIGNED[number], self.suite, epoch, hashlib.sha256(body).digest())
        return message(11, body, b"", w.sign(un(seed) if isinstance(seed, str) else seed, text))

    def advertise(self, name: str) -> bytes:
        own, label = self.secrets[name], "self-mask seed commitment"
        keys = b"".join(w.public_of(un(key)) for key in own["mask_keys"])
        seeds = [
            sha(label, self.suite, self.epoch, un(name), num(r + 1), un(b)) for r, b in enumerate(own["self_seeds"])
        ]
        body = message(1, self.epoch, un(name), w.public_of(un(own["channel"])), keys, b"".join(seeds))
        return self.dressed(1, body, self.epoch, own["signature_seed"])

    def roster(self, index: int) -> bytes:
        paths = {one: w.path(self.leaves, one) if self.k < self.n - 1 else [] for one in self.rows[index]}
        entries = [[one, self.m1[self.names[one]], paths[one]] for one in self.rows[index]]
        own = w.path(self.leaves, index)
        return message(2, self.epoch, self.n, self.k, self.t, self.root, index, own, entries)

    def deal(self, dealer: int) -> list[bytes]:
        """What a client shares with each of its neighbours: share of e_1, of b_1, of e_2, and so on."""
        info = frame("sharing polynomial coefficients", self.suite, self.epoch, self.root, num(self.n))
        key = w.kdf(self.root, self.own(dealer, "sharing_seed"), info)
        rounds = range(1, self.offer["rounds"] + 1)
        secrets = [self.own(dealer, kind, r) for r in rounds for kind in ("mask_keys", "self_seeds")]
        return numbers.share(secrets, self.k, self.t, self.suite, key)

    def sealed(self, sender: int, receiver: int) -> bytes:
        ends = (num(sender), num(receiver))
        salt = sha("share encryption salt", self.suite, self.epoch, self.root, num(self.n))
        shared = w.dh(self.own(sender, "channel"), w.public_of(self.own(receiver, "channel")))
        key = w.kdf(salt, shared, frame("share encryption key", self.suite, *ends))
        associated = frame("share encryption associated data", self.suite, self.epoch, self.root, *ends)
        return w.seal(self.suite, key, self.dealt(sender)[self.rows[sender].index(receiver)], associated)

    def shares(self, index: int) -> bytes:
        return message(3, self.epoch, self.root, b"".join(self.sealed(index, one) for one in self.rows[index]))

    def delivery(self, index: int) -> bytes:
        sealed = [self.sealed(one, index) for one in self.rows[index] if one in self.present]
        return message(4, self.epoch, w.bitmap(self.present, self.n), b"".join(sealed))

    def masks(self, index: int, r: int, context: bytes, spec: list[Any], peers: list[int]) -> list[int]:
        """Self mask (peers: itself) and pair masks of a client on a vector, signed and added up."""
        shape, total = (spec[0].encode(), num(spec[1]), num(spec[2])), [0] * spec[1]
        for peer in peers:
            info = frame("self mask", self.suite, num(index), *shape)
            secret = self.own(index, "self_seeds", r)
            if peer != index:
                secret = w.dh(self.own(index, "mask_keys", r), w.public_of(self.own(peer, "mask_keys", r)))
                info = frame("pair mask", self.suite, num(min(index, peer)), num(max(index, peer)), *shape)
            mask = numbers.elements(self.suite, w.kdf(context, secret, info), spec[1], spec[2])
            total = [one + (-other if index > peer else other) for one, other in zip(total, mask, strict=True)]
        return total

    def round(self, r: int, told: dict[str, Any]) -> dict[str, Any]:
        """M5 to M10, and the sum as a server opens it."""
        model, plan, lost = un(told["model_digest"]), un(told["plan_digest"]), told["lost"]
        invited = [i for i in self.present if told["participants"] is None or self.names[i] in told["participants"]]
        u, payloads = w.bitmap(invited, self.n), {}
        context = sha("round context", self.suite, self.epoch, num(r), self.root, u, model, plan)
        for i in invited:
            if self.names[i] not in {*self.lost["delivery"], *lost["start"], *lost["input"]}:
                near, payloads[i] = [i, *(one for one in self.rows[i] if one in invited)], b""
                for spec, own in zip(self.specs, told["vectors"][self.names[i]], strict=True):
                    mask = self.masks(i, r, context, spec, near)
                    payloads[i] += numbers.packed([x + one for x, one in zip(own, mask, strict=True)], spec[2])
        alive, m8 = sorted(payloads), {}
        v, asked, m9 = w.bitmap(alive, self.n), alive, b""
        m6 = {i: message(6, self.epoch, r, payload) for i, payload in payloads.items()}
        m6 = {i: self.dressed(6, body, self.epoch, self.own(i, "signature_seed")) for i, body in m6.items()}
        m7 = self.dressed(7, message(7, self.epoch, r, v), self.epoch, self.inputs["server_seed"])
        if self.mode == "malicious":
            asked = [i for i in alive if self.names[i] not in lost["signature"]]
            text = frame("consistency of survivors", self.suite, context, v)
            m8 = {i: message(8, self.epoch, r, w.sign(self.own(i, "signature_seed"), text)) for i in asked}
            m9 = message(9, self.epoch, r, w.bitmap(asked, self.n), b"".join(m8[i][-64:] for i in asked))
        dropped = max(0, self.offer["shares"] - len(alive))
        opens = 0 < self.offer["shares"] - dropped > self.offer["n_min"]
        m10, surplus, given = {}, {}, {i: self.answer(i, r, invited, alive) for i in asked}
        for i in asked:
            surplus[i] = un(told["surplus_seeds"][self.names[i]]) if opens else b""
            for _ in range(dropped if opens else 0):
                surplus[i] = sha("surplus noise seed", None, surplus[i])
            m10[i] = message(10, self.epoch, r, b"".join(given[i].values()), surplus[i])
        heard = {i: given[i] for i in asked if self.names[i] not in lost["unmask"]}
        rows = {"m6": m6, "m8": m8, "m10": m10, "surplus": {i: surplus[i] for i in heard if opens}}
        texts = {key: {self.names[i]: one.hex() for i, one in row.items()} for key, row in rows.items()}
        m5 = message(5, self.epoch, r, u, model, plan, told["deadline"])
        common = {key: one.hex() for key, one in (("context", context), ("m5", m5), ("m7", m7), ("m9", m9))}
        return common | texts | {"sums": self.opened(r, context, payloads, invited, heard), "dropped": dropped}

    def answer(self, i: int, r: int, invited: list[int], alive: list[int]) -> dict[int, bytes]:
        """Per dealer, the share that a client gives out: of b if the dealer is alive, else of e."""
        at = {one: 72 * (r - 1) + (36 if one in alive else 0) for one in self.rows[i] if one in invited}
        return {one: self.dealt(one)[self.rows[one].index(i)][place : place + 36] for one, place in at.items()}

    def opened(self, r: int, context: bytes, payloads: dict, invited: list[int], given: dict) -> list[list[int]]:  # type: ignore[type-arg]
        """Secrets from the first t shares each, and the sums without the masks that they give."""
        for dealer in invited:
            givers = [i for i in self.rows[dealer] if i in given][: self.t]
            points = [self.rows[dealer].index(i) + 1 for i in givers]
            kind = "self_seeds" if dealer in payloads else "mask_keys"
            if numbers.combine(points, [given[i][dealer] for i in givers]) != self.own(dealer, kind, r):
                raise ArithmeticError(f"client {dealer} does not open")
        sums, at = [], 0
        for spec in self.specs:
            size = -(-spec[1] * spec[2] // 8)
            rows = [numbers.unpacked(one[at : at + size], spec[1], spec[2]) for one in payloads.values()]
            for i in payloads:
                gone = [one for one in self.rows[i] if one in invited and one not in payloads]
                rows.append([-one for one in self.masks(i, r, context, spec, [i, *gone])])
            sums.append([sum(column) % (1 << spec[2]) for column in zip(*rows, strict=True)])
            at += size
        return sums

    def outputs(self) -> dict[str, Any]:
        """All of it."""
        kinds = {"m2": self.roster, "m3": self.shares, "m4": self.delivery}
        sent = {"m1": {name: one.hex() for name, one in self.m1.items()}}
        for key, make in kinds.items():
            sent[key] = {self.names[i]: make(i).hex() for i in (range(self.n) if key == "m2" else self.present)}
        rounds = [self.round(at + 1, told) for at, told in enumerate(self.inputs["rounds"])]
        found = {"m0": self.m0.hex(), "epoch_id": self.epoch.hex(), "root": self.root.hex()}
        return found | {"n": self.n, "k": self.k, "t": self.t} | sent | {"rounds": rounds}
