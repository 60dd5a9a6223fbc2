"""Elementary functions of one number for compiled loops: in float32 polynomials that become vector instructions.

In float64 they are the library's own, to full precision. Cody and Waite 1980 for the reduction of the argument.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

F = np.float32


@intrinsic
def _float_of_bits(context: Any, bits: Any) -> Any:
    """The float32 whose bits an int32 holds."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


def exp(x: Any) -> Any:
    """eˣ, to 3e-7 relative in float32; NaN stays NaN."""
    raise NotImplementedError("for compiled functions")


@overload(exp)
def _exp(x: Any) -> Any:
    if x != types.float32:
        return lambda x: math.exp(x)

    def call(x: Any) -> Any:
        # Written so that a NaN fails both comparisons and goes through.
        x = F(-87.0) if x < F(-87.0) else x
        x = F(88.0) if x > F(88.0) else x
        n = np.floor(x * F(1.44269504088896341) + F(0.5))
        r = x - n * F(0.693359375)
        r = r - n * F(-2.12194440e-4)
        p = F(1.9875691500e-4) * r + F(1.3981999507e-3)
        p = p * r + F(8.3334519073e-3)
        p = p * r + F(4.1665795894e-2)
        p = p * r + F(1.6666665459e-1)
        p = p * r + F(5.0000001201e-1)
        power = _float_of_bits(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
        return (p * r * r + r + F(1)) * power

    return call


def tanh(x: Any) -> Any:
    """tanh x, to 3e-7 absolute in float32."""
    raise NotImplementedError("for compiled functions")


@overload(tanh)
def _tanh(x: Any) -> Any:
    if x != types.float32:
        return lambda x: math.tanh(x)

    def call(x: Any) -> Any:
        return F(1) - F(2) / (F(1) + exp(F(2) * x))

    return call


def logistic(x: Any) -> Any:
    """σ(x) = 1 / (1 + e⁻ˣ)."""
    raise NotImplementedError("for compiled functions")


@overload(logistic)
def _logistic(x: Any) -> Any:
    one = F(1) if x == types.float32 else 1.0

    def call(x: Any) -> Any:
        return one / (one + exp(-x))

    return call
