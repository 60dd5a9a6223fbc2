"""Rows of nn/containers.py."""

from __future__ import annotations

from collections import OrderedDict

from gpubackprop.nn.containers import Each, Parallel, Repeat, Residual, Sequential
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.skip import Add, Concat, Input, Save, Share
from tests.nn.specs import LayerSpec


def _module(children, forward):
    """A module with `children()` under the same keys, whose forward is `forward(children, x)`."""

    def make():
        from torch import nn

        class Module(nn.Module):
            def __init__(self):
                super().__init__()
                for key, child in children(nn).items():
                    self.add_module(key, child)

            def forward(self, x):
                return forward(self._modules, x)

        return Module()

    return make


def _cat(*xs):
    import torch

    return torch.cat(xs, dim=-1)


def _linears(**sizes):
    return lambda nn: {key.removeprefix("_"): nn.Linear(*size) for key, size in sizes.items()}


def _unet():
    return Sequential(Linear(None, 4), Save("a"), Linear(None, 3), Concat("a"), Save("b"), Linear(None, 7), Add("b"))


def _shared():
    from torch import nn

    twice = nn.Linear(5, 5)
    return nn.Sequential(OrderedDict([("twice", twice), ("1", nn.Linear(5, 5)), ("2", twice)]))


def _residual(nn):
    module = nn.Module()
    module.add_module("0", nn.Linear(5, 4))
    module.add_module("1", nn.Sequential(*(nn.Sequential(nn.Linear(4, 4)) for _ in range(2))))
    module.add_module("shortcut", nn.Sequential(nn.Linear(5, 4)))
    return module


ROWS = [
    LayerSpec(
        "sequential",
        lambda: Sequential(Linear(None, 4), Linear(None, 3).named("head")),
        _module(_linears(_0=(5, 4), head=(4, 3)), lambda m, x: m["head"](m["0"](x))),
        (5,),
    ),
    LayerSpec(
        "residual",
        lambda: Residual([Linear(None, 4), Linear(None, 5)]),
        _module(_linears(_0=(5, 4), _1=(4, 5)), lambda m, x: m["1"](m["0"](x)) + x),
        (5,),
    ),
    LayerSpec(
        "residual with a shortcut",
        lambda: Residual([Linear(None, 4)], [Linear(None, 4, bias=False)]),
        _module(
            lambda nn: {"0": nn.Linear(5, 4), "shortcut": nn.Sequential(nn.Linear(5, 4, bias=False))},
            lambda m, x: m["0"](x) + m["shortcut"](x),
        ),
        (5,),
    ),
    LayerSpec(
        "repeat",
        lambda: Repeat(2, [Linear(None, 5)]),
        _module(
            lambda nn: {"0": nn.Sequential(nn.Linear(5, 5)), "1": nn.Sequential(nn.Linear(5, 5))},
            lambda m, x: m["1"](m["0"](x)),
        ),
        (5,),
    ),
    LayerSpec(
        "parallel, concat",
        lambda: Parallel([[Linear(None, 4)], []]),
        _module(lambda nn: {"0": nn.Sequential(nn.Linear(5, 4))}, lambda m, x: _cat(m["0"](x), x)),
        (5,),
    ),
    LayerSpec(
        "parallel, add",
        lambda: Parallel([[Linear(None, 4)], [Linear(None, 4)], [Linear(None, 4)]], join="add"),
        _module(
            lambda nn: {str(i): nn.Sequential(nn.Linear(5, 4)) for i in range(3)},
            lambda m, x: m["0"](x) + m["1"](x) + m["2"](x),
        ),
        (5,),
    ),
    LayerSpec(
        "skips by name",
        _unet,
        _module(
            _linears(_0=(5, 4), _2=(4, 3), _5=(7, 7)),
            lambda m, x: (lambda a: (lambda b: m["5"](b) + b)(_cat(m["2"](a), a)))(m["0"](x)),
        ),
        (5,),
    ),
    LayerSpec(
        "back to a saved tensor",
        lambda: Sequential(Save("x"), Linear(None, 4), Save("a"), Input("x"), Linear(None, 4), Add("a")),
        _module(_linears(_1=(5, 4), _4=(5, 4)), lambda m, x: m["1"](x) + m["4"](x)),
        (5,),
    ),
    LayerSpec(
        "a shared layer",
        lambda: Sequential(Linear(None, 5).named("twice"), Linear(None, 5), Share("twice")),
        _shared,
        (5,),
    ),
    LayerSpec(
        "each item by the same layers",
        lambda: Each([Linear(None, 4), Linear(None, 2)]),
        _module(_linears(_0=(5, 4), _1=(4, 2)), lambda m, x: m["1"](m["0"](x))),
        (3, 5),
    ),
    LayerSpec(
        "recomputed, nested",
        lambda: Sequential(
            Residual([Linear(None, 4), Repeat(2, [Linear(None, 4)], recompute=True)], [Linear(None, 4)], recompute=True)
        ),
        _module(
            lambda nn: {"0": _residual(nn)},
            lambda m, x: m["0"].shortcut[0](x) + m["0"]._modules["1"](m["0"]._modules["0"](x)),
        ),
        (5,),
    ),
]
