from __future__ import annotations

from pathlib import Path

import pytest

from scripts.check_lines import FILE_CAP, PACKAGE_CAP, main


def test_package_within_its_caps(tmp_path: Path) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "linear.py").write_text("\n" * FILE_CAP)
    assert main(tmp_path) == 0


def test_file_over_the_cap_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ops").mkdir()
    (tmp_path / "ops" / "linear.py").write_text("\n" * (FILE_CAP + 1))
    assert main(tmp_path) == 1
    assert f"linear.py: {FILE_CAP + 1} lines" in capsys.readouterr().err


def test_package_over_the_cap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(PACKAGE_CAP // FILE_CAP + 1):
        (tmp_path / f"part{i}.py").write_text("\n" * FILE_CAP)
    assert main(tmp_path) == 1
    assert f"the cap for the package is {PACKAGE_CAP}" in capsys.readouterr().err


def test_a_wrong_folder_is_no_success(tmp_path: Path) -> None:
    assert main(tmp_path) == 1
