"""gpubackprop gradcheck."""

from __future__ import annotations

import json

import pytest

from gpubackprop.registry import Registry
from tests.run import toy
from tests.run.test_gradcheck import MODEL, PLUGIN


@pytest.fixture
def wrong(tmp_path, monkeypatch):
    for registry in Registry.by_base.values():  # what the plugin registers is of this test alone
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    (tmp_path / "mine.py").write_text(PLUGIN.format(factor=-3))
    return toy.write_config(tmp_path, plugins=["mine.py"], model=MODEL)


def test_a_table_of_layers_and_weights(gb, finished):
    code, out, err = gb("gradcheck", finished.directory)
    lines = out.splitlines()
    assert (code, err) == (0, [])
    assert lines[0].split()[:4] == ["layer", "type", "input", "verdict"]
    assert [line.split()[0] for line in lines[1:7]] == ["0", "1", "2", "3", "loss", "model"]
    assert lines[2].split()[1:5] == ["linear", "4×36", "ok", "x"]
    assert "weight" in lines[2]
    assert "bias" in lines[2]
    assert lines[-1] == "all backward passes agree to 1e-05"


def test_a_wrong_layer_is_named_and_ends_with_1(gb, wrong):
    code, out, _ = gb("gradcheck", wrong)
    assert code == 1
    assert "2.0 test_cube: dx differs from the numerical gradient by " in out.splitlines()[-2]
    code, out, _ = gb("gradcheck", wrong, "--json")
    found = json.loads(out)
    layers = {layer["path"]: layer for layer in found["layers"]}
    assert (code, found["passed"], layers["2.0"]["verdict"], layers["1"]["passed"]) == (1, False, "wrong", True)
    assert layers["2.0"]["errors"]["x"] > 0.5


def test_options(gb, finished):
    code, out, _ = gb("gradcheck", finished.directory, "--json", "--samples", "7", "--tolerance", "1e-4", "--seed", "3")
    found = json.loads(out)
    assert (code, found["tolerance"], found["layers"][1]["shape"]) == (0, 1e-4, [7, 36])


def test_train_refuses_a_wrong_plugin(gb, wrong, tmp_path):
    code, _, (line,) = gb("train", wrong, "--run-dir", tmp_path / "run")
    assert code == 2
    assert "test_cube: its backward pass is wrong: dx differs" in line
    assert not (tmp_path / "run").exists()


def test_a_missing_config(gb):
    code, _, (line,) = gb("gradcheck", "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml: no such file" in line
