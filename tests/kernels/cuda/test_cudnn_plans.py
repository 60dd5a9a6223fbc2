"""cuDNN plans every graph of the op table's rows itself, for GPUs that are not there.

Needs NVIDIA's packages (nvidia-cudnn-frontend and nvidia-cudnn-cu13, 0.9 GB) but neither GPU nor driver: for the latter
stands a stub. What it refuses here the double of test_cudnn.py refuses too.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from gpubackprop.kernels.cuda import cudnn_library

COMPILER = shutil.which("gcc")
STUB = Path(__file__).with_name("cudnn_stub.c")
SIZES = {"conv_transpose2d dilation, output padding", "conv_transpose2d 1x1, dilation, output padding"}

pytestmark = [
    pytest.mark.skipif(find_spec("cudnn") is None, reason=f"no plans to look at: {cudnn_library.describe()}"),
    pytest.mark.skipif(COMPILER is None, reason="no gcc, which compiles what stands for the driver"),
]


@pytest.fixture(scope="module", params=[80, 90, 100])
def found(request, tmp_path_factory):
    """{dtype: {kind of graph: [how many were planned, {row: reason} of the others]}}"""
    folder = tmp_path_factory.mktemp("stub")
    for name in ("libcuda.so.1", "libcudart.so.12", "libcudart.so.13"):
        options = ["-shared", "-fPIC", f"-DCOMPUTE={request.param}", f"-Wl,-soname,{name}"]
        subprocess.run([COMPILER, *options, "-o", str(folder / name), str(STUB)], check=True)
    packages = find_spec("nvidia").submodule_search_locations if find_spec("nvidia") else []
    libraries = [str(path) for place in packages for path in Path(place).glob("*/lib")]
    environment = os.environ | {"LD_LIBRARY_PATH": os.pathsep.join([str(folder), *libraries])}
    command = [sys.executable, "-m", "tests.kernels.cuda.cudnn_plans", str(request.param)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("kind", ["conv_fprop", "conv_dgrad", "conv_wgrad"])
def test_convolutions(found, dtype, kind):
    planned, refused = found[dtype][kind]
    assert set(refused) == SIZES, refused
    assert planned > 30


def test_batch_norm_takes_whole_packs_of_channels(found):
    for kind in ("batchnorm", "batchnorm_backward"):
        assert set(found["float32"][kind][1]) == {"batch_norm images"}
        for dtype in ("float16", "bfloat16"):
            assert "ResNet, batch norm" not in found[dtype][kind][1]
        assert kind not in found["float64"]


def test_attention(found):
    for kind in ("sdpa", "sdpa_backward"):
        for dtype in ("float16", "bfloat16"):
            planned, refused = found[dtype][kind]
            assert planned == 4, refused
            assert all("multiple of 8" in reason or "max_s_q" in reason for reason in refused.values())
        assert kind not in found["float32"]
