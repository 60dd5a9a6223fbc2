"""Gated linear units; the gate is computed again in the backward pass, and nothing but x is kept."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import kernel
from gpubackprop.ops.gated import glu, swiglu
from gpubackprop.tape import Op, Slots

FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source("gated.cu", tuple(name.format(gate) for gate in ("Glu", "SwiGlu") for name in (FORWARD, BACKWARD)))


def gate(op: Op, name: str) -> None:
    """Enter a kernel for `op`, a gate of this name in gated.cu."""

    def forward(b: CudaBackend, x: Array, *, axis: int = -1) -> tuple[Array, Any]:
        axis %= x.ndim
        shape = *x.shape[:axis], x.shape[axis] // 2, *x.shape[axis + 1 :]
        y = b.empty(shape, x.dtype)
        numbers = np.int64(prod(shape[axis:])), np.int64(y.size)
        b.launch(SOURCE, FORWARD.format(name), x.dtype, *elementwise(y.size, y.itemsize), x, y, *numbers)
        return y, (x, numbers)

    def backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
        x, numbers = saved
        dx = b.out(slots[0], x.shape, x.dtype)
        b.launch(SOURCE, BACKWARD.format(name), x.dtype, *elementwise(dy.size, dy.itemsize), x, dy, dx, *numbers)
        return (dx,)

    kernel(op, forward, backward)


gate(glu, "Glu")
gate(swiglu, "SwiGlu")
