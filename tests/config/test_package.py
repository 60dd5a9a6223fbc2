"""The package's own components and configs."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import pytest
from ruamel.yaml import YAML

from gpubackprop.config import Kinds, load_config
from gpubackprop.config.check import Checker
from gpubackprop.config.component import plain
from gpubackprop.config.document import Mark, Node, Problems
from gpubackprop.config.schema import json_schema
from gpubackprop.config.signature import options_of
from gpubackprop.errors import ConfigError
from gpubackprop.registry import Registry

KINDS = Kinds.installed()
REGISTRIES = [registry for base, registry in Registry.by_base.items() if base.__module__.startswith("gpubackprop.")]
CLASSES = [(registry.kind, name, registry[name]) for registry in REGISTRIES for name in registry]
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SCHEMA = json_schema(KINDS)


@pytest.mark.parametrize(("kind", "name", "cls"), CLASSES, ids=[f"{kind}-{name}" for kind, name, _ in CLASSES])
def test_every_default_is_what_its_own_signature_allows(kind, name, cls):
    for option in options_of(cls).values():
        if not option.required and not option.inferred:
            problems = Problems()
            default = Node.of(plain(option.fallback()), Mark("default"))
            Checker(problems).value(default, option.annotation, f"{name}.{option.name}")
            assert not list(problems)


def test_every_component_is_in_the_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for registry in (Registry.by_base[base] for base in (KINDS.layer, KINDS.metric)):
        forms = SCHEMA["$defs"][f"{registry.kind}_entry"]["oneOf"]
        short = {name for form in forms for name in form.get("properties", ()) if form.get("required") == [name]}
        assert set(registry) <= short


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_config_loads_resolves_and_fits_the_schema(path):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(YAML(typ="safe", pure=True).load(path.read_text()))
    config = load_config(path)
    validator.validate(config.resolved())
    again = load_config(config.resolved())
    assert again.resolved_yaml() == config.resolved_yaml()
    assert [type(layer.build()) for layer in again.model] == [layer.cls for layer in config.model]


def test_five_mistakes_in_a_config_of_the_package(tmp_path):
    text = """\
data:
  type: digits
  bacth_size: 32
model:
  - flatten
  - linear: 0
  - rleu
  - linear: {out_features: 10, bias: "yes"}
loss: cross_entropy
optimizer: {type: adamw, lr: -1}
"""
    path = tmp_path / "five.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as error:
        load_config(path)
    found = [(problem.where.removeprefix(str(path)), problem.key) for problem in error.value.problems]
    assert found == [
        (":3:3", "data.bacth_size"),
        (":6:13", "model.1.linear.out_features"),
        (":7:5", "model.2.rleu"),
        (":8:38", "model.3.linear.bias"),
        (":10:30", "optimizer.lr"),
    ]
    hints = [problem.message.rpartition("did you mean ")[2] for problem in error.value.problems]
    assert hints[0] == "'batch_size'?"
    assert hints[2] == "'relu'?"


TASKS = """\
data: digits
model: [flatten, {heads: {branches: {digit: [{linear: 10}], parity: [{linear: 1}]}}}]
loss:
  type: multi_task
  losses: {digit: cross_entropy, parity: {type: bce_with_logits, pos_weight: [2]}}
  weights: {parity: 0.5}
metrics: [{head: {name: digit, metric: accuracy}}, {head: {name: digit, metric: {type: top_k_accuracy, k: 2}}}]
optimizer: {type: sgd, lr: 0.1}
training: {epochs: 1}
"""


def test_components_as_values_of_a_mapping(tmp_path):
    path = tmp_path / "tasks.yaml"
    path.write_text(TASKS)
    config = load_config(path)
    loss = config.loss.build()
    assert {head: inner.name for head, inner in loss.losses.items()} == {
        "digit": "cross_entropy",
        "parity": "bce_with_logits",
    }
    assert loss.weights == {"digit": 1.0, "parity": 0.5}
    assert [metric.build().name for metric in config.metrics] == ["digit/accuracy", "digit/top_2_accuracy"]
    validator = jsonschema.Draft202012Validator(SCHEMA)
    validator.validate(YAML(typ="safe", pure=True).load(TASKS))
    validator.validate(config.resolved())
    assert load_config(config.resolved()).resolved_yaml() == config.resolved_yaml()


@pytest.mark.parametrize(
    ("there", "instead", "place", "message"),
    [
        ("digit: cross_entropy", "digit: cros_entropy", ":5:19", "unknown loss 'cros_entropy'; .* did you mean 'cross"),
        ("pos_weight: [2]", "pos_wieght: [2]", ":5:66", "did you mean 'pos_weight'"),
        ("weights: {parity", "weights: {partiy", ":4:9", "weights has 'partiy', .* did you mean 'parity'"),
        ("{digit: cross_entropy, parity", "[{digit: cross_entropy}, {parity", ":5:11", "must be a mapping"),
    ],
)
def test_mistakes_in_a_mapping_of_components(tmp_path, there, instead, place, message):
    path = tmp_path / "tasks.yaml"
    text = TASKS.replace(there, instead)
    path.write_text(text.replace("[2]}}\n", "[2]}}]\n") if "[{digit" in instead else text)
    with pytest.raises(ConfigError, match=message) as error:
        load_config(path)
    assert [problem.where.removeprefix(str(path)) for problem in error.value.problems] == [place]
