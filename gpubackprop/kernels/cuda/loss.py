"""Losses of single numbers: one pass over x and target, and one block that adds up what the blocks give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.kernels.cuda.totals import ADD_UP, add_up, counts, factors_fit
from gpubackprop.ops import class_loss, loss
from gpubackprop.tape import Op, Slots

DISTANCES = "Square", "Absolute", "Huber", "Cross", "Focal", "Divergence", "LogDivergence"
FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source("loss.cu", (*(name.format(each) for each in DISTANCES for name in (FORWARD, BACKWARD)), ADD_UP))


def distance(op: Op, choose: Callable[..., tuple[Any, ...]], axes: int = 0) -> None:
    """Enter a kernel for a loss (x, target, [pos_weight,] weight, mask).

    choose(**options) names its distance in loss.cu and up to three numbers. The weights belong to the elements of x, or
    to positions of its last `axes` axes.
    """

    def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
        x, target, *positive, weight, mask = arrays
        shape = x.shape[: x.ndim - axes]
        return (
            same_floats(arrays, options)
            and x.shape == target.shape
            and factors_fit(shape, x.dtype, weight, mask)
            and all(each is None or each.shape == x.shape[x.ndim - each.ndim :] for each in positive)
        )

    def forward(b: CudaBackend, x: Array, target: Array, *more: Any, **options: Any) -> tuple[tuple[Array, Array], Any]:
        *given, weight, mask = more
        name, *chosen = choose(**options)
        dtype, wide = x.dtype, computed(x.dtype)
        each = np.int64(x.shape[-1] if axes else 1)
        positive = NULL if not given or given[0] is None else given[0]
        cycle = np.int64(getattr(positive, "size", 1))
        factors, again = counts(x.size, weight, mask)
        inputs = x, target if target.dtype == dtype else target.astype(dtype), positive, *factors
        numbers = *map(wide.type, (*chosen, 0, 0, 0)[:3]), cycle, *again
        grid, block = elementwise(x.size, x.itemsize)
        losses, counted = b.empty(grid, wide), b.empty(grid, wide)
        last = each, np.int64(x.size)
        b.launch(SOURCE, FORWARD.format(name), dtype, grid, block, *inputs, losses, counted, *numbers, *last)
        return add_up(b, SOURCE, dtype, losses, counted), (name, inputs, numbers)

    def backward(b: CudaBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
        name, inputs, numbers = saved
        x = inputs[0]
        dx = b.out(slots[0], x.shape, x.dtype)
        size = elementwise(x.size, x.itemsize)
        b.launch(SOURCE, BACKWARD.format(name), x.dtype, *size, *inputs, dy[0], dx, *numbers, np.int64(x.size))
        return dx, *(None for _ in slots[1:])

    kernel(op, forward, backward, fits)


distance(loss.mse, lambda: ("Square",))
distance(loss.l1, lambda: ("Absolute",))
distance(loss.huber, lambda delta=1.0: ("Huber", delta, 1))
distance(loss.smooth_l1, lambda beta=1.0: ("Huber", beta, 1 / beta) if beta else ("Absolute",))
distance(loss.bce_with_logits, lambda: ("Cross",))
distance(
    class_loss.binary_focal,
    lambda alpha=0.25, gamma=2.0: ("Focal", gamma, *((1, 1) if alpha is None else (alpha, 1 - alpha))),
)
distance(class_loss.kl_div, lambda log_target=False: ("LogDivergence" if log_target else "Divergence",), axes=1)
