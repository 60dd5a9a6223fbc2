"""What is found before training, and where it is said to stand."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.errors import ConfigError
from gpubackprop.run.check import make_plan

CONFIG = """\
data:
  type: arrays
  path: {path}
  batch_size: 10
model:
  - linear: 3
loss: cross_entropy
optimizer: sgd
training: {{steps: 50}}
"""


@pytest.fixture
def written(tmp_path, rng):
    def write(labels=None, text=CONFIG):
        path = tmp_path / "a.npz"
        np.savez(path, x_train=rng.normal(size=(60, 4)), y_train=np.arange(60) % 3 if labels is None else labels)
        (tmp_path / "a.yaml").write_text(text.format(path=path))
        return tmp_path / "a.yaml"

    return write


def problems(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        make_plan(path, overrides)
    return [str(problem).replace(str(path), "a.yaml") for problem in caught.value.problems]


def test_a_missing_file_stands_at_its_path(written):
    (line,) = problems(written(text=CONFIG.replace("{path}", "gone.npz")))
    assert line.startswith("a.yaml:3:9: data.path: gone.npz: no such file")


def test_labels_as_floats_are_found_by_the_header(written):
    (line,) = problems(written(np.arange(60.0) % 3))
    assert line == (
        "a.yaml:3:9: data.path: the targets are float64; cross_entropy needs class numbers, integers: "
        "save them by y.astype(int)"
    )


def test_without_a_model_nothing_is_said_of_its_outputs(written):
    (line,) = problems(written(text=CONFIG.replace("model:\n  - linear: 3\n", "")))
    assert ": model: missing" in line


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ({"schedule": {"type": "multi_step", "milestones": [2, 3]}}, "milestones [2, 3] count optimizer steps"),
        ({"schedule": {"type": "multi_step", "milestones": [20, 90]}}, "an epoch has 6, the whole training 50"),
        ({"schedule": {"type": "step", "step_size": 5, "warmup": 60}}, "warmup is 60 steps"),
        ({"model": [{"linear": 3}, "softmax"]}, "model ends with softmax, but the loss takes logits"),
        ({"schedule": {"type": "multi_step", "milestones": [20, 40]}}, None),
    ],
)
def test_notes_of_what_is_hardly_meant(written, overrides, note):
    notes = make_plan(written(), overrides).notes
    assert len(notes) == (note is not None)
    assert all(note in line for line in notes)
