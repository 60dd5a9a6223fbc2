"""gpubackprop bench."""

from __future__ import annotations

import json

import pytest

from gpubackprop.run.bench import measure
from tests.run import toy

QUICK = ("--rounds", "1", "--seconds", "0.001", "--threads", "1", "--set", "kernels=reference")


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(measure, "find_spec", lambda name: None)  # PyTorch takes seconds to begin
    return toy.write_config(tmp_path)


def test_a_table_on_stdout_notes_on_stderr_and_all_figures_as_json(gb, config, tmp_path):
    code, out, err = gb("bench", config, *QUICK, "--json", tmp_path / "bench.json")
    lines = out.splitlines()
    assert (code, err) == (0, ["note: PyTorch: not measured: it is not installed"])
    assert lines[0].split()[:3] == ["ms", "a", "step"]
    assert lines[1].startswith("gpubackprop ")
    found = json.loads((tmp_path / "bench.json").read_text())
    assert (found["format"], found["name"], found["rounds"]) == (1, "toy", 1)
    assert list(found["candidates"]) == ["gpubackprop"]


def test_it_leaves_nothing_behind(gb, config, tmp_path):
    before = sorted(tmp_path.iterdir())
    assert gb("bench", config, *QUICK)[0] == 0
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (["missing.yaml"], 2, "missing.yaml"),
        (["digits_mlp", "--set", "optimizer.lr=-1"], 2, "optimizer.lr"),
        (["digits_mlp", "--device", "gpu"], 2, "unknown device 'gpu'"),
        (["digits_mlp", "--device", "cuda:7"], 4, "cuda"),
        (["digits_mlp", "--rounds", "0"], 2, "rounds"),
        (["digits_mlp", "--seconds", "0"], 2, "seconds"),
        (["digits_mlp", "--json", "no/such/folder/b.json"], 2, "there is no folder no/such/folder"),
    ],
)
def test_mistakes(gb, arguments, code, word):
    found, out, err = gb("bench", *arguments)
    assert (found, out) == (code, "")
    assert word.lower() in "\n".join(err).lower()


def test_help_names_every_option_of_the_contract(gb):
    _, out, _ = gb("bench", "--help")
    assert all(word in out for word in ("[CONFIG]", "--json", "--rounds", "--seconds", "--set", "--device"))
