"""The GPU's benchmark, as far as a CPU can run it: items, workloads, peaks, whether a step waits."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from types import SimpleNamespace

import pytest

from gpubackprop.run.bench.process import CannotError
from gpubackprop.run.bench.task import CHECKED, Task, difference
from scripts.gpu import bench_rows, gemm, main, waits
from scripts.gpu.bench_rows import Bench, Row, rows, tell, waited
from scripts.gpu.workloads import WORKLOADS, task_of


class Lines:
    def __init__(self, done=()):
        self.done, self.said = frozenset(done), []

    def say(self, **values):
        self.said.append(values)


def test_every_workload_in_every_precision_beside_every_way(monkeypatch):
    assert tuple(WORKLOADS) == main.WORKLOADS
    monkeypatch.setattr(bench_rows, "there", lambda module: True)
    found = rows(None, "cuda")
    assert len(found) == len({row.name for row in found}) == 8 * 2 * 4 + 3 * 2
    assert {row.variant for row in found[-16:]} == {"waits"}, "in which nothing is compared"
    assert {row.variant for row in found[-32:-16]} == {"max-autotune"}, "what takes longest comes last of the rest"
    assert [row.name for row in rows("gpt", "cuda")][:3] == ["gpt tf32 eager", "gpt bfloat16 eager", "gpt tf32 compile"]
    assert len(rows("lenet", "cuda")) == 2 * 5
    monkeypatch.setattr(bench_rows, "there", lambda module: False)
    assert len(rows(None, "cuda")) == 8 * 2 * 5 + 3 * 2
    without = Bench(Lines(), "cuda", None).row(Row("gpt", "tf32", "compile"))
    assert without == {
        **{"status": "not run", "reason": "PyTorch is not installed"},
        **{"workload": "gpt", "precision": "tf32", "variant": "compile"},
    }


def test_what_an_earlier_call_had_no_time_for_is_done_behind_the_rest(monkeypatch):
    monkeypatch.setattr(Bench, "peak", lambda self, precision: {"status": "passed"})
    monkeypatch.setattr(Bench, "row", lambda self, row: {"status": "passed"})
    wanted, lines = (
        [Row("gpt", "tf32", way) for way in ("eager", "compile", "max-autotune")],
        Lines(["gpt tf32 compile"]),
    )
    tell(lines, Bench(lines, "cuda", None), wanted, ["gpt tf32 eager"])
    assert [line["item"] for line in lines.said if "item" in line][1:] == ["gpt tf32 max-autotune", "gpt tf32 eager"]


@pytest.mark.parametrize("name", [name for name in WORKLOADS if name not in ("gpt", "big", "resnet18")])
def test_a_workload_is_what_its_title_says(name):
    task, flops = task_of(name, "bfloat16")
    batch, workload = task.batches[0], WORKLOADS[name]
    assert task.config["precision"] == "bfloat16"
    assert {array.dtype.name for array in task.weights.values()} <= {"float32", "int64"}
    assert batch["inputs"].shape == (len(batch["targets"]), *workload.shape)
    assert f"batch {len(batch['targets'])}" in workload.title
    assert flops > 0
    assert task.random == any("dropout" in layer for layer in task.config["model"])


def test_the_gpt_is_gpt_2s_smallest(monkeypatch):
    workload = WORKLOADS["gpt"]
    small = {"times": 1, "layers": [{"gpt_block": {"num_heads": 2, "activation": "gelu_tanh"}}]}
    overrides = {**workload.overrides, "model.0.embedding.embedding_dim": 8, "model.2.repeat": small}
    assert workload.overrides["model.2.repeat"]["times"] == 12
    assert workload.overrides["model.0.embedding"]["embedding_dim"] == 768
    monkeypatch.setitem(overrides, "model.4.linear", {"out_features": 11, "bias": False})
    monkeypatch.setitem(overrides, "model.0.embedding", {"num_embeddings": workload.classes, "embedding_dim": 8})
    task, _ = type(workload)(**{**vars(workload), "overrides": overrides, "batch": 1}).task()
    assert task.batches[0]["inputs"].shape == (1, 1024)
    assert task.weights["1.weight"].shape == (1024, 8)


@pytest.mark.oracle
@pytest.mark.slow
def test_a_row_on_a_cpu(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    monkeypatch.setattr(bench_rows, "ROUNDS", 1)
    monkeypatch.setattr(bench_rows, "SLICE", 0.02)
    bench = Bench(Lines(), "cpu", tmp_path)
    peak = bench.peak("float32", side=64)
    assert peak["status"] == "passed"
    assert set(peak["flops_per_second"]) == {"ours", "torch"}
    assert bench.peaks["float32"] == max(peak["flops_per_second"].values())
    found = bench.row(Row("digits_mlp", "float32", "eager"))
    assert found["status"] == "passed", found
    assert found["theirs"]["ratio"]["median"] > 0
    assert found["peak"] == bench.peaks["float32"]
    monkeypatch.setattr(bench_rows, "difference", lambda *_: "loss 1 is 3, ours 2")
    found = bench.row(Row("digits_mlp", "float32", "eager"))
    assert (found["status"], found["reason"]) == ("failed", "not the same training as PyTorch's: loss 1 is 3, ours 2")
    assert found["ours"]["seconds"]["median"] > 0


def test_items_are_told_and_those_done_left_out(monkeypatch):
    def row(self, row):
        if row.workload == "lenet":
            raise ValueError("unknown precision")
        return {"status": "passed"}

    monkeypatch.setattr(Bench, "row", row)
    monkeypatch.setattr(Bench, "peak", lambda self, precision: {"status": "passed"})
    wanted = [Row(name, "tf32", "eager") for name in ("big", "lenet", "gpt")]
    lines = Lines(done=["big tf32 eager"])
    tell(lines, Bench(lines, "cpu", None), wanted)
    items = [said for said in lines.said if "item" in said]
    assert [item["item"] for item in items] == ["peak tf32", "lenet tf32 eager", "gpt tf32 eager"]
    assert items[1]["reason"] == "ValueError: unknown precision"
    assert lines.said[0] == {"total": 3}
    assert lines.said[-1] == {"end": True}
    lines = Lines(done=[row.name for row in wanted])
    tell(lines, Bench(lines, "cpu", None), wanted)
    assert lines.said == [{"total": 3}, {"end": True}], "no peak is measured for nothing"


def test_products_of_matrices():
    for precision in ("float32", "bfloat16"):
        for made in (gemm.ours(precision, 16, "cpu"), *([gemm.by_torch(precision, 16, "cpu")] if _torch() else [])):
            made.step()
            assert made.about() == {"work": 2 * 16**3}
    with pytest.raises(CannotError, match="tf32"):
        gemm.ours("tf32", 16, "cpu")


def _torch():
    try:
        import torch
    except ImportError:
        return None
    return torch


def test_whether_a_step_waits():
    free = waits.judged(began=0.01, done=1.1, held=1.0)
    assert free["waits"] is False
    assert waits.judged(began=1.05, done=1.1, held=1.0)["waits"] is True
    elsewhere = waits.judged(began=0.01, done=0.2, held=1.0)
    assert elsewhere["waits"] is None
    names = Counter({"cudaLaunchKernel": 9, "cudaGraphLaunch": 20, "cudaMemcpyAsync": 4, "Memcpy DtoD": 1})
    assert waits.counted(names) == {"calls": {}, "graphs": 20}
    names |= {"cudaStreamSynchronize": 2, "Memcpy DtoH (Device -> Pageable)": 3, "cudaMemcpy": 1}
    assert sum(waits.counted(names)["calls"].values()) == 6
    silent = {"profile": {"reason": "no PyTorch"}}
    assert waited(free | silent)["status"] == "passed"
    assert waited(elsewhere | silent)["status"] == "not run"
    found = waited(free | {"profile": waits.counted(names)})
    assert (found["status"], "cudaStreamSynchronize 2 times" in found["reason"]) == ("failed", True)
    assert waited({"waits": True} | silent)["reason"] == "a step waits for the GPU: by its time"


def test_a_profile_is_of_the_steps_alone():
    def event(name, where, start, end):
        return name, where, SimpleNamespace(start=start, end=end)

    events = [
        event("cudaDeviceSynchronize", "CPU", 1, 2),
        event("Memcpy DtoH", "CUDA", 1, 2),
        event("steps", "CPU", 10, 20),
        event("steps", "CUDA", 12, 90),
        event("cudaGraphLaunch", "CPU", 11, 12),
        event("gelu", "CUDA", 30, 40),
        event("Memcpy DtoH (Device -> Pageable)", "CUDA", 50, 60),
        event("cudaDeviceSynchronize", "CPU", 21, 90),
    ]
    found = waits.inside(events)
    assert found == {"cudaGraphLaunch": 1, "gelu": 1, "Memcpy DtoH (Device -> Pageable)": 1}
    assert waits.counted(found) == {"calls": {"Memcpy DtoH (Device -> Pageable)": 1}, "graphs": 1}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc, which compiles it")
def test_the_idle_kernel_compiles(tmp_path):
    (tmp_path / "idle.cu").write_text(waits.IDLE)
    command = ["nvcc", "-arch=sm_90", "-cubin", "-o", "idle.cubin", "idle.cu"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_steps_are_begun_behind_the_idle_kernel(monkeypatch):
    clock = SimpleNamespace(time=0.0)
    monkeypatch.setattr(waits, "perf_counter", lambda: clock.time)
    order = []

    def step():
        order.append("step")
        clock.time += 0.001

    def wait():
        clock.time = max(clock.time, 1.2)

    found = waits.behind_idle(step, wait, lambda: order.append("idle"))
    assert order == ["idle", *["step"] * waits.STEPS]
    assert (found["waits"], found["began"], found["done"]) == (False, pytest.approx(0.02), 1.2)


@pytest.mark.parametrize(("precision", "first", "later"), [("float32", 5e-5, 5e-3), ("bfloat16", 1e-2, 4e-2)])
def test_how_far_losses_may_part_depends_on_the_precision(precision, first, later):
    task = Task({"precision": precision}, [], {}, False)
    ours = {"losses": [1.0] * CHECKED}
    assert difference(task, ours, {"losses": [1 + first, 1 - later, 1 + later]}) is None
    for wrong in ([1 + 3 * first, 1, 1], [1, 1 + 3 * later, 1]):
        assert difference(task, ours, {"losses": wrong}) is not None
