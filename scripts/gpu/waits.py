"""Whether a step waits for the GPU: python -m scripts.gpu.waits FOLDER prints a JSON object.

The GPU is given a kernel that does nothing for a second, and behind it twenty steps. Where Python has begun them all
while that kernel still runs, nothing in a step waits for the GPU. Where PyTorch is installed, its profiler, which sees
the CUDA calls of the whole process, counts what waits or copies back; a graph's launch is counted too.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

STEPS, WARM = 20, 5
SECONDS = 1.0
WAITS = ("Synchronize", "Memcpy DtoH", "cudaMemcpy", "cuMemcpyDtoH")
GRAPHS = ("cudaGraphLaunch", "cuGraphLaunch")
IDLE = r"""
extern "C" __global__ void idle(long long nanoseconds) {
    long long begin, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(begin));
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); while (now - begin < nanoseconds);
}
"""


def judged(began: float, done: float, held: float) -> dict[str, Any]:
    """Of the seconds until all steps were begun, and until they were done, behind a kernel that `held` the GPU up."""
    if done < 0.9 * held:
        return {"waits": None, "reason": "the steps did not wait for the idle kernel: another stream; it says nothing"}
    return {"waits": began > 0.5 * held, "began": began, "done": done, "steps": STEPS}


def behind_idle(step: Callable[[], Any], wait: Callable[[], Any], idle: Callable[[], Any]) -> dict[str, Any]:
    """Steps behind a kernel that does nothing for SECONDS."""
    start = perf_counter()
    idle()
    for _ in range(STEPS):
        step()
    began = perf_counter() - start
    wait()
    return judged(began, perf_counter() - start, SECONDS)


def counted(names: Counter[str]) -> dict[str, Any]:
    """What of the CUDA calls waits, and how many graphs were launched."""
    waiting = {name: n for name, n in names.items() if any(word in name for word in WAITS) and "Async" not in name}
    return {"calls": waiting, "graphs": sum(n for name, n in names.items() if name in GRAPHS)}


def profiled(step: Callable[[], Any]) -> dict[str, Any]:
    """The calls of STEPS steps, by PyTorch's profiler; in words why there is none."""
    try:
        torch = import_module("torch")
    except ImportError:
        return {"reason": "no profile: PyTorch, whose profiler it is, is not installed"}
    if not torch.cuda.is_available():
        return {"reason": "no profile: this PyTorch cannot use the GPU"}
    profiler = torch.profiler
    torch.cuda.synchronize()
    activities = [profiler.ProfilerActivity.CPU, profiler.ProfilerActivity.CUDA]
    with profiler.profile(activities=activities) as profile, profiler.record_function("steps"):
        for _ in range(STEPS):
            step()
    found = inside([(each.name, each.device_type.name, each.time_range) for each in profile.events()])
    return counted(found) if found else {"reason": "the profiler saw no CUDA call of this process"}


def inside(events: Sequence[tuple[str, str, Any]]) -> Counter[str]:
    """How often what happened during the steps: calls while Python was in them, and whatever the GPU itself did. The
    profiler waits for the GPU too, when it begins and when it ends.
    """
    span = next(span for name, where, span in events if name == "steps" and where == "CPU")
    return Counter(
        name
        for name, where, each in events
        if name != "steps" and each.start >= span.start and (where != "CPU" or each.start <= span.end)
    )


def main(folder: str) -> None:
    """Look."""
    from gpubackprop.run.bench.ours import OnGpu
    from gpubackprop.run.bench.task import Task

    ours = OnGpu(Task.read(Path(folder)), "cuda", "auto")
    cupy, backend = ours.cupy, ours.model.built.backend
    kernel = cupy.RawKernel(IDLE, "idle")
    nanoseconds = cupy.int64(SECONDS * 1e9)
    with backend.running():
        kernel((1,), (1,), (cupy.int64(0),))
        for _ in range(WARM):
            ours.launch()
        ours.wait()
        found = behind_idle(ours.launch, ours.wait, lambda: kernel((1,), (1,), (nanoseconds,)))
        profile = profiled(ours.launch)
    print(json.dumps({**found, "profile": profile}))


if __name__ == "__main__":
    main(*sys.argv[1:])
