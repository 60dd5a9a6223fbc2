"""The run directory: which file is where, and that none is half written.

runs/<name>/<YYYYmmdd-HHMMSS>/
    config.yaml  config.resolved.yaml  environment.json  preprocessing.json
    metrics.jsonl  train.log  tensorboard/
    checkpoints/{last,best,step-00000500}/
"""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterator
from datetime import datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from gpubackprop.errors import CheckpointError, UsageError

FORMAT = 1


class RunDirectory:
    """Paths of one run. `create` makes a new one, `RunDirectory(path)` opens one that exists."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.resolved = self.path / "config.resolved.yaml"
        self.environment = self.path / "environment.json"
        self.preprocessing = self.path / "preprocessing.json"
        self.metrics = self.path / "metrics.jsonl"
        self.log = self.path / "train.log"
        self.tensorboard = self.path / "tensorboard"
        self.checkpoints = self.path / "checkpoints"

    @classmethod
    def create(cls, name: str, path: str | Path | None = None) -> RunDirectory:
        """`path`, which must be new or empty, or else `runs/<name>/<now>`, with `-2`, `-3`, … where that is taken."""
        if path is not None:
            check_new(path)
            os.makedirs(path, exist_ok=True)
            return cls(path)
        stamp = Path("runs") / name / datetime.now().strftime("%Y%m%d-%H%M%S")
        for candidate in _numbered(stamp):
            try:
                os.makedirs(candidate)  # fails where it exists: two runs that start at once get two directories
            except FileExistsError:
                continue
            except OSError as error:
                raise UsageError(
                    f"{candidate}: cannot be created ({error.strerror}); choose another with --run-dir"
                ) from error
            return cls(candidate)
        raise AssertionError("unreachable")

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """A directory that a run has written. Raises CheckpointError where it is none."""
        run = cls(path)
        if not run.path.is_dir():
            raise CheckpointError(f"{path}: no such run directory")
        if not run.resolved.is_file():
            raise CheckpointError(f"{path}: not a run directory (it holds no config.resolved.yaml)")
        return run

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Write `content` aside and rename, with the format's number."""
        write_text(path, json.dumps({"format": FORMAT, **content}, indent=1) + "\n")

    def read_json(self, path: Path) -> dict[str, Any]:
        """Content of a file that write_json wrote."""
        try:
            content: dict[str, Any] = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path}: cannot be read ({error})") from error
        if content.pop("format", None) != FORMAT:
            raise CheckpointError(f"{path}: not of format {FORMAT}; it was written by another version of gpubackprop")
        return content

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond `step`: the resumed run writes them again."""
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))


def check_new(path: str | Path) -> None:
    """Raise UsageError unless `path` is new or an empty directory."""
    found = Path(path)
    if found.exists() and (not found.is_dir() or any(found.iterdir())):
        raise UsageError(f"{path}: exists and is not an empty directory; a run directory must be new or empty")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a metrics.jsonl; a last line that a crash cut short is left out."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def write_text(path: Path, text: str) -> None:
    """Replace a file's content, whole or not at all."""
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(text)
    os.replace(aside, path)


def environment(device: str) -> dict[str, Any]:
    """What a run ran on: program, Python, libraries, machine, device, and the variables that change its speed."""
    packages = ("gpubackprop", "numpy", "scipy", "scikit-learn", "safetensors", "cupy-cuda12x", "cupy-cuda13x")
    variables = ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {
        "device": device,
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "packages": {name: version for name in packages if (version := version_of(name))},
        "variables": {name: os.environ[name] for name in variables if name in os.environ},
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
    }


def version_of(package: str) -> str | None:
    """The installed version, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1
