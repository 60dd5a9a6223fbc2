"""Training in bfloat16 and float16: as good as in float32, and steps that overflow leave no trace."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend.strict import StrictBackend
from gpubackprop.errors import UsageError
from gpubackprop.optim import LossScale, WeightAverage
from gpubackprop.training import checkpoint
from gpubackprop.training.evaluate import evaluate
from gpubackprop.training.metric import metrics
from gpubackprop.training.step import TrainStep, value_and_grad
from gpubackprop.training.trainer import State

SHORT = ["bfloat16", "float16"]
GPT = [
    {"embedding": {"num_embeddings": 11, "embedding_dim": 16}},
    {"learned_position": {"max_length": 12}},
    {"gpt_block": {"num_heads": 2, "dropout": 0.1}},
    "layer_norm",
    {"linear": 11},
]
CNN = [
    {"conv2d": {"out_channels": 6, "kernel_size": 3, "padding": 1}},
    "batch_norm",
    "relu",
    {"residual": [{"conv2d": {"out_channels": 6, "kernel_size": 3, "padding": 1, "bias": False}}, "batch_norm"]},
    {"max_pool2d": 2},
    "flatten",
    {"dropout": 0.1},
    {"linear": 4},
]
LSTM = [
    {"embedding": {"num_embeddings": 11, "embedding_dim": 8}},
    {"lstm": {"hidden_size": 12, "stateful": True}},
    {"linear": 11},
]


def images(rng, count=48):
    t = rng.integers(0, 4, count)
    x = rng.normal(size=(count, 8, 8, 2)) * 0.5
    x[np.arange(count), t * 2] += 1
    return x, t


def texts(rng, count=16):
    start = rng.integers(0, 11, (count, 1))
    whole = (start + np.arange(13) * (1 + start % 3)) % 11
    return whole[:, :-1], whole[:, 1:]


TASKS = {"cnn": (CNN, (8, 8, 2), images), "gpt": (GPT, (12,), texts), "lstm": (LSTM, (12,), texts)}


def made(task, precision, device="cpu", kernels="auto"):
    layers, shape, draw = TASKS[task]
    model = gbp.build(layers, shape, 0, "cpu" if device == "strict" else device, precision, kernels)
    if device == "strict":
        model.build(shape, 0, "strict", precision)
    return model, *draw(np.random.default_rng(3))


def train(task, precision, steps=40, device="cpu", kernels="auto", **options):
    model, x, t = made(task, precision, device, kernels)
    step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.AdamW(model.parameters(), lr=1e-2), clip_norm=1, **options)
    return step, [float(step(x, t)) for _ in range(steps)]


@pytest.mark.parametrize("kernels", ["auto", "reference"])
@pytest.mark.parametrize("precision", SHORT)
@pytest.mark.parametrize("task", TASKS)
def test_training_is_as_good_as_in_float32(task, precision, kernels):
    _, wanted = train(task, "float32")
    step, found = train(task, precision, kernels=kernels)
    assert wanted[-1] < wanted[0] / 2
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-2)
    np.testing.assert_allclose(np.mean(found[-5:]), np.mean(wanted[-5:]), rtol=0.1)
    params = step.model.parameters()
    assert params.value.dtype.name == precision
    assert params.master.dtype == params.grad.dtype == np.float32
    assert np.array_equal(params.value, params.master.astype(params.value.dtype))
    assert (params.master != params.value.astype(np.float32)).any()
    x, t = TASKS[task][2](np.random.default_rng(4))
    figures = evaluate(step.model, step.loss, [metrics["accuracy"]()], [{"inputs": x, "targets": t}])
    assert figures["accuracy"] > 0.7
    assert step.model(x).dtype == np.float32


@pytest.mark.parametrize("precision", ["tf32", *SHORT])
@pytest.mark.parametrize("task", TASKS)
def test_nothing_waits_for_the_device_and_the_results_are_numpys(task, precision):
    strict, found = train(task, precision, 4, "strict")
    plain, wanted = train(task, precision, 4, kernels="reference")
    assert type(strict.model.built.backend) is StrictBackend
    assert found == wanted
    for key, value in plain.model.state_dict().items():
        np.testing.assert_array_equal(strict.model.state_dict()[key], value)


def test_tf32_is_float32_in_memory():
    step, found = train("cnn", "tf32", 4)
    assert found == train("cnn", "float32", 4)[1]
    assert step.model.parameters().value is step.model.parameters().master
    assert step.model.built.backend.float32 == "tf32"


@pytest.mark.parametrize("precision", SHORT)
def test_the_state_dict_is_that_of_the_updated_weights(precision):
    step, _ = train("cnn", precision, 3)
    state = step.model.state_dict()
    assert {a.dtype for key, a in state.items() if "tracked" not in key} == {np.dtype(np.float32)}
    other, *_ = made("cnn", precision)
    other.load_state_dict(state)
    for ours, theirs in zip(other.state_dict().values(), state.values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 2))
    np.testing.assert_array_equal(other(x), step.model(x))


@pytest.mark.parametrize("precision", SHORT)
def test_accumulation_is_about_the_large_batch(precision):
    found = []
    for cuts in ((0, 16), (0, 5, 6, 16)):
        model, x, t = made("gpt", precision)
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.5), clip_norm=1.0)
        batches = [{"inputs": x[a:b], "targets": t[a:b]} for a, b in itertools.pairwise(cuts)]
        found.append(([float(step(batches)) for _ in range(5)], float(step.grad_norm)))
        if precision == "float16":
            assert step.loss_scale.counts.tolist() == [5, 0, 0]
    np.testing.assert_allclose(found[1][0], found[0][0], rtol=5e-3)
    np.testing.assert_allclose(found[1][1], found[0][1], rtol=3e-2)


@pytest.mark.parametrize("around", [lambda p, o: gbp.optim.SAM(p, o), lambda p, o: gbp.optim.Lookahead(p, o, k=2)])
@pytest.mark.parametrize("precision", SHORT)
def test_optimizers_around_others(precision, around):
    found = {}
    for each in ("float32", precision):
        model, x, t = made("cnn", each)
        params = model.parameters()
        average = WeightAverage(params, 0.5)
        optimizer = around(params, gbp.optim.SGD(params, lr=0.05, momentum=0.9))
        step = TrainStep(model, nn.CrossEntropyLoss(), optimizer, average=average)
        found[each] = [float(step(x, t)) for _ in range(15)]
        np.testing.assert_array_equal(params.value, params.master.astype(params.dtype))
        with average.swapped():
            np.testing.assert_array_equal(params.value, average.value.astype(params.dtype))
        np.testing.assert_array_equal(params.value, params.master.astype(params.dtype))
    np.testing.assert_allclose(found[precision][-1], found["float32"][-1], rtol=0.15)


class TestGradients:
    @pytest.mark.parametrize("precision", SHORT)
    @pytest.mark.parametrize("task", TASKS)
    def test_are_about_those_of_float32(self, task, precision):
        found = {}
        for each in ("float32", precision):
            model, x, t = made(task, each)
            found[each] = value_and_grad(model, nn.CrossEntropyLoss(), x, t)
        (loss, grads), (exact, wanted) = found[precision], found["float32"]
        assert abs(loss - exact) < 1e-2 * exact
        largest = max(np.abs(grad).max() for grad in wanted.values())
        for key, grad in wanted.items():
            assert grads[key].dtype == np.float32
            assert np.abs(grads[key] - grad).max() < (0.04 if precision == "bfloat16" else 0.01) * largest, key

    @pytest.mark.oracle
    @pytest.mark.parametrize("precision", SHORT)
    def test_are_as_near_to_the_exact_ones_as_those_of_pytorchs_autocast(self, precision):
        torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
        model, x, t = made("cnn", precision)
        layers = torch.nn
        body = layers.Sequential(layers.Conv2d(6, 6, 3, padding=1, bias=False), layers.BatchNorm2d(6))
        twin = layers.ModuleList([layers.Conv2d(2, 6, 3, padding=1), layers.BatchNorm2d(6), body, layers.Linear(96, 4)])
        names = {"0": "0", "1": "1", "3": "2", "7": "3"}
        model.children()["6"].p = 0.0
        twin.load_state_dict(
            {
                ".".join([names[key.split(".")[0]], *key.split(".")[1:]]): torch.from_numpy(value)
                for key, value in model.state_dict().items()
            }
        )

        def gradients(dtype):
            for param in twin.parameters():
                param.grad = None
            first, norm, inner, last = twin
            with torch.autocast("cpu", dtype=getattr(torch, dtype), enabled=dtype != "float32"):
                y = torch.relu(norm(first(torch.from_numpy(x).float().permute(0, 3, 1, 2))))
                y = last(torch.nn.functional.max_pool2d(y + inner(y), 2).flatten(1))
            torch.nn.functional.cross_entropy(y.float(), torch.from_numpy(t)).backward()
            return [param.grad.numpy() for param in twin.parameters()]

        exact, theirs = gradients("float32"), gradients(precision)
        grads = value_and_grad(model, nn.CrossEntropyLoss(), x, t)[1]
        assert len(grads) == len(exact)
        error = [
            np.sqrt(sum(((a - b) ** 2).sum() for a, b in zip(each, exact, strict=True)))
            for each in (grads.values(), theirs)
        ]
        assert error[0] < 1.5 * error[1]


class TestOverflow:
    def scaled(self, scale, device="cpu", **options):
        model, x, t = made("lstm" if device == "lstm" else "cnn", "float16", "cpu" if device == "lstm" else device)
        loss_scale = LossScale(model.built.backend, scale, interval=1)
        average = WeightAverage(model.parameters(), 0.5)
        optimizer = gbp.optim.AdamW(model.parameters(), lr=1e-2)
        step = TrainStep(
            model, nn.CrossEntropyLoss(), optimizer, clip_norm=1.0, average=average, loss_scale=loss_scale, **options
        )
        return step, x, t

    @pytest.mark.parametrize("device", ["cpu", "strict"])
    def test_a_step_is_skipped_the_scale_halved_and_training_goes_on(self, device):
        step, x, t = self.scaled(2.0**26, device)
        to_host = step.model.built.backend.to_host

        def everything():
            arrays = step.model.state_dict() | step.optimizer.state_dict()
            return arrays | {"value": to_host(step.model.parameters().value).copy()}

        before, losses, counts, scales, means = everything(), [], [], [], []
        for _ in range(40):
            losses.append(float(step(x, t)))
            counts.append(to_host(step.loss_scale.counts).tolist())
            scales.append(float(step.loss_scale.scale))
            after = everything()
            same = all(np.array_equal(after[key], value) for key, value in before.items())
            assert same == (counts[-1][1] > 0)
            means.append(to_host(step.average.value).copy())
            if same and len(means) > 1:  # the first step makes it what the weights are
                assert np.array_equal(means[-1], means[-2])
            before = after
        assert scales[0] == 2.0**25
        assert counts[0] == [0, 1, 1]
        assert any(b > a for a, b in itertools.pairwise(scales))
        assert counts[-1][2] > counts[5][2]  # it grew until it was too large again
        assert np.isfinite(losses).all()
        assert losses[-1] < losses[0] / 4
        assert np.isfinite(to_host(step.average.value)).all()

    def test_states_of_stateful_layers_are_those_before(self):
        step, x, t = self.scaled(2.0**100, "lstm")
        for _ in range(3):
            step(x, t)
            assert not any(a.any() for carry in step.carries for each in carry.values() for a in each)
        step.loss_scale.scale[...] = 1024
        step(x, t)
        assert all(a.any() for carry in step.carries for each in carry.values() for a in each)

    def test_goes_on_from_a_checkpoint_bit_for_bit(self, tmp_path):
        step, x, t = self.scaled(2.0**26)
        wanted = [float(step(x, t)) for _ in range(12)]
        first, *_ = self.scaled(2.0**26)
        found = [float(first(x, t)) for _ in range(5)]
        checkpoint.save(tmp_path / "last", first, State(step=5))
        second, *_ = self.scaled(3.0)
        checkpoint.load(tmp_path / "last", second)
        found += [float(second(x, t)) for _ in range(7)]
        assert found == wanted
        assert second.loss_scale.counts.tolist() == step.loss_scale.counts.tolist()
        assert float(second.loss_scale.scale) == float(step.loss_scale.scale)

    def test_a_model_in_float16_has_a_scale_of_its_own(self):
        assert float(train("cnn", "float16", 1)[0].loss_scale.scale) == 65536
        assert train("cnn", "bfloat16", 1)[0].loss_scale is None

    def test_a_scale_fits_any_precision(self):
        step, found = train("cnn", "float32", 3, kernels="reference")
        _, also = train("cnn", "float32", 3, kernels="reference", loss_scale=LossScale(step.model.built.backend))
        np.testing.assert_allclose(also, found, rtol=1e-5)

    @pytest.mark.parametrize("weights", [np.zeros(8), np.ones(8)])
    def test_a_micro_batch_may_weigh_nothing(self, weights):
        model, x, t = made("cnn", "float16")
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
        batches = [{"inputs": x[:8], "targets": t[:8], "weight": weights}, {"inputs": x[8:], "targets": t[8:]}]
        assert np.isfinite(float(step(batches)))
        assert step.loss_scale.counts.tolist() == [1, 0, 0]


def test_arrays_of_bfloat16_are_taken():
    from ml_dtypes import bfloat16

    model, x, t = made("cnn", "float32")
    loss, _ = value_and_grad(model, nn.CrossEntropyLoss(), x.astype(bfloat16), t)
    assert loss.dtype == np.float32
    other = gbp.build([{"linear": 1}], (2,))
    loss, _ = value_and_grad(other, nn.MSELoss(), np.ones((3, 2), bfloat16), np.ones((3, 1), bfloat16))
    assert loss.dtype == np.float32


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="unknown precision 'float8'"):
        gbp.build([{"linear": 1}], (2,), precision="float8")
