"""The trainings of golden.py by PyTorch, on its own layers. Imported only where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.golden import STEPS, Golden, Training, build


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


def network(row: Golden, start: dict[str, Tensor]) -> nn.Module:
    """The row's model. MLP and CNN layer by layer as the config, which may be tuned; ResNet-20 as the paper has it."""
    if row.model == "resnet20":
        return resnet20()
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


OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def train(row: Golden, precision: str = "float64", steps: int = STEPS, channels_last: bool = False) -> Training:
    """The row, by PyTorch, from the weights that this package starts with."""
    dtype = getattr(torch, precision)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    start = {key: torch.from_numpy(value) for key, value in build(row, precision).state_dict().items()}
    model: Any = network(row, start).to(dtype)
    model.load_state_dict(start)
    model.to(memory_format=layout)
    optimizer = OPTIMIZERS[row.optimizer](model.parameters(), **row.optimizer_options())
    loss_options = row.config.loss.options
    losses = []
    for number in range(steps):
        optimizer.zero_grad()
        loss = 0.0
        for images, labels in row.batches(number):
            x = torch.from_numpy(images).to(dtype).permute(0, 3, 1, 2).contiguous(memory_format=layout)
            total: Any = functional.cross_entropy(model(x), torch.from_numpy(labels), reduction="sum", **loss_options)
            mean = total / sum(row.sizes)
            mean.backward()
            loss += mean.item()
        if row.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), row.clip_norm)
        optimizer.step()
        losses.append(loss)
    return Training(losses, {key: value.numpy() for key, value in model.state_dict().items()})
