"""Rows of nn/squeeze_excite.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _torch(*parts):
    """`parts` are torch.nn's names and arguments; x times what they make of its mean."""

    def make():
        import torch

        class SqueezeExcite(torch.nn.Sequential):
            def forward(self, x):
                s = super().forward(x.flatten(1, -2).mean(dim=1))
                return x * s.reshape(len(s), *[1] * (x.ndim - 2), -1)

        return SqueezeExcite(*(getattr(torch.nn, name)(*args) for name, *args in parts))

    return make


def _row(name, layer, shape, *parts):
    return LayerSpec(f"squeeze_excite{name}", layer, _torch(*parts), shape)


PLAIN = (("Linear", 6, 3), ("ReLU",), ("Linear", 3, 6), ("Sigmoid",))
ROWS = [
    _row(" images", lambda: nn.SqueezeExcite(2), (3, 4, 6), *PLAIN),
    _row(" sequences", lambda: nn.SqueezeExcite(2), (5, 6), *PLAIN),
    _row(" at least one", nn.SqueezeExcite, (2, 2, 3), ("Linear", 3, 1), ("ReLU",), ("Linear", 1, 3), ("Sigmoid",)),
    _row(
        " other functions",
        lambda: nn.SqueezeExcite(3, nn.SiLU(), nn.Tanh()),
        (3, 4, 6),
        *(("Linear", 6, 2), ("SiLU",), ("Linear", 2, 6), ("Tanh",)),
    ),
    _row(
        " layers",
        lambda: nn.SqueezeExcite(layers=[nn.Linear(None, 6, bias=False)]),
        (3, 4, 6),
        *(("Linear", 6, 6, False), ("Sigmoid",)),
    ),
]
