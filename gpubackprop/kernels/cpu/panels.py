"""Products of a few rows with a matrix that many products share: the matrix is packed once, the rows stay in registers.

OpenBLAS packs both factors at each call, which for the 32 rows of a step of a recurrent layer takes as long as half of
the arithmetic. Here the packed matrix is (panels, K, width), where `width` columns fill two vector registers (Goto and
van de Geijn 2008); zeros fill up the last panel.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f"))
_VECTOR = 64 if _WIDE else 32  # bytes
ROWS = 8 if _WIDE else 4  # with two vectors a row: as many sums as the registers hold beside the factors

BLOCK = 256  # rows of both factors: those of x then stay in the cache
FLOP = 0.009  # nanoseconds that a multiply-add takes one thread, about


def _product(rows: int) -> Any:
    @intrinsic
    def product(context: Any, a: Any, panel: Any, c: Any, keep: Any) -> Any:
        """c (rows, width) = a (rows, K) panel (K, width), on top of what is there where `keep`.

        The rows of all three may lie apart, and the columns of a.
        """

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [
                context.make_array(t)(context, builder, x) for t, x in zip(signature.args[:3], args[:3], strict=True)
            ]
            number = arrays[0].data.type.pointee
            size = context.get_abi_sizeof(number)
            vector, count = ir.VectorType(number, _VECTOR // size), ir.IntType(64)
            a, panel, c = (array.data for array in arrays)

            def step(array: Any, axis: int) -> Any:
                return builder.sdiv(builder.extract_value(array.strides, axis), count(size))

            row_of_a, row_of_panel, row_of_c = (step(array, 0) for array in arrays)
            column_of_a = step(arrays[0], 1)
            inner = builder.extract_value(arrays[1].shape, 0)

            def place(start: Any, *offsets: Any) -> Any:
                for offset in offsets:
                    start = builder.gep(start, [offset])
                return start

            def vector_at(pointer: Any) -> Any:
                return builder.bitcast(pointer, vector.as_pointer())

            before = builder.block
            test, body, after = (builder.append_basic_block(f"panel.{name}") for name in ("test", "body", "after"))
            builder.branch(test)
            builder.position_at_end(test)
            k = builder.phi(count)
            k.add_incoming(count(0), before)
            sums = [builder.phi(vector) for _ in range(2 * rows)]
            for each in sums:
                each.add_incoming(ir.Constant(vector, [0.0] * vector.count), before)
            builder.cbranch(builder.icmp_signed("<", k, inner), body, after)

            builder.position_at_end(body)
            line, column = place(panel, builder.mul(k, row_of_panel)), builder.mul(k, column_of_a)
            lines = [builder.load(vector_at(place(line, count(i * vector.count))), align=size) for i in range(2)]
            undefined, everywhere = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
            new = []
            for i in range(rows):
                factor = builder.load(place(a, builder.mul(row_of_a, count(i)), column))
                first = builder.insert_element(undefined, factor, ir.IntType(32)(0))
                all_of_it = builder.shuffle_vector(first, undefined, ir.Constant(everywhere, None))
                for j, other in enumerate(lines):
                    term = builder.fmul(all_of_it, other, flags=("contract",))
                    new.append(builder.fadd(sums[2 * i + j], term, flags=("contract",)))
            for each, value in zip([k, *sums], [builder.add(k, count(1)), *new], strict=True):
                each.add_incoming(value, body)
            builder.branch(test)

            builder.position_at_end(after)
            targets = [
                vector_at(place(c, builder.mul(row_of_c, count(i)), count(j * vector.count)))
                for i in range(rows)
                for j in range(2)
            ]
            with builder.if_else(args[3]) as (on_top, anew):
                with on_top:
                    for target, each in zip(targets, sums, strict=True):
                        builder.store(builder.fadd(builder.load(target, align=size), each), target, align=size)
                with anew:
                    for target, each in zip(targets, sums, strict=True):
                        builder.store(each, target, align=size)
            return context.get_dummy_value()

        return types.void(a, panel, c, types.boolean), generate

    return product


_rows_product, _row_product = _product(ROWS), _product(1)


@serial
def multiply(a, panels, c):
    """c (M, panels width) = a (M, K) times the packed matrix."""
    width = panels.shape[2]
    for p in range(panels.shape[0]):
        for i in range(0, a.shape[0], ROWS):
            if a.shape[0] >= ROWS:
                low = min(i, a.shape[0] - ROWS)  # the last rows may be computed twice
                _rows_product(a[low : low + ROWS], panels[p], c[low : low + ROWS, p * width : (p + 1) * width], False)
            else:
                for one in range(a.shape[0]):
                    _row_product(a[one : one + 1], panels[p], c[one : one + 1, p * width : (p + 1) * width], False)


@parallel
def _multiply(a, panels, c, threads):  # (M, K), (panels, K, width), (M, panels width)
    share = -(-a.shape[0] // (threads * ROWS)) * ROWS
    for t in prange(threads):
        for low in range(t * share, min((t + 1) * share, a.shape[0]), ROWS * 16):
            high = min(low + ROWS * 16, (t + 1) * share, a.shape[0])
            multiply(a[low:high], panels, c[low:high])


@parallel
def _multiply_turned(a, x, c, sums, scratch, panels, threads):
    # (K, M), (K, N), (M, N), (M,) or (0,), (threads, block, ROWS), (threads, N / width, block, width)
    width, block = panels.shape[3], scratch.shape[1]
    share = -(-c.shape[0] // (threads * ROWS)) * ROWS
    for t in prange(threads):
        low, high = t * share, min((t + 1) * share, c.shape[0])
        for start in range(0, a.shape[0], block):
            stop = min(start + block, a.shape[0])
            if low < high:
                for k in range(start, stop):
                    for p in range(panels.shape[1]):
                        for j in range(width):
                            panels[t, p, k - start, j] = x[k, p * width + j]
            for i in range(low, high, ROWS):
                for k in range(start, stop):
                    for r in range(ROWS):
                        scratch[t, k - start, r] = a[k, i + r]
                rows = scratch[t, : stop - start].T
                for p in range(panels.shape[1]):
                    part = c[i : i + ROWS, p * width : (p + 1) * width]
                    _rows_product(rows, panels[t, p, : stop - start], part, start > 0)
        if sums.size and low < high:
            sums[low:high] = 0
            for k in range(a.shape[0]):
                _add(a[k, low:high], sums[low:high])


@serial
def _add(a, total):
    for j in range(total.size):
        total[j] += a[j]


@parallel
def _pack(weight, turned, panels, threads):  # (K, O), or (O, K) turned -> (panels, K, width)
    columns = weight.shape[0] if turned else weight.shape[1]
    share = -(-panels.shape[0] // threads)
    for t in prange(threads):
        for p in range(t * share, min((t + 1) * share, panels.shape[0])):
            first = p * panels.shape[2]
            if first + panels.shape[2] > columns:
                panels[p, :, columns - first :] = 0
            for j in range(min(columns - first, panels.shape[2])):
                if turned:
                    for k in range(panels.shape[1]):
                        panels[p, k, j] = weight[first + j, k]
            if not turned:
                for k in range(panels.shape[1]):
                    for j in range(min(columns - first, panels.shape[2])):
                        panels[p, k, j] = weight[k, first + j]


def pack(b: CpuBackend, weight: Array, turned: bool) -> Array:
    """weight (K, O), or (O, K) where `turned`, as `multiply` takes it."""
    inner, columns = weight.shape[::-1] if turned else weight.shape
    width = 2 * _VECTOR // weight.dtype.itemsize
    panels = b.empty((-(-columns // width), inner, width), weight.dtype)
    b.launch(_pack, weight, np.bool_(turned), panels, cost=1.0 * panels.size)
    return panels


def products(b: CpuBackend, a: Array, weight: Array, turned: bool, c: Array) -> bool:
    """c (M, O) = a (M, K) weight (K, O), or weight (O, K) where `turned`; False, undone, where sizes do not fit."""
    if c.shape[1] % (2 * _VECTOR // c.dtype.itemsize) or c.shape[0] < ROWS:
        return False
    b.launch(_multiply, a, pack(b, weight, turned), c, cost=FLOP * a.size * c.shape[1])
    return True


def products_turned(b: CpuBackend, a: Array, x: Array, c: Array, sums: Array) -> bool:
    """c (M, N) = a (K, M) turned times x (K, N), and sums (M,), or (0,), those of a's columns; False as `products`."""
    width, block = 2 * _VECTOR // c.dtype.itemsize, min(BLOCK, a.shape[0])
    if c.shape[1] % width or c.shape[0] % ROWS:
        return False
    scratch = b.empty((b.threads, block, ROWS), c.dtype)
    panels = b.empty((b.threads, c.shape[1] // width, block, width), c.dtype)
    b.launch(_multiply_turned, a, x, c, sums, scratch, panels, cost=FLOP * a.size * c.shape[1])
    return True
