"""Layer and RMS norm, of a sum too: a block for each row; weight and bias get their gradients by strips of rows.

Letters: M rows, I values of each.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import THREADS, row_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.ops.add_norm import add_layer_norm, add_rms_norm
from gpubackprop.ops.sample_norm import layer_norm, rms_norm
from gpubackprop.tape import Slots

COLUMNS, LINES = 32, 8  # the block of column_sums, as in layer_norm.cu
STRIPS = 64  # at most; each has a block of 256 threads for every 32 columns
NAMES = FORWARD, BACKWARD, COLUMN_SUMS, ADD_STRIPS = tuple(
    f"{name}<{{real}}>" for name in ("forward", "backward", "column_sums", "add_strips")
)
SOURCE = Source("layer_norm.cu", NAMES)


def _norm(
    b: CudaBackend,
    x: Array,
    r: Array | None,
    weight: Array | None,
    bias: Array | None,
    axes: int,
    eps: float | None,
    centred: bool,
) -> tuple[tuple[Array, Array], Any]:
    """s, which is x itself where there is no r, and y."""
    shape, dtype = x.shape[x.ndim - axes :], x.dtype
    rows, width = prod(x.shape[: x.ndim - axes]), prod(shape)
    y, mean, rstd = b.empty(x.shape, dtype), *(b.empty((rows,), computed(dtype)) for _ in range(2))
    weight, s = NULL if weight is None else weight, x if r is None else b.empty(x.shape, dtype)
    added = (NULL, NULL) if r is None else (r, s)
    small = computed(dtype).type(np.finfo(computed(dtype)).eps if eps is None else eps)
    b.launch(
        *(SOURCE, FORWARD, dtype, (rows,), row_threads(width, dtype.itemsize)),
        *(x, added[0], weight, NULL if bias is None else bias, added[1], y, mean, rstd),
        *(small, np.int32(centred), np.int64(width)),
    )
    return (s, y), (s, mean, rstd, weight, shape, centred)


def layer_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    (_, y), saved = _norm(b, x, None, weight, bias, axes, eps, True)
    return y, saved


def rms_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    (_, y), saved = _norm(b, x, None, weight, None, axes, eps, False)
    return y, saved


def norm_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As layer_norm_backward and rms_norm_backward in ops/sample_norm.py."""
    return _gradients(b, saved, dy, NULL, slots)


def add_layer_norm_forward(
    b: CudaBackend, x: Array, r: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[tuple[Array, Array], Any]:
    """As ops/add_norm.py."""
    return _norm(b, x, r, weight, bias, axes, eps, True)


def add_rms_norm_forward(
    b: CudaBackend, x: Array, r: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[tuple[Array, Array], Any]:
    """As ops/add_norm.py."""
    return _norm(b, x, r, weight, None, axes, eps, False)


def add_norm_backward(b: CudaBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As add_layer_norm_backward and add_rms_norm_backward in ops/add_norm.py."""
    ds, dy = dys
    sum_slot = slots[0] if slots[0].wanted else slots[1]
    if dy is None:
        dsum, affine = ds, [b.xp.zeros(saved[4], ds.dtype) if slot.wanted else None for slot in slots[2:]]
    else:
        dsum, *affine = _gradients(b, saved, dy, NULL if ds is None else ds, [sum_slot, *slots[2:]])
    return dsum if slots[0].wanted else None, dsum if slots[1].wanted else None, *affine


def _gradients(b: CudaBackend, saved: Any, dy: Array, ds: Array, slots: Slots) -> tuple[Array | None, ...]:
    x, mean, rstd, weight, shape, centred = saved
    dtype, rows, width = x.dtype, mean.size, prod(shape)
    dx = b.out(slots[0], x.shape, dtype) if slots[0].wanted else None
    if dx is not None:
        numbers = np.int32(centred), np.int64(width)
        block = row_threads(width, dtype.itemsize)
        b.launch(SOURCE, BACKWARD, dtype, (rows,), block, x, weight, mean, rstd, dy, ds, dx, *numbers)
    affine = [b.out(slot, shape, dtype) if slot.wanted else None for slot in slots[1:]]
    if any(each is not None for each in affine):
        strips = min(-(-rows // (4 * LINES)), STRIPS)
        partial = b.empty((strips, 2, width), computed(dtype))
        b.launch(
            *(SOURCE, COLUMN_SUMS, dtype, (-(-width // COLUMNS), strips), (COLUMNS, LINES)),
            *(x, mean, rstd, dy, partial, np.int64(rows), np.int64(width)),
        )
        dweight, dbias = (NULL if each is None else each for each in (*affine, None)[:2])
        b.launch(
            *(SOURCE, ADD_STRIPS, dtype, (-(-width // THREADS),), (THREADS,)),
            *(partial, dweight, dbias, np.int32(strips), np.int64(width)),
        )
    return dx, *affine


kernel(layer_norm, layer_norm_forward, norm_backward)
kernel(rms_norm, rms_norm_forward, norm_backward)
kernel(add_layer_norm, add_layer_norm_forward, add_norm_backward)
kernel(add_rms_norm, add_rms_norm_forward, add_norm_backward)
