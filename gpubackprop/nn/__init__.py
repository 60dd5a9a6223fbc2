"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn.containers import Add, Concat, Parallel, Repeat, Residual, Save, Sequential
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.linear import Linear

__all__ = [
    "Add",
    "Concat",
    "Layer",
    "Linear",
    "Parallel",
    "Repeat",
    "Residual",
    "Save",
    "Sequential",
]
