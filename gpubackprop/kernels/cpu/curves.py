"""Activation functions of one number and their slopes, for compiled loops. Formulas and sources: ops/activation.py.

Each takes the number and two more, a and b, of the same type: the op's options, or constants of the formula, or 0.
A slope is the derivative as a function of the input x, or, where that is easier, of the output y, as its argument says.
Comparisons let a NaN through. Both sides of a choice are computed first: so a loop becomes vector instructions.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import Any

from gpubackprop.kernels.cpu.elementary import erf, exp, expm1, log1p, logistic, tanh
from gpubackprop.kernels.cpu.jit import inline

GELU = (sqrt(0.5), 1 / sqrt(2 * pi))  # its a and b
GELU_TANH = (sqrt(2 / pi), 0.044715)


@inline
def relu(x: Any, a: Any, b: Any) -> Any:
    """max(x, 0)."""
    return type(x)(0) if x <= 0 else x


@inline
def relu_slope(y: Any, a: Any, b: Any) -> Any:
    """Of the output, or of the input, which is the same."""
    return type(y)(1) if y > 0 else type(y)(0)


@inline
def leaky_relu(x: Any, a: Any, b: Any) -> Any:
    """a: the slope below 0."""
    return a * x if x <= 0 else x


@inline
def leaky_relu_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    return a if x <= 0 else type(x)(1)


@inline
def elu(x: Any, a: Any, b: Any) -> Any:
    """With a scale a above 0, b below: (1, α) for elu, (λ, λα) for selu."""
    below, above = b * expm1(x), a * x
    return below if x <= 0 else above


@inline
def elu_slope(y: Any, a: Any, b: Any) -> Any:
    """Of the output."""
    below = y + b
    return a if y > 0 else below


@inline
def gelu(x: Any, a: Any, b: Any) -> Any:
    """a and b are GELU."""
    return type(x)(0.5) * x * (erf(x * a) + type(x)(1))


@inline
def gelu_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    half = type(x)(0.5)
    return half * erf(x * a) + half + x * b * exp(-half * x * x)


@inline
def gelu_tanh(x: Any, a: Any, b: Any) -> Any:
    """a and b are GELU_TANH."""
    return type(x)(0.5) * x * (tanh(a * x * (type(x)(1) + b * x * x)) + type(x)(1))


@inline
def gelu_tanh_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    one, half = type(x)(1), type(x)(0.5)
    u = tanh(a * x * (one + b * x * x))
    return half * (one + u) + half * (one - u * u) * a * x * (one + type(x)(3) * b * x * x)


@inline
def silu(x: Any, a: Any, b: Any) -> Any:
    """x σ(x)."""
    return x * logistic(x)


@inline
def silu_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    s = logistic(x)
    return s * (type(x)(1) + x * (type(x)(1) - s))


@inline
def hyperbolic(x: Any, a: Any, b: Any) -> Any:
    """The hyperbolic tangent."""
    return tanh(x)


@inline
def hyperbolic_slope(y: Any, a: Any, b: Any) -> Any:
    """Of the output."""
    return type(y)(1) - y * y


@inline
def sigmoid(x: Any, a: Any, b: Any) -> Any:
    """σ(x)."""
    return logistic(x)


@inline
def sigmoid_slope(y: Any, a: Any, b: Any) -> Any:
    """Of the output."""
    return y * (type(y)(1) - y)


@inline
def softplus(x: Any, a: Any, b: Any) -> Any:
    """a: beta, b: threshold."""
    z = a * x
    zero = type(x)(0)
    above = zero if z <= 0 else z
    curved = above + log1p(exp(-abs(z)))
    return (above if z > b else curved) / a


@inline
def softplus_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    s = logistic(a * x)
    return type(x)(1) if a * x > b else s


@inline
def hardtanh(x: Any, a: Any, b: Any) -> Any:
    """Between a and b."""
    x = a if x < a else x
    return b if x > b else x


@inline
def hardtanh_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    return type(x)(1) if x > a and x < b else type(x)(0)


@inline
def hardsigmoid(x: Any, a: Any, b: Any) -> Any:
    """x / 6 + 1/2, between 0 and 1."""
    return hardtanh(x / type(x)(6) + type(x)(0.5), type(x)(0), type(x)(1))


@inline
def hardsigmoid_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    return type(x)(1) / type(x)(6) if abs(x) < 3 else type(x)(0)


@inline
def hardswish(x: Any, a: Any, b: Any) -> Any:
    """x times its hardsigmoid."""
    return x * hardsigmoid(x, a, b)


@inline
def hardswish_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    inside = x / type(x)(3) + type(x)(0.5)
    outside = relu_slope(x, a, b)
    return inside if abs(x) <= 3 else outside


@inline
def _mish_gate(x: Any, e: Any) -> Any:
    one, two = type(x)(1), type(x)(2)
    above, below = one + two * e, e * (e + two)
    top = above if x > 0 else below
    rest = e * e if x > 0 else one
    return top / (top + two * rest)


@inline
def mish(x: Any, a: Any, b: Any) -> Any:
    """x tanh(log(1 + eˣ))."""
    return x * _mish_gate(x, exp(-abs(x)))


@inline
def mish_slope(x: Any, a: Any, b: Any) -> Any:
    """Of the input."""
    gate = _mish_gate(x, exp(-abs(x)))
    return gate + x * logistic(x) * (type(x)(1) - gate * gate)
