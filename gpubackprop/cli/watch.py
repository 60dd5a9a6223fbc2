"""Commands that look into a model: gradcheck."""

from __future__ import annotations

import dataclasses
import json
from math import isfinite
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gpubackprop.cli import app
from gpubackprop.cli.config import SetOption

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
