"""Rows of nn/activation.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _row(name, *args, shape=(3, 5), **options):
    def torch():
        import torch

        return getattr(torch.nn, name)(*args, **options)

    label = f"{name}{''.join(f', {value}' for value in (*args, *options.values()))}"
    return LayerSpec(label, lambda: getattr(nn, name)(*args, **options), torch, shape)


ROWS = [
    _row("ReLU"),
    _row("LeakyReLU"),
    _row("LeakyReLU", 0.2),
    _row("ELU"),
    _row("ELU", 0.5),
    _row("GELU"),
    _row("GELU", approximate="tanh"),
    _row("SiLU"),
    _row("Tanh"),
    _row("Sigmoid"),
    _row("Softplus"),
    _row("Softplus", 2.0, 1.0),
    _row("Softmax", -1),
    _row("Softmax", 1),
    _row("LogSoftmax", dim=2),
]
