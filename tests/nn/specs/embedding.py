"""Rows of nn/embedding.py."""

from __future__ import annotations

from gpubackprop import nn
from tests.nn.specs import LayerSpec


def _row(name, kind, shape, rows=7, **options):
    def torch():
        import torch

        return getattr(torch.nn, kind)(rows, 5, **options)

    return LayerSpec(name, lambda: getattr(nn, kind)(rows, 5, **options), torch, shape, symbols=rows)


def _one_hot():
    import torch

    class OneHot(torch.nn.Module):
        def forward(self, x):
            return torch.nn.functional.one_hot(x, 7).double()

    return OneHot()


ROWS = [
    _row("embedding", "Embedding", (6,)),
    _row("embedding of single symbols", "Embedding", ()),
    _row("embedding of grids", "Embedding", (4, 3), rows=40),
    _row("embedding with padding", "Embedding", (6,), rows=3, padding_idx=2),
    _row("embedding_bag", "EmbeddingBag", (6,)),
    _row("embedding_bag, sum", "EmbeddingBag", (6,), mode="sum"),
    _row("embedding_bag, max", "EmbeddingBag", (6,), mode="max"),
    _row("embedding_bag with padding", "EmbeddingBag", (6,), rows=3, padding_idx=0),
    LayerSpec("one_hot", lambda: nn.OneHot(7), _one_hot, (6,), symbols=7),
]
