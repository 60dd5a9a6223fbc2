from __future__ import annotations

import contextlib
import json
import os
import shutil

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import CheckpointError
from gpubackprop.optim import SGD, Adam, WeightAverage
from gpubackprop.training import checkpoint
from gpubackprop.training.step import TrainStep
from gpubackprop.training.trainer import State


def network(size=3):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, size)).build((4, 4, 1))
    optimizer = Adam(model.parameters())
    return model, optimizer


def step(model, optimizer, average=None):
    return TrainStep(model, nn.CrossEntropyLoss(), optimizer, average=average)


@pytest.fixture
def saved(tmp_path):
    model, optimizer = network()
    model.parameters().grad[...] = 0.5
    optimizer.step()
    state = State(step=7, losses=[0.5], best=0.25, schedule={"bad": 1})
    checkpoint.save(tmp_path / "last", step(model, optimizer), state)
    return tmp_path / "last", model, optimizer


def test_everything_comes_back(saved):
    folder, model, optimizer = saved
    other, its_optimizer = network()
    state = checkpoint.load(folder, step(other, its_optimizer))
    assert state == State(step=7, losses=[0.5], best=0.25, schedule={"bad": 1})
    assert its_optimizer.steps == optimizer.steps == 1
    for mine, theirs in ((model, other), (optimizer, its_optimizer)):
        assert mine.state_dict().keys() == theirs.state_dict().keys()
        for key, array in mine.state_dict().items():
            np.testing.assert_array_equal(theirs.state_dict()[key], array)


def test_averaged_weights_and_what_training_goes_on_from(tmp_path):
    def tied():
        shared = nn.Linear(4, 4)
        model = nn.Sequential(shared, nn.Tanh(), shared).build((4,))
        return model, Adam(model.parameters()), WeightAverage(model.parameters())

    model, optimizer, average = tied()
    raw = model.state_dict()
    average.value[...] = 2 * model.parameters().master
    checkpoint.save(tmp_path / "last", step(model, optimizer, average), State())
    other, *its = tied()
    checkpoint.load_model(tmp_path / "last", other)
    for key, array in raw.items():
        np.testing.assert_array_equal(other.state_dict()[key], 2 * array)
        np.testing.assert_array_equal(model.state_dict()[key], array)
    checkpoint.load(tmp_path / "last", step(other, *its))
    np.testing.assert_array_equal(its[1].value, average.value)
    for key, array in raw.items():
        np.testing.assert_array_equal(other.state_dict()[key], array)
    with pytest.raises(CheckpointError, match=r"was written with training\.ema and cannot be gone on from without it"):
        checkpoint.load(tmp_path / "last", step(other, its[0]))


def test_infinity_comes_back(tmp_path):
    model, optimizer = network()
    checkpoint.save(tmp_path / "last", step(model, optimizer), State(best=float("-inf")))
    assert checkpoint.load_state(tmp_path / "last").best == float("-inf")


@pytest.mark.parametrize("crashes", [(0,), (1,), (2,), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1), (1, 0, 0)])
def test_a_crash_leaves_the_old_one_or_the_new_one(saved, crashes, monkeypatch):
    """Saves that crash one after the other, each after so many renames."""
    folder, model, optimizer = saved
    rename = os.rename

    class Crash(Exception):
        pass

    known = [7]
    for count, renames in enumerate(crashes, start=8):
        left = renames

        def crashing(source, target):
            nonlocal left
            if not left:
                raise Crash
            left -= 1
            rename(source, target)

        monkeypatch.setattr(checkpoint.os, "rename", crashing)
        with contextlib.suppress(Crash):
            checkpoint.save(folder, step(model, optimizer), State(step=count))
        known.append(count)
        found = checkpoint.find(folder.parent, "last")
        assert checkpoint.load_state(found).step in known
        checkpoint.load(found, step(*network()))
    monkeypatch.undo()
    checkpoint.save(folder, step(model, optimizer), State(step=10))
    assert checkpoint.load_state(checkpoint.find(folder.parent, "last")).step == 10
    assert [path.name for path in folder.parent.iterdir()] == ["last"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.safetensors", b"", r"model\.safetensors: cannot be read"),
        ("model.safetensors", None, r"model\.safetensors: cannot be read"),
        ("optimizer.safetensors", b"\x00" * 50, r"optimizer\.safetensors: cannot be read"),
        ("state.json", b"{", r"state\.json: cannot be read"),
        ("state.json", b"[]", r"state\.json: cannot be read"),
        ("state.json", b'{"format": 2}', r"state\.json: not of format 1"),
        ("state.json", b'{"format": 1}', r"state\.json: damaged \('optimizer_steps'\)"),
        ("state.json", b'{"format": 1, "optimizer_steps": 1, "speed": 3}', r"state\.json: damaged .*'speed'"),
    ],
)
def test_damage_is_named(saved, file, content, message):
    folder, *_ = saved
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        checkpoint.load(folder, step(*network()))
    assert str(folder) in str(error.value)


def test_another_model_or_optimizer_is_named(saved):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match=r"last/model\.safetensors: 3\.\w+: shape"):
        checkpoint.load(folder, step(*network(size=4)))
    model, _ = network()
    with pytest.raises(CheckpointError, match=r"last/optimizer\.safetensors: the optimizer state does not fit SGD"):
        checkpoint.load(folder, step(model, SGD(model.parameters(), momentum=0.9)))


def test_no_such_checkpoint(saved):
    folder, *_ = saved
    with pytest.raises(CheckpointError, match="no checkpoint 'lst'; there are: last; did you mean 'last'"):
        checkpoint.find(folder.parent, "lst")
    with pytest.raises(CheckpointError, match="there are none yet"):
        checkpoint.find(folder.parent / "nowhere", "last")


def test_where_a_run_goes_on(saved):
    folder, *_ = saved
    assert checkpoint.latest(folder.parent) == folder
    shutil.copytree(folder, folder.parent / "best")
    assert checkpoint.latest(folder.parent) == folder
    shutil.rmtree(folder)
    assert checkpoint.latest(folder.parent) == folder.parent / "best"
    shutil.rmtree(folder.parent / "best")
    assert checkpoint.latest(folder.parent) is None


def test_prune_keeps_the_newest(tmp_path):
    for count in (5, 10, 100, 20):
        (tmp_path / f"step-{count:08d}").mkdir()
    (tmp_path / "last").mkdir()
    checkpoint.prune(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last", "step-00000020", "step-00000100"]


def test_state_json_can_be_read_by_anybody(saved):
    text = json.loads((saved[0] / "state.json").read_text())
    assert (text["format"], text["step"], text["optimizer_steps"]) == (1, 7, 1)
