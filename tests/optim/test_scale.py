"""Dynamic loss scaling, and the steps that it leaves out."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop.backend import choose
from gpubackprop.errors import CheckpointError
from gpubackprop.optim import LossScale, WeightAverage
from tests.optim.specs import ROWS, draw, params

STRICT = choose("strict")[0]


def run(scale, steps):
    """Steps of which "x" is not finite; the scale after each."""
    b, found = scale.backend, []
    for each in steps:
        grad = b.from_host(np.array([1, np.inf if each == "x" else 2], np.float32))

        def step(grad=grad):
            scale.update(scale.unscale_and_check(b, grad))

        b.capture(step)()
        found.append(float(scale.scale))
    return found


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan, 0.0])
def test_a_gradient_is_divided_and_looked_at(bad):
    scale = LossScale(STRICT, 1024)
    grad = STRICT.from_host(np.array([1, bad, -3], np.float32))
    ok = STRICT.capture(scale.unscale_and_check)(STRICT, grad)
    assert (ok.shape, ok.dtype, bool(ok)) == ((), bool, bad == 0)
    assert np.array_equal(STRICT.to_host(grad), np.array([1, bad, -3]) / 1024, equal_nan=True)


def test_it_is_halved_by_a_bad_step_and_doubled_by_good_ones_in_a_row():
    scale = LossScale(STRICT, 8, interval=3)
    assert run(scale, "..x...x....") == [8, 8, 4, 4, 4, 8, 4, 4, 4, 8, 8]
    assert STRICT.to_host(scale.counts).tolist() == [1, 0, 2]
    run(scale, "xx")
    assert STRICT.to_host(scale.counts).tolist() == [0, 2, 4]


@pytest.mark.oracle
def test_it_is_pytorchs():
    torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    steps = "".join(np.random.default_rng(0).choice(list("....x"), 200))
    theirs, wanted = torch.amp.GradScaler("cpu", growth_interval=4), []
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.0)
    for each in steps:
        factor = torch.tensor([1, float("inf") if each == "x" else 1.0])
        theirs.scale((weight * factor).sum()).backward()
        theirs.step(optimizer)
        theirs.update()
        optimizer.zero_grad()
        wanted.append(theirs.get_scale())
    scale = LossScale(STRICT, interval=4)
    assert float(scale.scale) == torch.amp.GradScaler("cpu", init_scale=65536).get_scale() == 65536
    assert run(scale, steps) == wanted


def test_it_is_never_stuck():
    scale = LossScale(STRICT, interval=1)
    assert run(scale, "x" * 100)[-1] == LossScale.SMALLEST > 0
    assert run(scale, "." * 30)[-1] == 2.0**16
    assert run(scale, "." * 300)[-1] == LossScale.LARGEST
    assert run(scale, "x")[-1] == LossScale.LARGEST / 2


def test_it_goes_on_where_it_was():
    steps = "..x....x." * 3
    whole, first, second = (LossScale(STRICT, interval=3) for _ in range(3))
    wanted = run(whole, steps)
    run(first, steps[:13])
    second.load_state_dict(first.state_dict())
    assert run(second, steps[13:]) == wanted[13:]
    assert all(np.array_equal(second.state_dict()[name], a) for name, a in whole.state_dict().items())


@pytest.mark.parametrize(
    "wrong",
    [{"scale": np.zeros(1)}, {"scale": np.float32("nan")}, {"counts": np.zeros(2)}, {"counts": None}, {"scale": None}],
)
def test_what_is_no_state_of_it_is_refused(wrong):
    scale = LossScale(STRICT)
    with pytest.raises(CheckpointError, match="no state of a loss scale"):
        scale.load_state_dict(scale.state_dict() | wrong)


@pytest.mark.parametrize("spec", ROWS, ids=str)
def test_a_step_that_does_not_count_leaves_all_as_it_was(spec):
    ours, other = params("float32", "strict"), params("float32", "strict")
    optimizer, plain = spec.make(ours), spec.make(other)
    b = ours.backend
    yes, no = b.from_host(np.array(True)), b.from_host(np.array(False))
    for each in (optimizer, plain):
        draw(each.params, 0)
        each.step()
    before = {name: b.to_host(a) for name, a in [("w", ours.master), *optimizer.state.items()]}
    ours.grad[5] = np.nan
    optimizer.prepare()
    b.capture(optimizer.update)(no)
    for name, a in [("w", ours.master), *optimizer.state.items()]:
        assert np.array_equal(b.to_host(a), before[name]), name
    optimizer.recount(plain.counted())
    for each, given in ((optimizer, (yes,)), (plain, ())):
        draw(each.params, 1)
        each.prepare()
        b.capture(each.update)(*given)
    assert np.array_equal(b.to_host(ours.master), b.to_host(other.master))


def test_an_average_leaves_out_a_step_but_the_first():
    ours = params("float64", "strict")
    b, average = ours.backend, WeightAverage(ours, 0.5)
    no = b.from_host(np.array(False))
    first = b.to_host(ours.master)
    for steps in range(2):
        average.prepare(steps)
        b.capture(average.update)(no)
        assert np.array_equal(b.to_host(average.value), first)
        ours.master[...] = 2 * ours.master
