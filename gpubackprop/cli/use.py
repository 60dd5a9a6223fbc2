"""Commands that use a trained run: evaluate, predict and generate."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from gpubackprop.cli import app, note
from gpubackprop.errors import UsageError

RunArgument = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="The directory of a run.")]
CheckpointOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="best, last or step-…; best where there is one.")
]
DeviceOption = Annotated[str, typer.Option(metavar="D", help="cpu, cuda, cuda:N or auto.")]


@app.command()
def evaluate(
    run_dir: RunArgument,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    checkpoint: CheckpointOption = None,
    data: Annotated[str | None, typer.Option(metavar="PATH", help="Other data of the same kind.")] = None,
    json_: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Print loss and metrics of a trained run."""
    from gpubackprop.run.use import Run

    if split not in ("train", "validation", "test"):
        raise UsageError(f"--split: unknown split {split!r}; known: train, validation, test")
    found = Run(run_dir, device).evaluate(split, checkpoint, data)
    if json_:
        # JSON knows no infinity, nor a number that is none.
        finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in found.items()}
        print(json.dumps(finite))
        return
    for name, value in found.items():
        print(f"{name} {value:.4f}" if isinstance(value, float) else f"{name} {value}")


@app.command()
def predict(
    run_dir: RunArgument,
    inputs: Annotated[
        list[str], typer.Argument(metavar="INPUT...", help="Images, .npy, .npz, .csv, idx or text files.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", metavar="FILE", help="Write here: .csv, or .jsonl for JSON Lines.")
    ] = None,
    checkpoint: CheckpointOption = None,
    resize: Annotated[bool, typer.Option(help="Resize images of another size than the training's.")] = False,
    device: DeviceOption = "cpu",
) -> None:
    """Print predictions for new files, or write them with -o."""
    if output is not None and output.suffix not in (".csv", ".jsonl"):
        raise UsageError(f"-o {output}: ends in neither .csv nor .jsonl, which choose the format")
    from gpubackprop.run.use import Run

    predictions = Run(run_dir, device).predict(inputs, checkpoint, resize)
    for line in predictions.inputs.notes:
        note(line)
    rows = predictions.rows()
    if output is None:
        _table(rows) if sys.stdout.isatty() else _csv(rows, sys.stdout)
        return
    try:
        with output.open("w", newline="") as file:
            if output.suffix == ".csv":
                _csv(rows, file)
            else:
                file.writelines(json.dumps(row) + "\n" for row in rows)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror})") from error
    note(f"wrote {len(rows)} predictions to {output}")


@app.command()
def generate(
    run_dir: RunArgument,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the text begins with, or what is answered.")] = "",
    tokens: Annotated[int, typer.Option(metavar="N", help="How many tokens to write at most.")] = 200,
    temperature: Annotated[float, typer.Option(help="Below 1: likelier tokens; 0: always the likeliest.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Draw from the K likeliest tokens.")] = None,
    top_p: Annotated[
        float | None, typer.Option(metavar="P", help="Draw from the fewest tokens that have probability P together.")
    ] = None,
    seed: Annotated[int, typer.Option(help="The same seed writes the same text.")] = 0,
    samples: Annotated[int, typer.Option(metavar="N", help="How many texts to write.")] = 1,
    checkpoint: CheckpointOption = None,
    device: DeviceOption = "cpu",
) -> None:
    """Write text with a trained language model."""
    from gpubackprop.run.use import Run

    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seed": seed, "samples": samples}
    texts, shown = [""], ""
    for texts in Run(run_dir, device).writing(prompt, tokens, checkpoint, **options):
        # A character in the making, of byte-pair pieces, may still change.
        if samples == 1 and texts[0].startswith(shown) and not texts[0].endswith("\N{REPLACEMENT CHARACTER}"):
            print(texts[0][len(shown) :], end="", flush=True)
            shown = texts[0]
    print(texts[0][len(shown) :] if samples == 1 else "\n".join(texts))


def _csv(rows: Sequence[dict[str, Any]], file: TextIO) -> None:
    writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _text(value) for name, value in row.items()} for row in rows)


def _table(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(*rows[0], box=None)
    for row in rows:
        table.add_row(*map(_text, row.values()))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_text, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
