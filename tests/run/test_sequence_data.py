"""Texts, series and several inputs, from the config to predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.errors import DataError
from gpubackprop.run.use import Run

TRAINING = {"epochs": 8}
WORDS = {"1": ["good", "fine", "great"], "0": ["bad", "poor", "dull"]}


def trained(tmp_path: Path, **config: Any) -> Run:
    base = {"name": "small", "optimizer": {"type": "adam", "lr": 0.02}, "training": TRAINING}
    return gbp.train(base | config, run_dir=tmp_path / "run")


def test_a_classifier_of_texts(tmp_path: Path):
    rng = np.random.default_rng(0)
    lines = []
    for n in range(200):
        label = str(n % 2)
        words = [*rng.choice(["a", "film", "plot", "it"], size=rng.integers(0, 6)), rng.choice(WORDS[label])]
        lines.append(f"{label} {' '.join(rng.permutation(words))}")
    (tmp_path / "r.train").write_text("\n".join(lines[:160]))
    (tmp_path / "r.test").write_text("\n".join(lines[160:]))
    run = trained(
        tmp_path,
        data={"type": "text", "path": f"{tmp_path}/r.*", "task": "classification", "tokens": "words"},
        model=[{"embedding": {"num_embeddings": 20, "embedding_dim": 8}}, "global_avg_pool1d", {"linear": 2}],
        loss="cross_entropy",
        metrics=["accuracy"],
        training={"epochs": 25, "monitor": "val/loss"},
    )
    assert run.metrics["test/accuracy"] == 1
    (tmp_path / "new.txt").write_text("a good film\n\nit it dull\n")
    rows = run.predict([str(tmp_path / "new.txt")]).rows()
    assert [row["prediction"] for row in rows] == ["1", "0"]
    assert [row["input"].rpartition(":")[2] for row in rows] == ["1", "3"]
    # The forms that a training file may have are read without their labels.
    (tmp_path / "new.csv").write_text('text,label\n"a good film",1\n"it, dull",0\n')
    (tmp_path / "new.tsv").write_text("1\ta good film\n0\tit dull\n")
    for name, first in (("new.csv", 2), ("new.tsv", 1)):
        labelled = run.predict([str(tmp_path / name)]).rows()
        assert [row["prediction"] for row in labelled] == ["1", "0"]
        assert labelled[0]["probability"] == rows[0]["probability"]
        assert labelled[0]["input"].endswith(f":{first}")
    ids = run.preprocessing.vocabulary.encode("a good film")
    logits = run.model(ids[None].astype(np.int64))[0]  # as long as it is, without padding
    assert rows[0]["probability"] == pytest.approx(np.exp(logits[1]) / np.exp(logits).sum(), abs=1e-5)
    # Other texts are measured in the vocabulary and the length of training.
    (tmp_path / "other.txt").write_text("1 fine unheard-of words\n0 poor\n")
    assert run.evaluate(path=str(tmp_path / "other.txt"))["test/accuracy"] == 1
    assert Run(run.directory).evaluate()["test/accuracy"] == 1


def test_a_forecast_comes_in_the_units_of_the_data(tmp_path: Path):
    series = 1000 + 50 * np.sin(np.arange(400) * 0.3)
    (tmp_path / "s.csv").write_text("day,value\n" + "".join(f"d{n},{v}\n" for n, v in enumerate(series[:-1])))
    run = trained(
        tmp_path,
        data={"type": "sequences", "path": f"{tmp_path}/s.csv", "window": 8},
        model=["flatten", {"linear": 1}],
        loss="mse",
        training={"epochs": 30},
    )
    assert run.metrics["val/loss"] < 1e-3
    (row,) = run.predict([str(tmp_path / "s.csv")]).rows()
    assert row["prediction"] == pytest.approx(series[-1], abs=3)


def test_an_autoencoder_has_its_inputs_as_targets(tmp_path: Path):
    run = trained(
        tmp_path,
        data={"type": "digits", "targets": "inputs"},
        model=["flatten", {"linear": 16}, {"linear": 64}, {"reshape": [8, 8, 1]}],
        loss="mse",
    )
    assert run.metrics["val/loss"] < 0.06
    assert run.evaluate()["test/loss"] == pytest.approx(run.metrics["test/loss"])


def test_a_language_model_is_not_for_predict(tmp_path: Path):
    (tmp_path / "t.txt").write_text("abcd" * 50)
    run = trained(
        tmp_path,
        data={"type": "text", "path": f"{tmp_path}/t.txt", "context": 4},
        model=[{"embedding": {"num_embeddings": 4, "embedding_dim": 4}}, {"linear": 4}],
        loss="cross_entropy",
        training={"steps": 60},
    )
    assert run.metrics["val/loss"] < 0.3
    with pytest.raises(DataError, match="gpubackprop generate"):
        run.predict([str(tmp_path / "t.txt")])
