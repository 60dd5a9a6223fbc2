"""Elementwise functions; the formulas are in activation.cu."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import kernel
from gpubackprop.ops import activation
from gpubackprop.tape import Op, Slots

OF_OUTPUT = ("Relu", "Sigmoid", "Tanh")  #: curves whose slope is a function of y; the others' is one of x
OF_INPUT = ("Silu", "Gelu", "GeluTanh")
FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source(
    "activation.cu",
    tuple(name.format(curve) for curve in OF_OUTPUT + OF_INPUT for name in (FORWARD, BACKWARD)),
)


def curve(op: Op, choose: Callable[..., str]) -> None:
    """Enter a kernel for `op`: choose(**options) names its curve in activation.cu."""

    def forward(b: CudaBackend, x: Array, **options: Any) -> tuple[Array, Any]:
        name = choose(**options)
        y = b.empty(x.shape, x.dtype)
        size = elementwise(x.size, x.itemsize)
        b.launch(SOURCE, FORWARD.format(name), x.dtype, *size, x, y, np.int64(x.size))
        return y, (y if name in OF_OUTPUT else x, name)

    def backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
        kept, name = saved
        dx = b.out(slots[0], dy.shape, dy.dtype)
        size = elementwise(dy.size, dy.itemsize)
        b.launch(SOURCE, BACKWARD.format(name), dy.dtype, *size, kept, dy, dx, np.int64(dy.size))
        return (dx,)

    kernel(op, forward, backward)


curve(activation.relu, lambda: "Relu")
curve(activation.sigmoid, lambda: "Sigmoid")
curve(activation.tanh, lambda: "Tanh")
curve(activation.silu, lambda: "Silu")
curve(activation.gelu, lambda approximate="none": "Gelu" if approximate == "none" else "GeluTanh")
