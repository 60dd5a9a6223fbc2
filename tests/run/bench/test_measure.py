"""`bench` of a config: what is compared, with whom, and what comes of it. Nothing here asserts a speed."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from gpubackprop.errors import ConfigError
from gpubackprop.run.bench import measure
from gpubackprop.run.bench.compare import compare, threads_of
from gpubackprop.run.bench.measure import bench, contenders_of, make_task
from gpubackprop.run.bench.process import BenchError, Candidate
from gpubackprop.run.bench.table import lines
from gpubackprop.run.bench.task import Task, difference
from gpubackprop.run.check import make_plan
from tests.run import toy

NUMBER = {"type": "number", "exclusiveMinimum": 0}
SPREAD = {
    "type": "object",
    "required": ["median", "lower", "upper", "minimum"],
    "additionalProperties": NUMBER,
}
BYTES = {"type": ["integer", "null"]}
SCHEMA = {
    "type": "object",
    "required": [
        "format",
        "name",
        "machine",
        "rounds",
        "slice_seconds",
        "samples",
        "flops",
        "base",
        "candidates",
        "peak",
    ],
    "properties": {
        "format": {"const": 1},
        "machine": {"type": "object", "required": ["processor", "processors", "threads", "python", "packages"]},
        "candidates": {
            "type": "object",
            "minProperties": 1,
            "additionalProperties": {
                "type": "object",
                "required": ["first_start", "runs_on"],
                "properties": {
                    "seconds": SPREAD,
                    "ratio": SPREAD,
                    "slices": {"type": "array", "items": NUMBER},
                    "samples_per_second": NUMBER,
                    "share_of_peak": NUMBER,
                    "first_step": NUMBER,
                    "disturbed": {"type": "integer"},
                    "memory": {"type": "object", "properties": {"imported": BYTES, "peak": BYTES}},
                },
            },
        },
        "peak": {"type": "object", "additionalProperties": NUMBER},
        "notes": {"type": "array", "items": {"type": "string"}},
    },
}


@pytest.fixture
def without_torch(monkeypatch):
    monkeypatch.setattr(measure, "find_spec", lambda name: None)


def test_the_result_has_its_form_and_the_table_all_of_it(tmp_path, without_torch):
    config = toy.write_config(tmp_path)
    found = bench(str(config), ["kernels=reference"], rounds=2, seconds=0.005, threads=1)
    jsonschema.validate(json.loads(json.dumps(found)), SCHEMA)
    assert list(found["candidates"]) == [found["base"]] == ["gpubackprop"]
    assert found["notes"] == ["PyTorch: not measured: it is not installed"]
    assert (found["samples"], found["rounds"], found["machine"]["threads"]) == (8, 2, 1)
    assert found["flops"] == 3 * 8 * 2 * (36 * 8 + 8 * 3)
    figures = found["candidates"]["gpubackprop"]
    assert figures["ratio"]["median"] == 1
    assert figures["samples_per_second"] == pytest.approx(8 / figures["seconds"]["median"])
    assert len(figures["slices"]) == 2
    share = found["flops"] / figures["seconds"]["median"] / found["peak"]["flops_per_second"]
    assert figures["share_of_peak"] == pytest.approx(share, rel=10)
    table = lines(found)
    assert table[1].startswith("gpubackprop ")
    assert len({len(line) for line in table[:2]}) == 1
    assert any("toy: 8 samples" in line for line in table)
    assert any(line.startswith("ours / theirs: the time of a step of gpubackprop over") for line in table)
    assert [line.split()[-1] for line in lines(with_disturbed(found, 0))[:2]] == ["disturbed", "–"]


def with_disturbed(found, count):
    """The same comparison, of which others disturbed so many slices."""
    return found | {"candidates": {name: each | {"disturbed": count} for name, each in found["candidates"].items()}}


def test_what_others_disturbed_is_said_aloud(tmp_path, without_torch):
    found = bench(str(toy.write_config(tmp_path)), ["kernels=reference"], rounds=1, seconds=0.001, threads=1)
    one = lines(with_disturbed(found, 1))
    assert one[1].endswith(" 1 of 1")
    assert one[3].startswith("WARNING: other programs used the machine during every slice of gpubackprop")
    assert any(line.startswith("1 round, in each a slice of 0.001 s") for line in one)
    assert any("1 thread on" in line for line in one)
    found["candidates"]["gpubackprop"]["slices"] *= 2
    assert lines(with_disturbed(found, 1))[3].startswith("WARNING: other programs used the machine during slices of g")
    assert not any("WARNING" in line for line in lines(with_disturbed(found, 0)))


def test_who_takes_part(tmp_path, monkeypatch):
    plan = make_plan(str(toy.write_config(tmp_path)))
    images = make_plan(str(toy.write_config(tmp_path, "cnn.yaml", model=toy.CNN)))
    monkeypatch.setattr(measure, "find_spec", lambda name: object())
    monkeypatch.setattr(measure, "uncompiled", lambda: None)
    ours = ["gpubackprop", "gpubackprop, reference kernels"]
    assert list(contenders_of("f", plan, "cpu", False)[0]) == [*ours, "PyTorch eager"]
    everyone = [*ours, "PyTorch eager", "PyTorch channels_last", "PyTorch compile"]
    assert list(contenders_of("f", images, "cpu", True)[0]) == everyone
    on_gpu, notes = contenders_of("f", plan, "cuda:0", False)
    assert list(on_gpu) == ours[:1]
    assert notes == ["PyTorch: not measured: its twin is for the CPU, and this is cuda:0"]


def test_references_are_not_compared_with_themselves_in_silence(tmp_path, monkeypatch, without_torch):
    plan = make_plan(str(toy.write_config(tmp_path)))
    monkeypatch.setenv("GPUBACKPROP_KERNELS", "reference")
    alone, notes = contenders_of("f", plan, "cpu", False)
    assert list(alone) == ["gpubackprop"]
    assert notes[0] == "gpubackprop: its references were measured, since it runs on reference kernels, as asked"
    found = bench(str(tmp_path / "toy.yaml"), rounds=1, seconds=0.001, threads=1)
    assert found["notes"] == notes
    assert any(line.endswith("; reference kernels, as asked") for line in lines(found))


def test_a_task_is_the_first_step_of_the_training_and_comes_back_from_its_folder(tmp_path):
    config = toy.write_config(tmp_path, training={"epochs": 1, "accumulate": 2})
    task = make_task(make_plan(str(config)))
    task.write(tmp_path)
    again = Task.read(tmp_path)
    assert again.config == task.config
    assert [batch["inputs"].shape for batch in again.batches] == [(8, 6, 6, 1)] * 2
    np.testing.assert_array_equal(again.batches[1]["targets"], task.batches[1]["targets"])
    assert again.weights.keys() == task.weights.keys()


def test_batches_of_several_inputs_come_back(tmp_path):
    batch = {"inputs": {"a": np.ones((2, 3)), "b": np.zeros((2, 1))}, "targets": np.arange(2)}
    Task({}, [batch], {"w": np.ones(1)}, False).write(tmp_path)
    [again] = Task.read(tmp_path).batches
    assert again["inputs"]["b"].shape == (2, 1)
    assert set(again) == {"inputs", "targets"}


@pytest.mark.parametrize(("p", "random"), [(0.0, False), (0.4, True)])
def test_whether_random_numbers_are_drawn_is_known(tmp_path, p, random):
    model = ["flatten", {"linear": 8}, {"dropout": p}, {"linear": 3}]
    assert make_task(make_plan(str(toy.write_config(tmp_path, model=model)))).random is random


class TestDifference:
    def of(self, losses=(2.0, 1.0, 0.5), inference=1.5, random=False):
        ours = {"losses": [2.0, 1.0, 0.5], "inference_loss": 1.5}
        return difference(Task({}, [], {}, random), ours, {"losses": list(losses), "inference_loss": inference})

    def test_the_same_training(self):
        assert self.of((2.0001, 1.005, 0.5)) is None

    def test_another_model_update_or_number(self):
        assert self.of((2.001, 1.0, 0.5)) == "loss 1 is 2.001, ours 2"
        assert self.of((2.0, 1.1, 0.5)) == "loss 2 is 1.1, ours 1"
        assert "nan" in self.of((2.0, float("nan"), 0.5))

    def test_with_random_numbers_inference_counts_alone(self):
        assert self.of((9.0, 9.0, 9.0), random=True) is None
        assert self.of(inference=1.51, random=True) == "the inference loss is 1.51, ours 1.5"


def test_who_does_not_train_the_same_is_left_out_and_errors_of_others_are_notes():
    module = "tests.run.bench.candidate"
    from gpubackprop.run.bench.compare import Contender

    everyone = {
        "ours": Contender([module, "well"], ours=True, starts=1),
        "same": Contender([module, "well"]),
        "broken": Contender([module, "raises"]),
        "unable": Contender([module, "cannot"]),
    }
    options = {"samples": 4, "flops": None, "environment": threads_of(1), "rounds": 1, "seconds": 0.001}
    found = compare(everyone, "ours", **options, with_peak=False, notes=["before"])
    assert list(found["candidates"]) == ["ours", "same"]
    ours, theirs = (found["candidates"][name]["slices"][0] for name in ("ours", "same"))
    assert found["candidates"]["same"]["ratio"]["median"] == ours / theirs
    assert found["notes"] == [
        "before",
        "broken: not measured: tests.run.bench.candidate raises: ended with code 1: in two lines",
        "unable: not measured: no twin",
    ]
    assert found["peak"] is None
    assert found["candidates"]["same"]["share_of_peak"] is None
    different = compare(everyone, "ours", **options, with_peak=False, differs=lambda a, b: "another loss")
    assert list(different["candidates"]) == ["ours"]
    assert "same: not measured: another loss" in different["notes"]
    with pytest.raises(BenchError):
        compare({"ours": Contender([module, "raises"], ours=True)}, "ours", **options, with_peak=False)


def test_mistakes_are_found_before_anything_is_started(tmp_path, monkeypatch):
    monkeypatch.setattr(Candidate, "__init__", lambda *_: pytest.fail("started"))
    with pytest.raises(ConfigError, match="lineer"):
        bench(str(toy.write_config(tmp_path, model=[{"lineer": 3}])))
