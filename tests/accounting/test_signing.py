"""Signed heads: who may sign what, what a signature pins, and what a client checks before it signs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from privfed_accounting import (
    CorruptLedger,
    Head,
    HeadSignature,
    Ledger,
    ParameterError,
    check_extension,
    report_data,
    sign_head,
    verify,
)
from privfed_accounting.signing import ROLES, public_key_text
from tests.accounting.forge import body, edit, forge
from tests.accounting.plans import BUDGET, Clock, plan


def private_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


COORDINATOR, CLIENT, STRANGER = (private_key(number) for number in (1, 2, 3))


def signed(path: Path | None = None, rounds: int = 2) -> Ledger:
    ledger = Ledger.open(path, budget=BUDGET, signer=COORDINATOR, clock=Clock())
    for _ in range(rounds):
        ledger.settle(ledger.reserve(plan(mu2=0.01)), participants=50, survivors=41, bytes_up=1)
    return ledger


def test_the_head_is_signed_after_every_settlement(tmp_path: Path) -> None:
    with signed(tmp_path / "l.db") as ledger:
        first, second = ledger.checkpoints()
        assert (first.entry, first.signature.head.seq) == (4, 3)
        assert (second.entry, second.signature.head.seq) == (7, 6)
        assert first.signature.public_key == COORDINATOR.public_key().public_bytes_raw().hex()
    verdict = verify(tmp_path / "l.db", keys={"coordinator": COORDINATOR.public_key()})
    assert verdict.ok, verdict.problems
    assert verdict.warnings == []
    assert verdict.signed_through == 6
    assert [(each.signer, each.genuine) for each in verdict.signatures] == [("coordinator", True)] * 2


def test_a_client_countersigns_what_it_has_checked() -> None:
    with signed() as ledger:
        known = check_extension(None, ledger.texts(), ledger.point)
        given = HeadSignature.from_dict(json.loads(json.dumps(sign_head(known, CLIENT, role="client").as_dict())))
        ledger.countersign(given)
        ledger.settle(ledger.reserve(plan(mu2=0.01)), participants=50, survivors=41, bytes_up=1)
        later = check_extension(known, ledger.texts(after=known.seq), ledger.point)
        ledger.countersign(sign_head(later, CLIENT, role="client"))
        verdict = verify(ledger, keys=[CLIENT.public_key()])
        assert verdict.ok
        assert verdict.signed_through == later.seq
        assert [each.role for each in verdict.signatures if each.signer] == ["client", "client"]
        assert any("signed by" in warning for warning in verdict.warnings), "the coordinator's key was not given"
        assert verify(ledger).signed_through == later.seq
        assert report_data(ledger)["verification"]["signed_through"] == later.seq


def test_a_client_that_is_shown_another_past_signs_nothing(tmp_path: Path) -> None:
    with signed(tmp_path / "l.db") as ledger, signed() as other:
        known = check_extension(None, ledger.texts(), ledger.point)
        texts = ledger.texts()
        ledger.note("more")
        more = ledger.texts(after=known.seq)
        wrong: list[tuple[Head | None, list[str], Head]] = [
            (known, more, other.point),
            (known, [], ledger.point),
            (known, [*more, *more], ledger.point),
            (None, [*texts[:4], *texts[5:], *more], ledger.point),
            (None, [text.replace("run-1", "run-2") for text in [*texts, *more]], ledger.point),
            (None, [*texts, *more], Head(other.identifier, ledger.point.seq, ledger.point.digest)),
            (Head(known.ledger, known.seq, "ab" * 32), more, ledger.point),
            (None, ["nonsense"], ledger.point),
        ]
        for before, shown, head in wrong:
            with pytest.raises(CorruptLedger):
                check_extension(before, shown, head)
        assert check_extension(known, more, ledger.point) == ledger.point


def test_only_genuine_signatures_under_this_ledger_are_recorded() -> None:
    with signed() as ledger, signed() as other:
        head, before = ledger.point, ledger.head
        honest = sign_head(head, CLIENT, role="client")
        refused: list[HeadSignature] = [
            HeadSignature(head, "coordinator", honest.public_key, honest.signature),  # another role
            HeadSignature(head, "client", public_key_text(STRANGER.public_key()), honest.signature),
            HeadSignature(head, "client", honest.public_key, "00" * 64),
            HeadSignature(Head(head.ledger, 1, ledger._book.digests[0]), "client", honest.public_key, honest.signature),
            sign_head(other.point, CLIENT, role="client"),
            sign_head(Head(head.ledger, head.seq, "ab" * 32), CLIENT, role="client"),
            sign_head(Head(head.ledger, head.seq + 1, head.digest), CLIENT, role="client"),
        ]
        for signature in refused:
            with pytest.raises(ParameterError, match=r"not genuine|no entry of this ledger"):
                ledger.countersign(signature)
        assert ledger.head == before
        ledger.countersign(honest)


@given(st.integers(0, 63), st.integers(0, 7))
@settings(max_examples=30, deadline=None)
def test_one_bit_makes_a_signature_worthless(place: int, bit: int) -> None:
    honest = sign_head(Head("ab" * 16, 7, "cd" * 32), COORDINATOR)
    assert honest.valid
    data = bytearray.fromhex(honest.signature)
    data[place] ^= 1 << bit
    assert not HeadSignature(honest.head, honest.role, honest.public_key, bytes(data).hex()).valid


def test_every_part_of_a_head_is_signed() -> None:
    heads = [Head("ab" * 16, 7, "cd" * 32), Head("ac" * 16, 7, "cd" * 32), Head("ab" * 16, 8, "cd" * 32)]
    heads.append(Head("ab" * 16, 7, "ce" * 32))
    assert len({head.message(role) for head in heads for role in ROLES}) == 8


def test_a_chain_written_anew_does_not_carry_its_old_signatures(tmp_path: Path) -> None:
    """A hash chain can be forged as a whole; a signature under it cannot."""
    path = tmp_path / "l.db"
    signed(path).close()
    forge(path, 3, body(survivors=50))
    verdict = verify(path)
    assert any("entry 4 is a signature under" in problem for problem in verdict.problems)
    assert any("the signed entries were rewritten" in problem for problem in verdict.problems)


def test_a_forged_signature_is_told_and_named(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    signed(path).close()
    forge(path, 7, body(signature="00" * 64))
    verdict = verify(path)
    assert verdict.problems == [
        f"entry 7 holds a signature that is not that of {public_key_text(COORDINATOR.public_key())}"
    ]
    assert verdict.signed_through == 3


def test_the_end_cut_off_is_shown_by_a_signature_kept_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "l.db"
    with signed(path) as ledger:
        kept = sign_head(ledger.point, CLIENT, role="client")
        noted = str(ledger.point)
    assert verify(path, anchors=[kept, noted, ledger.head]).ok
    edit(path, "DELETE FROM entries WHERE seq > 5")
    assert verify(path).ok, "nothing in the file says that it was longer"
    for anchor in (kept, noted, ledger.head, ledger.point):
        verdict = verify(path, anchors=anchor)
        assert any("removed or rewritten" in problem for problem in verdict.problems)
    assert any("compare the head" in limit for limit in verdict.cannot_show)


def test_anchors_that_are_not_genuine_or_malformed(tmp_path: Path) -> None:
    with signed() as ledger:
        fake = HeadSignature(ledger.point, "client", public_key_text(CLIENT.public_key()), "00" * 64)
        assert any("kept elsewhere, is not genuine" in each for each in verify(ledger, anchors=[fake]).problems)
        with pytest.raises(ParameterError, match="expected ledger:entry:digest"):
            verify(ledger, anchors=["a:b:c"])


def test_keys_that_signed_nothing() -> None:
    with signed() as ledger:
        verdict = verify(ledger, keys=[STRANGER.public_key()])
        assert verdict.problems == ["no entry is signed by any of the keys given: ask for the ledger that they signed"]
        ledger.reserve(plan(mu2=0.01))
        warned = verify(ledger, keys=[COORDINATOR.public_key().public_bytes_raw()]).warnings
        assert any(
            "entries after 6 are signed by none of the keys given, among them 1 rounds" in each for each in warned
        )
        with pytest.raises(ParameterError, match="Ed25519 public key"):
            verify(ledger, keys=["not a key"])


def test_without_a_signer_there_is_no_checkpoint() -> None:
    with Ledger.open(None, budget=BUDGET) as ledger, pytest.raises(ParameterError, match="open it with signer="):
        ledger.checkpoint()


@pytest.mark.parametrize(
    "parts",
    [
        ("ab", 1, "cd" * 32),
        ("ab" * 16, 0, "cd" * 32),
        ("ab" * 16, True, "cd" * 32),
        ("AB" * 16, 1, "cd" * 32),
        (1, 1, 1),
    ],
)
def test_heads_that_make_no_sense(parts: tuple[Any, ...]) -> None:
    with pytest.raises(ParameterError):
        Head(*parts)


def test_signed_heads_that_make_no_sense() -> None:
    fields = sign_head(Head("ab" * 16, 7, "cd" * 32), COORDINATOR).as_dict()
    for change in ({"role": "king"}, {"public_key": "x"}, {"signature": ""}, {"head": {}}, {"head": None}):
        with pytest.raises(ParameterError):
            HeadSignature.from_dict({**fields, **change})
    with pytest.raises(ParameterError):
        HeadSignature.from_dict({})


def test_no_private_key_is_in_any_repr() -> None:
    with signed() as ledger:
        secret = COORDINATOR.private_bytes_raw().hex()
        for each in (ledger, ledger.checkpoints(), ledger.point, verify(ledger), report_data(ledger)):
            assert secret not in repr(each)
