"""Cross-entropy and focal loss: a block for each row of logits, and one that adds up what the rows give, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import row_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.kernels.cuda.totals import ADD_UP, add_up, counts, positions_fit
from gpubackprop.ops.class_loss import focal
from gpubackprop.ops.loss import cross_entropy
from gpubackprop.tape import Slots

FORWARD, BACKWARD = "forward<{real}>", "backward<{real}>"
SOURCE = Source("class_loss.cu", (FORWARD, BACKWARD, ADD_UP))


def cross_entropy_forward(
    b: CudaBackend,
    logits: Array,
    target: Array,
    class_weight: Array | None,
    weight: Array | None,
    mask: Array | None,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    gamma: float = -1.0,
) -> tuple[tuple[Array, Array], Any]:
    """As ops/loss.py, in float32 for shorter logits; with gamma focal loss, as ops/class_loss.py."""
    dtype, classes, rows = logits.dtype, logits.shape[-1], target.size
    wide = computed(dtype)
    target = target if target.dtype == np.int64 else target.astype(np.int64)
    factors, again = counts(rows, weight, mask)
    inputs = (logits, target, NULL if class_weight is None else class_weight, *factors)
    numbers = (*map(wide.type, (label_smoothing, gamma)), np.int64(ignore_index), *again, np.int64(classes))
    peaks, totals, losses, counted = (b.empty((rows,), wide) for _ in range(4))
    b.launch(
        *(SOURCE, FORWARD, dtype, (rows,), row_threads(classes, dtype.itemsize)),
        *(*inputs, peaks, totals, losses, counted, *numbers),
    )
    return add_up(b, SOURCE, dtype, losses, counted), (inputs, peaks, totals, numbers)


def focal_forward(b: CudaBackend, *arrays: Array | None, gamma: float = 2.0, ignore_index: int = -100) -> Any:
    """As ops/class_loss.py; the arrays are those of cross-entropy, alpha its class weights."""
    return cross_entropy_forward(b, *arrays, ignore_index=ignore_index, gamma=gamma)


def cross_entropy_backward(b: CudaBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/loss.py, and for focal loss as ops/class_loss.py."""
    inputs, peaks, totals, numbers = saved
    logits = inputs[0]
    dx = b.out(slots[0], logits.shape, logits.dtype)
    b.launch(
        *(SOURCE, BACKWARD, logits.dtype, (peaks.size,), row_threads(logits.shape[-1], logits.itemsize)),
        *(*inputs, peaks, totals, dy[0], dx, *numbers),
    )
    return dx, None, None, None, None


def _falls(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """A gamma that does not mean cross-entropy."""
    return positions_fit(arrays, options) and options.get("gamma", 0.0) >= 0


kernel(cross_entropy, cross_entropy_forward, cross_entropy_backward, positions_fit)
kernel(focal, focal_forward, cross_entropy_backward, _falls)
