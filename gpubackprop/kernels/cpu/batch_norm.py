"""Batch norm: the values are read once for the statistics and once more to be normalised, alone or with ReLU.

Statistics are those of short blocks of rows, two passes each while they are in the cache, put together as they come:
as precise as two passes over all. See lanes.py for the letters.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.errors import ShapeError
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of, ones_unless, zeros_unless
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rule
from gpubackprop.kernels.cpu.lanes import add, add_products, add_squares, lanes_of, merged, scaled, tiled
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.norm import batch_norm, batch_norm_inference, update_statistics
from gpubackprop.tape import Slots

PASS = 0.25  # nanoseconds that one value takes one thread in one pass
BLOCK = 16384  # values of which the second pass finds the first's in the cache


@serial
def _statistics(x, mean, squares, other):  # rows of K in one (R·K,), (K,) each
    """Means and sums of squared differences from them, by lane; `other` is scratch memory."""
    width = mean.size
    rows, block = x.size // width, max(1, BLOCK // width)
    mean[:] = 0
    squares[:] = 0
    for start in range(0, rows, block):
        stop = min(rows, start + block)
        other[:] = 0
        for r in range(start, stop):
            add(x[r * width : (r + 1) * width], other)
        scaled(other, x.dtype.type(1 / (stop - start)), other)
        for r in range(start, stop):
            add_squares(x[r * width : (r + 1) * width], other, squares)
        merged(start, stop - start, other, mean, squares)


@serial
def _combined(lanes, share, rows, rest, mean, var):  # (threads, 3, K), rows of a thread, all rows, (<K,), (C,), (C,)
    """The statistics of all from those of the threads' lanes, and the values of the last, shorter row."""
    channels, width = mean.size, lanes.shape[2]
    for c in range(channels):
        total, count = 0.0, 0
        for t in range(lanes.shape[0]):
            n = max(0, min(rows, (t + 1) * share) - t * share)
            for k in range(c, width, channels):
                total += n * np.float64(lanes[t, 0, k])
                count += n
        for k in range(c, rest.size, channels):
            total += rest[k]
            count += 1
        middle, squares = total / count, 0.0
        for t in range(lanes.shape[0]):
            n = max(0, min(rows, (t + 1) * share) - t * share)
            for k in range(c, width, channels):
                squares += lanes[t, 1, k] + n * (lanes[t, 0, k] - middle) ** 2
        for k in range(c, rest.size, channels):
            squares += (rest[k] - middle) ** 2
        mean[c], var[c] = middle, squares / count


@parallel
def _batch_statistics(x, lanes, mean, var, threads):  # (T,), (threads, 3, K), (C,), (C,)
    width = lanes.shape[2]
    rows = x.size // width
    share = -(-rows // threads)
    for t in prange(threads):
        low, high = min(rows, t * share) * width, min(rows, (t + 1) * share) * width
        _statistics(x[low:high], lanes[t, 0], lanes[t, 1], lanes[t, 2])
    _combined(lanes[:threads], share, rows, x[rows * width :], mean, var)


@serial
def _affine(x, mean, scale, bias, y):  # (K,) each
    for i in range(x.size):
        y[i] = (x[i] - mean[i]) * scale[i] + bias[i]


@serial
def _affine_relu(x, mean, scale, bias, y):  # (K,) each
    zero = x.dtype.type(0)
    for i in range(x.size):
        v = (x[i] - mean[i]) * scale[i] + bias[i]
        y[i] = zero if v <= zero else v


@serial
def _affine_add_relu(x, mean, scale, bias, shortcut, y):  # (K,) each
    zero = x.dtype.type(0)
    for i in range(x.size):
        v = (x[i] - mean[i]) * scale[i] + bias[i] + shortcut[i]
        y[i] = zero if v <= zero else v


@parallel
def _normalise(x, mean, var, weight, bias, shortcut, eps, relu, constants, y, threads):
    # x and y (T,), shortcut (T,) or (0,), mean to bias (C,), constants (4, K)
    width = constants.shape[1]
    for c in range(mean.size):
        constants[3, c] = weight[c] / np.sqrt(var[c] + eps)
    tiled(mean, constants[0])
    tiled(constants[3, : mean.size], constants[1])
    tiled(bias, constants[2])
    rows = -(-x.size // width)
    share = -(-rows // threads)
    for t in prange(threads):
        centre, scale, shift = constants[0], constants[1], constants[2]
        for r in range(t * share, min(rows, (t + 1) * share)):
            low, high = r * width, min(x.size, (r + 1) * width)
            if shortcut.size:
                _affine_add_relu(x[low:high], centre, scale, shift, shortcut[low:high], y[low:high])
            elif relu:
                _affine_relu(x[low:high], centre, scale, shift, y[low:high])
            else:
                _affine(x[low:high], centre, scale, shift, y[low:high])


@serial
def _masked(dy, y, dsum):  # (K,) each
    zero = dy.dtype.type(0)
    for i in range(dy.size):
        g = dy[i]
        dsum[i] = g if y[i] > zero else zero


@serial
def _masked_again(dy, x, mean, scale, bias, dsum):  # (K,) each
    zero = dy.dtype.type(0)
    for i in range(dy.size):
        g, v = dy[i], (x[i] - mean[i]) * scale[i] + bias[i]
        dsum[i] = g if v > zero else zero


@parallel
def _gradient_sums(dy, x, y, mean, var, weight, bias, eps, relu, constants, lanes, dsum, dweight, dbias, threads):
    # dy and x (T,), y and dsum (T,) or (0,), mean to bias, dweight, dbias (C,), constants (5, K), lanes (threads, 3, K)
    width = constants.shape[1]
    for c in range(mean.size):
        constants[3, c] = weight[c] / np.sqrt(var[c] + eps)
    tiled(mean, constants[0])
    tiled(constants[3, : mean.size], constants[1])
    tiled(bias, constants[2])
    rows = -(-x.size // width)
    share = -(-rows // threads)
    for t in prange(threads):
        total, product = lanes[t, 0], lanes[t, 1]
        total[:] = 0
        product[:] = 0
        for r in range(t * share, min(rows, (t + 1) * share)):
            low, high = r * width, min(x.size, (r + 1) * width)
            g = dy[low:high]
            if y.size:
                g = dsum[low:high]
                _masked(dy[low:high], y[low:high], g)
            elif relu:
                g = lanes[t, 2, : high - low]
                _masked_again(dy[low:high], x[low:high], constants[0], constants[1], constants[2], g)
            add_products(g, x[low:high], constants[0], total, product)
    for c in range(mean.size):
        rstd, total64, product64 = 1 / np.sqrt(np.float64(var[c]) + eps), 0.0, 0.0
        for t in range(threads):
            for k in range(c, width, mean.size):
                total64 += lanes[t, 0, k]
                product64 += lanes[t, 1, k]
        dbias[c], dweight[c] = total64, product64 * rstd


@serial
def _input_gradient(dy, x, mean, scale_dy, scale_x, shift, dx):  # (K,) each
    for i in range(x.size):
        dx[i] = dy[i] * scale_dy[i] + ((x[i] - mean[i]) * scale_x[i] + shift[i])


@parallel
def _input_gradients(dy, x, var, dweight, dbias, eps, relu, constants, lanes, dx, threads):
    # dy, x and dx (T,), var to dbias (C,), constants (5, K) as _gradient_sums left them, lanes (threads, 3, K)
    width, channels = constants.shape[1], var.size
    count = x.size // channels
    for k in range(width):
        c = k % channels
        scale = np.float64(constants[1, k])
        constants[3, k] = scale * dweight[c] / -count / np.sqrt(np.float64(var[c]) + eps)
        constants[4, k] = scale * dbias[c] / -count
    rows = -(-x.size // width)
    share = -(-rows // threads)
    for t in prange(threads):
        for r in range(t * share, min(rows, (t + 1) * share)):
            low, high = r * width, min(x.size, (r + 1) * width)
            g = dy[low:high]
            if relu:
                g = lanes[t, 2, : high - low]
                _masked_again(dy[low:high], x[low:high], constants[0], constants[1], constants[2], g)
            _input_gradient(g, x[low:high], constants[0], constants[1], constants[3], constants[4], dx[low:high])


def _forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, shortcut: Array | None, relu: bool, eps: float
) -> tuple[tuple[Array, Array, Array], Any]:
    count, channels = prod(x.shape[:-1]), x.shape[-1]
    if count == 1:
        raise ShapeError(
            f"batch norm in training needs more than one value per channel, got a batch of shape {x.shape}; "
            "use larger batches, or drop_last for a last batch of one sample"
        )
    mean, var = b.empty((channels,), x.dtype), b.empty((channels,), x.dtype)
    lanes = b.empty((b.threads, 3, lanes_of(channels)), x.dtype)
    b.launch(_batch_statistics, x.reshape(-1), lanes, mean, var, cost=PASS * x.size)
    y = _normalised(b, x, weight, bias, mean, var, shortcut, relu, eps)
    return (y, mean, var), (x, weight, bias, mean, var, y if shortcut is not None else None, relu, eps)


def _normalised(
    b: CpuBackend,
    x: Array,
    weight: Array | None,
    bias: Array | None,
    mean: Array,
    var: Array,
    shortcut: Array | None,
    relu: bool,
    eps: float,
) -> Array:
    channels, kind = x.shape[-1], x.dtype
    y = b.empty(x.shape, kind)
    affine = ones_unless(weight, channels, kind), zeros_unless(bias, channels, kind)
    flat = none_of(kind) if shortcut is None else shortcut.reshape(-1)
    constants = b.empty((4, lanes_of(channels)), kind)
    small = kind.type(eps)
    arrays = (x.reshape(-1), mean, var, *affine, flat, small, relu, constants, y.reshape(-1))
    b.launch(_normalise, *arrays, cost=PASS * x.size)
    return y


def _backward(b: CpuBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    dy, dmean, dvar = dys
    if dmean is not None or dvar is not None:
        raise NotImplementedError("the batch's mean and variance are for running statistics: they carry no gradient")
    x, weight, bias, mean, var, y, relu, eps = saved
    again = relu and y is None  # without a shortcut the mask is computed once more, which is less to read than y
    dweight, dbias, constants, lanes, dsum = _sums(b, x, dy, y, (weight, bias, mean, var), again, eps, slots)
    dx = None
    if slots[0].wanted:
        dx = b.empty(x.shape, x.dtype)
        arrays = ((dy if dsum is None else dsum).reshape(-1), x.reshape(-1), var, dweight, dbias)
        b.launch(
            *(_input_gradients, *arrays, x.dtype.type(eps), again, constants, lanes, dx.reshape(-1)),
            cost=2 * PASS * x.size,
        )
    grads = dx, dweight if slots[1].wanted else None, dbias if slots[2].wanted else None
    return grads if len(slots) == 3 else (*grads, dsum if slots[3].wanted else None)


def _sums(
    b: CpuBackend, x: Array, dy: Array, y: Array | None, stated: Any, again: bool, eps: float, slots: Slots
) -> tuple[Array, Array, Array, Array, Array | None]:
    """dweight, dbias, constants and lanes for `_input_gradients`, and dy where y is positive if there is a y."""
    weight, bias, mean, var = stated
    channels, kind = x.shape[-1], x.dtype
    affine = ones_unless(weight, channels, kind), zeros_unless(bias, channels, kind)
    constants = b.empty((5, lanes_of(channels)), kind)
    lanes = b.empty((b.threads, 3, lanes_of(channels)), kind)
    dweight, dbias = (b.out(slot, mean) if slot.wanted else b.empty(mean.shape, kind) for slot in slots[1:3])
    none, dsum = none_of(kind), None if y is None else b.empty(x.shape, kind)
    b.launch(
        *(_gradient_sums, dy.reshape(-1), x.reshape(-1), none if y is None else y.reshape(-1), mean, var, *affine),
        *(kind.type(eps), again, constants, lanes, none if dsum is None else dsum.reshape(-1), dweight, dbias),
        cost=2 * PASS * x.size,
    )
    return dweight, dbias, constants, lanes, dsum


def batch_norm_forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/norm.py."""
    return _forward(b, x, weight, bias, None, False, eps)


def batch_norm_relu_forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/batch_norm_act.py."""
    return _forward(b, x, weight, bias, None, True, eps)


def batch_norm_add_relu_forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, shortcut: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/batch_norm_act.py."""
    return _forward(b, x, weight, bias, shortcut, True, eps)


def batch_norm_inference_forward(
    b: CpuBackend, x: Array, weight: Array | None, bias: Array | None, mean: Array, var: Array, *, eps: float = 1e-5
) -> tuple[Array, Any]:
    """As ops/norm.py."""
    return _normalised(b, x, weight, bias, mean, var, None, False, eps), (x, weight, mean, var, eps)


def batch_norm_inference_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/norm.py."""
    x, weight, mean, var, eps = saved
    dx = dweight = dbias = None
    if slots[0].wanted:
        dx = _normalised(b, dy, weight, None, zeros_unless(None, mean.size, x.dtype), var, None, False, eps)
    if slots[1].wanted or slots[2].wanted:
        dweight, dbias, *_ = _sums(b, x, dy, None, (weight, None, mean, var), False, eps, slots)
    return dx, dweight if slots[1].wanted else None, dbias if slots[2].wanted else None, None, None


@parallel
def _move(running_mean, running_var, tracked, mean, var, unbiased, momentum, threads):  # (C,), counts (1,), numbers
    tracked[0] += 1
    share = momentum if momentum >= 0 else 1 / tracked[0]
    for c in range(mean.size):
        running_mean[c] += share * (np.float64(mean[c]) - running_mean[c])
        running_var[c] += share * (np.float64(var[c]) * unbiased - running_var[c])


def moved_statistics(
    b: CpuBackend,
    running_mean: Array,
    running_var: Array,
    tracked: Array,
    mean: Array,
    var: Array,
    count: int,
    momentum: float | None,
) -> None:
    """As ops/norm.py's update_statistics, in one launch."""
    share = -1.0 if momentum is None else float(momentum)
    arrays = (running_mean, running_var, tracked.reshape(1), mean, var)
    b.launch(_move, *arrays, count / (count - 1), share)


kernel(batch_norm, batch_norm_forward, _backward)
kernel(batch_norm_relu, batch_norm_relu_forward, _backward)
kernel(batch_norm_add_relu, batch_norm_add_relu_forward, _backward)
kernel(batch_norm_inference, batch_norm_inference_forward, batch_norm_inference_backward)
rule(update_statistics, moved_statistics)
