"""What was found, as JSON: written after each item, merged with what was there, so that a killed run goes on.

format   1
machine  as `machine.py` describes it, at the last run
parts    by name: items by name, each with `status` (passed, failed, not run), `code` (of the checkout that it
         belongs to), `commit`, `reason` where it did not pass, and what the part has to say
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

from scripts.gpu import ROOT

FORMAT = 1
PASSED, FAILED, NOT_RUN = "passed", "failed", "not run"
Item: TypeAlias = dict[str, Any]

#: What a part's findings depend on: folders of the checkout, and the kinds of files in them.
FOLDERS = {
    "tests": ("gpubackprop", "tests", "configs", "scripts/gpu"),
    "kernels": ("gpubackprop", "tests/ops", "tests/optim", "scripts/gpu"),
    "bench": ("gpubackprop", "configs", "scripts/gpu", "scripts/bench"),
}
KINDS = (".py", ".cu", ".cuh", ".hpp", ".yaml")


class ResultsError(Exception):
    """The file of results cannot be gone on with."""


class Record:
    """The results in one file.

    code    of the checkout, by part: what another state of it found is done again
    commit  its name for readers
    """

    def __init__(self, path: Path, code: dict[str, str], commit: str) -> None:
        self.path, self.code, self.commit = path, code, commit
        self.content: dict[str, Any] = {"format": FORMAT, "machine": {}, "parts": {}}
        if path.exists():
            try:
                self.content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise ResultsError(f"{path}: no JSON: {error}; move it away") from error
            except OSError as error:
                raise ResultsError(f"{path}: cannot be read: {error.strerror}; name another file") from error
            if self.content.get("format") != FORMAT:
                raise ResultsError(f"{path}: format {self.content.get('format')}, not {FORMAT}; move it away")

    def items(self, part: str) -> dict[str, Item]:
        """A part's, by name."""
        return dict(self.content["parts"].get(part, {}))

    def done(self, part: str) -> list[str]:
        """What this state of the checkout has passed or failed; what could not run may be able to now."""
        return [
            name
            for name, item in self.items(part).items()
            if item["code"] == self.code[part] and item["status"] != NOT_RUN
        ]

    def outdated(self, part: str) -> list[str]:
        """What another state of the checkout found."""
        return [name for name, item in self.items(part).items() if item["code"] != self.code[part]]

    def forget(self, part: str, names: Iterable[str]) -> None:
        """Let it be done again."""
        for name in names:
            self.content["parts"].get(part, {}).pop(name, None)

    def put(self, part: str, name: str, item: Item) -> None:
        """Add or replace one, and write the file."""
        found = {**item, "code": self.code[part], "commit": self.commit}
        self.content["parts"].setdefault(part, {})[name] = found
        self.write()

    def describe(self, machine: dict[str, Any]) -> None:
        """What the machine is."""
        self.content["machine"] = machine

    def write(self) -> None:
        """At once and whole, an item a line."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        parts = [f"{json.dumps(part)}: {_lines(items)}" for part, items in self.content["parts"].items()]
        machine = json.dumps(self.content["machine"], indent=1)
        text = f'{{"format": {FORMAT},\n"machine": {machine},\n"parts": {{{", ".join(parts)}}}}}\n'
        unfinished = self.path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(self.path)


def _lines(items: dict[str, Item]) -> str:
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {json.dumps(item)}" for name, item in items.items()) + "}"


def fingerprint(part: str, root: Path = ROOT) -> str:
    """A checksum of all files that a part's findings depend on, whether they are committed or not."""
    found = hashlib.sha256()
    for folder in FOLDERS[part]:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in KINDS and "__pycache__" not in path.parts:
                found.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


class Budget:
    """How much time is left."""

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._now, self._end, self.whole = now, now() + seconds, seconds

    @property
    def left(self) -> float:
        """Seconds; 0 where it is over."""
        return max(self._end - self._now(), 0.0)
