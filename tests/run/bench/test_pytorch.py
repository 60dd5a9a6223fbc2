"""The twin that PyTorch is given: the same losses over three updates, or a word about what it lacks."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.config import load_config
from gpubackprop.nn.containers import Sequential
from gpubackprop.run.bench.ours import Ours
from gpubackprop.run.bench.process import CannotError
from gpubackprop.run.bench.task import Task, difference

torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
pytestmark = pytest.mark.oracle

CONV = {"conv2d": {"out_channels": 4, "kernel_size": 3, "padding": 1, "bias": False}}
SEQUENCE = [{"embedding": {"num_embeddings": 7, "embedding_dim": 8, "name": "wte"}}]
GPT = {"gpt_block": {"num_heads": 2, "bias": False, "activation": "gelu_tanh"}}


def task(model, shape, *, tokens=False, targets=(), random=False, batches=1, **config):
    """Random batches of 5 samples for a list of layers; classes are 3, of tokens 7."""
    rng, classes = np.random.default_rng(0), 7 if tokens else 3
    made = []
    for _ in range(batches):
        inputs = rng.integers(0, 7, (5, *shape)) if tokens else rng.normal(size=(5, *shape)).astype(np.float32)
        kind = config.get("loss", "cross_entropy")
        drawn = rng.integers(0, classes, (5, *targets)) if kind == "cross_entropy" else rng.normal(size=(5, *targets))
        made.append({"inputs": inputs, "targets": drawn if drawn.dtype.kind == "i" else drawn.astype(np.float32)})
    document = {"data": "arrays", "model": model, "loss": "cross_entropy", "optimizer": {"type": "sgd", "lr": 0.1}}
    checked = load_config(document | {"device": "cpu", "kernels": "reference"} | config)
    built = Sequential(*(layer.build() for layer in checked.model))
    built.build(shape, checked.seed, "cpu", checked.precision, "reference")
    return Task(checked.resolved(), made, built.state_dict(), random)


def told(steps):
    losses = [steps.step() for _ in range(3)]
    return {"losses": losses, **steps.about()}


SAME = {
    "mlp": task([{"linear": 8}, "relu", {"linear": 3}], (6,)),
    "adamw": task(
        [{"linear": 8}, "tanh", {"linear": 3}],
        (6,),
        optimizer={"type": "adamw", "lr": 0.1, "weight_decay": 1.0, "no_decay": ["bias"]},
    ),
    "clipped": task([{"linear": 8}, "tanh", {"linear": 3}], (6,), training={"clip_norm": 0.1}),
    "clipped by value": task([{"linear": 8}, "tanh", {"linear": 3}], (6,), training={"clip_value": 0.01}),
    "accumulated": task([{"linear": 8}, {"gelu": "tanh"}, {"linear": 3}], (6,), batches=2, training={"accumulate": 2}),
    "regression": task([{"linear": 8}, "silu", {"linear": 2}], (6,), targets=(2,), loss="mse"),
    "batch norm of rows": task([{"linear": 8}, "batch_norm", {"linear": 3}], (6,)),
    "cnn": task(
        [CONV, "batch_norm", "relu", {"max_pool2d": 2}, {"avg_pool2d": 2}, "flatten", {"linear": 3}], (8, 8, 2)
    ),
    "residuals": task(
        [
            CONV,
            {"repeat": {"times": 2, "layers": [{"residual": [CONV, "batch_norm"]}, "relu"]}},
            {
                "residual": {
                    "layers": [{"conv2d": {"out_channels": 7, "kernel_size": 3, "padding": 1, "stride": 2}}],
                    "shortcut": [{"pad_channels": {"out_channels": 7, "stride": 2}}],
                }
            },
            "global_avg_pool2d",
            {"linear": 3},
        ],
        (5, 5, 2),
    ),
    "u-net": task(
        [
            CONV,
            {"save": "full"},
            {"max_pool2d": 2},
            {"conv_transpose2d": {"out_channels": 3, "kernel_size": 2, "stride": 2}},
            {"concat": "full"},
            {"conv2d": {"out_channels": 3, "kernel_size": 1}},
        ],
        (4, 4, 2),
        targets=(4, 4),
    ),
    "branches": task(
        [
            {"parallel": {"branches": [[CONV], [CONV, "relu"]]}},
            {"sequential": [CONV]},
            "global_max_pool2d",
            {"linear": 3},
        ],
        (4, 4, 2),
    ),
    "lstm": task(
        [*SEQUENCE, {"lstm": {"hidden_size": 6, "num_layers": 2}}, {"linear": 7}], (9,), tokens=True, targets=(9,)
    ),
    "gru, last, two directions": task(
        [*SEQUENCE, {"gru": {"hidden_size": 6, "bidirectional": True, "last": True}}, {"linear": 7}], (9,), tokens=True
    ),
    "gpt": task(
        [
            *SEQUENCE,
            {"learned_position": 9},
            {"repeat": {"times": 2, "layers": [GPT]}},
            "layer_norm",
            {"tied_linear": "wte"},
        ],
        (9,),
        tokens=True,
        targets=(9,),
    ),
    "convolution in time": task(
        [
            *SEQUENCE,
            {"conv1d": {"out_channels": 6, "kernel_size": 3}},
            "batch_norm",
            "global_max_pool1d",
            {"linear": 7},
        ],
        (9,),
        tokens=True,
    ),
    "dropout": task([{"linear": 8}, {"dropout": 0.5}, {"linear": 3}], (6,), random=True),
    "float64": task([{"linear": 8}, "relu", {"linear": 3}], (6,), precision="float64"),
}


@pytest.mark.parametrize("name", SAME)
def test_the_twin_trains_the_same(name):
    from gpubackprop.run.bench.pytorch import Twin

    ours, theirs = (told(steps) for steps in (Ours(SAME[name], "cpu", "reference"), Twin(SAME[name], "eager")))
    assert difference(SAME[name], ours, theirs) is None
    if not SAME[name].random:
        np.testing.assert_allclose(theirs["losses"], ours["losses"], rtol=1e-4)
    np.testing.assert_allclose(theirs["inference_loss"], ours["inference_loss"], rtol=1e-4)


@pytest.mark.parametrize("name", ["cnn", "residuals"])
def test_channels_last_lies_so_and_trains_the_same(name):
    from gpubackprop.run.bench.pytorch import Twin

    twin = Twin(SAME[name], "channels_last")
    [(x, _)] = twin.batches
    assert x.is_contiguous(memory_format=torch.channels_last)
    assert difference(SAME[name], told(Ours(SAME[name], "cpu", "reference")), told(twin)) is None


CANNOT = {
    r"0\.gaussian_noise has no twin here": ([{"gaussian_noise": 0.1}, {"linear": 3}], (6,), {}),
    r"0\.0\.lstm has no twin here: stateful and initial are not written for PyTorch": (
        [{"sequential": [{"lstm": {"hidden_size": 3, "stateful": True, "last": True}}]}],
        (4, 2),
        {},
    ),
    r"linear over the channels of images": ([{"linear": 3}, "global_avg_pool2d"], (4, 4, 2), {}),
    r"recompute": ([{"sequential": {"layers": [{"linear": 3}], "recompute": True}}], (6,), {}),
    r"the optimizer lion": ([{"linear": 3}], (6,), {"optimizer": "lion"}),
    r"the optimizer adamw has no twin here: layer_decay is": (
        [{"linear": 3}],
        (6,),
        {"optimizer": {"type": "adamw", "layer_decay": 0.9}},
    ),
    r"the loss hinge": ([{"linear": 3}], (6,), {"loss": "hinge"}),
    r"ema": ([{"linear": 3}], (6,), {"training": {"ema": {"decay": 0.9}}}),
}


@pytest.mark.parametrize("reason", CANNOT)
def test_what_has_no_twin_is_said(reason):
    from gpubackprop.run.bench.pytorch import Twin

    model, shape, config = CANNOT[reason]
    made = task(model, shape, **config) if "loss" not in config else task(model, shape)
    made.config.update(
        load_config({"data": "arrays", "model": model, "loss": "cross_entropy", "optimizer": "sgd"} | config).resolved()
    )
    with pytest.raises(CannotError, match=reason):
        Twin(made, "eager")


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_shorter_numbers_are_pytorchs_own(precision):
    from gpubackprop.run.bench.pytorch import Twin

    usual = SAME["mlp"]
    short = Task({**usual.config, "precision": precision}, usual.batches, usual.weights, False)
    try:
        twin = Twin(short, "eager")
        assert all(param.dtype == torch.float32 for param in twin.model.parameters())
        found, exact = told(twin), told(Twin(usual, "eager"))
    finally:
        torch.set_float32_matmul_precision("highest")
    assert difference(short, exact, found) is None
    assert (found["losses"] == exact["losses"]) == (precision == "tf32")  # which a CPU has not


def test_without_a_gpu_its_twin_cannot_be_made():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    from gpubackprop.run.bench.pytorch import OnGpu

    with pytest.raises(CannotError, match="cannot use the GPU"):
        OnGpu(SAME["mlp"], "eager", "cuda")
