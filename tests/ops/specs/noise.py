"""Rows of ops/noise.py; PyTorch adds the same numbers, which tests/backend/test_philox.py looks at."""

from __future__ import annotations

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.noise import gaussian_noise, gaussian_sample, kl_standard_normal, normals
from tests.ops.specs import OpSpec


def _inputs(*shape, drawn=True):
    def draw(rng):
        return rng.normal(size=shape), np.arange(10, 10 + shape[0]) if drawn else None, np.array(3) if drawn else None

    return draw


def _normals(shape, samples, step, seed, stream):
    import torch

    numbers = normals(NumpyBackend(), tuple(shape), samples.numpy(), int(step), seed=seed, stream=stream)
    return torch.tensor(numbers).double()


def _noise(x, samples, step, *, std, seed, stream):
    return x + std * _normals(x.shape, samples, step, seed, stream)


def _sample(x, samples, step, *, seed=0, stream=0):
    mean, logvar = x.chunk(2, -1)
    if samples is None:
        return mean
    return mean + (logvar / 2).exp() * _normals(mean.shape, samples, step, seed, stream)


def _latents(*shape, mask=None):
    return lambda rng: (rng.normal(size=shape), rng.random(mask) < 0.6 if mask else None)


def _kl(x, mask, *, scale=1.0):
    import torch
    from torch.distributions import Normal, kl_divergence

    mean, logvar = x.chunk(2, -1)
    deviation = (logvar / 2).exp()
    terms = kl_divergence(Normal(mean, deviation), Normal(torch.zeros_like(mean), torch.ones_like(mean))).sum(-1)
    return scale * (terms if mask is None else terms[mask]).sum()


NUMBERS = {"seed": 1, "stream": 2}
ROWS = [
    OpSpec("gaussian_noise", gaussian_noise, _inputs(4, 7), _noise, {"std": 0.5, **NUMBERS}, batched=(0, 1)),
    OpSpec(
        "gaussian_noise on images", gaussian_noise, _inputs(2, 3, 3, 2), _noise, {"std": 2.0, **NUMBERS}, batched=(0, 1)
    ),
    OpSpec("gaussian_sample", gaussian_sample, _inputs(4, 6), _sample, NUMBERS, batched=(0, 1)),
    OpSpec("gaussian_sample of sequences", gaussian_sample, _inputs(2, 3, 4), _sample, NUMBERS, batched=(0, 1)),
    OpSpec("gaussian_sample, the mean", gaussian_sample, _inputs(4, 6, drawn=False), _sample),
    OpSpec("kl_standard_normal", kl_standard_normal, _latents(4, 6), _kl),
    OpSpec(
        "kl_standard_normal, masked, scaled",
        kl_standard_normal,
        _latents(3, 4, 6, mask=(3, 4)),
        _kl,
        {"scale": 0.3},
        batched=(0, 1),
    ),
]
