"""Cross-entropy: a block for each row of logits, and one that adds up what the rows give, always in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import NULL, Source
from gpubackprop.kernels.cuda.grid import row_threads
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.loss import cross_entropy
from gpubackprop.tape import Slots

NAMES = FORWARD, BACKWARD, ADD_UP = "forward<{real}>", "backward<{real}>", "add_up<{real}>"
SOURCE = Source("class_loss.cu", NAMES)


def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether nothing is broadcast but weight and mask over axes that follow theirs, and the mask is of booleans."""
    logits, target, class_weight, weight, mask = arrays
    return (
        same_floats(arrays, options)
        and logits.shape[:-1] == target.shape
        and target.dtype.name != "uint64"
        and (class_weight is None or class_weight.shape == logits.shape[-1:])
        and all(each is None or each.shape == target.shape[: each.ndim] for each in (weight, mask))
        and (weight is None or weight.dtype == logits.dtype)
        and (mask is None or mask.dtype.name == "bool")
    )


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
) -> tuple[tuple[Array, Array], Any]:
    """As ops/loss.py, in float32 for shorter logits."""
    dtype, classes, rows = logits.dtype, logits.shape[-1], target.size
    wide = computed(dtype)
    target = target if target.dtype == np.int64 else target.astype(np.int64)
    inputs = (logits, target, *(NULL if a is None else a for a in (class_weight, weight, mask)))
    again = (np.int64(1 if a is None else rows // max(a.size, 1)) for a in (weight, mask))
    numbers = (wide.type(label_smoothing), np.int64(ignore_index), *again, np.int64(classes))
    peaks, totals, losses, counted = (b.empty((rows,), wide) for _ in range(4))
    b.launch(
        *(SOURCE, FORWARD, dtype, (rows,), row_threads(classes)),
        *(*inputs, peaks, totals, losses, counted, *numbers),
    )
    total, count = b.empty((), wide), b.empty((), wide)
    b.launch(SOURCE, ADD_UP, dtype, (1,), row_threads(rows), losses, counted, total, count, np.int64(rows))
    return (total, count), (inputs, peaks, totals, numbers)


def cross_entropy_backward(b: CudaBackend, saved: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """As ops/loss.py."""
    inputs, peaks, totals, numbers = saved
    logits = inputs[0]
    dx = b.out(slots[0], logits.shape, logits.dtype)
    b.launch(
        *(SOURCE, BACKWARD, logits.dtype, (peaks.size,), row_threads(logits.shape[-1])),
        *(*inputs, peaks, totals, dy[0], dx, *numbers),
    )
    return dx, None, None, None, None


kernel(cross_entropy, cross_entropy_forward, cross_entropy_backward, fits)
