"""The starter configs that come with the package: the files of `configs/`."""

from __future__ import annotations

import os
from pathlib import Path

from gpubackprop.errors import UsageError
from gpubackprop.registry import did_you_mean

_PACKAGE = Path(__file__).parents[1]


def folder() -> Path:
    """`gpubackprop/configs` where installed, `configs` beside the package in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def names() -> list[str]:
    """All templates, the default first, the rest by name."""
    found = sorted(path.stem for path in folder().glob("*.yaml"))
    return sorted(found, key=lambda name: name != "digits_mlp")


def path(name: str) -> Path:
    """The file of a template. Raises UsageError with the known names."""
    if name not in names():
        raise UsageError(f"unknown template {name!r}; known: {', '.join(names())}{did_you_mean(name, names())}")
    return folder() / f"{name}.yaml"


def describe(name: str) -> str:
    """The template's first comment line."""
    return path(name).read_text().splitlines()[0].lstrip("# ")


def find(config: str) -> str:
    """`config` itself where such a file exists or it looks like a path, else the template of that name."""
    file, there = Path(config), os.path.exists(config)
    if not there and file.suffix and file.stem in names():
        raise UsageError(
            f"{config}: no such file; the template of that name is meant by {file.stem!r}, and "
            f"gpubackprop init {file.stem} writes it as a file"
        )
    if file.suffix or "/" in config or there:
        return config
    return str(path(config))
