"""Fully connected layers on cuBLASLt: the bias and GELU behind the product, bias gradients inside the products.

Where the library has no algorithm for an epilogue (NOT_SUPPORTED: float64 mostly), or a slower one, which a measurement
at first sight says, the same is done in two steps; ReLU always is, since the library's makes 0 of NaN, and a NaN has to
get through.

Nothing here has run on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.columns import column_sums
from gpubackprop.kernels.cuda.kernel import kernel
from gpubackprop.kernels.cuda.matmul_product import aux_shape
from gpubackprop.ops.activation import gelu
from gpubackprop.ops.linear import linear
from gpubackprop.ops.linear_activation import ACTIVATIONS, linear_activation, linear_gelu_linear
from gpubackprop.tape import FREE, SKIP, Op, Slots


def _rows(x: Array) -> Array:
    """x (..., I) as (N, I), contiguous."""
    return (x if x.flags.c_contiguous else x.copy()).reshape(-1, x.shape[-1])


def _do(b: Any, apart: Callable[[], Any], a: Array, factor: Array, out: Array, **epilogue: Any) -> None:
    """out = a @ factor with an epilogue, or, where that is quicker, what does the same `apart`."""
    where = f"{epilogue['epilogue']} {a.dtype.name}{[*a.shape]} {factor.shape[-1]} {out.dtype.name}"
    b.chosen.do(b, where, lambda: b.multiply(a, factor, out, **epilogue), apart)


def _curve(b: Any, op: Op, z: Array, **options: Any) -> Op:
    """The kernel for an activation, or its reference."""
    pair: Op = b.pair(op, [z], options)
    return pair


def _affine(b: Any, x: Array, weight: Array, bias: Array | None) -> Array:
    """x (N, I), weight (O, I), bias (O,) or None -> (N, O)."""
    y = b.empty((x.shape[0], weight.shape[0]), x.dtype)
    if bias is None:
        return b.multiply(x, weight.T, y)

    def apart() -> None:
        b.multiply(x, weight.T, y)
        b.xp.add(y, bias, out=y)

    _do(b, apart, x, weight.T, y, epilogue="bias", bias=bias)
    return y


def _gelu(b: Any, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Array]:
    """x (N, I) -> y (N, O) = gelu(z) in its tanh form, and z (N, O) of rows that may be padded."""
    n, o = x.shape[0], weight.shape[0]
    y, aux = b.empty((n, o), x.dtype), b.empty(aux_shape("gelu_aux", n, o)[0], x.dtype)

    def apart() -> None:
        z = aux[:, :o]
        b.assign(z, _affine(b, x, weight, bias))
        b.assign(y, _curve(b, gelu, z, approximate="tanh").forward(b, z, approximate="tanh")[0])

    epilogue = "gelu_aux" if bias is None else "gelu_aux_bias"
    _do(b, apart, x, weight.T, y, epilogue=epilogue, bias=bias, aux=aux)
    return y, aux


def _gelu_slope(b: Any, aux: Array, dy: Array) -> Array:
    z = aux[:, : dy.shape[1]]
    pair = _curve(b, gelu, z, approximate="tanh")
    kept = pair.forward(b, z, approximate="tanh")[1]
    dz: Array = pair.backward(b, kept, dy, [FREE])[0]
    return dz


def _gradients(b: Any, x: Array, weight: Array, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """x (N, I), weight (O, I), dy (N, O) -> dx (N, I), dweight (O, I), dbias (O,)."""
    dx = dweight = dbias = None
    if slots[0].wanted:
        dx = b.multiply(dy, weight, b.empty(x.shape, x.dtype))
    # Of short arrays in float32, where they are collected so: nothing is rounded, and float16 does not overflow.
    wide = all(slot.wide is not None for slot in slots[1:] if slot.wanted)
    if slots[2].wanted:
        dbias = slots[2].wide if wide else b.out(slots[2], weight.shape[:1], dy.dtype)
    if slots[1].wanted:
        dweight = slots[1].wide if wide else b.out(slots[1], weight.shape, weight.dtype)
        if dbias is None:
            b.multiply(dy.T, x, dweight)
            return dx, dweight, None

        def apart() -> None:
            b.multiply(dy.T, x, dweight)
            column_sums(b, dy, dbias)

        _do(b, apart, dy.T, x, dweight, epilogue="bgrad_a", bias=dbias)
    elif dbias is not None:
        column_sums(b, dy, dbias)
    return dx, dweight, dbias


def linear_forward(b: Any, x: Array, weight: Array, bias: Array | None) -> tuple[Array, Any]:
    """As ops/linear.py."""
    if 0 in x.shape:
        return linear.forward(b, x, weight, bias)  # type: ignore[no-any-return]  # as linear_forward
    y = _affine(b, _rows(x), weight, bias)
    return y.reshape(*x.shape[:-1], weight.shape[0]), (x, weight)


def linear_backward(b: Any, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/linear.py."""
    x, weight = saved
    if 0 in x.shape:
        return linear.backward(b, saved, dy, slots)  # type: ignore[no-any-return]  # as linear_backward
    dx, *rest = _gradients(b, _rows(x), weight, _rows(dy), slots)
    return (dx if dx is None else dx.reshape(x.shape), *rest)


def linear_activation_forward(
    b: Any, x: Array, weight: Array, bias: Array | None, *, activation: str, **options: Any
) -> tuple[Array, Any]:
    """As ops/linear_activation.py."""
    if activation == "gelu" and options.get("approximate") == "tanh" and 0 not in x.shape:
        y, aux = _gelu(b, _rows(x), weight, bias)
        return y.reshape(*x.shape[:-1], weight.shape[0]), ((x, weight), None, aux)
    z, saved = linear_forward(b, x, weight, bias)
    pair = _curve(b, ACTIVATIONS[activation], z, **options)
    y, kept = pair.forward(b, z, **options)
    return y, (saved, pair, kept)


def linear_activation_backward(b: Any, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/linear_activation.py."""
    layer, pair, kept = saved
    if pair is None:
        dz = _gelu_slope(b, kept, _rows(dy)).reshape(dy.shape)
    else:
        (dz,) = pair.backward(b, kept, dy, [FREE])
    return linear_backward(b, layer, dz, slots)


def linear_gelu_linear_forward(
    b: Any, x: Array, weight: Array, bias: Array | None, weight2: Array, bias2: Array | None
) -> tuple[Array, Any]:
    """As ops/linear_activation.py."""
    if 0 in x.shape:
        return linear_gelu_linear.forward(b, x, weight, bias, weight2, bias2)  # type: ignore[no-any-return]  # Op's Any
    rows = _rows(x)
    h, aux = _gelu(b, rows, weight, bias)
    y = _affine(b, h, weight2, bias2)
    return y.reshape(*x.shape[:-1], weight2.shape[0]), (x.shape, rows, weight, aux, h, weight2)


def linear_gelu_linear_backward(b: Any, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/linear_activation.py; GELU's slope is behind the product that makes dy of the activation."""
    if 0 in dy.shape[:-1]:
        return linear_gelu_linear.backward(b, saved, dy, slots)  # type: ignore[no-any-return]  # Op's Any
    shape, x, weight, aux, h, weight2 = saved
    dy = _rows(dy)
    _, dweight2, dbias2 = _gradients(b, h, weight2, dy, [SKIP, *slots[3:]])
    dx = dweight = dbias = None
    if any(slot.wanted for slot in slots[:3]):
        dz = b.empty(h.shape, h.dtype)

        def apart() -> None:
            b.assign(dz, _gelu_slope(b, aux, b.multiply(dy, weight2, b.empty(h.shape, h.dtype))))

        _do(b, apart, dy, weight2, dz, epilogue="dgelu", aux=aux)
        dx, dweight, dbias = _gradients(b, x, weight, dz, slots[:3])
    return (None if dx is None else dx.reshape(shape)), dweight, dbias, dweight2, dbias2


kernel(linear, linear_forward, linear_backward)
kernel(linear_activation, linear_activation_forward, linear_activation_backward)
kernel(linear_gelu_linear, linear_gelu_linear_forward, linear_gelu_linear_backward)
