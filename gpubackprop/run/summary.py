"""A model on one page: layers, shapes, parameters, work and memory."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

from gpubackprop.backend import cpu
from gpubackprop.nn.layer import Layer, Shapes, entry
from gpubackprop.parameters import Param
from gpubackprop.run.check import Plan
from gpubackprop.run.memory import in_bytes, memory, output_of, uses


def lines(plan: Plan) -> list[str]:
    """The table and its totals, for the terminal. A shared layer's weights are counted where it stands first."""
    config, model = plan.config, plan.model
    model.build(plan.info.input_shape, config.seed, "cpu", config.precision, config.kernels)
    rows = [("layer", "type", "output shape", "parameters", "FLOPs")]
    first: dict[int, str] = {}  # where each layer and each weight stands first
    for path, layer, items, _ in uses(model):
        kind = type(layer).__name__ if first.setdefault(id(layer), path) == path else f"= {first[id(layer)]}"
        own = [param for param in vars(layer).values() if isinstance(param, Param)]
        count = sum(prod(param.shape) for param in own if first.setdefault(id(param), path) == path)
        rows.append((path, kind, _shape(output_of(layer)), _number(count), _number(items * layer.flops())))
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    table = [
        "  ".join(cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(r, widths, strict=True)))
        for r in rows
    ]
    table.insert(1, "  ".join("-" * width for width in widths))

    batch, parameters = plan.options.batch_size, model.parameters()
    kept = memory(model, config.precision, batch, config.optimizer.build(parameters))
    masters = f", {in_bytes(kept.masters)} as they are updated" if kept.masters else ""
    flops = forward_flops(model)
    return [
        *table,
        "",
        f"input                 {_shape(plan.info.input_shape)}, batch {batch}",
        f"output                {_shape(model.infer(*entry(plan.info.input_shape)))}",
        f"parameters            {parameters.count:,} ({in_bytes(kept.weights)}{masters})",
        f"gradients             {in_bytes(kept.gradients)}",
        f"optimizer state       {in_bytes(kept.optimizer)} ({config.optimizer.type})",
        f"layer outputs         {in_bytes(sum(kept.outputs.values()))} a batch, kept for the backward pass",
        f"FLOPs                 {_number(flops)} a sample forward, about {_number(3 * flops * batch)} a training step",
        f"kernels               {cpu(config.kernels)[1]}",
    ]


def forward_flops(model: Layer) -> int:
    """Of one sample, forward; a training step takes about three times as many. The model's shapes must be settled."""
    return sum(use.items * use.layer.flops() for use in uses(model))


def _shape(shape: Shapes) -> str:
    if isinstance(shape, Mapping):
        return ", ".join(f"{name} {_shape(each)}" for name, each in shape.items())
    return "×".join(map(str, shape)) or "1"


def _number(value: int) -> str:
    return f"{value:,}"
