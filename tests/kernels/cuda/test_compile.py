"""The sources by NVIDIA's own compiler, where there is one; no GPU is needed for that."""

from __future__ import annotations

import re
import shutil
import subprocess
from importlib import import_module
from pkgutil import iter_modules

import pytest

from gpubackprop.kernels import cuda
from gpubackprop.kernels.cuda.driver import FOLDER, REAL, Source, text

NVCC = shutil.which("nvcc")
MODULES = [import_module(f"{cuda.__name__}.{module.name}") for module in iter_modules(cuda.__path__)]
SOURCES = [module.SOURCE for module in MODULES if isinstance(getattr(module, "SOURCE", None), Source)]


def test_every_source_belongs_to_a_module_and_names_all_its_kernels():
    assert {source.file for source in SOURCES} == {path.name for path in FOLDER.glob("*.cu")}
    for source in SOURCES:
        written = re.findall(r"__global__ void (\w+)\(", text(source.file))
        assert {name.partition("<")[0] for name in source.names} == set(written)


def test_a_source_holds_its_headers_and_keeps_its_lines():
    found = text("activation.cu")
    assert "#include" not in found
    assert found.startswith('#line 1 "activation.cu"\n')
    again = found.rpartition('#line 3 "activation.cu"\n')[2]
    assert again.splitlines() == (FOLDER / "activation.cu").read_text().splitlines()[2:]


@pytest.mark.slow
@pytest.mark.skipif(NVCC is None, reason="no nvcc, which compiles the kernels for GPUs")
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.file)
def test_a_source_compiles_for_gpus_without_spills(source, tmp_path):
    names = [name.format(real=real) for name in source.names for real in map(REAL.get, source.dtypes)]
    wanted = ", ".join(f"(void*)&{name}" for name in names)
    (tmp_path / source.file).write_text(f"{text(source.file)}\nvoid* wanted[] = {{{wanted}}};\n")
    cards = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in (75, 80, 86, 90, 100)]
    command = [NVCC, "-std=c++17", "-Werror=all-warnings", *cards, "-Xptxas=-v", "-c", source.file, "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr[:3000]
    assert done.stderr.count("Compiling entry function") == len(names) * len(cards)
    assert set(re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)) == {("0", "0")}
