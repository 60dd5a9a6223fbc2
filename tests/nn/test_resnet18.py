"""configs/resnet18.yaml is the network that its heading says: a plain PyTorch one gives the same, forward and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import gpubackprop as gbp
from tests.nn.test_layers import run
from tests.ops.harness import assert_close

CONFIG = Path(__file__).parents[2] / "configs" / "resnet18.yaml"
SIZE = 8  # the network takes any size; its stages are then 8, 4, 2 and 1 wide


def torch_resnet18():
    """With conv1, bn1, layer1 to layer4 and fc, as such networks are usually written."""
    import torch
    from torch import nn

    def conv(inputs, outputs, kernel, stride=1):
        return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = conv(inputs, outputs, 3, stride), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = conv(outputs, outputs, 3), nn.BatchNorm2d(outputs)
            changes = stride > 1
            self.shortcut = nn.Sequential()
            if changes:
                self.shortcut = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            return torch.relu(y + self.shortcut(x))

    class ResNet18(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = conv(3, 64, 3), nn.BatchNorm2d(64)
            widths = (64, 64, 128, 256, 512)
            for stage in range(1, 5):
                first = Block(widths[stage - 1], widths[stage], 1 if stage == 1 else 2)
                setattr(self, f"layer{stage}", nn.Sequential(first, Block(widths[stage], widths[stage], 1)))
            self.fc = nn.Linear(512, 10)

        def forward(self, x):
            x = torch.relu(self.bn1(self.conv1(x)))
            for stage in range(1, 5):
                x = getattr(self, f"layer{stage}")(x)
            return self.fc(x.mean(dim=(2, 3)))

    return ResNet18()


def our_key(theirs):
    """`layer2.1.conv2.weight` -> `6.3.weight`."""
    part, _, rest = theirs.partition(".")
    if part in ("conv1", "bn1", "fc"):
        return f"{dict(conv1=0, bn1=1, fc=17)[part]}.{rest}"
    stage, (copy, inner) = int(part.removeprefix("layer")), rest.split(".", 1)
    for name, place in {"conv1": "0", "bn1": "1", "conv2": "3", "bn2": "4"}.items():
        if inner.startswith(f"{name}."):
            inner = place + inner.removeprefix(name)
    return f"3.{copy}.0.{inner}" if stage == 1 else f"{4 * stage - 4 + 2 * int(copy)}.{inner}"


@pytest.fixture(scope="module")
def model():
    entries = YAML(typ="safe").load(CONFIG)["model"]
    return gbp.build(entries, input_shape=(SIZE, SIZE, 3), precision="float64")


def test_it_has_the_size_that_the_readme_gives(model):
    readme = (CONFIG.parents[1] / "README.md").read_text()
    assert f"| resnet18 | {model.parameters().count:,} |" in readme


@pytest.mark.oracle
def test_output_and_gradients_equal_those_of_a_plain_pytorch_network(model):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    module = torch_resnet18().double().train()
    theirs = module.state_dict()
    assert sorted(map(our_key, theirs)) == sorted(model.state_dict())
    model.load_state_dict({our_key(key): a.numpy() for key, a in theirs.items()})
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, SIZE, SIZE, 3))
    y, dy, grads = run(model, x, rng, training=True)
    there = torch.tensor(x, requires_grad=True)
    logits = module(there.permute(0, 3, 1, 2))
    (logits * torch.tensor(dy)).sum().backward()
    wanted = {"y": logits.detach().numpy(), "dx": there.grad.numpy()}
    wanted |= {f"d{our_key(key)}": p.grad.numpy() for key, p in module.named_parameters()}
    assert_close({"y": y} | grads, wanted, 1e-10)
