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

_ELSEWHERE = "; choose another place with --run-dir"
_DAMAGED = "restore it, or delete it, and kernels are chosen anew"


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
    def check(cls, name: str, path: str | Path | None = None) -> None:
        """Raise UsageError where `create` would fail; nothing is created."""
        wanted = Path("runs") / name if path is None else Path(path)
        if path is not None and wanted.exists() and (not wanted.is_dir() or any(wanted.iterdir())):
            raise UsageError(f"{path}: exists and is not an empty directory; a run directory must be new or empty")
        nearest = next(folder for folder in (wanted, *wanted.absolute().parents) if folder.exists())
        if not nearest.is_dir():
            raise UsageError(f"{wanted}: cannot be created ({nearest} is not a directory){_ELSEWHERE}")
        if not os.access(nearest, os.W_OK | os.X_OK):
            raise UsageError(f"{wanted}: cannot be created ({nearest} is not writable){_ELSEWHERE}")

    @classmethod
    def create(cls, name: str, path: str | Path | None = None) -> RunDirectory:
        """`path`, which must be new or empty, or else `runs/<name>/<now>`, with `-2`, `-3`, … where that is taken."""
        cls.check(name, path)
        stamp = Path("runs") / name / datetime.now().strftime("%Y%m%d-%H%M%S")
        for candidate in _numbered(stamp) if path is None else [Path(path)]:
            try:
                # Fails where it exists: two runs that start at once get two directories.
                os.makedirs(candidate, exist_ok=path is not None)
            except FileExistsError:
                continue
            except OSError as error:
                raise UsageError(f"{candidate}: cannot be created ({error.strerror}){_ELSEWHERE}") from error
            return cls(candidate)
        raise AssertionError("unreachable")

    @classmethod
    def open(cls, path: str | Path) -> RunDirectory:
        """A directory that a run has written. Raises CheckpointError where it is none."""
        run = cls(path)
        if not os.path.exists(path):
            raise CheckpointError(f"{path}: no such run directory")
        if not run.resolved.is_file():
            raise CheckpointError(f"{path}: not a run directory (it holds no config.resolved.yaml)")
        return run

    def write_json(self, path: Path, content: dict[str, Any]) -> None:
        """Write `content` aside and rename, with the format's number."""
        write_text(path, json.dumps({"format": FORMAT, **content}, indent=1) + "\n")

    @property
    def choices(self) -> dict[str, str]:
        """Which kernels measurements chose for this run, by what they were asked for.

        Raises CheckpointError where environment.json is damaged.
        """
        found = self._noted().get("kernels", {})
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
            raise CheckpointError(f"{self.environment}: kernels: must be names of algorithms by shape; {_DAMAGED}")
        return dict(found)

    def keep_choices(self, choices: dict[str, str]) -> None:
        """Note them in environment.json, for a resumed run to take the same."""
        if choices and choices != self.choices:
            self.write_json(self.environment, self._noted() | {"kernels": choices})

    def _noted(self) -> dict[str, Any]:
        """What environment.json holds; nothing where it was deleted."""
        try:
            found = json.loads(self.environment.read_bytes()) if self.environment.exists() else {}
        except ValueError as error:
            raise CheckpointError(f"{self.environment}: is not JSON ({error}); {_DAMAGED}") from error
        if not isinstance(found, dict):
            raise CheckpointError(f"{self.environment}: must be a mapping; {_DAMAGED}")
        return found

    def cut_metrics(self, step: int) -> None:
        """Drop the lines of metrics.jsonl beyond `step`, and the test figures: the resumed run writes them again."""
        if self.metrics.exists():
            kept = [line for line in read_metrics(self.metrics) if line["step"] <= step and not _is_test(line)]
            write_text(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    @property
    def tested(self) -> bool:
        """Whether metrics.jsonl holds the test figures, which come last."""
        return self.metrics.exists() and any(map(_is_test, read_metrics(self.metrics)))


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
    packages = ("gpubackprop", "numpy", "numba", "scipy", "scikit-learn", "safetensors", "cupy-cuda12x", "cupy-cuda13x")
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    variables = ("CUDA_VISIBLE_DEVICES", *threads, "GPUBACKPROP_KERNELS", "GPUBACKPROP_CONV")
    return {
        "device": device.removeprefix("device: "),
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


def _is_test(line: dict[str, Any]) -> bool:
    return any(name.startswith("test/") for name in line)


def _numbered(path: Path) -> Iterator[Path]:
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.name}-{number}")
        number += 1
