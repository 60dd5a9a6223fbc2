"""Commands that look into a model: gradcheck and bench."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubackprop.cli import app, note
from gpubackprop.cli.config import SetOption
from gpubackprop.errors import UsageError

if TYPE_CHECKING:
    from gpubackprop.diagnose.gradcheck import Finding


@app.command()
def gradcheck(
    target: Annotated[
        str, typer.Argument(metavar="CONFIG|RUN_DIR", help="A YAML file, the name of a template, or a run's directory.")
    ],
    set_: SetOption = None,
    samples: Annotated[int, typer.Option(min=1, help="How many training samples.")] = 4,
    tolerance: Annotated[float, typer.Option(min=1e-12, help="The largest relative difference that passes.")] = 1e-5,
    seed: Annotated[int, typer.Option(min=0, help="Of the random directions.")] = 0,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Compare all backward passes with numerical gradients.

    On your own model and training data, in float64 on the CPU. Ends with 1 where one is wrong.
    """
    from gpubackprop.run import gradcheck as checking

    findings = checking.gradcheck(target, set_ or [], samples=samples, tolerance=tolerance, seed=seed)
    passed = all(finding.passed for finding in findings)
    if json_:
        print(json.dumps({"passed": passed, "tolerance": tolerance, "layers": [_plain(each) for each in findings]}))
    else:
        _table(findings)
        wrong = [f"{each.path} {each.kind}: {each.reason}" for each in findings if not each.passed]
        print("\n" + ("\n".join(wrong) if wrong else f"all backward passes agree to {tolerance:g}"))
    if not passed:
        raise typer.Exit(1)


@app.command()
def bench(
    config: Annotated[
        str, typer.Argument(metavar="[CONFIG]", help="A YAML file, or the name of a template.")
    ] = "digits_mlp",
    json_: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write all figures here too.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="How many slices of each candidate, in turn.")] = 7,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long a slice is, in seconds.")] = 0.3,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many threads each candidate has, PyTorch too; without it one for each processor."
        ),
    ] = None,
    torch_compile: Annotated[
        bool, typer.Option("--torch-compile", help="Measure torch.compile too; it takes a minute to begin.")
    ] = False,
    set_: SetOption = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="auto, cpu, cuda or cuda:N; goes before the config's.")
    ] = None,
) -> None:
    """Time the training step, beside PyTorch where that is installed.

    On the config's own first batch. Every candidate runs in a process of its own; they are measured in turn, slices
    that other programs disturbed once more. Ratios are ours / theirs, of the same round: below 1, gpubackprop is
    quicker.
    """
    from gpubackprop.backend import named
    from gpubackprop.run.bench.measure import bench as measure
    from gpubackprop.run.bench.table import lines

    if json_ is not None and not json_.parent.is_dir():
        raise UsageError(f"--json {json_}: there is no folder {json_.parent}")
    overrides = list(set_ or []) + ([f"device={named(device)}"] if device else [])
    with _progress() as said:
        options: dict[str, Any] = {"rounds": rounds, "seconds": seconds, "threads": threads}
        found = measure(config, overrides, **options, torch_compile=torch_compile, said=said)
    if json_ is not None:
        json_.write_text(json.dumps(found, indent=1) + "\n")
    print("\n".join(lines(found)))
    for line in found["notes"]:
        note(f"note: {line}")


def _plain(finding: Finding) -> dict[str, Any]:
    fields = {
        field.name: getattr(finding, field.name) for field in dataclasses.fields(finding) if field.name != "layer"
    }
    errors = {name: error if isfinite(error) else None for name, error in finding.errors.items()}
    return fields | {"errors": errors, "passed": finding.passed}


def _table(findings: list[Finding]) -> None:
    rows = [("layer", "type", "input", "verdict", "relative difference of dx and of each weight's gradient")]
    for each in findings:
        errors = ", ".join(f"{name} {error:.1g}" for name, error in each.errors.items())
        rows.append((each.path, each.kind, "×".join(map(str, each.shape)), each.verdict, errors))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    for row in rows:
        print("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[4]]).rstrip())


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """What is going on, on a terminal; else nothing."""
    if not sys.stderr.isatty():
        yield lambda line: None
        return
    from rich.console import Console

    with Console(stderr=True).status("reading the data") as status:
        yield status.update
