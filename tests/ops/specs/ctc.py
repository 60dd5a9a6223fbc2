"""Rows of ops/ctc.py; hypothesis draws more in tests/ops/test_ctc.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.ctc import ctc
from tests.ops.specs import OpSpec
from tests.ops.specs.loss import draw_optional


def draw_ctc(samples, time, classes, labels, *, lengths=False, weight=False, mask=False, blank=0, repeated=False):
    """Logits, padded targets of random numbers of labels, lengths that are enough, weights."""

    def draw(rng):
        known = [c for c in range(classes) if c != blank][: 1 if repeated else None]
        target = rng.choice(known, (samples, labels))
        counts = rng.integers(0, labels + 1, samples)
        target[np.arange(labels) >= counts[:, None]] = -100
        enough = np.minimum(2 * counts + 1, time)
        return (
            rng.normal(size=(samples, time, classes)),
            target,
            rng.integers(enough, time + 1) if lengths else None,
            *draw_optional(rng, (samples,) if weight else None, (samples,) if mask else None),
        )

    return draw


def torch_ctc(logits, target, lengths, weight, mask, *, blank=0, zero_infinity=False):
    """PyTorch's losses over label counts, weighted and summed here."""
    import torch
    import torch.nn.functional as F

    log_p = torch.log_softmax(logits, -1).transpose(0, 1)
    if lengths is None:
        lengths = torch.full((len(logits),), logits.shape[1])
    counts = (target >= 0).sum(1)
    options = {"blank": blank, "reduction": "none", "zero_infinity": zero_infinity}
    losses = F.ctc_loss(log_p, target.clamp(min=0), lengths, counts, **options)
    own = torch.ones(len(logits), dtype=logits.dtype)
    for given in (weight, mask):
        own = own if given is None else own * given
    return (losses / counts.clamp(min=1) * own).sum(), own.sum()


def _row(label, inputs, **options):
    return OpSpec(f"ctc{label}", ctc, inputs, torch_ctc, options, 1, (3, 4), (0, 1, 2, 3, 4))


ROWS = [
    _row("", draw_ctc(4, 9, 5, 4)),
    _row(", lengths, weight, mask", draw_ctc(5, 9, 5, 4, lengths=True, weight=True, mask=True)),
    _row(", blank last", draw_ctc(4, 9, 5, 4, blank=4, lengths=True), blank=4),
    _row(", repeated labels", draw_ctc(4, 9, 3, 4, repeated=True)),
    _row(", too short", draw_ctc(6, 3, 3, 4, repeated=True), zero_infinity=True),
    _row(", one label", draw_ctc(4, 1, 3, 1)),
]
