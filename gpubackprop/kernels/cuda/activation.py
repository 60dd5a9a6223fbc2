"""Elementwise functions; the formulas are in activation.cu."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel
from gpubackprop.ops import activation, gated, rectified
from gpubackprop.tape import Op, Slots

OF_OUTPUT = ("Relu", "Elu", "Sigmoid", "Tanh")  #: curves whose slope is a function of y; the others' is one of x
OF_INPUT = ("LeakyRelu", "Silu", "Gelu", "GeluTanh", "Softplus", "Hardtanh", "Hardsigmoid", "Hardswish", "Mish")
FORWARD, BACKWARD = "forward<{{real}}, {}>", "backward<{{real}}, {}>"
SOURCE = Source(
    "activation.cu",
    tuple(name.format(curve) for curve in OF_OUTPUT + OF_INPUT for name in (FORWARD, BACKWARD)),
)


def curve(op: Op, choose: Callable[..., tuple[Any, ...]]) -> None:
    """Enter a kernel for `op`: choose(**options) names its curve in activation.cu, and up to two numbers."""

    def forward(b: CudaBackend, x: Array, **options: Any) -> tuple[Array, Any]:
        name, *chosen = choose(**options)
        numbers = *map(computed(x.dtype).type, (*chosen, 0, 0)[:2]), np.int64(x.size)
        y = b.empty(x.shape, x.dtype)
        b.launch(SOURCE, FORWARD.format(name), x.dtype, *elementwise(x.size, x.itemsize), x, y, *numbers)
        return y, (y if name in OF_OUTPUT else x, name, numbers)

    def backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
        kept, name, numbers = saved
        dx = b.out(slots[0], dy.shape, dy.dtype)
        size = elementwise(dy.size, dy.itemsize)
        b.launch(SOURCE, BACKWARD.format(name), dy.dtype, *size, kept, dy, dx, *numbers)
        return (dx,)

    kernel(op, forward, backward)


curve(activation.relu, lambda: ("Relu",))
curve(activation.leaky_relu, lambda negative_slope=0.01: ("LeakyRelu", negative_slope))
curve(activation.elu, lambda alpha=1.0: ("Elu", alpha, 1))
curve(activation.sigmoid, lambda: ("Sigmoid",))
curve(activation.tanh, lambda: ("Tanh",))
curve(activation.silu, lambda: ("Silu",))
curve(activation.gelu, lambda approximate="none": ("Gelu" if approximate == "none" else "GeluTanh",))
curve(activation.softplus, lambda beta=1.0, threshold=20.0: ("Softplus", beta, threshold))
curve(rectified.selu, lambda: ("Elu", rectified.SELU_ALPHA, rectified.SELU_SCALE))
curve(rectified.hardtanh, lambda low=-1.0, high=1.0: ("Hardtanh", low, high))
curve(rectified.hardsigmoid, lambda: ("Hardsigmoid",))
curve(gated.hardswish, lambda: ("Hardswish",))
curve(gated.mish, lambda: ("Mish",))
