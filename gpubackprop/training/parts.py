"""What a training step or an evaluation is made of, whose attributes must stay what they are while it is replayed."""

from __future__ import annotations

from typing import TypeAlias

from gpubackprop.nn.layer import Layer
from gpubackprop.nn.loss import Loss
from gpubackprop.training.metric import Metric

Part: TypeAlias = Layer | Loss | Metric


def inside(whole: Part) -> list[Part]:
    """All that a model, a loss or a metric is made of, itself too, layers that `walk` has no name for as well."""
    found: dict[int, Part] = {}
    left = [whole]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part
            for value in vars(part).values():
                values = value.values() if isinstance(value, dict) else value
                values = values if isinstance(value, dict | list | tuple) else (value,)
                left += [each for each in values if isinstance(each, Part)]
    return list(found.values())
