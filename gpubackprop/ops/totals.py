"""How losses count: the weight of each element, and sums as 0-d arrays."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array, Backend


def element_weights(xp: Any, shape: tuple[int, ...], dtype: Any, *factors: Array | None) -> Array:
    """The weight of each element, an array that broadcasts to `shape`: the product of weight and mask, 1 without.

    Each factor stands on the leading axes of `shape`.
    """
    count = xp.ones((), dtype)
    for given in factors:
        if given is not None:
            count = count * given.astype(dtype).reshape(given.shape + (1,) * (len(shape) - given.ndim))
    return count


def class_positions(
    xp: Any, target: Array, ignore_index: int, dtype: Any, weight: Array | None, mask: Array | None
) -> tuple[tuple[Array, Array], Array]:
    """target (...) integers -> (rows, index), which picks from (M, V) each position's own class, and its weight (M,).

    Ignored positions have weight 0, and class 0 stands in for theirs.
    """
    count = xp.broadcast_to(element_weights(xp, target.shape, dtype, weight, mask), target.shape).reshape(-1)
    # An unsigned dtype could not meet a negative ignore_index.
    target = target.reshape(-1).astype(xp.int64)
    kept = target != ignore_index
    return (xp.arange(target.size), target * kept), count * kept


def only_classes(b: Backend, target: Array, classes: int, ignore_index: int) -> None:
    """Raise IndexError where target (...), integers, is neither of 0 to classes - 1 nor ignore_index.

    Looks at values, so that on a GPU it would wait.
    """
    if bool(((target < 0) | (target >= classes))[target != ignore_index].any()):
        raise IndexError(f"a target is none of {classes} classes")


def totals(xp: Any, losses: Array, count: Array) -> tuple[Array, Array]:
    """(sum, weight) as 0-d arrays: NumPy's own sums are scalars."""
    return xp.asarray(losses.sum()), xp.asarray(xp.broadcast_to(count, losses.shape).sum())
