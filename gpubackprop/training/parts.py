"""What a training step is made of, whose attributes must stay what they are while it is replayed."""

from __future__ import annotations

from gpubackprop.nn.layer import Layer
from gpubackprop.nn.loss import Loss


def inside(whole: Layer | Loss) -> list[Layer | Loss]:
    """All layers or losses that a model or a loss is made of, those that `walk` has no name for as well."""
    found: dict[int, Layer | Loss] = {}
    left = [whole]
    while left:
        part = left.pop()
        if id(part) not in found:
            found[id(part)] = part
            for value in vars(part).values():
                values = value.values() if isinstance(value, dict) else value
                values = values if isinstance(value, dict | list | tuple) else (value,)
                left += [each for each in values if isinstance(each, Layer | Loss)]
    return list(found.values())
