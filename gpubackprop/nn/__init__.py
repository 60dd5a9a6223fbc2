"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn.activation import (
    ELU,
    GELU,
    LeakyReLU,
    LogSoftmax,
    ReLU,
    Sigmoid,
    SiLU,
    Softmax,
    Softplus,
    Tanh,
)
from gpubackprop.nn.containers import Add, Concat, Parallel, Repeat, Residual, Save, Sequential
from gpubackprop.nn.dropout import Dropout
from gpubackprop.nn.layer import Layer
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, Loss, MSELoss
from gpubackprop.nn.shape import Flatten, PadChannels, Reshape

__all__ = [
    "ELU",
    "GELU",
    "Add",
    "BCEWithLogitsLoss",
    "Concat",
    "CrossEntropyLoss",
    "Dropout",
    "Flatten",
    "HuberLoss",
    "L1Loss",
    "Layer",
    "LeakyReLU",
    "Linear",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "PadChannels",
    "Parallel",
    "ReLU",
    "Repeat",
    "Reshape",
    "Residual",
    "Save",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Softplus",
    "Tanh",
]
