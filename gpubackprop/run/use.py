"""What a run directory is good for once training is over: its model, its metrics, and predictions."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop import data as data_floor
from gpubackprop.backend import HostArray
from gpubackprop.backend.precision import PRECISIONS
from gpubackprop.config import Config, load_config
from gpubackprop.data import DataOptions, Inputs, Loader, Preprocessing, Split, read_inputs
from gpubackprop.errors import CheckpointError, DataError, UsageError
from gpubackprop.nn.containers import Sequential
from gpubackprop.nn.layer import Layer, entry
from gpubackprop.run.directory import RunDirectory, read_metrics
from gpubackprop.run.generate import Sampling, generate, translate
from gpubackprop.run.memory import explained_in_use
from gpubackprop.training import checkpoint
from gpubackprop.training.evaluate import evaluate as evaluate_model
from gpubackprop.training.evaluate import outputs

SOFTMAX = ("cross_entropy", "focal", "nll")  #: losses of whose outputs the softmax is the classes' probabilities


class Run:
    """A finished or interrupted run, read from its directory.

    directory  where it is
    metrics    the best checkpoint's (the last one's where there is none): val/loss, val/accuracy, test/accuracy, …
    model      the best checkpoint's model, loaded at first use
    """

    def __init__(self, directory: RunDirectory | str | Path, device: str = "cpu") -> None:
        self.files = directory if isinstance(directory, RunDirectory) else RunDirectory.open(directory)
        self.directory = self.files.path
        self._device = device

    def __repr__(self) -> str:
        return f"Run({str(self.directory)!r})"

    @cached_property
    def config(self) -> Config:
        """The resolved config."""
        return load_config(self.files.resolved)

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """What was done to inputs, and the names of the classes."""
        _ = self.config  # imports the plugins, of which a transform may be
        return preprocessing_of(self.files)

    @cached_property
    def model(self) -> Layer:
        """The best checkpoint's model."""
        return self.load(self.checkpoint())

    @cached_property
    def metrics(self) -> dict[str, float]:
        """Validation figures of the best checkpoint, and the test figures where training came to its end."""
        found = dict(checkpoint.load_state(self.checkpoint()).validation)
        for line in read_metrics(self.files.metrics):
            # null is how metrics.jsonl says that a figure is not finite.
            found |= {k: nan if v is None else v for k, v in line.items() if k.startswith("test/")}
        return found

    def checkpoint(self, name: str | None = None) -> Path:
        """A checkpoint's folder; best, or last where there is no best, without a name."""
        if name is None:
            try:
                return checkpoint.find(self.files.checkpoints, "best")
            except CheckpointError:
                name = "last"
        return checkpoint.find(self.files.checkpoints, name)

    def load(self, folder: Path) -> Layer:
        """A new model with a checkpoint's weights."""
        config = self.config
        model = Sequential(*(component.build() for component in config.model))
        model.build(self.preprocessing.input_shape, config.seed, self._device, config.precision, config.kernels)
        checkpoint.load_model(folder, model)
        return model

    def evaluate(self, split: str = "test", name: str | None = None, path: str | None = None) -> dict[str, Any]:
        """`{"checkpoint": "best", "split": "test", "samples": 360, "test/loss": …}`, of a split or other data."""
        folder = self.checkpoint(name)
        config = self.config
        loader = self._loader(split, path)
        loss, metrics = config.loss.build(), [metric.build() for metric in config.metrics]
        model = self.load(folder)
        with explained_in_use(model, loader.batch_size):
            found = evaluate_model(model, loss, metrics, loader.batches())
        label = {"validation": "val"}.get(split, split)
        head = {"checkpoint": folder.name.strip(".").removesuffix(".old"), "split": split, "samples": len(loader.split)}
        return head | {f"{label}/{name}": value for name, value in found.items()}

    def generate(self, prompt: str = "", tokens: int = 200, name: str | None = None, **options: Any) -> list[str]:
        """Texts that a trained language model writes after `prompt`; the options are those of `Sampling`."""
        return deque(self.writing(prompt, tokens, name, **options), maxlen=1).pop()

    def writing(
        self, prompt: str = "", tokens: int = 200, name: str | None = None, **options: Any
    ) -> Iterator[list[str]]:
        """`generate`, token by token: the texts so far. Raises UsageError for a run that writes no text.

        A model that reads one text and writes another answers the prompt.
        """
        sampling = Sampling(**options)
        preprocessing, task = self.preprocessing, self.config.data.options.get("task", "language_model")
        vocabulary, shapes = preprocessing.vocabulary, preprocessing.input_shape
        if vocabulary is not None and isinstance(shapes, dict) and set(shapes) == {"source", "target"}:
            return translate(self.load(self.checkpoint(name)), vocabulary, shapes, prompt, tokens, sampling)
        if vocabulary is None or isinstance(shapes, dict) or task not in ("language_model", "next_token"):
            kind = f"{self.config.data.type}, {task}" if vocabulary else self.config.data.type
            raise UsageError(f"{self.directory}: not a language model (its data is {kind}); train one on data of text")
        return generate(self.load(self.checkpoint(name)), vocabulary, shapes[0], prompt, tokens, sampling)

    def _loader(self, split: str, path: str | None) -> Loader:
        config, dtype = self.config, PRECISIONS[self.config.precision]
        source, options = config.data.build(), config.data.common.build()  # type: ignore[union-attr]  # data has both
        if path is not None:
            found = source.after(self.preprocessing).at(path).samples(split, "test", "validation", "train")
            self.preprocessing.check(found, path)
            return self._measuring(found, options, dtype)
        prepared = data_floor.prepare(source, options, seed=config.seed, dtype=dtype, preprocessing=self.preprocessing)
        loader: Loader | None = getattr(prepared, split)
        if loader is None:
            raise DataError(
                f"the data has no {split} split; it has {', '.join(prepared.info.counts)}; or give --data PATH"
            )
        # Training order and augmentation are not for measuring.
        return self._measuring(loader.split, options, dtype)

    def _measuring(self, split: Split, options: DataOptions, dtype: Any) -> Loader:
        return Loader(
            split,
            options.batch_size,
            dtype=dtype,
            transforms=self.preprocessing.transforms,
            reconstruct=options.targets == "inputs",
        )

    def predict(self, paths: Sequence[str], name: str | None = None, resize: bool = False) -> Predictions:
        """Predictions for the samples in files, treated as in training."""
        model = self.model if name is None else self.load(self.checkpoint(name))
        output = model.infer(*entry(self.preprocessing.input_shape))
        if isinstance(output, dict):
            raise UsageError(
                f"{self.directory}: predictions are for models of one output, and this one has {', '.join(output)}; "
                "use Python: gpubackprop.load(run_dir)"
            )
        inputs = read_inputs(paths, self.preprocessing, PRECISIONS[self.config.precision], resize)
        with explained_in_use(model, 256):
            found = np.concatenate(list(outputs(model, inputs.array, 256, inputs.mask)))
        if self.preprocessing.series is not None:
            found = self.preprocessing.series.restored(found)
        return Predictions(inputs, found, self.preprocessing.classes, self.config.loss.type)


class Predictions:
    """Model outputs in the words of the task: classes with probabilities, or values."""

    def __init__(self, inputs: Inputs, outputs: HostArray, classes: list[str] | None, loss: str) -> None:
        self.inputs, self.outputs, self.classes, self.loss = inputs, outputs, classes, loss

    def rows(self) -> list[dict[str, Any]]:
        """One dict per sample: input, prediction, and probability where the model classifies."""
        rows: list[dict[str, Any]] = []
        for label, output in zip(self.inputs.labels, self.outputs, strict=True):
            rows.append({"input": label, **self._row(output.astype(np.float64))})
        return rows

    def _row(self, output: HostArray) -> dict[str, Any]:
        if self.loss in (*SOFTMAX, "hinge"):
            best = output.argmax(axis=-1)
            named = self.classes is not None and len(self.classes) == output.shape[-1]
            names = [self.classes[n] if named and self.classes else str(n) for n in best.reshape(-1).tolist()]
            if output.ndim > 1:  # a class for each position or pixel
                return {"prediction": names}
            shares = np.exp(output - output.max())
            probability = {"probability": float(shares[best] / shares.sum())} if self.loss in SOFTMAX else {}
            return {"prediction": names[0], **probability}
        if self.loss in ("bce_with_logits", "binary_focal"):
            output = (1 + np.tanh(output / 2)) / 2  # the sigmoid, without overflow
        values = output.reshape(-1).tolist()
        return {"prediction": values[0] if len(values) == 1 else values}


def preprocessing_of(files: RunDirectory) -> Preprocessing:
    """The run's preprocessing.json."""
    try:
        return Preprocessing.from_json(json.loads(files.preprocessing.read_text()))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{files.preprocessing}: cannot be read ({error})") from error


def load(run_dir: str | Path, checkpoint: str | None = None, device: str = "cpu") -> Layer:
    """The model of a run, best checkpoint first, built and with its weights."""
    run = Run(run_dir, device)
    return run.load(run.checkpoint(checkpoint))
