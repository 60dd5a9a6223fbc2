"""Every file in configs/ trains, on made-up data of its own kind. tests/config/test_package.py reads them."""

from __future__ import annotations

import string
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.config import load_config
from gpubackprop.data import prepare
from gpubackprop.optim import Constant
from gpubackprop.run.check import make_plan
from gpubackprop.training.step import TrainStep
from gpubackprop.training.trainer import Trainer
from tests.kernels.cuda.device import doubles
from tests.kernels.cuda.rows import needs_compiler

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))
SHAPES = {"digits": (8, 8, 1), "idx": (28, 28, 1), "cifar": (32, 32, 3)}  #: of an image, by data source
#: Data sources that make their samples themselves: fewer of them.
MADE = {"synthetic": {"data.samples": 40, "data.test": 10}, "digit_scenes": {"data.samples": 40, "data.test": 10}}
STEPS, BATCH, CLASSES = 2, 8, 10
LARGE = ("cifar_resnet20", "resnet18", "shakespeare_lstm", "unet")
each_config = pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=pytest.mark.slow if path.stem in LARGE else ()) for path in CONFIGS],
)


class Losses(list):
    """Observer: the training loss of each step."""

    def stepped(self, trainer):
        pass

    def recorded(self, trainer, record):
        self.append(record["train/loss"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files where the configs look for theirs, below GBP_DATA."""
    return written(tmp_path_factory.mktemp("data"))


def written(root):
    """The folder, with those files in it."""
    rng = np.random.default_rng(0)

    def write(path, lines):
        (root / path).parent.mkdir(exist_ok=True)
        (root / path).write_text("".join(f"{line}\n" for line in lines))

    def words(letters, count, longest):
        return ["".join(rng.choice(list(letters), rng.integers(1, longest + 1))) for _ in range(count)]

    lower = string.ascii_lowercase
    write("names/names.txt", [lower[:13], lower[13:], *words(lower, 60, 15)])
    signs = string.ascii_letters + " !$&',-.3:;?"
    write("tinyshakespeare/input.txt", [signs, *words(signs, 200, 40)])
    for name in ("train", "dev", "test"):
        sentences = [" ".join(words("abc", 9, 2)) for _ in range(40)]
        write(f"text-sst/stsa.binary.{name}", [f"{n % 2} {sentence}" for n, sentence in enumerate(sentences)])
    days = np.arange("2001-01-01", "2001-12-31", dtype="datetime64[D]")
    rows = [f"{day},{value:.1f}" for day, value in zip(days, rng.normal(10, 3, len(days)), strict=True)]
    write("ts-univariate/daily-min-temperatures.csv", ["Date,Temp", *rows])
    return root


def images(source):
    """uint8 images of the source's shape, and their classes."""
    labels = np.arange(40) % CLASSES
    return np.random.default_rng(0).integers(0, 256, (len(labels), *SHAPES[source]), np.uint8), labels


def train(path, device, kernels="reference", precision=None, steps=STEPS):
    """A few steps of what `gpubackprop train` runs, and an evaluation: losses, evaluation, state dict."""
    source = load_config(path).data.type
    arrays = {"train": images(source)} if source in SHAPES else None
    plan = make_plan(path, {"data.batch_size": BATCH} | MADE.get(source, {}), arrays)
    config, options = plan.config, plan.config.training
    data = prepare(plan.source, plan.options, seed=config.seed)
    model = plan.model.build(plan.info.input_shape, config.seed, device, precision or config.precision, kernels)
    optimizer = config.optimizer.build(model.parameters())
    losses = Losses()
    state = Trainer(
        TrainStep(model, plan.loss, optimizer, options.clip_norm, options.clip_value),
        config.schedule.build(steps) if config.schedule else Constant(steps),
        data.train,
        total_steps=steps,
        validation=data.validation,
        metrics=plan.metrics,
        monitor=plan.monitor,
        accumulate=options.accumulate,
        log_every=1,
        observers=[losses],
    ).run()
    return losses, state.validation, model.state_dict()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_two_steps_on_the_double_of_a_gpu_equal_those_of_the_cpu(path, folder, monkeypatch):
    """The GPU's own backend: the first step as it is, the second captured in a graph."""
    monkeypatch.setenv("GBP_DATA", str(folder))
    losses, _, weights = train(path, "cpu", precision="float64")
    with doubles() as cupy:
        found, _, found_weights = train(path, "cuda", "auto", "float64")
        assert cupy.device.launches >= 1, "of the step, and of evaluations of several batches"
    assert found == pytest.approx(losses, rel=1e-8)
    for key, value in weights.items():
        limit = 1e-6 if path.stem == "vae" else 1e-8  # whose normal numbers are float32's, equal to rounding
        np.testing.assert_allclose(found_weights[key], value, rtol=limit, atol=limit, err_msg=key)


@each_config
def test_two_steps_on_the_cpu_and_on_the_strict_device_agree(path, folder, monkeypatch):
    monkeypatch.setenv("GBP_DATA", str(folder))
    losses, validation, weights = train(path, "cpu")
    assert len(losses) == STEPS
    assert np.isfinite(losses).all()
    assert losses[0] != losses[1]
    strict_losses, strict_validation, strict_weights = train(path, "strict")
    assert strict_losses == losses
    assert strict_validation == validation
    for key, value in weights.items():
        np.testing.assert_array_equal(strict_weights[key], value, err_msg=key)
    assert train(path, "cpu", "auto")[0] == pytest.approx(losses, rel=1e-3)  # kernels round differently


@each_config
def test_two_steps_in_short_precisions_are_about_those_in_float32(path, folder, monkeypatch):
    monkeypatch.setenv("GBP_DATA", str(folder))
    wanted, evaluated, _ = train(path, "cpu")
    for precision in ("bfloat16", "float16"):
        losses, found, state = train(path, "cpu", precision=precision)
        np.testing.assert_allclose(losses, wanted, rtol=0.03)
        assert found["val/loss"] == pytest.approx(evaluated["val/loss"], rel=0.05)
        assert {a.dtype.name for a in state.values()} <= {"float32", "int64"}
