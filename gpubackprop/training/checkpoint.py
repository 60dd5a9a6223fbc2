"""Checkpoints: a folder of two safetensors files and a JSON state, written aside and renamed. No pickle.

checkpoints/best/model.safetensors       the state dict, PyTorch's keys and layouts
                 optimizer.safetensors   `<param>.<state>` arrays
                 state.json              step, losses since the last log line, best figure, …
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gpubackprop.backend import HostArray
from gpubackprop.errors import CheckpointError
from gpubackprop.nn.layer import Layer
from gpubackprop.optim import Optimizer
from gpubackprop.training.trainer import State

FORMAT = 1


def save(folder: Path, model: Layer, optimizer: Optimizer, state: State) -> None:
    """Write a checkpoint; whoever reads meanwhile, or after a crash, finds the old one or the new one whole."""
    from safetensors.numpy import save_file

    aside = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(model.state_dict(), aside / "model.safetensors", metadata={"format": "pt"})
    save_file(optimizer.state_dict(), aside / "optimizer.safetensors", metadata={"format": "pt"})
    text = {"format": FORMAT, "optimizer_steps": optimizer.steps, **asdict(state)}
    (aside / "state.json").write_text(json.dumps(text, indent=1))
    for file in aside.iterdir():
        _flush(file)
    replace(aside, folder)


def replace(aside: Path, folder: Path) -> None:
    """Put `aside` in the place of `folder`. A crash between the two renames leaves the old one as `.NAME.old`."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(aside, folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def find(checkpoints: Path, name: str) -> Path:
    """The folder of a checkpoint, or of its predecessor where a crash came between two renames."""
    for folder in (checkpoints / name, checkpoints / f".{name}.old"):
        if (folder / "state.json").exists():
            return folder
    known = sorted(p.name for p in checkpoints.glob("[!.]*")) if checkpoints.is_dir() else []
    raise CheckpointError(f"{checkpoints}: no checkpoint {name!r}; there are: {', '.join(known) or 'none'}")


def load_model(folder: Path, model: Layer) -> None:
    """Copy a checkpoint's weights into a built model."""
    model.load_state_dict(_tensors(folder / "model.safetensors"))


def load(folder: Path, model: Layer, optimizer: Optimizer) -> State:
    """Copy a checkpoint into a built model and its optimizer, and return the state of the run."""
    text = load_state(folder)
    load_model(folder, model)
    optimizer.load_state_dict(_tensors(folder / "optimizer.safetensors"), text.pop("optimizer_steps"))
    return State(**text)


def load_state(folder: Path) -> dict[str, Any]:
    """The parsed state.json, its format checked and taken off."""
    path = folder / "state.json"
    try:
        text: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if text.pop("format", None) != FORMAT:
        raise CheckpointError(f"{path}: not of format {FORMAT}; it was written by another version of gpubackprop")
    return text


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all numbered checkpoints but the `keep` latest."""
    numbered = sorted(checkpoints.glob("step-*"))
    for folder in numbered[: max(0, len(numbered) - keep)]:
        shutil.rmtree(folder, ignore_errors=True)


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
