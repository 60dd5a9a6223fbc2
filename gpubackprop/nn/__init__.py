"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from gpubackprop.nn.attention import MultiheadAttention
from gpubackprop.nn.containers import Container, Each, Heads, Parallel, Repeat, Residual, Sequential
from gpubackprop.nn.conv import Conv1d, Conv2d, Conv3d, DepthwiseConv2d
from gpubackprop.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from gpubackprop.nn.dropout import Dropout
from gpubackprop.nn.embedding import Embedding, EmbeddingBag, OneHot
from gpubackprop.nn.global_pool import (
    GlobalAvgPool1d,
    GlobalAvgPool2d,
    GlobalAvgPool3d,
    GlobalMaxPool1d,
    GlobalMaxPool2d,
    GlobalMaxPool3d,
)
from gpubackprop.nn.layer import Layer, layers
from gpubackprop.nn.linear import Linear, TiedLinear
from gpubackprop.nn.loss import BCEWithLogitsLoss, CrossEntropyLoss, HuberLoss, L1Loss, Loss, MSELoss, losses
from gpubackprop.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from gpubackprop.nn.pool import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    AvgPool3d,
    MaxPool1d,
    MaxPool2d,
    MaxPool3d,
)
from gpubackprop.nn.position import LearnedPosition, SinusoidalPosition
from gpubackprop.nn.recurrent import GRU, LSTM, RNN
from gpubackprop.nn.shape import Flatten, PadChannels, Reshape
from gpubackprop.nn.skip import Add, Concat, Input, Save, Share
from gpubackprop.nn.squeeze_excite import SqueezeExcite
from gpubackprop.nn.transformer import GPTBlock, TransformerDecoderLayer, TransformerEncoderLayer
from gpubackprop.nn.upsample import PixelShuffle, PixelUnshuffle, Upsample

__all__ = [
    "ELU",
    "GELU",
    "GRU",
    "LSTM",
    "RNN",
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool2d",
    "Add",
    "AvgPool1d",
    "AvgPool2d",
    "AvgPool3d",
    "BCEWithLogitsLoss",
    "BatchNorm",
    "BatchNorm1d",
    "BatchNorm2d",
    "Concat",
    "Container",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CrossEntropyLoss",
    "DepthwiseConv2d",
    "Dropout",
    "Each",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "GPTBlock",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GlobalMaxPool3d",
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
    "MaxPool1d",
    "MaxPool2d",
    "MaxPool3d",
    "MultiheadAttention",
    "OneHot",
    "PadChannels",
    "Parallel",
    "PixelShuffle",
    "PixelUnshuffle",
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
    "SqueezeExcite",
    "Tanh",
    "TiedLinear",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "Upsample",
    "layers",
    "losses",
]
