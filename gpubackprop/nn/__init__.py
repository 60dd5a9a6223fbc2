"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn.containers import Add, Concat, Parallel, Repeat, Residual, Save, Sequential
from gpubackprop.nn.conv import Conv2d
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d, LayerNorm
from gpubackprop.nn.pool import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
)

__all__ = [
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Add",
    "AvgPool2d",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Conv2d",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "Layer",
    "LayerNorm",
    "Linear",
    "MaxPool2d",
    "Parallel",
    "Repeat",
    "Residual",
    "Save",
    "Sequential",
]
