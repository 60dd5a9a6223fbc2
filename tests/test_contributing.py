"""CONTRIBUTING's worked example: its files, put into a copy of the package, pass the tests that it promises."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SECTION = (ROOT / "CONTRIBUTING.md").read_text().partition("### A worked example")[2].partition("\n## ")[0]
FILES = dict(re.findall(r"```python\n# (\S+)\n(.*?)```", SECTION, re.DOTALL))
COMMANDS = re.findall(r"^python (-m .*?)(?: +#.*)?$", SECTION, re.MULTILINE)

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch, the [oracle] extra, is not installed"
)


def test_the_example_is_two_files_with_a_row_each():
    names = ("gpubackprop/ops/squared_relu.py", "tests/ops/specs/squared_relu.py")
    assert list(FILES) == [*names, "gpubackprop/nn/squared_relu.py", "tests/nn/specs/squared_relu.py"]
    assert not any((ROOT / path).exists() for path in FILES), "this op is there by now; take another for the example"


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The checkout with the example in it."""
    folder = tmp_path_factory.mktemp("copy")
    for name in ("gpubackprop", "tests", "scripts", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path, text in FILES.items():
        (folder / path).write_text(text)
    for name in ("pyproject.toml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, folder)
    front = folder / "gpubackprop" / "nn" / "__init__.py"
    line = "from gpubackprop.nn.squared_relu import SquaredReLU\n\n__all__ = [\n    'SquaredReLU',"
    front.write_text(front.read_text().replace("__all__ = [", line, 1))
    return folder


def run(folder, *words):
    """`python WORDS` in the copy, on the copy; (exit status, output)."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@needs_torch
@pytest.mark.oracle
@pytest.mark.slow
def test_its_commands_pass(copy):
    record, tests = COMMANDS
    status, output = run(copy, *record.split())
    assert status == 0, output
    words, _, expression = tests.partition(' -k "')
    status, output = run(copy, *words.split(), "-q", "-k", expression.rstrip('"'), "-p", "no:cacheprovider", "-rA")
    assert status == 0, output
    for promised in (
        "test_ops.py::test_forward_and_gradients_equal_pytorch[squared_relu-float64]",
        "test_ops.py::test_forward_and_gradients_equal_the_recorded_reference[squared_relu]",
        "test_ops.py::test_gradient_along_a_random_direction[squared_relu]",
        "test_ops.py::test_the_strict_backend_gives_exactly_numpys_results[squared_relu]",
        "test_layers.py::test_output_gradients_and_state_equal_pytorch[SquaredReLU",
        "test_layers.py::test_every_registered_layer_is_exported_by_nn",
    ):
        assert promised in output


def test_the_layer_is_known_to_configs(copy):
    text = "import json; from gpubackprop.config.schema import json_schema; print('squared_relu' in str(json_schema()))"
    assert run(copy, "-c", text) == (0, "True\n")


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="ruff, of the [dev] extra, is not installed")
def test_its_files_are_in_the_projects_style(copy):
    for command in (["format", "--check"], ["check"]):
        status, output = run(copy, "-m", "ruff", *command, *FILES)
        assert status == 0, output
