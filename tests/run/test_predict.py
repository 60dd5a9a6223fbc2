"""Predictions of models that are no plain classifiers by cross entropy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.errors import DataError, UsageError
from gpubackprop.run.use import Run

X = np.random.default_rng(0).normal(size=(12, 4, 5)).astype(np.float32)
Y = np.arange(12) % 3


def trained(folder: Any, model: list[Any], loss: Any, targets: Any = Y) -> Run:
    config = {
        "name": "small",
        "model": model,
        "loss": loss,
        "optimizer": "adam",
        "training": {"steps": 2, "monitor": None},
    }
    np.save(folder / "x.npy", X)
    return gbp.train(config, data={"train": (X, targets)}, run_dir=folder / "run")


def predicted(run: Run) -> list[dict[str, Any]]:
    return run.predict([str(run.directory.parent / "x.npy")]).rows()


@pytest.mark.parametrize(("loss", "last"), [("focal", []), ("nll", ["log_softmax"])])
def test_losses_of_classes_give_a_class_and_its_probability(loss, last, tmp_path):
    run = trained(tmp_path, ["flatten", {"linear": 3}, *last], loss)
    outputs = run.model(X).astype(np.float64)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=-1, keepdims=True)
    rows = predicted(run)
    assert [row["prediction"] for row in rows] == [str(n) for n in p.argmax(axis=-1)]
    np.testing.assert_allclose([row["probability"] for row in rows], p.max(axis=-1))


def test_the_scores_of_a_hinge_loss_are_no_probabilities(tmp_path):
    run = trained(tmp_path, ["flatten", {"linear": 3}], "hinge")
    assert [list(row) for row in predicted(run)] == [["input", "prediction"]] * 12
    assert {row["prediction"] for row in predicted(run)} <= {"0", "1", "2"}


def test_a_class_for_every_position(tmp_path):
    run = trained(tmp_path, [{"linear": 3}], "cross_entropy", np.arange(48).reshape(12, 4) % 3)
    found = [row["prediction"] for row in predicted(run)]
    assert found == [[str(n) for n in row] for row in run.model(X).argmax(axis=-1)]


def test_several_outputs_are_for_python(tmp_path):
    heads = {"heads": {"branches": {"kind": [{"linear": 3}], "size": [{"linear": 1}]}}}
    loss = {"type": "multi_task", "losses": {"kind": "cross_entropy", "size": "mse"}}
    run = trained(tmp_path, ["flatten", heads], loss, {"kind": Y, "size": X[:, 0, :1]})
    with pytest.raises(UsageError, match="one output, and this one has kind, size"):
        predicted(run)


def test_an_array_without_samples(tmp_path):
    run = trained(tmp_path, ["flatten", {"linear": 3}], "cross_entropy")
    np.save(tmp_path / "x.npy", X[:0])
    with pytest.raises(DataError, match=r"x.npy: an array of shape \(0, 4, 5\) holds no samples"):
        predicted(run)
