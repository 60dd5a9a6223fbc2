"""Checkpoints: a folder of two safetensors files and a JSON state, written aside and renamed. No pickle.

checkpoints/best/model.safetensors       the state dict, PyTorch's keys and layouts
                 optimizer.safetensors   `<param>.<state>` arrays
                 state.json              step, losses since the last log line, best figure, …

Where the weights are averaged (`training.ema`), model.safetensors holds the average, which is what everybody uses, and
optimizer.safetensors the weights that training goes on from, as `raw.<param>`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpubackprop.backend import HostArray
from gpubackprop.errors import CheckpointError
from gpubackprop.nn.layer import Layer
from gpubackprop.parameters import Param
from gpubackprop.registry import did_you_mean
from gpubackprop.training.step import TrainStep
from gpubackprop.training.trainer import State

FORMAT = 1
RAW = "raw."  #: before the keys of the weights themselves, where model.safetensors holds their average
SCALE = "loss_scale."  #: before the keys of the loss scale's state
CARRY = "carry."  #: before the keys of states that stateful layers hand on from step to step


def save(folder: Path, step: TrainStep, state: State) -> None:
    """Write a checkpoint; whoever reads meanwhile, or after a crash, finds the old one or the new one whole."""
    from safetensors.numpy import save_file

    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    model, average = step.model, step.average
    weights, updates = model.state_dict(), step.optimizer.state_dict()
    updates |= {f"{CARRY}{key}": array for key, array in step.carried().items()}
    if step.loss_scale is not None:
        updates |= {SCALE + name: array for name, array in step.loss_scale.state_dict().items()}
    if average is not None:
        updates |= {RAW + key: weights[key] for key, a in model.built.stored.items() if isinstance(a, Param)}
        with average.swapped():
            weights = model.state_dict()
    save_file(weights, aside / "model.safetensors", metadata={"format": "pt"})
    save_file(updates, aside / "optimizer.safetensors", metadata={"format": "pt"})
    text = {"format": FORMAT, "optimizer_steps": step.optimizer.steps, **asdict(state)}
    (aside / "state.json").write_text(json.dumps(text, indent=1))
    for file in aside.iterdir():
        _flush(file)
    replace(aside, folder)


def replace(aside: Path, folder: Path) -> None:
    """Put `aside` in the place of `folder`. A crash between the two renames leaves the old one as `.NAME.old`."""
    old = folder.with_name(f".{folder.name}.old")
    if folder.exists():  # else the old one, left by a crash, is all there is until the second rename
        shutil.rmtree(old, ignore_errors=True)
        os.rename(folder, old)
    os.rename(aside, folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def find(checkpoints: Path, name: str) -> Path:
    """The folder of a checkpoint, or of its predecessor where a crash came between two renames."""
    folder = _existing(checkpoints, name)
    if folder is not None:
        return folder
    known = sorted(p.name for p in checkpoints.glob("[!.]*")) if checkpoints.is_dir() else []
    there = f"there are: {', '.join(known)}" if known else "there are none yet"
    raise CheckpointError(f"{checkpoints}: no checkpoint {name!r}; {there}{did_you_mean(name, known)}")


def latest(checkpoints: Path) -> Path | None:
    """Where a run goes on: `last`, or `best` where a crash came before the first `last`; or None."""
    return _existing(checkpoints, "last") or _existing(checkpoints, "best")


def _existing(checkpoints: Path, name: str) -> Path | None:
    folders = (checkpoints / name, checkpoints / f".{name}.old")
    return next((folder for folder in folders if (folder / "state.json").exists()), None)


def load_model(folder: Path, model: Layer) -> None:
    """Copy a checkpoint's weights into a built model."""
    path = folder / "model.safetensors"
    with _naming(path):
        model.load_state_dict(_tensors(path))


def load(folder: Path, step: TrainStep) -> State:
    """Copy a checkpoint into a step's model, optimizer and average, and return the state of the run."""
    state, steps = _state(folder)
    model, average = step.model, step.average
    load_model(folder, model)
    path = folder / "optimizer.safetensors"
    with _naming(path):
        saved = _tensors(path)
        raw, carried, scale = (_under(prefix, saved) for prefix in (RAW, CARRY, SCALE))
        updates = {key: array for key, array in saved.items() if not key.startswith((RAW, CARRY, SCALE))}
        step.optimizer.load_state_dict(updates, steps)
        if (average is not None) != bool(raw):
            averaged, now = ("with", "without") if raw else ("without", "with")
            raise CheckpointError(f"was written {averaged} training.ema and cannot be gone on from {now} it")
        if average is not None:
            average.value[...] = average.params.master
            model.load_state_dict(model.state_dict() | raw)
        if step.loss_scale is not None and scale:  # none where a run goes on in float16 that had begun in another
            step.loss_scale.load_state_dict(scale)
        step.carry_on(carried)
    return state


def _under(prefix: str, saved: Mapping[str, HostArray]) -> dict[str, HostArray]:
    return {key.removeprefix(prefix): array for key, array in saved.items() if key.startswith(prefix)}


def load_state(folder: Path) -> State:
    """What state.json holds. Raises CheckpointError where it is damaged or of another format."""
    return _state(folder)[0]


def _state(folder: Path) -> tuple[State, int]:
    path = folder / "state.json"
    try:
        text: dict[str, Any] = json.loads(path.read_text())
        form = text.pop("format", None)
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if form != FORMAT:
        raise CheckpointError(f"{path}: not of format {FORMAT}; it was written by another version of gpubackprop")
    try:
        steps = int(text.pop("optimizer_steps"))
        return State(**text), steps
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the `keep` latest."""
    numbered = sorted(checkpoints.glob("step-*"))
    for folder in numbered[: max(0, len(numbered) - keep)]:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file before what is said about its content."""
    try:
        yield
    except CheckpointError as error:
        raise error if str(error).startswith(str(path)) else CheckpointError(f"{path}: {error}") from error


def _tensors(path: Path) -> Mapping[str, HostArray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on the disk, not only in the page cache."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
