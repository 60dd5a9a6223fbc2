from __future__ import annotations

import jsonschema
import pytest
from ruamel.yaml import YAML

from gpubackprop.config.schema import json_schema
from tests.config.test_config import FULL
from tests.config.toys import KINDS, MINIMAL

SCHEMA = json_schema(KINDS)
BLOCKS = (
    MINIMAL
    + """\
define:
  block:
    parameters: {c: 4, p: 0.1, body: [relu]}
    layers: [linear: $c * 2, conv2d: {out_channels: $c, kernel_size: [$c, 1]}, residual: $body, dropout: $p, other, $c]
  other: {layers: []}
"""
)
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def valid(text):
    return VALIDATOR.is_valid(YAML(typ="safe", pure=True).load(text))


def test_it_is_a_schema():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL,
        FULL,
        MINIMAL.replace("linear: 10", "linear: {out_features: 10, name: head}"),
        MINIMAL.replace("linear: 10", "{type: linear, out_features: 10, name: head}"),
        MINIMAL.replace("linear: 10", "linear: ${N:10}"),
        MINIMAL.replace("linear: 10", "relu"),
        MINIMAL.replace("linear: 10", "relu:"),
        MINIMAL.replace("linear: 10", "residual: [relu, {residual: [linear: 3]}]"),
        MINIMAL.replace("sgd", "{type: sgd, lr: '${LR}'}"),
        MINIMAL + "training: {checkpoint: {every: epoch}, early_stopping: null}",
        "extends: base.yaml\noptimizer: {lr: 3}",
        MINIMAL + "define: null",
        BLOCKS,
        BLOCKS.replace("- linear: 10", "- linear: 10\n  - block: {c: 3, name: b}"),
        BLOCKS.replace("- linear: 10", "- {type: block, c: 3}\n  - residual: [block, relu]"),
    ],
)
def test_what_the_program_takes_is_valid(text):
    assert valid(text)


@pytest.mark.parametrize(
    "text",
    [
        MINIMAL + "sede: 3",
        "seed: 3",
        MINIMAL.replace("linear: 10", "linear: 0"),
        MINIMAL.replace("linear: 10", "linear"),
        MINIMAL.replace("linear: 10", "lineer: 10"),
        MINIMAL.replace("linear: 10", "linear: {out_feature: 10}"),
        MINIMAL.replace("linear: 10", "linear: ten"),
        MINIMAL.replace("linear: 10", "residual: [linear: 0]"),
        MINIMAL.replace("sgd", "{type: sgd, params: 3}"),
        MINIMAL.replace("sgd", "{lr: 3}"),
        MINIMAL.replace("data: digits", "data: {type: digits, batch_size: 0}"),
        MINIMAL + "training: {epochs: 0}",
        "extends: base.yaml\noptimiser: {lr: 3}",
        MINIMAL + "define: [relu]",
        BLOCKS.replace("block:", "linear:"),
        BLOCKS.replace("layers:", "layer:"),
        BLOCKS.replace("dropout: $p", "dropout: 2"),
        BLOCKS.replace("linear: 10", "linear: {out_feature: 10}"),
        BLOCKS.replace("linear: 10", "linear"),
    ],
)
def test_mistakes_are_not(text):
    assert not valid(text)


def test_descriptions_come_from_docstrings():
    forms = SCHEMA["$defs"]["layer_entry"]["oneOf"]
    linear = next(form for form in forms if form.get("required") == ["type", "out_features"])
    assert linear["description"] == "y = x W + b."
    assert linear["properties"]["bias"]["default"] is True
