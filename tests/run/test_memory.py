"""Memory that is used up: in building, training and use, on the CPU and on the test device's GPU."""

from __future__ import annotations

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.backend.base import out_of_memory
from gpubackprop.errors import OutOfMemoryError
from gpubackprop.run import memory
from gpubackprop.run.check import make_plan
from gpubackprop.run.use import Run
from tests.kernels.cuda.device import COMPILER, doubles
from tests.run import toy

SAID = "Out of memory allocating 8,589,934,592 bytes (allocated so far: 512 bytes)."


class CupysError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError is one as well."""


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler: the test device executes kernels by it")
class TestGpu:
    @pytest.fixture
    def cupy(self):
        with doubles() as cupy:
            yield cupy

    def fill(self, cupy, after, error=CupysError):
        real, left = cupy.empty, [after]

        def empty(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise error(SAID)
            return real(*args, **kwargs)

        cupy.empty = empty

    @pytest.mark.parametrize("after", [0, 20])
    def test_training(self, gb, tmp_path, cupy, after):
        path = toy.write_config(tmp_path, model=toy.CNN)
        self.fill(cupy, after)
        code, out, err = gb("train", path, "--device", "cuda", "--run-dir", tmp_path / "run")
        assert (code, out) == (1, "")
        assert err[0].startswith("device: cuda:0 (a double, 80 GiB, compute capability 9.0")
        assert "cuBLASLt" in err[0]
        assert "own kernels), as asked" in err[0]
        said = "Out of memory allocating 8,589,934,592 bytes (allocated so far: 512 bytes)"
        start = f"error: out of memory on device cuda:0: {said}"
        assert err[-1].startswith(f"{start}, 60 GiB of 80 GiB are free; a step on a batch of 8 keeps ")
        for word in (
            "weights ",
            "optimizer ",
            "layer outputs ",
            "most of it by layer 0 (4.5 KiB), layer 1 (4.5 KiB), layer 2 (4.5 KiB); ",
        ):
            assert word in err[-1]
        assert "lower data.batch_size (now 8), with training.accumulate as much higher" in err[-1]
        assert err[-1].endswith("or set precision: bfloat16; no checkpoint had been written")
        assert "out of memory on device cuda:0" in (tmp_path / "run/train.log").read_text()

    def test_building(self, gb, tmp_path, cupy):
        cupy.zeros = self.fails
        code, _, err = gb("train", toy.write_config(tmp_path), "--device", "cuda", "--run-dir", tmp_path / "run")
        assert code == 1
        assert err[-1].startswith(
            "error: out of memory on device cuda: cudaErrorMemoryAllocation: out of memory; a step on a"
        )
        assert not (tmp_path / "run").exists()

    def fails(self, *args, **kwargs):
        raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    def test_use(self, tmp_path, cupy):
        run = gbp.train(toy.config(toy.write_arrays(tmp_path)), run_dir=tmp_path / "run")
        self.fill(cupy, 2)
        with pytest.raises(
            OutOfMemoryError, match=r"out of memory on device cuda:0.*weights take .*; try --device cpu"
        ):
            Run(run.directory, "cuda").evaluate()
        np.save(tmp_path / "x.npy", np.zeros((2, 6, 6, 1), np.uint8))
        with pytest.raises(OutOfMemoryError, match="largest outputs on a batch of 256 are"):
            Run(run.directory, "cuda").predict([str(tmp_path / "x.npy")])

    def test_a_capture_that_has_no_memory_left_runs_as_it_is(self, gb, tmp_path, cupy):
        real = cupy.empty

        def empty(*args, **kwargs):
            if cupy.device.capturing:
                raise CupysError(SAID)
            return real(*args, **kwargs)

        cupy.empty = empty
        code, _, err = gb("train", toy.write_config(tmp_path), "--device", "cuda", "--run-dir", tmp_path / "run")
        assert code == 0
        assert any("not captured as a CUDA graph" in line and "Out of memory" in line for line in err)


def test_the_cpu(gb, tmp_path, monkeypatch):
    def fails(*args):
        raise MemoryError("Unable to allocate 8.00 GiB for an array with shape (1,) and data type float32")

    monkeypatch.setattr("gpubackprop.training.trainer.Trainer.run", fails)
    code, _, err = gb("train", toy.write_config(tmp_path), "--run-dir", tmp_path / "run")
    assert code == 1
    assert err[-1].startswith("error: out of memory on device cpu: Unable to allocate 8.00 GiB for an array")
    assert "GiB are free; a step on a batch of 8 keeps " in err[-1]
    assert "bfloat16" not in err[-1], "slower on a CPU, and for trying out"


def test_large_weights_have_other_remedies(data):
    config = toy.config(data, model=["flatten", {"linear": 3000}, {"linear": 3}])
    plan = make_plan(config)
    with (
        pytest.raises(
            OutOfMemoryError, match=r"take a smaller model, or an optimizer with less state \(sgd\)"
        ) as found,
        memory.explained(plan.config, plan.model.build((6, 6, 1)), 8),
    ):
        raise MemoryError
    assert "; a step on a batch of 8 keeps " in str(found.value)
    assert isinstance(found.value, MemoryError)


def test_other_errors_stay_what_they_are(data):
    plan = make_plan(toy.config(data))
    with pytest.raises(ZeroDivisionError), memory.explained(plan.config, plan.model, 8):
        raise ZeroDivisionError
    assert not out_of_memory(RuntimeError("cudaErrorInvalidValue"))
    for name in ("CUBLAS_STATUS_ALLOC_FAILED (3)", "CUDA_ERROR_OUT_OF_MEMORY: out of memory"):
        assert out_of_memory(RuntimeError(name))


def test_the_arrays_of_a_failed_step_are_let_go(data):
    plan = make_plan(toy.config(data))

    def step():
        array = np.zeros(3)
        raise MemoryError(array.shape)

    with pytest.raises(OutOfMemoryError) as found, memory.explained(plan.config, plan.model, 8):
        step()
    inner = found.value.__cause__.__traceback__
    while inner.tb_next is not None:
        inner = inner.tb_next
    assert "array" not in inner.tb_frame.f_locals
