from __future__ import annotations

import sys

import pytest

from gpubackprop.config import Training, load_config
from gpubackprop.config.training import Checkpointing, EarlyStopping
from gpubackprop.errors import ConfigError
from tests.config import toys
from tests.config.toys import KINDS, MINIMAL

FULL = """\
name: full
seed: 3
device: cuda:1
precision: float64
kernels: reference
data:
  type: idx
  path: ${GBP_DATA:data}/mnist
  batch_size: 64
  transforms: [{normalize: {mean: 0.5, std: [0.1, 0.2]}}, flip]
model:
  - conv2d: {out_channels: 8, kernel_size: 3, padding: same}
  - relu
  - residual:
      layers: [{linear: {out_features: 4, name: inside}}]
      shortcut: [linear: 4]
  - sequential: [relu, {dropout: 0.25}]
  - save: skip
  - linear: {out_features: 10, name: head}
loss: {type: cross_entropy, label_smoothing: 0.1}
metrics: [accuracy, top_k: 3]
optimizer: {type: adam, lr: 1e-3, no_decay: [bias]}
schedule: {type: warmup, steps: 10, after: cosine}
training:
  steps: 500
  monitor: val/top_3
  early_stopping: {patience: 3}
  checkpoint: {every: 100}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text, overrides=(), file="a.yaml", **others):
    with open(file, "w") as out:
        out.write(text)
    return load_config(file, overrides, kinds=KINDS, **others)


def mistakes(text, overrides=(), **others):
    with pytest.raises(ConfigError) as error:
        load(text, overrides, **others)
    assert error.value.exit_code == 2
    assert str(error.value).count("\n") == len(error.value.problems) - 1
    return str(error.value).splitlines()


def test_a_minimal_config_takes_the_defaults():
    config = load(MINIMAL, file="digits mlp.yaml")
    assert (config.name, config.seed, config.device, config.precision) == ("digits-mlp", 0, "auto", "float32")
    assert config.data.build() == toys.Digits()
    assert config.data.common.build() == toys.DataOptions()
    assert [layer.build() for layer in config.model] == [toys.Linear(None, 10)]
    assert config.loss.build() == toys.CrossEntropy()
    assert config.metrics == []
    assert config.schedule is None
    assert config.training == Training(epochs=10)
    assert config.text == MINIMAL
    assert config.path == "digits mlp.yaml"


def test_a_full_config():
    config = load(FULL)
    assert config.data.build() == toys.Idx("data/mnist")
    assert config.data.common.build().transforms == [toys.Normalize(0.5, [0.1, 0.2]), toys.Flip()]
    assert config.model[4].build() == toys.Save("skip")
    assert config.model[5].name == "head"
    assert config.training == Training(
        steps=500, monitor="val/top_3", early_stopping=EarlyStopping(3), checkpoint=Checkpointing(100)
    )
    assert config.schedule.build() == toys.Warmup(10, toys.Cosine(None))


@pytest.mark.parametrize("text", [MINIMAL, FULL])
def test_resolved_has_every_default_and_loads_to_the_same(text, monkeypatch):
    monkeypatch.setenv("GBP_DATA", "there")
    first = load(text)
    resolved = first.resolved_yaml()
    monkeypatch.delenv("GBP_DATA")
    second = load(resolved, file="b.yaml")
    assert second.resolved() == first.resolved()
    assert second.resolved_yaml() == resolved
    assert [layer.build() for layer in second.model] == [layer.build() for layer in first.model]
    assert second.training == first.training
    assert load_config(first.resolved(), kinds=KINDS).resolved() == first.resolved()


def test_resolved_spells_the_defaults_out():
    resolved = load(MINIMAL + "training: {epochs: 3}").resolved()
    assert resolved["format"] == 1
    assert resolved["model"] == [{"linear": {"out_features": 10, "bias": True}}]
    assert resolved["optimizer"] == {"type": "sgd", "lr": 1e-3, "momentum": 0.0}
    assert resolved["data"] == {
        "type": "digits",
        "validation": 0.1,
        "batch_size": 32,
        "shuffle": True,
        "transforms": [],
    }
    assert resolved["training"]["epochs"] == 3
    assert resolved["training"]["checkpoint"] == {"every": "epoch", "keep": 3}


def test_five_mistakes_are_five_lines_in_the_order_of_the_file():
    assert mistakes("""\
sede: 3
data: {type: digits, batch_size: 0}
model:
  - lineer: 10
  - linear: {out_features: ten}
loss: cross_entropy
optimizer: {type: adam, lr: fast}
""") == [
        "a.yaml:1:1: sede: unknown key; allowed: format, name, seed, device, precision, kernels, plugins, data, model, "
        "loss, metrics, optimizer, schedule, training, define, extends; did you mean 'seed'?",
        "a.yaml:2:34: data.batch_size: must be at least 1, got 0",
        "a.yaml:4:5: model.0.lineer: unknown layer 'lineer'; known: conv2d, dropout, linear, parallel, relu, residual, "
        "save, sequential; did you mean 'linear'?",
        "a.yaml:5:28: model.1.linear.out_features: must be an integer (at least 1), got 'ten'",
        "a.yaml:7:29: optimizer.lr: must be a number (greater than 0), got 'fast'",
    ]


def test_five_mistakes_of_other_kinds():
    lines = mistakes("""\
device: gpu
seed: -1
seed: 2
data: {type: idx, path: "${GBP_UNSET}/x"}
model: [relu, {dropout: 1.5}]
loss: corss_entropy
optimizer: sgd
training: {epochs: 3, steps: 5}
""")
    assert [line.split(": ")[:2] for line in lines] == [
        ["a.yaml:1:9", "device"],
        ["a.yaml:2:7", "seed"],
        ["a.yaml:3:1", "seed"],
        ["a.yaml:4:25", "data.path"],
        ["a.yaml:5:25", "model.1.dropout.p"],
        ["a.yaml:6:7", "loss"],
        ["a.yaml:8:11", "training"],
    ]
    assert "must be auto, cpu, cuda or cuda:N, got 'gpu'" in lines[0]
    assert "did you mean 'cross_entropy'?" in lines[5]
    assert "epochs and steps are both given" in lines[6]


def test_five_mistakes_over_a_file_its_base_and_set():
    with open("base.yaml", "w") as out:
        out.write("loss: mse\noptimizer: {type: sgd, lr: 0}\n")
    lines = mistakes(
        "extends: base.yaml\ndata: digits\nmodel:\n  - linear: 0\nmetrics: [acuracy]\n",
        ["trainig.epochs=3", "seed=x", "model.7.linear=3"],
    )
    assert [line.split(": ")[:2] for line in lines] == [
        ["a.yaml:4:13", "model.0.linear.out_features"],
        ["a.yaml:5:11", "metrics.0.acuracy"],
        ["base.yaml:1:7", "loss"],
        ["base.yaml:2:28", "optimizer.lr"],
        ["--set", "model.7.linear"],
        ["--set", "trainig"],
        ["--set", "seed"],
    ]
    assert lines[5].endswith("did you mean 'training'?")


def test_what_is_missing_is_said_for_each_key():
    lines = mistakes("seed: 1\n")
    assert [line.split(": ")[:3] for line in lines] == [
        ["a.yaml:1:1", key, "missing; a config needs data, model, loss and optimizer"]
        for key in ("data", "model", "loss", "optimizer")
    ]


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        ("model: []", "a.yaml:1:8: model: is empty; it needs at least one layer"),
        ("model: relu", "a.yaml:1:8: model: must be a list of layers, got 'relu'; write [relu]"),
        ("model: ${GBP_UNSET}", "a.yaml:1:8: model: environment variable GBP_UNSET is not set"),
        ("data: ${GBP_UNSET}", "a.yaml:1:7: data: environment variable GBP_UNSET is not set"),
        ("data: [digits]", "a.yaml:1:7: data: must be a data source, got a list"),
        ("format: 2", "a.yaml:1:9: format: must be 1, got 2"),
        ("name: a/b", "a.yaml:1:7: name: must be a name of letters, digits, _, - and ., got 'a/b'"),
        ("precision: float23", "did you mean 'float32'?"),
        ("training: {monitor: val/acc}", "training.monitor: must be one of val/loss, train/loss, got 'val/acc'"),
        ("training: {checkpoint: {every: epochs}}", "training.checkpoint.every: must be epoch or an integer (at least"),
        ("training: {clip_norm: 0}", "a.yaml:1:23: training.clip_norm: must be greater than 0, got 0"),
        ("training: {early_stoping: {}}", "a.yaml:1:12: training.early_stoping: unknown key; allowed: epochs, steps"),
        ("batch_size: 3", "; did you mean 'data.batch_size'?"),
        ("epoch: 3", "a.yaml:1:1: epoch: unknown key; allowed: format, name,"),
        ("epochs: 3", "; did you mean 'training.epochs'?"),
        ("metrics: accuracy", "a.yaml:1:10: metrics: must be a list of metrics, got 'accuracy'; write [accuracy]"),
    ],
)
def test_each_of_the_other_keys(extra, line):
    key = extra.split(":")[0]
    rest = {"data": "digits", "model": "[relu]", "loss": "cross_entropy", "optimizer": "sgd"}
    text = "\n".join([extra, *(f"{name}: {value}" for name, value in rest.items() if name != key)])
    (found,) = mistakes(text)
    assert line in found


def test_keys_without_a_value_are_as_good_as_absent():
    assert load(MINIMAL + "training:\nmetrics:\nschedule:\nplugins:\n").training.epochs == 10


def test_set_reaches_everywhere():
    config = load(FULL, ["model.5.linear.out_features=5", "training.epochs=2", "training.steps=null", "schedule=null"])
    assert config.model[5].build().out_features == 5
    assert config.training.epochs == 2
    assert config.schedule is None
    assert load(FULL, {"training.steps": 7}).training.steps == 7
    assert load(FULL, ["data.transforms.0.normalize.mean=1"]).data.common.build().transforms[0].mean == 1
    assert load(FULL, ["model.3.sequential.layers.1.dropout.p=0.5"]).model[3].build().layers[1].p == 0.5


def test_a_dict_in_place_of_a_file():
    config = load_config(
        {"data": "digits", "model": [{"linear": 3}], "loss": "cross_entropy", "optimizer": "sgd"}, kinds=KINDS
    )
    assert config.name == "run"
    assert config.path is None
    assert load(config.text).resolved()["model"] == config.resolved()["model"]
    with pytest.raises(ConfigError, match=r"^config: sede: unknown key"):
        load_config(config.resolved() | {"sede": 3}, kinds=KINDS)


def test_a_dict_may_extend_a_file_and_hold_paths(tmp_path):
    (tmp_path / "base.yaml").write_text(MINIMAL)
    config = load_config({"extends": "base.yaml", "data": {"type": "idx", "path": tmp_path}}, kinds=KINDS)
    assert config.data.build() == toys.Idx(str(tmp_path))
    assert config.text == f"extends: base.yaml\ndata: {{type: idx, path: {tmp_path}}}\n"


def test_a_config_path_that_is_wrong_is_one_line():
    load(MINIMAL)
    with pytest.raises(ConfigError, match=r"^aa.yaml: no such file; similar: a.yaml$"):
        load_config("aa.yaml", kinds=KINDS)


def test_further_checks_see_what_could_be_made_and_add_their_problems():
    seen = []

    def check(values, problems):
        seen.append(values)
        problems.add(values["model"][1].mark, "model.1", "does not fit")

    lines = mistakes(MINIMAL.replace("- linear: 10", "- linear: 0\n  - relu") + "seed: x", checks=[check])
    assert [line.split(": ")[1] for line in lines] == ["model.0.linear.out_features", "model.1", "seed"]
    assert seen[0]["model"][0] is None
    assert seen[0]["training"].build() == Training()
    assert "seed" not in seen[0]


def test_extends_cannot_be_set():
    (line,) = mistakes(MINIMAL, ["extends=b.yaml"])
    assert line == "--set: extends: cannot be set; write it in the file that extends another"


def test_the_monitored_figure_is_checked_beside_other_mistakes():
    lines = mistakes(MINIMAL + "metrics: [accuracy]\ntraining: {monitor: val/accuracie}\nseed: x")
    assert lines[0] == (
        "a.yaml:7:21: training.monitor: must be one of val/accuracy, val/loss, train/loss, got 'val/accuracie'; "
        "did you mean 'val/accuracy'?"
    )
    assert len(lines) == 2


PLUGIN = """\
from tests.config.toys import Layer, layers

@layers.register("{name}")
class Mine(Layer):
    def __init__(self, size: int) -> None:
        self.size = size
"""


def test_plugins_register_components_and_stay_with_the_resolved_config(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "mine.py").write_text(PLUGIN.format(name="mine_one"))
    (tmp_path / "sub" / "base.yaml").write_text("plugins: [mine.py]\n" + MINIMAL)
    config = load("extends: sub/base.yaml\nmodel: [mine_one: 3]", ["model.0.mine_one.size=4"])
    assert config.model[0].build().size == 4
    assert config.resolved()["plugins"] == [str(tmp_path / "sub" / "mine.py")]
    (tmp_path / "elsewhere").mkdir()
    again = load(config.resolved_yaml(), file="elsewhere/b.yaml")
    assert again.model[0].cls is config.model[0].cls


def test_plugins_may_be_set(tmp_path):
    (tmp_path / "two.py").write_text(PLUGIN.format(name="mine_two"))
    config = load(MINIMAL, ["model=[mine_two: 3]", "plugins=[two.py]"])
    assert config.model[0].type == "mine_two"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("import nothing_of_this_name", "bad.py, line 1: ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("\nx = (", "bad.py, line 2: SyntaxError: "),
        ("raise SystemExit(3)", "bad.py, line 1: SystemExit: 3"),
        (PLUGIN.format(name="relu"), "bad.py, line 3: UsageError: layer 'relu' is registered already"),
        (None, "bad.py: no such file"),
    ],
)
def test_a_plugin_that_fails_is_a_problem_without_follow_on_errors(tmp_path, content, message):
    if content is not None:
        (tmp_path / "bad.py").write_text(content)
    before = set(sys.modules)
    text = "plugins:\n  - bad.py\nmodel: [from_the_plugin, {dropout: 2}]\n" + MINIMAL.replace(
        "model:\n  - linear: 10\n", ""
    )
    lines = mistakes(text)
    assert lines[0].startswith(f"a.yaml:2:5: plugins.0: {message}")
    assert [line.split(": ")[1] for line in lines[1:]] == ["model.1.dropout.p"]
    assert not [name for name in set(sys.modules) - before if name.startswith("gpubackprop_plugin")]


def test_plugins_must_be_a_list_of_paths():
    assert mistakes(MINIMAL + "plugins: x.py") == ["a.yaml:6:10: plugins: must be a list of Python files, got 'x.py'"]
    (line,) = mistakes(MINIMAL + "plugins: [3]")
    assert line == "a.yaml:6:11: plugins.0: must be the path of a Python file, got 3"
