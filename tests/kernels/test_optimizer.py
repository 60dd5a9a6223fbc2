"""The kernels of the optimizers and of the average of the weights, beside their references."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.optim import SGD, Adam, RMSprop, WeightAverage
from gpubackprop.parameters import Param, Parameters
from tests.kernels import harness
from tests.optim.specs import PLAIN, lr_of, values

#: Nothing stands in for these: they look at params as a whole.
WHOLE = ("LAMB",)
ROWS = [row for row in PLAIN if row.cls.__name__ not in WHOLE]
rows = pytest.mark.parametrize("spec", ROWS, ids=str)
EASY = {"max_examples": 25, "deadline": None, "derandomize": True}


def parameters(b, sizes, dtype):
    named = {
        f"{i}.w": Param(
            (size,) if i % 2 else (size, 1),
            lambda rng, shape: rng.normal(size=shape),
            kind="bias" if i % 3 else "weight",
        )
        for i, size in enumerate(sizes)
    }
    return Parameters(named, b, dtype, seed=1)


def draw(params, seed):
    """Gradients that float32 holds exactly, some of them zero."""
    rng = np.random.default_rng(seed)
    for _, param, _, _ in params.segments:
        grad = rng.normal(size=param.shape) * (rng.random(param.shape) > 0.2)
        param.grad[...] = grad.astype(np.float32)


def train(optimizer, first, last):
    for step in range(first, last):
        draw(optimizer.params, step)
        optimizer.lr = lr_of(optimizer.base_lr, step)
        optimizer.step()


def arrays(optimizer):
    return values(optimizer.params) | optimizer.state_dict()


def assert_close(found, wanted, tolerance):
    assert set(found) == set(wanted)
    for name, array in wanted.items():
        if array.size:
            assert np.abs(found[name] - array).max() <= tolerance * max(np.abs(array).max(), 1e-30), name


@rows
@pytest.mark.parametrize("dtype", [np.float64, np.float32], ids=["float64", "float32"])
def test_an_update_equals_the_reference(spec, dtype):
    b = harness.backend(2)

    @settings(**EASY)
    @given(st.lists(st.integers(1, 3000), min_size=1, max_size=4), st.booleans())
    def check(sizes, spare):
        options = spec.options | ({"no_decay": ["bias"]} if spare else {})
        ours = spec.cls(parameters(b, sizes, dtype), **options)
        wanted = spec.cls(parameters(NumpyBackend(), sizes, np.float64), **options)
        wanted.params.master[...] = ours.params.master
        train(ours, 0, 3)
        train(wanted, 0, 3)
        assert ours.params.master.dtype == dtype
        assert_close(arrays(ours), arrays(wanted), 1e-12 if dtype == np.float64 else 10 * spec.float32)
        used = {index for _, _, start, stop in ours.params.segments for index in range(start, stop)}
        padding = [index for index in range(len(ours.params.master)) if index not in used]
        assert not any(flat[padding].any() for flat in (ours.params.master, *ours.state.values()))

    check()


@rows
def test_a_kernel_stands_in_for_every_rule(spec):
    b = harness.backend()
    if spec.cls.__name__ != "Muon":  # of which the part that is AdamW's has one
        assert b.rule(spec.cls.update_run) is not spec.cls.update_run


@rows
def test_results_do_not_depend_on_the_threads(spec):
    found = []
    for threads in (1, 2, 4):
        optimizer = spec.cls(parameters(harness.backend(threads), [2000, 77], np.float64), **spec.options)
        train(optimizer, 0, 3)
        found.append(arrays(optimizer))
    assert_close(found[1], found[0], 1e-14)
    assert_close(found[2], found[0], 1e-14)


@rows
def test_a_launch_that_is_made_again_sees_the_coefficients_of_its_step(spec):
    if spec.cls.__name__ == "Muon":
        pytest.skip("matrices are NumPy's work")
    b = harness.backend()
    once, again = (spec.cls(parameters(b, [300], np.float64), **spec.options) for _ in range(2))
    train(once, 0, 4)
    launches = []
    launch = b.launch
    b.launch = lambda *args, **options: launches.append((args, options))
    train(again, 0, 1)
    b.launch = launch
    for step in range(4):
        if step:
            draw(again.params, step)
            again.lr = lr_of(again.base_lr, step)
            again.prepare()
        for args, options in launches:
            launch(*args, **options)
    for name, array in arrays(once).items():
        assert np.array_equal(arrays(again)[name], array), name


@rows
def test_a_nan_in_the_gradient_is_not_hidden(spec):
    if spec.cls.__name__ == "Muon":
        pytest.skip("a matrix is updated as a whole")
    optimizer = spec.cls(parameters(harness.backend(), [100], np.float32), **spec.options)
    draw(optimizer.params, 0)
    optimizer.params.segments[0].param.grad[3] = np.nan
    optimizer.step()
    assert np.isnan(optimizer.params.master).tolist() == [i == 3 for i in range(len(optimizer.params.master))]


def test_a_rule_of_the_users_own_is_not_replaced():
    class Ascent(SGD):
        def update_run(self, value, grad, state, scalars, decay):
            value += 1

    class Frozen(Adam):
        def means(self, grad, state, share):
            return self.xp.zeros_like(grad), self.xp.ones_like(grad)

    for cls, change in ((Ascent, 1), (Frozen, 0)):
        optimizer = cls(parameters(harness.backend(), [50], np.float64))
        before = optimizer.params.master[:50].copy()
        train(optimizer, 0, 1)
        assert np.array_equal(optimizer.params.master[:50], before + change)


def test_only_the_runs_that_are_trained_are_touched():
    params = parameters(harness.backend(2), [100, 200, 300], np.float32)
    params.segments[1].param.needs_grad = False
    optimizer = RMSprop(params, momentum=0.9, centered=True)
    before = values(params)
    train(optimizer, 0, 2)
    changed = [not np.array_equal(values(params)[name], array) for name, array in before.items()]
    assert changed == [True, False, True]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("warmup", [False, True])
def test_the_average_equals_the_reference(dtype, warmup):
    found = []
    for b, precision in ((harness.backend(2), dtype), (NumpyBackend(), np.float64)):
        params = parameters(b, [1000, 33], precision)
        average = WeightAverage(params, 0.9, warmup)
        for step in range(4):
            params.master[:1000] += np.float32(step)
            average.prepare(step)
            average.update()
        assert average.value.dtype == precision
        found.append(average.value)
    assert np.abs(found[0] - found[1]).max() <= (1e-14 if dtype == np.float64 else 1e-6) * np.abs(found[1]).max()
