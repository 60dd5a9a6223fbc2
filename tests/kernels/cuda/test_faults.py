"""Broken kernels, and wrong launches of right ones: the test device has to see each of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.backend.strict import StrictArray
from gpubackprop.kernels.cuda import layer_norm
from gpubackprop.kernels.cuda.driver import FOLDER, NULL, Source
from tests.kernels.cuda import rows
from tests.kernels.cuda.device import COMPILER, ORDERS, CudaBackend, LaunchError, TestDevice
from tests.ops import harness

pytestmark = rows.needs_compiler
ROOT = Path(__file__).parents[3]


def row(name):
    return next(spec for spec in rows.ROWS if spec.op.name == name)


def broken(folder, file, right, wrong):
    """A copy of the sources in which a line of one is wrong."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    text = (folder / file).read_text()
    assert text.count(right) == 1, f"{file} has {text.count(right)} times {right!r}"
    (folder / file).write_text(text.replace(right, wrong))
    return folder


def own(tmp_path, body, parameters="const float* x, float* y, long long n"):
    """A device and a source with a single kernel."""
    (tmp_path / "common.cuh").write_text((FOLDER / "common.cuh").read_text())
    (tmp_path / "own.cu").write_text(
        f'#include "common.cuh"\ntemplate <typename T>\n__global__ void own({parameters}) {{{body}}}\n'
    )
    return TestDevice(folder=tmp_path), Source("own.cu", ("own<{real}>",))


def launch(b, source, block=(64,), grid=(1,), shift=0):
    x, y = b.from_host(np.ones(256, np.float32)), b.empty((256,), np.float32)
    b.launch(source, "own<{real}>", np.dtype(np.float32), grid, block, x, y, np.int64(256 + shift))
    return b.to_host(y)


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("activation.cu", "return y * (1 - y);", "return y * (1 + y);"),
        ("activation.cu", "pack.at[k] *= Curve::slope", "pack.at[k] = Curve::slope"),
        ("common.cuh", "long long i = thread;", "long long i = thread + 1;"),
    ],
)
def test_a_wrong_formula_is_seen(tmp_path, file, right, wrong):
    spec = row("sigmoid")
    with pytest.raises(AssertionError):
        rows.check(spec, harness.draw(spec), folder=broken(tmp_path, file, right, wrong))


@pytest.mark.parametrize(
    ("name", "file", "right", "wrong"),
    [
        ("dropout", "philox.cuh", "k1 += 0xBB67AE85u", "k1 += 0xBB67AE84u"),
        ("gaussian_noise", "noise.cu", "FOUR == 1 && j % 2", "false"),
        ("kl_div", "loss.cu", "i % each == 0", "true"),
        ("focal", "class_loss.cu", "if (gamma >= 0) hit *=", "if (gamma < 0) hit *="),
        ("hinge", "score_loss.cu", "if (threadIdx.x == 0) dx[own.c] = -total;", ""),
        ("rotary", "position.cu", "direction * sine", "sine"),
    ],
)
def test_a_fault_of_a_family_is_seen(tmp_path, name, file, right, wrong):
    spec = row(name)
    with pytest.raises(AssertionError):
        rows.check(spec, harness.draw(spec, np.float32), ("random",), folder=broken(tmp_path, file, right, wrong))


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("embedding.cu", "    __syncwarp();\n    if (mine >= 0 && rank == 0)", "    if (mine >= 0 && rank == 0)"),
        ("lines.cuh", "  __syncthreads();\n  if (threadIdx.y == 0)", "  if (threadIdx.y == 0)"),
        ("lines.cuh", "__syncthreads();  // the next one", "// the next one"),
    ],
)
def test_a_missing_barrier_of_the_embedding_is_seen(tmp_path, file, right, wrong):
    rng = np.random.default_rng(0)
    inputs = [rng.integers(0, 20, 1500), rng.normal(size=(300, 136)).astype(np.float32)]
    with pytest.raises(AssertionError, match="d1"):
        rows.check(replace(row("embedding"), options={}), inputs, folder=broken(tmp_path, file, right, wrong))


@pytest.mark.parametrize(
    "body",
    [
        "if (threadIdx.x < 40) __syncthreads(); else { __syncwarp(); __syncthreads(); }",
        "if (threadIdx.x == 0) __shfl_xor_sync(ALL_LANES, 1.f, 1); else __syncthreads();",
        "if (threadIdx.x % 2) return; y[0] = __shfl_xor_sync(ALL_LANES, x[0], 2);",
    ],
)
def test_a_barrier_that_not_all_threads_reach_is_reported(tmp_path, body):
    b, source = own(tmp_path, body)
    with pytest.raises(LaunchError, match=r"own<float>: a .*, in block \(0, 0, 0\)"):
        launch(b, source)


def test_the_device_goes_on_after_a_report(tmp_path):
    b, source = own(
        tmp_path, "if (n == 257) { if (threadIdx.x < 40) __syncthreads(); else __syncwarp(); } y[threadIdx.x] = 1;"
    )
    with pytest.raises(LaunchError):
        launch(b, source, shift=1)
    assert launch(b, source)[:64].sum() == 64


@pytest.mark.parametrize("order", ORDERS)
def test_shared_memory_is_full_of_nan_at_the_start_of_each_block(tmp_path, order):
    b, source = own(
        tmp_path, "__shared__ float s[64]; y[blockIdx.x * 64 + threadIdx.x] = s[threadIdx.x]; s[threadIdx.x] = 1;"
    )
    b.double.order = order
    assert np.isnan(launch(b, source, grid=(4,))).all()


def test_a_missing_barrier_shows_in_another_order(tmp_path):
    b, source = own(
        tmp_path, "__shared__ float s[64]; s[threadIdx.x] = threadIdx.x; y[threadIdx.x] = s[threadIdx.x ^ 33];"
    )
    found = []
    for order in ORDERS:
        b.double.order = order
        found.append(launch(b, source)[:64])
    assert not np.array_equal(found[0], found[1], equal_nan=True)
    assert not np.array_equal(found[0], found[2], equal_nan=True)


def test_a_block_that_is_no_whole_warps_is_reported(tmp_path):
    b, source = own(tmp_path, "y[threadIdx.x] = block_sum(x[threadIdx.x]);")
    assert (launch(b, source)[:64] == 64).all()
    with pytest.raises(LaunchError, match="names lane 16, which is not there"):
        launch(b, source, block=(48,))


@pytest.mark.parametrize(
    ("grid", "block"),
    [((0, 1), (32,)), ((1, 65536), (32,)), ((1,), (1025,)), ((1,), (32, 64)), ((1,), (1, 1, 65)), ((1.0,), (32,))],
)
def test_sizes_that_cuda_refuses_are_refused(tmp_path, grid, block):
    b, source = own(tmp_path, "")
    function = b.driver.function(source, "own<{real}>", "float")
    with pytest.raises(LaunchError, match=r"grid|block"):
        function(grid, block, (NULL, NULL, np.int64(0)))


def arguments(**changed):
    x, y = StrictArray(np.ones(8, np.float32)), StrictArray(np.zeros(8, np.float32))
    return tuple(({"x": x, "y": y, "n": np.int64(8)} | changed).values())


GAPS = StrictArray(np.zeros((8, 2), np.float32)[:, 0])
CONSTANT = StrictArray(harness.lock(np.zeros(8, np.float32)))


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (arguments(x=StrictArray(np.ones(8))), "argument 0: the kernel takes an array of const float32"),
        (arguments(n=8), "argument 2: the kernel takes a number of int64, got 8"),
        (arguments(n=np.int32(8)), "a number of int64"),
        (arguments(x=np.int64(8), n=StrictArray(np.ones(8, np.float32))), "argument 0"),
        (arguments(x=np.ones(8, np.float32)), "argument 0"),
        (arguments(x=None), "argument 0"),
        (arguments(y=GAPS), "not C-contiguous"),
        (arguments(y=CONSTANT), "may write to what is read-only"),
        (arguments()[:2], "3 parameters, got 2 arguments"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path, args, words):
    b, source = own(tmp_path, "y[threadIdx.x] = x[threadIdx.x];")
    function = b.driver.function(source, "own<{real}>", "float")
    with pytest.raises(LaunchError, match=words):
        function((1,), (8,), args)


def wide(op_name, width=700, rows=9):
    """A row of the table whose blocks have several warps."""
    spec = replace(row(op_name), name=f"{op_name} wide", batched=())
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, width)).astype(np.float32)
    affine = [rng.normal(size=width).astype(np.float32) for _ in range(2)]
    rest = [rng.integers(0, width, rows), None, None, None] if op_name == "cross_entropy" else affine
    # Without smoothing there is but one sum in a block, whose place nothing writes to again.
    return replace(spec, options={"label_smoothing": 0.1} if op_name == "cross_entropy" else {}), [x, *rest]


FIRST_BARRIER = ("common.cuh", "__syncthreads();\n  value = warps[0];", "value = warps[0];")
SECOND_BARRIER = ("common.cuh", "__syncthreads();  // the next one", "// the next one")
COLUMN_BARRIER = ("layer_norm.cu", "  __syncthreads();\n", "")


@pytest.mark.parametrize("op_name", ["layer_norm", "cross_entropy"])
@pytest.mark.parametrize("fault", [FIRST_BARRIER, SECOND_BARRIER], ids=["first", "second"])
def test_a_missing_barrier_of_a_sum_is_seen(tmp_path, fault, op_name):
    spec, inputs = wide(op_name)
    rows.check(spec, inputs)
    with pytest.raises(AssertionError):
        rows.check(spec, inputs, folder=broken(tmp_path, *fault))


def test_a_missing_barrier_of_the_column_sums_is_seen(tmp_path):
    spec, inputs = wide("layer_norm")
    with pytest.raises(AssertionError, match="d1"):
        rows.check(spec, inputs, folder=broken(tmp_path, *COLUMN_BARRIER))


@pytest.mark.parametrize("threads", [16, 48])
def test_a_row_whose_block_is_no_whole_warps_is_reported(monkeypatch, threads):
    monkeypatch.setattr(layer_norm, "row_threads", lambda *_: (threads,))
    with pytest.raises(LaunchError, match="which is not there"):
        rows.check(*wide("layer_norm"))


@pytest.mark.parametrize("name", ["COLUMNS", "LINES"])
def test_another_block_than_a_kernel_was_written_for_is_seen(monkeypatch, name):
    monkeypatch.setattr(layer_norm, name, 4)
    with pytest.raises(AssertionError, match="d1"):
        rows.check(*wide("layer_norm"))


def test_swapped_arguments_of_one_type_are_seen(monkeypatch):
    spec = row("relu")
    right = CudaBackend.launch

    def swapped(self, source, name, dtype, grid, block, x, y, *rest):
        right(self, source, name, dtype, grid, block, y, x, *rest)

    monkeypatch.setattr(CudaBackend, "launch", swapped)
    with pytest.raises(LaunchError, match="read-only"):
        rows.check(spec, harness.draw(spec))


SANITIZED = """
import sys
from pathlib import Path
from tests.kernels.cuda import rows
from tests.ops import harness
for spec in rows.ROWS:
    if spec.op.name in sys.argv[2:] or not sys.argv[2:]:
        rows.check(spec, harness.draw(spec), ("forward",), folder=Path(sys.argv[1]), sanitize=True)
print("clean")
"""


def sanitized(folder, *ops):
    """All rows, or those of some ops, under AddressSanitizer, which has to be the first library of its process."""
    asan = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    library = asan.stdout.strip()
    if not Path(library).is_absolute():
        pytest.skip("the compiler has no AddressSanitizer")
    own = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    command = [sys.executable, "-c", SANITIZED, str(folder), *ops]
    return subprocess.run(command, cwd=ROOT, env=os.environ | own, capture_output=True, text=True, check=False)


def test_no_kernel_reads_or_writes_outside_its_arrays():
    done = sanitized(FOLDER)
    assert done.stdout == "clean\n", done.stderr[:3000]


@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        (
            "common.cuh",
            "const long long packs = wide ? n / WIDTH : 0;",
            "const long long packs = wide ? n / WIDTH + 1 : 0;",
        ),
        ("activation.cu", "over_grid<T>(n, aligned(x, y)", "over_grid<T>(n + 1, aligned(x, y)"),
    ],
)
def test_an_index_past_the_end_is_seen(tmp_path, file, right, wrong):
    done = sanitized(broken(tmp_path, file, right, wrong), "relu")
    assert done.returncode
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr, done.stderr[:3000]
