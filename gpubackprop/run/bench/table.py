"""A comparison in words: the rows of the terminal's table, and the lines below it."""

from __future__ import annotations

from typing import Any

from gpubackprop.run.bench.compare import bytes_in_words

COLUMNS = (
    "",
    "ms a step",
    "quartiles",
    "samples/s",
    "ratio",
    "of peak",
    "memory",
    "after imports",
    "first step",
)


def row(name: str, figures: dict[str, Any]) -> list[str]:
    """A candidate's, in the order of COLUMNS."""
    seconds, ratio, memory, share = (figures[key] for key in ("seconds", "ratio", "memory", "share_of_peak"))
    return [
        name,
        number(1e3 * seconds["median"]),
        f"{number(1e3 * seconds['lower'])}–{number(1e3 * seconds['upper'])}",
        f"{figures['samples_per_second']:,.0f}",
        f"{ratio['median']:.2f}",
        "–" if share is None else f"{share:.0%}",
        bytes_in_words(memory["peak"]),
        bytes_in_words(memory["imported"]),
        f"{figures['first_step']:.2f} s",
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The table for the terminal; below it what was measured, on what, and how well."""
    rows = [COLUMNS, *(row(name, figures) for name, figures in found["candidates"].items())]
    widths = [max(len(each[i]) for each in rows) for i in range(len(COLUMNS))]
    aligned = [
        "  ".join([each[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(each[1:], widths[1:], strict=True))])
        for each in rows
    ]
    return [*aligned, "", *circumstances(found)]


def circumstances(found: dict[str, Any]) -> list[str]:
    """What was measured, on what, and how well."""
    machine, peak = found["machine"], found["peak"]
    work = f", about {found['flops'] / 1e9:,.3g} GFLOP a step" if found["flops"] else ""
    disturbed = sum(each["disturbed"] for each in found["candidates"].values())
    total = found["rounds"] * len(found["candidates"])
    first = found["candidates"][found["base"]]
    return [
        f"{found['name']}: {found['samples']:,} samples{work}; {first['runs_on']}",
        f"{machine['processor']}, {machine['threads']} of {machine['processors']} processors",
        f"peak: {peak['flops_per_second'] / 1e9:,.0f} GFLOP/s (products of matrices), "
        f"{peak['bytes_per_second'] / 1e9:,.1f} GB/s (copying)",
        f"{found['rounds']} rounds of {found['slice_seconds']:g} s; {disturbed} of {total} slices were disturbed by "
        "other programs",
        f"the very first start of {found['base']}, which may have to compile, took {first['first_start']:.2f} s to "
        "the first step",
    ]


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
