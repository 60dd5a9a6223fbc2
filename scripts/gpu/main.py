"""The three parts, and what one call of scripts/gpu_check.py does."""

from __future__ import annotations

import argparse
import json
import re
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scripts.gpu import ROOT, machine, report
from scripts.gpu.record import FAILED, NOT_RUN, Budget, Item, Record, ResultsError, fingerprint
from scripts.gpu.worker import NOTHING, TIME, Work, run

DONE, SOME_FAILED, USAGE, NO_GPU, LEFT = 0, 1, 2, 4, 5  #: exit codes
RESULTS = ROOT / "scripts" / "bench" / "results"
MINUTES = 7.5
WORKLOADS = ("digits_mlp", "fashion_mlp", "big", "lenet", "resnet20", "resnet18", "lstm", "gpt")
Say = Callable[[str], None]


@dataclass(frozen=True)
class Stage:
    """A worker of a part: `needs` modules without which it cannot run."""

    name: str
    work: Work
    needs: Sequence[str] = ()


@dataclass(frozen=True)
class Call:
    """What was asked for."""

    part: str
    only: str | None
    seed: int
    late: Sequence[str] = ()  #: what an earlier call could not run or had no time for, which is done behind the rest
    minutes: float = MINUTES
    python: Mapping[str, str] = field(default_factory=dict)  #: variables for all workers


def stages(call: Call) -> list[Stage]:
    """The workers of a part, in order."""
    if call.part == "tests":
        chosen = ["-k", call.only] if call.only else []
        options = ["-m", "gpu", "-q", "--continue-on-collection-errors", "-p", "no:cacheprovider", *chosen]
        suite = Work(["-m", "pytest", "-p", "scripts.gpu.pytest_lines", *options], 150, call.python)
        sanitizer = Stage("sanitizer", Work(["-m", "scripts.gpu.sanitize"], 600, call.python))
        return [Stage("suite", suite, ("numpy", "pytest")), *([] if call.only else [sanitizer])]
    if call.part == "kernels":
        around = {"GPU_CHECK_SEED": str(call.seed), "GPU_CHECK_ONLY": call.only or "", **call.python}
        return [Stage("kernels", Work(["-m", "scripts.gpu.kernel_rows"], 120, around), ("numpy",))]
    around = {"GPU_CHECK_ONLY": call.only or "", "GPU_CHECK_LATE": json.dumps([*call.late]), **call.python}
    return [
        Stage(
            "bench",
            Work(["-m", "scripts.gpu.bench_rows"], 0.6 * 60 * call.minutes, around),
            ("numpy", "pydantic", "ruamel.yaml"),
        )
    ]


def perform(call: Call, record: Record, budget: Budget, say: Say) -> str | None:
    """Do what is left of a part. Why it is not all of it: TIME or NOTHING; None: it is."""

    def put(name: str, item: Item) -> None:
        record.put(call.part, name, item)
        if item["status"] == FAILED or call.part == "bench":  # the report has the rest
            say(f"{item['status']}: {name}{': ' + item['reason'] if 'reason' in item else ''}")
        elif len(record.items(call.part)) % 100 == 0:
            say(f"{call.part}: {len(record.items(call.part))} results")

    left = None
    for stage in stages(call):
        record.forget(call.part, [stage.name])
        if lacking := [module for module in stage.needs if not machine.there(module)]:
            put(stage.name, {"status": NOT_RUN, "reason": f"{', '.join(lacking)} not installed"})
            continue
        why = run(stage.work, record.done(call.part), budget, put, say)
        if why in (TIME, NOTHING):
            left = why
        elif why is not None:
            put(stage.name, {"status": FAILED, "reason": why})
    record.write()
    return left


def arguments(given: Sequence[str], description: str) -> argparse.Namespace:
    """Read the command line; a mistake exits with 2."""
    parser = argparse.ArgumentParser(
        "gpu_check.py",
        usage="%(prog)s --part tests|kernels|bench [--only W] [--again] [--minutes M] [--results FILE] [--seed N]\n"
        "       %(prog)s --report [--results FILE]",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", choices=("tests", "kernels", "bench"), help=argparse.SUPPRESS)
    parser.add_argument("--only", metavar="W", help=argparse.SUPPRESS)
    parser.add_argument("--again", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--minutes", type=float, default=MINUTES, help=argparse.SUPPRESS)
    parser.add_argument("--results", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--report", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    found = parser.parse_args(given)
    if not found.report and found.part is None:
        parser.error("--part tests, kernels or bench; or --report")
    if not found.minutes > 0:
        parser.error(f"--minutes {found.minutes:g}: more than 0")
    if found.seed is not None and found.seed < 0:
        parser.error(f"--seed {found.seed}: 0 or more")
    if found.part == "bench" and found.only not in (None, *WORKLOADS):
        parser.error(f"--only {found.only}: no workload; known: {', '.join(WORKLOADS)}")
    if found.report and found.results is None and len(results := sorted(RESULTS.glob("gpu-*.json"))) != 1:
        named = f"which --results FILE of {', '.join(map(str, results))}?" if results else "no results yet: run --part"
        parser.error(f"--report: {named}")
    return found


def main(given: Sequence[str], description: str = "") -> int:
    """One call; the exit code."""
    asked = arguments(given, description)

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    codes = {part: fingerprint(part) for part in ("tests", "kernels", "bench")}
    try:
        if asked.report:
            path = asked.results or next(iter(RESULTS.glob("gpu-*.json")))
            if not path.exists():
                raise ResultsError(f"{path} does not exist")
            print(report.text(Record(path, codes, "")))
            return DONE
        if asked.results is not None:
            Record(asked.results, codes, "")  # a damaged one is said before anything else
        if not machine.there("numpy"):
            say("gpu_check: nothing was run: NumPy, which all parts need, is not installed: pip install numpy")
            return SOME_FAILED
        found = machine.look()
        path = asked.results or RESULTS / f"gpu-{slug(found['gpu'])}.json"
        record = Record(path, codes, machine.commit())
    except machine.NoGpuError as error:
        say(f"gpu_check: nothing was run: {error}")
        return NO_GPU
    except ResultsError as error:
        say(f"gpu_check: {error}")
        return USAGE
    missing = machine.missing()
    record.describe({**found, "missing": missing})
    say(f"{found['backend']}; driver {found['driver']}; results: {path}")
    for module, what in missing.items():
        say(f"NOT INSTALLED: {module}: without it no {what}")
    if asked.again:
        record.forget(asked.part, [name for name in record.items(asked.part) if (asked.only or "") in name])
    seed = secrets.randbelow(2**31) if asked.seed is None else asked.seed
    if asked.part == "kernels":
        say(f"seed {seed}")
    late = [name for name, item in record.items(asked.part).items() if item["status"] == NOT_RUN]
    call = Call(asked.part, asked.only, seed, late, asked.minutes)
    left = perform(call, record, Budget(60 * asked.minutes), say)
    print(report.text(record, asked.part))
    if left == NOTHING:
        say(f"gpu_check: --only {asked.only}: nothing in part {asked.part} is called so")
        return USAGE
    failed = [name for name, item in record.items(asked.part).items() if item["status"] == FAILED]
    if left:
        say(f"gpu_check: {asked.minutes:g} minutes are over and something is left: give the same command again")
    if not any(item["status"] != NOT_RUN for item in record.items(asked.part).values()):
        say(f"gpu_check: nothing of part {asked.part} could run")
        failed = [asked.part]
    return LEFT if left else SOME_FAILED if failed else DONE


def slug(name: str) -> str:
    """`NVIDIA H100 80GB HBM3` as `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
