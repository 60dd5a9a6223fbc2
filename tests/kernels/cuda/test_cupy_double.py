"""The double of CuPy has the signatures of CuPy itself, where that is installed; it needs no GPU for that."""

from __future__ import annotations

import inspect
import re

import pytest

from tests.kernels.cuda.cupy_double import CupyDouble, Event, Graph, MemoryPool, Pointer, Stream

cupy = pytest.importorskip("cupy", reason="CuPy is not installed")

USED = {
    "cuda.Stream": (Stream, ("use", "begin_capture", "end_capture", "synchronize", "wait_event", "record")),
    "cuda.Event": (Event, ("record", "synchronize")),
    "cuda.Graph": (Graph, ("launch",)),
    "cuda.MemoryPool": (MemoryPool, ("malloc",)),
    "cuda.MemoryPointer": (Pointer, ("copy_from_host_async",)),
}


def names(function):
    """The names of a function's parameters; compiled ones have them in the first line of their docstrings."""
    try:
        return [name for name in inspect.signature(function).parameters if name not in ("self", "args", "kwargs")]
    except ValueError:
        inner = re.search(r"\((.*?)\)( ->|$)", function.__doc__.splitlines()[0])[1]
        found = [re.sub(r"=.*", "", each).split()[-1] for each in inner.split(",")]
        return [name for name in found if name not in ("self", "cls")]


@pytest.mark.parametrize("path", USED)
def test_methods_take_what_cupys_take(path):
    double, methods = USED[path]
    theirs = cupy
    for name in path.split("."):
        theirs = getattr(theirs, name)
    for method in methods:
        assert names(getattr(double, method)) == names(getattr(theirs, method))[: len(names(getattr(double, method)))]


def test_functions_are_there_under_their_names():
    double = CupyDouble()
    assert vars(double.cuda).keys() <= set(dir(cupy.cuda)), "something that CuPy does not have"
    assert vars(double.cuda.runtime).keys() <= set(dir(cupy.cuda.runtime))
    for name in ("asarray", "asnumpy", "ElementwiseKernel", "RawModule", "ndarray", "empty", "get_default_memory_pool"):
        assert hasattr(cupy, name)
    assert {"dtype", "shape", "ndim", "size", "strides", "nbytes", "itemsize", "flags", "data"} <= set(
        dir(cupy.ndarray)
    )


def test_sources_are_taken_as_the_driver_gives_them():
    module = cupy.RawModule(code="x", options=("-std=c++17",), name_expressions=("a<float>",))
    assert module.name_expressions == ("a<float>",)
    assert names(cupy.RawModule.get_function) == ["name"]
    kernel = cupy.ElementwiseKernel("T x", "T y", "y = erf(x)", "gpubackprop_erf")
    assert (kernel.nin, kernel.nout) == (1, 1)
