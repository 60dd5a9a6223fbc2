from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.optim import SGD, WeightAverage
from gpubackprop.parameters import Parameters
from tests.optim.specs import draw, params, values


def averages(ours: Parameters, average: WeightAverage, steps: int):
    """After each step: the weights, and their average."""
    optimizer = SGD(ours, lr=0.1)
    for step in range(steps):
        draw(ours, step)
        average.prepare(optimizer.steps)
        optimizer.step()
        average.update()
        with average.swapped():
            found = values(ours)
        yield values(ours), found


@pytest.mark.oracle
@pytest.mark.parametrize("decay", [0.9, 0.3, 0.0])
def test_it_is_pytorchs(decay):
    torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    ours = params()
    theirs = torch.nn.ParameterList([torch.from_numpy(value.copy()) for value in values(ours).values()])
    averaged = AveragedModel(theirs, multi_avg_fn=get_ema_multi_avg_fn(decay))
    for weights, average in averages(ours, WeightAverage(ours, decay), 20):
        for mine, tensor in zip(weights.values(), theirs, strict=True):
            tensor.data.copy_(torch.from_numpy(mine.copy()))
        averaged.update_parameters(theirs)
        for mine, tensor in zip(average.values(), averaged.module, strict=True):
            np.testing.assert_allclose(mine, tensor.detach().numpy(), rtol=1e-12)


def test_warmup_begins_with_the_plain_mean_of_few():
    ours = params()
    expected = None
    for steps, (weights, average) in enumerate(averages(ours, WeightAverage(ours, 0.5, warmup=True), 15)):
        decay = min(0.5, steps / (9 + steps))
        value = weights["0.weight"]
        expected = value if expected is None else decay * expected + (1 - decay) * value
        np.testing.assert_allclose(average["0.weight"], expected, rtol=1e-12)


def test_the_weights_come_back_whatever_happens():
    ours = params()
    ours.value = ours.master.astype(np.float32)
    before, average = ours.master.copy(), WeightAverage(ours)
    average.value[...] = 7

    def looked():
        with average.swapped():
            assert (ours.master == 7).all()
            assert (ours.value == 7).all()
            raise RuntimeError

    with pytest.raises(RuntimeError):
        looked()
    assert np.array_equal(ours.master, before)
    assert np.array_equal(ours.value, before.astype(np.float32))
