"""Rows of ops/linear_activation.py."""

from __future__ import annotations

from gpubackprop.ops.linear_activation import linear_activation, linear_gelu_linear
from tests.ops.specs import OpSpec


def _torch(x, weight, bias, *, activation, **options):
    import torch
    import torch.nn.functional as F

    function = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "silu": F.silu}
    return function[activation](F.linear(x, weight, bias), **options)


def _inputs(*leading, bias=True):
    return lambda rng: (rng.normal(size=(*leading, 5)), rng.normal(size=(4, 5)), rng.normal(size=4) if bias else None)


def _row(name, *leading, bias=True, **options):
    title = f"linear_activation {name}"
    return OpSpec(title, linear_activation, _inputs(*leading, bias=bias), _torch, options)


def _torch_two(x, weight, bias, weight2, bias2):
    import torch.nn.functional as F

    return F.linear(F.gelu(F.linear(x, weight, bias), approximate="tanh"), weight2, bias2)


def _two(*leading, bias=True):
    def draw(rng):
        biases = (rng.normal(size=4), rng.normal(size=3)) if bias else (None, None)
        return (rng.normal(size=(*leading, 5)), rng.normal(size=(4, 5)), biases[0], rng.normal(size=(3, 4)), biases[1])

    return draw


ROWS = [
    _row("relu", 7, activation="relu"),
    _row("relu, no bias", 7, bias=False, activation="relu"),
    _row("gelu over sequences", 3, 2, activation="gelu"),
    _row("gelu by tanh", 7, activation="gelu", approximate="tanh"),
    _row("tanh", 7, activation="tanh"),
    _row("sigmoid, no bias", 7, bias=False, activation="sigmoid"),
    _row("silu", 7, activation="silu"),
    OpSpec("linear_gelu_linear", linear_gelu_linear, _two(7), _torch_two),
    OpSpec("linear_gelu_linear over sequences, no bias", linear_gelu_linear, _two(3, 2, bias=False), _torch_two),
]
