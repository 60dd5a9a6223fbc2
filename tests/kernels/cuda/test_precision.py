"""Whole steps in tf32, bfloat16 and float16 on the doubles, as CUDA graphs: the loss scale too."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend.precision import working
from gpubackprop.ops.linear import linear
from gpubackprop.tape import FREE, Slot
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.device import TestDevice, doubles
from tests.kernels.cuda.rows import needs_compiler
from tests.kernels.cuda.test_step import batch, eagerly, step_of, train

pytestmark = needs_compiler


@pytest.mark.parametrize(("precision", "tolerance"), [("tf32", 1e-3), ("bfloat16", 1e-2), ("float16", 2e-3)])
def test_captured_steps_are_about_those_of_the_cpu(precision, tolerance):
    wanted = train(step_of("cpu", precision, "reference"))
    with doubles() as cupy:
        step = step_of("cuda", precision)
        found = train(step)
        assert cupy.device.launches == 3
        assert step.model.built.backend.float32 == ("tf32" if precision == "tf32" else "float32")
    for name, value in wanted.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_gradients_of_short_weights_are_products_in_float32(dtype):
    b, rng, short = TestDevice(), np.random.default_rng(0), working(dtype)
    x, weight, bias, dy = (
        b.from_host(rng.normal(size=shape).astype(short)) for shape in ((24, 16), (8, 16), (8,), (24, 8))
    )
    places = [b.from_host(np.full(a.shape, np.nan, np.float32)) for a in (weight, bias)]
    pair = b.pair(linear, [x, weight, bias], {})
    saved = pair.forward(b, x, weight, bias)[1]
    _, *grads = pair.backward(b, saved, dy, [FREE, *(Slot(wide=place) for place in places)])
    assert all(grad is place for grad, place in zip(grads, places, strict=True))
    left, right = (b.to_host(a).astype(np.float32) for a in (dy, x))
    np.testing.assert_allclose(b.to_host(grads[0]), left.T @ right, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(b.to_host(grads[1]), left.sum(axis=0), rtol=1e-5, atol=1e-5)


@np.errstate(all="ignore")
def test_a_captured_step_is_left_out_without_a_wait():
    def run(step):
        to_host, kept = step.model.built.backend.to_host, []
        step.loss_scale.scale[...] = 2.0**26
        for number in range(13):
            step([batch(number)])
            kept.append([to_host(step.loss_scale.counts).tolist(), to_host(step.model.parameters().master)])
        return kept

    with doubles() as cupy:
        found = run(step_of("cuda", "float16"))
        assert cupy.device.launches == 12
    with doubles():
        wanted = run(eagerly(step_of("cuda", "float16")))
    skipped = [counts[1] > 0 for counts, _ in found]
    assert 2 < skipped.index(False) < 12, "captured steps are left out, and others are not"
    for number, ((counts, master), (same, other)) in enumerate(zip(found, wanted, strict=True)):
        assert counts == same
        np.testing.assert_array_equal(master, other)
        if number:
            assert np.array_equal(master, found[number - 1][1]) == skipped[number]


@pytest.mark.filterwarnings("ignore:steps are not captured")
def test_states_of_stateful_layers_are_handed_on():
    def run(device, kernels):
        layers = [
            {"embedding": {"num_embeddings": 7, "embedding_dim": 4}},
            {"lstm": {"hidden_size": 5, "stateful": True}},
        ]
        model = gbp.build([*layers, {"linear": 7}], (6,), 0, device, "float16", kernels)
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.AdamW(model.parameters(), lr=1e-2))
        rng = np.random.default_rng(0)
        return [float(step(rng.integers(0, 7, (4, 6)), rng.integers(0, 7, (4, 6)))) for _ in range(4)]

    with doubles():
        np.testing.assert_allclose(run("cuda", "auto"), run("cpu", "reference"), rtol=1e-3)
