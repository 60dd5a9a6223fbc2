"""Commands about configs: init, validate, schema, summary; and doctor, about the machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gpubackprop.cli import app, note
from gpubackprop.errors import UsageError

ConfigArgument = Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a template.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value: optimizer.lr=0.01, model.3.linear.out_features=5."
    ),
]


@app.command()
def init(
    template: Annotated[str | None, typer.Argument(metavar="[TEMPLATE]", help="Which starter config.")] = None,
    output: Annotated[Path | None, typer.Option("-o", "--output", metavar="FILE", help="Where to write it.")] = None,
) -> None:
    """Write a starter config; without TEMPLATE list them."""
    from gpubackprop.run import templates

    if template is None:
        if output is not None:
            raise UsageError(f"-o needs a TEMPLATE to write; known: {', '.join(templates.names())}")
        width = max(map(len, templates.names()))
        for name in templates.names():
            print(f"{name:<{width}}  {templates.describe(name)}")
        return
    text = templates.path(template).read_text()
    target = output or Path(f"{template}.yaml")
    try:
        with target.open("x") as file:  # never over a file that somebody has edited
            file.write(text)
    except FileExistsError:
        raise UsageError(f"{target}: exists already; choose another name with -o") from None
    except OSError as error:
        raise UsageError(f"{target}: cannot be written ({error.strerror})") from error
    print(f"wrote {target}; next: gpubackprop train {target}")


@app.command()
def validate(config: ConfigArgument, set_: SetOption = None) -> None:
    """Check a config and everything it names, without training."""
    from gpubackprop.run.check import make_plan
    from gpubackprop.run.gradcheck import check_before

    plan = make_plan(config, set_ or [])
    layers = sum(1 for _, layer in plan.model.walk() if not layer.children())
    counts = ", ".join(f"{count:,} {split}" for split, count in plan.info.counts.items())
    for line in [*plan.notes, *check_before(plan)]:
        note(line)
    print(f"{config}: ok ({layers} layers; {counts})")


@app.command()
def schema() -> None:
    """Print the JSON Schema of the config, for editors."""
    from gpubackprop.config.schema import json_schema

    print(json.dumps(json_schema(), indent=1))


@app.command()
def summary(config: ConfigArgument, set_: SetOption = None) -> None:
    """Show layers, output shapes, parameters, FLOPs and memory."""
    from gpubackprop.run.check import make_plan
    from gpubackprop.run.summary import lines

    for line in lines(make_plan(config, set_ or [])):
        print(line)


@app.command()
def doctor() -> None:
    """Show what this machine has, and how to mend what is missing."""
    from gpubackprop.run.doctor import report

    findings, remedies = report()
    width = max(len(name) for name, _ in findings)
    for name, value in findings:
        print(f"{name:<{width}}  {value}")
    for remedy in remedies:
        print(remedy)
