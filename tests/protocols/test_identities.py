"""Who is who: signatures of RFC 8032, pinned keys, certificates, and what none of them lets through."""

from __future__ import annotations

import copy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols import (
    BadNeighbour,
    Certificate,
    Client,
    Credentials,
    Directory,
    LocalProtocolError,
    Signer,
    UnknownFormat,
    identities,
    issue_certificate,
    read_certificate,
)
from privfed_protocols.identities import verify
from tests.protocols.harness import SERVER_KEY, reduced, signer_of

AUTHORITY, STRANGER = signer_of(b"authority"), signer_of(b"another authority")
ANN = signer_of(b"ann")
GOOD = issue_certificate(AUTHORITY, identity=b"ann", key=ANN.public_key, expiry=1000)
CERTIFIED = Directory(authorities=frozenset({AUTHORITY.public_key}))
PINNED = Directory({b"ann": ANN.public_key})

# RFC 8032, section 7.1, tests 1 and 2: seed, public key, message, signature
RFC_8032 = [
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24"
        "655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aee"
        "b00d291612bb0c00",
    ),
]


@pytest.mark.parametrize(("seed", "public", "message", "signature"), RFC_8032)
def test_signatures_are_those_of_rfc_8032(seed: str, public: str, message: str, signature: str) -> None:
    signer = Signer.from_seed(bytes.fromhex(seed))
    assert signer.public_key.hex() == public
    assert signer.sign(bytes.fromhex(message)).hex() == signature
    assert verify(signer.public_key, bytes.fromhex(signature), bytes.fromhex(message))


@given(st.integers(0, 8 * 64 - 1))
def test_no_bit_of_a_signature_may_change(bit: int) -> None:
    signature = bytearray(ANN.sign(b"text"))
    assert verify(ANN.public_key, bytes(signature), b"text")
    signature[bit // 8] ^= 1 << bit % 8
    assert not verify(ANN.public_key, bytes(signature), b"text")
    assert not verify(ANN.public_key, ANN.sign(b"text"), b"other")
    assert not verify(STRANGER.public_key, ANN.sign(b"text"), b"text")
    assert not verify(b"short", ANN.sign(b"text"), b"text")


def test_signers_are_not_copied_and_show_no_secret() -> None:
    for attempt in (copy.copy, copy.deepcopy, reduced):
        with pytest.raises(TypeError, match="not copied or pickled"):
            attempt(ANN)
    assert repr(ANN) == f"<Signer {ANN.public_key.hex()}>"
    assert "Ed25519PrivateKey" not in repr(Credentials(ANN, PINNED, SERVER_KEY))
    assert Signer.generate().public_key != Signer.generate().public_key


def test_a_pinned_key_is_found_without_a_certificate_only() -> None:
    assert PINNED.key_of(b"ann", b"", until=0) == ANN.public_key
    with pytest.raises(BadNeighbour, match="beside"):
        PINNED.key_of(b"ann", GOOD, until=0)
    for certificate in (b"", GOOD):
        with pytest.raises(BadNeighbour, match="no key"):
            PINNED.key_of(b"bob", certificate, until=10)


def test_a_certificate_that_outlives_the_epoch_is_believed() -> None:
    assert CERTIFIED.key_of(b"ann", GOOD, until=1000) == ANN.public_key
    assert len(GOOD) < 250
    assert read_certificate(GOOD).identity == b"ann"
    longest = issue_certificate(AUTHORITY, identity=b"i" * 128, key=ANN.public_key, expiry=2**62)
    assert len(longest) <= 512


@pytest.mark.parametrize(
    ("certificate", "until", "word"),
    [
        (GOOD, 1001, "expires"),
        (GOOD, 0, "expires"),
        (b"", 10, "no key"),
        (issue_certificate(AUTHORITY, identity=b"bob", key=ANN.public_key, expiry=1000), 10, "another identity"),
        (issue_certificate(STRANGER, identity=b"ann", key=ANN.public_key, expiry=1000), 10, "not believed"),
    ],
)
def test_certificates_that_do_not_vouch(certificate: bytes, until: int, word: str) -> None:
    with pytest.raises(BadNeighbour, match=word) as caught:
        CERTIFIED.key_of(b"ann", certificate, until=until)
    assert caught.value.refusal == 9


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("identity", b"bob"),
        ("key", STRANGER.public_key),
        ("expiry", 999),
        ("expiry", 2000),
        ("authority", STRANGER.public_key),
        ("signature", bytes(64)),
        ("signature", STRANGER.sign(b"")),
    ],
)
def test_every_field_of_a_certificate_is_signed(field: str, value: object) -> None:
    forged = msgspec.msgpack.encode(msgspec.structs.replace(read_certificate(GOOD), **{field: value}))
    believed = Directory(authorities=frozenset({AUTHORITY.public_key, STRANGER.public_key}))
    identity = value if field == "identity" else b"ann"
    assert isinstance(identity, bytes)
    with pytest.raises(BadNeighbour, match="not signed by its authority"):
        believed.key_of(identity, forged, until=500)


@pytest.mark.parametrize(
    "data", [b"", GOOD[:-1], GOOD + b"\0", bytes(513), b"\xc1", msgspec.msgpack.encode(["privfed-certificate-2"])]
)
def test_certificates_of_another_form_are_refused(data: bytes) -> None:
    with pytest.raises(UnknownFormat):
        read_certificate(data)


def test_an_authority_signs_nothing_but_certificates() -> None:
    """What it signs begins with a label of its own, so that it is never taken for a message."""
    read = read_certificate(GOOD)
    assert isinstance(read, Certificate)
    for text in (b"ann", read.key, GOOD):
        assert not verify(AUTHORITY.public_key, read.signature, text)


def test_arguments_out_of_range() -> None:
    for arguments in (
        {"identity": b"", "key": ANN.public_key, "expiry": 1},
        {"identity": b"x" * 129, "key": ANN.public_key, "expiry": 1},
        {"identity": b"x", "key": b"short", "expiry": 1},
        {"identity": b"x", "key": ANN.public_key, "expiry": 0},
        {"identity": b"x", "key": ANN.public_key, "expiry": -1},
        {"identity": b"x", "key": ANN.public_key, "expiry": 2**70},
    ):
        with pytest.raises(LocalProtocolError):
            issue_certificate(AUTHORITY, **arguments)  # type: ignore[arg-type]
    with pytest.raises(LocalProtocolError, match="expected 32"):
        Signer.from_seed(bytes(31))
    with pytest.raises(LocalProtocolError, match="expected 32"):
        Signer(ANN.sign, public_key=bytes(31))
    with pytest.raises(LocalProtocolError, match="expected 32"):
        Credentials(ANN, PINNED, b"")
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Directory({b"ann": b"short"})
    with pytest.raises(LocalProtocolError, match="one key"):
        Directory({b"ann": ANN.public_key, b"bob": ANN.public_key})
    with pytest.raises(LocalProtocolError, match="not the one pinned"):
        Client(b"ann", credentials=Credentials(STRANGER, PINNED, SERVER_KEY))


def doubled(y: int) -> int | None:
    """y of twice a point of edwards25519 (RFC 8032, section 5.1), in affine integers; None if no point has this y."""
    p = 2**255 - 19
    d = -121665 * pow(121666, -1, p) % p
    square = (y * y - 1) * pow(d * y * y + 1, -1, p) % p  # x^2
    if square and pow(square, (p - 1) // 2, p) != 1:
        return None
    return (y * y + square) * pow(1 - d * square * y * y, -1, p) % p


def test_keys_of_low_order_are_refused_in_every_encoding() -> None:
    """Whoever holds one can sign anything for it. Three doublings take each to the neutral element."""
    p = 2**255 - 19
    assert len(identities._LOW_ORDER) == 5
    for y in identities._LOW_ORDER:
        point: int | None = y
        for _ in range(3):
            assert point is not None
            point = doubled(point)
        assert point == 1
        encodings = [value for value in (y, y + p) if value < 2**255]
        for key in [(value | sign << 255).to_bytes(32, "little") for value in encodings for sign in (0, 1)]:
            with pytest.raises(LocalProtocolError, match="low order"):
                Directory({b"ann": key})
            with pytest.raises(LocalProtocolError, match="low order"):
                Directory(authorities=frozenset({key}))


def test_a_certificate_for_a_key_of_low_order_is_refused() -> None:
    authority = Signer.generate()
    certificate = issue_certificate(authority, identity=b"ann", key=(1).to_bytes(32, "little"), expiry=10)
    with pytest.raises(BadNeighbour, match="low order"):
        Directory(authorities=frozenset({authority.public_key})).key_of(b"ann", certificate, until=5)


def test_an_own_certificate_that_cannot_be_read_is_the_callers_mistake() -> None:
    signer = Signer.generate(certificate=b"garbage")
    with pytest.raises(LocalProtocolError, match="own certificate cannot be read"):
        Client(b"eve", credentials=Credentials(signer, PINNED, SERVER_KEY))
