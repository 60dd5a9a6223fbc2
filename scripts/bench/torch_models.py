"""The workloads in PyTorch, each in the form that is quickest there. Needs PyTorch."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gpubackprop.config import load_config
from scripts.bench.models import WORKLOADS, HostArray, OurStep

VARIANTS = ("eager", "channels_last", "compile")


def mlp(*sizes: int) -> nn.Module:
    """Linear layers with ReLU between them."""
    layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def lenet() -> nn.Module:
    """Two convolutions, two linear layers."""
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * 14 * 14, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )


class Block(nn.Module):
    """Two convolutions beside a shortcut without weights."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.norm_1 = nn.BatchNorm2d(channels)
        self.conv_2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.norm_2 = nn.BatchNorm2d(channels)
        self.more, self.stride = channels - before, stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, channels, H/stride, W/stride)."""
        y = self.norm_2(self.conv_2(F.relu(self.norm_1(self.conv_1(x)))))
        if self.more:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.more // 2, self.more // 2))
        return F.relu(y + x)


class ResNet20(nn.Module):
    """He et al. 2015, for 32×32 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2 + [(32, 64, 2)] + [(64, 64, 1)] * 2
        self.blocks, self.head = nn.Sequential(*(Block(*size) for size in sizes)), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 32, 32) -> (N, 10)."""
        return self.head(self.blocks(F.relu(self.norm(self.conv(x)))).mean((2, 3)))


class LSTM(nn.Module):
    """Time first, (T, N), which is quicker than PyTorch's batch_first."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(65, 64), nn.LSTM(64, 256, 2), nn.Linear(256, 65)

    def forward(self, x: Tensor) -> Tensor:
        """(T, N) -> (T N, 65)."""
        return self.head(self.lstm(self.embedding(x))[0]).reshape(-1, 65)


class GPTBlock(nn.Module):
    """x + attention, then x + two linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm_1, self.attention = heads, nn.LayerNorm(width), nn.Linear(width, 3 * width)
        self.back, self.norm_2 = nn.Linear(width, width), nn.LayerNorm(width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        n, t, width = x.shape
        three = self.attention(self.norm_1(x)).split(width, 2)
        q, k, v = (each.view(n, t, self.heads, -1).transpose(1, 2) for each in three)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(n, t, width)
        x = x + self.back(y)
        return x + self.narrow(F.gelu(self.wide(self.norm_2(x)), approximate="tanh"))


class GPT(nn.Module):
    """Characters (N, T) -> (N T, 65)."""

    positions: Tensor

    def __init__(self, width: int = 256, heads: int = 4, depth: int = 4, length: int = 128) -> None:
        super().__init__()
        self.embedding, self.position = nn.Embedding(65, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(GPTBlock(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65, bias=False)
        self.register_buffer("positions", torch.arange(length), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T) -> (N T, 65)."""
        return self.head(self.norm(self.blocks(self.embedding(x) + self.position(self.positions)))).view(-1, 65)


MODELS = {
    "mlp": lambda: mlp(784, 512, 512, 10),
    "big": lambda: mlp(1024, 4096, 4096, 1024),
    "tiny": lambda: mlp(64, 64, 10),
    "lenet": lenet,
    "resnet20": ResNet20,
    "lstm": LSTM,
    "gpt": GPT,
}
OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}


class TorchStep:
    """`step()` makes one update on the batch of `like`, from its weights, and returns the loss.

    variant  eager; channels_last: images and weights lie so in memory; compile: model and loss by torch.compile
    """

    def __init__(self, name: str, variant: str, like: OurStep) -> None:
        workload, optimizer = WORKLOADS[name], load_config(WORKLOADS[name].config).optimizer
        x, y = (torch.from_numpy(array) for array in like.data)
        state = like.model.state_dict()
        self.model: Any = MODELS[name]().to(torch.from_numpy(next(iter(state.values()))).dtype)
        copy_weights(state, self.model)
        if workload.images:
            x = x.permute(0, 3, 1, 2).contiguous()
        if name == "lstm":
            x, y = x.T.contiguous(), y.T
        if variant == "channels_last" and workload.images:
            memory: Any = {"memory_format": torch.channels_last}
            x = x.to(**memory)
            self.model.to(**memory)
        self.data = x, y.reshape(-1)
        self.evaluate = torch.compile(self.loss) if variant == "compile" else self.loss
        options = {key: value for key, value in optimizer.options.items() if key in ("lr", "momentum")}
        self.optimizer = OPTIMIZERS[optimizer.type](self.model.parameters(), **options, fused=True)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The mean cross-entropy, shape ()."""
        return F.cross_entropy(self.model(x), y)

    def __call__(self) -> Tensor:
        """One update."""
        self.optimizer.zero_grad(set_to_none=True)
        loss: Tensor = self.evaluate(*self.data)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def gradients(self) -> tuple[float, list[HostArray]]:
        """The loss and the gradients where the weights stand, these in the order of the state dict."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(*self.data)
        loss.backward()
        return loss.item(), [_gradient(param) for param in self.model.parameters()]


def _gradient(param: nn.Parameter) -> HostArray:
    assert param.grad is not None
    found: HostArray = param.grad.numpy().copy()
    return found


def copy_weights(state: dict[str, HostArray], model: nn.Module) -> None:
    """Our weights and buffers into PyTorch's model: the same ones in the same order, under other names."""
    theirs = model.state_dict()
    assert [array.shape for array in state.values()] == [tuple(each.shape) for each in theirs.values()]
    model.load_state_dict({key: torch.from_numpy(array) for key, array in zip(theirs, state.values(), strict=True)})
