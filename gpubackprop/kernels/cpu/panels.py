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


def _product(rows: int) -> Any:
    @intrinsic
    def product(context: Any, a: Any, panel: Any, c: Any) -> Any:
        """c (rows, width) = a (rows, K) panel (K, width); the rows of a and c may lie apart."""

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            arrays = [context.make_array(t)(context, builder, x) for t, x in zip(signature.args, args, strict=True)]
            number = arrays[0].data.type.pointee
            size = context.get_abi_sizeof(number)
            vector, count = ir.VectorType(number, _VECTOR // size), ir.IntType(64)
            a, panel, c = (array.data for array in arrays)
            steps = [builder.sdiv(builder.extract_value(x.strides, 0), count(size)) for x in (arrays[0], arrays[2])]
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
            line = place(panel, builder.mul(k, count(2 * vector.count)))
            lines = [builder.load(vector_at(place(line, count(i * vector.count))), align=size) for i in range(2)]
            undefined, everywhere = ir.Constant(vector, ir.Undefined), ir.VectorType(ir.IntType(32), vector.count)
            new = []
            for i in range(rows):
                factor = builder.load(place(a, builder.mul(steps[0], count(i)), k))
                first = builder.insert_element(undefined, factor, ir.IntType(32)(0))
                all_of_it = builder.shuffle_vector(first, undefined, ir.Constant(everywhere, None))
                for j, other in enumerate(lines):
                    term = builder.fmul(all_of_it, other, flags=("contract",))
                    new.append(builder.fadd(sums[2 * i + j], term, flags=("contract",)))
            for each, value in zip([k, *sums], [builder.add(k, count(1)), *new], strict=True):
                each.add_incoming(value, body)
            builder.branch(test)

            builder.position_at_end(after)
            for i in range(rows):
                for j in range(2):
                    target = place(c, builder.mul(steps[1], count(i)), count(j * vector.count))
                    builder.store(sums[2 * i + j], vector_at(target), align=size)
            return context.get_dummy_value()

        return types.void(a, panel, c), generate

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
                _rows_product(a[low : low + ROWS], panels[p], c[low : low + ROWS, p * width : (p + 1) * width])
            else:
                for one in range(a.shape[0]):
                    _row_product(a[one : one + 1], panels[p], c[one : one + 1, p * width : (p + 1) * width])


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
