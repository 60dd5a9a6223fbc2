"""Rows of ops/pair_loss.py."""

from __future__ import annotations

from gpubackprop.ops import pair_loss
from tests.ops.specs import OpSpec
from tests.ops.specs.loss import draw_optional, weights


def _stacks(*shape, labels=None, weight=None, mask=None):
    def draw(rng):
        x = rng.normal(size=shape)
        target = () if labels is None else (rng.choice(labels, shape[:-2]),)
        return x, *target, *draw_optional(rng, weight, mask)

    return draw


def _cosine(x, target, weight, mask, *, margin=0.0):
    import torch.nn.functional as F

    flat, count = x.reshape(-1, *x.shape[-2:]), weights(x.shape[:-2], weight, mask, x).reshape(-1)
    losses = F.cosine_embedding_loss(flat[:, 0], flat[:, 1], target.reshape(-1), margin=margin, reduction="none")
    return (losses * count).sum(), count.sum()


def _contrastive(x, target, weight, mask, *, margin=1.0):
    """Hadsell et al. 2006, equation 4."""
    import torch

    target, count = target.to(x.dtype), weights(x.shape[:-2], weight, mask, x)
    distance = torch.linalg.vector_norm(x[..., 0, :] - x[..., 1, :], dim=-1)
    losses = (1 - target) * distance**2 / 2 + target * torch.clamp(margin - distance, min=0) ** 2 / 2
    return (losses * count).sum(), count.sum()


def _triplet(x, weight, mask, **options):
    import torch.nn.functional as F

    count = weights(x.shape[:-2], weight, mask, x)
    losses = F.triplet_margin_loss(*x.unbind(-2), reduction="none", **options)
    return (losses * count).sum(), count.sum()


def _info_nce(x, weight, mask, *, temperature=0.5):
    """NT-Xent among the samples that count."""
    import torch
    import torch.nn.functional as F

    count = weights(x.shape[:1], weight, mask, x)
    views = F.normalize(x[count != 0], dim=-1).transpose(0, 1).reshape(-1, x.shape[-1])
    size = len(views)
    logits = (views @ views.T / temperature).masked_fill(torch.eye(size, dtype=bool), -torch.inf)
    losses = F.cross_entropy(logits, (torch.arange(size) + size // 2) % size, reduction="none")
    own = count[count != 0].repeat(2)
    return (losses * own).sum(), own.sum()


def _pair(op, torch, label, inputs, **options):
    return OpSpec(f"{op.name}{label}", op, inputs, torch, options, 1, (1, 2, 3), (0, 1, 2, 3))


def _alone(op, torch, label, inputs, **options):
    return OpSpec(f"{op.name}{label}", op, inputs, torch, options, 1, (1, 2), (0, 1, 2))


SIGNS, BITS = (-1, 1), (0, 1)
WEIGHED = {"weight": (4,), "mask": (4, 3)}
COSINE, CONTRASTIVE, TRIPLET, NCE = (
    (pair_loss.cosine_embedding, _cosine),
    (pair_loss.contrastive, _contrastive),
    (pair_loss.triplet, _triplet),
    (pair_loss.info_nce, _info_nce),
)
ROWS = [
    _pair(*COSINE, "", _stacks(8, 2, 5, labels=SIGNS)),
    _pair(*COSINE, ", margin", _stacks(8, 2, 5, labels=SIGNS), margin=0.3),
    _pair(*COSINE, ", weight and mask", _stacks(4, 3, 2, 5, labels=SIGNS, **WEIGHED)),
    _pair(*CONTRASTIVE, "", _stacks(8, 2, 3, labels=BITS)),
    _pair(*CONTRASTIVE, ", margin", _stacks(8, 2, 3, labels=BITS), margin=4.0),
    _pair(*CONTRASTIVE, ", weight and mask", _stacks(4, 3, 2, 3, labels=BITS, **WEIGHED), margin=3.0),
    _alone(*TRIPLET, "", _stacks(8, 3, 5)),
    _alone(*TRIPLET, ", margin", _stacks(8, 3, 5), margin=0.2),
    _alone(*TRIPLET, ", p 1", _stacks(8, 3, 5), p=1.0, margin=2.0),
    _alone(*TRIPLET, ", p 3", _stacks(8, 3, 5), p=3.0),
    _alone(*TRIPLET, ", swap", _stacks(8, 3, 5), swap=True, eps=1e-3),
    _alone(*TRIPLET, ", weight and mask", _stacks(4, 3, 3, 5, **WEIGHED)),
    _alone(*NCE, "", _stacks(5, 2, 4)),
    _alone(*NCE, ", temperature", _stacks(5, 2, 4), temperature=0.07),
    _alone(*NCE, ", weight and mask", _stacks(6, 2, 4, weight=(6,), mask=(6,))),
]
