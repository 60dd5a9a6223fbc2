"""Convolution: which algorithm takes which direction of which shape.

An algorithm is four functions; `direct` takes everything, others enter themselves into `ALGORITHMS` and take what they
say they fit. Where several fit, a short measurement chooses, once per machine: it is kept in a file beside the
compiled kernels, so that later runs take the same and give the same numbers. GPUBACKPROP_CONV=direct (or another's
name) chooses that one wherever it fits, GPUBACKPROP_CONV=measure measures where a rule would do.
"""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.errors import UsageError
from gpubackprop.kernels.cpu import ahead, direct, jit
from gpubackprop.kernels.cpu.backend import CpuBackend
from gpubackprop.kernels.cpu.kernel import CHOICES, kernel
from gpubackprop.kernels.cpu.sums import column_sums
from gpubackprop.ops.conv import Sizes, Windows, conv, conv_transpose, output_size, transposed_size
from gpubackprop.registry import did_you_mean
from gpubackprop.tape import Slots


class Algorithm(NamedTuple):
    """One way to convolve x (N, *S, C) with a weight (*K, C/G, O); `lie` says how the windows lie.

    fits(x_shape, weight_shape, lie, dtype) -> bool
    forward(b, x, weight, bias or None, lie) -> y (N, *P, O)
    backward_data(b, dy, weight, x_shape, lie) -> dx (N, *S, C)
    backward_weights(b, x, dy, weight_shape, lie, out) -> None; writes the weight's gradient into out
    """

    fits: Callable[[Sizes, Sizes, Windows, Any], bool]
    forward: Callable[[CpuBackend, Array, Array, Array | None, Windows], Array]
    backward_data: Callable[[CpuBackend, Array, Array, Sizes, Windows], Array]
    backward_weights: Callable[[CpuBackend, Array, Array, Sizes, Windows, Array], None]


ALGORITHMS: dict[str, Algorithm] = {
    "direct": Algorithm(direct.fits, direct.forward, direct.backward_data, direct.backward_weights)
}

FORWARD, DATA, WEIGHTS = "forward", "backward_data", "backward_weights"
WORTH = 2e6  # multiply-adds below which no measurement is worth its time
CLEAR = 16
ROUNDS = 3


def asked() -> str | None:
    """What GPUBACKPROP_CONV asks for, None: nothing. Raises UsageError for a name that is no algorithm's."""
    name, known = os.environ.get("GPUBACKPROP_CONV"), (*ALGORITHMS, "measure")
    if name and name not in known:
        raise UsageError(f"GPUBACKPROP_CONV={name}: known: {', '.join(known)}{did_you_mean(name, known)}")
    return name


def preferred(work: float, weight_shape: Sizes, names: list[str]) -> str | None:
    """What needs no measurement; None: measure. `work` in multiply-adds.

    What is too small is direct. From 16 channels on Winograd took 0.42 to 0.65 of direct's time at all sizes that it
    fits: to compile both for a measurement would only make the first step late.
    """
    if work < WORTH:
        return names[0]
    return names[-1] if names[-1].startswith("winograd") and min(weight_shape[-2:]) >= CLEAR else None


def algorithm(
    b: CpuBackend, direction: str, x_shape: Sizes, weight_shape: Sizes, lie: Windows, dtype: Any
) -> Algorithm:
    """The algorithm for one direction of one shape. Raises UsageError for an unknown name in GPUBACKPROP_CONV."""
    names = [name for name, each in ALGORITHMS.items() if each.fits(x_shape, weight_shape, lie, dtype)]
    forced = asked()
    measure = forced == "measure"
    if forced and not measure:
        return ALGORITHMS[forced if forced in names else names[0]]
    if len(names) == 1:
        return ALGORITHMS[names[0]]
    key = _key(direction, x_shape, weight_shape, lie, dtype, b.threads)
    if key not in CHOICES and key in _kept():
        CHOICES[key] = _kept()[key]
    if CHOICES.get(key) not in names:
        work = prod(x_shape[:-1]) * prod(weight_shape) / prod(lie.stride)
        if not measure and (name := preferred(work, weight_shape, names)):
            return ALGORITHMS[name]
        CHOICES[key] = _quickest(b, direction, x_shape, weight_shape, lie, dtype, names)
        _keep(key)
    return ALGORITHMS[CHOICES[key]]


def _key(direction: str, x_shape: Sizes, weight_shape: Sizes, lie: Windows, dtype: Any, threads: int) -> str:
    return f"{direction} x{x_shape} weight{weight_shape} {tuple(lie)} {np.dtype(dtype)} {threads} threads".replace(
        ", ", ","
    )


def _quickest(
    b: CpuBackend, direction: str, x_shape: Sizes, weight_shape: Sizes, lie: Windows, dtype: Any, names: list[str]
) -> str:
    """The quickest of three after a warm-up, in turns. On memory of its own, and unseen by who records b's launches."""
    apart = CpuBackend(b.threads)
    out = map(output_size, x_shape[1:-1], weight_shape[:-2], lie.stride, lie.padding, lie.dilation)
    x, weight, dweight = np.ones(x_shape, dtype), np.ones(weight_shape, dtype), np.ones(weight_shape, dtype)
    dy = np.ones((x_shape[0], *out, weight_shape[-1]), dtype)
    arguments: dict[str, tuple[Any, ...]] = {
        FORWARD: (x, weight, None, lie),
        DATA: (dy, weight, x_shape, lie),
        WEIGHTS: (x, dy, weight_shape, lie, dweight),
    }
    best = dict.fromkeys(names, float("inf"))
    for turn in range(ROUNDS + 1):
        for name in names:
            start = perf_counter()
            getattr(ALGORITHMS[name], direction)(apart, *arguments[direction])
            if turn:
                best[name] = min(best[name], perf_counter() - start)
    return min(best, key=best.__getitem__)


def _file() -> Path | None:
    """Where choices are kept, by machine; None where nothing can be written."""
    if jit.FOLDER is None:
        return None
    machine = "".join(c if c.isalnum() else "-" for c in _processor())
    return jit.FOLDER.parent / f"conv-{machine}-{jit.FOLDER.name}.json"


@cache
def _processor() -> str:
    """The processor's model."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.split(":", 1)[1].strip() for line in lines if line.startswith(("model name", "CPU part")))
    return next(named, platform.processor() or platform.machine())


@cache
def _kept() -> dict[str, str]:
    """What earlier processes measured; nothing where the file is missing, or broken, of which a warning tells."""
    path = _file()
    if path is None or not path.exists():
        return {}
    try:
        kept = json.loads(path.read_bytes())
        if not isinstance(kept, dict) or not all(isinstance(name, str) for name in kept.values()):
            raise ValueError("not names of algorithms by shape")
    except (OSError, ValueError) as error:
        warnings.warn(f"{path}: cannot be read ({error}); convolutions are measured anew", RuntimeWarning, stacklevel=2)
        return {}
    return {key: name for key, name in kept.items() if name in ALGORITHMS}


def _keep(key: str) -> None:
    """Keep one choice that was measured here: others may have come with a run from another machine."""
    path = _file()
    if path is None or ahead.copy is not None:  # a copy launches nothing, and has measured nothing
        return
    _kept.cache_clear()
    mine = path.with_suffix(f".{os.getpid()}")
    try:
        mine.write_text(json.dumps({**_kept(), key: CHOICES[key]}, indent=1))
        mine.replace(path)  # at once: another process reads the old file or the new one
    except OSError:
        return
    _kept.cache_clear()


def conv_forward(
    b: CpuBackend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Any,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """As ops/conv.py."""
    lie = Windows(stride, padding, dilation, groups)
    way = algorithm(b, FORWARD, x.shape, weight.shape, lie, x.dtype)
    return way.forward(b, x, weight, bias, lie), (x, weight, lie)


def conv_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, lie = saved
    dx = dweight = dbias = None
    if slots[0].wanted:
        dx = algorithm(b, DATA, x.shape, weight.shape, lie, x.dtype).backward_data(b, dy, weight, x.shape, lie)
    if slots[1].wanted:
        dweight = b.out(slots[1], weight)
        way = algorithm(b, WEIGHTS, x.shape, weight.shape, lie, x.dtype)
        way.backward_weights(b, x, dy, weight.shape, lie, dweight)
    if slots[2].wanted:
        dbias = _bias_gradient(b, dy, slots)
    return dx, dweight, dbias


def conv_transpose_forward(
    b: CpuBackend,
    x: Array,
    weight: Array,
    bias: Array | None,
    *,
    stride: Sizes,
    padding: Any,
    output_padding: Sizes,
    dilation: Sizes,
    groups: int = 1,
) -> tuple[Array, Any]:
    """As ops/conv.py."""
    lie = Windows(stride, padding, dilation, groups)
    out = map(transposed_size, x.shape[1:-1], weight.shape[:-2], stride, padding, dilation, output_padding)
    shape = (x.shape[0], *out, weight.shape[-2] * groups)
    return direct.spread(b, x, weight, bias, shape, lie), (x, weight, lie)


def conv_transpose_backward(b: CpuBackend, saved: Any, dy: Array, slots: Slots) -> tuple[Array | None, ...]:
    """As ops/conv.py."""
    x, weight, lie = saved
    dx = dweight = dbias = None
    if slots[0].wanted:
        dx = direct.correlate(b, dy, weight, None, x.shape[1:-1], lie)
    if slots[1].wanted:
        dweight = b.out(slots[1], weight)
        direct.backward_weights(b, dy, x, weight.shape, lie, dweight)
    if slots[2].wanted:
        dbias = _bias_gradient(b, dy, slots)
    return dx, dweight, dbias


def _bias_gradient(b: CpuBackend, dy: Array, slots: Slots) -> Array:
    channels = dy.shape[-1]
    dbias = slots[2].out if slots[2].out is not None else b.empty((channels,), dy.dtype)
    column_sums(b, dy.reshape(-1, channels), dbias)
    return dbias


kernel(conv, conv_forward, conv_backward)
kernel(conv_transpose, conv_transpose_forward, conv_transpose_backward)
