"""One row of the op table: drawing its arrays, running the pair on a backend or in PyTorch, measuring errors."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.backend import Backend, NumpyBackend
from gpubackprop.tape import FREE, SKIP, Slot
from tests.ops.specs import OpSpec

REFERENCES = Path(__file__).parent / "references"
KEPT = 32  # elements of each array that a recorded reference keeps


def draw(spec: OpSpec, dtype: Any = np.float64) -> list[Any]:
    """The row's inputs, always the same ones; floats rounded to `dtype`."""
    inputs = spec.inputs(np.random.default_rng(zlib.crc32(spec.name.encode())))
    return [a.astype(dtype) if is_float(a) else a for a in map(_as_array, inputs)]


def draw_dys(spec: OpSpec, outputs: Sequence[Any]) -> list[Any]:
    """A random gradient for each output that has one, None for the others."""
    rng = np.random.default_rng(zlib.crc32(spec.name.encode()) + 1)
    return [
        np.asarray(rng.normal(size=y.shape)).astype(y.dtype) if i < spec.outputs else None
        for i, y in enumerate(outputs)
    ]


def _as_array(a: Any) -> Any:
    return None if a is None else np.asarray(a)


def is_float(a: Any) -> bool:
    """Whether `a` is an array of floats."""
    return a is not None and a.dtype.kind in "fV"  # NumPy knows bfloat16 as a void


def differentiable(spec: OpSpec, inputs: Sequence[Any]) -> list[int]:
    """Indices of the inputs that have a gradient."""
    return [i for i, a in enumerate(inputs) if is_float(a) and i not in spec.constants]


def forward(spec: OpSpec, inputs: Sequence[Any], b: Backend | None = None) -> tuple[tuple[Any, ...], Any]:
    """(outputs, saved)."""
    y, saved = spec.op.forward(b or NumpyBackend(), *inputs, **spec.options)
    return (y if type(y) is tuple else (y,)), saved


def backward(
    spec: OpSpec, inputs: Sequence[Any], saved: Any, dys: Sequence[Any], slots: Any = None, b: Backend | None = None
) -> tuple[Any, ...]:
    """One gradient per input, None where there is none to give."""
    wanted = differentiable(spec, inputs)
    slots = slots or [FREE if i in wanted else SKIP for i in range(len(inputs))]
    dy = dys[0] if len(dys) == 1 else tuple(dys)
    grads = spec.op.backward(b or NumpyBackend(), saved, dy, slots)
    assert len(grads) == len(inputs), f"{len(grads)} gradients for {len(inputs)} inputs"
    return tuple(grads)


def run(spec: OpSpec, inputs: Sequence[Any]) -> tuple[list[Any], list[Any], dict[int, Any]]:
    """(outputs, dys, gradients by input) by NumPy; the gradients' form is checked."""
    ys, saved = forward(spec, inputs)
    dys = draw_dys(spec, ys)
    found = backward(spec, inputs, saved, dys)
    grads = {i: found[i] for i in differentiable(spec, inputs)}
    assert all(isinstance(y, np.ndarray) for y in ys), "an output is a NumPy scalar, not an array"
    for i, grad in grads.items():
        assert grad is not None, f"no gradient for input {i}; name it in the row's `constants` if it has none"
        assert grad.shape == inputs[i].shape, f"gradient {i}: shape {grad.shape}, input {inputs[i].shape}"
        assert grad.dtype == inputs[i].dtype, f"gradient {i}: {grad.dtype}, input {inputs[i].dtype}"
    return list(ys), dys, grads


def run_torch(spec: OpSpec, inputs: Sequence[Any], dys: Sequence[Any]) -> tuple[list[Any], dict[int, Any]]:
    """(outputs, gradients by input) by PyTorch in float64."""
    import torch

    wanted = differentiable(spec, inputs)
    tensors: list[Any] = [
        None if a is None else torch.tensor(a.astype(np.float64) if is_float(a) else a) for a in inputs
    ]
    for i in wanted:
        tensors[i].requires_grad_()
    found = spec.torch(*tensors, **spec.options)
    ys = found if isinstance(found, tuple) else (found,)
    total = sum((ys[i] * torch.tensor(dy.astype(np.float64))).sum() for i, dy in enumerate(dys) if dy is not None)
    grads = torch.autograd.grad(total, [tensors[i] for i in wanted], allow_unused=True)
    zero = [np.zeros(inputs[i].shape) if g is None else g.numpy() for i, g in zip(wanted, grads, strict=True)]
    return [y.detach().numpy() for y in ys], dict(zip(wanted, zero, strict=True))


def error(a: Any, b: Any, floor: float = 0.0) -> float:
    """max|a - b| / max|b|, the denominator at least `floor`; 0 where both are empty or zero."""
    assert a.shape == b.shape, f"shape {a.shape} instead of {b.shape}"
    difference = np.max(np.abs(a - b), initial=0.0)
    return float(difference / (max(np.max(np.abs(b), initial=0.0), floor) or 1.0)) if difference else 0.0


def errors(found: dict[str, Any], wanted: dict[str, Any]) -> dict[str, float]:
    """Of all tensors by name; a gradient that is zero in exact arithmetic is measured against all gradients."""
    norm = float(np.sqrt(sum(np.sum(np.square(a)) for name, a in wanted.items() if name.startswith("d"))))
    off = {}
    for name, b in wanted.items():
        vanishes = name.startswith("d") and np.max(np.abs(b), initial=0.0) <= 1e-9 * norm
        nan = np.isnan(found[name]).any()
        off[name] = float("nan") if nan else error(found[name], b, norm if vanishes else 0.0)
    return off


def assert_close(found: dict[str, Any], wanted: dict[str, Any], tolerance: float) -> None:
    """Errors of all tensors by name are small, and none is NaN."""
    for name, off in errors(found, wanted).items():
        assert not np.isnan(off), f"{name} is not a number"
        assert off <= tolerance, f"{name}: error {off:.3g}"


def named(ys: Sequence[Any], grads: dict[int, Any]) -> dict[str, Any]:
    """Outputs as y0, y1, …, gradients as d0, d1, … by input."""
    return {f"y{i}": np.asarray(y) for i, y in enumerate(ys)} | {f"d{i}": np.asarray(g) for i, g in grads.items()}


def thinned(a: Any) -> Any:
    """At most about KEPT evenly spread elements, as float32: what a reference file keeps of an array."""
    odd = a.size // KEPT | 1  # an odd stride, so that it does not keep to one channel
    return a.ravel()[::odd].astype(np.float32)


def fingerprint(inputs: Sequence[Any]) -> np.uint32:
    """A checksum of the inputs that a reference was recorded for."""
    value = 0
    for a in inputs:
        value = zlib.crc32(b"None" if a is None else np.ascontiguousarray(a).tobytes(), value)
    return np.uint32(value)


def empty(spec: OpSpec, inputs: Sequence[Any]) -> list[Any]:
    """The inputs with no sample in the batch."""
    return [a[:0] if i in spec.batched and a is not None else a for i, a in enumerate(inputs)]


def scattered(a: Any) -> Any:
    """The same array with gaps between its elements and its axes stored in another order."""
    if a is None or a.ndim == 0:
        return a
    wide = np.zeros((2 * a.shape[-1], *a.shape[:-1]), a.dtype)
    wide[::2] = np.moveaxis(a, -1, 0)
    return np.moveaxis(wide[::2], 0, -1)


def lock(thing: Any) -> Any:
    """Make all arrays in nested tuples, lists and dicts read-only."""
    if isinstance(thing, np.ndarray):
        thing.flags.writeable = False
    elif isinstance(thing, dict):
        lock(list(thing.values()))
    elif isinstance(thing, tuple | list):
        for item in thing:
            lock(item)
    return thing


def only(wanted: int, inputs: Sequence[Any], out: Any = None) -> list[Slot]:
    """Slots that ask for the gradient of one input alone."""
    return [Slot(out=out) if i == wanted else SKIP for i in range(len(inputs))]


def write_references(family: str, found: dict[str, tuple[np.uint32, dict[str, Any]]]) -> Path:
    """Write one family's file: by row the checksum of its inputs and its arrays, all in one run of numbers."""
    path = REFERENCES / f"{family}.npz"
    path.parent.mkdir(exist_ok=True)
    rows = [np.concatenate([thinned(a) for a in arrays.values()]) for _, arrays in found.values()]
    np.savez_compressed(
        path,
        names=list(found),
        inputs=np.array([checksum for checksum, _ in found.values()]),
        stops=np.cumsum([row.size for row in rows]),
        values=np.concatenate(rows),
    )
    return path


def read_references() -> dict[str, tuple[np.uint32, Any]]:
    """By row the checksum of the inputs and the run of numbers recorded for them."""
    found: dict[str, tuple[np.uint32, Any]] = {}
    for path in sorted(REFERENCES.glob("*.npz")):
        with np.load(path) as file:
            rows = np.split(file["values"], file["stops"][:-1])
            found |= dict(zip(file["names"].tolist(), zip(file["inputs"], rows, strict=True), strict=True))
    return found
