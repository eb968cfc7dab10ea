"""Every example runs as a user would run it, and says what its docstring promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
ROOT = EXAMPLES.parent


def run(name: str, *arguments: str, cwd: Path) -> str:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "protocols", "accounting"))
    environment = os.environ | {"PYTHONPATH": path, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:privfed", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=cwd,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_example_is_run() -> None:
    tested = set(re.findall(r'run\(\s*"(\w+\.py)"', Path(__file__).read_text()))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


def test_own_transport(tmp_path) -> None:
    out = run("own_transport.py", "--clients", "5", "--dimension", "100", cwd=tmp_path)
    assert "survivors [0, 2, 3, 4] of 5" in out
    assert "exact" in out


def test_protected_mean_pipeline(tmp_path) -> None:
    out = run("protected_mean_pipeline.py", cwd=tmp_path)
    accuracies = [float(value) for value in re.findall(r"accuracy at hospital \d: ([\d.]+)", out)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.9


def test_federated_mixture(tmp_path) -> None:
    out = run("federated_mixture.py", "--epsilon", "2", "--rows", "3000", cwd=tmp_path)
    pooled, exact, private = (float(value) for value in re.findall(r":\s+(-[\d.]+)", out)[:3])
    assert exact == pytest.approx(pooled, abs=0.05)
    assert private > pooled - 0.5
    assert "epsilon by adversary" in out


def test_dp_vs_utility(tmp_path) -> None:
    figure = tmp_path / "figure.png"
    out = run(
        "dp_vs_utility.py",
        "--epsilons",
        "1",
        "8",
        "--seeds",
        "1",
        "--rows",
        "2000",
        "--out",
        str(figure),
        "--json",
        cwd=tmp_path,
    )
    gaps = json.loads(out)["gaps"]
    assert gaps["8.0"][0] > -0.2
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_simulate_many_clients(tmp_path) -> None:
    """Above 300 clients, so that the ring is what is simulated."""
    out = run(
        "simulate_many_clients.py", "--clients", "310", "--dimension", "50", "--bits", "12", "--json", cwd=tmp_path
    )
    outcome = json.loads(out)
    assert outcome["sum_is_exact"] is True
    assert outcome["survivors"] == 310 - 15
    assert outcome["neighbours"] < 40


def test_exact_dropouts(tmp_path) -> None:
    out = run("exact_dropouts.py", "--clients", "8", "--tolerated", "2", cwd=tmp_path)
    rows = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+) +([\d.]+) +([\d.]+) +(\d+) of (\d+)$", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [0, 1, 2]
    provision, exact = ([float(row[column]) for row in rows] for column in (1, 3))
    assert provision[0] > provision[1] > provision[2] == exact[2]
    assert len(set(exact)) == 1
    for row in rows:
        assert float(row[4]) == pytest.approx(float(row[3]), rel=0.1)
    assert [int(row[5]) for row in rows] == [8, 7, 0]
    late, measured = (float(value) for value in re.findall(r"stated ([\d.]+), measured ([\d.]+), kept 1", out)[0])
    assert late > exact[0]
    assert measured == pytest.approx(late, rel=0.1)


def test_comparison_modes(tmp_path) -> None:
    out = run("comparison_modes.py", "--clinics", "16", cwd=tmp_path)
    noise = {mode: float(value) for mode, value in re.findall(r"^(\w+) +([\d.]+) ", out, re.MULTILINE)}
    assert noise["secure"] == pytest.approx(noise["central"], rel=0.01)
    assert noise["local"] == pytest.approx(4 * noise["secure"], rel=0.01)
    assert noise["none"] == 0.0


def test_audit_foreign_masks(tmp_path) -> None:
    out = run("audit_foreign_masks.py", "--seeds", "100", cwd=tmp_path)
    assert "found: generator, seed_entropy, mask_reuse" in out


def report_and_figure(folder: Path) -> tuple[list[str], Path, Path]:
    figure, report = folder / "figure.png", folder / "report.html"
    return ["--figure", str(figure), "--report", str(report)], figure, report


def check_pages(figure: Path, report: Path) -> None:
    assert figure.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    page = report.read_text(encoding="utf-8")
    assert "epsilon" in page
    assert "mixture" in page


def test_anomaly_across_banks(tmp_path) -> None:
    pages, figure, report = report_and_figure(tmp_path)
    out = run("anomaly_across_banks.py", "--rows", "8000", "--epsilon", "3", *pages, cwd=tmp_path)
    asked, low, high = (
        float(value) for value in re.findall(r"asked for ([\d.]+)%, 95 % interval ([\d.]+)% to ([\d.]+)%", out)[0]
    )
    assert low <= asked <= high
    found = re.findall(r"(fraud found|false alarms), all banks together: ([\d.]+)%; each by itself: ([\d.]+)%", out)
    assert float(found[0][1]) > 60
    assert float(found[1][1]) < 5
    assert "why one of them was found" in out
    check_pages(figure, report)


def test_disease_subgroups(tmp_path) -> None:
    pages, figure, report = report_and_figure(tmp_path)
    out = run("disease_subgroups.py", "--epsilon", "6", *pages, cwd=tmp_path)
    private, pooled = (
        float(value) for value in re.findall(r"(-?[\d.]+) nats per patient, pooled records (-?[\d.]+)", out)[0]
    )
    assert private > pooled - 1.0
    assert out.count("counts at home") == 4
    check_pages(figure, report)


def test_sensor_faults(tmp_path) -> None:
    pages, figure, report = report_and_figure(tmp_path)
    out = run("sensor_faults.py", "--rows", "9000", "--epsilon", "4", *pages, cwd=tmp_path)
    shared, personal = (float(value) for value in re.findall(r"area ([\d.]+)", out))
    assert personal > shared + 0.1
    check_pages(figure, report)


def is_png(path: Path) -> bool:
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_digits_cnn(tmp_path) -> None:
    arguments = ["--epsilons", "8", "--rounds", "3", "--json", "--figure", "figure.png"]
    scores = json.loads(run("digits_cnn.py", *arguments, cwd=tmp_path))
    assert list(scores) == ["epsilon 8", "no noise", "averaging"]
    assert all(0.05 < accuracies[0] <= 1.0 for accuracies in scores.values())
    assert is_png(tmp_path / "figure.png")


def test_fraud_across_banks(tmp_path) -> None:
    arguments = ["--rows", "1500", "--rounds", "12", "--banks", "5", "--epsilon", "8", "--figure", "figure.png"]
    out = run("fraud_across_banks.py", *arguments, cwd=tmp_path)
    alone, together = re.search(r"alone, no noise: .* median ([\d.]+)[^$]*together, no noise: +([\d.]+)", out).groups()
    assert float(together) > float(alone)
    caught, missed = (float(value) for value in re.findall(r"(\d+) caught, (\d+) missed", out)[0])
    assert caught + missed > 0
    assert "epsilon by adversary" in out
    assert is_png(tmp_path / "figure.png")


def test_local_against_distributed(tmp_path) -> None:
    arguments = ["--epsilons", "4", "--seeds", "1", "--rounds", "5", "--figure", "figure.png"]
    out = run("local_against_distributed.py", *arguments, cwd=tmp_path)
    noise = {mode: float(value) for mode, value in re.findall(r"^(\w+) .* ([\d.]+)$", out, re.MULTILINE)[:3]}
    assert noise["distributed"] == pytest.approx(noise["central"], rel=0.02)
    assert noise["local"] == pytest.approx(20**0.5 * noise["distributed"], rel=0.02)
    assert is_png(tmp_path / "figure.png")


def test_compression(tmp_path) -> None:
    arguments = ["--rounds", "3", "--choices", "3", "--silos", "4", "--figure", "figure.png"]
    out = run("compression.py", *arguments, cwd=tmp_path)
    found = re.findall(r" ([\d.]+) +([\d.]+) +([\d.]+)x$", out, re.MULTILINE)
    scores, kilobytes = [[float(row[column]) for row in found] for column in (0, 1)]
    assert min(scores) > 0.4
    assert kilobytes[0] > 3 * kilobytes[1] > 9 * kilobytes[2]
    assert is_png(tmp_path / "figure.png")


def test_source_selection(tmp_path) -> None:
    out = run(
        "source_selection.py", "--rounds", "12", "--steps", "150", "--copies", "3", "--out", str(tmp_path / "t"),
        cwd=tmp_path,
    )  # fmt: skip
    assert re.search(r"^5 to 9 +\d+%", out.split("candidate")[1].split("\n", 1)[1])
    assert float(re.search(r"nobody held: ([\d.]+)", out)[1]) > 0.85
    assert (tmp_path / "t" / "sources.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "t" / "digits-5-to-9" / "card.json").exists()
