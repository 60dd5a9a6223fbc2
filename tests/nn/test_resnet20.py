"""A ResNet-20 that PyTorch trained gives the same answers here (He et al. 2015; weights by akamaster)."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest

from gpubackprop import nn

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("GBP_TEST_DATA", ROOT.parent / "shared" / "data"))
WEIGHTS = DATA / "weights-resnet20-cifar10" / "resnet20-12fca82f.th"
IMAGES = DATA / "cifar10-lossless-6k" / "cifar-10-binary-first1017.tar.xz"
CONFIG = ROOT / "configs" / "cifar_resnet20.yaml"


def conv(channels, stride=1):
    return nn.Conv2d(None, channels, 3, stride=stride, padding=1, bias=False)


def block(channels, stride=1):
    body = [conv(channels, stride), nn.BatchNorm2d(None), nn.ReLU(), conv(channels), nn.BatchNorm2d(None)]
    return nn.Residual(body, [nn.PadChannels(channels, stride)] if stride > 1 else None)


def resnet20():
    return nn.Sequential(
        *(conv(16), nn.BatchNorm2d(None), nn.ReLU()),
        nn.Repeat(3, [block(16), nn.ReLU()]),
        *(block(32, stride=2), nn.ReLU(), nn.Repeat(2, [block(32), nn.ReLU()])),
        *(block(64, stride=2), nn.ReLU(), nn.Repeat(2, [block(64), nn.ReLU()])),
        *(nn.GlobalAvgPool2d(), nn.Linear(None, 10)),
    ).build((32, 32, 3))


def our_key(theirs):
    """`module.layer2.1.conv2.weight` -> `6.0.0.3.weight`."""
    theirs = theirs.removeprefix("module.")
    for prefix, ours in {"conv1": "0", "bn1": "1", "linear": "11"}.items():
        if theirs.startswith(f"{prefix}."):
            return ours + theirs.removeprefix(prefix)
    match = re.fullmatch(r"layer(\d)\.(\d)\.(\w+)\.(\w+)", theirs)
    layer, copy, part, name = int(match[1]), int(match[2]), match[3], match[4]
    place = {"conv1": 0, "bn1": 1, "conv2": 3, "bn2": 4}[part]
    if layer == 1:
        return f"3.{copy}.0.{place}.{name}"
    first = {2: 4, 3: 7}[layer]
    return f"{first}.{place}.{name}" if copy == 0 else f"{first + 2}.{copy - 1}.0.{place}.{name}"


def needs(*paths):
    for path in paths:
        if not path.exists():
            pytest.skip(f"{path} is not there; set GBP_TEST_DATA to a folder that has it")


@pytest.fixture
def weights(tmp_path):
    """The pretrained weights as a safetensors file under our keys."""
    needs(WEIGHTS)
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, reads the file", exc_type=ImportError)
    from safetensors.numpy import save_file

    state = torch.load(WEIGHTS, map_location="cpu", weights_only=True)["state_dict"]
    save_file({our_key(key): tensor.numpy() for key, tensor in state.items()}, tmp_path / "resnet20.safetensors")
    return tmp_path / "resnet20.safetensors"


def cifar_test_images():
    """1017 images (N, 32, 32, 3), normalised, and their labels (N,)."""
    needs(IMAGES)
    with tarfile.open(IMAGES) as archive:
        raw = archive.extractfile("cifar-10-batches-bin/test_batch.bin").read()
    records = np.frombuffer(raw, np.uint8).reshape(-1, 3073)
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).astype(np.float32) / 255
    mean, std = np.array([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]], np.float32)
    return (images - mean) / std, records[:, 0]


@pytest.mark.oracle
def test_pretrained_resnet20_gets_932_of_1017_right(weights):
    from safetensors.numpy import load_file

    model = resnet20()
    model.load_state_dict(load_file(weights))
    images, labels = cifar_test_images()
    logits = np.concatenate([model(images[i : i + 128]) for i in range(0, len(images), 128)])
    assert len(labels) == 1017
    assert int((logits.argmax(axis=1) == labels).sum()) == 932


def test_the_config_builds_the_same_model():
    from ruamel.yaml import YAML

    import gpubackprop as gbp

    described = gbp.build(YAML(typ="safe").load(CONFIG)["model"], input_shape=(32, 32, 3))
    state, wanted = described.state_dict(), resnet20().state_dict()
    assert list(state) == list(wanted)
    described.load_state_dict(wanted)
    model = resnet20()
    model.load_state_dict(wanted)
    x = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype(np.float32)
    np.testing.assert_array_equal(described(x), model(x))


def test_it_has_the_papers_size():
    assert resnet20().parameters().count == 269_722
