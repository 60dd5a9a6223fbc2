"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from gpubackprop.nn.attention import MultiheadAttention
from gpubackprop.nn.containers import Container, Each, Heads, Parallel, Repeat, Residual, Sequential
from gpubackprop.nn.conv import Conv2d
from gpubackprop.nn.dropout import Dropout
from gpubackprop.nn.embedding import Embedding, EmbeddingBag, OneHot
from gpubackprop.nn.layer import Layer, layers
from gpubackprop.nn.linear import Linear, TiedLinear
from gpubackprop.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, Loss, MSELoss, losses
from gpubackprop.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from gpubackprop.nn.pool import (
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool2d,
    GlobalAvgPool2d,
    GlobalMaxPool2d,
    MaxPool2d,
)
from gpubackprop.nn.position import LearnedPosition, SinusoidalPosition
from gpubackprop.nn.recurrent import GRU, LSTM, RNN
from gpubackprop.nn.shape import Flatten, PadChannels, Reshape
from gpubackprop.nn.skip import Add, Concat, Input, Save, Share
from gpubackprop.nn.transformer import GPTBlock, TransformerDecoderLayer, TransformerEncoderLayer

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Add",
    "AvgPool2d",
    "BCEWithLogitsLoss",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Container",
    "Conv2d",
    "CrossEntropyLoss",
    "Dropout",
    "Each",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "GPTBlock",
    "GlobalAvgPool2d",
    "GlobalMaxPool2d",
    "GroupNorm",
    "Heads",
    "HuberLoss",
    "Input",
    "InstanceNorm",
    "L1Loss",
    "Layer",
    "LayerNorm",
    "LeakyReLU",
    "LearnedPosition",
    "Linear",
    "LogSoftmax",
    "Loss",
    "MSELoss",
    "MaxPool2d",
    "MultiheadAttention",
    "OneHot",
    "PadChannels",
    "Parallel",
    "RMSNorm",
    "ReLU",
    "Repeat",
    "Reshape",
    "Residual",
    "Save",
    "Sequential",
    "Share",
    "SiLU",
    "Sigmoid",
    "SinusoidalPosition",
    "Softmax",
    "Softplus",
    "Tanh",
    "TiedLinear",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "layers",
    "losses",
]
