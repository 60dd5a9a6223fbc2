"""Normal noise as a function of the sample and the step, and what the variational autoencoder needs of it."""

from __future__ import annotations

from math import prod
from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.backend.philox import normal
from gpubackprop.ops.totals import element_weights
from gpubackprop.tape import Op, Slots


def gaussian_noise_forward(
    b: Backend, x: Array, samples: Array, step: int | Array, *, std: float, seed: int, stream: int
) -> tuple[Array, Any]:
    """x (N, ...), samples (N,) integers, step a number or 0-d array -> y (N, ...) = x + std ε, ε standard normal."""
    y = normals(b, x.shape, samples, step, seed=seed, stream=stream).astype(x.dtype)
    y *= std
    y += x
    return y, None


def gaussian_noise_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dx = dy."""
    return dy, None, None


def gaussian_sample_forward(
    b: Backend, x: Array, samples: Array | None, step: int | Array | None, *, seed: int = 0, stream: int = 0
) -> tuple[Array, Any]:
    """x (N, ..., 2D) = [mean, logvar] -> z (N, ..., D) = mean + exp(logvar / 2) ε; Kingma and Welling 2014.

    ε is standard normal, a function of samples (N,) and step; without samples it is 0, so that z is the mean.
    """
    mean, logvar = b.xp.split(x, 2, -1)
    if samples is None:
        return mean.copy(), None
    deviation = b.xp.exp(0.5 * logvar)
    deviation *= normals(b, mean.shape, samples, step, seed=seed, stream=stream).astype(x.dtype)
    return mean + deviation, deviation


def gaussian_sample_backward(b: Backend, deviation: Any, dz: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dmean = dz; dlogvar = exp(logvar / 2) ε dz / 2."""
    dlogvar = b.xp.zeros_like(dz) if deviation is None else deviation * dz * 0.5
    return b.xp.concatenate([dz, dlogvar], axis=-1), None, None


def kl_standard_normal_forward(b: Backend, x: Array, mask: Array | None, *, scale: float = 1.0) -> tuple[Array, Any]:
    """x (N, ..., 2D) = [mean, logvar], mask (N, ...) of what counts -> scale · Σ KL(N(mean, e^logvar) | N(0, 1)), ().

    Each term is (mean² + e^logvar - 1 - logvar) / 2; Kingma and Welling 2014, appendix B.
    """
    mean, logvar = b.xp.split(x, 2, -1)
    count = element_weights(b.xp, mean.shape, x.dtype, mask)
    variance = b.xp.exp(logvar)
    terms = mean * mean + variance - 1 - logvar
    return b.xp.asarray((terms * count).sum() * (0.5 * scale)), (mean, variance, count, scale)


def kl_standard_normal_backward(b: Backend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """dmean = mean dy; dlogvar = (e^logvar - 1) dy / 2, times scale."""
    mean, variance, count, scale = saved
    factor = count * (dy * scale)
    return b.xp.concatenate([mean * factor, (variance - 1) * (factor * 0.5)], axis=-1), None


def normals(b: Backend, shape: tuple[int, ...], samples: Array, step: Any, *, seed: int, stream: int) -> Array:
    """Standard normal float32 numbers (N, ...)."""
    return normal(b.xp, seed, stream, step, samples, prod(shape[1:])).reshape(shape)


gaussian_noise = Op(gaussian_noise_forward, gaussian_noise_backward)
gaussian_sample = Op(gaussian_sample_forward, gaussian_sample_backward)
kl_standard_normal = Op(kl_standard_normal_forward, kl_standard_normal_backward)
