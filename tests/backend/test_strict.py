from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import choose
from gpubackprop.backend.strict import SHARED, StrictError
from gpubackprop.errors import DeviceError


@pytest.fixture
def backend():
    return choose("strict")[0]


@pytest.fixture
def x(backend):
    return backend.from_host(np.arange(6.0).reshape(2, 3))


class TestMixingWithHostArrays:
    @pytest.mark.parametrize(
        "mix",
        [
            lambda xp, x, host: x + host,
            lambda xp, x, host: host + x,
            lambda xp, x, host: x.__iadd__(host),
            lambda xp, x, host: xp.maximum(x, host),
            lambda xp, x, host: xp.concatenate([x, host]),
            lambda xp, x, host: np.maximum(x, host),
            lambda xp, x, host: np.asarray(x),
            lambda xp, x, host: x.__setitem__(0, host[0]),
            lambda xp, x, host: x[np.array([0])],
            lambda xp, x, host: x[[0, 1]],
        ],
    )
    def test_is_refused(self, backend, x, mix):
        with pytest.raises(TypeError):
            mix(backend.xp, x, np.ones((2, 3)))

    def test_numbers_are_allowed(self, backend, x):
        np.testing.assert_array_equal(backend.to_host(2 * x + np.float64(1)), 2 * np.arange(6.0).reshape(2, 3) + 1)

    def test_to_host_takes_device_arrays_alone(self, backend):
        with pytest.raises(StrictError, match="not a device array"):
            backend.to_host(np.zeros(2))


class TestInsideAStep:
    @pytest.mark.parametrize(
        "wait",
        [
            lambda b, x: float(x[0, 0]),
            lambda b, x: int(x[0, 0]),
            lambda b, x: bool(x[0, 0]),
            lambda b, x: x[0, 0].item(),
            lambda b, x: x[x > 1],
            lambda b, x: b.xp.where(x > 1),
            lambda b, x: b.to_host(x),
            lambda b, x: b.xp.stack([x[0]] * 9),
            lambda b, x: b.xp.concatenate([x] * 9, axis=-1),
        ],
    )
    def test_waiting_is_refused_and_allowed_outside(self, backend, x, wait):
        wait(backend, x)
        with pytest.raises(StrictError, match="inside a step"):
            backend.capture(wait)(backend, x)
        wait(backend, x)

    def test_data_dependent_shapes_are_not_in_the_namespace(self, backend):
        for name in ("nonzero", "unique", "argwhere", "flatnonzero"):
            with pytest.raises(AttributeError, match="not among the functions"):
                getattr(backend.xp, name)


def test_full_indices_and_sums_give_arrays_of_shape_zero(backend, x):
    assert backend.owns(x[0, 0])
    assert backend.owns(x.sum())
    assert x[0, 0].shape == x.sum().shape == ()


def test_from_host_copies(backend):
    host = np.zeros(2)
    device = backend.from_host(host)
    host[0] = 1
    assert backend.to_host(device).tolist() == [0, 0]


def test_arithmetic_is_numpys(backend, x):
    host = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(backend.to_host(backend.matmul(x, x.T)), host @ host.T)
    out = backend.from_host(np.zeros(3))
    backend.scatter_add(out, backend.from_host(np.array([1, 1, 2])), backend.from_host(np.array([1.0, 2.0, 3.0])))
    assert backend.to_host(out).tolist() == [0, 3, 3]


def test_shared_names_exist_in_cupy():
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed", exc_type=ImportError)
    missing = [name for name in sorted(SHARED) if not hasattr(cupy, name)]
    assert not missing


def test_shared_names_exist_in_numpy():
    assert not [name for name in sorted(SHARED) if not hasattr(np, name)]


def test_unknown_device():
    with pytest.raises(ValueError, match=r"unknown device 'gpu'; known: .*, cuda:N; did you mean 'cuda'\?"):
        choose("gpu")


def test_auto_says_what_it_chose():
    backend, line = choose("auto")
    assert line.startswith(f"device: {backend.device}")
    assert "because auto found" in line


@pytest.mark.skipif(choose("auto")[0].name == "cupy", reason="this machine has a GPU")
def test_cuda_without_a_gpu_gives_the_reason():
    with pytest.raises(DeviceError, match=r"(?i)cuda") as caught:
        choose("cuda")
    assert caught.value.exit_code == 4
