"""Rows of nn/linear.py."""

from __future__ import annotations

from collections import OrderedDict

from gpubackprop.nn.containers import Sequential
from gpubackprop.nn.embedding import Embedding
from gpubackprop.nn.linear import Linear, TiedLinear
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


def _tied():
    from torch import nn

    module = nn.Sequential(OrderedDict([("words", nn.Embedding(7, 5)), ("1", nn.Linear(5, 7, bias=False))]))
    module[1].weight = module[0].weight
    return module


ROWS += [
    LayerSpec(
        "tied_linear",
        lambda: Sequential(Embedding(7, 5).named("words"), TiedLinear("words")),
        _tied,
        (3,),
        symbols=7,
    )
]
