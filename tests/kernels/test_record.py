"""A replayed step is the step itself, bit for bit, whatever has changed since it was recorded."""

from __future__ import annotations

import tracemalloc
import zlib

import numpy as np
import pytest

from gpubackprop import nn, optim
from gpubackprop.errors import UsageError
from gpubackprop.kernels.cpu.memory import Pool
from gpubackprop.kernels.repeat import KEPT
from gpubackprop.ops.activation import relu
from gpubackprop.optim.optimizer import optimizers
from gpubackprop.optim.wrapper import Wrapper
from gpubackprop.training.step import TrainStep
from scripts.bench.models import WORKLOADS, OurStep
from tests.kernels import harness
from tests.nn.specs import table

BATCH = 4
STEPS = 6


@pytest.fixture(autouse=True, scope="module")
def _kernels():
    harness.backend()


def replays(step):
    """The recordings of a step."""
    return [found[0] for found in step._update.found.values() if type(found) is tuple]


def refusals(step):
    return [found for found in step._update.found.values() if isinstance(found, str)]


def eagerly(step):
    """The same step, which is never recorded."""
    recorded = step._update

    def update(batches):
        recorded.found.clear()
        return recorded(batches)

    update.found = {}
    step._update = update
    return step


def classifier(*layers, shape=(6,), classes=3):
    return lambda: nn.Sequential(*(layer() for layer in layers), nn.Flatten(), nn.Linear(None, classes)).build(
        shape, seed=3
    )


def sgd(model):
    return optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def make(build, optimizer=sgd, loss=nn.CrossEntropyLoss, **options):
    model = build()
    return TrainStep(model, loss(), optimizer(model), **options)


def draw(shape, count=STEPS, classes=3, symbols=0, samples=BATCH):
    rng = np.random.default_rng(zlib.crc32(repr(shape).encode()))
    for _ in range(count):
        x = rng.integers(0, symbols, (samples, *shape)) if symbols else rng.normal(size=(samples, *shape))
        yield x if symbols else x.astype(np.float32), rng.integers(0, classes, samples)


def state(step):
    """All that a step may change."""
    found = step.model.state_dict() | {f"optimizer.{k}": v for k, v in step.optimizer.state_dict().items()}
    if step.average is not None:
        found["average"] = step.average.value.copy()
    return found


def assert_same(one, two):
    found, wanted = state(one), state(two)
    for key, array in wanted.items():
        np.testing.assert_array_equal(found[key], array, err_msg=key)


def assert_equals_eager(new, batches, between=lambda step, number: None):
    """Steps of `new()` over batches, recorded and eager: losses, norms and states; gives the recorded step."""
    steps = new(), eagerly(new())
    for number, batch in enumerate(batches):
        losses = []
        for step in steps:
            between(step, number)
            losses.append(step(*batch))
        assert np.array_equal(*losses, equal_nan=True), f"loss of step {number}: {losses[0]}, eager {losses[1]}"
        norms = [step.grad_norm for step in steps]
        assert norms[0] is norms[1] is None or np.array_equal(*norms, equal_nan=True), f"norm of step {number}: {norms}"
    assert_same(*steps)
    return steps[0]


@pytest.mark.parametrize("spec", table(), ids=lambda spec: spec.name)
def test_a_replayed_step_of_every_layer_is_the_step_itself(spec):
    new = lambda: make(classifier(spec.layer, shape=spec.shape))  # noqa: E731  # shorter than a function
    step = assert_equals_eager(new, draw(spec.shape, symbols=spec.symbols))
    assert len(replays(step)) == 1, refusals(step)


def mixed(p=0.25):
    """Dropout, batch norm, an op without a kernel, and a table."""
    return classifier(
        lambda: nn.Conv2d(None, 4, 3, padding=1),
        lambda: nn.BatchNorm2d(momentum=None),
        nn.ReLU,
        lambda: nn.Residual([nn.Conv2d(None, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)]),
        lambda: nn.Dropout(p),
        lambda: nn.Upsample(scale_factor=2),
        lambda: nn.MaxPool2d(2),
        lambda: nn.GroupNorm(2),
        shape=(5, 5, 2),
    )


def images(count=STEPS, samples=BATCH):
    return list(draw((5, 5, 2), count, samples=samples))


@pytest.mark.parametrize("name", [n if n != "big" else pytest.param(n, marks=pytest.mark.slow) for n in WORKLOADS])
def test_the_workloads(name):
    batches = [WORKLOADS[name].batch(3, seed=seed) for seed in range(4)]
    step = assert_equals_eager(lambda: OurStep(name, samples=3).step, batches)
    assert len(replays(step)) == 1


@pytest.mark.parametrize(
    "options",
    [
        {"clip_norm": 0.1},
        {"clip_value": 0.01},
        {"noise": lambda params: optim.GradientNoise(params)},
        {"average": lambda params: optim.WeightAverage(params, 0.9, warmup=True)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_of_a_step(options):
    def new():
        model = mixed()()
        found = {k: option(model.parameters()) if callable(option) else option for k, option in options.items()}
        return TrainStep(model, nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5]), sgd(model), **found)

    assert len(replays(assert_equals_eager(new, images()))) == 1


@pytest.mark.parametrize("name", list(optimizers))
def test_optimizers(name):
    options = {"optimizer": sgd} if issubclass(optimizers[name], Wrapper) else {}

    def optimizer(model):
        inner = {key: make(model) for key, make in options.items()}
        return optimizers[name](model.parameters(), **inner)

    step = assert_equals_eager(lambda: make(mixed(), optimizer), images())
    if options:
        assert refusals(step) == [f"{optimizers[name].__name__} does not do the same in every step"]
    else:
        assert len(replays(step)) == 1


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "nesterov": True}, {"momentum": 0.9, "dampening": 0.5}])
def test_sgd_from_its_first_step(options):
    assert_equals_eager(lambda: make(mixed(), lambda m: optim.SGD(m.parameters(), lr=0.1, **options)), images())


def test_accumulation_of_two_batches():
    pairs = [([{"inputs": x[:3], "targets": y[:3]}, {"inputs": x[3:], "targets": y[3:]}],) for x, y in images()]
    assert len(replays(assert_equals_eager(lambda: make(mixed()), pairs))) == 1


def test_recomputed_layers():
    body = [lambda: nn.Residual([nn.Linear(None, 6), nn.Dropout(0.5), nn.Tanh()], recompute=True)]
    assert len(replays(assert_equals_eager(lambda: make(classifier(*body)), draw((6,))))) == 1


def test_batches_of_two_shapes_take_turns():
    large, small = images(8), images(8, samples=2)
    turns = [large[i] if i % 3 else small[i] for i in range(8)]
    assert len(replays(assert_equals_eager(lambda: make(mixed()), turns))) == 2


def test_batches_of_many_shapes_are_not_all_kept():
    step = make(classifier(nn.ReLU))
    for samples in [*range(1, 12), *range(1, 12)]:
        step(*next(draw((6,), samples=samples)))
    assert len(replays(step)) == KEPT
    assert refusals(step) == [f"batches of {KEPT} other shapes are caught already"] * (11 - KEPT)


def test_what_a_step_gave_is_the_callers_own():
    step, kept = make(mixed(), clip_norm=0.5), []
    for batch in images():
        loss = step(*batch)
        kept.append((loss, step.grad_norm, float(loss), float(step.grad_norm)))
    assert len({loss for *_, loss, _ in kept}) == STEPS
    assert all(float(loss) == was and float(norm) == before for loss, norm, was, before in kept)


def test_the_callers_arrays_are_copied_and_left_alone():
    batches = images()
    step = make(mixed())
    for x, y in batches:
        x.flags.writeable = y.flags.writeable = False
        step(x, y)
    x, y = (a.copy() for a in batches[0])
    step(x, y)
    assert np.array_equal(x, batches[0][0])
    assert np.array_equal(y, batches[0][1])


def test_other_work_between_steps_does_not_disturb():
    x, _ = images()[0]
    kept = []

    def between(step, number):
        out = step.model(x)
        kept.append((out, out.copy()))
        if number == 4:
            step.model(x[:1])

    assert_equals_eager(lambda: make(mixed()), images(), between)
    assert all(np.array_equal(out, was) for out, was in kept)


def test_steps_on_one_backend_do_not_share_memory(monkeypatch):
    alone = eagerly(make(mixed())), eagerly(make(mixed(0.5)))
    shared = harness.backend(threads=2, always_shared=False)
    monkeypatch.setattr("gpubackprop.nn.layer.choose", lambda *_: (shared, ""))
    steps = make(mixed()), make(mixed(0.5))
    for step, other in zip(steps, alone, strict=True):
        other._backend.threads = 2
        assert step._backend is shared
    for batch in images():
        for step, other in zip(steps, alone, strict=True):
            assert float(step(*batch)) == float(other(*batch))


def _set(name, value):
    return lambda step: setattr(step, name, value)


def _load(step):
    step.model.load_state_dict({key: array * 0.5 for key, array in step.model.state_dict().items()})


def _load_optimizer(step):
    saved = {key: array * 0.5 for key, array in step.optimizer.state_dict().items()}
    step.optimizer.load_state_dict(saved, 40)


def _watch(step):
    layer = step.model.layers[2]
    layer.forward = lambda x: relu(relu(x))


CHANGES = {
    "clip_norm": (_set("clip_norm", 0.01), True),
    "no clip_norm": (_set("clip_norm", None), True),
    "clip_value": (_set("clip_value", 0.001), True),
    "loss": (_set("loss", nn.CrossEntropyLoss(label_smoothing=0.2)), True),
    "option of the loss": (lambda step: setattr(step.loss, "label_smoothing", 0.3), True),
    "average": (lambda step: setattr(step, "average", optim.WeightAverage(step.model.parameters(), 0.5)), True),
    "optimizer": (lambda step: setattr(step, "optimizer", optim.AdamW(step.model.parameters())), True),
    "option of the optimizer": (lambda step: setattr(step.optimizer, "nesterov", True), True),
    "dropout": (lambda step: setattr(step.model.layers[4], "p", 0.9), True),
    "eps": (lambda step: setattr(step.model.layers[1], "eps", 0.1), True),
    "a layer more": (lambda step: step.model.layers.insert(2, nn.Softplus()), True),
    "a layer less": (lambda step: step.model.layers.pop(4), True),
    "another layer": (lambda step: step.model.layers.__setitem__(2, nn.Tanh()), True),
    "a layer inside": (lambda step: step.model.layers[3].body.layers.append(nn.Tanh()), True),
    "another forward": (_watch, True),
    "frozen": (lambda step: setattr(step.model.layers[0].weight, "needs_grad", False), True),
    "threads": (lambda step: setattr(step._backend, "threads", 1), True),
    "learning rate": (lambda step: setattr(step.optimizer, "lr", 0.5), False),
    "momentum": (lambda step: setattr(step.optimizer, "momentum", 0.1), False),
    "steps": (lambda step: setattr(step.optimizer, "steps", 70), False),
    "weights": (_load, False),
    "state of the optimizer": (_load_optimizer, False),
    "weights in place": (lambda step: step.model.parameters().value.__imul__(0.7), False),
}


@pytest.mark.parametrize(("change", "anew"), CHANGES.values(), ids=CHANGES)
def test_whatever_changes_between_steps_counts(change, anew):
    recordings = []

    def between(step, number):
        if number == 4:
            change(step)
        recordings.append(replays(step))

    step = assert_equals_eager(lambda: make(mixed(), clip_norm=1.0), images(8), between)
    kept = any(found is recordings[8][0] for found in replays(step))
    assert kept != anew, "recorded anew, or not"
    assert replays(step) or "ReLU.forward" in refusals(step)[0]


def test_a_class_that_there_is_not_is_seen_in_a_replayed_step():
    step = make(mixed())
    for x, y in images(4):
        step(x, y)
    before = state(step)
    with pytest.raises(UsageError, match="3"):
        step(x, np.full_like(y, 3))
    for key, array in before.items():
        np.testing.assert_array_equal(state(step)[key], array)


def test_what_cannot_be_replayed_says_why():
    step = make(classifier(nn.ReLU))
    for x, y in draw((6,)):
        step({"inputs": x, "targets": y, "weight": np.ones(BATCH, np.float32)})
    assert refusals(step) == ["batches of inputs, targets, weight are not replayed"]
    step = make(classifier(lambda: nn.LSTM(None, 5, stateful=True), shape=(7, 6)))
    for batch in draw((7, 6)):
        step(*batch)
    assert refusals(step) == ["layers hand states on from step to step"]


def spoil(step, small):
    """Fill memory of a recorded step that nobody owns between steps."""
    (replay,) = replays(step)
    kept = {a.__array_interface__["data"][0] for a in (*replay.inputs, *replay.outputs) if a is not None}
    for stack in step._update.memory.free.values():
        for base in stack:
            np.frombuffer(base, np.uint8).fill(255)
    for a in small:
        if a.__array_interface__["data"][0] not in kept:
            a.reshape(-1).view(np.uint8).fill(255)


def test_nothing_is_read_that_the_step_did_not_write(monkeypatch):
    small = []
    usual = Pool.empty

    def empty(pool, shape, dtype):
        a = usual(pool, shape, dtype)
        if a.base is None:
            small.append(a)
        return a

    step, alone = make(mixed(), clip_norm=0.5), eagerly(make(mixed(), clip_norm=0.5))
    for number, batch in enumerate(images()):
        monkeypatch.setattr(Pool, "empty", empty if number == 1 else usual)
        assert float(step(*batch)) == float(alone(*batch))
        small = small if number else []
        if number:
            spoil(step, small)
    assert small
    assert_same(step, alone)


def test_a_steady_step_asks_for_no_memory():
    step = make(mixed(), clip_norm=0.5)
    batches = images(12, samples=16)
    for batch in batches[:4]:
        step(*batch)
    held = step._backend.memory.held
    tracemalloc.start()
    try:
        step(*batches[4])
        before = tracemalloc.get_traced_memory()[0]
        for batch in batches[5:]:
            step(*batch)
        assert tracemalloc.get_traced_memory()[0] - before < 4096
    finally:
        tracemalloc.stop()
    assert step._backend.memory.held == held


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}])
def test_a_nan_of_the_backward_pass_alone_comes_out_of_a_replayed_step(options):
    """Factors that undo each other on the way forward, and overflow on the way back."""
    factors = {"0.weight": 1e-37, "1.weight": 1e20, "3.weight": 3e20}
    nans = []

    def overflowing(step, number):
        if number == 4:
            held = step.model.state_dict()
            step.model.load_state_dict({key: array * np.float32(factors.get(key, 0)) for key, array in held.items()})
        if number == 5:
            nans.append(np.isnan(step.model.parameters().value).sum())

    def new():
        return make(classifier(lambda: nn.Linear(None, 6), lambda: nn.Linear(None, 6)), **options)

    batches, step = list(draw((6,), count=7)), new()
    for number, batch in enumerate(batches[:5]):
        overflowing(step, number)
        assert np.isfinite(step(*batch)), f"loss of step {number}"
    step = assert_equals_eager(new, batches, overflowing)
    assert len(replays(step)) == 1
    assert nans[0] == nans[1] > 6


def test_memory_is_given_back_where_a_step_fails_as_it_is_recorded():
    step = make(mixed())
    batches = images()
    step(*batches[0])
    pool, forward = step._backend.memory, step.model.layers[2].forward

    def fails(x):
        raise ArithmeticError("on purpose")

    step.model.layers[2].forward = fails
    with pytest.raises(ArithmeticError):
        step(*batches[1])
    assert pool.free
    assert not step._update.memory.free
    assert step._backend.memory is pool
    step.model.layers[2].forward = forward
    for batch in batches[2:]:
        step(*batch)


def test_python_code_that_came_into_a_layer_runs_in_every_step():
    step = make(classifier(lambda: nn.Linear(None, 5), nn.Tanh))
    ran, forward = [], step.model.layers[1].forward

    def watched(x):
        ran.append(1)
        return forward(x)

    step.model.layers[1].forward = watched
    for batch in draw((6,)):
        step(*batch)
    assert len(ran) == STEPS
    assert "Tanh.forward" in refusals(step)[0]


def test_a_replayed_step_is_silent_about_overflow_as_every_step_is():
    step = make(classifier(lambda: nn.Linear(None, 5)))
    y = np.zeros(BATCH, int)
    with np.errstate(all="raise"):
        for _ in range(4):
            step(np.full((BATCH, 6), 1e300), y)
    assert len(replays(step)) == 1


def test_a_step_that_is_interrupted_before_its_update_is_none():
    step = make(classifier(lambda: nn.Linear(None, 5)))
    forward = step.model.forward

    def interrupted(x):
        raise KeyboardInterrupt

    step.model.forward = interrupted
    x, y = next(draw((6,)))
    with pytest.raises(KeyboardInterrupt):
        step(x, y)
    assert step.optimizer.steps == 0
    step.model.forward = forward
    step(x, y)
    assert step.optimizer.steps == 1
