"""The states that stateful layers hand on from step to step: by the layer's key a list of arrays (N, ...)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gpubackprop.backend import Array, Backend


def in_place(b: Backend, held: dict[str, list[Array]], new: dict[str, list[Array]]) -> dict[str, list[Array]]:
    """New states where those of the step before lie, so that a captured step finds them; the first ones in memory of
    their own."""
    if {key: [a.shape for a in arrays] for key, arrays in held.items()} != {
        key: [a.shape for a in arrays] for key, arrays in new.items()
    }:
        return {key: [a.copy() for a in arrays] for key, arrays in new.items()}
    for key, arrays in new.items():
        for place, array in zip(held[key], arrays, strict=True):
            b.assign(place, array)
    return held


def held_back(b: Backend, ok: Array, new: Mapping[str, list[Array]], old: Mapping[str, list[Array]]) -> dict[str, Any]:
    """The states that stateful layers hand on: the new ones where `ok`, else the old ones, zeros without such."""

    def chosen(name: str, place: int, array: Array) -> Array:
        before = old[name][place] if name in old else b.xp.zeros_like(array)
        return b.cast(b.xp.where(ok, array, before), array.dtype)  # CuPy: of bfloat16 float32 comes out

    return {name: [chosen(name, place, a) for place, a in enumerate(arrays)] for name, arrays in new.items()}
