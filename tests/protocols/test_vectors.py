"""The test vectors: reference and library both give every positive one, and every refusal happens by its name."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from cryptography.exceptions import InvalidTag

from privfed_protocols import LowOrderPoint, errors, labels
from privfed_protocols.identities import verify
from privfed_protocols.primitives import Agreement, check_public_key, hkdf_expand, hkdf_extract
from privfed_protocols.suites import suite
from tests.protocols import replay_library, replay_reference
from tests.protocols.replay_refusals import error_of, told
from tests.protocols.vector_files import FOLDER, abridged, expanded, load, scenarios

ROOT = Path(__file__).parents[2]
IMPLEMENTATIONS = {"library": replay_library.FUNCTIONS, "reference": replay_reference.FUNCTIONS}
un = bytes.fromhex


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("scenario", scenarios("positive"))
def test_positive(scenario: str, implementation: str) -> None:
    for case in load(scenario)["cases"]:
        made = IMPLEMENTATIONS[implementation][case["function"]](expanded(case["inputs"]))
        found = abridged(made, case["inputs"])
        assert json.loads(json.dumps(found)) == case["outputs"], case["name"]


@pytest.mark.parametrize("scenario", scenarios("negative"))
def test_negative(scenario: str) -> None:
    for case in load(scenario)["cases"]:
        assert error_of(case) == told(case["error"], case["refusal"]), case["name"]


def test_the_files_are_what_the_generator_writes() -> None:
    script = ROOT / "scripts" / "make_vectors.py"
    done = subprocess.run(
        [sys.executable, str(script), "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_was_changed_is_noticed(tmp_path: Path) -> None:
    check = runpy.run_path(str(ROOT / "scripts" / "make_vectors.py"))
    check["main"].__globals__["all_files"] = lambda: {"a.json": "a", "b.json": "b"}
    check["main"].__globals__["FOLDER"] = tmp_path
    assert check["main"](["--check"]) == 1
    assert check["main"]([]) == 0
    assert check["main"](["--check"]) == 0
    (tmp_path / "a.json").write_text("A")
    assert check["main"](["--check"]) == 1
    (tmp_path / "a.json").write_text("a")
    (tmp_path / "c.json").write_text("c")
    assert check["main"](["--check"]) == 1


def test_every_named_refusal_has_a_vector() -> None:
    named = {
        name: kind.refusal
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, errors.ProtocolError) and getattr(kind, "refusal", 0)
    }
    named["UnknownSuite"] = 2
    found = {(case["error"], case["refusal"]) for name in scenarios("negative") for case in load(name)["cases"]}
    assert found >= set(named.items())
    unnumbered = {error for error, number in found if not number}
    assert unnumbered == {"UnexpectedMessage", "UnknownSender", "DuplicateMessage", "LateMessage", "ExcludedSender"}
    assert {number for _, number in found} == {*range(23)} - {21}


def test_names_of_cases_are_unique() -> None:
    for scenario in (*scenarios("positive"), *scenarios("negative")):
        counted = Counter(case["name"] for case in load(scenario)["cases"])
        assert set(counted.values()) == {1}, scenario


def test_every_label_is_in_the_vectors_or_in_an_epoch() -> None:
    """What the reference spells out is what the library's constants are."""
    text = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "reference").glob("*.py"))
    text += (ROOT / "tests" / "protocols" / "replay_reference.py").read_text(encoding="utf-8")
    for purpose in (*labels.OF_A_SUITE, *(one.removeprefix(b"privfed/sa1/") for one in labels.OF_NO_SUITE)):
        assert purpose.decode() in text or purpose.startswith(b"saved client")


def test_the_reference_is_short_and_shares_no_code() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / "reference").glob("*.py")]
    assert sum(len(source.splitlines()) for source in sources) < 400
    for source in [*sources, (ROOT / "tests" / "protocols" / "replay_reference.py").read_text(encoding="utf-8")]:
        assert "privfed_protocols" not in source
        assert "numpy" not in source


# --- values that others published


@pytest.mark.parametrize(
    ("name", "output", "value"),
    [
        ("RFC 7748, Alice", "shared", "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"),
        ("RFC 7748, Bob", "shared", "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"),
        ("RFC 5869, A.1", "key", "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"),
        ("RFC 5869, A.2", "key", "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"),
        ("RFC 5869, A.3", "key", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
        ("RFC 8032, test 1", "public", "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
        (
            "RFC 8032, test 1",
            "signature",
            "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0"
            "595bbe24655141438e7a100b",
        ),
        ("RFC 8032, test 2", "public", "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"),
    ],
)
def test_the_rfc_file_has_what_the_rfcs_print(name: str, output: str, value: str) -> None:
    (case,) = [case for case in load("rfc")["cases"] if case["name"] == name]
    assert case["outputs"][output] == value


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ("n=1000 0.05/0.05 sigma=40 eta=20 semi-honest of 2 to 1000", (30, 17)),
        ("n=1000 0.05/0.05 sigma=40 eta=20 semi-malicious of 2 to 1000", (52, 37)),
        ("n=10000 0.05/0.05 sigma=40 eta=20 semi-honest of 2 to 10000", (34, 20)),
        ("n=10000 0.05/0.05 sigma=40 eta=20 semi-malicious of 2 to 10000", (62, 44)),
        ("n=10000 0.33/0.33 sigma=40 eta=20 semi-honest of 2 to 10000", (422, 221)),
    ],
)
def test_the_parameters_file_has_the_published_rows(row: str, expected: tuple[int, int]) -> None:
    """Source: graph_parameter_finder tests of google/federated-compute."""
    (case,) = [case for case in load("parameters")["cases"] if case["name"] == row]
    assert (case["outputs"]["k"], case["outputs"]["t"]) == expected


def wycheproof(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((FOLDER / "wycheproof" / f"{name}.json").read_text("utf-8"))["tests"]
    assert len(found) > 20
    return found


def test_wycheproof_x25519() -> None:
    refused = 0
    for test in wycheproof("x25519"):
        public, agreement = un(test["public"]), Agreement(un(test["private"]))
        doubtful = {"LowOrderPublic", "ZeroSharedSecret", "NonCanonicalPublic"} & set(test["flags"])
        if doubtful:
            refused += 1
            with pytest.raises(LowOrderPoint):
                check_public_key(public, owner="somebody")
        else:
            check_public_key(public, owner="somebody")
            assert agreement.shared_secret(public).hex() == test["shared"]
    assert refused > 15


def test_wycheproof_x25519_that_gives_zero_is_refused_without_the_check_of_the_form() -> None:
    zero = [test for test in wycheproof("x25519") if set(test["shared"]) == {"0"}]
    assert zero
    for test in zero:
        with pytest.raises(LowOrderPoint):
            Agreement(un(test["private"])).shared_secret(un(test["public"]))


def test_wycheproof_hkdf() -> None:
    for test in wycheproof("hkdf_sha256"):
        key = hkdf_expand(hkdf_extract(un(test["salt"]), un(test["ikm"])), un(test["info"]))
        assert test["okm"].startswith(key.hex())


@pytest.mark.parametrize(("name", "number"), [("aes_256_gcm", 1), ("chacha20_poly1305", 2)])
def test_wycheproof_sealing(name: str, number: int) -> None:
    results = Counter(test["result"] for test in wycheproof(name))
    assert set(results) == {"valid", "invalid"}
    for test in wycheproof(name):
        sealer, sealed = suite(number).sealer(un(test["key"])), un(test["ct"] + test["tag"])
        nonce, associated, plaintext = un(test["iv"]), un(test["aad"]), un(test["msg"])
        if test["result"] == "valid":
            assert sealer.encrypt(nonce, plaintext, associated) == sealed
            assert sealer.decrypt(nonce, sealed, associated) == plaintext
        else:
            with pytest.raises(InvalidTag):
                sealer.decrypt(nonce, sealed, associated)


def test_wycheproof_ed25519() -> None:
    for test in wycheproof("ed25519"):
        valid = verify(un(test["public"]), un(test["sig"]), un(test["msg"]))
        assert valid == (test["result"] == "valid"), test["tcId"]
