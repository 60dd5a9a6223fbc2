"""Totals of the summary, checked by hand on a small network with a residual block."""

from __future__ import annotations

from gpubackprop.run.check import make_plan
from gpubackprop.run.summary import lines
from tests.run import toy

BLOCK = [{"conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False}}, "batch_norm"]
MODEL = [
    {"conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1}},
    {"residual": {"layers": BLOCK}},
    "relu",
    "global_avg_pool2d",
    {"linear": 3},
]


def summary(data, **changes):
    table, _, totals = "\n".join(lines(make_plan(toy.config(data, model=MODEL, **changes)))).partition("\n\n")
    return table.splitlines(), dict(line.split(maxsplit=1) for line in totals.splitlines())


def test_rows_have_the_keys_of_the_state_dict(data):
    table, _ = summary(data)
    assert [row.split()[0] for row in table[2:]] == ["0", "1.0", "1.1", "2", "3", "4"]
    assert len({len(row) for row in table}) == 1


def test_totals(data):
    _, totals = summary(data)
    weights = (9 * 4 + 4) + (9 * 4 * 4) + (4 + 4) + (4 * 3 + 3)
    assert totals["parameters"].startswith(f"{weights} (")
    flops = 2 * 36 * (9 * 4) + 2 * 36 * (9 * 4 * 4) + 2 * 4 * 3
    training = 3 * flops * 8
    assert totals["FLOPs"] == f"{flops:,} a sample forward, about {training:,} a training step"
    assert totals["input"] == "6×6×1, batch 8"


def test_optimizer_state_goes_by_the_optimizer(data):
    sizes = []
    for optimizer in ("sgd", {"type": "sgd", "momentum": 0.9}, "adam", {"type": "lookahead", "optimizer": "adam"}):
        text = summary(data, optimizer=optimizer)[1]["optimizer"]
        sizes.append(float(text.split()[1]))
    assert sizes[0] == 0
    assert sizes[2] == 2 * sizes[1] > 0
    assert sizes[3] == 3 * sizes[1]


def test_outputs_are_counted_once(data):
    images, means, logits = 36 * 4, 4, 3
    _, totals = summary(data)
    size = (images + 2 * images + images + means + logits) * 8 * 4  # the residual's sum is the relu's input
    assert totals["layer"] == f"outputs         {size / 1024:.4g} KiB a batch, kept for the backward pass"
