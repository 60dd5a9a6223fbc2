"""Inner loops written in vector instructions: small linear maps and the tile of a matrix product.

What these do, LLVM does not find by itself: it takes a loop over a dozen arrays for one whose arrays may overlap, and
keeps no tile of a product in registers. So they are generated, a handful of instructions per number of the matrix.
Places and steps are counted in numbers of a flat array, not bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.tile import BYTES

SUMS = 16 if BYTES == 64 else 8  #: vectors of a tile of a product, which leave some registers for its factors
_SIZE = ir.IntType(64)
_FLAGS = ("contract",)  # a multiplication and an addition may become one instruction; NaN stays NaN


class _Place:
    """A flat array in code under construction: loads and stores of vectors."""

    def __init__(self, context: Any, builder: Any, kind: Any, array: Any) -> None:
        self.builder, self.itemsize = builder, kind.dtype.bitwidth // 8
        self.lanes = BYTES // self.itemsize
        self.data = context.make_array(kind)(context, builder, array).data
        self.vector = ir.VectorType(context.get_data_type(kind.dtype), self.lanes)

    def at(self, place: Any) -> Any:
        return self.builder.gep(self.data, [place])

    def load(self, place: Any) -> Any:
        whole = self.builder.bitcast(self.at(place), self.vector.as_pointer())
        return self.builder.load(whole, align=self.itemsize)

    def store(self, value: Any, place: Any) -> None:
        whole = self.builder.bitcast(self.at(place), self.vector.as_pointer())
        self.builder.store(value, whole, align=self.itemsize)

    def mask(self, lanes: Any) -> Any:
        """True in the first `lanes` lanes."""
        count = ir.Constant(ir.VectorType(_SIZE, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", count, _in_all_lanes(self.builder, lanes, self.lanes))

    def load_some(self, place: Any, mask: Any) -> Any:
        """Zeros where the mask is False; memory there is not touched."""
        zeros = ir.Constant(self.vector, [0.0] * self.lanes)
        pointer = self.builder.bitcast(self.at(place), self.vector.as_pointer())
        kinds = (pointer.type, ir.IntType(32), mask.type, self.vector)
        load = self._masked("load", ir.FunctionType(self.vector, kinds))
        return self.builder.call(load, (pointer, ir.Constant(ir.IntType(32), self.itemsize), mask, zeros))

    def store_some(self, value: Any, place: Any, mask: Any) -> None:
        """Only where the mask is True."""
        pointer = self.builder.bitcast(self.at(place), self.vector.as_pointer())
        kinds = (self.vector, pointer.type, ir.IntType(32), mask.type)
        store = self._masked("store", ir.FunctionType(ir.VoidType(), kinds))
        self.builder.call(store, (value, pointer, ir.Constant(ir.IntType(32), self.itemsize), mask))

    def _masked(self, verb: str, kind: Any) -> Any:
        name = f"llvm.masked.{verb}.v{self.lanes}f{8 * self.itemsize}.p0"
        return cgutils.get_or_insert_function(self.builder.module, kind, name)


def _in_all_lanes(builder: Any, number: Any, lanes: int) -> Any:
    vector = ir.VectorType(number.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, ir.Constant(vector, ir.Undefined), zeros)


def linear_map(*matrices: Array) -> Any:
    """A function of compiled code: a matrix (R, I), times I vectors, for `count` neighbours one after the other.

    f(results, inputs, source, at, step, next, low, high, lanes, target, to, by, then, stop, lanes_out, count): vector
    i of neighbour n lies at source[at + n·next + i·step]; those from `low` to before `high` are there, with `lanes`
    numbers, the rest are zeros. Results r < `stop` go to target[to + n·then + r·by], `lanes_out` numbers of each.
    `results` and `inputs` are tuples of R and I zeros, which say the matrix: one is compiled when it is first needed.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source_array, at, step, neighbour, low, high, lanes, target_array, to, by, then, stop, lanes_out, count = args[
            2:
        ]
        results, inputs = (size.count for size in signature.args[:2])
        matrix = next(matrix for matrix in matrices if matrix.shape == (results, inputs))
        source = _Place(context, builder, signature.args[2], source_array)
        target = _Place(context, builder, signature.args[9], target_array)
        full = ir.Constant(_SIZE, source.lanes)
        whole = builder.and_(
            builder.and_(builder.icmp_signed("<=", low, _SIZE(0)), builder.icmp_signed(">=", high, _SIZE(inputs))),
            builder.and_(
                builder.and_(builder.icmp_signed(">=", lanes, full), builder.icmp_signed(">=", lanes_out, full)),
                builder.icmp_signed(">=", stop, _SIZE(results)),
            ),
        )

        def steps(start: Any, stride: Any, number: int) -> list[Any]:
            return [builder.add(start, builder.mul(stride, _SIZE(i))) for i in range(number)]

        def loop(body: Callable[[Any, Any], None]) -> None:
            with cgutils.for_range(builder, count) as each:
                body(
                    builder.add(at, builder.mul(each.index, neighbour)), builder.add(to, builder.mul(each.index, then))
                )

        def plain(start: Any, end: Any) -> None:
            vectors = [source.load(place) for place in steps(start, step, inputs)]
            for value, place in zip(_combine(builder, matrix, vectors), steps(end, by, results), strict=True):
                target.store(value, place)

        def guarded(start: Any, end: Any) -> None:
            vectors = []
            for i, place in enumerate(steps(start, step, inputs)):
                there = builder.and_(builder.icmp_signed("<=", low, _SIZE(i)), builder.icmp_signed(">", high, _SIZE(i)))
                vectors.append(source.load_some(place, source.mask(builder.select(there, lanes, _SIZE(0)))))
            for r, (value, place) in enumerate(
                zip(_combine(builder, matrix, vectors), steps(end, by, results), strict=True)
            ):
                wanted = builder.select(builder.icmp_signed(">", stop, _SIZE(r)), lanes_out, _SIZE(0))
                target.store_some(value, place, target.mask(wanted))

        with builder.if_else(whole) as (then_block, else_block):
            with then_block:
                loop(plain)
            with else_block:
                loop(guarded)
        return context.get_dummy_value()

    @intrinsic
    def apply(
        typing, results, inputs, source, at, step, neighbour, low, high, lanes,
        target, to, by, then, stop, lanes_out, count,
    ):  # fmt: skip
        three = (types.int64,) * 3
        return types.void(results, inputs, source, *three, *three, target, *three, *three), generate

    return apply


def _combine(builder: Any, matrix: Array, vectors: Sequence[Any]) -> list[Any]:
    """matrix · vectors. Rows, or else columns, 2i - 1 and 2i may be mirror images, as those of points a and -a are:
    equal in every second place, and the negative in the others. Then they share their sums."""
    if matrix.shape[0] >= matrix.shape[1]:
        values = [None] * len(matrix)
        for r, row in enumerate(matrix):
            if values[r] is not None:
                continue
            mirror = _mirror(row, matrix[r + 1]) if r % 2 and r + 1 < len(matrix) else 0
            if not mirror:
                values[r] = _sum(builder, row, vectors)
                continue
            even, odd = (_sum(builder, row * (np.arange(len(row)) % 2 == half), vectors) for half in (0, 1))
            values[r] = builder.fadd(even, odd, flags=_FLAGS)
            values[r + 1] = builder.fsub(*((even, odd) if mirror > 0 else (odd, even)), flags=_FLAGS)
        return values
    turned, mixed, i = matrix.T, [], 0
    columns = []  # of the matrix whose inputs are sums and differences
    while i < len(turned):
        if i % 2 and i + 1 < len(turned) and _mirror(turned[i], turned[i + 1]) > 0:
            even = np.arange(len(matrix)) % 2 == 0
            mixed += [f(vectors[i], vectors[i + 1], flags=_FLAGS) for f in (builder.fadd, builder.fsub)]
            columns += [turned[i] * even, turned[i] * ~even]
            i += 2
        else:
            mixed.append(vectors[i])
            columns.append(turned[i])
            i += 1
    return [_sum(builder, row, mixed) for row in np.array(columns).T]


def _mirror(a: Array, b: Array) -> int:
    """1 if b is a with the sign changed in odd places, -1 if in even places, 0 if neither."""
    signs = 1 - 2 * (np.arange(len(a)) % 2)
    return 1 if np.allclose(a * signs, b) else -1 if np.allclose(-a * signs, b) else 0


def _sum(builder: Any, row: Array, vectors: Sequence[Any]) -> Any:
    """Σ row[i] vectors[i], without what is multiplied by 0 or 1."""
    total = None
    for factor, vector in sorted(zip(row.tolist(), vectors, strict=True), key=lambda pair: abs(pair[0]) == 1):
        if factor == 0:
            continue
        one = abs(factor) == 1
        sign = factor if one else 1.0
        term = vector
        if not one:
            lanes = vector.type.count
            term = builder.fmul(vector, ir.Constant(vector.type, [float(factor)] * lanes), flags=_FLAGS)
        if total is None:
            total = term if sign > 0 else builder.fneg(term)
        else:
            total = (builder.fadd if sign > 0 else builder.fsub)(total, term, flags=_FLAGS)
    return total


def product(vectors: int) -> Any:
    """A function of compiled code: a tile of a matrix product, SUMS / `vectors` rows of so many vectors, in registers.

    f(a, a_at, a_row, a_step, b, b_at, b_step, b_panel, c, c_at, c_row, c_panel, steps, keep): c[c_at + r·c_row +
    v·c_panel + lane] = Σ over s < `steps` of a[a_at + r·a_row + s·a_step] b[b_at + s·b_step + v·b_panel + lane], on
    top of what is there where `keep`.
    """
    rows = SUMS // vectors

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a_array, a_at, a_row, a_step, b_array, b_at, b_step, b_panel, c_array, c_at, c_row, c_panel, steps, keep = args
        a = _Place(context, builder, signature.args[0], a_array)
        b = _Place(context, builder, signature.args[4], b_array)
        c = _Place(context, builder, signature.args[8], c_array)
        tile = [(r, v) for r in range(rows) for v in range(vectors)]
        zeros = ir.Constant(c.vector, [0.0] * c.lanes)
        sums = {rv: cgutils.alloca_once_value(builder, zeros) for rv in tile}

        def moved(start: Any, *moves: tuple[Any, Any]) -> Any:
            for number, stride in moves:
                start = builder.add(start, builder.mul(stride, _SIZE(number) if isinstance(number, int) else number))
            return start

        place = {(r, v): moved(c_at, (r, c_row), (v, c_panel)) for r, v in tile}
        with builder.if_then(keep):
            for rv in tile:
                builder.store(c.load(place[rv]), sums[rv])
        with cgutils.for_range(builder, steps) as each:
            right = [b.load(moved(b_at, (each.index, b_step), (v, b_panel))) for v in range(vectors)]
            for r in range(rows):
                left = builder.load(a.at(moved(a_at, (r, a_row), (each.index, a_step))))
                left = _in_all_lanes(builder, left, a.lanes)
                for v in range(vectors):
                    term = builder.fmul(left, right[v], flags=_FLAGS)
                    builder.store(builder.fadd(builder.load(sums[r, v]), term, flags=_FLAGS), sums[r, v])
        for rv in tile:
            c.store(builder.load(sums[rv]), place[rv])
        return context.get_dummy_value()

    @intrinsic
    def apply(typing, a, a_at, a_row, a_step, b, b_at, b_step, b_panel, c, c_at, c_row, c_panel, steps, keep):
        size = types.int64
        three = (size, size, size)
        return types.void(a, *three, b, *three, c, *three, size, types.boolean), generate

    return apply
