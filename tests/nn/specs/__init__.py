"""One table of layer specs, of the same kind as the ops': every test of layers runs over all rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from gpubackprop.nn.layer import Layer


@dataclass
class LayerSpec:
    """One layer with one choice of options, on one input shape.

    layer          makes the layer, unbuilt
    torch          makes PyTorch's module; our state dict is loaded into it
    shape          of one input sample, in our layout (H, W, C), (T, D), (I,)
    channels_first whether PyTorch's module takes and gives channels first; ours are moved there and back
    random         draws random numbers in training, so that only inference can be compared
    symbols        the input holds integers below this number; 0: floats
    """

    name: str
    layer: Callable[[], Layer]
    torch: Callable[[], Any]
    shape: tuple[int, ...]
    channels_first: bool = False
    random: bool = False
    symbols: int = 0


def table() -> list[LayerSpec]:
    """All rows of all families."""
    families = sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))
    return [row for family in families for row in import_module(f"{__name__}.{family}").ROWS]
