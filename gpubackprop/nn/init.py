"""Starting values of weights, with PyTorch's names, formulas and defaults; float64 on the host."""

from __future__ import annotations

from math import sqrt
from typing import Any

import numpy as np

from gpubackprop.backend import HostArray
from gpubackprop.parameters import Init


def constant(value: float) -> Init:
    """The same number everywhere."""
    return lambda rng, shape: np.full(shape, value)


zeros, ones = constant(0.0), constant(1.0)


def uniform(bound: float) -> Init:
    """U(-bound, bound)."""
    return lambda rng, shape: rng.uniform(-bound, bound, shape)


def normal(std: float) -> Init:
    """N(0, std²)."""
    return lambda rng, shape: rng.normal(0.0, std, shape)


def truncated_normal(std: float, limit: float = 2.0) -> Init:
    """N(0, std²) with values beyond `limit` standard deviations drawn again."""

    def init(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
        x = rng.normal(0.0, 1.0, shape)
        while (outside := np.abs(x) > limit).any():
            x[outside] = rng.normal(0.0, 1.0, int(outside.sum()))
        return x * std

    return init


def kaiming_uniform(fan_in: int, a: float = sqrt(5)) -> Init:
    """U(±√(6 / ((1 + a²) fan_in))), He et al. 2015; a = √5 is PyTorch's default for linear and conv."""
    return uniform(sqrt(6.0 / ((1.0 + a * a) * fan_in)))


def kaiming_normal(fan_in: int, a: float = 0.0) -> Init:
    """N(0, 2 / ((1 + a²) fan_in)), He et al. 2015."""
    return normal(sqrt(2.0 / ((1.0 + a * a) * fan_in)))


def xavier_uniform(fan_in: int, fan_out: int) -> Init:
    """U(±√(6 / (fan_in + fan_out))), Glorot and Bengio 2010."""
    return uniform(sqrt(6.0 / (fan_in + fan_out)))


def xavier_normal(fan_in: int, fan_out: int) -> Init:
    """N(0, 2 / (fan_in + fan_out)), Glorot and Bengio 2010."""
    return normal(sqrt(2.0 / (fan_in + fan_out)))


def orthogonal(gain: float = 1.0) -> Init:
    """Orthonormal rows or columns of the matrix (first axis, rest), times `gain`; Saxe et al. 2013."""

    def init(rng: np.random.Generator, shape: tuple[int, ...]) -> HostArray:
        rows, columns = shape[0], int(np.prod(shape[1:]))
        q, r = np.linalg.qr(rng.normal(0.0, 1.0, (max(rows, columns), min(rows, columns))))
        q *= np.sign(np.diag(r))  # makes the distribution uniform over orthogonal matrices
        flat: Any = q if rows >= columns else q.T
        weight: HostArray = gain * flat.reshape(shape)
        return weight

    return init
