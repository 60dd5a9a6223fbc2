"""The sources by NVRTC, which CuPy has them compiled by; no GPU is needed for that."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from functools import partial
from importlib import import_module
from multiprocessing import get_context
from pkgutil import iter_modules

import pytest

from gpubackprop.kernels import cuda
from gpubackprop.kernels.cuda.driver import EXACT, FOLDER, OPTIONS, REAL, Source, text
from gpubackprop.kernels.cuda.windows import WINDOWS
from tests.kernels.cuda.nvrtc import Compiled, CompileError, compiled, find

NVRTC = find()
MODULES = [import_module(f"{cuda.__name__}.{module.name}") for module in iter_modules(cuda.__path__)]
SOURCES = [module.SOURCE for module in MODULES if isinstance(getattr(module, "SOURCE", None), Source)]
#: What each card is compiled for. Not all for all, which takes half as long again: the oldest and Hopper have all.
CARDS = {75: tuple(REAL), 80: EXACT, 86: EXACT, 90: tuple(REAL), 100: EXACT}
needs_nvrtc = pytest.mark.skipif(
    NVRTC is None, reason="no NVRTC, which compiles for GPUs: pip install nvidia-cuda-nvrtc"
)
Start = Callable[..., "Future[Compiled]"]


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """start(source, names, card): in one of several processes, since NVRTC lets one thread work at a time."""
    cores = len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(cores, get_context("spawn")) as processes:
        yield partial(processes.submit, compiled, NVRTC, options=(*OPTIONS, "--ptxas-options=-v"))


def test_every_source_belongs_to_a_module_and_names_all_its_kernels():
    assert {source.file for source in SOURCES} == {path.name for path in FOLDER.glob("*.cu")}
    for source in SOURCES:
        written = re.findall(r"__global__ void (\w+)\(", text(source.file))
        assert {name.partition("<")[0] for name in source.names} == set(written)


def test_a_source_holds_its_headers_and_keeps_its_lines():
    found = text("activation.cu")
    assert "#include" not in found
    assert found.startswith('#line 1 "activation.cu"\n')
    again = found.rpartition('#line 3 "activation.cu"\n')[2]
    assert again.splitlines() == (FOLDER / "activation.cu").read_text().splitlines()[2:]


@pytest.mark.slow
@needs_nvrtc
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.file)
def test_a_source_compiles_for_gpus_without_spills(source, start):
    asked = {}
    for card, dtypes in CARDS.items():
        reals = [REAL[dtype] for dtype in source.dtypes if dtype in dtypes]
        names = [name.format(real=real) for name in source.names for real in reals]
        asked[card] = start(source=text(source.file), names=names, card=card)
    for card, future in asked.items():
        done = future.result()
        assert "warning" not in done.log, done.log[:3000]
        assert sorted(done.entries) == sorted(set(done.symbols)), card
        assert len(done.spills) >= 2 * len(done.entries), "functions that they call are told of too"
        assert not any(done.spills), f"sm_{card}:\n{done.log}"


@needs_nvrtc
def test_a_struct_lies_as_its_dtype_does(start):
    fields = WINDOWS.fields.items()
    same = [f'static_assert(__builtin_offsetof(Windows, {name}) == {at[1]}, "{name}");' for name, at in fields]
    same.append(f'static_assert(sizeof(Windows) == {WINDOWS.itemsize}, "size");')
    start(source=text("im2col.cu") + "\n".join(same), names=[], card=75).result()


# What the compiler says is seen

SPILLING = """
__global__ void __launch_bounds__(1024) hold(const float* x, float* y) {
  float own[200];
  #pragma unroll
  for (int k = 0; k < 200; k++) own[k] = x[k * 1024 + threadIdx.x];
  __syncthreads();
  #pragma unroll
  for (int k = 0; k < 200; k++) y[k * 1024 + threadIdx.x] = own[k] * own[199 - k];
}
"""


@needs_nvrtc
def test_spills_are_seen(start):
    done = start(source=SPILLING, names=["hold"], card=90).result()
    assert done.entries == done.symbols
    assert len(done.spills) == 2
    assert min(done.spills) > 0


@needs_nvrtc
@pytest.mark.parametrize(
    ("body", "names", "problem"),
    [
        ("*y = INFINITY;", ["one"], 'identifier "INFINITY" is undefined'),
        ("*y = 1;", ["two"], "two"),
    ],
    ids=["header", "name"],
)
def test_what_is_refused_is_told(body, names, problem, start):
    with pytest.raises(CompileError, match=problem):
        start(source=f"__global__ void one(float* y) {{ {body} }}", names=names, card=75).result()


@needs_nvrtc
def test_a_warning_is_in_the_log(start):
    source = "__global__ void one(float* y) { int unused; *y = 1; }"
    assert "warning" in start(source=source, names=["one"], card=75).result().log
