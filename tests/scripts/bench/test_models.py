"""The workloads of the measurements: ours and PyTorch's are the same models."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.config import load_config
from scripts.bench.models import WORKLOADS, OurStep, ours, torch_step

names = pytest.mark.parametrize("name", WORKLOADS)


@names
def test_a_config_says_what_the_workload_says(name):
    workload = WORKLOADS[name]
    assert load_config(workload.config).data.common.options["batch_size"] == workload.samples
    x, y = workload.batch()
    assert x.shape == (workload.samples, *workload.shape)
    assert y.max() < workload.classes
    assert np.array_equal(x, workload.batch()[0])


@pytest.mark.oracle
@pytest.mark.parametrize("name", [n if n != "big" else pytest.param(n, marks=pytest.mark.slow) for n in WORKLOADS])
def test_pytorchs_model_is_ours(name):
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    from scripts.bench.torch_models import TorchStep

    step = OurStep(name, kernels="reference", precision="float64", samples=3)
    theirs = TorchStep(name, "eager", step)
    for _ in range(2):  # the second time after an update of both, so that the optimizers have their say
        (loss, grads), (wanted, wanted_grads) = step.gradients(), theirs.gradients()
        assert loss == pytest.approx(wanted, rel=1e-10)
        assert len(grads) == len(wanted_grads)
        for grad, each in zip(grads, wanted_grads, strict=True):
            assert grad.shape == each.shape
            assert np.abs(grad - each).max() <= 1e-8 * np.abs(each).max()
        step()
        theirs()


@pytest.mark.oracle
@pytest.mark.parametrize("name", ["tiny", "lenet"])
@pytest.mark.parametrize("variant", ["eager", "channels_last"])
def test_a_step_is_called_without_arguments(name, variant):
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    step, theirs = ours(name), torch_step(name, variant)
    for _ in range(3):
        assert float(step()) == pytest.approx(float(theirs()), rel=1e-4)
