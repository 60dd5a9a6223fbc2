"""Maps that are linear along each axis by itself: a small matrix per axis."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from gpubackprop.backend import Array, Backend


def along_axes(b: Backend, matrices: Sequence[Array], x: Array) -> Array:
    """x (N, *S, C), for each axis of S a matrix (P_i, S_i) -> (N, *P, C)."""
    for axis, matrix in enumerate(matrices, start=1):
        before, size, behind = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
        y = b.matmul(matrix, x.reshape(prod(before), size, prod(behind)))
        x = y.reshape(*before, matrix.shape[0], *behind)
    return x
