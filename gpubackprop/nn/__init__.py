"""Layers and losses under PyTorch's names."""

from __future__ import annotations

from gpubackprop.nn import fuse as fuse
from gpubackprop.nn.activation import ELU, GELU, LeakyReLU, LogSoftmax, ReLU, Sigmoid, SiLU, Softmax, Softplus, Tanh
from gpubackprop.nn.attention import MultiheadAttention
from gpubackprop.nn.class_loss import (
    BCEWithLogitsLoss,
    BinaryFocalLoss,
    CrossEntropyLoss,
    FocalLoss,
    HingeLoss,
    KLDivLoss,
    NLLLoss,
)
from gpubackprop.nn.containers import Container, Each, Heads, Parallel, Repeat, Residual, Sequential
from gpubackprop.nn.conv import Conv1d, Conv2d, Conv3d, DepthwiseConv2d
from gpubackprop.nn.conv_transpose import ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from gpubackprop.nn.ctc import CTCLoss
from gpubackprop.nn.dropout import Dropout, Dropout1d, Dropout2d, StochasticDepth
from gpubackprop.nn.embedding import Embedding, EmbeddingBag, OneHot
from gpubackprop.nn.gated import GLU, Hardswish, Mish, SwiGLU
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
from gpubackprop.nn.loss import Loss, losses
from gpubackprop.nn.multi_task import MultiTaskLoss
from gpubackprop.nn.noise import GaussianLatent, GaussianNoise
from gpubackprop.nn.norm import BatchNorm, BatchNorm1d, BatchNorm2d, GroupNorm, InstanceNorm, LayerNorm, RMSNorm
from gpubackprop.nn.pair_loss import ContrastiveLoss, CosineEmbeddingLoss, InfoNCELoss, TripletMarginLoss
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
from gpubackprop.nn.rectified import SELU, Hardsigmoid, Hardtanh, PReLU, ReLU6
from gpubackprop.nn.recurrent import GRU, LSTM, RNN
from gpubackprop.nn.regression_loss import HuberLoss, L1Loss, MSELoss, SmoothL1Loss
from gpubackprop.nn.shape import Flatten, PadChannels, Reshape
from gpubackprop.nn.skip import Add, Concat, Input, Save, Share
from gpubackprop.nn.squeeze_excite import SqueezeExcite
from gpubackprop.nn.transformer import GPTBlock, TransformerDecoderLayer, TransformerEncoderLayer
from gpubackprop.nn.upsample import PixelShuffle, PixelUnshuffle, Upsample

__all__ = [
    "ELU",
    "GELU",
    "GLU",
    "GRU",
    "LSTM",
    "RNN",
    "SELU",
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
    "BinaryFocalLoss",
    "CTCLoss",
    "Concat",
    "Container",
    "ContrastiveLoss",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConvTranspose3d",
    "CosineEmbeddingLoss",
    "CrossEntropyLoss",
    "DepthwiseConv2d",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Each",
    "Embedding",
    "EmbeddingBag",
    "Flatten",
    "FocalLoss",
    "GPTBlock",
    "GaussianLatent",
    "GaussianNoise",
    "GlobalAvgPool1d",
    "GlobalAvgPool2d",
    "GlobalAvgPool3d",
    "GlobalMaxPool1d",
    "GlobalMaxPool2d",
    "GlobalMaxPool3d",
    "GroupNorm",
    "Hardsigmoid",
    "Hardswish",
    "Hardtanh",
    "Heads",
    "HingeLoss",
    "HuberLoss",
    "InfoNCELoss",
    "Input",
    "InstanceNorm",
    "KLDivLoss",
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
    "Mish",
    "MultiTaskLoss",
    "MultiheadAttention",
    "NLLLoss",
    "OneHot",
    "PReLU",
    "PadChannels",
    "Parallel",
    "PixelShuffle",
    "PixelUnshuffle",
    "RMSNorm",
    "ReLU",
    "ReLU6",
    "Repeat",
    "Reshape",
    "Residual",
    "Save",
    "Sequential",
    "Share",
    "SiLU",
    "Sigmoid",
    "SinusoidalPosition",
    "SmoothL1Loss",
    "Softmax",
    "Softplus",
    "SqueezeExcite",
    "StochasticDepth",
    "SwiGLU",
    "Tanh",
    "TiedLinear",
    "TransformerDecoderLayer",
    "TransformerEncoderLayer",
    "TripletMarginLoss",
    "Upsample",
    "layers",
    "losses",
]
