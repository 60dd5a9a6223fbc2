"""What layers that slide over axes share: sizes by axis, padding, and the shapes that they take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias, TypeVar

from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Shape
from gpubackprop.ops.conv import Padding, Sizes
from gpubackprop.registry import NonNegative, Positive

Number = TypeVar("Number", int, float)
Size1: TypeAlias = Positive | tuple[Positive]
Size2: TypeAlias = Positive | tuple[Positive, Positive]  #: one number for both, or (along H, along W)
Size3: TypeAlias = Positive | tuple[Positive, Positive, Positive]  #: one for all, or (along D, along H, along W)
Border1: TypeAlias = NonNegative | tuple[NonNegative]
Border2: TypeAlias = NonNegative | tuple[NonNegative, NonNegative]
Border3: TypeAlias = NonNegative | tuple[NonNegative, NonNegative, NonNegative]
Size: TypeAlias = int | tuple[int, ...]

KINDS = ("numbers (C,)", "sequences (T, C)", "images (H, W, C)", "volumes (D, H, W, C)")  #: by number of axes


def each(size: Number | tuple[Number, ...], axes: int) -> tuple[Number, ...]:
    """One number for every axis, or those that were given; UsageError where these are too many or too few."""
    sizes = (size,) * axes if isinstance(size, int | float) else tuple(size)
    if len(sizes) != axes:
        raise UsageError(f"{list(sizes)}: give one number, or {axes}: one for each axis of {KINDS[axes]}")
    return sizes


def around(border: Size, axes: int) -> Padding:
    """The same padding on both ends of an axis: ((top, bottom), (left, right))."""
    return tuple((cells, cells) for cells in each(border, axes))


def spatial(shape: Shape, layer: str, axes: int) -> tuple[Sizes, int]:
    """`shape` as ((T,), (H, W) or (D, H, W), C), or a ShapeError."""
    if len(shape) != axes + 1:
        raise ShapeError(f"{layer} needs {KINDS[axes]}, got {shape}; put reshape before it")
    return shape[:-1], shape[-1]


def fitting(found: Sequence[int], shape: Shape, kernel: Sizes) -> Sizes:
    """The output's sizes, or a ShapeError where the window does not fit into the padded image."""
    if min(found) < 1:
        noun = KINDS[len(kernel)].split()[0]
        raise ShapeError(
            f"a window of {' x '.join(map(str, kernel))} does not fit into {noun} {shape}, padding and dilation "
            "counted; use a smaller kernel_size, more padding, or less pooling before it"
        )
    return tuple(found)
