"""Every derivation of the protocol text, word by word, in plain Python: no code is shared with the implementation.

Only X25519 and the AES block come from a library. If a context falls out of a key here or there, the two part.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from privfed_protocols import VectorSpec
from tests.protocols.harness import MODEL, PLAN, Network, identities

P = 2**31 - 1
PREFIX = b"privfed/sa1/suite1/"
N = 5
SPECS = (VectorSpec("first", 3, 32), VectorSpec("zweiter µ", 5, 16), VectorSpec("third", 2, 64), VectorSpec("b", 3, 8))


def frame(label: str, *parts: bytes) -> bytes:
    name = PREFIX + label.encode()
    return bytes([len(name)]) + name + b"".join(len(part).to_bytes(8, "little") + part for part in parts)


def sha(label: str, *parts: bytes) -> bytes:
    return hashlib.sha256(frame(label, *parts)).digest()


def num(value: int) -> bytes:
    return value.to_bytes(8, "little")


def mac(key: bytes, text: bytes) -> bytes:
    return hmac.new(key, text, hashlib.sha256).digest()


def kdf(salt: bytes, secret: bytes, info: bytes) -> bytes:
    return mac(mac(salt, secret), info + b"\x01")


def dh(private: bytes, public: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(public))


def public(private: bytes) -> bytes:
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def stream(key: bytes, size: int) -> bytes:
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 -- counter mode by hand
    return b"".join(block.update(number.to_bytes(16, "big")) for number in range(size // 16 + 1))[:size]


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


class Transcript:
    """All messages of a set-up and one round of five clients, client 3 lost in it, and the secrets behind them."""

    def __init__(self) -> None:
        self.net = net = Network.make(N, vectors=SPECS, rounds=2, dropout=0.2)
        self.names = identities(N)
        self.offer = net.server.offer
        self.m1 = {name: net.tell(name, self.offer) or b"" for name in self.names}
        vaults = {name: net.clients[name]._vault for name in self.names}
        self.secrets = {
            index: {
                "c": bytes(vaults[name].channel),  # type: ignore[union-attr]
                "seed": bytes(vaults[name].sharing_seed),  # type: ignore[union-attr]
                "e": [bytes(vaults[name].key(r)) for r in (1, 2)],  # type: ignore[union-attr]
                "b": [bytes(vaults[name].seed(r)) for r in (1, 2)],  # type: ignore[union-attr]
            }
            for index, name in enumerate(self.names)
        }
        for name in self.names:
            net.send(name, self.m1[name])
        self.m3 = {name: net.tell(name, m2) or b"" for name, m2 in net.server.close_advertise().items()}
        for name in self.names:
            net.send(name, self.m3[name])
        for name, m4 in net.server.close_shares().items():
            net.tell(name, m4)
        self.vectors = net.vectors(3)
        self.m6 = {}
        for name, m5 in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
            net.tell(name, m5)
            self.m6[name] = net.submit(name, self.vectors[name])
            if name != self.names[3]:
                net.send(name, self.m6[name])
        self.m10 = {name: net.tell(name, m7) or b"" for name, m7 in net.server.close_inputs().items()}
        self.epoch = sha("epoch id", self.offer)
        self.root = tree([self.m1[name] for name in self.names])
        self.context = sha("round context", self.epoch, num(1), self.root, b"\x1f", MODEL, PLAN)

    def fields(self, message: bytes) -> list[bytes]:
        return list(msgspec.msgpack.decode(message))


@pytest.fixture(scope="module")
def transcript() -> Transcript:
    return Transcript()


def test_advertise(transcript: Transcript) -> None:
    for index, name in enumerate(transcript.names):
        secret = transcript.secrets[index]
        commitments = [
            sha("self-mask seed commitment", transcript.epoch, name, num(r), secret["b"][r - 1]) for r in (1, 2)
        ]
        assert transcript.fields(transcript.m1[name]) == [
            1,
            "sa1",
            transcript.epoch,
            name,
            public(secret["c"]),
            b"".join(public(e) for e in secret["e"]),
            b"".join(commitments),
        ]


def plaintext(transcript: Transcript, sender: int, receiver: int) -> bytes:
    """What a ciphertext of M3 holds: for each round nine limbs of e, then of b, at the receiver's place."""
    secret = transcript.secrets[sender]
    threshold = 3
    place = [one for one in range(N) if one != sender].index(receiver) + 1
    key = kdf(
        transcript.root,
        secret["seed"],
        frame("sharing polynomial coefficients", transcript.epoch, transcript.root),
    )
    words = stream(key, 4 * 36 * (threshold - 1))
    drawn = [int.from_bytes(words[4 * at : 4 * at + 4], "little") & P for at in range(36 * (threshold - 1))]
    assert P not in drawn  # chance 2^-24; the rejection itself is tested beside the field
    values = [secret[kind][r] for r in (0, 1) for kind in ("e", "b")]
    shares = b""
    for place_of_secret, value in enumerate(values):
        own = drawn[9 * (threshold - 1) * place_of_secret :][: 9 * (threshold - 1)]
        for limb in range(9):
            total = 0
            for coefficient in own[limb::9]:  # from the highest power down
                total = (total * place + coefficient) % P
            digit = (int.from_bytes(value, "little") >> (30 * limb)) % 2**30
            shares += ((total * place + digit) % P).to_bytes(4, "little")
    return shares


def test_shares(transcript: Transcript) -> None:
    for sender, name in enumerate(transcript.names):
        neighbours = [one for one in range(N) if one != sender]
        sealed = []
        for receiver in neighbours:
            secret = dh(transcript.secrets[sender]["c"], public(transcript.secrets[receiver]["c"]))
            ends = (num(sender), num(receiver))
            salt = sha("share encryption salt", transcript.epoch, transcript.root)
            key = kdf(salt, secret, frame("share encryption key", *ends))
            associated = frame("share encryption associated data", transcript.epoch, transcript.root, *ends)
            sealed.append(AESGCM(key).encrypt(bytes(12), plaintext(transcript, sender, receiver), associated))
        expected = [3, "sa1", transcript.epoch, transcript.root, b"".join(sealed)]
        assert transcript.fields(transcript.m3[name]) == expected


def masks(transcript: Transcript, index: int, spec: VectorSpec) -> list[tuple[int, bytes]]:
    """Sign and stream of every mask of a client on one vector."""
    shape = (spec.name.encode(), num(spec.length), num(spec.bits))
    size = spec.length * spec.bits // 8
    secret = transcript.secrets[index]
    own = kdf(transcript.context, secret["b"][0], frame("self mask", num(index), *shape))
    found = [(1, stream(own, size))]
    for peer in range(N):
        if peer != index:
            shared = dh(secret["e"][0], public(transcript.secrets[peer]["e"][0]))
            ends = (num(min(index, peer)), num(max(index, peer)))
            key = kdf(transcript.context, shared, frame("pair mask", *ends, *shape))
            found.append((1 if index < peer else -1, stream(key, size)))
    return found


def test_masked_vectors(transcript: Transcript) -> None:
    for index, name in enumerate(transcript.names):
        payload = b""
        for spec in SPECS:
            width = spec.bits // 8
            for place, value in enumerate(transcript.vectors[name][spec.name].tolist()):
                for sign, words in masks(transcript, index, spec):
                    value += sign * int.from_bytes(words[width * place : width * (place + 1)], "little")
                payload += (value % (1 << spec.bits)).to_bytes(width, "little")
        assert transcript.fields(transcript.m6[name]) == [6, "sa1", transcript.epoch, 1, payload]


def test_answers(transcript: Transcript) -> None:
    """The share of b for survivors, of e for client 3, out of the same plaintexts."""
    for index, name in enumerate(transcript.names):
        if index != 3:
            shares = b""
            for dealer in range(N):
                if dealer != index:
                    given = plaintext(transcript, dealer, index)
                    shares += given[:36] if dealer == 3 else given[36:72]
            assert transcript.fields(transcript.m10[name]) == [10, "sa1", transcript.epoch, 1, shares, b""]


def test_all_keys_and_streams_of_a_round_are_distinct(transcript: Transcript) -> None:
    streams = [words for index in range(N) for _, words in masks(transcript, index, SPECS[2])]
    pairs = N * (N - 1) // 2
    assert len(set(streams)) == N + pairs
    for spec in SPECS[1:]:
        beginnings = {words[:3] for index in range(N) for _, words in masks(transcript, index, spec)}
        assert not beginnings & {words[:3] for words in streams} or spec is SPECS[2]
