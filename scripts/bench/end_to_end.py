"""How many samples a second whole trainings make, with kernels and with references, and what of it is not the step.

python -m scripts.bench.end_to_end fashion_cnn shakespeare_gpt

Every training runs in a process of its own, as `gpubackprop train` would run it; evaluation is counted apart.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import typer

import gpubackprop
from gpubackprop.training import trainer
from gpubackprop.training.step import TrainStep


def train(config: str, steps: int, kernels: str) -> dict[str, float]:
    """Samples a second, the median of the lines, and the share of the time outside steps and evaluation."""
    spent = dict.fromkeys(("step", "evaluate", "run"), 0.0)
    _count(TrainStep, "__call__", spent, "step")
    _count(trainer, "evaluate", spent, "evaluate")
    _count(trainer.Trainer, "run", spent, "run")
    overrides = {"training.steps": steps, "kernels": kernels, "training.log_every": 20}
    with tempfile.TemporaryDirectory() as folder:
        run = gpubackprop.train(config, overrides, run_dir=Path(folder) / "run")
        lines = [json.loads(line) for line in (Path(run.directory) / "metrics.jsonl").read_text().splitlines()]
    speeds = [line["samples_per_sec"] for line in lines if "samples_per_sec" in line]
    training = spent["run"] - spent["evaluate"]
    return {
        "samples_per_second": sorted(speeds)[len(speeds) // 2],
        "outside": (training - spent["step"]) / training,
        "seconds": spent["run"],
    }


def _count(owner: Any, name: str, spent: dict[str, float], what: str) -> None:
    """From now on the seconds inside `owner.name` are added up."""
    function = getattr(owner, name)

    def counted(*args: Any, **options: Any) -> Any:
        start = perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[what] += perf_counter() - start

    setattr(owner, name, counted)


def main(
    configs: Annotated[list[str], typer.Argument(help="Config files, or names of those that come along.")],
    steps: Annotated[int, typer.Option(min=1, help="Of each training.")] = 600,
    kernels: Annotated[str, typer.Option(help="For a single one, in this process: auto or reference.")] = "",
) -> None:
    """Print a line for each training."""
    if kernels:
        print(json.dumps(train(configs[0], steps, kernels)))
        return
    for config in configs:
        for each in ("auto", "reference"):
            command = [
                sys.executable,
                "-m",
                "scripts.bench.end_to_end",
                config,
                "--steps",
                str(steps),
                "--kernels",
                each,
            ]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{config}, kernels: {each}: {found['samples_per_second']:,.0f} samples/s, "
                f"{found['outside']:.1%} of the training outside steps and evaluation",
                flush=True,
            )


if __name__ == "__main__":
    typer.run(main)
