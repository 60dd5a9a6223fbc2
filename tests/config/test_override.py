from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.config.document import Problems, parse
from gpubackprop.config.override import WrongPathError, override, read_overrides

DOCUMENT = """
seed: 0
optimizer: {type: adam, lr: 1, betas: [0, 1]}
loss: cross_entropy
training: {epochs: 5}
model:
  - linear: 10
  - relu
  - residual: [{linear: 3}, relu]
  - conv2d: {out_channels: 3}
  - {type: dropout, p: 0.5}
  - relu:
base: &shared {a: 1}
other: *shared
"""

FIRST = {"linear": "out_features", "residual": "layers"}


def changed(*texts, document=DOCUMENT):
    problems = Problems()
    node = parse(document, "a.yaml", problems)
    for path, value in read_overrides(texts, problems):
        node = override(node, path, value, FIRST.get)
    assert not problems, list(problems)
    return node.plain()


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("seed=3", "seed", 3),
        ("training.steps=9", "training", {"steps": 9}),
        ("training.steps=", "training", {"epochs": 5, "steps": None}),
        ("seed=no", "seed", "no"),
        ("seed=", "seed", None),
        ("seed=a=b", "seed", "a=b"),
        ("optimizer.lr=1e-2", "optimizer", {"type": "adam", "lr": 0.01, "betas": [0, 1]}),
        ("optimizer.betas.1=2", "optimizer", {"type": "adam", "lr": 1, "betas": [0, 2]}),
        ("optimizer=sgd", "optimizer", "sgd"),
        ("optimizer={type: sgd, lr: 2}", "optimizer", {"type": "sgd", "lr": 2}),
        ("optimizer.type=sgd", "optimizer", {"type": "sgd"}),
        ("optimizer.type=adam", "optimizer", {"type": "adam", "lr": 1, "betas": [0, 1]}),
        ("loss.weight=[1, 2]", "loss", {"type": "cross_entropy", "weight": [1, 2]}),
        ("training.early_stopping.patience=3", "training", {"epochs": 5, "early_stopping": {"patience": 3}}),
        ("base.a=2", "base", {"a": 2}),
    ],
)
def test_a_value_below_keys(text, key, value):
    assert changed(text)[key] == value


@pytest.mark.parametrize(
    ("text", "index", "entry"),
    [
        ("model.0=relu", 0, "relu"),
        ("model.0.linear=5", 0, {"linear": 5}),
        ("model.0.linear.out_features=5", 0, {"linear": {"out_features": 5}}),
        ("model.0.linear.bias=false", 0, {"linear": {"out_features": 10, "bias": False}}),
        ("model.1.relu.slope=1", 1, {"relu": {"slope": 1}}),
        ("model.5.relu.slope=1", 5, {"relu": {"slope": 1}}),
        ("model.2.residual.0.linear=5", 2, {"residual": [{"linear": 5}, "relu"]}),
        (
            "model.2.residual.layers.0.linear.bias=true",
            2,
            {"residual": {"layers": [{"linear": {"out_features": 3, "bias": True}}, "relu"]}},
        ),
        ("model.3.conv2d.out_channels=4", 3, {"conv2d": {"out_channels": 4}}),
        ("model.4.p=0.1", 4, {"type": "dropout", "p": 0.1}),
        ("model.4.dropout.p=0.1", 4, {"type": "dropout", "p": 0.1}),
    ],
)
def test_a_value_within_a_list_by_index(text, index, entry):
    assert changed(text)["model"][index] == entry


def test_an_alias_is_changed_alone():
    assert changed("other.a=2") == changed() | {"other": {"a": 2}}


def test_options_that_are_set_stay_with_a_type_that_is_set_in_any_order():
    wanted = {"type": "sgd", "lr": 5}
    assert changed("optimizer.type=sgd", "optimizer.lr=5")["optimizer"] == wanted
    assert changed("optimizer.lr=5", "optimizer.type=sgd")["optimizer"] == wanted


def test_references_expand_in_values(monkeypatch):
    monkeypatch.setenv("GBP_N", "4")
    assert changed("seed=${GBP_N}")["seed"] == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.9=relu", "model is a list, '9' is not one of its entries; its entries are 0 to 5"),
        ("model.linear=3", "model is a list, 'linear' is not one of its entries; its entries are 0 to 5"),
        ("model.0.linaer=3", "model.0 is 'linear', not 'linaer'; did you mean 'linear'?"),
        ("model.1.tanh.x=3", "model.1 is 'relu', not 'tanh'"),
        ("seed.x=3", "seed is 0, nothing lies below it; set seed itself"),
        ("optimizer.betas.2=3", "optimizer.betas is a list, '2' is not one of its entries; its entries are 0 to 1"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_stands_there(text, message):
    with pytest.raises(WrongPathError) as error:
        changed(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("seed", "--set: seed: must be key=value, such as optimizer.lr=0.01"),
        ("=3", "--set: =3: must be key=value"),
        ("seed=[1", "--set: seed: not valid YAML"),
        ("seed=${GBP_UNSET}", "--set: seed: environment variable GBP_UNSET is not set"),
    ],
)
def test_a_text_that_is_no_override(text, line):
    problems = Problems()
    read_overrides([text], problems)
    (found,) = map(str, problems)
    assert found.startswith(line)


def test_numpys_numbers_are_numbers():
    ((_, value),) = read_overrides({"optimizer.lr": np.float64(0.5)}, Problems())
    assert type(value.plain()) is float


def test_overrides_from_python_are_values():
    problems = Problems()
    ((path, value),) = read_overrides({"training.epochs": 3}, problems)
    assert (path, value.plain(), str(value.mark)) == ("training.epochs", 3, "overrides")
    ((_, text),) = read_overrides({"name": "3"}, problems)
    assert text.plain() == "3"
