"""Training steps on the CPU beside PyTorch, JAX and scikit-learn: python -m scripts.bench.cpu

Seven workloads (`cpu/*.yaml`) from the same weights on the same batch, by this package through its public TrainStep,
by PyTorch eager (fused optimizer), eager with images in channels_last, and torch.compile, by JAX and scikit-learn where
they are installed and can. Then how the cost grows. It writes JSON and a plot and prints README's table; it asserts
nothing about speed, but whoever does not compute the same losses is left out, in plain sight.
"""

from __future__ import annotations

import json
import sys
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from gpubackprop.run.bench.compare import Contender, compare, machine, threads_of
from gpubackprop.run.bench.measure import uncompiled
from gpubackprop.run.bench.task import difference
from scripts.bench import report
from scripts.bench.workloads import GROWTH, WORKLOADS, Workload

RESULTS = Path(__file__).parent / "results" / "cpu.json"
README = Path(__file__).parents[2] / "README.md"


def contenders(folder: Path, workload: Workload, compiled: bool) -> tuple[dict[str, Contender], list[str]]:
    """Who takes part, by name, ours first; and notes of who does not. Caches are empty at the very first start."""
    cache = str(folder / "cache")
    found = {report.OURS: _ours(folder, "auto", variables={"GPUBACKPROP_CACHE": cache})}
    notes = []
    if reason := uncompiled():
        notes.append(f"{report.OURS}: its references were measured, since it runs on {reason}")
    else:
        found[f"{report.OURS}, reference kernels"] = _ours(folder, "reference")
    if find_spec("torch") is None:
        notes.append("PyTorch: not measured: it is not installed")
    else:
        variants = ["eager", *(["channels_last"] if workload.images else []), *(["compile"] if compiled else [])]
        for variant in variants:
            command = ["gpubackprop.run.bench.pytorch", str(folder), variant]
            found[f"PyTorch {variant}"] = Contender(command, variables={"TORCHINDUCTOR_CACHE_DIR": cache})
    for name, module, kind in (("JAX", "jax", "jax"), ("scikit-learn", "sklearn", "sklearn")):
        if find_spec(module) is None:
            notes.append(f"{name}: not measured: it is not installed")
        else:
            found[name] = Contender(["scripts.bench.others", kind, str(folder)])
    return found, notes


def _ours(folder: Path, kernels: str, **options: Any) -> Contender:
    return Contender(["gpubackprop.run.bench.ours", str(folder), "cpu", kernels], ours=True, **options)


def measure(workload: Workload, environment: dict[str, str], options: dict[str, Any], compiled: bool) -> dict[str, Any]:
    """One workload, everybody."""
    task, flops = workload.task()
    with tempfile.TemporaryDirectory(prefix="gpubackprop-bench-") as name:
        folder = Path(name)
        task.write(folder)
        everyone, notes = contenders(folder, workload, compiled)
        return compare(
            everyone,
            report.OURS,
            samples=len(task.batches[0]["inputs"]),
            flops=flops,
            environment=environment,
            differs=partial(difference, task),
            notes=notes,
            **options,
        )


def grow(environment: dict[str, str], options: dict[str, Any]) -> dict[str, Any]:
    """Median seconds of a step at each value of what is doubled, by this package and by PyTorch eager."""
    found: dict[str, Any] = {}
    for title, workloads in GROWTH.items():
        seconds: dict[str, list[float]] = {}
        for value, workload in workloads.items():
            say(f"{title}: {value}")
            task, flops = workload.task()
            with tempfile.TemporaryDirectory(prefix="gpubackprop-bench-") as name:
                task.write(Path(name))
                two = {report.OURS: _ours(Path(name), "auto", starts=1)}
                if find_spec("torch") is not None:
                    command = ["gpubackprop.run.bench.pytorch", name, "eager"]
                    two["PyTorch eager"] = Contender(command, starts=1)
                samples = len(task.batches[0]["inputs"])
                differs = partial(difference, task)
                compared = compare(
                    two,
                    report.OURS,
                    samples=samples,
                    flops=flops,
                    environment=environment,
                    with_peak=False,
                    differs=differs,
                    **options,
                )
            for candidate, figures in compared["candidates"].items():
                seconds.setdefault(candidate, []).append(figures["seconds"]["median"])
        found[title] = {"values": list(workloads), "candidates": seconds}
    return found


def say(line: str) -> None:
    """What is going on."""
    print(line, file=sys.stderr, flush=True)


def main(
    workloads: Annotated[str, typer.Option(help="Which of them, separated by commas.")] = ",".join(WORKLOADS),
    rounds: Annotated[int, typer.Option(min=1, help="How many slices of each candidate, in turn.")] = 9,
    seconds: Annotated[float, typer.Option(min=0.001, help="How long a slice is, in seconds.")] = 0.4,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many threads each candidate has, PyTorch too; without it one for each processor."
        ),
    ] = None,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="Measure torch.compile.")] = True,
    growth: Annotated[bool, typer.Option("--growth/--no-growth", help="Measure how the cost grows.")] = True,
    output: Annotated[Path, typer.Option(metavar="FILE", help="The JSON; the plot is an SVG beside it.")] = RESULTS,
    readme: Annotated[
        bool, typer.Option("--readme", help="Measure nothing: put the table of the JSON into README.md.")
    ] = False,
) -> None:
    """Measure, write the JSON, print the table that stands in the README."""
    if readme:
        README.write_text(report.into_readme(README.read_text(), json.loads(output.read_text())))
        return
    names = workloads.split(",")
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise typer.BadParameter(f"unknown workload {unknown[0]!r}; known: {', '.join(WORKLOADS)}")
    environment = threads_of(threads)
    results: dict[str, Any] = {"format": 1, "machine": machine(environment), "workloads": {}}
    output.parent.mkdir(parents=True, exist_ok=True)
    for name in names:
        say(f"== {name}: {WORKLOADS[name].title}")
        options = {"rounds": rounds, "seconds": seconds, "said": say}
        results["workloads"][name] = measure(WORKLOADS[name], environment, options, compiled)
        output.write_text(json.dumps(results, indent=1) + "\n")  # what is there, should a later one fail
    if growth:
        results["growth"] = grow(environment, {"rounds": min(rounds, 5), "seconds": seconds})
        output.write_text(json.dumps(results, indent=1) + "\n")
        if find_spec("matplotlib") is None:
            say("no plot: matplotlib is not installed")
        else:
            report.plot(results["growth"], output.with_suffix(".svg"))
    say(report.details(results))
    print(report.table(results))


if __name__ == "__main__":
    typer.run(main)
