"""Batch norm in training by cuDNN. Not with ReLU: cuDNN's fused one has no engine that promises to let a NaN through.

Letters as in ops/norm.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.cudnn import Graph, operand, pair
from gpubackprop.ops.norm import batch_norm
from gpubackprop.tape import Slots

FLOAT32 = np.dtype(np.float32)


def batchnorm(
    library: Any, g: Any, x: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, *, eps: float
) -> Sequence[Any]:
    """y, mean, rstd, and running statistics that take over the batch's whole mean and unbiased variance"""
    constant = library.scalar_type.COMPILE_TIME_CONST
    found = g.batchnorm(
        input=x,
        scale=weight,
        bias=bias,
        in_running_mean=running_mean,
        in_running_var=running_var,
        epsilon=g.tensor_scalar(eps, constant),
        momentum=g.tensor_scalar(1.0, constant),
    )
    return tuple(found)


def batchnorm_backward(library: Any, g: Any, dy: Any, x: Any, weight: Any, mean: Any, rstd: Any) -> Sequence[Any]:
    """dx, dweight, dbias"""
    return tuple(g.batchnorm_backward(grad=dy, input=x, scale=weight, mean=mean, inv_variance=rstd))


def _passes(shape: Sequence[int], dtype: Any, eps: float) -> tuple[Graph, Graph]:
    """Both passes over x (N, ..., C): images as they are, whatever else as rows."""
    channels = shape[-1]
    n, h, w = shape[:-1] if len(shape) == 4 else (prod(shape[:-1]), 1, 1)
    x = operand((n, h, w, channels), (0, 3, 1, 2), dtype)
    affine = operand((1, 1, 1, channels), (0, 3, 1, 2), dtype)
    statistic = affine._replace(dtype="float32")
    return (
        Graph(batchnorm, (x, affine, affine, *[statistic] * 2), (x, *[statistic] * 4), (("eps", eps),)),
        Graph(batchnorm_backward, (x, x, affine, *[statistic] * 2), (x, affine, affine)),
    )


def batch_norm_forward(
    b: CudaBackend, x: Array, weight: Array, bias: Array, *, eps: float = 1e-5
) -> tuple[tuple[Array, Array, Array], Any]:
    """As ops/norm.py."""
    forward, backward = _passes(x.shape, x.dtype, eps)
    count = prod(x.shape[:-1])
    y, statistics = b.empty(x.shape, x.dtype), [b.empty(weight.shape, FLOAT32) for _ in range(4)]
    before = b.xp.zeros(weight.shape, FLOAT32)  # a share of 0 of it is still NaN if it is
    b.compute(forward, x, weight, bias, before, before, y, *statistics)
    mean, rstd, _, var = statistics
    var *= FLOAT32.type((count - 1) / count)
    return (y, mean, var), (x, weight, mean, rstd, backward)


def batch_norm_backward(b: CudaBackend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/norm.py."""
    x, weight, mean, rstd, backward = saved
    if not any(slot.wanted for slot in slots):
        return None, None, None
    grads = [b.out(slot, a.shape, x.dtype) for slot, a in zip(slots, (x, weight, weight), strict=True)]
    b.compute(backward, dys[0], x, weight, mean, rstd, *grads)
    return tuple(grad if slot.wanted else None for slot, grad in zip(slots, grads, strict=True))


def _graphs(arrays: Sequence[Any], options: Mapping[str, Any]) -> Sequence[Graph]:
    x, weight, bias = arrays
    if weight is None or bias is None or x.dtype.name == "float64" or prod(x.shape[:-1]) < 2:
        return ()
    return _passes(x.shape, x.dtype, options.get("eps", 1e-5))


pair(batch_norm, batch_norm_forward, batch_norm_backward, _graphs)
