"""Rows of ops/recurrent.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops.recurrent import gru, lstm, rnn
from tests.ops.specs import OpSpec

OPS = {"RNN": (rnn, 1, 1), "LSTM": (lstm, 4, 2), "GRU": (gru, 3, 1)}  # op, gates, states


def _torch(kind):
    """PyTorch's module over packed sequences. It has no reverse direction alone: of two, the second is taken."""

    def run(x, weight_ih, weight_hh, bias_ih, bias_hh, *rest, reverse=False, **options):
        import torch
        from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

        *starts, mask = rest
        suffixes = ["", "_reverse"] if reverse else [""]
        module = getattr(torch.nn, kind)(
            x.shape[2], weight_hh.shape[1], bias=bias_ih is not None, bidirectional=reverse, batch_first=True, **options
        )
        arrays = {"weight_ih": weight_ih, "weight_hh": weight_hh, "bias_ih": bias_ih, "bias_hh": bias_hh}
        params = {f"{key}_l0{suffix}": a for suffix in suffixes for key, a in arrays.items() if a is not None}
        zero = x.new_zeros(len(x), weight_hh.shape[1])
        states = [torch.stack([zero if start is None else start] * len(suffixes)) for start in starts]
        lengths = torch.full((len(x),), x.shape[1]) if mask is None else mask.sum(dim=1)
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        start = tuple(states) if len(states) > 1 else states[0]
        packed, last = torch.func.functional_call(module.double(), params, (packed, start))
        y = pad_packed_sequence(packed, batch_first=True, total_length=x.shape[1])[0]
        last = last if isinstance(last, tuple) else (last,)
        return y[..., -weight_hh.shape[1] :], *(state[-1] for state in last)

    return run


def _inputs(kind, n=3, t=5, d=4, h=2, *, bias=True, starts=False, lengths=None):
    _, gates, states = OPS[kind]

    def draw(rng):
        biases = [rng.normal(size=gates * h) if bias else None for _ in range(2)]
        first = [rng.normal(size=(n, h)) if starts else None for _ in range(states)]
        mask = None if lengths is None else np.arange(t) < np.array(lengths)[:, None]
        weights = [rng.normal(size=(gates * h, d)), rng.normal(size=(gates * h, h))]
        return rng.normal(size=(n, t, d)), *weights, *biases, *first, mask

    return draw


def _rows(kind):
    op, _, states = OPS[kind]

    def row(name, options=None, **inputs):
        batched = (0, *range(5, 6 + states))
        drawn = _inputs(kind, **inputs)
        return OpSpec(f"{op.name} {name}", op, drawn, _torch(kind), options or {}, 1 + states, batched=batched)

    back = {"reverse": True}
    return [
        row("plain"),
        row("no bias", bias=False),
        row("from a state", starts=True),
        row("one step", t=1, starts=True),
        row("one sample, one feature", n=1, d=1, h=1),
        row("reverse", back, starts=True),
        row("unequal lengths", starts=True, lengths=[2, 5, 1]),
        row("reverse, unequal lengths", back, starts=True, lengths=[2, 5, 1]),
    ]


def _relu(name, options=None, **inputs):
    inputs = _inputs("RNN", starts=True, **inputs)
    options = {"nonlinearity": "relu"} | (options or {})
    return OpSpec(f"rnn relu {name}", rnn, inputs, _torch("RNN"), options, 2, batched=(0, 5, 6))


ROWS = [
    *_rows("RNN"),
    _relu("plain"),
    _relu("unequal lengths", lengths=[2, 5, 1]),
    _relu("reverse, unequal lengths", {"reverse": True}, lengths=[2, 5, 1]),
    *_rows("LSTM"),
    *_rows("GRU"),
]
