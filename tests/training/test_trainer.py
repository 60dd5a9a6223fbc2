"""When things happen, and what early stopping, the best checkpoint and the schedule are told."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.data.loader import Loader
from gpubackprop.data.source import Split
from gpubackprop.errors import DivergedError
from gpubackprop.optim import SGD
from gpubackprop.optim.schedule import Constant, OneCycle
from gpubackprop.training import trainer as module
from gpubackprop.training.metric import metrics
from gpubackprop.training.step import TrainStep
from gpubackprop.training.trainer import Every, State, Trainer


class Notes:
    """An observer, and what is saved when."""

    def __init__(self):
        self.records, self.steps, self.saved = [], [], []

    def stepped(self, trainer):
        self.steps.append(trainer.state.step)

    def recorded(self, trainer, record):
        self.records.append(record)


class Told(Constant):
    """A schedule that remembers what it was told."""

    def __init__(self, total):
        super().__init__(total)
        self.values = []

    def observe(self, value, sense="min"):
        self.values.append((value, sense))


def trainer(total, notes, samples=20, batch=4, device="cpu", schedule=None, lr=0.1, **options):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    model = nn.Sequential(nn.Linear(3, 2)).build((3,), 0, device)
    step = TrainStep(model, nn.CrossEntropyLoss(), SGD(model.parameters(), lr=lr, momentum=0.9))
    loader = Loader(Split(x, y), batch, shuffle=True)
    made = Trainer(
        step,
        schedule or Constant(total),
        loader,
        total_steps=total,
        observers=[notes],
        save=lambda name: notes.saved.append((made.state.step, name)),
        **options,
    )
    return made


def held_out():
    rng = np.random.default_rng(1)
    x = rng.normal(size=(7, 3)).astype(np.float32)
    return Loader(Split(x, (x[:, 0] > 0).astype(np.int64)), 4)


@pytest.mark.parametrize(
    ("every", "steps"), [(1, [1, 2, 3, 4, 5, 6, 7]), (3, [3, 6, 7]), (7, [7]), (50, [7]), ("epoch", [5, 7])]
)
def test_triggers(every, steps):
    notes, due = Notes(), []
    run = trainer(7, notes)
    trigger = Every(every)
    notes.stepped = lambda trainer: due.append(trainer.state.step) if trigger(trainer) else None
    run.run()
    assert due == steps


@pytest.mark.parametrize("device", ["cpu", "strict"])
def test_a_run(device):
    notes = Notes()
    options = {"validation": held_out(), "metrics": [metrics["accuracy"]()], "monitor": "val/accuracy"}
    state = trainer(12, notes, log_every=4, device=device, **options).run()
    assert (state.step, state.finished) == (12, True)
    assert notes.steps == list(range(1, 13))
    assert [record["step"] for record in notes.records] == [4, 5, 8, 10, 12]
    assert [record["epoch"] for record in notes.records] == [0.8, 1, 1.6, 2, 2.4]
    assert ["val/loss" in record for record in notes.records] == [False, True, False, True, True]
    numbered = [(step, f"step-{step:08d}") for step in (5, 10, 12)]
    assert [entry for entry in notes.saved if entry[1].startswith("step")] == numbered
    assert notes.saved[-1] == (12, "last")
    assert (5, "best") in notes.saved


def test_an_epoch_of_accumulated_batches_ends_with_a_smaller_step(monkeypatch):
    notes, groups = Notes(), []
    run = trainer(6, notes, samples=18, batch=4, accumulate=2)
    step = run.step
    sizes = lambda batches: tuple(len(batch["inputs"]) for batch in batches)  # noqa: E731  # short and used once
    run.step = type("Spy", (), {"__call__": lambda _, b: groups.append(sizes(b)) or step(b)})()
    run.step.__dict__.update(
        model=step.model, optimizer=step.optimizer, loss=step.loss, grad_norm=None, carries=[], loss_scale=None
    )
    run.run()
    assert groups == [(4, 4), (4, 4), (2,)] * 2
    assert run.epoch == 2


def test_samples_of_several_inputs_are_counted(monkeypatch):
    notes = Notes()
    made = trainer(2, notes, samples=6)
    whole = made.loader.batch

    def named(epoch, index):
        batch = whole(epoch, index)
        return batch | {"inputs": {"x": batch["inputs"], "more": batch["inputs"]}}

    monkeypatch.setattr(made.loader, "batch", named)
    losses = iter([1.0, 4.0])  # of 4 samples and of 2
    monkeypatch.setattr(made, "step", Losses(made.step, losses))
    made.run()
    assert notes.records[-1]["train/loss"] == pytest.approx((4 * 1.0 + 2 * 4.0) / 6)


class Losses:
    """A step that makes no update and tells losses that were given."""

    def __init__(self, step, losses):
        self.step, self.losses = step, losses

    def __call__(self, batches):
        return np.asarray(next(self.losses))

    def __getattr__(self, name):
        return getattr(self.step, name)


def test_stop_and_go_on_in_the_middle_of_an_epoch():
    whole, parts = Notes(), Notes()
    uninterrupted = trainer(8, whole, log_every=3)
    uninterrupted.run()
    first = trainer(8, parts, log_every=3, interrupted=lambda: parts.steps[-1:] == [4])
    state = first.run()
    assert (state.step, state.finished) == (4, False)
    second = trainer(8, parts, log_every=3, state=State(**vars(state)))
    second.step.model.load_state_dict(first.step.model.state_dict())
    second.step.optimizer.load_state_dict(first.step.optimizer.state_dict(), first.step.optimizer.steps)
    second.run()
    key, wanted = "0.weight", uninterrupted.step.model.state_dict()
    np.testing.assert_array_equal(second.step.model.state_dict()[key], wanted[key])
    losses = [[record["train/loss"] for record in notes.records] for notes in (whole, parts)]
    assert losses[0] == losses[1]


def test_the_schedule_sets_rate_and_momentum_of_every_step():
    seen, notes = [], Notes()
    schedule = OneCycle(10, cycle_momentum=True)
    run = trainer(10, notes, schedule=schedule)
    notes.stepped = lambda t: seen.append((t.step.optimizer.lr, t.step.optimizer.momentum))
    run.run()
    assert seen == [(schedule.lr(step, 0.1), schedule.momentum(step)) for step in range(10)]


def figures(monkeypatch, values):
    """Validations give these figures."""
    given = iter(values)
    monkeypatch.setattr(module, "Evaluation", lambda *_: lambda batches: {"loss": next(given)})


class TestMonitor:
    def run(self, monkeypatch, values, **options):
        figures(monkeypatch, values)
        notes = Notes()
        schedule = Told(5 * len(values))
        options = {"validation": held_out(), "monitor": "val/loss"} | options
        state = trainer(5 * len(values), notes, schedule=schedule, **options).run()
        return state, [step // 5 for step, name in notes.saved if name == "best"], schedule.values

    def test_best(self, monkeypatch):
        state, best, told = self.run(monkeypatch, [3.0, 2.0, 2.5, 2.0, 1.0])
        assert best == [1, 2, 5]
        assert (state.best, state.best_step, state.since_best) == (1.0, 25, 0)
        assert told == [(value, "min") for value in (3.0, 2.0, 2.5, 2.0, 1.0)]

    def test_patience(self, monkeypatch):
        state, best, _ = self.run(monkeypatch, [3.0, 2.0, 2.5, 2.4, 1.0, 1.0], patience=2)
        assert (state.step // 5, state.finished, best) == (4, True, [1, 2])

    def test_min_delta(self, monkeypatch):
        state, best, _ = self.run(monkeypatch, [3.0, 2.9, 2.8, 2.0, 1.0], patience=2, min_delta=0.5)
        assert (state.step // 5, best) == (3, [1])

    def test_nan_is_never_best(self, monkeypatch):
        state, best, _ = self.run(monkeypatch, [math.nan, math.inf, 2.0, math.nan, 1.0])
        assert (best, state.best) == ([3, 5], 1.0)

    def test_train_loss(self):
        notes, schedule = Notes(), Told(20)
        trainer(20, notes, schedule=schedule, monitor="train/loss", log_every=2).run()
        assert schedule.values == [(record["train/loss"], "min") for record in notes.records]
        assert any(name == "best" for _, name in notes.saved)

    def test_a_metric_knows_its_direction(self):
        for name, better in (("val/accuracy", "max"), ("val/loss", "min"), ("val/mae", "min")):
            known = [metrics["accuracy"](), metrics["mae"]()]
            assert trainer(1, Notes(), metrics=known, monitor=name).better == better


class TestDivergence:
    def test_names_the_first_bad_step_though_it_is_seen_later(self):
        notes = Notes()
        run = trainer(20, notes, lr=3e38, log_every=20)
        with pytest.raises(DivergedError, match=r"at step (\d+): the loss is (nan|inf) \(lr 3e\+38\)") as error:
            run.run()
        number = int(str(error.value).split("step ")[1].split(":")[0])
        assert number < run.state.step
        assert not notes.saved

    def test_weights_that_are_not_finite_are_not_saved(self):
        notes = Notes()
        run = trainer(5, notes, log_every=1)
        notes.stepped = lambda t: t.step.model.load_state_dict(
            {"0.weight": np.full((2, 3), np.inf), "0.bias": np.zeros(2)}
        )
        with pytest.raises(DivergedError):
            run.run()
        assert not notes.saved
