"""Several losses as one."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Op, Slots


def multi_task_forward(
    b: Backend, count: Array, *pairs: Array, scales: tuple[float, ...]
) -> tuple[tuple[Array, Array], Any]:
    """count (), and sum and weight of each loss in turn, all () -> count · Σ scale sum / weight, and count.

    A loss of no weight adds nothing.
    """
    factors = [
        count * scale * (weight > 0) / b.xp.where(weight > 0, weight, 1)
        for scale, weight in zip(scales, pairs[1::2], strict=True)
    ]
    terms = [total * factor for total, factor in zip(pairs[::2], factors, strict=True)]
    return (b.xp.asarray(sum(terms)), b.xp.asarray(count)), factors


def multi_task_backward(b: Backend, factors: Any, dy: tuple[Array, ...], slots: Slots) -> tuple[Array | None, ...]:
    """d sum = count scale / weight; the weights have no gradient."""
    grads: list[Array | None] = [None]
    for factor in factors:
        grads += [b.xp.asarray(factor * dy[0]), None]
    return tuple(grads)


multi_task = Op(multi_task_forward, multi_task_backward)
