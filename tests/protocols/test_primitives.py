"""Each primitive as the protocol calls it, against published vectors."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from hypothesis import given
from hypothesis import strategies as st

from privfed_protocols import BadShareMessage, LowOrderPoint, labels
from privfed_protocols.masks import keystream
from privfed_protocols.primitives import (
    Agreement,
    check_public_key,
    digest,
    frame,
    hkdf_expand,
    hkdf_extract,
    public_key,
    seal,
    unseal,
)

P = 2**255 - 19


@pytest.mark.parametrize(
    ("scalar", "point", "expected"),
    [  # RFC 7748, section 5.2
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_of_rfc_7748(scalar: str, point: str, expected: str) -> None:
    assert Agreement(bytes.fromhex(scalar)).shared_secret(bytes.fromhex(point)).hex() == expected


def test_x25519_iterated_of_rfc_7748() -> None:
    scalar = point = (9).to_bytes(32, "little")
    for step in range(1000):
        scalar, point = Agreement(scalar).shared_secret(point), scalar
        if step == 0:
            assert scalar.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert scalar.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


def test_x25519_agreement_of_rfc_7748() -> None:
    """Section 6.1."""
    alice = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    bob = bytes.fromhex("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb")
    assert public_key(alice).hex() == "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
    assert public_key(bob).hex() == "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
    shared = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
    assert Agreement(alice).shared_secret(public_key(bob)).hex() == shared
    assert Agreement(bob).shared_secret(public_key(alice)).hex() == shared


def _x25519_is_zero(point: int) -> bool:
    try:
        Agreement(bytes(range(32))).shared_secret((point % 2**255).to_bytes(32, "little"))
    except LowOrderPoint:
        return True
    return False


@pytest.mark.parametrize(
    "point",
    [
        0,
        1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
        P - 1,
    ],
)
def test_low_order_points_are_refused_in_every_encoding(point: int) -> None:
    encodings = [value for value in (point, point + P, point + 2**255, point + 2 * P) if value < 2**256]
    assert len(encodings) >= 2
    for encoding in encodings:
        with pytest.raises(LowOrderPoint):
            check_public_key(encoding.to_bytes(32, "little"), owner="x")
    assert _x25519_is_zero(point)  # it is of low order indeed, by the curve's own arithmetic


def test_no_point_of_higher_order_is_refused() -> None:
    for point in (2, 9, P - 2, P // 2):
        check_public_key(point.to_bytes(32, "little"), owner="x")
        assert not _x25519_is_zero(point)


@pytest.mark.parametrize("value", [P, P + 2, P + 9, 9 + 2**255, 2**256 - 1])
def test_second_encodings_of_one_key_are_refused(value: int) -> None:
    with pytest.raises(LowOrderPoint, match="canonical"):
        check_public_key(value.to_bytes(32, "little"), owner="x")


@pytest.mark.parametrize(
    ("salt", "material", "info", "extracted", "expanded"),
    [  # RFC 5869, appendix A.1 to A.3; the protocol uses the first 32 bytes of the output
        (
            "000102030405060708090a0b0c",
            "0b" * 22,
            "f0f1f2f3f4f5f6f7f8f9",
            "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (
            bytes(range(0x60, 0xB0)).hex(),
            bytes(range(0x50)).hex(),
            bytes(range(0xB0, 0x100)).hex(),
            "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
        ),
        (
            "",
            "0b" * 22,
            "",
            "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d",
        ),
    ],
)
def test_hkdf_of_rfc_5869(salt: str, material: str, info: str, extracted: str, expanded: str) -> None:
    key = hkdf_extract(bytes.fromhex(salt), bytes.fromhex(material))
    assert key.hex() == extracted
    assert hkdf_expand(key, bytes.fromhex(info)).hex() == expanded


@given(st.binary(max_size=80), st.binary(max_size=80), st.binary(max_size=200))
def test_hkdf_agrees_with_the_library(salt: bytes, material: bytes, info: bytes) -> None:
    assert hkdf_expand(hkdf_extract(salt, material), info) == HKDF(hashes.SHA256(), 32, salt, info).derive(material)


def test_aes_gcm_of_the_specification() -> None:
    """McGrew and Viega, "The Galois/Counter Mode of Operation", test cases 13 and 14: all zero, as we call it."""
    assert seal(bytes(32), b"", b"").hex() == "530f8afbc74536b9a963b4f1c4cb738b"
    assert seal(bytes(32), bytes(16), b"").hex() == "cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919"
    assert unseal(bytes(32), seal(bytes(32), bytes(16), b"a"), b"a", sender="client 0") == bytes(16)


@pytest.mark.parametrize("place", [0, 15, 16, 31])
def test_aes_gcm_refuses_every_altered_part(place: int) -> None:
    key = bytes(range(32))
    sealed = bytearray(seal(key, bytes(16), b"transcript"))
    for changed_key, associated in ((key, b"Transcript"), (bytes(32), b"transcript")):
        with pytest.raises(BadShareMessage):
            unseal(changed_key, bytes(sealed), associated, sender="client 3")
    sealed[place] ^= 1
    with pytest.raises(BadShareMessage, match="client 3"):
        unseal(key, bytes(sealed), b"transcript", sender="client 3")


def test_short_ciphertexts_are_refused() -> None:
    for size in range(17):
        with pytest.raises(BadShareMessage):
            unseal(bytes(32), bytes(size), b"", sender="client 0")


def test_mask_stream_is_aes_256_ctr_from_block_zero() -> None:
    """Block 0 is the GCM hash key H of the same test cases, block 1 and 2 their tag pad and first key stream block."""
    stream = keystream(bytes(32)).update(bytes(48)).hex()
    assert stream[:32] == "dc95c078a2408989ad48a21492842087"
    assert stream[64:] == "cea7403d4d606b6e074ec5d3baf39d18"


@given(st.binary(min_size=32, max_size=32))
def test_mask_stream_is_the_cipher_of_its_block_numbers(key: bytes) -> None:
    blocks = b"".join(number.to_bytes(16, "big") for number in range(300))
    one_by_one = Cipher(algorithms.AES256(key), modes.ECB()).encryptor().update(blocks)  # noqa: S305 -- reference
    assert keystream(key).update(bytes(len(blocks))) == one_by_one


parts = st.lists(st.binary(max_size=12), max_size=4)


@given(st.sampled_from(labels.ALL), parts, st.sampled_from(labels.ALL), parts)
def test_framing_is_injective(label: bytes, some: list[bytes], other_label: bytes, other: list[bytes]) -> None:
    same = (label, some) == (other_label, other)
    assert (frame(label, *some) == frame(other_label, *other)) == same
    assert (digest(label, *some) == digest(other_label, *other)) == same


def test_labels_are_distinct_and_carry_version_and_suite() -> None:
    assert len(set(labels.ALL)) == len(labels.ALL)
    named = {value for value in vars(labels).values() if isinstance(value, bytes)}
    assert named == {*labels.OF_A_SUITE, *labels.OF_NO_SUITE}
    for purpose in labels.OF_A_SUITE:
        for suite in (1, 2):
            assert labels.of(purpose, suite) == f"privfed/{labels.VERSION}/suite{suite}/".encode() + purpose
    for label in labels.ALL:
        assert label.startswith(f"privfed/{labels.VERSION}/".encode())
        assert 16 <= len(label) < 256
