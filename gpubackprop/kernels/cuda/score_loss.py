"""Losses of class scores that take no exponentials: negative log-likelihood and the multi-class hinge."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import elementwise, row_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.kernels.cuda.totals import ADD_UP, add_up, counts, positions_fit
from gpubackprop.ops.class_loss import hinge, nll
from gpubackprop.tape import Slots

NAMES = NLL, NLL_BACKWARD, HINGE, HINGE_BACKWARD = tuple(
    f"{name}<{{real}}>" for name in ("nll", "nll_backward", "hinge", "hinge_backward")
)
SOURCE = Source("score_loss.cu", (*NAMES, ADD_UP))


def _inputs(x: Array, target: Array, more: Any, ignored: int) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The arrays, and the numbers that stand behind all others, as arguments."""
    class_weight, weight, mask = more
    factors, again = counts(target.size, weight, mask)
    target = target if target.dtype == np.int64 else target.astype(np.int64)
    numbers = np.int64(ignored), *again, np.int64(x.shape[-1])
    return (x, target, NULL if class_weight is None else class_weight, *factors), numbers


def nll_forward(b: CudaBackend, x: Array, target: Array, *more: Any, ignore_index: int = -100) -> Any:
    """As ops/class_loss.py."""
    arrays, numbers = _inputs(x, target, more, ignore_index)
    losses, counted = (b.empty((target.size,), computed(x.dtype)) for _ in range(2))
    size = elementwise(target.size, x.itemsize)
    b.launch(SOURCE, NLL, x.dtype, *size, *arrays, losses, counted, *numbers, np.int64(target.size))
    return add_up(b, SOURCE, x.dtype, losses, counted), (arrays, numbers)


def nll_backward(b: CudaBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/class_loss.py."""
    (x, *arrays), numbers = saved
    dx = b.out(slots[0], x.shape, x.dtype)
    block = row_threads(x.shape[-1], x.itemsize)
    b.launch(SOURCE, NLL_BACKWARD, x.dtype, (arrays[0].size,), block, *arrays, dy[0], dx, *numbers)
    return dx, None, None, None, None


def hinge_forward(
    b: CudaBackend, x: Array, target: Array, *more: Any, p: int = 1, margin: float = 1.0, ignore_index: int = -100
) -> Any:
    """As ops/class_loss.py."""
    arrays, numbers = _inputs(x, target, more, ignore_index)
    numbers = computed(x.dtype).type(margin), np.int32(p), *numbers
    losses, counted = (b.empty((target.size,), computed(x.dtype)) for _ in range(2))
    block = row_threads(x.shape[-1], x.itemsize)
    b.launch(SOURCE, HINGE, x.dtype, (target.size,), block, *arrays, losses, counted, *numbers)
    return add_up(b, SOURCE, x.dtype, losses, counted), (arrays, numbers)


def hinge_backward(b: CudaBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/class_loss.py."""
    arrays, numbers = saved
    x, target = arrays[:2]
    dx = b.out(slots[0], x.shape, x.dtype)
    block = row_threads(x.shape[-1], x.itemsize)
    b.launch(SOURCE, HINGE_BACKWARD, x.dtype, (target.size,), block, *arrays, dy[0], dx, *numbers)
    return dx, None, None, None, None


kernel(nll, nll_forward, nll_backward, positions_fit)
kernel(hinge, hinge_forward, hinge_backward, positions_fit)
