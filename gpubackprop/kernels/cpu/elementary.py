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
def _bits(context: Any, x: Any) -> Any:
    """The bits of a float as an integer of its size."""
    single = x == types.float32

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.IntType(32 if single else 64))

    return (types.int32 if single else types.int64)(x), generate


@intrinsic
def _float(context: Any, bits: Any) -> Any:
    """The other way round."""
    single = bits == types.int32

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.bitcast(args[0], ir.FloatType() if single else ir.DoubleType())

    return (types.float32 if single else types.float64)(bits), generate


def _library(function: Any) -> Any:
    def call(x: Any) -> Any:
        return function(x)

    return call


@intrinsic
def larger(context: Any, a: Any, b: Any) -> Any:
    """The larger of two floats, NaN where one is. Unlike a comparison it makes a loop that a compiler vectorises."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = args[0].type
        letters = {"float": "f32", "double": "f64"}[str(number)]
        function = builder.module.declare_intrinsic(
            f"llvm.maximum.{letters}", (), ir.FunctionType(number, [number] * 2)
        )
        return builder.call(function, args)

    return a(a, a), generate


def exp(x: Any) -> Any:
    """eˣ, to 3e-7 relative in float32; NaN stays NaN."""
    raise NotImplementedError("for compiled functions")


@overload(exp)
def _exp(x: Any) -> Any:
    if x != types.float32:
        return _library(math.exp)

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
        power = _float(np.int32((np.int32(n) + np.int32(127)) << np.int32(23)))
        return (p * r * r + r + F(1)) * power

    return call


def tanh(x: Any) -> Any:
    """tanh x, to 4e-7 relative in float32."""
    raise NotImplementedError("for compiled functions")


@overload(tanh)
def _tanh(x: Any) -> Any:
    if x != types.float32:
        return _library(math.tanh)

    def call(x: Any) -> Any:
        # x P(x²) / Q(x²) of least relative error on [0, 9], where tanh is 1 - 3e-8.
        low, high = x < F(-9.0), x > F(9.0)
        t = x * x
        p = F(1.335496088e-08) * t + F(2.060936123e-05)
        p = p * t + F(3.495607923e-03)
        p = p * t + F(1.338104329e-01)
        p = p * t + F(9.999999795e-01)
        q = F(7.776699212e-07) * t + F(3.285665164e-04)
        q = q * t + F(2.587706056e-02)
        q = q * t + F(4.671435893e-01)
        q = q * t + F(1)
        y = x * p / q
        y = F(-1) if low else y  # exactly, since x (1 + y) may follow
        return F(1) if high else y

    return call


def erf(x: Any) -> Any:
    """The error function, to 4e-7 relative in float32."""
    raise NotImplementedError("for compiled functions")


@overload(erf)
def _erf(x: Any) -> Any:
    if x != types.float32:
        return _library(math.erf)

    def call(x: Any) -> Any:
        # As tanh, on [0, 3.92], where erf is 1 - 3e-8.
        low, high = x < F(-3.92), x > F(3.92)
        t = x * x
        p = F(2.049972433e-06) * t + F(2.848698014e-04)
        p = p * t + F(3.765484450e-03)
        p = p * t + F(5.274828732e-02)
        p = p * t + F(1.904047625e-01)
        p = p * t + F(1.128379146e00)
        q = F(3.808984219e-05) * t + F(1.162484639e-03)
        q = q * t + F(1.496896150e-02)
        q = q * t + F(1.141082159e-01)
        q = q * t + F(5.020745698e-01)
        q = q * t + F(1)
        y = x * p / q
        y = F(-1) if low else y  # exactly, since x (1 + y) may follow
        return F(1) if high else y

    return call


def expm1(x: Any) -> Any:
    """eˣ - 1, to 4e-7 relative in float32, near 0 too."""
    raise NotImplementedError("for compiled functions")


@overload(expm1)
def _expm1(x: Any) -> Any:
    if x != types.float32:
        return _library(math.expm1)

    def call(x: Any) -> Any:
        p = F(1.9875691500e-4) * x + F(1.3981999507e-3)
        p = p * x + F(8.3334519073e-3)
        p = p * x + F(4.1665795894e-2)
        p = p * x + F(1.6666665459e-1)
        p = p * x + F(5.0000001201e-1)
        far = exp(x) - F(1)
        return p * x * x + x if abs(x) < F(0.34) else far

    return call


def log1p(x: Any) -> Any:
    """log(1 + x) for x in [0, 1], to 4e-7 relative in float32."""
    raise NotImplementedError("for compiled functions")


@overload(log1p)
def _log1p(x: Any) -> Any:
    if x != types.float32:
        return _library(math.log1p)

    def call(x: Any) -> Any:
        # 2 artanh(s) by its series, |s| ≤ 1/3.
        s = x / (x + F(2))
        t = s * s
        p = F(2 / 15) * t + F(2 / 13)
        p = p * t + F(2 / 11)
        p = p * t + F(2 / 9)
        p = p * t + F(2 / 7)
        p = p * t + F(2 / 5)
        p = p * t + F(2 / 3)
        return s * t * p + (s + s)

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


def rank(x: Any) -> Any:
    """An integer for a float: they are ordered alike, a NaN above all. The largest of them vectorises, with NaN too."""
    raise NotImplementedError("for compiled functions")


@overload(rank)
def _rank(x: Any) -> Any:
    integer, shift, rest = (np.int32, 31, 2**31 - 1) if x == types.float32 else (np.int64, 63, 2**63 - 1)

    def call(x: Any) -> Any:
        bits = _bits(x)
        return integer(bits ^ integer(integer(bits >> integer(shift)) & integer(rest)))

    return call


def of_rank(number: Any) -> Any:
    """The float that has this rank."""
    raise NotImplementedError("for compiled functions")


@overload(of_rank)
def _of_rank(number: Any) -> Any:
    integer, shift, rest = (np.int32, 31, 2**31 - 1) if number == types.int32 else (np.int64, 63, 2**63 - 1)

    def call(number: Any) -> Any:
        return _float(integer(number ^ integer(integer(number >> integer(shift)) & integer(rest))))

    return call
