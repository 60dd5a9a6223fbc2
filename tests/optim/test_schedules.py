"""Schedules against torch.optim.lr_scheduler, step by step, and where PyTorch has no answer."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from gpubackprop.errors import CheckpointError
from gpubackprop.optim import SGD, Constant, Cosine, Exponential, MultiStep, OneCycle, Plateau, Step, schedules
from tests.optim.specs import params

BASE, TOTAL = 0.3, 60


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")


def drive(torch, make, momentum=0.0):
    """(lr, momentum) of every step of a scheduler of PyTorch's."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE, momentum=momentum)
    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SequentialLR calls its children's deprecated step(epoch)
        scheduler = make(torch.optim.lr_scheduler, optimizer)
        for _ in range(TOTAL):
            seen.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["momentum"]))
            optimizer.step()
            if len(seen) < TOTAL:
                scheduler.step()
    return seen


PAIRS = {
    "constant": (Constant, {}, lambda s, o, left: s.ConstantLR(o, factor=1.0)),
    "step": (Step, {"step_size": 7, "gamma": 0.5}, lambda s, o, left: s.StepLR(o, 7, 0.5)),
    "step default": (Step, {"step_size": 20}, lambda s, o, left: s.StepLR(o, 20)),
    "multi_step": (MultiStep, {"milestones": [30, 10, 10]}, lambda s, o, left: s.MultiStepLR(o, [30, 10, 10])),
    "exponential": (Exponential, {"gamma": 0.9}, lambda s, o, left: s.ExponentialLR(o, 0.9)),
    "cosine": (Cosine, {}, lambda s, o, left: s.CosineAnnealingLR(o, left)),
    "cosine waves": (Cosine, {"t_max": 9, "eta_min": 0.01}, lambda s, o, left: s.CosineAnnealingLR(o, 9, 0.01)),
}


@pytest.mark.oracle
@pytest.mark.parametrize("warmup", [0, 1, 12, 0.1])
@pytest.mark.parametrize("name", list(PAIRS))
def test_lr_equals_pytorchs_with_and_without_warmup(torch, name, warmup):
    cls, options, make = PAIRS[name]
    steps = warmup if isinstance(warmup, int) else round(warmup * TOTAL)

    def both(s, optimizer):
        if not steps:
            return make(s, optimizer, TOTAL)
        ramp = s.LinearLR(optimizer, start_factor=0.2, total_iters=steps)
        return s.SequentialLR(optimizer, [ramp, make(s, optimizer, TOTAL - steps)], [steps])

    schedule = cls(TOTAL, **options, warmup=warmup, warmup_start=0.2)
    ours = [schedule.lr(step, BASE) for step in range(TOTAL)]
    assert ours == pytest.approx([lr for lr, _ in drive(torch, both)], rel=1e-9)


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (Constant(8), [8.0] * 8),
        (Constant(8, warmup=4, warmup_start=0.5), [4.0, 5.0, 6.0, 7.0, 8.0, 8.0, 8.0, 8.0]),
        (Constant(8, warmup=0.25, warmup_start=0.0), [0.0, 4.0, 8.0, 8.0, 8.0, 8.0, 8.0, 8.0]),
        (Step(8, step_size=3, gamma=0.5), [8.0, 8.0, 8.0, 4.0, 4.0, 4.0, 2.0, 2.0]),
        (Step(8, step_size=2, gamma=0.5, warmup=2, warmup_start=0.25), [2.0, 5.0, 8.0, 8.0, 4.0, 4.0, 2.0, 2.0]),
        (MultiStep(8, milestones=[6, 1, 2], gamma=0.5), [8.0, 4.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0]),
        (Exponential(8, gamma=0.5), [8 * 0.5**i for i in range(8)]),
        (Cosine(4), [8.0, 4 + 8**0.5, 4.0, 4 - 8**0.5]),
        (Cosine(6, warmup=2, warmup_start=0.5), [4.0, 6.0, 8.0, 4 + 8**0.5, 4.0, 4 - 8**0.5]),
        (Cosine(5, t_max=2, eta_min=2.0), [8.0, 5.0, 2.0, 5.0, 8.0]),
        (
            OneCycle(7, warmup=3, div_factor=4, final_div_factor=2, anneal_strategy="linear"),
            [2.0, 5.0, 8.0, 6.25, 4.5, 2.75, 1.0],
        ),
        (OneCycle(7, warmup=3, div_factor=4, final_div_factor=2), [2.0, 5.0, 8.0, 6.974873734, 4.5, 2.025126266, 1.0]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_lr_by_hand(schedule, wanted):
    assert [schedule.lr(step, 8.0) for step in range(len(wanted))] == pytest.approx(wanted)


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_plateau_by_hand(mode, sign):
    schedule = Plateau(TOTAL, mode=mode, patience=1, cooldown=1, factor=0.5, threshold=0.0, min_lr=1.5)
    seen = []
    for value in [5, 4, 4, 4, 9, 9, 9, 3, 3, 3, 3, 3, 3, 3]:
        schedule.observe(sign * value)
        seen.append(schedule.lr(0, 8.0))
    assert seen == [8, 8, 8, 4, 4, 4, 2, 2, 2, 1.5, 1.5, 1.5, 1.5, 1.5]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({}, {}),
        ({"warmup": 0.1}, {"pct_start": 0.1}),
        ({"warmup": 15}, {"pct_start": 15 / TOTAL}),
        ({"warmup": 0.005}, {"pct_start": 0.005}),
        ({"div_factor": 10.0, "final_div_factor": 50.0}, {"div_factor": 10.0, "final_div_factor": 50.0}),
        ({"anneal_strategy": "linear"}, {"anneal_strategy": "linear"}),
        ({"cycle_momentum": True}, {"cycle_momentum": True}),
        (
            {"cycle_momentum": True, "base_momentum": 0.5, "max_momentum": 0.8, "anneal_strategy": "linear"},
            {"cycle_momentum": True, "base_momentum": 0.5, "max_momentum": 0.8, "anneal_strategy": "linear"},
        ),
    ],
)
def test_one_cycle_equals_pytorchs(torch, ours, theirs):
    theirs = {"cycle_momentum": False} | theirs
    wanted = drive(torch, lambda s, o: s.OneCycleLR(o, BASE, total_steps=TOTAL, **theirs), momentum=0.9)
    schedule = OneCycle(TOTAL, **ours)
    assert [schedule.lr(step, BASE) for step in range(TOTAL)] == pytest.approx([lr for lr, _ in wanted], rel=1e-12)
    if theirs["cycle_momentum"]:
        momenta = [schedule.momentum(step) for step in range(TOTAL)]
        assert momenta == pytest.approx([momentum for _, momentum in wanted], rel=1e-12)
    else:
        assert schedule.momentum(3) is None


@pytest.mark.oracle
@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"patience": 0, "factor": 0.5},
        {"patience": 2, "cooldown": 3, "factor": 0.5, "min_lr": 0.02},
        {"patience": 1, "threshold": 0.3, "eps": 0.01},
    ],
)
@pytest.mark.parametrize("scale", [1.0, -1.0])
def test_plateau_equals_pytorchs(torch, mode, threshold_mode, options, scale):
    options = {"mode": mode, "threshold_mode": threshold_mode} | options
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=BASE)
    theirs = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, **options)
    ours = Plateau(TOTAL, **options)
    rng = np.random.default_rng(3)
    observed = scale * np.concatenate(
        [np.linspace(2, 1, 5), 1 + 0.1 * rng.random(40), [np.nan, np.inf, 0.5], np.ones(9)]
    )
    for value in observed:
        theirs.step(value)
        ours.observe(value)
        assert ours.lr(7, BASE) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)


def test_plateau_leaves_out_a_tiny_reduction():
    schedule = Plateau(TOTAL, patience=0, factor=0.5, eps=0.3)
    seen = []
    for _ in range(5):
        schedule.observe(1.0)
        seen.append(schedule.lr(0, 1.0))
    assert seen == [1.0, 0.5, 0.5, 0.5, 0.5]


def test_plateau_takes_the_values_own_sense_unless_told():
    for mode, rises in [(None, True), ("min", False), ("max", True)]:
        schedule = Plateau(TOTAL, mode=mode, patience=0, factor=0.5)
        for accuracy in (0.5, 0.6, 0.7):
            schedule.observe(accuracy, sense="max")
        assert (schedule.lr(0, BASE) == BASE) is rises


def test_plateau_goes_on_from_its_state():
    whole, first = (Plateau(TOTAL, patience=1, cooldown=1, factor=0.5) for _ in range(2))
    values = [3.0, 2.0, 2.0, 2.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    for cut in range(len(values)):
        whole, first, second = (Plateau(TOTAL, patience=1, cooldown=1, factor=0.5) for _ in range(3))
        for value in values:
            whole.observe(value)
        for value in values[:cut]:
            first.observe(value)
        second.load_state(json.loads(json.dumps(first.state(), allow_nan=False)))
        for value in values[cut:]:
            second.observe(value)
        assert second.state() == whole.state()
    assert whole.lr(0, BASE) < BASE


def test_state_of_another_schedule_is_refused():
    with pytest.raises(CheckpointError, match="lacks best, bad"):
        Plateau(TOTAL).load_state({})


def test_a_schedule_without_memory_has_no_state():
    schedule = Cosine(TOTAL)
    before = [schedule.lr(step, BASE) for step in range(TOTAL)]
    schedule.observe(1.0)
    assert schedule.state() == {}
    assert [schedule.lr(step, BASE) for step in range(TOTAL)] == before


def test_warmup_comes_before_a_reduced_plateau_too():
    schedule = Plateau(TOTAL, patience=0, factor=0.5, warmup=10, warmup_start=0.0)
    schedule.observe(1.0)
    schedule.observe(1.0)
    assert [schedule.lr(step, 1.0) for step in (0, 5, 10)] == [0.0, 0.25, 0.5]


@pytest.mark.parametrize("total", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0, 1, 0.3, 100])
@pytest.mark.parametrize("name", list(schedules))
def test_the_shortest_trainings_and_steps_past_the_end_have_a_finite_lr(name, total, warmup):
    options = {"step": {"step_size": 1}, "multi_step": {"milestones": []}, "exponential": {"gamma": 0.5}}
    schedule = schedules[name](total, **options.get(name, {}), warmup=warmup)
    for step in range(total + 3):
        assert 0 <= schedule.lr(step, BASE) <= BASE * (1 + 1e-12)


def test_one_cycle_stays_at_its_end():
    schedule = OneCycle(10, cycle_momentum=True)
    assert schedule.lr(99, BASE) == schedule.lr(9, BASE) == pytest.approx(BASE / 25 / 1e4)
    assert schedule.momentum(99) == pytest.approx(0.95)


def test_one_cycle_begins_at_the_peak_when_its_rise_is_one_step():
    assert OneCycle(10, warmup=1).lr(0, BASE) == BASE


def test_every_schedule_is_registered_under_its_name():
    assert set(schedules) == {"constant", "step", "multi_step", "exponential", "cosine", "one_cycle", "plateau"}


def test_a_schedule_drives_an_optimizer():
    optimizer, schedule = SGD(params(), lr=BASE), Step(TOTAL, step_size=2)
    seen = []
    for _ in range(4):
        optimizer.lr = schedule.lr(optimizer.steps, BASE)
        optimizer.step()
        seen.append(float(optimizer.scalars[0, 0]))
    assert seen == pytest.approx([BASE, BASE, BASE / 10, BASE / 10])
