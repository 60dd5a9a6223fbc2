"""Parameter groups and layer-wise learning rates, against PyTorch's param groups."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import UsageError
from gpubackprop.nn import CrossEntropyLoss
from gpubackprop.optim import SGD, AdamW, Group, Muon
from gpubackprop.training.step import TrainStep
from tests.optim.specs import PLAIN, params, train, values

GROUPS = [
    {"match": "1.weight", "weight_decay": 0.0},
    {"match": ["0.*", "2.*"], "lr_scale": 0.1},
    {"match": "*.bias", "lr": 0.02, "weight_decay": 0.3},
    {"match": "4.*", "frozen": True},
]


@pytest.mark.oracle
@pytest.mark.parametrize("spec", PLAIN, ids=str)
@pytest.mark.parametrize("layer_decay", [1.0, 0.75])
def test_groups_are_pytorchs(spec, layer_decay):
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer, in the [oracle] extra")
    from tests.optim.torch_optimizer import TorchOptimizer

    wanted = TorchOptimizer(spec)
    depths = {"0": 4, "1": 3, "2": 2, "3": 1, "4": 0}
    for tensor, group in ((group["params"][0], group) for group in wanted.groups()):
        name = next(name for name, handed in wanted.handed.items() if handed is tensor)
        group["base"] *= layer_decay ** depths[name[0]]
        if name == "1.weight":
            group["weight_decay"] = 0.0
        elif name[0] in "02":
            group["base"] *= 0.1
        elif name == "1.bias":
            group["base"], group["weight_decay"] = 0.02, 0.3
    wanted.train(0, 10)
    optimizer = spec.cls(params(), **spec.options, groups=GROUPS, layer_decay=layer_decay)
    frozen = values(optimizer.params)["4.weight"]
    train(optimizer, 0, 10)
    for name, value in values(optimizer.params).items():
        theirs = frozen if name == "4.weight" else wanted.values()[name]
        assert np.abs(value - theirs).max() <= 1e-12 * np.abs(theirs).max(), name
    assert not any(key.startswith("4.") for key in optimizer.state_dict())


def test_equal_neighbours_make_one_run():
    groups = [Group("0.bias", lr_scale=0.5), Group("1.weight", lr_scale=0.5), Group("2.*", frozen=True)]
    optimizer = SGD(params(), groups=groups)
    at = {name: (start, stop) for name, _, start, stop in optimizer.params.segments}
    assert [run[:3] for run in optimizer.runs] == [
        (*at["0.weight"], 0),
        (at["0.bias"][0], at["1.weight"][1], 1),
        (*at["1.bias"], 0),
        (at["3.weight"][0], at["4.weight"][1], 0),
    ]
    assert optimizer.settings == [(1.0, 0.0), (0.5, 0.0)]


def test_a_frozen_group_records_no_gradient():
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).build((3,))
    optimizer = AdamW(model.parameters(), lr=0.1, groups=[{"match": "0.*", "frozen": True}])
    assert [segment.param.needs_grad for segment in model.parameters().segments] == [False, False, True, True]
    before = model.state_dict()
    step = TrainStep(model, CrossEntropyLoss(), optimizer)
    rng = np.random.default_rng(0)
    step(rng.normal(size=(5, 3)), rng.integers(0, 2, 5))
    assert {key for key, value in model.state_dict().items() if not np.array_equal(value, before[key])} == {
        "2.weight",
        "2.bias",
    }


@pytest.mark.parametrize(
    ("group", "message"),
    [
        ({"match": "0.weigth", "lr": 1.0}, r"'0.weigth' matches no parameter; there are 0.weight, .*did you mean '0.w"),
        ({"match": ["0.*", "9.*"], "lr": 1.0}, r"'9.\*' matches no parameter"),
        ({"match": [], "lr": 1.0}, "match is empty"),
        ({"lr": 1.0}, "match is missing"),
        ({"match": "*"}, "changes nothing"),
        ({"match": "*", "lr": 1.0, "lr_scale": 2.0}, "keep one"),
        ({"match": "*", "frozen": True, "weight_decay": 0.0}, "frozen params are not updated"),
        ({"match": "*", "wieght_decay": 0.0}, r"unknown key 'wieght_decay'; .*; did you mean 'weight_decay'"),
    ],
)
def test_mistakes_are_explained(group, message):
    with pytest.raises(UsageError, match=message):
        AdamW(params(), groups=[group])


def test_the_first_group_that_matches_counts():
    optimizer = SGD(params(), groups=[Group("0.bias", lr_scale=3.0), Group("0.*", lr_scale=2.0)])
    scales = {segment.name: optimizer.setting(segment).lr_scale for segment in optimizer.trained}
    assert scales == {"0.weight": 2.0, "0.bias": 3.0} | dict.fromkeys(
        ["1.weight", "1.bias", "2.weight", "3.weight", "4.weight"], 1.0
    )


def test_groups_reach_muons_other_params():
    optimizer = Muon(params(), lr=0.02, adamw_lr=0.01, groups=[Group("0.bias", lr_scale=0.5), Group("1.*", lr=0.04)])
    found = {segment.name: optimizer.setting(segment) for segment in optimizer.trained}
    assert found["0.weight"] == (1.0, 0.1)
    assert found["0.bias"] == (0.25, 0.01)
    assert found["1.bias"] == (2.0, 0.01)
    assert found["3.weight"] == (0.5, 0.01)
    with pytest.raises(UsageError, match=r"'8.\*' matches no parameter"):
        Muon(params(), adamw_for=["8.*"])


def test_references_are_of_these_rows():
    known = json.loads(Path(__file__).with_name("references.json").read_text())
    assert {str(spec) for spec in PLAIN} <= set(known)
