"""Elementwise functions: each thread has its own piece of the flat arrays, and goes over it once.

One loop serves them all; the functions themselves, with their slopes, are in curves.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu import curves
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.jit import Launched, parallel, prange
from gpubackprop.kernels.cpu.kernel import kernel
from gpubackprop.ops import activation, gated, rectified
from gpubackprop.ops.rectified import SELU_ALPHA, SELU_SCALE
from gpubackprop.tape import Op, Slots

LINE = 16  # numbers of a cache line: threads do not write into each other's


class Curve(NamedTuple):
    """A function and its slope over whole arrays; the slope is of the output, or else of the input."""

    forward: Launched
    backward: Launched
    of_output: bool
    cost: float  # nanoseconds for an element in float32


def _forward(value: Any) -> Launched:
    @parallel
    def forward(x, y, a, b, threads):  # (n,), (n,), and two numbers of curves.py
        width = -(-x.size // (threads * LINE)) * LINE
        for t in prange(threads):
            own_x, own_y = x[t * width : (t + 1) * width], y[t * width : (t + 1) * width]
            for i in range(own_x.size):
                own_y[i] = value(own_x[i], a, b)

    return forward


def _backward(slope: Any) -> Launched:
    @parallel
    def backward(kept, dy, dx, a, b, threads):  # (n,), (n,), (n,)
        width = -(-dx.size // (threads * LINE)) * LINE
        for t in prange(threads):
            own = kept[t * width : (t + 1) * width]
            own_dy, own_dx = dy[t * width : (t + 1) * width], dx[t * width : (t + 1) * width]
            for i in range(own_dx.size):
                own_dx[i] = own_dy[i] * slope(own[i], a, b)

    return backward


def curve(value: Any, slope: Any, *, of_output: bool = False, cost: float = 0.5) -> Curve:
    """The loops over an inline function of one number and over its slope."""
    return Curve(_forward(value), _backward(slope), of_output, cost)


def elementwise(op: Op, choose: Callable[..., tuple[Curve, float, float]]) -> None:
    """Enter a kernel for `op`: choose(**options) says which curve it is, and its two numbers."""

    def forward(b: CpuBackend, x: Array, **options: Any) -> tuple[Array, Any]:
        found, *numbers = choose(**options)
        first, second = map(x.dtype.type, numbers)
        y = b.empty(x.shape, x.dtype)
        b.launch(found.forward, x.reshape(-1), y.reshape(-1), first, second, cost=found.cost * x.size)
        return y, (y if found.of_output else x, found, first, second)

    def backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array]:
        kept, found, first, second = saved
        dx = b.empty(dy.shape, dy.dtype)
        arrays = kept.reshape(-1), dy.reshape(-1), dx.reshape(-1)
        b.launch(found.backward, *arrays, first, second, cost=found.cost * dx.size)
        return (dx,)

    kernel(op, forward, backward)


RELU = curve(curves.relu, curves.relu_slope, of_output=True, cost=0.2)
LEAKY_RELU = curve(curves.leaky_relu, curves.leaky_relu_slope, cost=0.2)
ELU = curve(curves.elu, curves.elu_slope, of_output=True)
GELU = curve(curves.gelu, curves.gelu_slope)
GELU_TANH = curve(curves.gelu_tanh, curves.gelu_tanh_slope)
SILU = curve(curves.silu, curves.silu_slope)
TANH = curve(curves.hyperbolic, curves.hyperbolic_slope, of_output=True)
SIGMOID = curve(curves.sigmoid, curves.sigmoid_slope, of_output=True)
SOFTPLUS = curve(curves.softplus, curves.softplus_slope)
HARDTANH = curve(curves.hardtanh, curves.hardtanh_slope, cost=0.2)
HARDSIGMOID = curve(curves.hardsigmoid, curves.hardsigmoid_slope, cost=0.2)
HARDSWISH = curve(curves.hardswish, curves.hardswish_slope, cost=0.2)
MISH = curve(curves.mish, curves.mish_slope)

elementwise(activation.relu, lambda: (RELU, 0, 0))
elementwise(activation.leaky_relu, lambda negative_slope=0.01: (LEAKY_RELU, negative_slope, 0))
elementwise(activation.elu, lambda alpha=1.0: (ELU, 1, alpha))
elementwise(
    activation.gelu,
    lambda approximate="none": (GELU, *curves.GELU) if approximate == "none" else (GELU_TANH, *curves.GELU_TANH),
)
elementwise(activation.silu, lambda: (SILU, 0, 0))
elementwise(activation.tanh, lambda: (TANH, 0, 0))
elementwise(activation.sigmoid, lambda: (SIGMOID, 0, 0))
elementwise(activation.softplus, lambda beta=1.0, threshold=20.0: (SOFTPLUS, beta, threshold))
elementwise(rectified.selu, lambda: (ELU, SELU_SCALE, SELU_SCALE * SELU_ALPHA))
elementwise(rectified.hardtanh, lambda low=-1.0, high=1.0: (HARDTANH, low, high))
elementwise(rectified.hardsigmoid, lambda: (HARDSIGMOID, 0, 0))
elementwise(gated.hardswish, lambda: (HARDSWISH, 0, 0))
elementwise(gated.mish, lambda: (MISH, 0, 0))
