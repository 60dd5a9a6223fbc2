"""JAX and scikit-learn as candidates: python -m scripts.bench.others jax|sklearn FOLDER

JAX makes the tasks of linear layers, convolutions, pools and relu; scikit-learn's MLPClassifier linear layers and relu.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.run.bench.process import CannotError, serve
from gpubackprop.run.bench.task import Task


def layers_of(task: Task, known: tuple[str, ...]) -> list[tuple[str, dict[str, Any]]]:
    """(type, options) of all layers. Raises CannotError where one is not known, or the loss is not cross-entropy."""
    entries = task.config["model"]
    layers = [next(iter(each.items())) if isinstance(each, dict) else (each, {}) for each in entries]
    if others := [kind for kind, _ in layers if kind not in known]:
        raise CannotError(f"{others[0]} is not written for it")
    if task.config["loss"]["type"] != "cross_entropy" or task.config["optimizer"]["type"] not in ("sgd", "adam"):
        raise CannotError("only cross_entropy with sgd or adam is written for it")
    return layers


class Jax:
    """A jitted step whose state is donated, so that it is updated in place."""

    def __init__(self, task: Task) -> None:
        jax = import_module("jax")
        layers = layers_of(task, ("linear", "relu", "conv2d", "max_pool2d", "flatten"))
        self.jax, numpy, lax = jax, jax.numpy, jax.lax

        def forward(weights: dict[str, Any], x: Any) -> Any:
            for number, (kind, options) in enumerate(layers):
                if kind == "linear":
                    x = x @ weights[f"{number}.weight"].T + weights[f"{number}.bias"]
                elif kind == "relu":
                    x = jax.nn.relu(x)
                elif kind == "flatten":
                    x = numpy.moveaxis(x, -1, 1).reshape(len(x), -1)
                elif kind == "max_pool2d":
                    window = (1, 2, 2, 1)
                    x = lax.reduce_window(x, -numpy.inf, lax.max, window, window, "VALID")
                else:
                    pad = options["padding"]
                    axes = ("NHWC", "OIHW", "NHWC")
                    kernel = weights[f"{number}.weight"]
                    x = lax.conv_general_dilated(x, kernel, (1, 1), [(pad, pad)] * 2, dimension_numbers=axes)
                    x = x + weights[f"{number}.bias"]
            return x

        def loss(weights: dict[str, Any], x: Any, target: Any) -> Any:
            logits = jax.nn.log_softmax(forward(weights, x))
            return -numpy.take_along_axis(logits, target[:, None], 1).mean()

        lr, adam = task.config["optimizer"]["lr"], task.config["optimizer"]["type"] == "adam"

        def update(state: Any, x: Any, target: Any) -> Any:
            weights, m, v, t = state
            value, grads = jax.value_and_grad(loss)(weights, x, target)
            if not adam:
                return ({k: w - lr * grads[k] for k, w in weights.items()}, m, v, t), value
            t = t + 1
            m = {k: 0.9 * m[k] + 0.1 * g for k, g in grads.items()}
            v = {k: 0.999 * v[k] + 0.001 * g * g for k, g in grads.items()}
            moved = {k: (m[k] / (1 - 0.9**t)) / (numpy.sqrt(v[k] / (1 - 0.999**t)) + 1e-8) for k in grads}
            return ({k: w - lr * moved[k] for k, w in weights.items()}, m, v, t), value

        self._start = {key: numpy.asarray(value) for key, value in task.weights.items()}
        self._loss, self._update = loss, jax.jit(update, donate_argnums=0)
        # Copies: a step takes the memory of the state that it is given.
        copies = {key: numpy.array(value) for key, value in task.weights.items()}
        zeros = [{key: numpy.zeros_like(value) for key, value in copies.items()} for _ in range(2)]
        self._state = copies, *zeros, numpy.zeros((), numpy.float32)
        batch = task.batches[0]
        self._batch = numpy.asarray(batch["inputs"]), numpy.asarray(batch["targets"])

    def step(self) -> float:
        """One update."""
        self._state, loss = self._update(self._state, *self._batch)
        return float(loss)

    def about(self) -> dict[str, Any]:
        """The loss of the starting weights, and the version."""
        return {
            "inference_loss": float(self._loss(self._start, *self._batch)),
            "runs_on": f"JAX {self.jax.__version__}",
        }


class Sklearn:
    """MLPClassifier, a step by `partial_fit` on one batch."""

    def __init__(self, task: Task) -> None:
        layers = layers_of(task, ("linear", "relu"))
        options = task.config["optimizer"]
        widths = [width["out_features"] for kind, width in layers if kind == "linear"]
        self.batch, self._classes = task.batches[0], np.arange(widths[-1])
        self.model = import_module("sklearn.neural_network").MLPClassifier(
            tuple(widths[:-1]),
            solver=options["type"],
            alpha=0.0,
            batch_size=len(self.batch["inputs"]),
            learning_rate_init=options["lr"],
            momentum=options.get("momentum", 0.0),
            nesterovs_momentum=False,
            shuffle=False,
        )
        # The one way to have weights and optimizer made; then both are begun anew.
        self.model.partial_fit(self.batch["inputs"], self.batch["targets"], classes=self._classes)
        numbers = [number for number, (kind, _) in enumerate(layers) if kind == "linear"]
        for place, number in enumerate(numbers):
            self.model.coefs_[place][...] = task.weights[f"{number}.weight"].T
            self.model.intercepts_[place][...] = task.weights[f"{number}.bias"]
        optimizer = self.model._optimizer
        for name in ("ms", "vs", "velocities"):
            for array in getattr(optimizer, name, ()):
                array[...] = 0
        optimizer.t = 0

    def step(self) -> float:
        """One update."""
        self.model.partial_fit(self.batch["inputs"], self.batch["targets"])
        return float(self.model.loss_)

    def about(self) -> dict[str, Any]:
        """Its version."""
        return {"inference_loss": None, "runs_on": f"scikit-learn {import_module('sklearn').__version__}"}


def main(kind: str, folder: str) -> None:
    """Serve."""
    if kind == "jax":
        # JAX takes no number of threads, only all the processors that it may use.
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(os.environ["OMP_NUM_THREADS"])])
        serve(lambda: Jax(Task.read(Path(folder))), "jax")
    else:
        serve(lambda: Sklearn(Task.read(Path(folder))), "sklearn.neural_network")


if __name__ == "__main__":
    main(*sys.argv[1:])
