"""The real cuBLASLt, as far as it needs no GPU, beside the double: both hold the same descriptors."""

from __future__ import annotations

import itertools
import sys
from ctypes import byref, c_uint64, sizeof
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from gpubackprop.errors import DeviceError
from gpubackprop.kernels.cuda.cublaslt import ATTRIBUTES, DTYPES, Heuristic, Library, Opaque, Status, StatusError, load
from gpubackprop.kernels.cuda.matmul import Matmul
from gpubackprop.kernels.cuda.matmul_product import EPILOGUES, Matrix, Product
from tests.kernels.cuda.cublaslt_double import SIZES, CublasLtDouble


@pytest.fixture(scope="module")
def real() -> Library:
    try:
        return load()
    except DeviceError as error:
        pytest.skip(f"no cuBLASLt here: {error}")


@pytest.fixture
def double() -> CublasLtDouble:
    return CublasLtDouble()


def everything(plan: Matmul) -> dict[str, int]:
    things = {"description": plan.description, "a": plan.a, "b": plan.b, "out": plan.out}
    return {
        f"{key} {name}": thing.get(name)
        for key, thing in things.items()
        for name in ATTRIBUTES["MatmulDesc" if key == "description" else "MatrixLayout"]
    }


def products() -> Any:
    for dtype, epilogue, turns in itertools.product(DTYPES, EPILOGUES, itertools.product([False, True], repeat=2)):
        a, b = Matrix(turns[0], 64, 7 * 64), Matrix(turns[1], 80, 0)
        result = "float32" if dtype == "tf32" else dtype
        yield Product(7, 33, 11, a, b, Matrix(False, 40, 280), 3, dtype, result, epilogue, bias_step=33)


def test_the_real_library_holds_the_same_descriptors(real: Library, double: CublasLtDouble) -> None:
    fake = Library(double)
    for product in products():
        plans = Matmul(real, product), Matmul(fake, product)
        for plan in plans:
            plan.point(bias=0x7F00_1234_5600, aux=0x7F00_6543_2100)
        found, expected = map(everything, plans)
        assert found == expected, product
        for plan in plans:
            plan.close()


@pytest.mark.parametrize("kind", list(SIZES))
def test_the_real_library_has_the_doubles_attributes(real: Library, double: CublasLtDouble, kind: str) -> None:
    arguments: tuple[int, ...] = {"MatmulDesc": (68, 0), "MatrixLayout": (0, 4, 5, 6)}.get(kind, ())
    for library in (real, Library(double)):
        thing = Opaque(library, kind, *arguments)
        for number, (size, _) in SIZES[kind].items():
            for given in (1, 2, 4, 8):
                value = byref(c_uint64(1))
                if given == size:
                    library.call(f"cublasLt{kind}SetAttribute", thing.handle, number, value, given)
                else:
                    with pytest.raises(StatusError) as caught:
                        library.call(f"cublasLt{kind}SetAttribute", thing.handle, number, value, given)
                    assert caught.value.status is Status.INVALID_VALUE


def test_defaults_are_the_real_librarys(real: Library, double: CublasLtDouble) -> None:
    for kind, arguments in (("MatmulDesc", (68, 0)), ("MatrixLayout", (14, 4, 5, 6)), ("MatmulPreference", ())):
        found, expected = (Opaque(library, kind, *arguments) for library in (real, Library(double)))
        for name in ATTRIBUTES[kind]:
            assert found.get(name) == expected.get(name), name


def test_attributes_have_the_sizes_of_the_header() -> None:
    for kind, table in ATTRIBUTES.items():
        for number, ctype in table.values():
            assert sizeof(ctype) == SIZES[kind][number][0]
    assert sizeof(Heuristic) == 96


def test_objects_are_destroyed_once(double: CublasLtDouble) -> None:
    thing = Opaque(Library(double), "MatmulPreference")
    assert double.alive == ["MatmulPreference"]
    thing.close()
    thing.close()
    assert (double.alive, double.reason) == ([], "")
    with pytest.raises(StatusError, match=r"SetAttribute: CUBLAS_STATUS_INVALID_VALUE \(7\): arguments that"):
        thing.set(MAX_WORKSPACE_BYTES=1)
    del thing
    Opaque(Library(double), "MatmulPreference")
    assert (double.alive, double.reason.count("destroyed")) == ([], 1)


def test_a_library_that_is_not_there_is_a_device_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(DeviceError, match="pip install cuda-pathfinder"):
        load()

    def missing(name: str) -> None:
        raise RuntimeError(f"lib{name}.so is nowhere\nsearched everywhere")

    pathfinder = ModuleType("cuda.pathfinder")
    pathfinder.load_nvidia_dynamic_lib = missing  # type: ignore[attr-defined]  # a made-up module
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", pathfinder)
    with pytest.raises(DeviceError, match=r"cannot be loaded \(libcublasLt.so is nowhere\): pip install nvidia-cublas"):
        load()


def test_bfloat16_of_the_double_rounds_to_even() -> None:
    from tests.kernels.cuda.cublaslt_double import from_bfloat16, to_bfloat16

    x = np.array([1.0, 1 + 2.0**-8, 1 + 3 * 2.0**-8, -np.inf, np.nan], np.float32)
    np.testing.assert_array_equal(from_bfloat16(to_bfloat16(x)), np.float32([1, 1, 1 + 2.0**-6, -np.inf, np.nan]))
