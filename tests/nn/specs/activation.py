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


def _torch(name, *args):
    import torch

    return getattr(torch.nn, name)(*args)


def _swiglu(F, x):
    a, b = x.chunk(2, -1)
    return F.silu(a) * b


def _composed(function):
    """A module of function(torch.nn.functional, x): what PyTorch lacks, or has in float32 alone (hardsigmoid's 1/6)."""
    import torch

    class Composed(torch.nn.Module):
        def forward(self, x):
            return function(torch.nn.functional, x)

    return Composed()


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
    _row("Softmax", 1, shape=(3, 2, 5)),
    _row("PReLU"),
    _row("PReLU", init=0.1),
    LayerSpec("PReLU by channel", lambda: nn.PReLU(5), lambda: _torch("PReLU", 5), (2, 3, 5), channels_first=True),
    _row("SELU"),
    _row("Hardtanh"),
    _row("Hardtanh", -0.5, 2.0),
    _row("ReLU6"),
    LayerSpec("Hardsigmoid", nn.Hardsigmoid, lambda: _composed(lambda F, x: F.relu6(x + 3) / 6), (3, 5)),
    _row("Hardswish"),
    _row("Mish"),
    _row("GLU", shape=(3, 4)),
    _row("GLU", 1, shape=(4, 3)),
    _row("GLU", -2, shape=(2, 4, 3)),
    LayerSpec("SwiGLU", nn.SwiGLU, lambda: _composed(_swiglu), (3, 4)),
]
