"""Every derivation of the protocol text, word by word, in plain Python: no code is shared with the implementation.

Only X25519 and the AES block come from a library. If a context falls out of a key here or there, the two part.
"""

from __future__ import annotations

import hashlib
import hmac

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from privfed_protocols import VectorSpec, derivation, issue_certificate
from tests.protocols.harness import MODEL, PLAN, SERVER_KEY, Network, identities, signer_of

P = 2**31 - 1
N = 5
SPECS = (
    VectorSpec("first", 3, 32),
    VectorSpec("zweiter µ", 5, 16),
    VectorSpec("third", 2, 64),
    VectorSpec("b", 3, 8),
    VectorSpec("packed", 11, 13),
)


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


def aes_stream(key: bytes, size: int) -> bytes:
    block = Cipher(algorithms.AES256(key), modes.ECB()).encryptor()  # noqa: S305 -- counter mode by hand
    return b"".join(block.update(number.to_bytes(16, "big")) for number in range(size // 16 + 1))[:size]


def chacha_stream(key: bytes, size: int) -> bytes:
    """The keystream of RFC 8439, section 2.4, from block 0 with a zero nonce, one block at a time."""
    blocks = b""
    for number in range(size // 64 + 1):
        start = number.to_bytes(4, "little") + bytes(12)
        blocks += Cipher(algorithms.ChaCha20(key, start), None).encryptor().update(bytes(64))
    return blocks[:size]


class Words:
    """What a suite's number changes: every label, the streams and the cipher of shares."""

    def __init__(self, suite: int) -> None:
        self.prefix = b"privfed/sa1/suite%d/" % suite
        self.stream = {1: aes_stream, 2: chacha_stream}[suite]
        self.cipher = {1: AESGCM, 2: ChaCha20Poly1305}[suite]

    def frame(self, label: str, *parts: bytes) -> bytes:
        name = self.prefix + label.encode()
        return bytes([len(name)]) + name + b"".join(len(part).to_bytes(8, "little") + part for part in parts)

    def sha(self, label: str, *parts: bytes) -> bytes:
        return hashlib.sha256(self.frame(label, *parts)).digest()


def tree(leaves: list[bytes]) -> bytes:
    if len(leaves) == 1:
        return hashlib.sha256(b"\0" + leaves[0]).digest()
    half = 1
    while 2 * half < len(leaves):
        half *= 2
    return hashlib.sha256(b"\1" + tree(leaves[:half]) + tree(leaves[half:])).digest()


class Transcript(Words):
    """All messages of a set-up and one round of five clients, client 3 lost in it, and the secrets behind them."""

    def __init__(self, suite: int) -> None:
        super().__init__(suite)
        self.net = net = Network.make(N, vectors=SPECS, rounds=2, dropout=0.2, suite=suite)
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
        self.epoch = self.sha("epoch id", self.offer)
        self.root = tree([self.m1[name] for name in self.names])
        self.context = self.sha("round context", self.epoch, num(1), self.root, b"\x1f", MODEL, PLAN)

    def fields(self, message: bytes) -> list[bytes]:
        return list(msgspec.msgpack.decode(message))


@pytest.fixture(scope="module", params=[1, 2])
def transcript(request: pytest.FixtureRequest) -> Transcript:
    return Transcript(request.param)


def test_advertise(transcript: Transcript) -> None:
    for index, name in enumerate(transcript.names):
        secret = transcript.secrets[index]
        commitments = [
            transcript.sha("self-mask seed commitment", transcript.epoch, name, num(r), secret["b"][r - 1])
            for r in (1, 2)
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
        transcript.frame("sharing polynomial coefficients", transcript.epoch, transcript.root, num(N)),
    )
    words = transcript.stream(key, 4 * 36 * (threshold - 1))
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
            salt = transcript.sha("share encryption salt", transcript.epoch, transcript.root, num(N))
            key = kdf(salt, secret, transcript.frame("share encryption key", *ends))
            associated = transcript.frame("share encryption associated data", transcript.epoch, transcript.root, *ends)
            sealed.append(
                transcript.cipher(key).encrypt(bytes(12), plaintext(transcript, sender, receiver), associated)
            )
        expected = [3, "sa1", transcript.epoch, transcript.root, b"".join(sealed)]
        assert transcript.fields(transcript.m3[name]) == expected


def native_bytes(spec: VectorSpec) -> int:
    """Bytes of an element in memory: masks are of this width whatever the bits."""
    return next(size for size in (1, 2, 4, 8) if spec.bits <= 8 * size)


def masks(transcript: Transcript, index: int, spec: VectorSpec) -> list[tuple[int, bytes]]:
    """Sign and stream of every mask of a client on one vector."""
    shape = (spec.name.encode(), num(spec.length), num(spec.bits))
    size = spec.length * native_bytes(spec)
    secret = transcript.secrets[index]
    own = kdf(transcript.context, secret["b"][0], transcript.frame("self mask", num(index), *shape))
    found = [(1, transcript.stream(own, size))]
    for peer in range(N):
        if peer != index:
            shared = dh(secret["e"][0], public(transcript.secrets[peer]["e"][0]))
            ends = (num(min(index, peer)), num(max(index, peer)))
            key = kdf(transcript.context, shared, transcript.frame("pair mask", *ends, *shape))
            found.append((1 if index < peer else -1, transcript.stream(key, size)))
    return found


def test_masked_vectors(transcript: Transcript) -> None:
    for index, name in enumerate(transcript.names):
        payload = b""
        for spec in SPECS:
            width, packed = native_bytes(spec), 0
            for place, value in enumerate(transcript.vectors[name][spec.name].tolist()):
                for sign, words in masks(transcript, index, spec):
                    value += sign * int.from_bytes(words[width * place : width * (place + 1)], "little")
                packed |= (value % (1 << spec.bits)) << (spec.bits * place)
            payload += packed.to_bytes(-(-spec.bits * spec.length // 8), "little")
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


def verified(key: bytes, signature: bytes, text: bytes) -> None:
    """Raises where the library does not take the signature."""
    Ed25519PublicKey.from_public_bytes(key).verify(signature, text)


@pytest.mark.parametrize("suite", [1, 2])
def test_what_is_signed(suite: int) -> None:
    """Envelopes and statements of a malicious-mode round, and the seed of the ring, word by word."""
    words, names = Words(suite), identities(N)
    net = Network.make(N, mode="malicious", dropout=0.2, suite=suite)
    epoch = words.sha("epoch id", net.server.offer)
    m1 = {name: net.tell(name, net.server.offer) or b"" for name in names}
    for name in names:
        net.send(name, m1[name])
    for name, m2 in net.server.close_advertise().items():
        net.send(name, net.tell(name, m2))
    for name, m4 in net.server.close_shares().items():
        net.tell(name, m4)
    vectors, m6 = net.vectors(), {}
    for name, m5 in net.server.start_round(model_digest=MODEL, plan_digest=PLAN).items():
        net.tell(name, m5)
        m6[name] = net.submit(name, vectors[name])
        net.send(name, m6[name])
    mail = net.server.close_inputs()
    root = tree([m1[name] for name in names])
    context = words.sha("round context", epoch, num(1), root, b"\x1f", MODEL, PLAN)
    sent = [
        ("signed offer", b"", SERVER_KEY, net.server.offer),
        ("signed survivors", epoch, SERVER_KEY, mail[names[0]]),
    ]
    for name in names:
        key = signer_of(name).public_key
        sent += [("signed advertise", epoch, key, m1[name]), ("signed masked vectors", epoch, key, m6[name])]
    for label, bound, key, message in sent:
        number, version, body, certificate, signature = msgspec.msgpack.decode(message)
        assert (number, version, certificate) == (11, "sa1", b"")
        verified(key, signature, words.frame(label, bound, hashlib.sha256(body).digest()))
    replies = {name: net.tell(name, m7) or b"" for name, m7 in mail.items()}
    for name in names:
        number, version, told, round_number, signature = msgspec.msgpack.decode(replies[name])
        assert (number, version, told, round_number) == (8, "sa1", epoch, 1)
        verified(signer_of(name).public_key, signature, words.frame("consistency of survivors", context, b"\x1f"))
        net.send(name, replies[name])
    quorum = msgspec.msgpack.decode(net.server.close_signatures()[names[0]])
    assert quorum == [9, "sa1", epoch, 1, b"\x1f", b"".join(replies[name][-64:] for name in names)]
    assert derivation.graph_seed(root, suite=suite) == words.sha("graph seed", root, bytes(32))


def test_certificates_word_by_word() -> None:
    authority, key = signer_of(b"authority"), signer_of(b"ann").public_key
    version, identity, certified, expiry, by, signature = msgspec.msgpack.decode(
        issue_certificate(authority, identity=b"ann", key=key, expiry=7)
    )
    assert (version, identity, certified, expiry, by) == (
        "privfed-certificate-1", b"ann", key, 7, authority.public_key,
    )  # fmt: skip
    words = Words(1)
    words.prefix = b"privfed/sa1/"
    text = words.frame("certificate of an identity", b"ann", key, num(7), authority.public_key)
    verified(authority.public_key, signature, text)
