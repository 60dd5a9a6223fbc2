"""The CPU where its kernels cannot be had: everything runs on plain NumPy, and the reason is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_TRAIN = """
import numpy as np
from gpubackprop import nn, optim
from gpubackprop.backend import choose
from gpubackprop.run import doctor
from gpubackprop.training.step import TrainStep
model = nn.Sequential(nn.Linear(None, 5), nn.ReLU(), nn.Linear(None, 3)).build((4,), device="cpu")
step = TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.5))
x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
losses = [float(step(x, np.arange(8) % 3)) for _ in range(4)]
assert sorted(losses, reverse=True) == losses, losses
print(choose("cpu")[1])
print(next(line for line in doctor.report()[1] if line.startswith("CPU: ")))
"""
_CDLL = "import ctypes, numba; real = ctypes.CDLL; ctypes.CDLL = lambda path, *args, **options: "

#: What is done before, variables, the reason and the remedy.
MISSING = {
    "Numba": (
        "import sys; sys.modules['numba'] = None",
        {},
        "Numba cannot be imported: ",
        "pip install 'numba>=0.68,<0.70'",
    ),
    "OpenBLAS": (
        "import numpy; numpy.__file__ = '/nowhere/numpy/__init__.py'",
        {},
        "this NumPy does not bring its own OpenBLAS",
        "pip install --force-reinstall --only-binary :all: 'numpy>=2'",
    ),
    "a function of OpenBLAS": (
        f"{_CDLL}real(path, *args, **options) if args or options or 'openblas' not in path else object()",
        {},
        "NumPy's OpenBLAS has no scipy_openblas_set_num_threads64_",
        "pip install --force-reinstall --only-binary :all: 'numpy>=2'",
    ),
    "the compiler": ("", {"NUMBA_DISABLE_JIT": "1"}, "NUMBA_DISABLE_JIT turns Numba's compiler off", "unset it"),
    "the threads": ("", {"NUMBA_THREADING_LAYER": "none"}, "The threading layer requested 'none' is unknown", ""),
}


@pytest.mark.parametrize(("before", "variables", "reason", "remedy"), MISSING.values(), ids=MISSING)
def test_without_kernels_it_trains_and_says_why(before, variables, reason, remedy):
    if remedy.startswith("pip install --force"):
        pytest.importorskip("numba", reason="without Numba nobody looks for OpenBLAS")
    root = str(Path(__file__).parents[2])
    env = {k: v for k, v in os.environ.items() if k != "GPUBACKPROP_KERNELS"} | variables | {"PYTHONPATH": root}
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{_TRAIN}"], env=env, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    chosen, told = done.stdout.splitlines()
    assert chosen.startswith(f"device: cpu, as asked; on the CPU: plain NumPy, without kernels and slower: {reason}")
    assert told.startswith(f"CPU: several times slower without compiled kernels: {reason}")
    assert remedy in told
    assert ("pip install 'numba" in told) == (remedy == MISSING["Numba"][3]), "a remedy for what is there"
