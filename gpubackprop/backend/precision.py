"""Precisions: what a model's numbers are stored in, and what is computed and kept in float32 all the same.

bfloat16 and float16 are short: activations, their gradients and the weights that ops read are stored in them. The
weights that the optimizer updates, gradients of weights, losses and running statistics are float32. An op on short
arrays means its arithmetic in float32, rounded once at the end: so it is done where no kernel of the backend takes
short arrays (`Widened`), and so the kernels do it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from gpubackprop.errors import UsageError
from gpubackprop.registry import did_you_mean

if TYPE_CHECKING:
    from gpubackprop.backend.base import Array, Backend

DType: TypeAlias = np.dtype[Any]

#: The dtype of weights as they are updated, of gradients of weights, losses and statistics; and of data on the host.
#: tf32 is float32 whose products a GPU may round (`Backend.float32`).
PRECISIONS: dict[str, type[np.floating[Any]]] = {
    "float64": np.float64,
    "float32": np.float32,
    "tf32": np.float32,
    "bfloat16": np.float32,
    "float16": np.float32,
}

#: Ops that only move numbers, or add two: the reference on short arrays gives the very bits that float32 rounded gives.
#: All others are computed in float32.
_EXACT = """
    add concat divide fill flatten merge merge_heads pad_channels pixel_shuffle pixel_unshuffle reshape split_heads
"""
EXACT = frozenset(_EXACT.split())
#: Ops of several outputs of which only the first is rounded: the others are statistics of the batch. A loss, shape (),
#: is never rounded.
STATISTICS = frozenset(("batch_norm", "batch_norm_relu", "batch_norm_add_relu"))


def working(precision: str) -> DType:
    """The dtype that ops read and write. Raises UsageError for an unknown precision, and where a package is missing."""
    if precision not in PRECISIONS:
        known = ", ".join(PRECISIONS)
        raise UsageError(f"unknown precision {precision!r}; known: {known}{did_you_mean(precision, PRECISIONS)}")
    if precision == "float16":
        return np.dtype(np.float16)
    if precision != "bfloat16":
        return np.dtype(PRECISIONS[precision])
    try:
        from ml_dtypes import bfloat16
    except ImportError as error:
        raise UsageError(f"precision bfloat16 needs the package ml_dtypes ({error}); pip install ml_dtypes") from error
    found: DType = np.dtype(bfloat16)
    return found


def is_short(dtype: Any) -> bool:
    """Whether these are bfloat16 or float16."""
    return dtype.itemsize == 2 and dtype.kind in "fV"  # NumPy knows bfloat16 as a void


def is_float(dtype: Any) -> bool:
    """Whether these are floating-point numbers, bfloat16 among them."""
    return dtype.kind == "f" or is_short(dtype)


def full(dtype: Any) -> DType:
    """What goes with numbers of this dtype where none may be lost: float32 for the short ones, else the dtype."""
    return np.dtype(np.float32) if is_short(dtype) else np.dtype(dtype)


def in_words(precision: str, device: str) -> str | None:
    """A line on a precision that is not what its name promises on this device, None where it is."""
    if device.startswith("cuda") or precision in ("float32", "float64"):
        return None
    if precision == "tf32":
        return "precision: tf32 is for GPUs; on the CPU it is float32"
    return f"precision: {precision} is stored, and computed in float32 on the CPU: slower than float32, for trying out"


def suited(op: Any, arrays: Sequence[Any]) -> Any:
    """The reference pair that does `op` on these arrays: itself, or computed in float32 where one of them is short."""
    if op.name in EXACT or not any(_short(a) for a in arrays):
        return op
    return Widened(op)


class Widened:
    """A pair done in float32: short inputs are cast, so are the outputs back; called like an op.

    Gradients are returned in float32, and whoever collects them rounds them where they are to be short.
    """

    def __init__(self, op: Any) -> None:
        self.op, self.name = op, op.name

    def forward(self, b: Backend, *arrays: Any, **options: Any) -> tuple[Any, Any]:
        """As the op's, its outputs in the short dtype of its inputs; by a float32 kernel where there is one."""
        short = next(a.dtype for a in arrays if _short(a))
        wide = [_wide(b, a) for a in arrays]
        pair = b.pair(self.op, wide, options)
        y, saved = pair.forward(b, *wide, **options)
        if type(y) is not tuple:
            return self._rounded(b, y, short), (pair, saved)
        rounded = 1 if self.name in STATISTICS else len(y)
        return (*(self._rounded(b, each, short) for each in y[:rounded]), *y[rounded:]), (pair, saved)

    def backward(self, b: Backend, saved: Any, dy: Any, slots: Sequence[Any]) -> Any:
        """As the op's; a gradient of a weight may be written where it is collected."""
        pair, kept = saved
        dy = tuple(_wide(b, each) for each in dy) if type(dy) is tuple else _wide(b, dy)
        return pair.backward(b, kept, dy, [slot.widened() for slot in slots])

    def _rounded(self, b: Backend, y: Array, short: DType) -> Array:
        return b.cast(y, short) if y.ndim and y.dtype == np.float32 else y


def _short(a: Any) -> bool:
    return (dtype := getattr(a, "dtype", None)) is not None and is_short(dtype)


def _wide(b: Backend, a: Any) -> Any:
    return b.cast(a, np.dtype(np.float32)) if _short(a) else a
