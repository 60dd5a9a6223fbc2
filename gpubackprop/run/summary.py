"""A model on one page: layers, shapes, parameters, work and memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import NamedTuple

import numpy as np

from gpubackprop.backend import cpu
from gpubackprop.backend.precision import PRECISIONS, working
from gpubackprop.nn.containers import Container, Each
from gpubackprop.nn.layer import Layer, Shape, Shapes, entry
from gpubackprop.nn.skip import Share
from gpubackprop.parameters import Param
from gpubackprop.run.check import Plan


class _Use(NamedTuple):
    """A layer without layers inside, at one of the paths where it is used."""

    path: str
    layer: Layer
    items: int  #: how many items of a sample it is run over, by the `each` around it
    kept: bool  #: whether its output is kept for the backward pass: nothing around it is computed anew there


def lines(plan: Plan) -> list[str]:
    """The table and its totals, for the terminal. A shared layer's weights are counted where it stands first."""
    config, model = plan.config, plan.model
    model.build(plan.info.input_shape, config.seed, "cpu", config.precision, config.kernels)
    uses = [use for use in _uses(model, "", 1, True) if use.layer.shapes is not None]
    rows = [("layer", "type", "output shape", "parameters", "FLOPs")]
    first: dict[int, str] = {}  # where each layer and each weight stands first
    for path, layer, items, _ in uses:
        kind = type(layer).__name__ if first.setdefault(id(layer), path) == path else f"= {first[id(layer)]}"
        own = [param for param in vars(layer).values() if isinstance(param, Param)]
        count = sum(prod(param.shape) for param in own if first.setdefault(id(param), path) == path)
        rows.append((path, kind, _shape(_output(layer)), _number(count), _number(items * layer.flops())))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths))

    size, full = working(config.precision).itemsize, np.dtype(PRECISIONS[config.precision]).itemsize
    batch = plan.options.batch_size
    parameters = model.parameters()
    optimizer = config.optimizer.build(parameters)
    length = parameters.value.shape[0]
    masters = f", {_bytes(length * full)} as they are updated" if size != full else ""
    outputs = sum(use.items * prod(_output(use.layer)) for use in uses if use.kept) * batch * size
    flops = forward_flops(model)
    return [
        *table,
        "",
        f"input                 {_shape(plan.info.input_shape)}, batch {batch}",
        f"output                {_shape(model.infer(*entry(plan.info.input_shape)))}",
        f"parameters            {parameters.count:,} ({_bytes(length * size)}{masters})",
        f"gradients             {_bytes(length * full)}",
        f"optimizer state       {_bytes(length * full * optimizer.copies)} ({config.optimizer.type})",
        f"layer outputs         {_bytes(outputs)} a batch, kept for the backward pass",
        f"FLOPs                 {_number(flops)} a sample forward, about {_number(3 * flops * batch)} a training step",
        f"kernels               {cpu(config.kernels)[1]}",
    ]


def forward_flops(model: Layer) -> int:
    """Of one sample, forward; a training step takes about three times as many. The model's shapes must be settled."""
    return sum(use.items * use.layer.flops() for use in _uses(model, "", 1, True) if use.layer.shapes is not None)


def _uses(layer: Layer, path: str, items: int, kept: bool) -> Iterator[_Use]:
    if isinstance(layer, Share):
        yield from _uses(layer.target, path, items, kept)
        return
    yield _Use(path, layer, items, kept)
    if isinstance(layer, Each):
        items *= layer.items
    kept = kept and not (isinstance(layer, Container) and layer.recompute)
    for key, child in layer.children().items():
        yield from _uses(child, f"{path}.{key}" if path else key, items, kept)


def _output(layer: Layer) -> Shape:
    assert layer.shapes is not None, "the layers of the table are those whose shapes are known"
    return layer.shapes[1]


def _shape(shape: Shapes) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_shape(each)}" for name, each in shape.items())
    return "×".join(map(str, shape)) or "1"


def _number(value: int) -> str:
    return f"{value:,}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024  # type: ignore[assignment]  # a float from here on
    return f"{count:.4g} GiB"
