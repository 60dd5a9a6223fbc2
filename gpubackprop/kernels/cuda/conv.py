"""Convolution without cuDNN: what the windows hold as columns, and products of these by cuBLASLt.

Letters as in ops/conv.py; M windows, of one sample or of several. As many samples at a time as their columns fit into
the backend's `scratch`; where x can be read as columns already, nothing is copied. The columns of short floats are
short floats too, so the gradient of x is rounded once more than in a convolution that keeps its sums.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda import direct
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.columns import column_sums
from gpubackprop.kernels.cuda.cublaslt import Status, StatusError
from gpubackprop.kernels.cuda.im2col import Columns
from gpubackprop.kernels.cuda.kernel import computed, kernel, rows_of, same_floats
from gpubackprop.kernels.cuda.windows import LARGEST
from gpubackprop.ops.conv import Padding, Sizes, Windows, conv, conv_transpose, output_size, transposed_size
from gpubackprop.ops.depthwise import depthwise_conv
from gpubackprop.tape import Slots


def fits(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Whether there are one to three axes, and ints count a sample's columns and all windows."""
    x, weight, _ = arrays
    if not same_floats(arrays, options) or not 3 <= x.ndim <= 5:
        return False
    of = output_size if "output_padding" not in options else transposed_size
    given = (options[name] for name in ("stride", "padding", "dilation", "output_padding") if name in options)
    size, kernel = x.shape[1:-1], weight.shape[:-2]
    most: int = max(prod(size), prod(map(of, size, kernel, *given)))
    deepest: int = max(len(x), prod(kernel) * max(x.shape[-1], weight.shape[-1]))
    return most * deepest <= LARGEST


def conv_forward(
    b: CudaBackend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """As ops/conv.py."""
    lie = Windows(stride, padding, dilation, groups)
    out = tuple(map(output_size, x.shape[1:-1], weight.shape[:-2], stride, padding, dilation))
    y = b.empty((len(x), *out, weight.shape[-1]), x.dtype)
    _correlate(b, x, weight, bias, y, lie)
    return y, (x, weight, lie)


def conv_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, lie = saved
    dx = b.out(slots[0], x.shape, x.dtype) if slots[0].wanted else None
    if dx is not None:
        _spread(b, dy, weight, None, dx, lie)
    return dx, *_parameter_gradients(b, x, weight, dy, dy, lie, slots)


def depthwise_conv_forward(
    b: CudaBackend, x: Array, weight: Array, bias: Array | None, **options: Any
) -> tuple[Array, Any]:
    """As ops/depthwise.py."""
    return conv_forward(b, x, weight, bias, groups=x.shape[-1], **options)


def conv_transpose_forward(
    b: CudaBackend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Padding,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """As ops/conv.py."""
    lie = Windows(stride, padding, dilation, groups)
    out = tuple(map(transposed_size, x.shape[1:-1], weight.shape[:-2], stride, padding, dilation, output_padding))
    y = b.empty((len(x), *out, weight.shape[-2] * groups), x.dtype)
    _spread(b, x, weight, bias, y, lie)
    return y, (x, weight, lie)


def conv_transpose_backward(b: CudaBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, lie = saved
    dx = b.out(slots[0], x.shape, x.dtype) if slots[0].wanted else None
    if dx is not None:
        _correlate(b, dy, weight, None, dx, lie)
    return dx, *_parameter_gradients(b, dy, weight, x, dy, lie, slots)


def _correlate(b: CudaBackend, x: Array, weight: Array, bias: Array | None, y: Array, lie: Windows) -> None:
    """x (N, *S, C), weight (*K, C/G, O), bias (O,) -> y (N, *P, O): columns times the weight."""
    if direct.few(weight, lie.groups):
        return direct.correlate(b, x, weight, bias, y, lie)
    factor = _by_group(weight, lie.groups)  # (G, prod(K)·C/G, O/G)
    for samples, columns in _columns(b, x, weight.shape[:-2], y.shape[1:-1], lie):
        _product(b, columns, factor, _by_group(y[samples], lie.groups), bias)


def _spread(b: CudaBackend, dy: Array, weight: Array, bias: Array | None, x: Array, lie: Windows) -> None:
    """dy (N, *P, O), weight (*K, C/G, O), bias (C,) -> x (N, *S, C): every value goes to its whole window."""
    if direct.depthwise(weight, lie.groups):
        return direct.spread(b, dy, weight, bias, x, lie)
    kernel, out = weight.shape[:-2], dy.shape[1:-1]
    factor = _by_group(weight, lie.groups).transpose(0, 2, 1)  # (G, O/G, prod(K)·C/G)
    lying = _as_columns(x, kernel, out, lie)
    if lying is not None and (bias is None or prod(kernel) == 1):
        _product(b, _by_group(dy, lie.groups), factor, lying, bias)
        return
    columns = Columns(b, x, kernel, out, lie)
    for samples, piece in columns.pieces():
        _product(b, _by_group(dy[samples], lie.groups), factor, piece)
        columns.spread(bias, samples)


def _parameter_gradients(
    b: CudaBackend, x: Array, weight: Array, dy: Array, upper: Array, lie: Windows, slots: Slots
) -> tuple[Array | None, Array | None]:
    """x (N, *S, C), dy (N, *P, O) -> dweight (*K, C/G, O); dbias, the sum of `upper`, one of the two."""
    dweight = b.out(slots[1], weight.shape, weight.dtype) if slots[1].wanted else None
    dbias = b.out(slots[2], upper.shape[-1:], upper.dtype) if slots[2].wanted else None
    if dweight is not None and direct.few(weight, lie.groups):
        direct.weight_gradient(b, x, dy, dweight, dbias if upper is dy else None, lie)
        if upper is dy:
            return dweight, dbias
    elif dweight is not None:
        _weight_gradient(b, x, dy, dweight, lie)
    if dbias is not None:
        column_sums(b, rows_of(upper), dbias)
    return dweight, dbias


def _weight_gradient(b: CudaBackend, x: Array, dy: Array, dweight: Array, lie: Windows) -> None:
    """x (N, *S, C), dy (N, *P, O) -> (*K, C/G, O), the sum over all samples; not rounded on the way."""
    if not x.size:
        dweight[...] = 0
        return
    total = dweight
    for samples, columns in _columns(b, x, dweight.shape[:-2], dy.shape[1:-1], lie):
        if samples.stop < len(x) and total is dweight:
            total = b.empty(dweight.shape, computed(dweight.dtype))
        right, out = _by_group(dy[samples], lie.groups), _by_group(total, lie.groups)
        _product(b, columns.transpose(0, 2, 1), right, out, beta=float(samples.start > 0))
    if total is not dweight:
        b.assign(dweight, total)


def _columns(b: CudaBackend, x: Array, kernel: Sizes, out: Sizes, lie: Windows) -> Iterator[tuple[slice, Array]]:
    """Slices of the samples, each with its windows as (G, M, prod(K)·C/G); their memory is used again."""
    lying = _as_columns(x, kernel, out, lie)
    if lying is not None:
        yield slice(0, len(x)), lying
        return
    columns = Columns(b, x, kernel, out, lie)
    for samples, piece in columns.pieces():
        columns.gather(samples)
        yield samples, piece


def _as_columns(x: Array, kernel: Sizes, out: Sizes, lie: Windows) -> Array | None:
    """x (N, *S, C) itself as (G, M, prod(K)·C/G), where its windows lie one behind the other and miss nothing."""
    (stride, padding, _, groups), size = lie, x.shape[1:-1]
    if any(map(any, padding)):
        return None
    if max(kernel) == max(stride) == 1 and size == out:
        return _by_group(x, groups)
    behind = size[0] == out[0] * kernel[0] and (out[0] == 1 or stride[0] == kernel[0])
    if groups > 1 or not behind or size[1:] != kernel[1:]:  # so a dilated kernel has one cell
        return None
    return x.reshape(1, len(x) * out[0], prod(kernel) * x.shape[-1])


def _product(b: CudaBackend, a: Array, factor: Array, out: Array, bias: Array | None = None, beta: float = 0.0) -> None:
    """a (G, M, I), factor (G, I, J), bias (G·J,) -> out (G, M, J): at once if the library lets results interleave."""
    rows = None if bias is None else bias.reshape(len(out), out.shape[-1])
    if not out.size or _multiplied(b, a, factor, out, rows, beta):
        return
    for g in range(len(out)):
        if rows is None or not _multiplied(b, a[g], factor[g], out[g], rows[g], beta):
            b.multiply(a[g], factor[g], out[g], beta=beta)
            if rows is not None:
                out[g][...] = out[g] + rows[g]


def _multiplied(b: CudaBackend, a: Array, factor: Array, out: Array, bias: Array | None, beta: float) -> bool:
    """Whether the library does this product, with a bias (..., J) behind it; if so it is done."""
    try:
        b.multiply(a, factor, out, epilogue="none" if bias is None else "bias", bias=bias, beta=beta)
    except StatusError as error:
        if error.status not in (Status.NOT_SUPPORTED, Status.INVALID_VALUE):
            raise
        return False
    return True


def _by_group(x: Array, groups: int) -> Array:
    """x (..., F) -> a view (G, product of ..., F/G)."""
    return x.reshape(-1, groups, x.shape[-1] // groups).transpose(1, 0, 2)


kernel(conv, conv_forward, conv_backward, fits)
kernel(depthwise_conv, depthwise_conv_forward, conv_backward, fits)
kernel(conv_transpose, conv_transpose_forward, conv_transpose_backward, fits)
