"""The command train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gpubackprop.cli import app, note
from gpubackprop.cli.config import SetOption
from gpubackprop.errors import UsageError


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(metavar="[CONFIG]", help="A YAML file, or the name of a template.")
    ] = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN_DIR", help="Go on with a run where its last checkpoint stood.")
    ] = None,
    set_: SetOption = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N; goes before the config's.")
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; must be new or empty.")] = None,
) -> None:
    """Train a network: give CONFIG, or --resume RUN_DIR."""
    if (config is None) == (resume is None):
        raise UsageError("train takes exactly one of CONFIG and --resume RUN_DIR; try: gpubackprop train digits_mlp")
    from gpubackprop.backend import named
    from gpubackprop.run import train as training

    overrides = list(set_ or []) + ([f"device={named(device)}"] if device else [])
    if resume is not None:
        if run_dir is not None:
            raise UsageError("--run-dir does not go with --resume: the run goes on in its own directory")
        run = training.resume(resume, overrides, progress=True, say=note)
    else:
        run = training.train(config or "", overrides, run_dir=run_dir, progress=True, say=note)
    for name, value in run.metrics.items():
        print(f"{name} {value:.4f}")
    print(f"run directory: {run.directory}")
