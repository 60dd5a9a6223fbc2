from __future__ import annotations

import itertools

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn, optim
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.training.step import TrainStep, value_and_grad


def network(device="cpu", precision="float64", seed=0, kernels="auto"):
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Residual([nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)]),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(36, 5),
    )
    return model.build((6, 6, 2), seed, device, precision, kernels)


def plain(precision="float64", dropout=0.5):
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Dropout(dropout), nn.Linear(8, 3)]
    return nn.Sequential(*layers).build(precision=precision)


def batch(count, rng, shape=(6, 6, 2), classes=5):
    return rng.normal(size=(count, *shape)), rng.integers(0, classes, count)


class TestTrainStep:
    @pytest.mark.parametrize("sizes", [(12,), (4, 4, 4), (5, 1, 6)])
    def test_accumulation_equals_the_large_batch(self, sizes, rng):
        x, target = batch(12, rng, (6,), 3)
        whole, parts = plain(), plain()
        losses = []
        for model, cuts in ((whole, (12,)), (parts, sizes)):
            optimizer = gbp.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
            step = TrainStep(model, nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5]), optimizer, clip_norm=0.5)
            edges = np.cumsum((0, *cuts))
            batches = [{"inputs": x[a:b], "targets": target[a:b]} for a, b in itertools.pairwise(edges)]
            losses.append([float(step(batches)) for _ in range(3)])
        np.testing.assert_allclose(losses[1], losses[0], rtol=1e-13)
        for key, value in whole.state_dict().items():
            np.testing.assert_allclose(parts.state_dict()[key], value, rtol=1e-10, atol=1e-13)

    @pytest.mark.parametrize("precision", ["float32", "float64"])
    def test_runs_on_the_strict_device_with_equal_results(self, precision, rng):
        x, target = batch(8, rng)
        found = {}
        for device in ("cpu", "strict"):
            model = network(device, precision, kernels="reference")
            optimizer = gbp.optim.AdamW(model.parameters(), lr=1e-2)
            step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, clip_norm=1.0, clip_value=0.5)
            to_host = model.built.backend.to_host
            losses = [float(to_host(step(x, target))) for _ in range(4)]
            found[device] = losses, model.state_dict()
        assert found["cpu"][0] == found["strict"][0]
        for key, value in found["cpu"][1].items():
            np.testing.assert_array_equal(found["strict"][1][key], value)

    def test_loss_falls(self, rng):
        x, target = batch(16, rng)
        model = network()
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.AdamW(model.parameters(), lr=1e-2))
        losses = [float(step(x, target)) for _ in range(30)]
        assert losses[-1] < losses[0] / 3

    def test_batch_of_names_equals_x_and_target(self, rng):
        x, target = batch(8, rng, (6,), 3)
        first, second = plain(), plain()
        one = TrainStep(first, nn.CrossEntropyLoss(), gbp.optim.SGD(first.parameters(), lr=0.1))
        two = TrainStep(second, nn.CrossEntropyLoss(), gbp.optim.SGD(second.parameters(), lr=0.1))
        assert float(one(x, target)) == float(two({"inputs": x, "targets": target.astype(np.uint8)}))

    def test_sample_weights_count(self, rng):
        x, target = batch(6, rng, (6,), 3)
        model, kept = plain(dropout=0.0), plain(dropout=0.0)
        weighted = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
        only = TrainStep(kept, nn.CrossEntropyLoss(), gbp.optim.SGD(kept.parameters(), lr=0.1))
        weight = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0])
        a = weighted({"inputs": x, "targets": target, "weight": weight})
        b = only(x[weight > 0], target[weight > 0])
        np.testing.assert_allclose(float(a), float(b), rtol=1e-12)
        np.testing.assert_allclose(model.state_dict()["0.weight"], kept.state_dict()["0.weight"], rtol=1e-12)

    @pytest.mark.parametrize("dtype", [int, float, np.uint8])
    def test_masks_may_be_numbers(self, dtype, rng):
        x, target = rng.normal(size=(4, 5, 6)), rng.integers(0, 3, (4, 5))
        mask = np.arange(5) < np.array([[5], [1], [3], [2]])
        found = []
        for each in (mask, mask.astype(dtype)):
            model = nn.Sequential(nn.GRU(6, 3)).build((5, 6), precision="float64")
            step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
            found.append([float(step({"inputs": x, "targets": target, "mask": each})) for _ in range(2)])
        assert found[0] == found[1]

    def test_dropout_draws_anew_at_each_step(self, rng):
        x, target = batch(8, rng, (6,), 3)
        model = plain()
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=1e-12))
        assert float(step(x, target)) != float(step(x, target))

    def test_mistakes(self, rng):
        x, target = batch(8, rng, (6,), 3)
        model = plain()
        optimizer = gbp.optim.SGD(model.parameters(), lr=0.1)
        step = TrainStep(model, nn.CrossEntropyLoss(), optimizer)
        with pytest.raises(UsageError, match="8 samples"):
            step(x, target[:7])
        with pytest.raises(UsageError, match="takes"):
            step(x, target, target)
        for data in (({"inputs": x, "targets": target}, {}), ([(x, target)],)):
            with pytest.raises(UsageError, match="takes"):
                step(*data)
        with pytest.raises(
            UsageError, match=r"'mask'\] of shape \(8, 5\) fits nothing: inputs \(8, 6\), targets \(8,\)"
        ):
            step({"inputs": x, "targets": target, "mask": np.ones((8, 5), bool)})
        with pytest.raises(UsageError, match="targets is missing, there is inputs, weight"):
            step({"inputs": x, "weight": np.ones(8)})
        with pytest.raises(UsageError, match=r"unknown part 'weights'; allowed: .* did you mean 'weight'"):
            step({"inputs": x, "targets": target, "weights": np.ones(8)})
        with pytest.raises(ShapeError, match="mse"):
            value_and_grad(model, nn.MSELoss(), x, target.astype(float))
        with pytest.raises(UsageError, match="another model"):
            TrainStep(plain(), nn.CrossEntropyLoss(), optimizer)


class TestValueAndGrad:
    def test_leaves_the_model_as_it_was(self, rng):
        x, target = batch(8, rng)
        model = network()
        before = model.state_dict()
        first = value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        second = value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        for key, value in before.items():
            np.testing.assert_array_equal(model.state_dict()[key], value)
        assert float(first[0]) == float(second[0])
        assert np.shape(first[0]) == ()
        for key, grad in first[1].items():
            np.testing.assert_array_equal(second[1][key], grad)

    def test_grads_have_the_keys_and_shapes_of_pytorch(self, rng):
        x, target = batch(8, rng)
        model = network()
        _, grads = value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        state = model.state_dict()
        trained = [key for key in state if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
        assert list(grads) == trained
        assert {key: grad.shape for key, grad in grads.items()} == {key: state[key].shape for key in trained}
        assert grads["0.weight"].shape == (4, 2, 3, 3)

    def test_agrees_with_numerical_gradients(self, rng):
        x, target = batch(8, rng)
        model, loss = network(), nn.CrossEntropyLoss(label_smoothing=0.1)
        _, grads = value_and_grad(model, loss, x, target)
        state = model.state_dict()
        direction = {key: rng.normal(size=grad.shape) for key, grad in grads.items()}
        values = []
        for sign in (1, -1):
            model.load_state_dict(state | {key: state[key] + sign * 1e-6 * d for key, d in direction.items()})
            values.append(float(value_and_grad(model, loss, x, target)[0]))
        slope = sum(float((grads[key] * d).sum()) for key, d in direction.items())
        np.testing.assert_allclose((values[0] - values[1]) / 2e-6, slope, rtol=1e-6)

    def test_a_parameter_without_influence_has_a_zero_gradient(self, rng):
        class Deaf(nn.Layer):
            def __init__(self):
                self.used, self.unused = nn.Linear(6, 3), nn.Linear(6, 3)

            def forward(self, x):
                return self.used(x)

        x, target = batch(4, rng, (6,), 3)
        model = Deaf()
        value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        model.parameters().grad[...] = 7.0
        _, grads = value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        assert not grads["unused.weight"].any()
        assert grads["used.weight"].any()

    def test_frozen_parameters_have_none(self, rng):
        x, target = batch(4, rng, (6,), 3)
        model = plain()
        model.layers[0].weight.needs_grad = False
        _, grads = value_and_grad(model, nn.CrossEntropyLoss(), x, target)
        assert list(grads) == ["0.bias", "3.weight", "3.bias"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (-1, "target -1 of sample 2; classes count from 0"),
        (3, "target 3 of sample 2; it is none of the model's 3 classes, 0 to 2"),
    ],
)
def test_a_target_that_is_no_class_is_an_error(rng, wrong, message):
    x, target = batch(4, rng, (6,), 3)
    target[2] = wrong
    with pytest.raises(UsageError, match=message):
        value_and_grad(plain(), nn.CrossEntropyLoss(), x, target)


def test_an_empty_batch_is_an_error(rng):
    x, target = batch(4, rng, (6,), 3)
    model = plain()
    step = TrainStep(model, nn.CrossEntropyLoss(), optim.SGD(model.parameters(), lr=0.1))
    before = model.state_dict()
    full, empty = {"inputs": x, "targets": target}, {"inputs": x[:0], "targets": target[:0]}
    for given in ((x[:0], target[:0]), (empty,), ([full, empty],)):
        with pytest.raises(UsageError, match="a batch is empty: inputs holds 0 samples"):
            step(*given)
    with pytest.raises(UsageError, match="a batch is empty"):
        value_and_grad(model, nn.MSELoss(), x[:0], np.ones((0, 3)))
    assert step.optimizer.steps == 0
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])


def test_ignored_targets_are_left_out(rng):
    x, target = batch(4, rng, (6,), 3)
    model, kept = plain(dropout=0.0), target != target[0]
    masked = np.where(kept, target, -100)
    loss, _ = value_and_grad(model, nn.CrossEntropyLoss(), x, masked)
    only, _ = value_and_grad(model, nn.CrossEntropyLoss(), x[kept], target[kept])
    np.testing.assert_allclose(loss, only, rtol=1e-12)


def test_an_array_of_a_gpu_is_refused_by_a_model_on_the_cpu():
    class OnGPU:
        __cuda_array_interface__ = {}  # noqa: RUF012  # as CuPy's: what the check looks for
        shape = (4, 6)

    with pytest.raises(UsageError, match="device='cuda'"):
        plain()(OnGPU())
