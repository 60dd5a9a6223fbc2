"""Rows of nn/recurrent.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def torch_module(kind, *args, last=False, **options):
    """PyTorch's module, giving the sequence, or the last states of the top layer side by side."""
    import torch

    class Alone(getattr(torch.nn, kind)):
        def forward(self, x):
            y, state = super().forward(x)
            state = state[0] if isinstance(state, tuple) else state
            directions = 2 if self.bidirectional else 1
            return torch.cat(list(state[-directions:]), dim=-1) if last else y

    return Alone(*args, batch_first=True, **options)


def _row(kind, *args, ours=None, random=False, **options):
    name = ", ".join([kind.lower(), *(f"{key} {value}" for key, value in ({**options, **(ours or {})}).items())])
    return LayerSpec(
        name,
        lambda: getattr(nn, kind)(None, *args, **options, **(ours or {})),
        lambda: torch_module(kind, 5, *args, **options),
        (6, 5),
        random=random,
    )


def _rows(kind):
    return [
        _row(kind, 3),
        _row(kind, 3, num_layers=2),
        _row(kind, 3, bidirectional=True),
        _row(kind, 3, num_layers=3, bidirectional=True),
        _row(kind, 3, bias=False),
        _row(kind, 3, num_layers=2, last=True),
        _row(kind, 3, num_layers=2, bidirectional=True, last=True),
        _row(kind, 3, num_layers=2, dropout=0.4, random=True),
    ]


ROWS = [
    *_rows("RNN"),
    _row("RNN", 3, nonlinearity="relu", num_layers=2, bidirectional=True),
    _row("RNN", 3, nonlinearity="relu", ours={"init": "identity"}),
    *_rows("LSTM"),
    _row("LSTM", 3, ours={"forget_bias": 1.0}),
    *_rows("GRU"),
]
