"""README keeps its word: what it lists is what there is."""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from ruamel.yaml import YAML

import gpubackprop as gbp
from gpubackprop.config import Kinds
from gpubackprop.config.schema import json_schema
from gpubackprop.data import DataOptions, augmentations, sources, transforms
from gpubackprop.errors import ConfigError
from gpubackprop.nn import layers, losses
from gpubackprop.optim import optimizers, schedules
from gpubackprop.registry import Registry
from gpubackprop.run.check import make_plan
from gpubackprop.run.gradcheck import check_before
from gpubackprop.training.metric import metrics
from tests.ops import test_ops
from tests.ops.specs import OpSpec

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


OWN = README.partition("### Layers and ops of your own")[2].partition("\n### ")[0]


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """README's plugin beside README's config that uses it: the config's path."""
    for registry in Registry.by_base.values():  # what the plugin registers is of this test alone
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    plugin, _ = re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)
    (config,) = re.findall(r"```yaml\n(.*?)```", OWN, re.DOTALL)
    (tmp_path / "mine.py").write_text(plugin)
    path = tmp_path / "mine.yaml"
    path.write_text(config)
    return path


def test_the_plugin_trains_and_its_gradients_are_right(mine, tmp_path):
    said = []
    run = gbp.train(str(mine), run_dir=tmp_path / "run", say=said.append)
    assert "backward passes of plugins agree with numerical gradients: 2 snake" in said
    assert run.metrics["val/accuracy"] > 0.5
    frequency = gbp.load(run.directory).state_dict()["2.a"]
    assert frequency.shape == (32,)
    assert np.ptp(frequency) > 0


def test_a_wrong_sign_in_the_plugin_is_found(mine):
    plugin = mine.parent / "mine.py"
    plugin.write_text(plugin.read_text().replace("1 + slope", "1 - slope"))
    with pytest.raises(ConfigError, match=r"mine.yaml:3:30: model\.2\.snake: its backward pass is wrong"):
        check_before(make_plan(str(mine)))


def test_operators_in_a_plugin_are_refused_where_they_stand(mine):
    plugin = mine.parent / "mine.py"
    plugin.write_text(plugin.read_text().replace("return snake(x, self.a)", "return 2 * snake(x, self.a)"))
    with pytest.raises(ConfigError) as error:
        check_before(make_plan(str(mine)))
    place = r"mine.yaml:3:30: model\.2\.snake: raises OperatorError \(mine.py, line \d+\): \* on a Tensor"
    assert re.search(place, str(error.value))
    assert "(README: Layers and ops of your own)" in str(error.value)


@pytest.fixture
def row(mine):
    """README's row of specs of that op."""
    namespace = {"OpSpec": OpSpec}
    exec((mine.parent / "mine.py").read_text(), namespace)
    return eval(re.findall(r"```python\n(.*?)```", OWN, re.DOTALL)[1], namespace)


def test_the_row_of_the_plugins_op_passes_the_tests_of_ops(row):
    tests = [test for name, test in vars(test_ops).items() if name.startswith("test_")]
    of_rows = [test for test in tests if list(signature(test).parameters) == ["spec"]]
    assert len(of_rows) >= 6
    for test in of_rows:
        test(row)


@pytest.mark.oracle
def test_the_row_of_the_plugins_op_equals_pytorch(row):
    test_ops.test_forward_and_gradients_equal_pytorch(row, np.float64, 1e-10)
