"""Running statistics: an effect of the step, in one launch behind those that find x's own statistics."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.backend import CudaBackend
from gpubackprop.kernels.cuda.channel_norm import batch, by_sample, masked, statistics
from gpubackprop.kernels.cuda.driver import EXACT, NULL, Source
from gpubackprop.kernels.cuda.grid import row_threads
from gpubackprop.kernels.cuda.kernel import computed, rule, same_floats
from gpubackprop.ops import norm, sample_norm

MOVE = "move<{real}>"
SOURCE = Source("running.cu", (MOVE,), EXACT)


def _move(
    b: CudaBackend,
    running: tuple[Array, Array, Any],
    found: tuple[Array, Array, Any],
    count: int,
    momentum: float | None,
) -> None:
    """`running`: mean, var (C,) and how many batches so far; `found`: mean, var and counts (N, C) of this one."""
    wide, channels = found[0].dtype, running[0].size
    share = wide.type(-1 if momentum is None else momentum)
    numbers = wide.type(count), share, np.int32(found[0].size // max(channels, 1)), np.int64(channels)
    b.launch(SOURCE, MOVE, wide, (1,), row_threads(channels, wide.itemsize), *running, *found, *numbers)


def update_statistics(
    b: Any,
    running_mean: Array,
    running_var: Array,
    tracked: Array,
    mean: Array,
    var: Array,
    count: int,
    momentum: float | None,
) -> None:
    """As ops/norm.py."""
    if _fits(running_mean, running_var, tracked, mean, var):
        _move(b, (running_mean, running_var, tracked), (mean, var, NULL), count, momentum)
    else:
        norm.update_statistics(b, running_mean, running_var, tracked, mean, var, count, momentum)


def update_masked_statistics(
    b: Any, running_mean: Array, running_var: Array, tracked: Array, x: Array, mask: Array, momentum: float | None
) -> None:
    """As ops/norm.py."""
    if _fits(running_mean, running_var, tracked) and running_mean.dtype == computed(x.dtype) and mask.dtype == bool:
        x, mask = map(b.contiguous, (x, mask))
        found = statistics(b, x, masked(batch(x, None, None, 0.0), x, mask))
        _move(b, (running_mean, running_var, tracked), (found.mean, found.var, found.total), 0, momentum)
    else:
        norm.update_masked_statistics(b, running_mean, running_var, tracked, x, mask, momentum)


def update_instance_statistics(
    b: Any, running_mean: Array, running_var: Array, x: Array, mask: Array | None, momentum: float
) -> None:
    """As ops/sample_norm.py."""
    fits = _fits(running_mean, running_var) and running_mean.dtype == computed(x.dtype)
    if fits and prod(x.shape[1:-1]) > 1 and (mask is None or mask.dtype == bool):
        x, mask = map(b.contiguous, (x, mask))
        found = statistics(b, x, by_sample(masked(batch(x, None, None, 0.0), x, mask), x, x.shape[-1]))
        _move(b, (running_mean, running_var, NULL), (found.mean, found.var, found.total), 0, momentum)
    else:
        sample_norm.update_instance_statistics(b, running_mean, running_var, x, mask, momentum)


def _fits(*arrays: Array) -> bool:
    """Whether statistics are of one dtype that is computed with, in C's order, and a counter is what C++ takes."""
    kinds = {a.dtype.name for a in arrays if a.dtype.kind in "fV"}
    return (
        same_floats(arrays, {})
        and kinds <= set(EXACT)
        and all(a.flags.c_contiguous and (a.dtype.name in kinds or a.dtype == np.int64) for a in arrays)
    )


rule(norm.update_statistics, update_statistics)
rule(norm.update_masked_statistics, update_masked_statistics)
rule(sample_norm.update_instance_statistics, update_instance_statistics)
