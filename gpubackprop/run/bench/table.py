"""A comparison in words: the rows of the terminal's table, and the lines below it."""

from __future__ import annotations

from typing import Any

from gpubackprop.run.bench.compare import beyond_imports, bytes_in_words

COLUMNS = (
    "",
    "ms a step",
    "quartiles",
    "samples/s",
    "ours / theirs",
    "of peak",
    "peak memory",
    "beyond imports",
    "first step",
    "disturbed",
)
LEGEND = (
    "ours / theirs: the time of a step of {base} over that of the line, of the same round; below 1 {base} is quicker",
    "of peak: of the speed at which this machine multiplies matrices; Winograd's convolutions can come above 100%",
    "beyond imports: the peak less what the process held when its libraries had been imported",
    "first step: from the start of the process, libraries and what is compiled in a cache already",
)


def row(name: str, figures: dict[str, Any]) -> list[str]:
    """A candidate's, in the order of COLUMNS."""
    seconds, ratio, memory, share = (figures[key] for key in ("seconds", "ratio", "memory", "share_of_peak"))
    return [
        name,
        number(1e3 * seconds["median"]),
        f"{number(1e3 * seconds['lower'])}–{number(1e3 * seconds['upper'])}",
        f"{figures['samples_per_second']:,.0f}",
        number(ratio["median"]),
        "–" if share is None else f"{share:.0%}",
        bytes_in_words(memory["peak"]),
        bytes_in_words(beyond_imports(memory)),
        f"{figures['first_step']:.2f} s",
        disturbed(figures) or "–",
    ]


def lines(found: dict[str, Any]) -> list[str]:
    """The table for the terminal; below it what was measured, on what, and how well."""
    rows = [COLUMNS, *(row(name, figures) for name, figures in found["candidates"].items())]
    widths = [max(len(each[i]) for each in rows) for i in range(len(COLUMNS))]
    aligned = [
        "  ".join([each[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(each[1:], widths[1:], strict=True))])
        for each in rows
    ]
    legend = [line.format(base=found["base"]) for line in LEGEND]
    return [*aligned, "", *doubts(found["candidates"]), *circumstances(found), *legend]


def disturbed(figures: dict[str, Any]) -> str:
    """`2 of 7`: slices during which other programs used the machine, nothing where there were none."""
    return f"{figures['disturbed']} of {len(figures['slices'])}" if figures["disturbed"] else ""


def doubts(candidates: dict[str, Any]) -> list[str]:
    """A warning where other programs used the machine."""
    shaken = [name for name, each in candidates.items() if each["disturbed"]]
    lost = [name for name in shaken if candidates[name]["disturbed"] == len(candidates[name]["slices"])]
    if lost:
        return [
            f"WARNING: other programs used the machine during every slice of {'; '.join(lost)}: these figures are too "
            "slow, or say nothing; measure again when it is quiet"
        ]
    if shaken:
        return [
            f"WARNING: other programs used the machine during slices of {'; '.join(shaken)}, which are left out of its "
            "figures: fewer slices count than were asked for"
        ]
    return []


def circumstances(found: dict[str, Any]) -> list[str]:
    """What was measured, on what, and how well."""
    machine, peak = found["machine"], found["peak"]
    work = f", about {found['flops'] / 1e9:,.3g} GFLOP a step" if found["flops"] else ""
    first = found["candidates"][found["base"]]
    return [
        f"{found['name']}: {counted(found['samples'], 'sample')}{work}; {first['runs_on']}",
        f"{machine['processor']}, {counted(machine['threads'], 'thread')} on "
        f"{counted(machine['processors'], 'processor')}",
        f"peak: {peak['flops_per_second'] / 1e9:,.0f} GFLOP/s (products of matrices), "
        f"{peak['bytes_per_second'] / 1e9:,.1f} GB/s (copying)",
        f"{counted(found['rounds'], 'round')}, in each a slice of {found['slice_seconds']:g} s of every line",
        f"the very first start of {found['base']}, which may have to compile, took {first['first_start']:.2f} s to "
        "the first step",
    ]


def counted(count: int, what: str) -> str:
    """`1 round`, `7 rounds`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def number(value: float) -> str:
    """Three digits that count, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
