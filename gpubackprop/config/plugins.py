"""A user's own Python files, named in `plugins`, which register components when they are imported."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
import traceback

from gpubackprop.config.document import UNKNOWN, Node, Problems, describe


def import_plugins(node: Node, problems: Problems) -> tuple[list[str], bool]:
    """Import the files of a `plugins` list -> (their absolute paths, whether all could be imported).

    A path is relative to the file that names it. A file is imported once in a process.
    """
    if not isinstance(node.value, list):
        problems.add(node.mark, "plugins", f"must be a list of Python files, got {describe(node.value)}")
        return [], False
    paths = []
    sure = True
    for index, entry in enumerate(node.value):
        if isinstance(entry.value, str):
            paths.append(os.path.abspath(os.path.join(os.path.dirname(entry.mark.file), entry.value)))
            wrong = _import(paths[-1], entry.value)
        else:
            wrong = f"must be the path of a Python file, got {describe(entry.value)}"
        if wrong and entry.value is not UNKNOWN:
            problems.add(entry.mark, f"plugins.{index}", wrong)
        sure = sure and not wrong
    return paths, sure


def _import(path: str, given: str) -> str:
    """Import one file; what went wrong, or an empty string."""
    if not os.path.isfile(path):
        return f"{given}: no such file; a plugin is a Python file, relative to the file that names it"
    name = f"gpubackprop_plugin_{hashlib.sha256(path.encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return ""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        return f"{given}: not a Python file; a plugin's name ends with .py"
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == path]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = f"{given}, line {line}" if line else given
        return f"{place}: {type(error).__name__}: {' '.join(str(error).split())}"
    return ""
