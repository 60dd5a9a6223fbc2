"""Training steps beside PyTorch's on the GPU: python -m scripts.gpu.bench_rows, as worker.py runs it.

An item is a workload in a precision beside one of PyTorch's ways to run it: two processes that make steps in turn. All
workloads come first beside eager PyTorch, then beside torch.compile, then beside its max-autotune, which takes minutes;
whether a step waits for the GPU is looked at in the end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from gpubackprop.run.bench.compare import Contender, compare, threads_of
from gpubackprop.run.bench.process import BenchError, Candidate
from gpubackprop.run.bench.task import Task, difference
from gpubackprop.run.bench.timing import in_turn, step_time
from scripts.gpu import ROOT, gemm
from scripts.gpu.machine import there
from scripts.gpu.record import FAILED, NOT_RUN, PASSED, Item
from scripts.gpu.worker import Lines
from scripts.gpu.workloads import CONVOLUTIONAL, WORKLOADS, task_of

#: What the parent says: one workload; cpu for tests of this file; names of what is to be done behind the rest.
ONLY, DEVICE, LATE = "GPU_CHECK_ONLY", "GPU_CHECK_DEVICE", "GPU_CHECK_LATE"
OURS = "gpubackprop"
PRECISIONS = ("tf32", "bfloat16")
VARIANTS = ("eager", "channels_last", "compile", "max-autotune")
ALONE = "alone"  #: where there is no PyTorch
ROUNDS, SLICE = 5, 0.4  #: slices of each, and seconds of one; none of it tuned


@dataclass(frozen=True)
class Row:
    """An item: `variant` is waits, alone, or how PyTorch runs it."""

    workload: str
    precision: str
    variant: str

    @property
    def name(self) -> str:
        """In the results."""
        return f"{self.workload} {self.precision} {self.variant}"


def rows(only: str | None, device: str) -> list[Row]:
    """In order."""
    first = () if there("torch") else (ALONE,)
    found = [Row(w, p, v) for v in (*first, *VARIANTS) for p in PRECISIONS for w in WORKLOADS]
    found += [Row(w, p, "waits") for p in PRECISIONS for w in WORKLOADS if device != "cpu"]
    return [
        row
        for row in found
        if only in (None, row.workload) and (row.variant != "channels_last" or row.workload in CONVOLUTIONAL)
    ]


class Bench:
    """Measures. `peaks`: operations in a second of the quickest product of matrices, by precision."""

    def __init__(self, lines: Lines, device: str, folder: Path) -> None:
        self.lines, self.device, self.folder = lines, device, folder
        self.environment = threads_of(None)
        self.peaks: dict[str, float] = {}
        self.task = cache(self._task)

    def _task(self, workload: str, precision: str) -> tuple[Task, int, Path]:
        folder = self.folder / f"{workload}-{precision}"
        folder.mkdir()
        task, flops = task_of(workload, precision)
        task.write(folder)
        return task, flops, folder

    def peak(self, precision: str, side: int = gemm.SIDE) -> Item:
        """The speed of products of matrices, ours and PyTorch's, in turn."""
        found: dict[str, Any] = {}
        running: dict[str, Candidate] = {}
        try:
            for who in ("ours", "torch"):
                if who == "torch" and not there("torch"):
                    continue
                try:
                    command = ["scripts.gpu.gemm", who, precision, str(side), self.device]
                    candidate = Candidate(command, self.environment)
                except BenchError as error:
                    found[who] = str(error)
                    continue
                if candidate.cannot:
                    found[who] = candidate.cannot
                    candidate.close()
                else:
                    running[who] = candidate
            slices = in_turn({who: each.slice for who, each in running.items()}, ROUNDS, SLICE / 2)
        finally:
            for each in running.values():
                each.close()
        speeds = {who: running[who].about["work"] / step_time(each).median for who, each in slices.items()}
        if not speeds:
            return {"status": FAILED, "reason": "; ".join(found.values())}
        self.peaks[precision] = max(speeds.values())
        return {"status": PASSED, "flops_per_second": speeds, "side": side, "notes": found}

    def row(self, row: Row) -> Item:
        """One item."""
        about = {"workload": row.workload, "precision": row.precision, "variant": row.variant}
        if row.variant in VARIANTS and not there("torch"):
            return {"status": NOT_RUN, "reason": "PyTorch is not installed", **about}
        task, flops, folder = self.task(row.workload, row.precision)
        if row.variant == "waits":
            return waits(folder, self.environment) | about
        differing: list[str] = []

        def differs(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
            reason = difference(task, ours, theirs)
            differing.extend([reason] if reason else [])
            return reason

        module = "gpubackprop.run.bench"
        contenders = {OURS: Contender([f"{module}.ours", str(folder), self.device, "auto"], ours=True, starts=1)}
        name = f"PyTorch {row.variant}"
        if row.variant != ALONE:
            contenders[name] = Contender([f"{module}.pytorch", str(folder), row.variant, self.device], starts=1)
        found = compare(
            contenders,
            OURS,
            samples=len(task.batches[0]["targets"]),
            flops=flops,
            precision=row.precision,
            device=self.device,
            environment=self.environment,
            rounds=ROUNDS,
            seconds=SLICE,
            with_peak=False,
            differs=differs,
        )
        candidates = found["candidates"]
        result = {**about, "flops": flops, "peak": self.peaks.get(row.precision), "ours": candidates[OURS]}
        if differing:
            return {"status": FAILED, "reason": f"not the same training as PyTorch's: {differing[0]}", **result}
        if found["notes"]:
            return {"status": NOT_RUN, "reason": "; ".join(found["notes"]), **result}
        return {"status": PASSED, **result, **({"theirs": candidates[name]} if name in candidates else {})}


def waits(folder: Path, environment: Mapping[str, str]) -> Item:
    """Whether a step waits for the GPU."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.gpu.waits", str(folder)],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()] or ["no word"]
        return {"status": FAILED, "reason": last[-1]}
    return waited(json.loads(done.stdout.splitlines()[-1]))


def waited(found: dict[str, Any]) -> Item:
    """The item of what waits.py says."""
    calls = found["profile"].get("calls", {})
    if found["waits"] or calls:
        said = ", ".join(f"{name} {n} times" for name, n in calls.items()) or "by its time"
        return {"status": FAILED, "reason": f"a step waits for the GPU: {said}", **found}
    if found["waits"] is None:
        return {"status": NOT_RUN, **found}
    return {"status": PASSED, **found}


def tell(lines: Lines, bench: Bench, wanted: list[Row], late: Sequence[str] = ()) -> None:
    """Do what is left, what is `late` behind the rest."""
    left = sorted((row for row in wanted if row.name not in lines.done), key=lambda row: row.name in late)
    lines.say(total=len(wanted))
    for precision in dict.fromkeys(row.precision for row in left):
        name = f"peak {precision}"
        lines.say(begin=name)
        item = bench.peak(precision)
        lines.say(item=name, **item)
    for row in left:
        lines.say(begin=row.name)
        try:
            item = bench.row(row)
        except Exception as error:  # of a candidate, of a config that this precision is not for: findings
            item = {"status": FAILED, "reason": f"{type(error).__name__}: {str(error)[:500]}"}
            item |= {"workload": row.workload, "precision": row.precision, "variant": row.variant}
        lines.say(item=row.name, **item)
    lines.say(end=True)


def main() -> None:
    """As a process."""
    only, device = os.environ.get(ONLY) or None, os.environ.get(DEVICE, "cuda")
    with tempfile.TemporaryDirectory(prefix="gpubackprop-bench-") as name:
        lines = Lines()
        late = json.loads(os.environ.get(LATE) or "[]")
        tell(lines, Bench(lines, device, Path(name)), rows(only, device), late)


if __name__ == "__main__":
    main()
