"""Batch norm: the values are read once for the statistics and once more to be normalised, alone or with ReLU.

Statistics are those of short blocks of rows, two passes each while they are in the cache, put together as they come:
as precise as two passes over all. See lanes.py for the letters.
"""

from __future__ import annotations

from itertools import chain
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.errors import ShapeError
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.constants import none_of, ones_unless, zeros_unless
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import kernel, rule
from gpubackprop.kernels.cpu.lanes import lanes_of, merged, tiled
from gpubackprop.ops.batch_norm_act import batch_norm_add_relu, batch_norm_relu
from gpubackprop.ops.norm import batch_norm, batch_norm_inference, update_statistics
from gpubackprop.tape import Slots

PASS = 0.25  # nanoseconds that one value takes one thread in one pass
BLOCK = 16384  # values of which the second pass finds the first's in the cache


# Rows of K are looked at in place: slices of each would cost as much as half its arithmetic.


@serial
def _statistics(low, high, x, mean, squares, other):  # rows, (R, K), (K,) each
    """Means and sums of squared differences from them, by lane; `other` is scratch memory."""
    width = mean.size
    block = max(1, BLOCK // width)
    mean[:] = 0
    squares[:] = 0
    for start in range(low, high, block):
        stop = min(high, start + block)
        other[:] = 0
        for r in range(start, stop):
            for k in range(width):
                other[k] += x[r, k]
        part = x.dtype.type(1 / (stop - start))
        for k in range(width):
            other[k] *= part
        for r in range(start, stop):
            for k in range(width):
                squares[k] += (x[r, k] - other[k]) * (x[r, k] - other[k])
        merged(start - low, stop - start, other, mean, squares)


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
def _batch_statistics(x, rest, lanes, mean, var, threads):  # (R, K), (<K,), (threads, 3, K), (C,), (C,)
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min(x.shape[0], (t + 1) * share)
        _statistics(low, high, x, lanes[t, 0], lanes[t, 1], lanes[t, 2])
    _combined(lanes[:threads], share, x.shape[0], rest, mean, var)


@serial
def _affine(low, high, x, mean, scale, bias, shortcut, relu, y):  # rows, (R, K), (K,) thrice, (R, K) or (0, K), (R, K)
    zero = x.dtype.type(0)
    for r in range(low, high):
        if shortcut.size:
            for k in range(x.shape[1]):
                v = (x[r, k] - mean[k]) * scale[k] + bias[k] + shortcut[r, k]
                y[r, k] = zero if v <= zero else v
        elif relu:
            for k in range(x.shape[1]):
                v = (x[r, k] - mean[k]) * scale[k] + bias[k]
                y[r, k] = zero if v <= zero else v
        else:
            for k in range(x.shape[1]):
                y[r, k] = (x[r, k] - mean[k]) * scale[k] + bias[k]


@serial
def _constants(mean, var, weight, bias, eps, constants):  # (C,) each, number, (5, K)
    """Along the lanes: mean, weight / √(var + eps), bias."""
    for c in range(mean.size):
        constants[3, c] = weight[c] / np.sqrt(var[c] + eps)
    tiled(mean, constants[0])
    tiled(constants[3, : mean.size], constants[1])
    tiled(bias, constants[2])


@parallel
def _normalise(x, x_rest, mean, var, weight, bias, shortcut, s_rest, eps, relu, constants, y, y_rest, threads):
    # x and y (R, K), shortcut (R, K) or (0, K), mean to bias (C,), constants (5, K), rests (1, <K)
    _constants(mean, var, weight, bias, eps, constants)
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min(x.shape[0], (t + 1) * share)
        _affine(low, high, x, constants[0], constants[1], constants[2], shortcut, relu, y)
    _affine(0, 1, x_rest, constants[0], constants[1], constants[2], s_rest, relu, y_rest)


@serial
def _products(low, high, dy, x, y, again, constants, dsum, total, product):
    """Sums of dy and of dy (x − mean) by lane, where relu let x through if there is one.

    dy, x, y and dsum (R, K), constants (5, K), total and product (K,). With y dy is masked by it into dsum; with
    `again` by y as it was computed from x, into the only row of dsum.
    """
    mean, scale, bias, zero = constants[0], constants[1], constants[2], dy.dtype.type(0)
    g = dsum if y.size or again else dy
    for r in range(low, high):
        if y.size:
            for k in range(x.shape[1]):
                v = dy[r, k]
                dsum[r, k] = v if y[r, k] > zero else zero
        elif again:
            _masked(r, dy, x, mean, scale, bias, dsum)
        row = 0 if again else r
        for k in range(x.shape[1]):
            v = g[row, k]
            total[k] += v
            product[k] += v * (x[r, k] - mean[k])


@serial
def _masked(r, dy, x, mean, scale, bias, dsum):  # row, (R, K), (R, K), (K,) thrice, (1, K)
    zero = dy.dtype.type(0)
    for k in range(x.shape[1]):
        v = dy[r, k]
        dsum[0, k] = v if (x[r, k] - mean[k]) * scale[k] + bias[k] > zero else zero


@parallel
def _gradient_sums(
    dy,
    dy_rest,
    x,
    x_rest,
    y,
    y_rest,
    dsum,
    dsum_rest,
    mean,
    var,
    weight,
    bias,
    eps,
    again,
    constants,
    lanes,
    dweight,
    dbias,
    threads,
):
    # dy and x (R, K), y and dsum (R, K) or (0, K), mean to bias, dweight, dbias (C,), constants (5, K),
    # lanes (threads, 3, K), rests (1, <K)
    _constants(mean, var, weight, bias, eps, constants)
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        lanes[t] = 0
        low, high = t * share, min(x.shape[0], (t + 1) * share)
        g = lanes[t, 2:3] if again else dsum
        _products(low, high, dy, x, y, again, constants, g, lanes[t, 0], lanes[t, 1])
        if t == threads - 1:
            g = lanes[t, 2:3] if again else dsum_rest
            _products(0, 1, dy_rest, x_rest, y_rest, again, constants, g, lanes[t, 0], lanes[t, 1])
    for c in range(mean.size):
        rstd, total, product = 1 / np.sqrt(np.float64(var[c]) + eps), 0.0, 0.0
        for t in range(threads):
            for k in range(c, lanes.shape[2], mean.size):
                total += lanes[t, 0, k]
                product += lanes[t, 1, k]
        dbias[c], dweight[c] = total, product * rstd


@serial
def _row_gradients(low, high, dy, x, again, constants, scratch, dx):  # rows, (R, K) twice, (5, K), (1, K), (R, K)
    mean, scale, bias, scale_x, shift = constants[0], constants[1], constants[2], constants[3], constants[4]
    g = scratch if again else dy
    for r in range(low, high):
        if again:
            _masked(r, dy, x, mean, scale, bias, scratch)
        row = 0 if again else r
        for k in range(x.shape[1]):
            dx[r, k] = g[row, k] * scale[k] + ((x[r, k] - mean[k]) * scale_x[k] + shift[k])


@parallel
def _input_gradients(dy, dy_rest, x, x_rest, var, dweight, dbias, eps, again, constants, lanes, dx, dx_rest, threads):
    # dy, x and dx (R, K), var to dbias (C,), constants (5, K) as _gradient_sums left them, lanes (threads, 3, K)
    width, channels = constants.shape[1], var.size
    count = (x.size + x_rest.size) // channels
    for k in range(width):
        c = k % channels
        scale = np.float64(constants[1, k])
        constants[3, k] = scale * dweight[c] / -count / np.sqrt(np.float64(var[c]) + eps)
        constants[4, k] = scale * dbias[c] / -count
    share = -(-x.shape[0] // threads)
    for t in prange(threads):
        low, high = t * share, min(x.shape[0], (t + 1) * share)
        _row_gradients(low, high, dy, x, again, constants, lanes[t, 2:3], dx)
    _row_gradients(0, 1, dy_rest, x_rest, again, constants, lanes[0, 2:3], dx_rest)


def _rows(x: Array, channels: int) -> tuple[Array, Array]:
    """x (..., C) -> rows of lanes (R, K), and the values that are left over (1, <K)."""
    width = lanes_of(channels)
    flat = x.reshape(-1)
    whole = flat.size // width * width
    return flat[:whole].reshape(-1, width), flat[whole:].reshape(1, -1)


def _no_rows(channels: int, dtype: Any) -> tuple[Array, Array]:
    """In the place of rows that are not there."""
    return none_of(dtype).reshape(0, lanes_of(channels)), none_of(dtype).reshape(1, 0)


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
    rows, rest = _rows(x, channels)
    b.launch(_batch_statistics, rows, rest.reshape(-1), lanes, mean, var, cost=PASS * x.size)
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
    added = _no_rows(channels, kind) if shortcut is None else _rows(shortcut, channels)
    constants = b.empty((5, lanes_of(channels)), kind)
    arrays = (*_rows(x, channels), mean, var, *affine, *added, kind.type(eps), relu, constants, *_rows(y, channels))
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
        arrays = (_rows(each, x.shape[-1]) for each in (dy if dsum is None else dsum, x))
        sums = (var, dweight, dbias, x.dtype.type(eps), again, constants, lanes)
        b.launch(_input_gradients, *chain(*arrays), *sums, *_rows(dx, x.shape[-1]), cost=2 * PASS * x.size)
    grads = dx, dweight if slots[1].wanted else None, dbias if slots[2].wanted else None
    return grads if len(slots) == 3 else (*grads, dsum if slots[3].wanted else None)


def _sums(
    b: CpuBackend, x: Array, dy: Array, y: Array | None, given: Any, again: bool, eps: float, slots: Slots
) -> tuple[Array, Array, Array, Array, Array | None]:
    """dweight, dbias, constants and lanes for `_input_gradients`, and dy where y is positive if there is a y."""
    weight, bias, mean, var = given
    channels, kind = x.shape[-1], x.dtype
    affine = ones_unless(weight, channels, kind), zeros_unless(bias, channels, kind)
    constants = b.empty((5, lanes_of(channels)), kind)
    lanes = b.empty((b.threads, 3, lanes_of(channels)), kind)
    dweight, dbias = (b.out(slot, mean) if slot.wanted else b.empty(mean.shape, kind) for slot in slots[1:3])
    dsum = None if y is None else b.empty(x.shape, kind)
    arrays = (_no_rows(channels, kind) if each is None else _rows(each, channels) for each in (dy, x, y, dsum))
    stated = (mean, var, *affine, kind.type(eps), again)
    b.launch(_gradient_sums, *chain(*arrays), *stated, constants, lanes, dweight, dbias, cost=2 * PASS * x.size)
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
