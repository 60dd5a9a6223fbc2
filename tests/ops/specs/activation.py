"""Rows of ops/activation.py."""

from __future__ import annotations

import numpy as np

from gpubackprop.ops import activation
from tests.ops.specs import OpSpec


def _spread(rng):
    return (3 * rng.normal(size=(4, 3, 5)),)


def _extreme(rng):
    """Both tails, where a careless formula overflows or cancels."""
    return (np.array([-1000.0, -90.0, -40.0, -15.0, -1e-3, 1e-3, 15.0, 19.9, 20.1, 90.0, 1000.0])[:, None],)


def _shifted(rng):
    """Logits whose exponentials overflow."""
    return (1000 + 10 * rng.normal(size=(4, 6)),)


def torch_function(name, **renamed):
    """PyTorch's function of that name, with its names for some options."""

    def call(x, **options):
        import torch.nn.functional as F

        return getattr(F, name)(x, **{renamed.get(key, key): value for key, value in options.items()})

    return call


def elementwise(op, theirs=None, options=None, inputs=(_spread, _extreme)):
    """Rows of one op and choice of options, one for each way to draw inputs."""
    label = op.name + "".join(f", {key} {value}" for key, value in (options or {}).items())
    torch = theirs or torch_function(op.name)
    return [
        OpSpec(label + {_extreme: ", extreme", _shifted: ", large"}.get(draw, ""), op, draw, torch, options or {})
        for draw in inputs
    ]


def _rows(name, *args, **kwargs):
    return elementwise(getattr(activation, name), *args, **kwargs)


ROWS = [
    *_rows("relu"),
    *_rows("leaky_relu"),
    *_rows("leaky_relu", options={"negative_slope": 0.2}),
    *_rows("elu"),
    *_rows("elu", options={"alpha": 0.7}),
    *_rows("gelu"),
    *_rows("gelu", options={"approximate": "tanh"}),
    *_rows("silu"),
    *_rows("tanh"),
    *_rows("sigmoid"),
    *_rows("softplus"),
    *_rows("softplus", options={"beta": 2.0, "threshold": 3.0}),
    *_rows("softmax", torch_function("softmax", axis="dim"), {"axis": -1}, (_spread, _shifted)),
    *_rows("softmax", torch_function("softmax", axis="dim"), {"axis": 1}, (_spread,)),
    *_rows("log_softmax", torch_function("log_softmax", axis="dim"), {"axis": -1}, (_spread, _shifted)),
    *_rows("log_softmax", torch_function("log_softmax", axis="dim"), {"axis": 1}, (_spread,)),
]
