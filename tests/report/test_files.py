from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from privfed.errors import UsageError
from privfed.report.files import write_json, write_text


def test_a_file_is_replaced_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")
    assert write_text(target, "new £\n") == target
    assert target.read_bytes() == "new £\n".encode()
    assert os.listdir(tmp_path) == ["report.html"]


def test_the_umask_decides_who_reads(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "report.html", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("fault", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_fault_leaves_the_old_file_and_no_rubbish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: BaseException, step: str
) -> None:
    target = tmp_path / "report.html"
    target.write_text("old")

    def fail(*_: object) -> None:
        raise fault

    monkeypatch.setattr(os, step, fail)
    with pytest.raises((UsageError, KeyboardInterrupt)) as caught:
        write_text(target, "new")
    if isinstance(fault, OSError):
        assert "No space left on device" in str(caught.value)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a directory, expected a file"):
        write_text(tmp_path, "x")


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No such file or directory: choose a place"):
        write_text(tmp_path / "nowhere" / "report.html", "x")


def test_json_is_strict_and_reads_back(tmp_path: Path) -> None:
    data = {"epsilon": 0.1 + 0.2, "names": ["Zürich", "</script>"], "none": None, "nested": {"yes": True}}
    path = write_json(tmp_path / "report.json", data)
    assert json.loads(path.read_text(encoding="utf-8")) == data


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_json_cannot_hold_is_named_by_its_place(tmp_path: Path, value: float) -> None:
    with pytest.raises(UsageError, match=r"rounds\.1\.epsilon is -?(nan|inf)"):
        write_json(tmp_path / "report.json", {"rounds": [{"epsilon": 1.0}, {"epsilon": value}]})
    assert os.listdir(tmp_path) == []


def test_what_is_no_json_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not plain JSON values"):
        write_json(tmp_path / "report.json", {"path": object()})
