"""A model on one page: layers, shapes, parameters, work and memory."""

from __future__ import annotations

from math import prod

import numpy as np

from gpubackprop.nn.layer import PRECISIONS, Layer
from gpubackprop.parameters import Param
from gpubackprop.run.check import Plan


def lines(plan: Plan) -> list[str]:
    """The table and its totals, for the terminal."""
    config, model = plan.config, plan.model
    model.build(plan.info.input_shape, config.seed, "cpu", config.precision)
    leaves = [(path, layer) for path, layer in model.walk() if layer.shapes is not None]
    rows = [("layer", "type", "output shape", "parameters", "FLOPs")]
    rows += [
        (path, type(layer).__name__, "×".join(map(str, layer.shapes[1])), _number(_own(layer)), _number(layer.flops()))
        for path, layer in leaves
        if layer.shapes is not None
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths))

    size = np.dtype(PRECISIONS[config.precision]).itemsize
    batch = plan.options.batch_size
    parameters = model.parameters()
    optimizer = config.optimizer.build(parameters)
    values = parameters.value.shape[0] * size
    outputs = sum(prod(layer.shapes[1]) for _, layer in leaves if layer.shapes) * batch * size
    flops = sum(layer.flops() for _, layer in leaves)
    return [
        *table,
        "",
        f"input                 {'×'.join(map(str, plan.info.input_shape))}, batch {batch}",
        f"parameters            {parameters.count:,} ({_bytes(values)})",
        f"gradients             {_bytes(values)}",
        f"optimizer state       {_bytes(values * len(optimizer.state))} ({config.optimizer.type})",
        f"layer outputs         {_bytes(outputs)} a batch, kept for the backward pass",
        f"FLOPs                 {_number(flops)} a sample forward, about {_number(3 * flops * batch)} a training step",
        "kernels               reference",
    ]


def _own(layer: Layer) -> int:
    return sum(prod(array.shape) for array in vars(layer).values() if isinstance(array, Param))


def _number(value: int) -> str:
    return f"{value:,}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024  # type: ignore[assignment]  # a float from here on
    return f"{count:.4g} GiB"
