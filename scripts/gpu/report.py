"""The results as text: what passed, failed or did not run; worst errors of kernels; steps beside PyTorch's."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import exp, log
from typing import Any

from scripts.gpu.record import FAILED, NOT_RUN, PASSED, Item, Record

DTYPES = ("float64", "float32", "float16", "bfloat16")
VARIANTS = ("eager", "channels_last", "compile", "max-autotune")
LIMIT = 1.15  #: of ours / best PyTorch, for one workload
HEADS = (
    *(
        "workload",
        "precision",
        "ours, ms",
        "eager, ms",
        "channels_last, ms",
        "compile, ms",
        "max-autotune, ms",
        "ours / best",
        "ours / eager",
    ),
    *("TFLOP/s", "of peak", "memory, GiB", "best's memory", "waits"),
)


def text(record: Record, part: str | None = None) -> str:
    """All of it, or a part."""
    machine = record.content["machine"]
    blocks = ["; ".join(f"{key} {value}" for key, value in _machine(machine).items())] if machine else []
    for each, made in (("tests", _tests), ("kernels", _kernels), ("bench", _bench)):
        items = record.items(each)
        if items and part in (None, each):
            blocks.append("\n".join([f"== {each}: {counts(items)}", *made(items), *_troubles(items)]))
            if outdated := record.outdated(each):
                blocks.append(f"{len(outdated)} of these are of another state of the checkout")
    return "\n\n".join(blocks)


def _machine(machine: Mapping[str, Any]) -> dict[str, Any]:
    packages = ", ".join(f"{name} {version}" for name, version in machine.get("packages", {}).items())
    return {"GPU": machine.get("gpu"), "driver": machine.get("driver"), "packages": packages}


def counts(items: Mapping[str, Item]) -> str:
    """`3 passed, 1 not run`."""
    found = Counter(item["status"] for item in items.values())
    return ", ".join(f"{found[status]} {status}" for status in (PASSED, FAILED, NOT_RUN) if found[status])


def _troubles(items: Mapping[str, Item]) -> list[str]:
    """What failed, each with its reason; what did not run by reason."""
    failed = [f"FAILED: {name}: {item['reason']}" for name, item in items.items() if item["status"] == FAILED]
    reasons = Counter(item["reason"] for item in items.values() if item["status"] == NOT_RUN)
    return [*failed, *(f"NOT RUN: {count} for: {reason}" for reason, count in reasons.most_common())]


def _tests(items: Mapping[str, Item]) -> list[str]:
    return []


def _kernels(items: Mapping[str, Item]) -> list[str]:
    """The worst error by kernel and dtype."""
    worst: dict[str, dict[str, float | str]] = defaultdict(dict)
    for item in items.values():
        if "kernel" not in item:
            continue
        cells, dtype = worst[item["kernel"]], item["dtype"]
        before = cells.get(dtype, 0.0)
        if item["status"] == FAILED or before == FAILED:
            cells[dtype] = FAILED
        elif item["status"] == NOT_RUN:
            cells.setdefault(dtype, NOT_RUN)
        else:
            cells[dtype] = max(item["error"], before if isinstance(before, float) else 0.0)
    rows = [
        [name, *(f"{cell:.1e}" if isinstance(cell := cells.get(d, "–"), float) else str(cell) for d in DTYPES)]
        for name, cells in sorted(worst.items())
    ]
    seeds = sorted({str(item["seed"]) for item in items.values() if "seed" in item})
    return [*table(["worst error of", *DTYPES], rows), f"seeds: {', '.join(seeds)}"] if rows else []


def _bench(items: Mapping[str, Item]) -> list[str]:
    """A row for each workload in each precision."""
    grouped: dict[tuple[str, str], dict[str, Item]] = defaultdict(dict)
    for item in items.values():
        if "variant" in item:
            grouped[item["workload"], item["precision"]][item["variant"]] = item
    rows = {key: line for key, found in grouped.items() if (line := bench_row(*key, found)) is not None}
    ratios = {key: best[1] for key, found in grouped.items() if (best := best_ratio(found)) is not None}
    eager = [found["eager"]["theirs"]["ratio"]["median"] for found in grouped.values() if _has(found, "eager")]
    below = [f"peaks: {', '.join(peaks(items))}"]
    if ratios:
        slow = [" ".join(key) for key, ratio in ratios.items() if ratio > LIMIT]
        above = f"; above {LIMIT}: {', '.join(slow)}" if slow else f"; none above {LIMIT}"
        below.append(f"geometric mean of ours / best PyTorch {mean(ratios.values()):.3f}{above}")
    if eager:
        below.append(f"geometric mean of ours / eager {mean(eager):.3f}")
    below.append(
        "ms: medians of slices, both programs in turn; ours / best: medians of the same rounds' ratios, and quartiles; "
        "memory: what a process took of the GPU's; peak: the quickest product of two 8192×8192 matrices of normal "
        "random numbers, ours or PyTorch's, of the same call; waits: whether a step waits for the GPU"
    )
    return [*table(HEADS, list(rows.values())), *below] if rows else []


def _has(found: Mapping[str, Item], variant: str) -> bool:
    return "theirs" in found.get(variant, {})


def best_ratio(found: Mapping[str, Item]) -> tuple[str, float] | None:
    """PyTorch's quickest variant, and our time over its; None where there is none. By ratios, which noise spares."""
    ratios = {v: found[v]["theirs"]["ratio"]["median"] for v in VARIANTS if _has(found, v)}
    return max(ratios.items(), key=lambda pair: pair[1]) if ratios else None


def bench_row(workload: str, precision: str, found: Mapping[str, Item]) -> list[str] | None:
    """In the order of HEADS; None where not even ours was measured."""
    measured = [item for item in found.values() if "ours" in item]
    if not measured:
        return None
    best = best_ratio(found)
    item = found[best[0]] if best else measured[0]
    ours, flops = item["ours"], item["flops"]
    speed = flops / ours["seconds"]["median"]
    ratio = item["theirs"]["ratio"] if best else None
    waits = found.get("waits", {}).get("waits")
    return [
        workload,
        precision,
        f"{_ms(ours)} ({_number(1e3 * ours['seconds']['lower'])}–{_number(1e3 * ours['seconds']['upper'])})",
        *(_ms(found[v]["theirs"]) if _has(found, v) else "–" for v in VARIANTS),
        f"{ratio['median']:.3f} ({ratio['lower']:.3f}–{ratio['upper']:.3f})" if ratio else "–",
        f"{found['eager']['theirs']['ratio']['median']:.3f}" if _has(found, "eager") else "–",
        _number(speed / 1e12),
        f"{speed / item['peak']:.1%}" if item.get("peak") else "–",
        _memory(ours),
        _memory(item["theirs"]) if best else "–",
        "–" if waits is None else "yes" if waits else "no",
    ]


def peaks(items: Mapping[str, Item]) -> Iterable[str]:
    """Of each precision, in words."""
    for name, item in items.items():
        if "flops_per_second" in item:
            speeds = ", ".join(f"{who} {speed / 1e12:,.0f} TFLOP/s" for who, speed in item["flops_per_second"].items())
            yield f"{name.removeprefix('peak ')} ({speeds})"


def mean(values: Iterable[float]) -> float:
    """The geometric one."""
    logs = [log(value) for value in values]
    return exp(sum(logs) / len(logs))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of Markdown, aligned."""
    widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *rows]
    return ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines]


def _ms(figures: Mapping[str, Any]) -> str:
    return _number(1e3 * figures["seconds"]["median"])


def _memory(figures: Mapping[str, Any]) -> str:
    held = figures["memory"].get("device")
    return "–" if held is None else f"{held / 2**30:.2f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
