"""Several Python threads, and forked children: each layer that Numba's threads can be run by."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernels import harness

_TRAIN = """
import os, signal, threading
import numpy as np
from gpubackprop import nn, optim
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.training.step import TrainStep

def trained(seed, steps=6):
    rng = np.random.default_rng(seed)
    model = nn.Sequential(nn.Linear(None, 300), nn.ReLU(), nn.Linear(None, 10)).build((200,), seed=seed, device="cpu")
    model.built.backend.shared = -1.0
    step = TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    x, y = rng.normal(size=(64, 200)).astype(np.float32), rng.integers(0, 10, 64)
    return step, x, y, [float(step(x, y)) for _ in range(steps)]

assert CpuBackend().threads == 2
step, x, y, alone = trained(0)
"""
_THREADS = """
wanted, found = [trained(seed, 200)[-1] for seed in range(2)], {}
def work(seed):
    found[seed] = trained(seed, 200)[-1]
threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert [found[seed] for seed in range(2)] == wanted
model = step.model
wanted, answers = model(x), []
threads = [threading.Thread(target=lambda: answers.extend(model(x) for _ in range(100))) for _ in range(2)]
for each in threads:
    each.start()
for each in threads:
    each.join()
assert len(answers) == 200 and all(np.array_equal(each, wanted) for each in answers)
"""
#: The child begins a training, and goes on with the parent's, whose steps are recorded; another thread has the turn.
_FORK = """
from gpubackprop.kernels.cpu.blas import one_thread
def hold():
    with one_thread():
        held.set()
        done.wait()
held, done = threading.Event(), threading.Event()
holder = threading.Thread(target=hold, daemon=True)
holder.start()
held.wait()
child = os.fork()
if child == 0:
    signal.alarm(60)  # whoever waits for a turn that never comes
    same = trained(0)[-1] == alone and "fork" in CpuBackend().describe()
    print("child", float(step(x, y)), flush=True)
    os._exit(0 if same else 3)
assert os.waitpid(child, 0)[1] == 0
done.set()
holder.join()
print("parent", float(step(x, y)))
assert CpuBackend().describe() == "kernels on 2 threads"
"""


@pytest.fixture(params=["omp", "workqueue"])
def run(request):
    """Run a script on two threads of a layer; its lines."""
    harness.backend()

    def run(script):
        variables = {"NUMBA_THREADING_LAYER": request.param, "NUMBA_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
        env = os.environ | variables | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-c", _TRAIN + script]
        done = subprocess.run(command, env=env, text=True, capture_output=True, timeout=300)
        if "No threading layer could be loaded" in done.stderr:
            pytest.skip(f"no {request.param} here")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    return run


def test_several_python_threads_give_what_each_gives_alone(run):
    run(_THREADS)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_gives_what_its_parent_does(run):
    child, parent = run(_FORK)
    assert child.split()[1] == parent.split()[1]
