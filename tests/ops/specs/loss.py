"""Rows of ops/loss.py. PyTorch's losses without reduction are weighted and summed here."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops import loss
from tests.ops.specs import OpSpec


def draw_classes(
    *leading, classes=5, scale=1.0, class_weight=False, weight=False, mask=False, ignore=None, dtype=np.int64
):
    """Logits, class numbers, and perhaps weights of classes and samples, a mask."""

    def draw(rng):
        target = rng.integers(0, classes, leading).astype(dtype)
        if ignore is not None:
            target[rng.random(leading) < 0.3] = ignore
        return (
            scale * rng.normal(size=(*leading, classes)),
            target,
            rng.uniform(0.5, 2, classes) if class_weight else None,
            rng.uniform(0.5, 2, leading[:1]) if weight else None,
            rng.random(leading) < 0.6 if mask else None,
        )

    return draw


def _cross_entropy(logits, target, class_weight, weight, mask, *, ignore_index=-100, label_smoothing=0.0):
    import torch
    import torch.nn.functional as F

    flat, target1 = logits.reshape(-1, logits.shape[-1]), target.reshape(-1).long()
    losses = F.cross_entropy(
        flat, target1, class_weight, reduction="none", ignore_index=ignore_index, label_smoothing=label_smoothing
    )
    kept = target1 != ignore_index
    own = kept.double() if class_weight is None else class_weight[target1 * kept] * kept
    count = weights(target.shape, weight, mask, logits).reshape(-1)
    return torch.sum(losses * count), torch.sum(own * count)


def weights(shape, weight, mask, like):
    """What each element of `shape` counts."""
    import torch

    count = torch.ones(shape, dtype=like.dtype)
    for given in (weight, mask):
        if given is not None:
            count = count * given.reshape(given.shape + (1,) * (len(shape) - given.ndim))
    return count


def _elementwise(name):
    def call(x, target, *rest, **options):
        import torch.nn.functional as F

        *pos_weight, weight, mask = rest
        if pos_weight:
            options = {"pos_weight": pos_weight[0]}
        count = weights(x.shape, weight, mask, x)
        losses = getattr(F, name)(x, target.to(x.dtype), reduction="none", **options)
        return (losses * count).sum(), count.sum()

    return call


def draw_pairs(*shape, weight=None, mask=None, target="normal"):
    """Outputs and targets of one shape, and perhaps weights and a mask."""

    def draw(rng):
        x = 2 * rng.normal(size=shape)
        t = {"normal": lambda: rng.normal(size=shape), "integers": lambda: rng.integers(-2, 3, shape)}[target]()
        return x, t, *draw_optional(rng, weight, mask)

    return draw


def draw_optional(rng, weight, mask):
    """Weights and a mask of such shapes, or None."""

    return rng.uniform(0.5, 2, weight) if weight else None, rng.random(mask) < 0.6 if mask else None


def draw_binary(*shape, scale=2.0, pos_weight=None, weight=None, mask=None, soft=False):
    """Logits, targets 0 or 1 (or between), and perhaps weights and a mask."""

    def draw(rng):
        t = rng.random(shape) if soft else rng.integers(0, 2, shape)
        w = rng.uniform(0.5, 3, pos_weight) if pos_weight else None
        return scale * rng.normal(size=shape), t, w, *draw_optional(rng, weight, mask)

    return draw


def _ce(name, inputs, **options):
    return OpSpec(
        f"cross_entropy{name}", loss.cross_entropy, inputs, _cross_entropy, options, 1, (2, 3, 4), (0, 1, 3, 4)
    )


def _bce(name, inputs):
    torch = _elementwise("binary_cross_entropy_with_logits")
    return OpSpec(f"bce_with_logits{name}", loss.bce_with_logits, inputs, torch, {}, 1, (1, 2, 3, 4), (0, 1, 3, 4))


def _regression(name, theirs, label, inputs, **options):
    return OpSpec(
        f"{name}{label}", getattr(loss, name), inputs, _elementwise(theirs), options, 1, (1, 2, 3), (0, 1, 2, 3)
    )


def _scalars(rng):
    return np.array(rng.normal()), np.array(6.5), np.array(rng.normal())


def _with_auxiliary(total, weight, auxiliary, *, samples):
    return total + weight * auxiliary / samples


ROWS = [
    OpSpec(
        "with_auxiliary",
        loss.with_auxiliary,
        _scalars,
        _with_auxiliary,
        {"samples": 3},
        constants=(1,),
        batched=(),
    ),
    _ce("", draw_classes(7)),
    _ce(", uint8 targets", draw_classes(7, dtype=np.uint8)),
    _ce(", large logits", draw_classes(7, scale=1000.0)),
    _ce(" over sequences", draw_classes(3, 4)),
    _ce(" over sequences, masked", draw_classes(3, 4, mask=True)),
    _ce(", class and sample weights", draw_classes(3, 4, class_weight=True, weight=True)),
    _ce(", ignored", draw_classes(9, ignore=-100)),
    _ce(", ignored class", draw_classes(9, ignore=0, class_weight=True), ignore_index=0),
    _ce(", smoothed", draw_classes(7), label_smoothing=0.1),
    _ce(
        ", smoothed and all the rest",
        draw_classes(3, 6, ignore=-1, class_weight=True, weight=True, mask=True),
        label_smoothing=0.3,
        ignore_index=-1,
    ),
    _bce("", draw_binary(4, 3)),
    _bce(", soft targets", draw_binary(4, 3, soft=True)),
    _bce(", large logits", draw_binary(4, 3, scale=1000.0)),
    _bce(", pos_weight, weight, mask", draw_binary(4, 3, pos_weight=(3,), weight=(4,), mask=(4, 3))),
    *(
        row
        for name, theirs, options in [
            ("mse", "mse_loss", {}),
            ("l1", "l1_loss", {}),
            ("huber", "huber_loss", {}),
            ("huber", "huber_loss", {"delta": 0.3}),
            ("smooth_l1", "smooth_l1_loss", {}),
            ("smooth_l1", "smooth_l1_loss", {"beta": 0.3}),
            ("smooth_l1", "smooth_l1_loss", {"beta": 0.0}),
        ]
        for label in ["".join(f", {key} {value}" for key, value in options.items())]
        for row in [
            _regression(name, theirs, label, draw_pairs(4, 3), **options),
            _regression(name, theirs, f"{label}, integer targets", draw_pairs(4, target="integers"), **options),
            _regression(
                name, theirs, f"{label}, weight and mask", draw_pairs(3, 2, 4, weight=(3,), mask=(3, 2)), **options
            ),
        ]
    ),
]
