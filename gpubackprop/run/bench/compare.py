"""Candidates side by side: times in turn, ratios, shares of the machine's peak, memory, and time to the first step.

A comparison is a plain dict, as it is written as JSON:

    rounds, slice_seconds, samples, flops   of the measurement, and of one step (flops may be None: unknown)
    base          the candidate that ratios are to
    candidates    by name: seconds (median, quartiles and minimum of a step), slices (every one of them), disturbed
                  (how many of those), ratio (the base's time over its own, pairwise by round: below 1 the base is
                  quicker), samples_per_second,
                  share_of_peak, memory (bytes: imported, peak; on a GPU device and device_peak: what it took there
                  in the end and at most), first_step (seconds from the start of a process),
                  first_start (the same for the very first one, which may have had to compile), runs_on
    peak          flops_per_second, bytes_per_second; None where it was not measured, and share_of_peak then too
    notes         what could not be measured, and why
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from gpubackprop.run.bench.process import BenchError, Candidate
from gpubackprop.run.bench.timing import Slice, in_turn, ratio, step_time
from gpubackprop.run.directory import version_of
from gpubackprop.run.doctor import processor, usable


@dataclass(frozen=True)
class Contender:
    """What is to be run: `python -m *command`.

    ours      it is this package: an error of it is an error, while one of others is a note
    starts    how many times it is started; the last one is measured, and the first one may have had to compile
    variables over `environment`: a cache of its own, which is empty at the first start
    """

    command: Sequence[str]
    ours: bool = False
    starts: int = 2
    variables: Mapping[str, str] = field(default_factory=dict)


def threads_of(number: int | None) -> dict[str, str]:
    """The environment in which every candidate has so many threads, as many as there are processors unless given."""
    wanted = str(number or usable())
    names = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, wanted)


def machine(environment: Mapping[str, str]) -> dict[str, Any]:
    """What the figures were measured on."""
    packages = ("gpubackprop", "numpy", "numba", "torch", "jax", "scikit-learn")
    return {
        "processor": processor(),
        "processors": usable(),
        "threads": int(environment["OMP_NUM_THREADS"]),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "packages": {name: version for name in packages if (version := version_of(name))},
    }


def compare(
    contenders: Mapping[str, Contender],
    base: str,
    *,
    samples: int,
    flops: int | None,
    precision: str = "float32",
    device: str = "cpu",
    environment: Mapping[str, str],
    rounds: int,
    seconds: float,
    with_peak: bool = True,
    differs: Callable[[Mapping[str, Any], Mapping[str, Any]], str | None] = lambda ours, theirs: None,
    notes: Iterable[str] = (),
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Start all, measure them in turn, and end them.

    base      the contender that ratios are to, and whose losses the others' are compared with; the first one
    samples   of one step; flops of one step, None: unknown
    differs   (what the base says of itself, what another says): why it is not the same training, None: it is
    said      hears what is going on

    Raises BenchError where this package itself fails.
    """
    notes = list(notes)
    first_starts: dict[str, float] = {}
    with ExitStack() as stack:

        def start(name: str, contender: Contender) -> Candidate:
            said(f"starting {name}")
            for number in range(contender.starts):
                candidate = Candidate(contender.command, {**environment, **contender.variables})
                first_starts.setdefault(name, candidate.first_step)
                if candidate.cannot or number == contender.starts - 1:
                    break
                candidate.close()
            stack.callback(candidate.close)
            return candidate

        running: dict[str, Candidate] = {}
        for name, contender in contenders.items():
            try:
                candidate = start(name, contender)
            except BenchError as error:
                if contender.ours:
                    raise
                notes.append(f"{name}: not measured: {error}")
                continue
            reason = candidate.cannot or (differs(running[base].about, candidate.about) if running else None)
            if reason:
                notes.append(f"{name}: not measured: {reason}")
            else:
                running[name] = candidate
        limits = {
            kind: start(f"the machine's {kind}", Contender(limit_command(kind, device, precision), True, 1))
            for kind in (("product", "copy") if with_peak else ())
        }
        everyone = {**running, **limits}
        slices = in_turn(
            {name: candidate.slice for name, candidate in everyone.items()},
            rounds,
            seconds,
            said=lambda number: said(f"round {number} of {rounds}"),
        )
        memory = {name: candidate.memory() | candidate.about.get("memory", {}) for name, candidate in running.items()}
    peak = {kind: candidate.about["work"] for kind, candidate in limits.items()}
    share = flops / peak["product"] if flops and peak else None
    return {
        "rounds": rounds,
        "slice_seconds": seconds,
        "samples": samples,
        "flops": flops,
        "base": base,
        "candidates": {
            name: {
                **_figures(slices[name], slices[base], samples),
                "share_of_peak": share and share * ratio(slices["product"], slices[name]).median,
                "memory": memory[name],
                "first_step": candidate.first_step,
                "first_start": first_starts[name],
                "runs_on": candidate.about.get("runs_on"),
            }
            for name, candidate in running.items()
        },
        "peak": {
            "flops_per_second": peak["product"] / step_time(slices["product"]).minimum,
            "bytes_per_second": peak["copy"] / step_time(slices["copy"]).minimum,
        }
        if peak
        else None,
        "notes": notes,
    }


def _figures(slices: Sequence[Slice], base: Sequence[Slice], samples: int) -> dict[str, Any]:
    time = step_time(slices)
    return {
        "seconds": time.to_json(),
        "slices": [each.seconds for each in slices],
        "disturbed": sum(each.disturbed for each in slices),
        "ratio": ratio(base, slices).to_json(),
        "samples_per_second": samples / time.median,
    }


def limit_command(kind: str, device: str, precision: str) -> list[str]:
    """What to run to measure the machine's peak: `product` or `copy`."""
    return ["gpubackprop.run.bench.peak", kind, device, precision]


def beyond_imports(memory: Mapping[str, int | None]) -> int | None:
    """Bytes of a candidate's peak that its libraries do not hold by themselves; None: unknown."""
    peak, imported = memory["peak"], memory["imported"]
    return None if peak is None or imported is None else peak - imported


def bytes_in_words(count: float | None) -> str:
    """`512 MiB`; a dash for what is not known."""
    if count is None:
        return "–"
    return f"{count / 2**20:,.0f} MiB" if count < 2**30 else f"{count / 2**30:.2f} GiB"
