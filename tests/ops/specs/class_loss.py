"""Rows of ops/class_loss.py. PyTorch's losses without reduction are weighted and summed here."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops import class_loss
from tests.ops.specs import OpSpec
from tests.ops.specs.loss import draw_binary, draw_classes, draw_optional, weights


def _flat(x, target, weight, mask, ignore_index):
    """(M, V), (M,) with 0 for the ignored, and what each position counts."""
    flat = target.reshape(-1).long()
    count = weights(target.shape, weight, mask, x).reshape(-1) * (flat != ignore_index)
    return x.reshape(-1, x.shape[-1]), flat * (flat != ignore_index), count


def _nll(x, target, class_weight, weight, mask, *, ignore_index=-100):
    import torch.nn.functional as F

    flat, own, count = _flat(x, target, weight, mask, ignore_index)
    total = count if class_weight is None else count * class_weight[own]
    return (F.nll_loss(flat, own, class_weight, reduction="none") * count).sum(), total.sum()


def _focal(x, target, alpha, weight, mask, *, gamma=2.0, ignore_index=-100):
    import torch

    flat, own, count = _flat(x, target, weight, mask, ignore_index)
    log_p = torch.log_softmax(flat, -1)[torch.arange(len(own)), own]
    scale = 1 if alpha is None else alpha[own]
    return (-scale * (1 - log_p.exp()) ** gamma * log_p * count).sum(), count.sum()


def _hinge(x, target, class_weight, weight, mask, *, p=1, margin=1.0, ignore_index=-100):
    import torch.nn.functional as F

    flat, own, count = _flat(x, target, weight, mask, ignore_index)
    losses = F.multi_margin_loss(flat, own, p=p, margin=margin, weight=class_weight, reduction="none")
    return (losses * count).sum(), count.sum()


def _kl(x, target, weight, mask, *, log_target=False):
    import torch.nn.functional as F

    count = weights(x.shape[:-1], weight, mask, x)
    losses = F.kl_div(x, target.to(x.dtype), reduction="none", log_target=log_target).sum(-1)
    return (losses * count).sum(), count.sum()


def _binary_focal(x, target, weight, mask, *, alpha=0.25, gamma=2.0):
    """torchvision.ops.sigmoid_focal_loss, as it is written there."""
    import torch.nn.functional as F

    target = target.to(x.dtype)
    p = x.sigmoid()
    surprise = F.binary_cross_entropy_with_logits(x, target, reduction="none")
    losses = surprise * (1 - (p * target + (1 - p) * (1 - target))) ** gamma
    if alpha is not None:
        losses = losses * (alpha * target + (1 - alpha) * (1 - target))
    count = weights(x.shape, weight, mask, x)
    return (losses * count).sum(), count.sum()


def _distributions(*shape, log_target=False, weight=None, mask=None):
    def draw(rng):
        logits = rng.normal(size=(2, *shape))
        x, log_t = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        t = np.exp(log_t) * (rng.random(shape) < 0.8)  # zeros have to do no harm
        return x, log_t if log_target else t, *draw_optional(rng, weight, mask)

    return draw


def _without_pos_weight(draw):
    def inputs(rng):
        x, target, _, weight, mask = draw(rng)
        return x, target, weight, mask

    return inputs


def _class(op, torch, label, inputs, **options):
    return OpSpec(f"{op.name}{label}", op, inputs, torch, options, 1, (2, 3, 4), (0, 1, 3, 4))


def _pair(op, torch, label, inputs, **options):
    return OpSpec(f"{op.name}{label}", op, inputs, torch, options, 1, (1, 2, 3), (0, 1, 2, 3))


ALL = draw_classes(3, 6, ignore=-1, class_weight=True, weight=True, mask=True)
CLASSES = [
    (class_loss.nll, _nll, {}),
    (class_loss.focal, _focal, {}),
    (class_loss.focal, _focal, {"gamma": 0.5}),
    (class_loss.focal, _focal, {"gamma": 0.0}),
    (class_loss.hinge, _hinge, {}),
    (class_loss.hinge, _hinge, {"p": 2, "margin": 0.5}),
]
ROWS = [
    *(
        _class(op, torch, ", ".join([label, *(f"{key} {value}" for key, value in options.items())]), inputs, **more)
        for op, torch, options in CLASSES
        for label, inputs, more in [
            ("", draw_classes(7, scale=2.0), options),
            (", uint8 targets", draw_classes(7, dtype=np.uint8), options),
            (", all options", ALL, {**options, "ignore_index": -1}),
        ]
    ),
    _class(class_loss.focal, _focal, ", large logits", draw_classes(7, scale=100.0)),
    _pair(class_loss.kl_div, _kl, "", _distributions(4, 5)),
    _pair(class_loss.kl_div, _kl, ", log_target", _distributions(4, 5, log_target=True), log_target=True),
    _pair(class_loss.kl_div, _kl, ", masked", _distributions(3, 4, 5, weight=(3,), mask=(3, 4))),
    *(
        _pair(class_loss.binary_focal, _binary_focal, label, _without_pos_weight(inputs), **options)
        for label, inputs, options in [
            ("", draw_binary(4, 3), {}),
            (", no alpha", draw_binary(4, 3), {"alpha": None}),
            (", gamma 0.5", draw_binary(4, 3), {"gamma": 0.5, "alpha": 0.7}),
            (", weight and mask", draw_binary(4, 3, weight=(4,), mask=(4, 3)), {}),
        ]
    ),
]
