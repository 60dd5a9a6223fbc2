"""The projections of attention over a memory: three fully connected layers, whose weights may be one array."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.kernel import kernel
from gpubackprop.kernels.cuda.matmul_linear import linear_backward, linear_forward
from gpubackprop.ops.attention import cross_projection
from gpubackprop.tape import SKIP, Slot, Slots


def _third(x: Array | None, i: int) -> Array | None:
    """Part i of three along the first axis."""
    if x is None:
        return None
    size = x.shape[0] // 3
    return x[i * size : (i + 1) * size]


def cross_projection_forward(
    b: Any, x: Array, memory: Array, bias: Array | None, *weights: Array
) -> tuple[tuple[Array, ...], Any]:
    """As ops/attention.py."""
    thirds = [_third(weights[0], i) for i in range(3)] if len(weights) == 1 else list(weights)
    layers = list(zip((x, memory, memory), thirds, strict=True))
    return tuple(linear_forward(b, *layers[i], _third(bias, i))[0] for i in range(3)), layers


def cross_projection_backward(b: Any, layers: Any, dy: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/attention.py."""
    (x, weight), (memory, _), (_, last) = layers
    if not x.size or not memory.size:
        saved = x, memory, [each for _, each in layers]
        zeros: tuple[Array | None, ...] = cross_projection.backward(b, saved, dy, slots)
        return zeros
    width, dtype = weight.shape[0], x.dtype
    dys = [b.xp.zeros((*s.shape[:-1], width), dtype) if d is None else d for d, (s, _) in zip(dy, layers, strict=True)]
    dbias = b.out(slots[2], (3 * width,), dtype) if slots[2].wanted else None
    packed = b.out(slots[3], (3 * width, width), dtype) if len(slots) == 4 and slots[3].wanted else None
    own = slots[3:] if len(slots) == 6 else [Slot(packed is not None, _third(packed, i)) for i in range(3)]
    dbiases = [Slot(dbias is not None, _third(dbias, i)) for i in range(3)]
    inputs = *slots[:2], SKIP  # of the values' layer below, added to that of the keys'
    grads = [linear_backward(b, layers[i], dys[i], (inputs[i], own[i], dbiases[i])) for i in range(3)]
    dx, dmemory = grads[0][0], grads[1][0]
    if dmemory is not None:
        b.multiply(dys[2].reshape(-1, width), last, dmemory.reshape(-1, memory.shape[-1]), beta=1.0)
    return dx, dmemory, dbias, *([packed] if len(slots) == 4 else [each[1] for each in grads])


kernel(cross_projection, cross_projection_forward, cross_projection_backward)
