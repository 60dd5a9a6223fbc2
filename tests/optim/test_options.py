"""Options drawn at random, against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.optim import (
    LAMB,
    SGD,
    Adadelta,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
)
from tests.optim.specs import OptimizerSpec, params, train, values

rate = st.floats(1e-4, 0.1)
kept = st.floats(0.0, 0.99)
small = st.floats(1e-6, 1e-2)
betas = st.tuples(kept, st.floats(0.1, 0.999))
flag = st.booleans()
adam = {"betas": betas, "eps": small}

OPTIONS: dict[type[Optimizer], dict[str, st.SearchStrategy[object]]] = {
    SGD: {"momentum": kept, "dampening": st.floats(-0.5, 0.9)},
    Adam: {**adam, "amsgrad": flag},
    AdamW: {**adam, "amsgrad": flag},
    NAdam: {**adam, "momentum_decay": st.floats(0.0, 0.1), "decoupled_weight_decay": flag},
    RAdam: {**adam, "decoupled_weight_decay": flag},
    RMSprop: {"alpha": kept, "eps": small, "momentum": kept, "centered": flag},
    Adagrad: {"lr_decay": st.floats(0.0, 1.0), "initial_accumulator_value": st.floats(0.0, 1.0), "eps": small},
    Adadelta: {"rho": kept, "eps": small},
    Lion: {"betas": st.tuples(st.floats(0.1, 0.99), st.floats(0.1, 0.99))},
    LAMB: {**adam, "bias_correction": flag},
    Muon: {
        "momentum": kept,
        "nesterov": flag,
        "ns_steps": st.integers(1, 5),
        "adjust_lr_fn": st.sampled_from(["original", "match_rms_adamw"]),
        "adamw_for": st.lists(st.sampled_from(["0.*", "2.weight", "[04].*"])),
        "adamw_lr": rate,
        "adamw_betas": betas,
        "adamw_weight_decay": st.floats(0.0, 0.5),
    },
}


@st.composite
def specs(draw: st.DrawFn) -> OptimizerSpec:
    cls = draw(st.sampled_from(list(OPTIONS)))
    return OptimizerSpec(
        cls,
        {
            "lr": draw(rate),
            "weight_decay": draw(st.floats(0.0, 0.5)),
            **{name: draw(drawn) for name, drawn in OPTIONS[cls].items() if draw(flag)},
        },
    )


@pytest.mark.oracle
@settings(max_examples=60, deadline=None, derandomize=True)
@given(spec=specs())
def test_ten_steps_with_any_options_are_pytorchs(spec):
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer, in the [oracle] extra")
    from tests.optim.torch_optimizer import TorchOptimizer

    wanted, optimizer = TorchOptimizer(spec), spec.make(params())
    wanted.train(0, 10)
    train(optimizer, 0, 10)
    for name, value in wanted.values().items():
        assert np.abs(values(optimizer.params)[name] - value).max() <= 1e-9 * np.abs(value).max(), name
