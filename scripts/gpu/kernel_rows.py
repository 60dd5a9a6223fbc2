"""Every kernel of the GPU beside its reference: python -m scripts.gpu.kernel_rows, as worker.py runs it.

The rows are those of the tests' table, with inputs that are drawn anew from $GPU_CHECK_SEED; the reference is NumPy's,
in float64, on the same rounded inputs. Fresh memory is full of NaN, and each kernel runs twice: the bits must be the
same. `--small` takes a row of each kernel, for compute-sanitizer, and needs no worker.py around it.
"""

from __future__ import annotations

import os
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda import cudnn
from gpubackprop.kernels.cuda.candidates import own_kernel
from gpubackprop.kernels.cuda.kernel import KERNELS, computed
from gpubackprop.tape import FREE, SKIP, Slot
from scripts.gpu import kernel_rules
from scripts.gpu.record import FAILED, NOT_RUN, PASSED
from scripts.gpu.worker import Lines, lost
from tests.ops import harness
from tests.ops.specs import OpSpec, table

SEED, ONLY = "GPU_CHECK_SEED", "GPU_CHECK_ONLY"  #: what the parent says
#: Largest errors by dtype. The short ones keep 11 and 8 bits of an output, and of what a backward pass goes on with:
#: ten roundings, since inputs are other ones every time.
TOLERANCES = {"float64": 1e-12, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
FLOAT32 = ("gaussian_noise", "gaussian_sample")  #: whose random numbers are of float32, and equal to rounding
Check = Callable[[], dict[str, Any]]


class DiffersError(Exception):
    """A kernel does not do what it should."""


class MissingError(Exception):
    """There is nothing to check: a library has no plan for a row."""


def dtypes() -> dict[str, Any]:
    """By name; NumPy knows bfloat16 from ml_dtypes alone, and it is None where that is missing."""
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        bfloat16 = None
    return {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": bfloat16}


def draw(spec: OpSpec, dtype: Any, seed: int) -> list[Any]:
    """Inputs that are other ones for another seed, as arrays of NumPy's; floats rounded to `dtype`."""
    inputs = spec.inputs(np.random.default_rng([seed, zlib.crc32(spec.name.encode())]))
    arrays: list[Any] = [None if a is None else np.asarray(a) for a in inputs]
    return [a.astype(dtype) if harness.is_float(a) else a for a in arrays]


def draw_dys(spec: OpSpec, outputs: tuple[Any, ...], dtype: Any, seed: int) -> list[Any]:
    """A gradient for each output that has one; of a loss, shape (), in the precision of sums."""
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode()), 1])
    kinds = [computed(np.dtype(dtype)) if y.ndim == 0 else dtype for y in outputs]
    drawn = [np.asarray(rng.normal(size=y.shape)).astype(kind) for y, kind in zip(outputs, kinds, strict=True)]
    return [dy if i < spec.outputs else None for i, dy in enumerate(drawn)]


def check(b: Any, spec: OpSpec, dtype: Any, seed: int, find: Any = None) -> dict[str, Any]:
    """The largest error of an op's pair on one row, and its tensor. Raises DiffersError where it is too large.

    `find` gives the pair, the backend's choice unless given. Raises MissingError where there is none.
    """
    inputs = draw(spec, dtype, seed)
    wide = [a.astype(np.float64) if harness.is_float(a) else a for a in inputs]
    ys, saved = harness.forward(spec, wide, NumpyBackend())
    dys = draw_dys(spec, ys, dtype, seed)
    grads = harness.backward(spec, wide, saved, [dy if dy is None else dy.astype(np.float64) for dy in dys])
    wanted = harness.named(ys, {i: grads[i] for i in harness.differentiable(spec, inputs)})
    found, again = (_run(b, find or b.pair, spec, inputs, dys) for _ in range(2))
    for name, a in found.items():
        if a.tobytes() != again[name].tobytes():
            raise DiffersError(f"{name} has other bits when it is computed again")
        if harness.is_float(wanted[name]):
            short, sums = np.dtype(dtype), computed(np.dtype(dtype))
            bare = name.startswith("y") and int(name[1:]) >= spec.outputs  # no gradient: it may be a statistic
            right = {short, sums} if bare else {sums if name.startswith("y") and a.ndim == 0 else short}
            if a.dtype not in right:
                raise DiffersError(f"{name} is of {a.dtype}, not of {' or '.join(sorted(map(str, right)))}")
    errors = harness.errors({name: a.astype(np.float64) for name, a in found.items()}, wanted)
    least = TOLERANCES["float32"] if spec.op.name in FLOAT32 else 0.0
    return _worst(errors, max(TOLERANCES[np.dtype(dtype).name], least))


def _run(b: Any, find: Any, spec: OpSpec, inputs: list[Any], dys: list[Any]) -> dict[str, Any]:
    """Outputs and gradients by the pair, on the host."""
    arrays: list[Any] = [None if a is None else b.from_host(a) for a in inputs]
    pair = find(spec.op, arrays, spec.options)
    if pair is None:
        raise MissingError("cuDNN has no plan for this row")
    y, saved = pair.forward(b, *arrays, **spec.options)
    outputs = y if type(y) is tuple else (y,)
    given = [dy if dy is None else b.from_host(dy) for dy in dys]
    wanted = harness.differentiable(spec, inputs)
    slots = [
        Slot(out=b.empty(a.shape, a.dtype)) if i in wanted and i % 2 else FREE if i in wanted else SKIP
        for i, a in enumerate(arrays)
    ]
    grads = pair.backward(b, saved, given[0] if len(given) == 1 else tuple(given), slots)
    return harness.named([b.to_host(y) for y in outputs], {i: b.to_host(grads[i]) for i in wanted})


def _only_ours(b: Any) -> Any:
    """Kernels, where the backend would choose between them and cuDNN's."""
    return None if b.cudnn is None else own_kernel


def _within(tolerance: float, errors: Callable[[], dict[str, float]]) -> dict[str, Any]:
    return _worst(errors(), tolerance)


def _worst(errors: dict[str, float], tolerance: float) -> dict[str, Any]:
    tensor = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else np.inf)  # NaN is the worst
    if not errors[tensor] <= tolerance:
        raise DiffersError(f"{tensor}: error {errors[tensor]:.3g}, allowed {tolerance:.3g}")
    return {"error": errors[tensor], "tensor": tensor}


def checks(b: Any, seed: int) -> Iterator[tuple[str, str, str, Check | str]]:
    """(name of the item, of the kernel, of the dtype, the check, or in words why there can be none)."""
    for dtype_name, dtype in dtypes().items():
        seen = set()
        for spec in table():
            if dtype is None:
                if spec.op in KERNELS and spec.op not in seen:
                    yield f"{spec.op.name}: {dtype_name}", spec.op.name, dtype_name, "ml_dtypes is not installed"
                    seen.add(spec.op)
                continue
            drawn = draw(spec, dtype, seed)
            if own_kernel(spec.op, drawn, spec.options) is not None:
                seen.add(spec.op)
                yield (
                    f"{spec.name}: {dtype_name}",
                    spec.op.name,
                    dtype_name,
                    partial(check, b, spec, dtype, seed, _only_ours(b)),
                )
            other = cudnn.TABLE.kernels.get(spec.op) if b.cudnn is not None else None
            if other is not None and other.fits(drawn, spec.options):
                by_cudnn = partial(check, b, spec, dtype, seed, b.cudnn.pair)
                yield f"{spec.name}, cuDNN: {dtype_name}", f"{spec.op.name}, cuDNN", dtype_name, by_cudnn
        for op in KERNELS:
            if dtype is not None and op not in seen:
                yield f"{op.name}: {dtype_name}", op.name, dtype_name, "no row of the tests' table fits the kernel"
    for name, rule, dtype_name, errors, limit in kernel_rules.checks(b, seed):
        if isinstance(errors, str):
            yield name, rule, dtype_name, errors
        else:
            yield name, rule, dtype_name, partial(_within, limit, errors)


def poison(b: Any) -> None:
    """Let all fresh memory of the GPU be full of what no kernel may read: NaN, or -1."""
    cupy = b.xp
    allocate = cupy.get_default_memory_pool().malloc

    def poisoned(size: int) -> Any:
        memory = allocate(size)
        if size:
            cupy.cuda.runtime.memsetAsync(memory.ptr, 0xFF, size, cupy.cuda.get_current_stream().ptr)
        return memory

    cupy.cuda.set_allocator(poisoned)
    right = b.empty

    def empty(shape: tuple[int, ...], dtype: Any) -> Any:  # whatever its pool
        array = right(shape, dtype)
        if array.nbytes:
            cupy.cuda.runtime.memsetAsync(array.data.ptr, 0xFF, array.nbytes, cupy.cuda.get_current_stream().ptr)
        return array

    b.empty = empty


def tell(lines: Lines, b: Any, seed: int) -> None:
    """Run what is not done yet."""
    only = os.environ.get(ONLY, "")
    found = [each for each in checks(b, seed) if only in each[0]]
    lines.say(total=len(found))
    if not KERNELS:
        lines.item("kernels", FAILED, "the backend brings no kernels along")
    for name, kernel, dtype, check_it in found:
        if name in lines.done:
            continue
        lines.say(begin=name)
        about: dict[str, Any] = {"kernel": kernel, "dtype": dtype, "seed": seed}
        if isinstance(check_it, str):
            lines.item(name, NOT_RUN, check_it, **about)
            continue
        try:
            result = check_it()
        except MissingError as error:
            lines.item(name, NOT_RUN, str(error), **about)
        except Exception as error:  # of the driver, the compiler, the kernel's Python: all of it is a finding
            lines.item(name, FAILED, f"{type(error).__name__}: {str(error)[:500]}", **about)
        else:
            lines.item(name, PASSED, **about, **result)
    lines.say(end=True)


def small(b: Any, seed: int) -> int:
    """A row of each kernel in float32 and in bfloat16; how many failed."""
    seen, failed = set(), 0
    for name, kernel, dtype, check_it in checks(b, seed):
        if isinstance(check_it, str) or dtype not in ("float32", "bfloat16") or (kernel, dtype) in seen:
            continue
        seen.add((kernel, dtype))
        try:
            check_it()
        except MissingError:
            seen.discard((kernel, dtype))
        except Exception as error:  # as above
            print(f"{name}: {type(error).__name__}: {error}", flush=True)
            failed += 1
            if lost(str(error)):
                break
    print(f"{len(seen)} kernels, {failed} failed")
    return failed


def main() -> int:
    """As a process."""
    from gpubackprop.backend import choose

    backend, _ = choose("cuda")
    seed = int(os.environ.get(SEED, "0"))
    if sys.argv[1:] == ["--small"]:
        backend.xp.cuda.set_allocator(None)  # each array by itself, so that memcheck sees its ends
        return min(small(backend, seed), 1)
    poison(backend)
    tell(Lines(), backend, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
