"""README keeps its word: what it lists is what there is."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from ruamel.yaml import YAML

import gpubackprop as gbp
from gpubackprop.config import Kinds
from gpubackprop.config.schema import json_schema
from gpubackprop.data import DataOptions, augmentations, sources, transforms
from gpubackprop.nn import layers, losses
from gpubackprop.optim import optimizers, schedules
from gpubackprop.run.check import make_plan
from gpubackprop.training.metric import metrics

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    "registry",
    [layers, losses, metrics, optimizers, schedules, sources, transforms, augmentations],
    ids=lambda registry: registry.kind,
)
def test_every_component_of_the_package_is_in_the_readme(registry):
    Kinds.installed()  # registers everything
    ours = [name for name in registry if registry[name].__module__.startswith("gpubackprop.")]
    assert ours
    assert [name for name in ours if f"`{name}`" not in README] == []


def test_every_config_is_in_the_table_of_results_or_named_as_not_run():
    results = README.partition("## Results")[2].partition("\n## ")[0]
    assert [path.stem for path in (ROOT / "configs").glob("*.yaml") if path.stem not in results] == []


def test_every_line_of_data_makes_a_source():
    lines = re.findall(r"^data: (\{.*\})$", README, re.MULTILINE)
    assert len(lines) >= 10
    for line in lines:
        options = YAML(typ="safe").load(line)
        common = {name: options.pop(name) for name in list(options) if name in DataOptions.__dataclass_fields__}
        sources[options.pop("type")](**options)
        DataOptions(**common)


def test_the_quick_start_has_two_sh_blocks():
    section = README.partition("## Quick start")[2].partition("\n## ")[0]
    assert len(re.findall(r"^```sh$", section, re.MULTILINE)) == 2


def test_links_lead_somewhere():
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


BLOCKS = README.partition("## Blocks, skips")[2].partition("\n## ")[0]


def test_the_example_of_blocks_trains(tmp_path):
    (example,) = re.findall(r"```yaml\n(.*?)```", BLOCKS, re.DOTALL)
    path = tmp_path / "pairs.yaml"
    path.write_text(
        f"data: {{type: arrays, batch_size: 20}}\ndevice: cpu\noptimizer: adam\ntraining: {{epochs: 1}}\n{example}"
    )
    document = YAML(typ="safe", pure=True).load(path.read_text())
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(document)
    rng = np.random.default_rng(0)
    inputs = {name: rng.normal(size=(40, 8)) for name in ("left", "right")}
    targets = {"same": np.arange(40) % 2, "distance": rng.normal(size=(40, 1))}
    pair = {"inputs": inputs, "targets": targets}
    plan = make_plan(str(path), re.findall(r"--set ([^`]+)`", BLOCKS), {"train": pair})
    assert plan.notes == []
    model = gbp.train(str(path), data={"train": pair, "validation": pair}, run_dir=tmp_path / "run").model
    assert "last.0.0.weight" in model.state_dict()
