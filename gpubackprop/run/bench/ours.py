"""The process of this package as a candidate: python -m gpubackprop.run.bench.ours FOLDER DEVICE KERNELS"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpubackprop.run.bench.process import serve
from gpubackprop.run.bench.task import Task


class Ours:
    """`TrainStep` as `train` makes it from the config, on the task's batches."""

    def __init__(self, task: Task, device: str, kernels: str) -> None:
        from gpubackprop.backend import cpu
        from gpubackprop.config import load_config
        from gpubackprop.nn.containers import Sequential
        from gpubackprop.run.build import train_step

        config = load_config(task.config)
        self.task, self.loss, self.batches = task, config.loss.build(), task.batches
        self.model = Sequential(*(layer.build() for layer in config.model))
        inputs = task.batches[0]["inputs"]
        shape: Any = {k: v.shape[1:] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs.shape[1:]
        self.model.build(shape, config.seed, device, config.precision, kernels)
        self._step = train_step(config, self.model, self.loss)
        self._runs_on = cpu(kernels)[1] if device == "cpu" else self.model.built.backend.describe()

    def step(self) -> float:
        """One update, waited for."""
        return float(self._step(self.batches))

    def about(self) -> dict[str, Any]:
        """The loss of the starting weights in inference mode, and what runs it."""
        from gpubackprop.training.evaluate import evaluate

        self.model.load_state_dict(self.task.weights)
        found = evaluate(self.model, self.loss, [], self.task.batches)
        return {"inference_loss": found["loss"], "runs_on": self._runs_on}


class OnGpu(Ours):
    """The same on a GPU, which holds the batches already and goes on while Python begins the next steps."""

    def __init__(self, task: Task, device: str, kernels: str) -> None:
        from gpubackprop.backend import choose
        from gpubackprop.training.step import on_device

        self.cupy = choose(device)[0].xp
        self._free = self._free_memory()
        super().__init__(task, device, kernels)
        self.batches = [on_device(self.model, self.loss, batch) for batch in task.batches]
        self._last: Any = None

    def launch(self) -> None:
        """Begin an update."""
        self._last = self._step(self.batches)

    def wait(self) -> None:
        """Until the last one is done."""
        float(self._last)

    def about(self) -> dict[str, Any]:
        """As Ours, and bytes of the GPU's memory."""
        peak = self._free - self._free_memory()
        self.cupy.get_default_memory_pool().free_all_blocks()
        self.step()
        memory = {"device": self._free - self._free_memory(), "device_peak": peak}
        return {**super().about(), "memory": memory}

    def _free_memory(self) -> int:
        self.cupy.cuda.Device().synchronize()
        return int(self.cupy.cuda.runtime.memGetInfo()[0])


def main(folder: str, device: str, kernels: str) -> None:
    """Serve."""
    made = Ours if device == "cpu" else OnGpu
    libraries = ["gpubackprop.run.build", "gpubackprop.training.step"]
    if device == "cpu" and kernels == "auto" and find_spec("numba") is not None:
        libraries.append("numba")  # which the kernels import when the model is built
    serve(lambda: made(Task.read(Path(folder)), device, kernels), *libraries)


if __name__ == "__main__":
    main(*sys.argv[1:])
