"""Whole steps on the doubles: what a GPU would be launched with, eagerly and as a CUDA graph."""

from __future__ import annotations

import types
import weakref
from unittest import mock

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.errors import UsageError
from gpubackprop.kernels.cuda import capture, load
from gpubackprop.ops.shape import add
from gpubackprop.training.step import TrainStep
from tests.kernels.cuda.cupy_double import RaceError
from tests.kernels.cuda.device import ORDERS, CudaBackend, TestDevice, doubles
from tests.kernels.cuda.rows import needs_compiler

pytestmark = needs_compiler
SECONDS = CudaBackend.seconds  # which is not measured inside the doubles unless asked for


def step_of(device, precision="float32", kernels="auto", loss=None, **options):
    hidden = [nn.LayerNorm(20), nn.GELU(), nn.Linear(20, 20), nn.RMSNorm(20), nn.SiLU()]
    model = nn.Sequential(nn.Linear(6, 20), *hidden, nn.Dropout(0.3), nn.Linear(20, 3))
    model.build((6,), 0, device, precision, kernels)
    loss = loss or nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], label_smoothing=0.1)
    optimizer = gbp.optim.AdamW(model.parameters(), lr=1e-2)
    return TrainStep(model, loss, optimizer, clip_norm=1.0, **options)


def batch(number, samples=10):
    rng = np.random.default_rng(number)
    return {"inputs": rng.normal(size=(samples, 6)), "targets": rng.integers(0, 3, samples)}


def train(step, steps=4):
    losses = [step([batch(i)]) for i in range(steps)]
    return {"losses": np.array(list(map(float, losses)))} | step.model.state_dict()


@pytest.mark.parametrize(("precision", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_steps_equal_those_of_the_cpu_in_any_order_of_threads(monkeypatch, precision, tolerance):
    wanted = train(step_of("cpu", precision, "reference"))
    launched = set()
    right = CudaBackend.launch
    monkeypatch.setattr(CudaBackend, "launch", lambda self, *args: (launched.add(args[0].file), right(self, *args))[1])
    found = {}
    for order in ORDERS:
        with doubles(order) as cupy:
            found[order] = train(step_of("cuda", precision))
            assert cupy.device.launches == 3, "the second step is captured, and launched, and those behind it"
    assert {"activation.cu", "class_loss.cu", "dropout.cu", "layer_norm.cu", "optimizer.cu"} <= launched
    for name, value in wanted.items():
        np.testing.assert_allclose(found["forward"][name], value, rtol=tolerance, atol=tolerance)
        assert all(np.array_equal(found[order][name], found["forward"][name]) for order in ORDERS), name


def test_captured_steps_of_a_language_model_draw_the_cpus_masks():
    def losses(device):
        layers = [nn.LearnedPosition(12, max_length=8), nn.Dropout(0.3), nn.Linear(12, 18), nn.GLU()]
        model = nn.Sequential(nn.Embedding(27, 12), *layers)
        model.build((5,), 0, device, "float64", "reference" if device == "cpu" else "auto")
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.5))
        rng = np.random.default_rng(0)
        data = [{"inputs": rng.integers(0, 27, (6, 5)), "targets": rng.integers(0, 9, (6, 5))} for _ in range(5)]
        return [float(step([each])) for each in data]

    with doubles("random") as cupy:
        found = losses("cuda")
        assert cupy.device.launches == 4
    np.testing.assert_allclose(found, losses("cpu"), rtol=1e-12)


def eagerly(step):
    """The same step, never captured."""
    step._update.catch = lambda batches: (step._update.step(step._update.prepare(batches)), "not in this test")
    return step


def test_a_captured_step_is_the_step_itself():
    with doubles() as cupy:
        wanted = train(eagerly(step_of("cuda")), 5)
        assert not cupy.device.launches
        found = train(step_of("cuda"), 5)
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name


@pytest.mark.parametrize("wrapper", [gbp.optim.SAM, gbp.optim.Lookahead])
def test_optimizers_around_others_are_captured_too(wrapper):
    def wrapped(**options):
        step = step_of("cuda", **options)
        optimizer = wrapper(step.model.parameters(), step.optimizer)
        return TrainStep(step.model, step.loss, optimizer, clip_norm=1.0)

    with doubles() as cupy:
        wanted = train(eagerly(wrapped()), 8)
        assert not cupy.device.launches
        found = train(wrapped(), 8)
        assert cupy.device.launches == 7
    for name, value in wanted.items():
        assert np.array_equal(found[name], value), name


def test_nothing_waits_for_the_device_but_copies_of_two_steps_ago():
    with doubles() as cupy:
        step = step_of("cuda")
        for number in range(4):
            step([batch(number)])
        before = cupy.device.waits
        for number in range(6):
            step([batch(number)])
        assert cupy.device.waits - before == 6  # each for pinned memory, not for the step


def test_a_stream_in_use_is_so_again_behind_a_step():
    with doubles() as cupy:
        b, current = load(), cupy.cuda.get_current_stream
        for stream in (b.stream, cupy.cuda.Stream(), cupy.cuda.Stream(null=True)):
            stream.use()
            with b.running():
                assert current() is b.stream
            assert current() is stream


def test_pinned_memory_is_given_back_when_its_copies_have_arrived():
    with doubles() as cupy:
        step = step_of("cuda")
        for number in range(4):
            step([batch(number)])
        step._update.found.clear()
        left, known = cupy.device.pinned.values(), cupy.device.clocks["host"]
        assert left
        assert all(known[line] >= when for line, when in left)


def test_a_graphs_pool_gives_nothing_back_while_it_lives():
    made = []

    class Memory:
        def __init__(self, size):
            made.append(weakref.ref(self))

    cuda = types.SimpleNamespace(
        Memory=Memory, MemoryPointer=lambda memory, offset: memory, MemoryPool=lambda grow: grow
    )
    pool = capture.own_pool(types.SimpleNamespace(cuda=cuda))
    pool(512)
    pool(1024)  # neither is in use any more
    assert all(memory() is not None for memory in made)
    del pool
    assert not any(memory() is not None for memory in made)


def test_a_call_is_timed_within_a_graph_as_it_will_be_run():
    with doubles() as cupy:
        device, calls = load(), []
        x = device.xp.zeros(3)

        def call():
            calls.append(device.captures.capturing)
            x[...] += 1

        with device.running():
            assert capture.timed(device, call, 4) == 1.0 / 4 / 1000  # the double says a millisecond
        assert calls == [False, True, True, True, True]
        assert cupy.device.launches == 2
        assert device.to_host(x).tolist() == [9.0] * 3, "once at first, and two launches of four"


def test_a_training_in_which_all_is_timed_is_the_same():
    with doubles():
        wanted = train(step_of("cuda"))
    with doubles() as cupy, mock.patch.object(CudaBackend, "seconds", SECONDS):
        found = train(step_of("cuda"))
        assert cupy.device.launches > 3 + 2 * 8, "the algorithms of products, at least"
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


def test_what_cannot_be_captured_is_timed_as_it_is():
    device, calls = TestDevice(), []

    def call():
        calls.append(device.captures.capturing)
        device.only_once("it is for Python alone to know")

    with device.running():
        assert capture.timed(device, call, 4) == 1.0 / 4 / 1000
    assert calls == [False, True] + [False] * 8


def test_a_learning_rate_and_arrays_on_the_device_reach_a_captured_step():
    def run(step, b):
        for number in range(6):
            step.optimizer.lr = 0.01 * number
            step([{name: b.xp.asarray(a) for name, a in batch(number).items()}])
        return step.model.state_dict()

    with doubles():
        steps = step_of("cuda"), eagerly(step_of("cuda"))
        found, wanted = (run(step, step.model.built.backend) for step in steps)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_targets_above_the_classes_are_named_before_a_step_and_by_a_replayed_one():
    with doubles():
        step = step_of("cuda")
        wrong = batch(0) | {"targets": np.array([0, 1, 2, 7, 0, 1, 2, 0, 1, 2])}
        for steps in (0, 3):
            for number in range(steps):
                step(batch(number))
            before = step.model.state_dict()
            with pytest.raises(UsageError, match="target 7 of sample 3; it is none of the model's 3 classes, 0 to 2"):
                step(wrong)
            assert step.optimizer.steps == steps
            assert all(np.array_equal(before[key], value) for key, value in step.model.state_dict().items())
        step(batch(0) | {"targets": np.full(10, 2, np.uint8)})


@pytest.mark.parametrize("built_for", [None, (4, 4, 1)])
def test_labels_are_those_of_the_outputs_of_the_batch_at_hand(built_for):
    with doubles():
        model = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), nn.Flatten()).build(built_for, 0, "cuda")
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
        step(np.zeros((2, 8, 8, 1)), np.array([40, 63]))
        with pytest.raises(UsageError, match="target 64 of sample 1; it is none of the model's 64 classes, 0 to 63"):
            step(np.zeros((2, 8, 8, 1)), np.array([40, 64]))
        with pytest.raises(UsageError, match="target 40 of sample 0; it is none of the model's 16 classes, 0 to 15"):
            step(np.zeros((2, 4, 4, 1)), np.array([40, 1]))


class Doubled(nn.Layer):
    """A layer of a user's own."""

    def output_shape(self, shape):
        return shape

    def forward(self, x):
        return add(x, x)


def test_a_layer_of_a_users_own_is_named_once_and_runs_as_it_is():
    with doubles() as cupy:
        model = nn.Sequential(nn.Linear(6, 3), Doubled()).build((6,), 0, "cuda")
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
        with pytest.warns(RuntimeWarning, match="steps are not captured .*: what Doubled does in Python") as warned:
            assert np.isfinite([float(step(batch(samples, samples))) for samples in (10, 10, 10, 7, 7)]).all()
        assert (len(warned), cupy.device.launches) == (1, 0)


def test_labels_of_heads_are_looked_at_too():
    with doubles():
        heads = nn.Heads({"kind": [nn.Linear(None, 3)], "size": [nn.Linear(None, 1)]})
        model = nn.Sequential(nn.Linear(6, 4), heads).build((6,), 0, "cuda")
        loss = nn.MultiTaskLoss({"kind": nn.CrossEntropyLoss(ignore_index=255), "size": nn.MSELoss()})
        step = TrainStep(model, loss, gbp.optim.SGD(model.parameters(), lr=0.1))
        x, size = np.zeros((4, 6)), np.zeros((4, 1))
        step(x, {"kind": np.array([0, 2, 255, 1], np.uint8), "size": size})
        with pytest.raises(
            UsageError, match=r"head kind: cross_entropy: target 3 of sample 2; it is none of .* 0 to 2"
        ):
            step(x, {"kind": np.array([0, 2, 3, 255]), "size": size})


def test_batches_of_other_shapes_and_changed_parts_are_captured_anew():
    with doubles() as cupy:
        step = step_of("cuda")
        for number, samples in enumerate([10, 10, 10, 7, 7, 7, 10]):
            step([batch(number, samples)])
        assert (step._update.caught, cupy.device.launches) == (2, 5)
        step.clip_norm = 0.1
        step([batch(0)])
        assert step._update.caught == 0


def test_what_cannot_be_captured_is_named_once_and_runs_as_it_is():
    with doubles() as cupy:
        plain = train(step_of("cuda", loss=nn.CrossEntropyLoss()))
        step = step_of("cuda", loss=nn.CrossEntropyLoss())
        right = step.model.layers[1].forward

        class Waits(nn.LayerNorm):
            __module__ = "gpubackprop.nn.norm"

            def forward(self, x):
                float(x.value.sum())
                return right(x)

        step.model.layers[1].__class__ = Waits
        with pytest.warns(RuntimeWarning, match=r"not captured.*: \w+ \(\w+.py:\d+\): reading a number") as warned:
            found = train(step)
        assert len(warned) == 1
        assert cupy.device.launches == 3, "of the plain one alone"
    assert np.array_equal(found["losses"], plain["losses"])


def test_two_models_on_a_gpu_do_not_overtake_each_other():
    with doubles():
        first, second = step_of("cuda"), step_of("cuda")
        found = [[float(loss) for loss in (first([batch(n)]), second([batch(n)]))] for n in range(4)]
        alone = train(step_of("cuda"))["losses"]
    assert np.array_equal(np.array(found), np.stack([alone, alone], axis=1))


def stateful(device, precision, sizes):
    model = nn.Sequential(nn.LSTM(3, 5, stateful=True), nn.Linear(5, 3))
    model.build((4, 3), 0, device, precision, "auto")
    step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
    rng, found = np.random.default_rng(0), []
    for samples in sizes:
        x, target = rng.normal(size=(samples, 4, 3)), rng.integers(0, 3, (samples, 4))
        found.append(float(step(x, target)))
    return found, step


@pytest.mark.parametrize(("sizes", "launches"), [((2, 2, 2, 1, 1, 2, 2, 2), 5), ((2, 1, 2, 2, 2, 2), 3)])
def test_states_of_stateful_layers_are_carried_by_graphs(sizes, launches):
    """Batches of another size begin anew, and so do those behind them: no graph is made of a beginning."""
    wanted, _ = stateful("cpu", "float64", sizes)
    with doubles() as cupy:
        found, step = stateful("cuda", "float64", sizes)
        assert cupy.device.launches == launches
        assert len(step.carried()) == 2
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


@pytest.mark.parametrize("fault", ["arrived", "used", "pinned"])
def test_a_missing_wait_between_streams_is_seen(monkeypatch, fault):
    from gpubackprop.kernels.cuda import feed
    from tests.kernels.cuda import cupy_double

    with doubles():
        step = step_of("cuda")
        train(step, 3)
        if fault == "pinned":
            monkeypatch.setattr(cupy_double.Event, "synchronize", lambda self: None)
        else:
            right = cupy_double.Stream.wait_event
            blocking = fault == "arrived"

            def wait_event(self, event):
                if self.blocking != blocking:
                    right(self, event)

            monkeypatch.setattr(cupy_double.Stream, "wait_event", wait_event)
        assert feed.SLOTS == 2
        with pytest.raises(RaceError):
            train(step, 6)
