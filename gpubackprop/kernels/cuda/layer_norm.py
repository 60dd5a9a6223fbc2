"""Layer and RMS norm: a block for each row; the gradients of weight and bias are summed in strips of rows, then these.

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
from gpubackprop.ops.sample_norm import layer_norm, rms_norm
from gpubackprop.tape import Slots

COLUMNS, LINES = 32, 8  # the block of column_sums, as in layer_norm.cu
STRIPS = 64  # at most; each has a block of 256 threads for every 32 columns
NAMES = FORWARD, BACKWARD, COLUMN_SUMS, ADD_STRIPS = tuple(
    f"{name}<{{real}}>" for name in ("forward", "backward", "column_sums", "add_strips")
)
SOURCE = Source("layer_norm.cu", NAMES)


def _norm(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, axes: int, eps: float | None, centred: bool
) -> tuple[Array, Any]:
    shape, dtype = x.shape[x.ndim - axes :], x.dtype
    rows, width = prod(x.shape[: x.ndim - axes]), prod(shape)
    y, mean, rstd = b.empty(x.shape, dtype), *(b.empty((rows,), computed(dtype)) for _ in range(2))
    weight = NULL if weight is None else weight
    small = computed(dtype).type(np.finfo(computed(dtype)).eps if eps is None else eps)
    b.launch(
        *(SOURCE, FORWARD, dtype, (rows,), row_threads(width)),
        *(x, weight, NULL if bias is None else bias, y, mean, rstd, small, np.int32(centred), np.int64(width)),
    )
    return y, (x, mean, rstd, weight, shape, centred)


def layer_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, bias: Array | None, *, axes: int = 1, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    return _norm(b, x, weight, bias, axes, eps, True)


def rms_norm_forward(
    b: CudaBackend, x: Array, weight: Array | None, *, axes: int = 1, eps: float | None = None
) -> tuple[Array, Any]:
    """As ops/sample_norm.py."""
    return _norm(b, x, weight, None, axes, eps, False)


def norm_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As layer_norm_backward and rms_norm_backward in ops/sample_norm.py."""
    x, mean, rstd, weight, shape, centred = saved
    dtype, rows, width = x.dtype, mean.size, prod(shape)
    dx = b.out(slots[0], x.shape, dtype) if slots[0].wanted else None
    if dx is not None:
        numbers = np.int32(centred), np.int64(width)
        b.launch(SOURCE, BACKWARD, dtype, (rows,), row_threads(width), x, weight, mean, rstd, dy, dx, *numbers)
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
