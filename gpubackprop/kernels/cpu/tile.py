"""The inner loops of convolution: a tile of a product that stays in vector registers while everything is added to it.

Written as LLVM code, since no loop nest in Python keeps its sums in registers: `rows` times one or two vectors of sums,
and per step one broadcast number for each row against the vectors of the right factor (Goto and van de Geijn 2008,
here without packing the left factor: a window of an image is strided already).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from gpubackprop.kernels.cpu.jit import inline

_FEATURES = llvmlite.binding.get_host_cpu_features()
BYTES = 64 if _FEATURES.get("avx512f") else 32 if _FEATURES.get("avx2") else 16  # of a vector register
#: How many rows a tile may have, of two vectors at most; those of the most fill the registers. Few, each is compiled.
ROWS = (6, 4, 3, 2, 1) if BYTES == 32 else (8, 4, 3, 2, 1)

_INDEX = ir.IntType(64)
_SHORT = ir.IntType(32)
_Step: Any = Callable[[Any, Any], Any]


def lanes(itemsize: int) -> int:
    """How many numbers a vector holds."""
    return BYTES // itemsize


def _firsts() -> tuple[int, ...]:
    """For each count up to twice the most rows: the tile to begin with, so that all take the least time."""
    cost, first = [0.0], [0]
    for count in range(1, 2 * ROWS[0] + 1):
        # One row leaves the multipliers waiting for their own sums; every tile reads the right factor anew.
        best = min((cost[count - r] + max(r, 2) + 1, -r) for r in ROWS if r <= count)
        cost.append(best[0])
        first.append(-best[1])
    return tuple(first)


_FIRST = _firsts()


@inline
def fitting(rows):
    """How many rows the next tile has, `rows` of them left."""
    return ROWS[0] if rows >= len(_FIRST) else _FIRST[rows]


class Emitter:
    """Emits vector instructions on arrays of `dtype`, and the tile for each count of rows and vectors."""

    def __init__(self, builder: Any, dtype: Any) -> None:
        self.builder, self.size = builder, dtype.bitwidth // 8
        self.lanes = lanes(self.size)
        self.vector = ir.VectorType(ir.FloatType() if self.size == 4 else ir.DoubleType(), self.lanes)
        self.multiply_add = self._function("fmuladd", "", [self.vector] * 3)

    def _function(self, name: str, suffix: str, kinds: list[Any], result: Any = None) -> Any:
        kind = ir.FunctionType(result or self.vector, kinds)
        name = f"llvm.{name}.v{self.lanes}f{8 * self.size}{suffix}"
        return cgutils.get_or_insert_function(self.builder.module, kind, name)

    def at(self, base: Any, *moves: Any) -> Any:
        """A pointer that lies so many numbers behind another."""
        for move in moves:
            base = self.builder.gep(base, [move])
        return base

    def times(self, a: Any, b: Any) -> Any:
        """The product of two integers, the second perhaps Python's."""
        return self.builder.mul(a, b) if isinstance(b, ir.Value) else self.builder.mul(a, _INDEX(b))

    def place(self, pointer: Any, v: int) -> Any:
        """Where vector `v` behind a number lies."""
        return self.builder.bitcast(self.at(pointer, _INDEX(v * self.lanes)), self.vector.as_pointer())

    def load(self, pointer: Any, v: int) -> Any:
        """Vector `v` behind a number."""
        return self.builder.load(self.place(pointer, v), align=self.size)

    def store(self, value: Any, pointer: Any, v: int) -> None:
        """Write it."""
        self.builder.store(value, self.place(pointer, v), align=self.size)

    def prefetch(self, pointer: Any, v: int) -> None:
        """Have a vector brought that will be written."""
        place = self.place(pointer, v)
        kind = ir.FunctionType(ir.VoidType(), [place.type] + 3 * [_SHORT])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0")
        self.builder.call(function, (place, _SHORT(1), _SHORT(3), _SHORT(1)))

    def mask(self, count: Any) -> Any:
        """True in the first `count` lanes."""
        indices = ir.VectorType(_SHORT, self.lanes)
        undefined = ir.Constant(indices, ir.Undefined)
        first = self.builder.insert_element(undefined, self.builder.trunc(count, _SHORT), _SHORT(0))
        counts = self.builder.shuffle_vector(first, undefined, ir.Constant(indices, None))
        return self.builder.icmp_signed("<", ir.Constant(indices, list(range(self.lanes))), counts)

    def load_some(self, pointer: Any, v: int, mask: Any) -> Any:
        """Zeros where the mask is False; memory there is not touched."""
        place = self.place(pointer, v)
        function = self._function("masked.load", ".p0", [place.type, _SHORT, mask.type, self.vector])
        return self.builder.call(function, (place, _SHORT(self.size), mask, ir.Constant(self.vector, None)))

    def store_some(self, value: Any, pointer: Any, v: int, mask: Any) -> None:
        """Only where the mask is True."""
        place = self.place(pointer, v)
        kinds = [self.vector, place.type, _SHORT, mask.type]
        function = self._function("masked.store", ".p0", kinds, ir.VoidType())
        self.builder.call(function, (value, place, _SHORT(self.size), mask))

    def broadcast(self, pointer: Any) -> Any:
        """A number in all lanes."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        one = self.builder.insert_element(undefined, self.builder.load(pointer, align=self.size), _SHORT(0))
        return self.builder.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(_SHORT, self.lanes), None))

    def loop(self, count: Any, state: Sequence[Any], body: Any) -> list[Any]:
        """`state` after `count` rounds of state = body(state)."""
        builder = self.builder
        before, head = builder.block, builder.append_basic_block("head")
        inside, behind = builder.append_basic_block("inside"), builder.append_basic_block("behind")
        builder.branch(head)
        builder.position_at_end(head)
        i, *phis = [builder.phi(value.type) for value in (_INDEX(0), *state)]
        for phi, value in zip((i, *phis), (_INDEX(0), *state), strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", i, count), inside, behind)
        builder.position_at_end(inside)
        after = body(i, phis)
        for phi, value in zip((i, *phis), (builder.add(i, _INDEX(1)), *after), strict=True):
            phi.add_incoming(value, builder.block)
        builder.branch(head)
        builder.position_at_end(behind)
        return list(phis)

    def step(self, sums: Sequence[Any], rows: Sequence[Any], right: Any, deep: bool = False) -> list[Any]:
        """Sums of all rows after one number of every row times the vectors at `right`; `deep`: one vector of each."""
        added = []
        vectors = len(sums) // len(rows)
        factors = [self.load(right, v) for v in range(vectors)]
        for r, pointer in enumerate(rows):
            lefts = [self.load(pointer, v) for v in range(vectors)] if deep else [self.broadcast(pointer)] * vectors
            for v, (left, factor) in enumerate(zip(lefts, factors, strict=True)):
                added.append(self.builder.call(self.multiply_add, [left, factor, sums[r * vectors + v]]))
        return added

    def cases(self, rows: Any, vectors: Any, emit: Any) -> None:
        """A switch: the tile of just so many rows and vectors."""
        builder = self.builder
        done = builder.append_basic_block("done")
        switch = builder.switch(builder.add(self.times(rows, 2), vectors), done)
        for r in ROWS:
            for v in (1, 2):
                block = builder.append_basic_block(f"tile{r}x{v}")
                switch.add_case(_INDEX(2 * r + v), block)
                builder.position_at_end(block)
                emit(r, v)
                builder.branch(done)
        builder.position_at_end(done)


def _unpacked(context: Any, builder: Any, signature: Any, args: Any) -> list[Any]:
    """The arguments, arrays as pointers to their data."""
    return [
        context.make_array(kind)(context, builder, value).data if isinstance(kind, types.Array) else value
        for kind, value in zip(signature.args, args, strict=True)
    ]


# Numba goes by the arguments' names, and hands in types.
@intrinsic
def windows_tile(context, rows, vectors, c, c0, cr, a, a0, ar, b, b0, start, start0, offsets, segments, inner):
    """c[c0 + r cr + v] = start[start0 + v] + sum over segments s, k < inner of a[a0 + offsets[s] + r ar + k] b[b0 …].

    All arrays flat; v runs over the numbers of one or two vectors; b lies as (segments · inner, v), contiguous.
    """
    size = types.int64
    signature = types.void(size, size, c, size, size, a, size, size, b, size, start, size, offsets, size, size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, vectors, c, c0, cr, a, a0, ar, b, b0, start, start0, offsets, segments, inner = _unpacked(
            context, builder, signature, args
        )
        e = Emitter(builder, signature.args[2].dtype)

        def emit(r: int, v: int) -> None:
            first = e.at(start, start0)
            sums = [e.load(first, j) for j in range(v)] * r
            width = _INDEX(v * e.lanes)

            def segment(s: Any, state: Any) -> Any:
                left = e.at(a, a0, builder.load(e.at(offsets, s)))

                def step(k: Any, state: Any) -> Any:
                    # Every third row has a pointer of its own: the others are within reach of an address.
                    right, bases, sums = state[0], state[1 : 1 + len(starts)], state[1 + len(starts) :]
                    pointers = [e.at(bases[i // 3], e.times(ar, i % 3)) for i in range(r)]
                    after = e.step(sums, pointers, right)
                    return [e.at(right, width), *(e.at(base, _INDEX(1)) for base in bases), *after]

                starts = [e.at(left, e.times(ar, i)) for i in range(0, r, 3)]
                found = e.loop(inner, [state[0], *starts, *state[1:]], step)
                return [found[0], *found[1 + len(starts) :]]

            found = e.loop(segments, [e.at(b, b0), *sums], segment)[1:]
            for i in range(r):
                for j in range(v):
                    e.store(found[i * v + j], e.at(c, c0, e.times(cr, i)), j)

        e.cases(rows, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


def _products(deep: bool) -> Any:
    """The LLVM code of products_tile, or of deep_products_tile."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, vectors, c, c0, cr, a, a0, ar, ak, a_segment, b, b0, bk, b_segment, segments, inner = _unpacked(
            context, builder, signature, args
        )
        e = Emitter(builder, signature.args[2].dtype)

        def emit(r: int, v: int) -> None:
            def segment(s: Any, state: Any) -> Any:
                def step(k: Any, state: Any) -> Any:
                    left, right, *sums = state
                    pointers = [e.at(left, e.times(ar, i) if deep else _INDEX(i)) for i in range(r)]
                    return [e.at(left, ak), e.at(right, bk), *e.step(sums, pointers, right, deep)]

                left, right, *sums = state
                found = e.loop(inner, [left, right, *sums], step)[2:]
                return [e.at(left, a_segment), e.at(right, b_segment), *found]

            nothing = [ir.Constant(e.vector, None)] * (r * v)
            found = e.loop(segments, [e.at(a, a0), e.at(b, b0), *nothing], segment)[2:]
            for i in range(r):
                for j in range(v):
                    there = e.at(c, c0, e.times(cr, i))
                    e.store(builder.fadd(e.load(there, j), found[i * v + j]), there, j)

        e.cases(rows, vectors, emit)
        return context.get_dummy_value()

    return generate


@intrinsic
def products_tile(context, rows, vectors, c, c0, cr, a, a0, ar, ak, a_segment, b, b0, bk, b_segment, segments, inner):
    """c[c0 + r cr + v] += sum over s, k < inner of a[a0 + s a_segment + k ak + r] b[b0 + s b_segment + k bk + v].

    All arrays flat; s runs over the segments, v over the numbers of one or two vectors; ar is taken as 1.
    """
    size = types.int64
    kinds = types.void(size, size, c, size, size, a, size, size, size, size, b, size, size, size, size, size)
    return kinds, _products(deep=False)


@intrinsic
def deep_windows_tile(context, rows, vectors, c, c0, cr, a, a0, ar, b, b0, bs, start, start0, offsets, segments):
    """c[c0 + r cr + v] = start[start0 + v] + sum over segments s of a[a0 + offsets[s] + r ar + v] b[b0 + s bs + v]."""
    size = types.int64
    signature = types.void(size, size, c, size, size, a, size, size, b, size, size, start, size, offsets, size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        rows, vectors, c, c0, cr, a, a0, ar, b, b0, bs, start, start0, offsets, segments = _unpacked(
            context, builder, signature, args
        )
        e = Emitter(builder, signature.args[2].dtype)

        def emit(r: int, v: int) -> None:
            first = e.at(start, start0)

            def segment(s: Any, state: Any) -> Any:
                left = e.at(a, a0, builder.load(e.at(offsets, s)))
                after = e.step(state[1:], [e.at(left, e.times(ar, i)) for i in range(r)], state[0], deep=True)
                return [e.at(state[0], bs), *after]

            found = e.loop(segments, [e.at(b, b0), *[e.load(first, j) for j in range(v)] * r], segment)[1:]
            for i in range(r):
                for j in range(v):
                    e.store(found[i * v + j], e.at(c, c0, e.times(cr, i)), j)

        e.cases(rows, vectors, emit)
        return context.get_dummy_value()

    return signature, generate


@intrinsic
def deep_products_tile(
    context, rows, vectors, c, c0, cr, a, a0, ar, ak, a_segment, b, b0, bk, b_segment, segments, inner
):
    """c[c0 + r cr + v] += sum over s, k of a[a0 + s a_segment + k ak + r ar + v] b[b0 + s b_segment + k bk + v]."""
    size = types.int64
    kinds = types.void(size, size, c, size, size, a, size, size, size, size, b, size, size, size, size, size)
    return kinds, _products(deep=True)
