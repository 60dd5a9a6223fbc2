"""The CPU benchmark in words: README's table, and the plot of how the cost grows."""

from __future__ import annotations

from pathlib import Path
from textwrap import wrap
from typing import Any

from gpubackprop.run.bench.compare import beyond_imports, bytes_in_words
from gpubackprop.run.bench.table import counted, disturbed, doubts, number
from scripts.bench.workloads import WORKLOADS

OURS = "gpubackprop"
BEGIN, END = "<!-- bench-cpu -->", "<!-- /bench-cpu -->"  #: around README's table
HEADS = (
    "workload",
    "gpubackprop, ms",
    "best PyTorch, ms",
    "gpubackprop / best PyTorch",
    "/ eager",
    "of peak",
    "memory, MiB",
    "eager's memory",
    "first step, s",
    "eager's first step",
)


def table(results: dict[str, Any]) -> str:
    """A Markdown table of all workloads, and a paragraph about machine and method."""
    rows = [HEADS, ("---",) * len(HEADS), *(_row(name, found) for name, found in results["workloads"].items())]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    below = [
        line
        for each in [*circumstances(results), *_others(results)]
        for line in ["", *wrap(each, 120, break_on_hyphens=False)]
    ]
    return "\n".join([*lines, *below])


def _row(name: str, found: dict[str, Any]) -> tuple[str, ...]:
    candidates = found["candidates"]
    ours = candidates[OURS]
    best = best_pytorch(found)
    share = "–" if ours["share_of_peak"] is None else f"{ours['share_of_peak']:.0%}"
    own = (
        _ms(ours) + _noise(ours),
        share,
        _memory(ours),
        f"{ours['first_step']:.1f} (cold cache {ours['first_start']:.1f})",
    )
    if best is None:
        return WORKLOADS[name].title, own[0], "–", "–", "–", own[1], own[2], "–", own[3], "–"
    eager = candidates["PyTorch eager"]
    return (
        WORKLOADS[name].title,
        own[0],
        f"{_ms(candidates[best])} ({best.removeprefix('PyTorch ')}){_noise(candidates[best])}",
        f"**{candidates[best]['ratio']['median']:.2f}** ({_range(candidates[best]['ratio'])})",
        f"{eager['ratio']['median']:.2f}",
        own[1],
        own[2],
        _memory(eager),
        own[3],
        f"{eager['first_step']:.1f}",
    )


def best_pytorch(found: dict[str, Any]) -> str | None:
    """PyTorch's quickest variant; None where there is none."""
    times = {
        name: each["seconds"]["median"] for name, each in found["candidates"].items() if name.startswith("PyTorch")
    }
    return min(times, key=lambda name: times[name]) if times else None


def _ms(figures: dict[str, Any]) -> str:
    return number(1e3 * figures["seconds"]["median"])


def _noise(figures: dict[str, Any]) -> str:
    return f"; {disturbed(figures)} slices disturbed" if figures["disturbed"] else ""


def _range(ratio: dict[str, float]) -> str:
    return f"{ratio['lower']:.2f}–{ratio['upper']:.2f}"


def _memory(figures: dict[str, Any]) -> str:
    """The peak, and what of it is not the imports'."""
    peak, beyond = figures["memory"]["peak"], beyond_imports(figures["memory"])
    return "–" if beyond is None else f"{peak / 2**20:,.0f} ({beyond / 2**20:,.0f})"


def circumstances(results: dict[str, Any]) -> list[str]:
    """What the figures were measured on, and how."""
    machine, some = results["machine"], next(iter(results["workloads"].values()))
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items() if name != "gpubackprop")
    everyone = [each for found in results["workloads"].values() for each in found["candidates"].values()]
    shaken, total = sum(each["disturbed"] for each in everyone), sum(len(each["slices"]) for each in everyone)
    peaks = [found["peak"] for found in results["workloads"].values() if found["peak"]]
    runs_on = sorted({found["candidates"][OURS]["runs_on"] for found in results["workloads"].values()})
    uncompiled = [words for words in runs_on if not words.startswith("kernels")]
    peak = ""
    if peaks:
        flops, copied = (max(each[key] for each in peaks) for key in ("flops_per_second", "bytes_per_second"))
        peak = f"; peak {flops / 1e9:,.0f} GFLOP/s, {copied / 1e9:,.0f} GB/s"
    return [
        f"{machine['processor']}, {counted(machine['threads'], 'thread')} each{peak}. Python {machine['python']}, "
        f"{versions}. Medians of {counted(some['rounds'], 'slice')} of {some['slice_seconds']:g} s, each candidate in "
        f"a process of its own, in turn; ratios are of the same round, with quartiles; {shaken} of {total} slices "
        "were disturbed by other programs. Of peak: the work of direct convolution, of which Winograd's needs less, "
        "hence more than 100%. Memory is the peak, in parentheses what of it is beyond the imports."
        + "".join(f" **{OURS} ran on {words}.**" for words in uncompiled),
    ]


def _others(results: dict[str, Any]) -> list[str]:
    """Lines about JAX and scikit-learn where they took part, and what could not be measured."""
    lines = []
    for name in ("JAX", "scikit-learn"):
        times = [
            f"{workload} {found['candidates'][name]['ratio']['median']:.3f}"
            for workload, found in results["workloads"].items()
            if name in found["candidates"]
        ]
        if times:
            lines += [f"{OURS} / {name}: {', '.join(times)}."]
    return lines


def details(results: dict[str, Any]) -> str:
    """Every candidate of every workload, for the terminal."""
    lines = []
    for name, found in results["workloads"].items():
        lines.append(f"{name}: {WORKLOADS[name].title}")
        for candidate, each in found["candidates"].items():
            ratio, memory = each["ratio"], each["memory"]
            lines.append(
                f"  {candidate:<30} {_ms(each):>8} ms  ours / theirs {ratio['median']:.3f} "
                f"({ratio['lower']:.3f}–{ratio['upper']:.3f})  memory {bytes_in_words(memory['peak'])}  "
                f"first step {each['first_step']:.2f} s, the very first {each['first_start']:.2f} s{_noise(each)}"
            )
        lines += [f"  {note}" for note in [*doubts(found["candidates"]), *found["notes"]]]
    return "\n".join(lines)


def in_readme(text: str) -> str | None:
    """What stands between README's markers; None where there are none."""
    if BEGIN not in text:
        return None
    return text.partition(BEGIN)[2].partition(END)[0].strip()


def into_readme(text: str, results: dict[str, Any]) -> str:
    """README with the table between its markers. Raises ValueError where there are none."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"README.md: {BEGIN} and {END} are missing, between which the table stands")
    return f"{before}{BEGIN}\n{table(results)}\n{END}{after}"


def plot(growth: dict[str, Any], path: Path) -> None:
    """Step time over what is doubled, on logarithmic axes; a picture in the format of the path's suffix."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(growth), figsize=(4 * len(growth), 3.5), layout="constrained")
    for axis, (title, found) in zip(axes.flat if len(growth) > 1 else [axes], growth.items(), strict=True):
        for name, seconds in found["candidates"].items():
            axis.plot(found["values"], [1e3 * each for each in seconds], marker="o", label=name)
        axis.set_xscale("log", base=2)
        axis.set_yscale("log", base=2)
        axis.set_xticks(found["values"], labels=map(str, found["values"]))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.set_xlabel(title)
        axis.set_ylabel("ms a step")
        axis.grid(alpha=0.3)
    figure.legend(*axis.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(
        path, metadata={"Creator": None, "Date": None} if path.suffix == ".svg" else None
    )  # same in, same out
    pyplot.close(figure)
