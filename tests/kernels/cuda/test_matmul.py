"""Products on a double of cuBLASLt, which decodes what the binding filled in, against NumPy in float64.

None of it has run on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from gpubackprop.errors import DeviceError, UsageError
from gpubackprop.kernels.cuda.cublaslt import Library, Status, StatusError
from gpubackprop.kernels.cuda.matmul import Matmul, Multiplier
from gpubackprop.kernels.cuda.matmul_product import EPILOGUES, aux_shape, describe
from tests.kernels.cuda.cublaslt_double import UNIT, CublasLtDouble, from_bfloat16, gelu_parts, to_bfloat16

TOLERANCE = {"float32": 3e-6, "tf32": 4e-3, "bfloat16": 1e-2, "float16": 2e-3, "float64": 1e-13}
SHAPES = [(5, 7, 3), (1, 9, 4), (6, 1, 2), (3, 130, 1), (16, 8, 24)]
BATCHES: list[tuple[tuple[int, ...], ...]] = [
    ((), (), ()),
    ((3,), (3,), (3,)),
    ((2, 2), (1, 1), (2, 2)),
    ((), (3,), (1, 3)),
]
FORWARD = [
    "none",
    "bias",
    "relu",
    "relu_bias",
    "relu_aux",
    "relu_aux_bias",
    "gelu",
    "gelu_bias",
    "gelu_aux",
    "gelu_aux_bias",
]


class Memory:
    """Arrays with poison on all sides, and between their rows; the double may touch nothing else."""

    def __init__(self, double: CublasLtDouble) -> None:
        self._double, self._held = double, []
        double.memory = []
        self.workspace = self.address(self.take((4 * UNIT,), np.uint8))

    def take(self, shape: Sequence[int], dtype: Any, wider: int = 0, turned: bool = False, offset: int = 0) -> Any:
        """An array of NaN, `offset` bytes after a multiple of 256; `wider`: elements between its rows."""
        dtype = np.dtype(dtype)
        shape = (*shape[:-2], shape[-1], shape[-2]) if turned else tuple(shape)
        whole = (*shape[:-1], shape[-1] + wider)
        size = int(np.prod(whole)) * dtype.itemsize
        buffer = np.full(size + 1024, 0xFF, np.uint8)
        start = -buffer.ctypes.data % 256 + 256 + offset
        view = buffer[start : start + size].view(dtype).reshape(whole)[..., : shape[-1]]
        array = view.swapaxes(-1, -2) if turned else view
        mask = np.ones(buffer.size, bool)
        mask[start : start + size].reshape(*whole, dtype.itemsize)[..., : shape[-1], :] = False
        self._held.append((buffer, mask))
        self._double.memory.append((buffer.ctypes.data + start, buffer.ctypes.data + start + size))
        return array

    def put(self, values: np.ndarray, **how: Any) -> Any:
        array = self.take(values.shape, values.dtype, **how)
        array[...] = values
        return array

    @staticmethod
    def address(array: Any) -> int:
        return int(array.ctypes.data)

    def assert_untouched(self) -> None:
        for buffer, mask in self._held:
            assert (buffer[mask] == 0xFF).all(), "something beside an array was written"


@pytest.fixture
def double() -> CublasLtDouble:
    return CublasLtDouble()


@pytest.fixture
def memory(double: CublasLtDouble) -> Memory:
    return Memory(double)


@pytest.fixture
def multiply(double: CublasLtDouble, memory: Memory) -> Multiplier:
    return Multiplier(Library(double), memory.address, memory.workspace, 4 * UNIT, stream=lambda: 77)


def stored(x: np.ndarray, dtype: str) -> np.ndarray:
    """As it lies in memory: bfloat16 as its bits."""
    return to_bfloat16(x) if dtype == "bfloat16" else x.astype("float32" if dtype == "tf32" else dtype)


def wide(x: np.ndarray, dtype: str) -> np.ndarray:
    return (from_bfloat16(x) if dtype == "bfloat16" else x).astype(np.float64)


def assert_close(found: np.ndarray, expected: np.ndarray, dtype: str, what: object) -> None:
    assert found.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    worst = float(np.abs(wide(found, dtype) - expected).max())
    assert worst <= TOLERANCE[dtype] * scale, f"{what}: off by {worst}"


def cases() -> Any:
    turns = list(itertools.product([False, True], repeat=2))
    for i, j, k in itertools.product(range(len(SHAPES)), range(len(BATCHES)), range(len(turns))):
        if (i + j + k) % 2 == 0:  # half of all, in which every two of them meet
            (m, n, inner), (batch_a, batch_b, batch) = SHAPES[i], BATCHES[j]
            yield (*batch_a, m, inner), (*batch_b, inner, n), (*batch, m, n), turns[k]


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("epilogue", FORWARD)
def test_forward_epilogues(
    double: CublasLtDouble, memory: Memory, multiply: Multiplier, dtype: str, epilogue: str
) -> None:
    rng = np.random.default_rng(1)
    kept_bits = dtype if dtype != "tf32" else "float32"
    for shape_a, shape_b, shape, (turn_a, turn_b) in cases():
        a = memory.put(stored(rng.normal(size=shape_a), dtype), turned=turn_a, wider=2)
        b = memory.put(stored(rng.normal(size=shape_b), dtype), turned=turn_b, wider=3)
        shared = rng.random() < 0.5
        bias = memory.put(stored(rng.normal(size=shape[-1:] if shared else (*shape[:-2], shape[-1])), dtype))
        out = memory.take(shape, a.dtype, wider=1)
        count = int(np.prod(shape[:-2]))
        kept = None
        if "aux" in epilogue:
            size, bits = aux_shape(epilogue, *shape[-2:], count)
            kept = memory.take(size, np.uint8 if bits else a.dtype)
        asked = {"dtype": dtype, "result": kept_bits, "epilogue": epilogue, "aux": kept, "alpha": 0.5}
        given = {**asked, "bias": bias if "bias" in epilogue else None}
        if dtype == "float64" and kept is not None:
            with pytest.raises(StatusError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
                multiply(a, b, out, **given)
            return
        assert multiply(a, b, out, **given) is out, double.reason
        z = np.broadcast_to(0.5 * (wide(a, dtype) @ wide(b, dtype)), shape)
        if "bias" in epilogue:
            z = z + (wide(bias, dtype) if shared else wide(bias, dtype)[..., None, :])
        y = np.maximum(z, 0) if "relu" in epilogue else gelu_parts(z)[0] if "gelu" in epilogue else z
        assert_close(out, y, dtype, (shape_a, shape_b, turn_a, turn_b))
        if kept is not None and "relu" in epilogue:
            bits = np.unpackbits(kept, axis=1, bitorder="little")[:, : shape[-1]]
            sure = np.abs(z.reshape(bits.shape)) > 0.05
            np.testing.assert_array_equal(bits[sure], (z.reshape(bits.shape) > 0)[sure])
        elif kept is not None:
            assert_close(kept[:, : shape[-1]].reshape(shape), z, dtype, "aux")
    memory.assert_untouched()
    assert {call.stream for call in double.calls} == {77}


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("epilogue", ["drelu", "drelu_bgrad", "dgelu", "dgelu_bgrad", "bgrad_a", "bgrad_b"])
def test_backward_epilogues(
    double: CublasLtDouble, memory: Memory, multiply: Multiplier, dtype: str, epilogue: str
) -> None:
    rng = np.random.default_rng(2)
    kept_as = "float32" if dtype == "tf32" else dtype
    for shape_a, shape_b, shape, (turn_a, turn_b) in cases():
        a = memory.put(stored(rng.normal(size=shape_a), dtype), turned=turn_a)
        b = memory.put(stored(rng.normal(size=shape_b), dtype), turned=turn_b)
        length = shape[-2] if epilogue == "bgrad_a" else shape[-1]
        bias = memory.take((*shape[:-2], length), a.dtype)
        out = memory.take(shape, a.dtype, wider=2)
        before = stored(rng.normal(size=shape), dtype)
        kept = None
        if epilogue[0] == "d":
            size, bits = aux_shape(epilogue, *shape[-2:], int(np.prod(shape[:-2])))
            rows = before.reshape(size[0], -1)
            kept = memory.take(size, np.uint8 if bits else a.dtype)
            packed = np.packbits(wide(rows, dtype) > 0, axis=1, bitorder="little") if bits else rows
            kept[:, : packed.shape[1]] = packed
        given = {"dtype": dtype, "result": kept_as, "epilogue": epilogue, "aux": kept}
        given["bias"] = bias if "bgrad" in epilogue else None
        if dtype == "float64":
            with pytest.raises(StatusError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
                multiply(a, b, out, **given)
            return
        multiply(a, b, out, **given)
        z, slope = np.broadcast_to(wide(a, dtype) @ wide(b, dtype), shape), wide(before, dtype)
        slope = slope > 0 if "relu" in epilogue else gelu_parts(slope)[1] if "gelu" in epilogue else 1.0
        assert_close(out, z * slope, dtype, (shape_a, shape_b, turn_a, turn_b))
        summed = (z * slope).sum(-2)
        if epilogue == "bgrad_a":
            summed = wide(a, dtype).sum(-1)
        if epilogue == "bgrad_b":
            summed = wide(b, dtype).sum(-2)
        if "bgrad" in epilogue:
            assert_close(bias, np.broadcast_to(summed, bias.shape), dtype, "bias")
    memory.assert_untouched()


@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_beta_adds_to_out_and_0_never_reads_it(memory: Memory, multiply: Multiplier, dtype: str) -> None:
    rng = np.random.default_rng(3)
    a, b, c = (stored(rng.normal(size=shape), dtype) for shape in ((4, 3), (3, 5), (4, 5)))
    a, b, out = memory.put(a), memory.put(b), memory.put(c)
    result = "float32" if dtype == "tf32" else dtype
    multiply(a, b, out, dtype=dtype, result=result, alpha=-2.0, beta=0.5)
    assert_close(out, -2 * wide(a, dtype) @ wide(b, dtype) + 0.5 * wide(c, dtype), dtype, "beta")
    out[...] = 0xFFFF if dtype == "bfloat16" else np.nan
    multiply(a, b, out, dtype=dtype, result=result)
    assert_close(out, wide(a, dtype) @ wide(b, dtype), dtype, "poisoned")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_gives_float32_where_asked(memory: Memory, multiply: Multiplier, dtype: str) -> None:
    rng = np.random.default_rng(4)
    a, b = memory.put(stored(rng.normal(size=(6, 9)), dtype)), memory.put(stored(rng.normal(size=(9, 5)), dtype))
    out = multiply(a, b, memory.take((6, 5), np.float32), dtype=dtype)
    assert_close(out, wide(a, dtype) @ wide(b, dtype), "float32", "float32 sums")


def test_tf32_is_not_float32(memory: Memory, multiply: Multiplier) -> None:
    a, b = memory.put(np.full((2, 2), 1 + 2.0**-14, np.float32)), memory.put(np.ones((2, 2), np.float32))
    assert multiply(a, b, memory.take((2, 2), np.float32), dtype="tf32")[0, 0] == 2
    assert multiply(a, b, memory.take((2, 2), np.float32))[0, 0] > 2


@pytest.mark.parametrize("offset", [0, 4, 8, 16, 64])
def test_alignment_is_told_as_it_is(double: CublasLtDouble, memory: Memory, multiply: Multiplier, offset: int) -> None:
    rng = np.random.default_rng(5)
    a, b = (memory.put(rng.normal(size=(4, 4)).astype("float32"), offset=offset) for _ in range(2))
    out = memory.take((4, 4), np.float32, offset=offset)
    assert_close(multiply(a, b, out), a.astype(float) @ b, "float32", offset)
    assert double.calls[-1].algorithm == (2 if offset in (0, 16, 64) else 1)


def test_a_plan_is_built_once(double: CublasLtDouble, memory: Memory, multiply: Multiplier) -> None:
    rng = np.random.default_rng(6)
    for i in range(4):
        a, b = (memory.put(rng.normal(size=(4, 4)).astype("float32")) for _ in range(2))
        bias, out = memory.put(rng.normal(size=4).astype("float32")), memory.take((4, 4), np.float32)
        multiply(a, b, out, epilogue="bias", bias=bias)
        assert_close(out, a.astype(float) @ b + bias, "float32", i)
    assert (len(multiply.plans), double.asked, len(double.calls)) == (1, 1, 4)
    multiply(a, b.T, out)
    assert (len(multiply.plans), double.asked) == (2, 2)
    assert double.alive.count("MatmulDesc") == 2
    assert "MatmulPreference" not in double.alive
    multiply.close()
    assert double.alive == []


def test_a_refusal_is_remembered(double: CublasLtDouble, memory: Memory, multiply: Multiplier) -> None:
    a, b, out = (memory.put(np.eye(4)) for _ in range(3))
    for _ in range(3):
        with pytest.raises(StatusError, match="CUBLAS_STATUS_NOT_SUPPORTED"):
            multiply(a, b, out, epilogue="bgrad_a", bias=out[0])
    assert (double.asked, len(multiply.plans)) == (1, 0)


def test_the_quickest_of_the_first_is_taken_and_can_be_adopted(double: CublasLtDouble, memory: Memory) -> None:
    seconds = {0: 3.0, 1: 1.0, 2: 2.0}

    def timer(call: Callable[[], None]) -> float:
        call()
        return seconds[double.calls[-1].algorithm]

    arguments = Library(double), memory.address, memory.workspace, 4 * UNIT
    timed = Multiplier(*arguments, timer=timer)
    a, b = (memory.put(np.eye(4, dtype="float32")) for _ in range(2))
    timed(a, b, memory.take((4, 4), np.float32))
    assert [call.algorithm for call in double.calls] == [2, 1, 0, 1]
    again = Multiplier(*arguments)
    again.adopt(timed.choices)
    again(a, b, memory.take((4, 4), np.float32))
    assert (double.calls[-1].algorithm, double.asked) == (1, 1)
    out = memory.put(np.ones((4, 4), np.float32))
    timed(a, b, out, beta=1.0)  # timing would add again and again
    np.testing.assert_array_equal(out, np.ones((4, 4)) + np.eye(4))


def test_an_algorithm_that_fails_when_it_is_tried_is_not_taken(double: CublasLtDouble, memory: Memory) -> None:
    broken = {2}

    def timer(call: Callable[[], None]) -> float:
        call()
        if double.calls[-1].algorithm in broken:
            raise StatusError("cublasLtMatmul", Status.NOT_SUPPORTED)
        return 1.0

    def multiplied() -> int:
        multiply = Multiplier(Library(double), memory.address, memory.workspace, 4 * UNIT, timer=timer)
        multiply(*(memory.put(np.eye(4, dtype="float32")) for _ in range(2)), memory.take((4, 4), np.float32))
        return double.calls[-1].algorithm

    assert multiplied() == 1
    broken.add(1)
    assert multiplied() == 0


@pytest.mark.parametrize(("size", "algorithm"), [(0, 0), (UNIT, 1), (4 * UNIT, 2)])
def test_workspace_bounds_the_choice(double: CublasLtDouble, memory: Memory, size: int, algorithm: int) -> None:
    a, b = (memory.put(np.eye(4, dtype="float32")) for _ in range(2))
    multiply = Multiplier(Library(double), memory.address, memory.workspace if size else 0, size)
    multiply(a, b, memory.take((4, 4), np.float32))
    assert double.calls[-1].algorithm == algorithm


def test_refused_arrays_are_named(memory: Memory, multiply: Multiplier) -> None:
    def ones(*shape: int, dtype: str = "float32") -> Any:
        return memory.put(np.ones(shape, dtype))

    a, b, out = ones(4, 3), ones(3, 5), ones(4, 5)
    with pytest.raises(UsageError, match="neither rows nor columns"):
        multiply(ones(8, 6)[::2, ::2], b, out)
    with pytest.raises(UsageError, match="rows of out must be contiguous"):
        multiply(a, b, ones(5, 4).T)
    with pytest.raises(UsageError, match="apart from each other"):
        multiply(a, b, np.broadcast_to(out, (2, 4, 5)))
    with pytest.raises(UsageError, match="not evenly spaced"):
        multiply(ones(4, 4, 4, 3)[:, :2], b, ones(4, 2, 4, 5))
    with pytest.raises(UsageError, match="does not broadcast"):
        multiply(ones(2, 4, 3), b, ones(3, 4, 5))
    with pytest.raises(UsageError, match="does not give"):
        multiply(a, b.T, out)
    with pytest.raises(UsageError, match="no empty arrays"):
        multiply(ones(0, 3), b, ones(0, 5))
    with pytest.raises(UsageError, match="did you mean 'gelu'"):
        multiply(a, b, out, epilogue="gelo")
    with pytest.raises(UsageError, match=r"needs a contiguous bias \(5,\)"):
        multiply(a, b, out, epilogue="bias")
    with pytest.raises(UsageError, match=r"needs a contiguous bias \(5,\)"):
        multiply(a, b, out, epilogue="bias", bias=ones(5, dtype="float64"))
    with pytest.raises(UsageError, match=r"needs a contiguous aux \(4, 16\) of uint8"):
        multiply(a, b, out, epilogue="relu_aux", aux=ones(4, 5))
    with pytest.raises(UsageError, match=r"a bias for each matrix: \(2, 5\)"):
        multiply(ones(2, 4, 3), b, ones(2, 4, 5), epilogue="bgrad_b", bias=ones(5))
    with pytest.raises(UsageError, match="b has numbers of 8 bytes"):
        multiply(a, ones(3, 5, dtype="float64"), out)


def test_errors_name_the_status(double: CublasLtDouble, memory: Memory, multiply: Multiplier) -> None:
    a, b, out = (memory.put(np.eye(4, dtype="float32")) for _ in range(3))
    where = memory.address(a), memory.address(b), memory.address(out)
    plan = Matmul(Library(double), describe(memory.address, a, b, out, epilogue="bias", bias=out[0]))
    handle = multiply._handle
    with pytest.raises(StatusError, match=r"MatmulAlgoGetHeuristic: CUBLAS_STATUS_INVALID_VALUE \(7\).*bias") as caught:
        plan.candidates(handle, 0, 1)  # nothing was pointed at
    assert caught.value.status is Status.INVALID_VALUE
    assert "bias pointer is missing" in double.reason
    plan.point(bias=where[0])
    plan.algorithm = plan.candidates(handle, 4 * UNIT, 1)[0]
    with pytest.raises(StatusError, match="cublasLtMatmul: CUBLAS_STATUS_INVALID_VALUE"):
        plan(handle, *where, memory.workspace, UNIT, 0)
    with pytest.raises(StatusError, match="CUBLAS_STATUS_EXECUTION_FAILED"):
        plan(handle, *where[:2], where[2] + 4096 * 256, memory.workspace, 4 * UNIT, 0)
    plan(handle, *where, memory.workspace, 4 * UNIT, 0)
    plan.close()
    with pytest.raises(StatusError, match="CUBLAS_STATUS_INVALID_VALUE"):
        plan(handle, *where, memory.workspace, 4 * UNIT, 0)
    assert "was destroyed" in double.reason
    assert str(StatusError("f", 99)) == "f: CUBLAS_STATUS_unknown status (99)"


def test_no_gpu_is_a_device_error() -> None:
    with pytest.raises(DeviceError, match="CUBLAS_STATUS_NOT_INITIALIZED"):
        Multiplier(Library(CublasLtDouble(gpu=False)), Memory.address)


def test_every_epilogue_is_known_to_both() -> None:
    from tests.kernels.cuda.cublaslt_double import KNOWN

    assert set(EPILOGUES.values()) == KNOWN
