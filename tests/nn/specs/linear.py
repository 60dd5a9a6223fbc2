"""Rows of nn/linear.py."""

from __future__ import annotations

from gpubackprop.nn.linear import Linear
from tests.nn.specs import LayerSpec


def _torch(*args, **options):
    def make():
        from torch import nn

        return nn.Linear(*args, **options)

    return make


ROWS = [
    LayerSpec("linear", lambda: Linear(None, 4), _torch(5, 4), (5,)),
    LayerSpec("linear, no bias", lambda: Linear(5, 4, bias=False), _torch(5, 4, bias=False), (5,)),
    LayerSpec("linear over sequences", lambda: Linear(None, 4), _torch(5, 4), (3, 5)),
]
