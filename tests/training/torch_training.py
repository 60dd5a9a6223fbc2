"""The trainings of golden.py by PyTorch, on its own layers. Imported only where PyTorch is installed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.golden import STEPS, Golden, Training, build
from tests.training.golden_data import IGNORED
from tests.training.torch_networks import network

OPTIMIZERS = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}


def optimizer_of(row: Golden, model: nn.Module) -> Any:
    """The row's, which spares the kinds of params in no_decay, as nanoGPT does, by a group of their own."""
    options = row.optimizer_options()
    kinds = options.pop("no_decay", ())
    spared: list[Tensor] = []
    for module in model.modules():
        for name, param in module.named_parameters(recurse=False):
            kind = "norm" if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)) else "bias" if "bias" in name else ""
            if kind in kinds:
                spared.append(param)
    decayed = [param for param in model.parameters() if all(param is not other for other in spared)]
    groups = [{"params": decayed}, *([{"params": spared, "weight_decay": 0.0}] if spared else [])]
    return OPTIMIZERS[row.optimizer](groups, **options)


def tensors(value: Any) -> Any:
    """Arrays, or dicts of them, as tensors."""
    if isinstance(value, Mapping):
        return {name: tensors(each) for name, each in value.items()}
    return None if value is None else torch.from_numpy(np.ascontiguousarray(value))


def train(row: Golden, precision: str = "float64", steps: int = STEPS, channels_last: bool = False) -> Training:
    """The row, by PyTorch, from the weights that this package starts with."""
    dtype = getattr(torch, precision)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    start = {key: torch.from_numpy(value) for key, value in build(row, precision).state_dict().items()}
    model: Any = network(row, start).to(dtype)
    model.load_state_dict(start)
    model.to(memory_format=layout)
    optimizer = optimizer_of(row, model)
    loss_options = row.config.loss.options
    losses = []
    for number in range(steps):
        optimizer.zero_grad()
        loss = 0.0
        batches = row.batches(number)
        count = sum(int((batch["targets"] != IGNORED).sum()) for batch in batches)
        for batch in batches:
            x = tensors(batch["inputs"])
            if isinstance(x, Tensor) and x.is_floating_point():
                logits = model(x.to(dtype).permute(0, 3, 1, 2).contiguous(memory_format=layout))
            else:
                logits = model(x, tensors(batch.get("mask"))).movedim(-1, 1)
            total: Any = functional.cross_entropy(logits, tensors(batch["targets"]), reduction="sum", **loss_options)
            mean = total / count
            mean.backward()
            loss += mean.item()
        if row.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), row.clip_norm)
        optimizer.step()
        losses.append(loss)
    return Training(losses, {key: value.numpy() for key, value in model.state_dict().items()})
