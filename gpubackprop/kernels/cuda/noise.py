"""Normal noise, drawn where it is added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.draws import draws
from gpubackprop.kernels.cuda.driver import Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import computed, kernel, same_floats
from gpubackprop.ops.noise import gaussian_noise, gaussian_noise_backward, gaussian_sample
from gpubackprop.tape import Slots

NAMES = ADD_NOISE, DRAW, DRAW_BACKWARD = "add_noise<{real}>", "draw<{real}>", "draw_backward<{real}>"
SOURCE = Source("noise.cu", NAMES)


def gaussian_noise_forward(
    b: CudaBackend, x: Array, samples: Array, step: int | Array, *, std: float, seed: int, stream: int
) -> tuple[Array, Any]:
    """As ops/noise.py."""
    drawn = draws(b, samples, step, seed, stream)
    y = b.empty(x.shape, x.dtype)
    numbers = computed(x.dtype).type(std), drawn.seed, drawn.stream, np.int64(prod(x.shape[1:])), np.int64(x.size)
    size = elementwise(x.size, x.itemsize)
    b.launch(SOURCE, ADD_NOISE, x.dtype, *size, x, y, drawn.samples, drawn.step, *numbers)
    return y, None


def gaussian_sample_forward(
    b: CudaBackend, x: Array, samples: Array, step: int | Array, *, seed: int = 0, stream: int = 0
) -> tuple[Array, Any]:
    """As ops/noise.py."""
    drawn = draws(b, samples, step, seed, stream)
    width = x.shape[-1] // 2
    z, deviation = (b.empty((*x.shape[:-1], width), x.dtype) for _ in range(2))
    numbers = drawn.seed, drawn.stream, *map(np.int64, (width, prod(z.shape[1:]), z.size))
    size = elementwise(z.size, z.itemsize)
    b.launch(SOURCE, DRAW, x.dtype, *size, x, z, deviation, drawn.samples, drawn.step, *numbers)
    return z, deviation


def gaussian_sample_backward(b: CudaBackend, deviation: Any, dz: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/noise.py."""
    width = dz.shape[-1]
    dx = b.out(slots[0], (*dz.shape[:-1], 2 * width), dz.dtype)
    size = elementwise(dz.size, dz.itemsize)
    b.launch(SOURCE, DRAW_BACKWARD, dz.dtype, *size, deviation, dz, dx, np.int64(width), np.int64(dz.size))
    return dx, None, None


def _draws(arrays: Sequence[Any], options: Mapping[str, Any]) -> bool:
    """Not the mean alone, and two halves."""
    x, samples, _ = arrays
    return same_floats(arrays, options) and samples is not None and x.shape[-1] % 2 == 0


kernel(gaussian_noise, gaussian_noise_forward, gaussian_noise_backward)
kernel(gaussian_sample, gaussian_sample_forward, gaussian_sample_backward, _draws)
