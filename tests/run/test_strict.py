"""The whole runner on the strict test device: it refuses what CuPy would, and NumPy's results must come out."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.run.use import Run

CONFIG = {
    "name": "strict",
    "device": "cpu",
    "data": {"batch_size": 16, "validation": 0.2, "augment": ["random_flip"], "transforms": ["normalize"]},
    "model": [
        {"conv2d": {"out_channels": 4, "kernel_size": 3}},
        "batch_norm",
        "relu",
        {"max_pool2d": 2},
        "flatten",
        {"dropout": 0.2},
        {"linear": 3},
    ],
    "loss": {"type": "cross_entropy", "label_smoothing": 0.1},
    "metrics": ["accuracy", {"top_k_accuracy": 2}],
    "optimizer": {"type": "sgd", "lr": 0.1, "momentum": 0.9},
    "schedule": {"type": "plateau", "patience": 1},
    "training": {"epochs": 3, "accumulate": 2, "clip_norm": 1.0, "log_every": 2},
}


@pytest.fixture
def arrays(rng):
    x, y = rng.integers(0, 256, (70, 8, 8, 1)).astype(np.uint8), rng.integers(0, 3, 70)
    return {"train": (x, y), "test": (x[:20], y[:20])}


@pytest.fixture
def strict_cpu(monkeypatch):
    """Whoever asks for a device gets the strict one."""
    chosen = []

    def choose(device, kernels):
        chosen.append(device)
        return StrictBackend(), "device: strict"

    monkeypatch.setattr("gpubackprop.nn.layer.choose", choose)
    monkeypatch.setattr("gpubackprop.run.train.choose", choose)
    return chosen


def test_training_on_the_strict_device_gives_numpys_run(arrays, tmp_path, strict_cpu, monkeypatch):
    strict = gbp.train({**CONFIG, "data": {"type": "arrays", **CONFIG["data"]}}, data=arrays, run_dir=tmp_path / "a")
    assert strict_cpu
    assert strict.model.built.backend.name == "strict"
    y = strict.model(arrays["test"][0] / 255.0)
    assert isinstance(y, np.ndarray)
    resumed = gbp.resume(tmp_path / "a", {"training.epochs": 4}, data=arrays)
    monkeypatch.undo()
    plain = gbp.train(
        {**CONFIG, "kernels": "reference", "data": {"type": "arrays", **CONFIG["data"]}},
        data=arrays,
        run_dir=tmp_path / "b",
    )
    assert plain.model.built.backend.name == "numpy"
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()] for name in "ab"
    ]
    timed = {"time", "samples_per_sec"}
    for a, b in zip(lines[0], lines[1], strict=False):
        if not any(name.startswith("test/") for name in b):
            assert {k: v for k, v in a.items() if k not in timed} == {k: v for k, v in b.items() if k not in timed}
    assert lines[0][-1]["step"] > lines[1][-1]["step"]
    assert Run(resumed.directory).metrics.keys() == plain.metrics.keys()
