from __future__ import annotations

import jsonschema
import pytest
from ruamel.yaml import YAML

from gpubackprop.config.schema import json_schema
from tests.config.test_config import FULL
from tests.config.toys import KINDS, MINIMAL

SCHEMA = json_schema(KINDS)
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
    ],
)
def test_mistakes_are_not(text):
    assert not valid(text)


def test_descriptions_come_from_docstrings():
    forms = SCHEMA["$defs"]["layer_entry"]["oneOf"]
    linear = next(form for form in forms if form.get("required") == ["type", "out_features"])
    assert linear["description"] == "y = x W + b."
    assert linear["properties"]["bias"]["default"] is True
