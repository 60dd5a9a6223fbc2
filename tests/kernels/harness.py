"""A kernel beside its reference: outputs and gradients, on memory in which nothing was written before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from gpubackprop.backend import NumpyBackend
from gpubackprop.tape import FREE, SKIP, Op, Slot
from tests.ops.harness import assert_close, is_float, named

TOLERANCE = {np.dtype(np.float32): 1e-5, np.dtype(np.float64): 1e-12}


def backend(threads: int = 1, always_shared: bool = True) -> Any:
    """The CPU with kernels, its fresh memory full of NaN; small arrays are shared among the threads too."""
    numba = pytest.importorskip("numba", reason="Numba, which compiles the kernels, is not installed")
    from gpubackprop.backend import cpu

    found, words = cpu()
    if "as asked" in words:
        pytest.skip("GPUBACKPROP_KERNELS=reference: kernels are turned off", allow_module_level=True)
    assert hasattr(found, "launch") or "OpenBLAS" in words, words
    if not hasattr(found, "launch"):
        pytest.skip(f"no kernels here: {words}")
    kernels = type(found)(threads=min(threads, numba.config.NUMBA_NUM_THREADS), poison=True)
    if always_shared:
        kernels.shared = -1.0
    return kernels


def run(
    b: Any, pair: Any, inputs: Sequence[Any], options: Mapping[str, Any], dys: Sequence[Any], wanted: Sequence[int]
) -> dict[str, Any]:
    """Outputs y0, …, and gradients d0, … of a pair; `dys` are cut to the outputs."""
    y, saved = pair.forward(b, *inputs, **options)
    ys = y if type(y) is tuple else (y,)
    slots = [
        Slot(out=np.full(a.shape, np.nan, a.dtype)) if i in wanted and i % 2 else FREE if i in wanted else SKIP
        for i, a in enumerate(inputs)
    ]
    grads = pair.backward(b, saved, dys[0] if len(ys) == 1 else tuple(dys), slots)
    assert len(grads) == len(inputs)
    assert all(grads[i] is None for i in range(len(inputs)) if i not in wanted), "a gradient that nobody wanted"
    return {name: np.array(a) for name, a in named(ys, {i: grads[i] for i in wanted}).items()}


def assert_equals_reference(
    b: Any,
    op: Op,
    inputs: Sequence[Any],
    options: Mapping[str, Any] | None = None,
    *,
    outputs: int = 1,
    constants: Sequence[int] = (),
    tolerance: float | None = None,
) -> None:
    """The kernel of `op` gives what the reference gives in float64; `constants`: inputs without a gradient.

    Gradients flow back from the first `outputs` outputs. Fails where no kernel takes these inputs.
    """
    options = options or {}
    pair = b.pair(op, inputs, options)
    assert pair is not op, f"no kernel of {op} fits {[getattr(a, 'shape', a) for a in inputs]} {options}"
    dtype = next(a.dtype for a in inputs if is_float(a))
    wanted = [i for i, a in enumerate(inputs) if is_float(a) and i not in constants]
    wide = [a.astype(np.float64) if is_float(a) else a for a in inputs]
    plain = NumpyBackend()
    y = op.forward(plain, *wide, **options)[0]
    rng = np.random.default_rng(0)
    dys = [
        rng.normal(size=each.shape).astype(dtype) if i < outputs else None
        for i, each in enumerate(y if type(y) is tuple else (y,))
    ]
    reference = run(plain, op, wide, options, [dy if dy is None else dy.astype(np.float64) for dy in dys], wanted)
    before = [None if a is None else a.copy() for a in inputs]
    found = run(b, pair, inputs, options, dys, wanted)
    assert all(a.dtype == dtype for name, a in found.items() if a.dtype.kind == "f"), "another dtype came out"
    assert_close(found, reference, tolerance or TOLERANCE[dtype])
    again = run(b, pair, inputs, options, dys, wanted)
    assert all(np.array_equal(found[name], again[name]) for name in found), "another result at the second run"
    for a, kept in zip(inputs, before, strict=True):
        assert a is None or np.array_equal(a, kept, equal_nan=a.dtype.kind == "f"), "an input was written to"
