"""`bench`: a config's step on its own first batches, with our kernels, with the references, and by PyTorch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gpubackprop import data as data_floor
from gpubackprop.backend import NumpyBackend, choose, cpu
from gpubackprop.backend.precision import PRECISIONS
from gpubackprop.nn.conv import Conv2d
from gpubackprop.run.bench.compare import Contender, compare, machine, threads_of
from gpubackprop.run.bench.task import Task, difference
from gpubackprop.run.check import Plan, make_plan
from gpubackprop.run.summary import forward_flops
from gpubackprop.tape import Tape
from gpubackprop.training.step import batch_loss, on_device, samples_in

OURS = "gpubackprop"  #: the base of the comparison
DEFAULT = "digits_mlp"  #: a template whose data comes with the install


def bench(
    config: str | Path | Mapping[str, Any] = DEFAULT,
    overrides: Iterable[str] = (),
    *,
    rounds: int = 7,
    seconds: float = 0.3,
    threads: int | None = None,
    torch_compile: bool = False,
    said: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measure a training step of a config; a dict with `format`, `name`, `machine` and what `compare` gives.

    rounds, seconds  how many slices of every candidate, and how long each of them is
    threads          of every candidate; as many as there are processors unless given
    torch_compile    measure torch.compile too, which takes a minute to begin

    Raises ConfigError, DataError, DeviceError before anything is measured; BenchError.
    """
    plan = make_plan(config, overrides)
    backend, _ = choose(plan.config.device, "reference")
    device, precision, environment = backend.device, plan.config.precision, threads_of(threads)
    task = make_task(plan)
    with tempfile.TemporaryDirectory(prefix="gpubackprop-bench-") as folder:
        task.write(Path(folder))
        contenders, notes = contenders_of(folder, plan, device, torch_compile)
        samples = sum(samples_in(batch) for batch in task.batches)
        compared = compare(
            contenders,
            OURS,
            samples=samples,
            flops=3 * samples * forward_flops(plan.model) or None,
            precision=precision,
            device=device,
            environment=environment,
            rounds=rounds,
            seconds=seconds,
            differs=partial(difference, task),
            notes=notes,
            said=said,
        )
    return {"format": 1, "name": plan.config.name, "machine": machine(environment), **compared}


def uncompiled() -> str | None:
    """Why the CPU's kernels are the references here, None: they are compiled."""
    backend, words = cpu()
    return words if type(backend) is NumpyBackend else None


def make_task(plan: Plan) -> Task:
    """The first training batches of a config, as many as make a step, and the weights that it starts with."""
    config, count = plan.config, plan.config.training.accumulate
    dtype = PRECISIONS[config.precision]
    prepared = data_floor.prepare(plan.source, plan.options, seed=config.seed, dtype=dtype, accumulate=count)
    batches = [prepared.train.batch(0, number) for number in range(min(count, len(prepared.train)))]
    plan.model.build(plan.info.input_shape, config.seed, "cpu", config.precision, "reference")
    return Task(config.resolved(), batches, plan.model.state_dict(), draws(plan, batches[0]))


def draws(plan: Plan, batch: Mapping[str, Any]) -> bool:
    """Whether the training loss depends on random numbers: it is another in another step."""
    model, losses = plan.model, []
    for step in range(2):
        backend = model.built.backend
        samples = backend.xp.arange(samples_in(batch))
        tape = Tape(backend, training=True, seed=plan.config.seed, step=step, samples=samples)
        losses.append(float(batch_loss(model, plan.loss, tape, on_device(model, plan.loss, batch))[1].value))
    return losses[0] != losses[1]


def contenders_of(folder: str, plan: Plan, device: str, torch_compile: bool) -> tuple[dict[str, Contender], list[str]]:
    """Who takes part, by name, ours first; and notes of who does not."""
    module, notes = "gpubackprop.run.bench", []
    kernels = plan.config.kernels
    found = {OURS: Contender([f"{module}.ours", folder, device, kernels], ours=True)}
    reason = uncompiled() if device == "cpu" and kernels == "auto" else None
    if reason:
        notes.append(f"{OURS}: its references were measured, since it runs on {reason}")
    elif device == "cpu" and kernels == "auto":
        found[f"{OURS}, reference kernels"] = Contender([f"{module}.ours", folder, device, "reference"], ours=True)
    if find_spec("torch") is None:
        notes.append("PyTorch: not measured: it is not installed")
    elif device != "cpu":
        notes.append(f"PyTorch: not measured: its twin is for the CPU, and this is {device}")
    else:
        images = any(isinstance(layer, Conv2d) for _, layer in plan.model.walk())
        variants = ["eager", *(["channels_last"] if images else []), *(["compile"] if torch_compile else [])]
        for variant in variants:
            found[f"PyTorch {variant}"] = Contender([f"{module}.pytorch", folder, variant])
    return found, notes
