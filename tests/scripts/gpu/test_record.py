"""The JSON: merged with what was there, gone on with, refused where it is something else."""

from __future__ import annotations

import json

import pytest

from scripts.gpu import record as records
from scripts.gpu.record import Budget, Record, ResultsError, fingerprint

CODE = {"tests": "t1", "kernels": "k1", "bench": "b1"}


def test_parts_are_merged_and_items_replaced(tmp_path):
    path = tmp_path / "new" / "gpu.json"
    first = Record(path, CODE, "abc")
    first.describe({"gpu": "A GPU"})
    first.put("tests", "one", {"status": "failed", "reason": 'a "quoted" – reason\n'})
    second = Record(path, CODE, "def")
    second.put("kernels", "gelu: float32", {"status": "passed", "error": 1e-7})
    second.put("tests", "two", {"status": "passed"})
    second.put("tests", "one", {"status": "passed"})
    content = json.loads(path.read_text())
    assert content == Record(path, CODE, "").content == second.content
    assert content["machine"] == {"gpu": "A GPU"}
    assert content["parts"]["tests"] == {
        "one": {"status": "passed", "code": "t1", "commit": "def"},
        "two": {"status": "passed", "code": "t1", "commit": "def"},
    }
    assert content["parts"]["kernels"]["gelu: float32"]["error"] == 1e-7
    assert [each.name for each in path.parent.iterdir()] == ["gpu.json"], "nothing unfinished is left"


def test_what_is_done_stays_done_until_the_code_changes(tmp_path):
    record = Record(tmp_path / "gpu.json", CODE, "abc")
    for name, status in (("a", "passed"), ("b", "failed"), ("c", "not run")):
        record.put("bench", name, {"status": status})
    assert Record(record.path, CODE, "").done("bench") == ["a", "b"]
    assert Record(record.path, CODE, "").done("tests") == []
    later = Record(record.path, {**CODE, "bench": "b2"}, "def")
    assert later.done("bench") == []
    assert later.outdated("bench") == ["a", "b", "c"]
    later.put("bench", "a", {"status": "passed"})
    assert (later.done("bench"), later.outdated("bench")) == (["a"], ["b", "c"])
    later.forget("bench", ["a", "unknown"])
    assert list(later.items("bench")) == ["b", "c"]


@pytest.mark.parametrize("content", ["", "{", '{"format": 2}'])
def test_what_is_no_file_of_results_is_left_alone(tmp_path, content):
    path = tmp_path / "gpu.json"
    path.write_text(content)
    with pytest.raises(ResultsError, match="move it away"):
        Record(path, CODE, "")
    assert path.read_text() == content


def test_a_fingerprint_is_of_what_a_part_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "FOLDERS", {"tests": ("a", "b")})
    for name in ("a/x.py", "a/y.cu", "b/z.py", "c/other.py", "a/notes.md", "a/__pycache__/x.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")
    before = fingerprint("tests", tmp_path)
    for name, changes in (
        ("c/other.py", False),
        ("a/notes.md", False),
        ("a/__pycache__/x.py", False),
        ("a/y.cu", True),
    ):
        (tmp_path / name).write_text("2")
        assert (fingerprint("tests", tmp_path) != before) == changes, name
    (tmp_path / "a/y.cu").write_text("1")
    assert fingerprint("tests", tmp_path) == before
    (tmp_path / "a/x.py").rename(tmp_path / "a/w.py")
    assert fingerprint("tests", tmp_path) != before


def test_a_budget_ends():
    times = iter([100.0, 103.0, 110.5])
    budget = Budget(10, lambda: next(times))
    assert (budget.whole, budget.left, budget.left) == (10, 7.0, 0.0)
