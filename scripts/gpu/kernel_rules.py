"""What is no op and has a kernel on the GPU all the same: updates of all optimizers, clipping, running statistics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from gpubackprop.backend import NumpyBackend
from gpubackprop.kernels.cuda.kernel import RULES
from gpubackprop.ops.dropout import dropout_mask
from gpubackprop.ops.norm import update_statistics
from gpubackprop.optim import GradientNoise, average, clip, optimizer, scale
from gpubackprop.parameters import Param, Parameters
from tests.ops import harness
from tests.optim.specs import PLAIN, OptimizerSpec, lr_of

#: Of several updates, and of sums over thousands of numbers.
TOLERANCES = {"float64": 1e-11, "float32": 1e-5}
SHAPES: tuple[tuple[int, ...], ...] = ((1,), (30, 50), (77,), (9, 3, 3, 5), (4099,))
Drawn = tuple[Any, ...]


def checks(b: Any, seed: int) -> Iterator[tuple[str, str, str, Callable[[], dict[str, float]] | str, float]]:
    """(name of the item, of the rule, of the dtype, what gives the errors by array, or why nothing does, the largest
    error that is allowed).
    """
    for dtype, limit in TOLERANCES.items():
        for spec in PLAIN:
            rule = f"{spec.cls.__name__}.update"
            slack = spec.float32 / 1e-5 if dtype == "float32" else 1.0  # what its row is allowed beyond the others
            yield f"{spec}: {dtype}", rule, dtype, partial(update, b, spec, dtype, seed), slack * limit
        for reference, drawn in CALLS.items():
            if reference in RULES:
                rule = reference.__qualname__
                yield f"{rule}: {dtype}", rule, dtype, partial(call, b, reference, drawn, dtype, seed), limit
        for reference, made in METHODS.items():
            if reference in RULES:
                rule = reference.__qualname__
                drawn_in_float32 = max(limit, TOLERANCES["float32"])
                yield f"{rule}: {dtype}", rule, dtype, partial(made, b, dtype, seed), drawn_in_float32
    known = {
        *CALLS,
        *METHODS,
        optimizer.update_all,
        *(getattr(spec.cls, name, None) for spec in PLAIN for name in ("update_run", "update_param")),
    }
    for reference in RULES:
        if reference not in known:
            name = f"{reference.__module__}.{reference.__qualname__}"
            yield (
                name,
                reference.__qualname__,
                "",
                "scripts/gpu/kernel_rules.py has no check for it; the tests may",
                0.0,
            )


def update(b: Any, spec: OptimizerSpec, dtype: str, seed: int) -> dict[str, float]:
    """Errors of the weights after four updates."""
    named = _named()
    ours = spec.make(Parameters(named, b, dtype, seed))
    start = np.array(b.to_host(ours.params.master), np.float64)
    found = _train(ours, seed)
    reference = spec.make(Parameters(named, NumpyBackend(), np.float64, seed))  # it takes the params over
    reference.params.master[...] = start
    wanted = _train(reference, seed)
    return {name: harness.error(found[name], array) for name, array in wanted.items()}


def _named() -> dict[str, Param]:
    return {
        f"{i}.weight": Param(shape, lambda rng, shape: rng.normal(size=shape), kind="bias" if i % 3 else "weight")
        for i, shape in enumerate(SHAPES)
    }


def noisy(b: Any, dtype: str, seed: int) -> dict[str, float]:
    """Errors of gradients that noise was added to."""
    found = []
    for backend in (b, NumpyBackend()):
        params = Parameters(_named(), backend, dtype, seed)
        noise = GradientNoise(params, eta=0.5, seed=seed)
        noise.prepare(6)
        backend.rule(GradientNoise.add)(noise, backend.from_host(np.array(6, np.uint64)))
        found.append(np.array(backend.to_host(params.grad), np.float64))
    return {"gradient": harness.error(found[0], found[1])}


def scaled(b: Any, dtype: str, seed: int) -> dict[str, float]:
    """Errors of a loss scale and its counts, over steps of which some overflow."""
    found = []
    for backend in (b, NumpyBackend()):
        state = scale.LossScale(backend, interval=3)
        for ok in np.random.default_rng(seed).random(40) < 0.7:
            backend.rule(scale.rescale)(state, backend.from_host(np.array(ok)))
        found.append([np.array(backend.to_host(a), np.float64) for a in (state.scale, state.counts)])
    return {
        name: harness.error(*pair) for name, pair in zip(("scale", "counts"), zip(*found, strict=True), strict=True)
    }


def _train(optimizer: Any, seed: int) -> dict[str, Any]:
    b, base = optimizer.backend, optimizer.lr
    for step in range(4):
        rng = np.random.default_rng([seed, step])
        for _, param, _, _ in optimizer.params.segments:
            grad = rng.normal(size=param.shape) * (rng.random(param.shape) > 0.2)
            param.grad[...] = b.from_host(grad.astype(np.float32).astype(optimizer.params.dtype))
        optimizer.lr = lr_of(base, step)
        optimizer.step()
    return {"weights": np.array(b.to_host(optimizer.params.master), np.float64)}


def call(b: Any, reference: Any, drawn: Callable[[Any, str], Drawn], dtype: str, seed: int) -> dict[str, float]:
    """Errors of what a function gives, and of all arrays that it was given, since it may write to them."""
    arguments = drawn(np.random.default_rng(seed), dtype)
    ours = [b.from_host(a.copy()) if isinstance(a, np.ndarray) else a for a in arguments]
    theirs = [_wide(a) if isinstance(a, np.ndarray) else a for a in arguments]
    options: dict[str, Any] = {"p": 0.3, "seed": seed, "stream": 7} if reference is dropout_mask else {}
    found, wanted = RULES[reference](b, *ours, **options), reference(NumpyBackend(), *theirs, **options)
    pairs = {f"argument {i}": (ours[i], a) for i, a in enumerate(theirs) if isinstance(a, np.ndarray)}
    if wanted is not None:
        pairs["result"] = found, wanted
    host = {name: (_wide(np.asarray(b.to_host(a))), _wide(np.asarray(w))) for name, (a, w) in pairs.items()}
    return {name: harness.error(a, w) for name, (a, w) in host.items()}


def _wide(a: Any) -> Any:
    """A copy; floats and what is true or false in float64."""
    return a.astype(np.float64 if a.dtype.kind in "fb" else a.dtype)


def _flat(rng: Any, dtype: str) -> Any:
    return rng.normal(size=70001).astype(dtype)


def _statistics(rng: Any, dtype: str) -> Drawn:
    mean, new = (rng.normal(size=70).astype(dtype) for _ in range(2))
    variance, fresh = (rng.uniform(0.5, 2, 70).astype(dtype) for _ in range(2))
    return mean, variance, np.array(3), new, fresh, 50, 0.1


#: By reference, its arguments behind the backend.
CALLS: dict[Any, Callable[[Any, str], Drawn]] = {
    clip.norm: lambda rng, dtype: (_flat(rng, dtype),),
    clip.clip_norm: lambda rng, dtype: (_flat(rng, dtype), 0.5),
    clip.clip_value: lambda rng, dtype: (_flat(rng, dtype), 0.5),
    scale.unscale: lambda rng, dtype: (_flat(rng, dtype), np.array(1024, np.float32)),
    average.follow: lambda rng, dtype: (_flat(rng, dtype), _flat(rng, dtype), np.array(0.25, dtype)),
    update_statistics: _statistics,
    dropout_mask: lambda rng, dtype: ((40, 7, 33), np.arange(5, 45), np.array(12, np.uint64)),
}
#: Those that belong to an object.
METHODS: dict[Any, Callable[[Any, str, int], dict[str, float]]] = {GradientNoise.add: noisy, scale.rescale: scaled}
