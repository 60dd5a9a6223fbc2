"""What is found before training, and where it is said to stand."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.data import prepare
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


def test_patterns_that_match_nothing_stand_where_they_are(written):
    optimizer = """optimizer:
  type: lookahead
  optimizer:
    type: muon
    adamw_for: ["1.*"]
    groups:
      - {{match: "*.bias", weight_decay: 0}}
      - {{lr_scale: 0.1, match: ["0.*", 0.weigth]}}
      - {{match: "*", lr: 1, lr_scale: 1}}
"""
    lines = problems(written(text=CONFIG.replace("optimizer: sgd\n", optimizer)))
    there = "matches no parameter; there are 0.weight, 0.bias"
    assert lines == [
        f"a.yaml:12:16: optimizer.optimizer.adamw_for: '1.*' {there}",
        f"a.yaml:15:32: optimizer.optimizer.groups.1.match: '0.weigth' {there}; did you mean '0.weight'?",
        "a.yaml:16:9: optimizer.optimizer.groups.2: lr and lr_scale are both given; keep one of them",
    ]


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
        ({"loss": "nll"}, "nll takes log-probabilities; end the model with log_softmax"),
        ({"schedule": {"type": "multi_step", "milestones": [20, 40]}}, None),
    ],
)
def test_notes_of_what_is_hardly_meant(written, overrides, note):
    notes = make_plan(written(), overrides).notes
    assert len(notes) == (note is not None)
    assert all(note in line for line in notes)


TEXT = """\
data:
  type: text
  path: {path}
  context: 4
model:
  - embedding: {{num_embeddings: ROWS, embedding_dim: 4}}
  - linear: 6
loss: cross_entropy
optimizer: sgd
training: {{steps: 5}}
"""


def write_text(folder, text):
    (folder / "a.txt").write_text("abcdef" * 20)
    (folder / "a.yaml").write_text(text.format(path=folder / "a.txt"))
    return folder / "a.yaml"


def test_a_table_with_too_few_rows_for_the_tokens(tmp_path):
    (line,) = problems(write_text(tmp_path, TEXT.replace("ROWS", "5")))
    assert line.startswith("a.yaml:6:33: model.0.embedding.num_embeddings: 5 rows, but the data has 6 tokens")
    assert make_plan(write_text(tmp_path, TEXT.replace("ROWS", "6"))).notes == []


def test_a_text_is_read_once_for_check_and_training(tmp_path):
    plan = make_plan(write_text(tmp_path, TEXT.replace("ROWS", "6")))
    (tmp_path / "a.txt").unlink()
    counts = prepare(plan.source, plan.options).info.counts
    assert counts == plan.info.counts
    assert set(counts) == {"train", "validation"}


def test_tokens_that_no_layer_takes_as_such_get_a_note(tmp_path):
    text = TEXT.replace("embedding: {{num_embeddings: ROWS, embedding_dim: 4}}", "reshape: {{shape: [4, 1]}}")
    plan = make_plan(write_text(tmp_path, text))
    assert [note for note in plan.notes if "begin with embedding" in note]


BLOCK = CONFIG.replace("- linear: 3", "- block: {{n: 3, name: last}}\n  - linear: 3").replace(
    "optimizer: sgd",
    """\
optimizer: {{type: sgd, groups: [{{match: "last.0.*", frozen: true}}]}}
define:
  block: {{parameters: {{n: null}}, layers: [linear: $n]}}""",
)


def test_patterns_are_not_blamed_for_a_broken_block(written):
    path = written(text=BLOCK)
    make_plan(path)
    (problem,) = problems(path, ["define.block.layers.0.linear=$m"])
    assert "unknown parameter $m" in problem
    (problem,) = problems(path, ["optimizer.groups.0.match=first.*"])
    assert "'first.*' matches no parameter" in problem


def test_reconstruction_for_a_loss_of_classes_is_one_mistake(written):
    (problem,) = problems(written(), ["data.targets=inputs"])
    assert "cross_entropy needs one class number" in problem


STATEFUL = CONFIG.replace("- linear: 3", "- reshape: [2, 2]\n  - lstm: {{hidden_size: 3, stateful: true, last: true}}")


def test_states_that_go_on_in_batches_drawn_at_random_get_a_note(written):
    path = written(text=STATEFUL)
    assert any("batches are drawn at random" in note for note in make_plan(path).notes)
    assert not make_plan(path, ["data.shuffle=false"]).notes
    assert not make_plan(path, ["model.1.lstm.stateful=false"]).notes


@pytest.mark.parametrize("source", [{"type": "synthetic", "task": "adding"}, {"type": "digit_scenes"}])
def test_seeds_of_data_are_not_negative(written, source):
    (problem, *_) = problems(written(), {"data": source | {"seed": -1}})
    assert "data.seed: must be at least 0, got -1" in problem


def test_a_layer_within_a_block_is_reported_where_the_block_stands(tmp_path):
    text = TEXT.replace("ROWS", "6").replace("  - linear: 6\n", "  - gpt_block: {{num_heads: 3}}\n  - linear: 6\n")
    (line,) = problems(write_text(tmp_path, text))
    assert line == "a.yaml:7:5: model.1.gpt_block: num_heads is 3, which does not divide the input's width 4"


def test_a_table_that_is_given_no_whole_numbers(written):
    text = CONFIG.replace(
        "  - linear: 3", "  - embedding: {{num_embeddings: 9, embedding_dim: 2}}\n  - flatten\n  - linear: 3"
    )
    (line,) = problems(written(text=text))
    assert line == (
        "a.yaml:6:5: model.0.embedding: takes whole numbers, and the data's inputs are float64; save them as int64"
    )


def test_a_forgotten_flatten(written):
    text = CONFIG.replace("  - linear: 3", "  - reshape: {{shape: [2, 2]}}\n  - linear: 3")
    (line,) = problems(written(text=text))
    assert "outputs (2, 3)" in line
    assert line.endswith("; put flatten, or a pool over the positions, before the last layer")
