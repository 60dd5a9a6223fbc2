"""A copy of the process that compiles ahead."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import harness

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or len(os.sched_getaffinity(0)) < 2,
    reason="copies of the process are made on Linux, where there are two processors",
)

_TRAIN = """
import os, sys
import numpy as np
from gpubackprop import nn, optim
from gpubackprop.kernels.cpu import ahead, jit
from gpubackprop.training.step import TrainStep
ahead._tried = sys.argv[1] == "alone"
by, save = [], jit._Careful.save_overload
def saved(self, signature, result):
    by.append(os.getpid())
    save(self, signature, result)
jit._Careful.save_overload = saved
model = nn.Sequential(nn.Linear(None, 8), nn.Dropout(), nn.Linear(None, 3)).build((6,), seed=1)
step = TrainStep(model, nn.CrossEntropyLoss(), optim.AdamW(model.parameters(), lr=0.01), clip_norm=1.0)
rng = np.random.default_rng(0)
x, y = rng.normal(size=(8, 6)).astype(np.float32), rng.integers(0, 3, 8)
print("begin")
with model.built.backend.announcing(print):
    losses = [float(step(x, y)).hex() for _ in range(4)]
print(losses)
print(len(by), set(by) == {os.getpid()})
"""


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    harness.backend()


def _start(cache: Path, how: str) -> list[str]:
    root = Path(__file__).parents[2]
    env = {**os.environ, "GPUBACKPROP_CACHE": str(cache), "PYTHONPATH": str(root)}
    done = subprocess.run([sys.executable, "-c", _TRAIN, how], env=env, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.slow
def test_the_process_finds_a_part_compiled_and_trains_as_alone(tmp_path):
    begin, said, losses, count = _start(tmp_path / "alone", "alone")
    compiled = int(count.split()[0])
    assert begin == "begin"
    assert "compiling" in said
    found = _start(tmp_path / "ahead", "ahead")
    assert len(found) == 4, "the copy printed something, or it was said twice"
    assert "compiling" in found[1]
    assert found[2] == losses
    assert int(found[3].split()[0]) < compiled, "nothing was compiled by the copy"
    assert found[3].endswith("True")
    assert _start(tmp_path / "ahead", "ahead") == ["begin", losses, "0 False"], "something was not kept"


_MEASURED = """
import sys
import numpy as np
from gpubackprop import nn, optim
from gpubackprop.training.step import TrainStep
model = nn.Sequential(nn.Conv2d(None, 32, 3, padding=1), nn.Flatten(), nn.Linear(None, 3)).build((16, 16, 8), seed=1)
step = TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.01))
x, y = np.ones((16, 16, 16, 8), np.float32), np.zeros(16, int)
for number in range(3):
    step(x, y)
    with open(sys.argv[1], "a") as file:
        print(number, file=file)
"""


@pytest.mark.slow
def test_the_copy_never_gets_out_of_the_step(tmp_path):
    seen, root = tmp_path / "seen", Path(__file__).parents[2]
    env = {**os.environ, "GPUBACKPROP_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(root)}
    command = [sys.executable, "-c", _MEASURED, str(seen)]  # a convolution that is measured
    subprocess.run(command, env=env, check=True, timeout=600)
    assert seen.read_text().split() == ["0", "1", "2"]


@pytest.mark.slow
def test_without_a_fork_the_step_runs_all_the_same(tmp_path):
    code = _TRAIN.replace("import os, sys", "import os, sys\ndef fork():\n    raise BlockingIOError\nos.fork = fork")
    env = {**os.environ, "GPUBACKPROP_CACHE": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", code, "ahead"], env=env, text=True, capture_output=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("True")
