"""The models of golden.py in PyTorch's own layers, under the same keys."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.golden import Golden

State: TypeAlias = Mapping[str, Tensor]


class Residual(nn.Sequential):
    """layers(x) + shortcut(x), its keys those of the layers."""

    def __init__(self, *layers: nn.Module, shortcut: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        super().__init__(*layers)
        self.shortcut = shortcut

    def forward(self, input: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, D, H/s, W/s)."""
        y = input
        for layer in self:
            y = layer(y)
        return y + self.shortcut(input)


class GlobalAvgPool2d(nn.Module):
    """(N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        """Means."""
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


#: PyTorch's layer by our name, from the layer's weight if it has one, and its options, whose names are PyTorch's.
LAYERS: dict[str, Callable[..., nn.Module]] = {
    "flatten": lambda _: nn.Flatten(),
    "linear": lambda weight, **options: nn.Linear(weight.shape[1], **options),
    "conv2d": lambda weight, **options: nn.Conv2d(weight.shape[1], **options),
    "batch_norm": lambda weight, **options: nn.BatchNorm2d(len(weight), **options),
    "relu": lambda _: nn.ReLU(),
    "gelu": lambda _, **options: nn.GELU(**options),
    "max_pool2d": lambda _, **options: nn.MaxPool2d(**options),
    "global_avg_pool2d": lambda _: GlobalAvgPool2d(),
}


def network(row: Golden, start: State) -> nn.Module:
    """The row's model. MLP and CNN layer by layer as the config, which may be tuned; the others written out here."""
    if row.model in NETWORKS:
        return NETWORKS[row.model](row, start)
    entries = enumerate(row.layers())
    return nn.Sequential(*(LAYERS[layer.type](start.get(f"{i}.weight"), **layer.options) for i, layer in entries))


def resnet20() -> nn.Module:
    """cifar_resnet20: He et al. 2015, section 4.2, shortcuts of option A."""
    return nn.Sequential(
        *(conv3x3(3, 16), nn.BatchNorm2d(16), nn.ReLU()),
        nn.Sequential(*(nn.Sequential(block(16, 16), nn.ReLU()) for _ in range(3))),
        *(block(16, 32), nn.ReLU()),
        nn.Sequential(*(nn.Sequential(block(32, 32), nn.ReLU()) for _ in range(2))),
        *(block(32, 64), nn.ReLU()),
        nn.Sequential(*(nn.Sequential(block(64, 64), nn.ReLU()) for _ in range(2))),
        *(GlobalAvgPool2d(), nn.Linear(64, 10)),
    )


def conv3x3(inner: int, outer: int, stride: int = 1) -> nn.Module:
    """The convolution that ResNet-20 consists of."""
    return nn.Conv2d(inner, outer, 3, stride, padding=1, bias=False)


def block(inner: int, outer: int) -> nn.Module:
    """A residual block; with more channels it halves the image, and its shortcut pads the new channels with zeros."""
    stride = outer // inner
    layers = [
        *(conv3x3(inner, outer, stride), nn.BatchNorm2d(outer), nn.ReLU()),
        *(conv3x3(outer, outer), nn.BatchNorm2d(outer)),
    ]
    if stride == 1:
        return Residual(*layers)
    zeros = (0, 0, 0, 0, (outer - inner) // 2, (outer - inner) // 2)
    return Residual(*layers, shortcut=lambda x: functional.pad(x[:, :, ::2, ::2], zeros))


def double_conv(inner: int, outer: int) -> nn.Sequential:
    """What a U-Net does at each of its resolutions."""
    layers: list[nn.Module] = []
    for channels in (inner, outer):
        layers += [nn.Conv2d(channels, outer, 3, padding=1, bias=False), nn.BatchNorm2d(outer), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.ModuleDict):
    """Ronneberger et al. 2015, with two skips. Keys count our saves, pools and concats too."""

    def __init__(self) -> None:
        layers: dict[str, nn.Module] = {
            **{"0": double_conv(1, 16), "3": double_conv(16, 32), "6": double_conv(32, 64)},
            **{"7": nn.ConvTranspose2d(64, 32, 2, 2), "9": double_conv(64, 32)},
            **{"10": nn.ConvTranspose2d(32, 16, 2, 2), "12": double_conv(32, 16), "13": nn.Conv2d(16, 11, 1)},
        }
        super().__init__(layers)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 11, H, W)."""
        full = self["0"](x)
        half = self["3"](functional.max_pool2d(full, 2))
        up = self["7"](self["6"](functional.max_pool2d(half, 2)))
        up = self["10"](self["9"](torch.cat([up, half], 1)))
        y: Tensor = self["13"](self["12"](torch.cat([up, full], 1)))
        return y


class SelfAttention(nn.Module):
    """nanoGPT's."""

    def __init__(self, width: int, heads: int, bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E); softmax(q kᵀ / √D) over what stands before."""
        q, k, v = (a.unflatten(-1, (self.heads, -1)).transpose(1, 2) for a in self.c_attn(x).chunk(3, -1))
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(later(x.shape[1]), -math.inf).softmax(-1)
        y: Tensor = self.c_proj((weights @ v).transpose(1, 2).flatten(2))
        return y


def later(length: int) -> Tensor:
    """(T, T), True where a position must not look."""
    return torch.ones(length, length, dtype=torch.bool).triu(1)


class GPTBlock(nn.Module):
    """One layer of GPT-2."""

    def __init__(self, width: int, heads: int, bias: bool, approximate: str) -> None:
        super().__init__()
        self.ln_1, self.attn = nn.LayerNorm(width, bias=bias), SelfAttention(width, heads, bias)
        self.ln_2, self.mlp = nn.LayerNorm(width, bias=bias), nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width, bias))
        self.mlp.add_module("activation", nn.GELU(approximate))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width, bias))

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        x = x + self.attn(self.ln_1(x))
        y: Tensor = x + self.mlp(self.ln_2(x))
        return y


class GPT(nn.Module):
    """GPT-2. Lines are filled up behind their ends, where the causal mask hides it: it needs no other one."""

    def __init__(self, start: State, bias: bool, tied: bool, approximate: str) -> None:
        super().__init__()
        (vocabulary, width), length = start["wte.weight"].shape, len(start["wpe.weight"])
        depth = sum(key.endswith("ln_1.weight") for key in start)
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.h = nn.Sequential(*(nn.Sequential(GPTBlock(width, 4, bias, approximate)) for _ in range(depth)))
        self.ln_f, self.lm_head = nn.LayerNorm(width, bias=bias), nn.Linear(width, vocabulary, bias=False)
        if tied:
            self.lm_head.weight = self.wte.weight

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T) -> (N, T, V)."""
        y: Tensor = self.lm_head(self.ln_f(self.h(self.wte(x) + self.wpe.weight[: x.shape[1]])))
        return y


class StatefulLSTM(nn.ModuleList):
    """An LSTM that starts where the step before ended, each micro-batch for itself, with no gradient into the past."""

    def __init__(self, start: State, micro_batches: int) -> None:
        hidden, (vocabulary, width) = start["1.weight_hh_l0"].shape[1], start["0.weight"].shape
        lstm = nn.LSTM(width, hidden, batch_first=True)
        super().__init__([nn.Embedding(vocabulary, width), lstm, nn.Linear(hidden, vocabulary)])
        self.states: deque[Any] = deque([None] * micro_batches)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(N, T) -> (N, T, V)."""
        embed, lstm, head = self
        ys, state = lstm(embed(x), self.states.popleft())
        self.states.append([each.detach() for each in state])
        y: Tensor = head(ys)
        return y


class TextCNN(nn.ModuleList):
    """Kim 2014: what is filled up is zero to the convolutions, and never the largest."""

    def __init__(self, start: State) -> None:
        vocabulary, width = start["0.weight"].shape
        kernels = [start[f"1.{branch}.0.weight"].shape for branch in range(3)]
        branches = nn.ModuleList(nn.ModuleList([nn.Conv1d(width, out, size)]) for out, _, size in kernels)
        embed = nn.Embedding(vocabulary, width, padding_idx=0)
        super().__init__([embed, branches, nn.Linear(sum(out for out, *_ in kernels), 2)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(N, T) -> (N, 2)."""
        parts: Any = self
        embed, branches, head = parts
        words, real = (embed(x) * mask[..., None]).transpose(1, 2), mask[:, None]
        found = []
        for (conv,) in branches:
            cells = conv.kernel_size[0] - 1  # by hand, as PyTorch warns of "same" with an even kernel
            scores = conv(functional.pad(words, (cells // 2, cells - cells // 2))).relu()
            found.append(scores.masked_fill(~real, -math.inf).amax(-1))
        y: Tensor = head(torch.cat(found, -1))
        return y


class Translator(nn.ModuleDict):
    """Vaswani et al. 2017 with norms first. Keys count our inputs, positions and saves too."""

    def __init__(self, start: State) -> None:
        vocabulary, width = start["read.weight"].shape
        options: dict[str, Any] = {
            "batch_first": True,
            "norm_first": True,
            "dropout": 0.0,
            "dim_feedforward": 2 * width,
        }
        encoder = {key: nn.TransformerEncoderLayer(width, 4, **options) for key in ("3", "4")}
        decoder = {key: nn.TransformerDecoderLayer(width, 4, **options) for key in ("10", "11")}
        read, write = (nn.Embedding(vocabulary, width) for _ in range(2))
        ends = {"12": nn.LayerNorm(width), "13": nn.Linear(width, vocabulary)}
        super().__init__({"read": read, **encoder, "5": nn.LayerNorm(width), "write": write, **decoder, **ends})

    def forward(self, x: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> Tensor:
        """Source (N, S), target (N, T) -> (N, T, V)."""
        memory = located(self["read"](x["source"]))
        for key in ("3", "4"):
            memory = self[key](memory, src_key_padding_mask=~mask["source"])
        memory = self["5"](memory)
        y = located(self["write"](x["target"]))
        masks = {"tgt_key_padding_mask": ~mask["target"], "memory_key_padding_mask": ~mask["source"]}
        for key in ("10", "11"):
            y = self[key](y, memory, tgt_mask=later(y.shape[1]), **masks)
        logits: Tensor = self["13"](self["12"](y))
        return logits


def located(x: Tensor) -> Tensor:
    """x (N, T, E) and the paper's sines and cosines of each position."""
    width = x.shape[-1]
    rates = 1e4 ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = torch.outer(torch.arange(x.shape[1], dtype=torch.float64), rates)
    return x + torch.stack([angles.sin(), angles.cos()], -1).flatten(1).to(x.dtype)


NETWORKS: dict[str, Callable[[Golden, State], nn.Module]] = {
    "resnet20": lambda row, start: resnet20(),
    "unet": lambda row, start: UNet(),
    "names_gpt": lambda row, start: GPT(start, bias=True, tied=False, approximate="tanh"),
    "tied_gpt": lambda row, start: GPT(start, bias=False, tied=True, approximate="none"),
    "lstm": lambda row, start: StatefulLSTM(start, len(row.sizes)),
    "text_cnn": lambda row, start: TextCNN(start),
    "translate": lambda row, start: Translator(start),
}
