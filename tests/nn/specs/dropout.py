"""Rows of nn/dropout.py and nn/noise.py: in training they are random."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _torch(name, *args):
    def make():
        import torch

        return getattr(torch.nn, name)(*args)

    return make


def _mean():
    import torch

    class Mean(torch.nn.Module):
        def forward(self, x):
            return x.chunk(2, -1)[0]

    return Mean()


ROWS = [
    LayerSpec("Dropout1d", lambda: nn.Dropout1d(0.3), _torch("Dropout1d", 0.3), (5, 4), True, random=True),
    LayerSpec("Dropout2d", lambda: nn.Dropout2d(0.3), _torch("Dropout2d", 0.3), (3, 5, 4), True, random=True),
    LayerSpec("StochasticDepth", lambda: nn.StochasticDepth(0.3), _torch("Identity"), (5, 4), random=True),
    LayerSpec(
        "StochasticDepth, batch", lambda: nn.StochasticDepth(0.3, "batch"), _torch("Identity"), (4,), random=True
    ),
    LayerSpec("GaussianNoise", lambda: nn.GaussianNoise(0.5), _torch("Identity"), (5, 4), random=True),
    # its KL divergence is part of the objective, which this table does not see: tests/nn/test_noise.py
    LayerSpec("GaussianLatent", lambda: nn.GaussianLatent(beta=0.0), _mean, (5, 4), random=True),
]
