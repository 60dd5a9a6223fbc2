"""scripts/bench: the workloads can be built, the report says what was measured, README shows what was committed."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gpubackprop.run.bench.ours import Ours
from gpubackprop.run.bench.process import CannotError
from gpubackprop.run.bench.task import difference
from scripts.bench import cpu, others, report
from scripts.bench.workloads import FOLDER, GROWTH, WORKLOADS

README = (Path(__file__).parents[2] / "README.md").read_text()


def figures(seconds: float, ratio: float, peak: int | None = 300, disturbed: int = 0) -> dict[str, Any]:
    """A candidate's."""

    def spread(value: float) -> dict[str, float]:
        return {"median": value, "lower": value / 1.25, "upper": value * 1.25, "minimum": value / 2}

    return {
        "seconds": spread(seconds),
        "ratio": spread(ratio),
        "slices": [seconds] * 3,
        "disturbed": disturbed,
        "samples_per_second": 1 / seconds,
        "share_of_peak": 0.42,
        "memory": {"imported": 100 * 2**20, "peak": peak and peak * 2**20},
        "first_step": 1.5,
        "first_start": 9.0,
        "runs_on": "it",
    }


def results() -> dict[str, Any]:
    """As of a run."""
    candidates = {
        "gpubackprop": figures(0.004, 1.0, 250),
        "PyTorch eager": figures(0.010, 0.4),
        "PyTorch channels_last": figures(0.008, 0.5, disturbed=1),
        "JAX": figures(0.012, 1 / 3, disturbed=3),
    }
    peak = {"flops_per_second": 2e11, "bytes_per_second": 3e10}
    found = {"rounds": 3, "slice_seconds": 0.4, "candidates": candidates, "peak": peak, "notes": ["no sklearn"]}
    packages = {"gpubackprop": "0", "numpy": "2.4"}
    machine = {"processor": "A CPU", "processors": 2, "threads": 2, "python": "3.11", "packages": packages}
    return {"format": 1, "machine": machine, "workloads": {"lenet": found}}


def test_the_table_compares_with_the_quickest_pytorch() -> None:
    lines = report.table(results()).splitlines()
    cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert len(cells) == len(report.HEADS) == lines[1].count("---")
    assert cells == [
        "LeNet-like, 28×28, batch 64, Adam",
        "4",
        "8 (channels_last); 1 of 3 slices disturbed",
        "**0.50** (0.40–0.62)",
        "0.40",
        "42%",
        "250 (150)",
        "300 (200)",
        "1.5 (cold cache 9.0)",
        "1.5",
    ]
    text = " ".join(lines[3:])
    assert "A CPU, 2 threads each; peak 200 GFLOP/s, 30 GB/s. Python 3.11, numpy 2.4." in text
    assert "4 of 12 slices were disturbed" in text
    assert "gpubackprop / JAX: lenet 0.333." in text
    assert all(len(line) <= 120 for line in lines[3:])
    details = report.details(results())
    assert "no sklearn" in details
    assert "ours / theirs 0.500 (0.400–0.625)" in details
    assert "WARNING: other programs used the machine during every slice of JAX" in details


def test_without_pytorch_or_memory_there_are_dashes() -> None:
    found = results()
    found["workloads"]["lenet"]["candidates"] = {"gpubackprop": figures(0.004, 1.0, None)}
    cells = report.table(found).splitlines()[2].split("|")
    assert [cell.strip() for cell in cells].count("–") == 6


def test_the_readme_shows_the_committed_figures() -> None:
    shown = report.in_readme(README)
    assert shown is not None
    if not cpu.RESULTS.exists():
        pytest.skip("no figures are committed yet")
    assert shown == report.table(json.loads(cpu.RESULTS.read_text())).strip()


def test_the_table_goes_between_the_markers_of_the_readme() -> None:
    text = report.into_readme(README, results())
    assert report.in_readme(text) == report.table(results()).strip()
    assert report.into_readme(text, results()) == text
    assert text.partition(report.END)[2] == README.partition(report.END)[2]
    with pytest.raises(ValueError, match="missing"):
        report.into_readme("nothing", results())


def test_every_config_is_a_workload_and_one_trains() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == {each.config for each in WORKLOADS.values()}
    task, flops = WORKLOADS["tiny"].task()
    assert flops == 3 * 32 * 2 * (64 * 64 + 64 * 10)
    ours = Ours(task, "cpu", "reference")
    losses = [ours.step() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]


@pytest.mark.parametrize("title", GROWTH)
def test_growth_doubles(title: str) -> None:
    values = list(GROWTH[title])
    assert all(b == 2 * a for a, b in pairwise(values))
    flops = [workload.task()[1] for workload in list(GROWTH[title].values())[:3]]
    assert 1.1 * flops[0] < flops[1] < flops[2]


def test_who_takes_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "find_spec", lambda name: None)
    monkeypatch.setattr(cpu, "uncompiled", lambda: None)
    alone, notes = cpu.contenders(tmp_path, WORKLOADS["lenet"], compiled=True)
    assert list(alone) == ["gpubackprop", "gpubackprop, reference kernels"]
    assert len(notes) == 3
    monkeypatch.setattr(cpu, "find_spec", lambda name: SimpleNamespace())
    everyone, notes = cpu.contenders(tmp_path, WORKLOADS["lenet"], compiled=True)
    pytorch = ["PyTorch eager", "PyTorch channels_last", "PyTorch compile"]
    assert list(everyone)[2:] == [*pytorch, "JAX", "scikit-learn"]
    assert notes == []
    monkeypatch.setattr(cpu, "uncompiled", lambda: "plain NumPy: no Numba")
    without, notes = cpu.contenders(tmp_path, WORKLOADS["lenet"], compiled=True)
    assert list(without) == ["gpubackprop", *pytorch, "JAX", "scikit-learn"]
    assert notes == ["gpubackprop: its references were measured, since it runs on plain NumPy: no Numba"]


def test_the_table_says_when_no_kernels_were_measured() -> None:
    found = results()
    for words, said in (("kernels on 2 threads", False), ("plain NumPy: no Numba", True)):
        found["workloads"]["lenet"]["candidates"]["gpubackprop"]["runs_on"] = words
        assert ("**gpubackprop ran on plain NumPy: no Numba.**" in report.table(found)) == said
        assert ("ran on" in report.table(found)) == said


def test_scikit_learn_makes_the_same_steps() -> None:
    task, _ = WORKLOADS["tiny"].task()
    ours, theirs = Ours(task, "cpu", "reference"), others.Sklearn(task)
    told = [{"losses": [each.step() for _ in range(3)], "inference_loss": None} for each in (ours, theirs)]
    assert difference(task, *told) is None
    with pytest.raises(CannotError, match="conv2d is not written for it"):
        others.Sklearn(WORKLOADS["lenet"].task()[0])


def test_jax_makes_the_same_steps() -> None:
    pytest.importorskip("jax", reason="JAX, one of the peers, is not installed")
    for name in ("tiny", "lenet"):
        task, _ = WORKLOADS[name].task()
        ours, theirs = Ours(task, "cpu", "reference"), others.Jax(task)
        told = [{"losses": [each.step() for _ in range(3)], "inference_loss": None} for each in (ours, theirs)]
        assert difference(task, *told) is None


def test_the_plot_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots need matplotlib, the [bench] extra")
    series = {"gpubackprop": [1e-3, 2e-3], "PyTorch eager": [2e-3, 3e-3]}
    report.plot({"batch": {"values": [32, 64], "candidates": series}}, tmp_path / "growth.svg")
    assert "<svg" in (tmp_path / "growth.svg").read_text()


def test_what_is_made_up_is_the_same_every_time() -> None:
    first, second = (WORKLOADS["lstm"].task()[0].batches[0] for _ in range(2))
    np.testing.assert_array_equal(first["inputs"], second["inputs"])
    assert first["inputs"].shape == first["targets"].shape == (32, 64)
