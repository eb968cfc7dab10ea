"""Suites against the vectors of their standards and against their own definitions."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from privfed_protocols import suites
from privfed_protocols.errors import UnknownFormat
from privfed_protocols.suites import AES, CHACHA, SUITES, AesGcmStream, Stream, Suite, UnknownSuite, suite

KEY = bytes(range(32))
LENGTH = suites.LONG_STREAM_BYTES


def read(stream: Stream, length: int, *, pieces: tuple[int, ...] = ()) -> bytes:
    """The next `length` bytes, read in the given pieces and the rest."""
    parts = []
    for size in (*pieces, length - sum(pieces)):
        part = bytearray(size)
        assert stream.update_into(bytes(size), part) == size
        parts.append(bytes(part))
    return b"".join(parts)


def aes_reference(length: int) -> bytes:
    """Counter mode written out: the encryptions of 0, 1, 2, ..., sixteen bytes each, big endian."""
    blocks = b"".join(number.to_bytes(16, "big") for number in range(-(-length // 16)))
    return Cipher(algorithms.AES256(KEY), modes.ECB()).encryptor().update(blocks)[:length]  # noqa: S305 -- reference


def test_aes_stream_is_counter_mode_from_zero() -> None:
    assert read(AES.keystream(KEY), 1000) == aes_reference(1000)


def test_chacha_stream_is_rfc_8439_appendix_a1_vector_1() -> None:
    """Key, nonce and counter all zero; RFC 8439, appendix A.1, test vector 1."""
    expected = bytes.fromhex(
        "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
        "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
    )
    assert read(CHACHA.keystream(bytes(32)), 64) == expected


def test_chacha_counter_counts_up_as_in_rfc_8439_appendix_a1_vector_2() -> None:
    """The block with counter 1 of the same key; RFC 8439, appendix A.1, test vector 2."""
    expected = bytes.fromhex(
        "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
        "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
    )
    assert read(CHACHA.keystream(bytes(32), offset=64), 64) == expected


@pytest.mark.parametrize("one", SUITES.values(), ids=lambda one: str(one.id))
@pytest.mark.parametrize("offset", [64, 128, 4096, LENGTH])
def test_streams_can_be_entered_anywhere(one: Suite, offset: int) -> None:
    whole = read(one.keystream(KEY), offset + 500)
    assert read(one.keystream(KEY, offset=offset), 500) == whole[offset:]


@pytest.mark.parametrize("one", SUITES.values(), ids=lambda one: str(one.id))
@pytest.mark.parametrize("offset", [-64, 1, 16, 65])
def test_offsets_inside_a_block_are_refused(one: Suite, offset: int) -> None:
    with pytest.raises(ValueError, match="multiple of 64"):
        one.keystream(KEY, offset=offset)


@pytest.mark.parametrize("one", SUITES.values(), ids=lambda one: str(one.id))
def test_the_announced_length_changes_no_byte(one: Suite) -> None:
    expected = read(one.keystream(KEY), LENGTH)
    assert read(one.keystream(KEY, length=LENGTH), LENGTH, pieces=(64, 1000, 8)) == expected


@pytest.mark.parametrize("gcm", [False, True])
def test_whichever_way_is_faster_the_stream_is_the_same(gcm: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suites, "gcm_is_faster", lambda: gcm)
    assert isinstance(AES.keystream(KEY, length=LENGTH), AesGcmStream) is gcm
    assert read(AES.keystream(KEY, length=LENGTH), LENGTH, pieces=(32,)) == aes_reference(LENGTH)


def test_a_gcm_stream_does_not_start_with_less_than_its_head() -> None:
    with pytest.raises(ValueError, match="at least 32"):
        read(AesGcmStream(KEY), 31)


def test_the_trial_answers() -> None:
    assert suites.gcm_is_faster() in (False, True)


@pytest.mark.parametrize("one", SUITES.values(), ids=lambda one: str(one.id))
def test_sealers_open_what_they_sealed_and_nothing_else(one: Suite) -> None:
    sealed = one.sealer(KEY).encrypt(bytes(12), b"share", b"transcript")
    assert len(sealed) == 5 + 16
    assert one.sealer(KEY).decrypt(bytes(12), sealed, b"transcript") == b"share"
    with pytest.raises(InvalidTag):
        one.sealer(KEY).decrypt(bytes(12), sealed, b"another transcript")


def test_suites_do_not_share_a_stream_or_a_seal() -> None:
    assert read(AES.keystream(KEY), 64) != read(CHACHA.keystream(KEY), 64)
    sealed = AES.sealer(KEY).encrypt(bytes(12), b"share", None)
    with pytest.raises(InvalidTag):
        CHACHA.sealer(KEY).decrypt(bytes(12), sealed, None)


def test_suites_are_found_by_number() -> None:
    assert (suite(1), suite(2)) == (AES, CHACHA)


@pytest.mark.parametrize(("number", "said"), [(0, "unknown"), (3, "ML-KEM-768"), (-1, "unknown"), (99, "unknown")])
def test_other_suites_are_refused(number: int, said: str) -> None:
    with pytest.raises(UnknownSuite, match=said) as caught:
        suite(number)
    assert isinstance(caught.value, UnknownFormat)
    assert caught.value.refusal == 2


def test_streams_fill_their_whole_range() -> None:
    for one in SUITES.values():
        counts = np.bincount(np.frombuffer(read(one.keystream(KEY), 1 << 18), np.uint8), minlength=256)
        assert 170 < float(((counts - 1024.0) ** 2 / 1024.0).sum()) < 360
