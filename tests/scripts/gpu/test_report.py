"""The results in words."""

from __future__ import annotations

import pytest

from scripts.gpu import report
from scripts.gpu.record import Record

CODE = {"tests": "t", "kernels": "k", "bench": "b"}


def figures(seconds, ratio=1.0, held=None):
    def spread(value):
        return {"median": value, "lower": value * 0.9, "upper": value * 1.2, "minimum": value}

    return {"seconds": spread(seconds), "ratio": spread(ratio), "memory": {"imported": 1, "peak": 2, "device": held}}


def measured(workload, variant, ours, theirs, precision="bfloat16", **more):
    return {
        "status": "passed",
        **{"workload": workload, "precision": precision, "variant": variant, "flops": 4e12, "peak": 8e14},
        **{"ours": figures(ours, held=2**30), "theirs": figures(theirs, ours / theirs, 3 * 2**30)},
        **more,
    }


@pytest.fixture
def record(tmp_path):
    record = Record(tmp_path / "gpu.json", CODE, "abc")
    record.describe({"gpu": "A GPU", "driver": "580", "packages": {"numpy": "2.5", "torch": "2.11"}})
    return record


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_steps_beside_pytorch(record):
    record.put("bench", "peak bfloat16", {"status": "passed", "flops_per_second": {"ours": 7e14, "torch": 8e14}})
    record.put("bench", "gpt eager", measured("gpt", "eager", 0.020, 0.040))
    record.put("bench", "gpt compile", measured("gpt", "compile", 0.020, 0.025))
    about = {"workload": "gpt", "precision": "bfloat16", "variant": "waits"}
    record.put("bench", "gpt waits", {"status": "passed", "waits": False, **about})
    record.put("bench", "mlp eager", measured("mlp", "eager", 0.0125, 0.010))
    alone = measured("lenet", "alone", 0.003, 1.0)
    del alone["theirs"]
    record.put("bench", "lenet alone", alone)
    about = {"workload": "lenet", "precision": "bfloat16", "variant": "eager"}
    record.put("bench", "lenet eager", {"status": "not run", "reason": "PyTorch is not installed", **about})
    lines = report.text(record).splitlines()
    assert lines[0] == "GPU A GPU; driver 580; packages numpy 2.5, torch 2.11"
    table = [cells(line) for line in lines if line.startswith("|")]
    assert table[0] == list(report.HEADS)
    gpt, mlp, lenet = (next(row for row in table if row[0] == name) for name in ("gpt", "mlp", "lenet"))
    assert gpt == [
        *("gpt", "bfloat16", "20 (18–24)", "40", "–", "25", "–", "0.800 (0.720–0.960)", "0.500"),
        *("200", "25.0%", "1.00", "3.00", "no"),
    ]
    assert mlp[7:9] == ["1.250 (1.125–1.500)", "1.250"]
    assert lenet[2:9] == ["3 (2.7–3.6)", *"––––––"]
    text = "\n".join(lines)
    assert "geometric mean of ours / best PyTorch 1.000; above 1.15: mlp bfloat16" in text
    assert "geometric mean of ours / eager 0.791" in text
    assert "peaks: bfloat16 (ours 700 TFLOP/s, torch 800 TFLOP/s)" in text
    assert "== bench: 6 passed, 1 not run" in text
    assert "NOT RUN: 1 for: PyTorch is not installed" in text


def test_worst_errors_of_kernels(record):
    for name, dtype, status, error in (
        ("a", "float32", "passed", 1e-7),
        ("b", "float32", "passed", 3e-7),
        ("a", "float64", "passed", 1e-16),
        ("b", "float64", "failed", None),
        ("c", "float64", "passed", 1e-16),
        ("a", "bfloat16", "not run", None),
    ):
        item = {"status": status, "kernel": "gelu", "dtype": dtype, "seed": 7, "reason": "why"}
        record.put("kernels", f"{name}: {dtype}", item if error is None else {**item, "error": error})
    lines = report.text(record, "kernels").splitlines()
    table = [cells(line) for line in lines if line.startswith("|")]
    assert table[2] == ["gelu", "failed", "3.0e-07", "–", "not run"]
    assert "seeds: 7" in lines
    assert "FAILED: b: float64: why" in lines


def test_what_another_state_of_the_code_found_is_said(record):
    record.put("tests", "one", {"status": "passed"})
    assert "another state" not in report.text(record)
    later = Record(record.path, {**CODE, "tests": "t2"}, "def")
    assert "1 of these are of another state of the checkout" in report.text(later)
    assert "tests" not in report.text(later, "kernels")
