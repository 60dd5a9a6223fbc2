"""Rows of ops/position.py."""

from __future__ import annotations

from gpubackprop.ops.position import learned_position, rotary, sinusoidal_position
from tests.ops.specs import OpSpec


def _normal(*shapes):
    return lambda rng: tuple(rng.normal(size=shape) for shape in shapes)


def _learned_position(x, weight, *, offset=0):
    import torch

    return x + torch.nn.functional.embedding(torch.arange(offset, offset + x.shape[1]), weight)


def sinusoidal(x, *, offset=0, base=1e4):
    """The table of the paper, entry by entry."""
    import math

    import torch

    def entry(t, i):
        angle = t / base ** ((i - i % 2) / x.shape[2])
        return math.cos(angle) if i % 2 else math.sin(angle)

    rows = range(offset, offset + x.shape[1])
    return x + torch.tensor([[entry(t, i) for i in range(x.shape[2])] for t in rows], dtype=x.dtype)


def rotated(x, *, offset=0, base=1e4, pairs="halves"):
    """As Meta's LLaMA computes it: pairs are complex numbers, multiplied by one of length 1."""
    import torch

    d = x.shape[-1]
    frequencies = base ** (-torch.arange(0, d, 2, dtype=torch.float64) / d)
    angles = torch.outer(torch.arange(offset, offset + x.shape[-2], dtype=torch.float64), frequencies)
    if pairs == "halves":
        x = x.unflatten(-1, (2, d // 2)).transpose(-1, -2).flatten(-2)
    turned = torch.view_as_complex(x.unflatten(-1, (d // 2, 2)).contiguous()) * torch.polar(
        torch.ones_like(angles), angles
    )
    y = torch.view_as_real(turned)
    return y.transpose(-1, -2).flatten(-2) if pairs == "halves" else y.flatten(-2)


ROWS = [
    OpSpec("learned_position", learned_position, _normal((2, 3, 4), (5, 4)), _learned_position, batched=(0,)),
    OpSpec("learned_position, offset", learned_position, _normal((2, 3, 4), (7, 4)), _learned_position, {"offset": 2}),
    OpSpec("sinusoidal_position", sinusoidal_position, _normal((2, 5, 6)), sinusoidal),
    OpSpec("sinusoidal_position, odd, offset", sinusoidal_position, _normal((2, 3, 5)), sinusoidal, {"offset": 4}),
    OpSpec("rotary", rotary, _normal((2, 3, 5, 8)), rotated),
    OpSpec("rotary, offset and base", rotary, _normal((2, 1, 3, 4)), rotated, {"offset": 7, "base": 100.0}),
    OpSpec("rotary, neighbours", rotary, _normal((2, 2, 4, 6)), rotated, {"pairs": "neighbours"}),
]
