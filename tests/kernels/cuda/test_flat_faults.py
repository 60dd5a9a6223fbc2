"""What works on the flat buffers, under AddressSanitizer: it reads and writes nothing outside of them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpubackprop.kernels.cuda.driver import FOLDER
from tests.kernels.cuda.device import COMPILER
from tests.kernels.cuda.rows import needs_compiler
from tests.kernels.cuda.test_faults import ROOT, broken

pytestmark = needs_compiler
RUN = """
import sys
from functools import partial
from pathlib import Path

import numpy as np

from gpubackprop.optim import LossScale, clip
from tests.kernels.cuda import test_alone, test_gradient_noise, test_optimizer
from tests.kernels.cuda.device import TestDevice

device = partial(TestDevice, folder=Path(sys.argv[1]), sanitize=True)
for spec in test_optimizer.FLAT[::3]:
    test_optimizer.train(test_optimizer.made(spec, device(), np.float32, np.float16), 1)
for spec in test_alone.WHOLE[::3]:
    test_alone.train(test_alone.made(spec, device(), np.float32, np.float16), 1)
test_gradient_noise.noisy(device(), np.float32, 3)
b = device()
for size in (1, 64, 3001):
    grad = b.from_host(np.ones(size, np.float32))
    scale = LossScale(b)
    scale.update(scale.unscale_and_check(b, grad))
    for function, args in ((clip.norm, ()), (clip.clip_norm, (0.1,)), (clip.clip_value, (0.1,))):
        b.rule(function)(b, grad, *args)
print("clean")
"""


def sanitized(folder):
    """All of it under AddressSanitizer, which has to be the first library of its process."""
    asan = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = asan.stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer")
    own = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    command = [sys.executable, "-c", RUN, str(folder)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)


def test_no_update_reads_or_writes_outside_its_arrays():
    done = sanitized(FOLDER)
    assert done.stdout == "clean\n", done.stderr[-3000:]


def test_a_chunk_past_the_end_is_seen(tmp_path):
    done = sanitized(
        broken(tmp_path, "optimizer.cu", "over_block<Acc<T>>(chunk.count,", "over_block<Acc<T>>(chunk.count + 64,")
    )
    assert done.returncode
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[:3000]
