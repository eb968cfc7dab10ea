"""What a shell can ask of ledgers beside a page: anchors, keys, another accountant, differences, migration."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from privfed.cli import main
from privfed_accounting import Ledger, verify
from tests.cli.test_transcripts import edit
from tests.report.ledgers import BUDGET, clock, fill, make

DATA = Path(__file__).resolve().parents[1] / "accounting" / "data"
DEPLOYMENT = {
    "name": "Ward statistics",
    "data_curators": ["A hospital"],
    "intended_use": "Planning",
    "data_product_type": "Machine learning model",
    "data_product_region": "Europe",
    "description": "A mixture of wards.",
    "publication_date": "2026-01-31",
    "registry_authors": ["An author"],
}
Shell = pytest.CaptureFixture[str]


@pytest.fixture
def grown(tmp_path: Path) -> tuple[Path, Path]:
    """A copy of a ledger after half of its rounds, and the ledger."""
    path = tmp_path / "ledger.db"
    with Ledger.open(path, budget=BUDGET, clock=clock()) as ledger:
        fill(ledger, 2, share_sigma=2.0**34)
    shutil.copy(path, tmp_path / "before.db")
    with Ledger.open(path, budget=BUDGET, clock=clock()) as ledger:
        fill(ledger, 3, share_sigma=2.0**34)
    return tmp_path / "before.db", path


def test_an_anchor_is_found_or_missed(grown: tuple[Path, Path], capsys: Shell) -> None:
    before, after = map(str, grown)
    head = verify(before).head
    assert main(["verify", after, "--anchor", head]) == 0
    assert f"anchor   {head}" in capsys.readouterr().out
    assert main(["verify", before]) == 0
    printed = next(line.split()[1] for line in capsys.readouterr().out.splitlines() if line.startswith("head "))
    assert main(["verify", after, "--anchor", printed]) == 0
    assert main(["verify", after, "--anchor", "a slip of the pen"]) == 2
    assert "is no head" in capsys.readouterr().err
    assert main(["verify", before, "--anchor", verify(after).head]) == 1
    assert "removed or rewritten" in capsys.readouterr().out


def test_a_key_must_have_signed(tmp_path: Path, capsys: Shell) -> None:
    signer, stranger = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    path = tmp_path / "signed.db"
    with Ledger.open(path, budget=BUDGET, clock=clock(), signer=signer) as ledger:
        fill(ledger, 2)
    names = []
    for name, key in (("ours", signer), ("theirs", stranger)):
        pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{name}.pem").write_bytes(pem)
        names.append(str(tmp_path / f"{name}.pem"))
    assert main(["verify", str(path), "--key", names[0]]) == 0
    assert "by the coordinator, ours.pem" in capsys.readouterr().out
    assert main(["verify", str(path), "--key", names[1]]) == 1
    assert "problem" in capsys.readouterr().out
    raw = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    assert main(["verify", str(path), "--key", raw]) == 0
    assert main(["verify", str(path), "--key", "nonsense"]) == 2
    assert main(["report", str(path), "-o", str(tmp_path / "r.html"), "--json", str(tmp_path / "r.json")]) == 0
    capsys.readouterr()
    assert main(["verify", str(tmp_path / "r.json"), "--key", raw]) == 2
    assert "carries no signatures" in capsys.readouterr().err


def test_another_accountant_is_asked(tmp_path: Path, capsys: Shell) -> None:
    pytest.importorskip("dp_accounting")
    make(tmp_path / "ledger.db", 2).close()
    assert main(["verify", str(tmp_path / "ledger.db"), "--with", "dp-accounting"]) == 0
    assert "dp-accounting, view server" in capsys.readouterr().out


def test_a_report_verifies_without_its_ledger_until_it_is_edited(tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 3).close()
    report = tmp_path / "report.json"
    assert main(["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "r.html"), "--json", str(report)]) == 0
    assert main(["verify", str(report)]) == 0
    data = json.loads(report.read_text(encoding="utf-8"))
    data["spending"]["guaranteed"]["epsilon"] = 1.0
    report.write_text(json.dumps(data), encoding="utf-8")
    capsys.readouterr()
    assert main(["verify", str(report)]) == 1
    assert "report   " in capsys.readouterr().out


def test_diff_tells_what_was_added(grown: tuple[Path, Path], capsys: Shell) -> None:
    before, after = map(str, grown)
    assert main(["diff", before, after]) == 0
    text = capsys.readouterr().out
    assert "added    3 rounds" in text
    assert "goes on from the first" in text
    assert main(["diff", after, before]) == 1
    assert "NOT go on" in capsys.readouterr().out
    assert main(["diff", before, before, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True


def test_a_broken_chain_is_no_ledger_to_report_on(tmp_path: Path, capsys: Shell) -> None:
    path = tmp_path / "ledger.db"
    make(path, 3).close()
    edit(path)
    assert main(["verify", str(path)]) == 1
    assert main(["report", str(path), "-o", str(tmp_path / "r.html")]) == 1
    assert "edited" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()
    assert main(["diff", str(path), str(path)]) == 1


def test_diff_of_strangers_goes_nowhere(tmp_path: Path, capsys: Shell) -> None:
    for name in ("a.db", "b.db"):
        make(tmp_path / name, 2).close()
    assert main(["diff", str(tmp_path / "a.db"), str(tmp_path / "b.db")]) == 1
    assert main(["diff", str(tmp_path / "a.db"), str(tmp_path / "missing.db")]) == 2


def test_a_ledger_of_the_first_version_is_migrated_and_verifies(tmp_path: Path, capsys: Shell) -> None:
    path = tmp_path / "old.db"
    shutil.copy(DATA / "version-1.ledger", path)
    assert main(["migrate", str(path), "--backup", str(tmp_path / "kept.db")]) == 0
    assert "as it was in" in capsys.readouterr().out
    assert main(["verify", str(path), "--anchor", verify(tmp_path / "kept.db").head]) == 0
    capsys.readouterr()
    assert main(["verify", str(path)]) == 0
    assert main(["migrate", str(path)]) == 0
    assert "already" in capsys.readouterr().out
    assert main(["migrate", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"ledger": str(path), "found": 2, "made": 2, "backup": None}


def test_a_registry_entry_is_written_from_ledger_and_deployment(tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 3).close()
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(DEPLOYMENT), encoding="utf-8")
    words = ["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "r.html")]
    words += ["--registry", str(tmp_path / "entry.yaml"), "--deployment", str(tmp_path / "deployment.yaml")]
    assert main(words) == 0
    entry = yaml.safe_load((tmp_path / "entry.yaml").read_text(encoding="utf-8"))
    assert entry["deployment"]["basic"]["name"] == "Ward statistics"
    assert entry["deployment"]["privacy_loss"]["privacy_parameters"] == {"epsilon": 4.0, "delta": 1e-5}
    assert main([*words[:-1], str(tmp_path / "missing.yaml")]) == 2
    capsys.readouterr()
    assert main(words[:-2]) == 2
    assert "the registry demands" in capsys.readouterr().err


def test_a_form_for_the_deployment_is_written_on_request(tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 1).close()
    words = ["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "r.html")]
    assert main([*words, "--deployment-form", str(tmp_path / "form.yaml")]) == 0
    assert set(DEPLOYMENT) <= set(yaml.safe_load((tmp_path / "form.yaml").read_text(encoding="utf-8")))
    assert "form.yaml" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "\x00"])
def test_a_deployment_that_is_no_yaml_of_fields_is_refused(text: str, tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 1).close()
    (tmp_path / "deployment.yaml").write_text(text, encoding="utf-8")
    words = ["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "r.html"), "--registry", "-"]
    assert main([*words, "--deployment", str(tmp_path / "deployment.yaml")]) == 2
    assert capsys.readouterr().err.startswith("privfed: error: ")
    assert not (tmp_path / "r.html").exists()


def test_an_audit_reaches_the_page(tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 1).close()
    assert main(["audit", "privacy", "--canaries", "200", "--clients", "10", "--dimension", "512", "--json"]) == 0
    (tmp_path / "audit.json").write_text(capsys.readouterr().out, encoding="utf-8")
    words = ["report", str(tmp_path / "ledger.db"), "-o", str(tmp_path / "r.html")]
    assert main([*words, "--audit", str(tmp_path / "audit.json")]) == 0
    assert "What an audit found" in (tmp_path / "r.html").read_text(encoding="utf-8")
    (tmp_path / "audit.json").write_text("[]", encoding="utf-8")
    assert main([*words, "--audit", str(tmp_path / "audit.json")]) == 2


def test_no_output_replaces_what_the_report_is_made_from(tmp_path: Path, capsys: Shell) -> None:
    make(tmp_path / "ledger.db", 1).close()
    (tmp_path / "deployment.yaml").write_text(yaml.safe_dump(DEPLOYMENT), encoding="utf-8")
    words = ["report", str(tmp_path / "ledger.db"), "--deployment", str(tmp_path / "deployment.yaml")]
    assert main([*words, "-o", str(tmp_path / "deployment.yaml")]) == 2
    assert yaml.safe_load((tmp_path / "deployment.yaml").read_text(encoding="utf-8")) == DEPLOYMENT
