"""A problem that trains in a blink: 60 grey images 6×6 of three classes, and configs for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np

from gpubackprop.config.dump import dump

ROOT = Path(__file__).parents[2]

#: Everything whose state a resumed run must find again: batch statistics, masks, augmentation, accumulation.
CNN = [
    {"conv2d": {"out_channels": 4, "kernel_size": 3, "padding": "same"}},
    "batch_norm",
    "relu",
    {"max_pool2d": 2},
    "flatten",
    {"dropout": 0.3},
    {"linear": 3},
]


def write_arrays(folder: Path) -> Path:
    """x_train (60, 6, 6, 1), x_test (30, 6, 6, 1) uint8, with their classes, as toy.npz."""
    rng = np.random.default_rng(5)

    def split(count):
        y = rng.integers(0, 3, count)
        y[:3] = 0, 1, 2
        x = rng.integers(0, 120, (count, 6, 6, 1))
        x[np.arange(count), y * 2] += 100  # a bright row tells the class
        return x.astype(np.uint8), y

    (x, y), (xt, yt) = split(60), split(30)
    path = folder / "toy.npz"
    np.savez(path, x_train=x, y_train=y, x_test=xt, y_test=yt)
    return path


def config(path: Path, **changes):
    """An MLP: 6 steps an epoch, 3 epochs. Keys of `changes` replace whole sections."""
    return {
        "name": "toy",
        "device": "cpu",
        "data": {"type": "arrays", "path": str(path), "validation": 0.2, "batch_size": 8},
        "model": ["flatten", {"linear": 8}, "relu", {"linear": 3}],
        "loss": "cross_entropy",
        "metrics": ["accuracy"],
        "optimizer": {"type": "adam", "lr": 0.01},
        "training": {"epochs": 3, "log_every": 2},
    } | changes


def write_config(folder: Path, name: str = "toy.yaml", **changes) -> Path:
    """`config` as a file beside its data."""
    data = folder / "toy.npz"
    path = folder / name
    path.write_text(dump(config(data if data.exists() else write_arrays(folder), **changes)))
    return path


def command(*arguments, cwd=None, **variables):
    """`gpubackprop ARGUMENTS` in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    words = [sys.executable, "-m", "gpubackprop", *map(str, arguments)]
    return subprocess.Popen(
        words,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
        # Tests that run in the background of a shell were started with Ctrl-C ignored; their children are not to be.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )


def metrics(directory: Path):
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def traces(directory: Path):
    """All that two runs of one training must share, bit for bit; times are left out."""
    timed = ("time", "samples_per_sec")
    found = {"metrics": [{k: v for k, v in line.items() if k not in timed} for line in metrics(directory)]}
    for folder in sorted((directory / "checkpoints").iterdir()):
        for file in ("model.safetensors", "optimizer.safetensors"):
            found[f"{folder.name}/{file}"] = (folder / file).read_bytes()
        state = json.loads((folder / "state.json").read_text())
        found[f"{folder.name}/state"] = {k: v for k, v in state.items() if k not in ("seconds", "logged_at")}
    return found
