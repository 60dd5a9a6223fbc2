"""Matrix products: one factor packed into panels that the caches like, a tile of the result in registers.

Goto and van de Geijn 2008. A panel is (K, width), its `width` columns two vector registers, with anything behind the
last one; the rows of the other factor are read where they are, number by number, or, where they lie as columns, from
such a panel.
OpenBLAS does the same for all sizes alike; here the loops around the tile are the kernels' own, with what they do to a
part of the result while it is in the cache. A factor that many products share is packed once.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.tile import BYTES, Emitter, lanes

ROWS = 8 if BYTES == 64 else 4  # of a tile, with two vectors a row: the sums and factors that registers hold
BLOCK = 256  # numbers of the inner axis that are added up before the sums leave their registers
COLUMNS = 1024  # that a thread packs at a time; as long are the parts of rows that bias and activation go over

_64 = ir.IntType(64)


class _View:
    """A 2-D array in code under construction, its strides in numbers."""

    def __init__(self, e: Emitter, context: Any, kind: Any, value: Any) -> None:
        array, builder = context.make_array(kind)(context, e.builder, value), e.builder
        self.data = array.data
        self.shape = [builder.extract_value(array.shape, axis) for axis in range(2)]
        self.strides = [builder.sdiv(builder.extract_value(array.strides, axis), _64(e.size)) for axis in range(2)]


def _prepared(context: Any, builder: Any, signature: Any, args: Any, views: int) -> tuple[Emitter, list[_View]]:
    e = Emitter(builder, signature.args[0].dtype)
    return e, [_View(e, context, kind, value) for kind, value in zip(signature.args[:views], args, strict=False)]


@intrinsic
def tile(context, a, panel, c, keep):
    """c (R, J) = a (R, K) panel (K or more, width), on top of what is there where `keep`.

    R is ROWS at most and J the width. The rows of a and c may lie apart, and the columns of a; neither is empty. Rows
    that are not there are taken for the last one, and stored there again.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, (a, panel, c) = _prepared(context, builder, signature, args, 3)
        last = builder.sub(c.shape[0], _64(1))
        rows = [builder.select(builder.icmp_signed("<", last, _64(r)), last, _64(r)) for r in range(ROWS)]
        starts = [e.at(a.data, e.times(row, a.strides[0])) for row in rows]
        targets = [e.at(c.data, e.times(row, c.strides[0])) for row in rows]

        def added(vectors: int) -> None:
            def step(k: Any, state: Any) -> Any:
                right, column, *sums = state
                after = e.step(sums, [e.at(start, column) for start in starts], right)
                return [e.at(right, _64(2 * e.lanes)), builder.add(column, a.strides[1]), *after]

            places = [(target, v) for target in targets for v in range(vectors)]
            for place in places:  # memory has the time of all additions to bring them
                e.prefetch(*place)
            nothing = [ir.Constant(e.vector, None)] * len(places)
            sums = e.loop(a.shape[1], [panel.data, _64(0), *nothing], step)[2:]
            masks = [e.mask(builder.sub(c.shape[1], _64(v * e.lanes))) for v in range(vectors)]
            read = [builder.select(args[3], mask, ir.Constant(mask.type, None)) for mask in masks]
            # All is read first: some rows may be stored twice.
            old = [e.load_some(*place, read[place[1]]) for place in places]
            for place, each, more in zip(places, old, sums, strict=True):
                e.store_some(builder.fadd(each, more), *place, masks[place[1]])

        with builder.if_else(builder.icmp_signed(">", c.shape[1], _64(e.lanes))) as (two, one):
            with two:
                added(2)
            with one:
                added(1)
        return context.get_dummy_value()

    return types.void(a, panel, c, keep), generate


@intrinsic
def pack_rows(context, source, panel):
    """panel (K or more, width) = source (K, J), zeros behind them."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, (source, panel) = _prepared(context, builder, signature, args, 2)
        masks = [e.mask(builder.sub(source.shape[1], _64(v * e.lanes))) for v in range(2)]

        def step(k: Any, state: Any) -> Any:
            row, target = state
            for v in range(2):
                e.store(e.load_some(row, v, masks[v]), target, v)
            return [e.at(row, source.strides[0]), e.at(target, _64(2 * e.lanes))]

        e.loop(source.shape[0], [source.data, panel.data], step)
        return context.get_dummy_value()

    return types.void(source, panel), generate


@intrinsic
def pack_columns(context, source, panel):
    """panel (K or more, width) = source (J, K) turned, anything behind; K rounded up to whole vectors is written."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        e, (source, panel) = _prepared(context, builder, signature, args, 2)
        n = e.lanes
        last = builder.sub(source.shape[0], _64(1))
        rows = [builder.select(builder.icmp_signed("<", last, _64(j)), last, _64(j)) for j in range(2 * n)]
        offsets = [e.times(row, source.strides[0]) for row in rows]
        blocks = builder.sdiv(builder.add(source.shape[1], _64(n - 1)), _64(n))

        def block(k: Any, state: Any) -> Any:
            start, target = state
            there = e.mask(builder.sub(source.shape[1], e.times(k, n)))
            for v in range(2):
                rows = [e.load_some(e.at(start, offset), 0, there) for offset in offsets[v * n : (v + 1) * n]]
                for j, each in enumerate(_turned(builder, rows)):
                    e.store(each, e.at(target, _64(j * 2 * n)), v)
            return [e.at(start, _64(n)), e.at(target, _64(2 * n * n))]

        e.loop(blocks, [source.data, panel.data], block)
        return context.get_dummy_value()

    return types.void(source, panel), generate


def _turned(builder: Any, rows: list[Any]) -> list[Any]:
    """A square of vectors transposed: blocks off the diagonal change places, of 1 number, of 2 by 2, and so on."""
    n, span = len(rows), 1
    while span < n:
        for i in range(n):
            if not i & span:
                first, second = rows[i], rows[i + span]
                low = [j if not j & span else n + j - span for j in range(n)]
                high = [j + span if not j & span else n + j for j in range(n)]
                rows[i], rows[i + span] = (
                    builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), n), order))
                    for order in (low, high)
                )
        span *= 2
    return rows


@serial
def pack_block(source, turned, panels):
    """panels (P, K or more, width) = source (K, J), or (J, K) where `turned`; J up to P times the width."""
    width = panels.shape[2]
    for p in range(panels.shape[0]):
        low = p * width
        if turned:
            pack_columns(source[low : low + width], panels[p])
        else:
            pack_rows(source[:, low : low + width], panels[p])


@serial
def multiply(a, panels, c, keep):
    """c (M, N) = a (M, K) times the packed factor (P, K or more, width), on top of what is there where `keep`."""
    width = panels.shape[2]
    for p in range(panels.shape[0]):
        for i in range(0, a.shape[0], ROWS):
            tile(a[i : i + ROWS], panels[p], c[i : i + ROWS, p * width : (p + 1) * width], keep)


def _panels(b: CpuBackend, before: tuple[int, ...], inner: int, dtype: Any) -> Array:
    """Panels for an inner axis, which is rounded up to the squares that pack_columns writes."""
    n = lanes(dtype.itemsize)
    return b.empty((*before, max(-(-inner // n), 1) * n, 2 * n), dtype)


def scratch_for(b: CpuBackend, inner: int, columns: int, dtype: Any) -> Array:
    """(threads, P + 1, K, width): what a thread packs at a time of an (inner, columns) factor, and of the other one."""
    n = 2 * lanes(dtype.itemsize)
    deep = -(-inner // -(-max(inner, 1) // BLOCK))
    return _panels(b, (b.threads, -(-min(columns, COLUMNS) // n) + 1), deep, dtype)


@parallel
def _pack(weight, turned, panels, threads):  # (K, O), or (O, K) turned -> (panels, K, width)
    share = -(-panels.shape[0] // threads)
    width = panels.shape[2]
    for t in prange(threads):
        mine = panels[t * share : (t + 1) * share]
        if mine.shape[0]:
            low = t * share * width
            pack_block(weight[low:] if turned else weight[:, low:], turned, mine)


def pack(b: CpuBackend, weight: Array, turned: bool) -> Array:
    """weight (K, O), or (O, K) where `turned`, as `multiply` takes it, for many products: (P, K or more, width)."""
    inner, columns = weight.shape[::-1] if turned else weight.shape
    panels = _panels(b, (-(-columns // (2 * lanes(weight.dtype.itemsize))),), inner, weight.dtype)
    b.launch(_pack, weight, np.bool_(turned), panels, cost=0.3 * panels.size)
    return panels
