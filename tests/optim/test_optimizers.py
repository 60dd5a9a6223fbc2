"""All optimizers, row by row of specs.py: against PyTorch, over a checkpoint, on the strict device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.backend import choose
from gpubackprop.errors import CheckpointError, DeviceError, UsageError
from gpubackprop.optim import SGD, Adam, AdamW, Muon, RMSprop, optimizers
from gpubackprop.parameters import Parameters
from tests.optim.specs import PLAIN, ROWS, OptimizerSpec, draw, fingerprint, params, train, values

rows = pytest.mark.parametrize("spec", ROWS, ids=str)
plain_rows = pytest.mark.parametrize("spec", PLAIN, ids=str)


REFERENCES = json.loads(Path(__file__).with_name("references.json").read_text())


@pytest.fixture
def theirs():
    """PyTorch's optimizer of a row."""
    pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    pytest.importorskip("pytorch_optimizer", reason="needs pytorch_optimizer, in the [oracle] extra")
    from tests.optim.torch_optimizer import TorchOptimizer

    return TorchOptimizer


def assert_close(ours, wanted, tolerance):
    assert set(ours) == set(wanted)
    for name, array in wanted.items():
        assert np.abs(ours[name] - array).max() <= tolerance * np.abs(array).max(), name


@pytest.mark.oracle
@rows
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_fifty_steps_equal_pytorchs(theirs, spec, dtype):
    wanted = theirs(spec, dtype)
    wanted.train(0, 50)
    optimizer = spec.make(params(dtype))
    train(optimizer, 0, 50)
    tolerance = 1e-12 if dtype == "float64" else spec.float32
    assert_close(values(optimizer.params), wanted.values(), tolerance)
    assert_close(optimizer.state_dict(), wanted.state(), tolerance)


@rows
def test_fifty_steps_equal_the_recorded_reference(spec):
    assert str(spec) in REFERENCES, (
        "no reference was recorded for this row; run `python -m tests.optim.torch_optimizer`"
    )
    optimizer = spec.make(params())
    train(optimizer, 0, 50)
    assert fingerprint(values(optimizer.params)) == pytest.approx(REFERENCES[str(spec)], rel=1e-12, abs=1e-12)


@pytest.mark.oracle
@plain_rows
def test_no_decay_is_another_group_of_pytorchs(theirs, spec):
    options = spec.options | {"weight_decay": 0.1}
    spared = {name: {"weight_decay": 0.0} for name, param, *_ in params().segments if param.kind in ("bias", "norm")}
    wanted = theirs(OptimizerSpec(spec.cls, options), changes=spared)
    wanted.train(0, 10)
    optimizer = spec.cls(params(), **options, no_decay=["bias", "norm"])
    train(optimizer, 0, 10)
    assert_close(values(optimizer.params), wanted.values(), 1e-12)


@pytest.mark.oracle
@pytest.mark.parametrize(
    "spec",
    [row for row in ROWS if row.cls is Muon or row.inner or {"momentum", "betas"} & set(row.options)],
    ids=str,
)
def test_momentum_may_change_between_steps(theirs, spec):
    wanted, optimizer = theirs(spec), spec.make(params())
    for i in range(10):
        wanted.momentum = optimizer.momentum = 0.5 + 0.04 * i
        wanted.train(i, i + 1)
        train(optimizer, i, i + 1)
    assert_close(values(optimizer.params), wanted.values(), 1e-12)


@rows
def test_a_run_goes_on_from_its_state_bit_by_bit(spec):
    whole = spec.make(params("float32"))
    train(whole, 0, 9)
    half = spec.make(params("float32"))
    train(half, 0, 4)
    resumed = spec.make(params("float32"))
    resumed.params.value[...] = half.params.value
    resumed.load_state_dict(half.state_dict(), half.steps)
    train(resumed, 4, 9)
    assert resumed.steps == 9
    assert np.array_equal(resumed.params.value, whole.params.value)
    for name, wanted in whole.state_dict().items():
        assert np.array_equal(resumed.state_dict()[name], wanted), name


@rows
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_the_strict_device_gives_numpys_bits(spec, dtype):
    reference = spec.make(params(dtype, kernels="reference"))
    strict = spec.make(params(dtype, "strict"))
    update = strict.backend.capture(strict.update)
    for i in range(5):
        draw(reference.params, i)
        draw(strict.params, i)
        reference.lr = strict.lr = 0.01 * (i + 1)
        reference.step()
        strict.prepare()
        update()
    for name, wanted in values(reference.params).items():
        assert wanted.dtype == dtype
        assert np.array_equal(values(strict.params)[name], wanted), name


@pytest.mark.gpu
@rows
def test_a_gpu_gives_numpys_numbers(spec):
    try:
        choose("cuda")
    except DeviceError as error:
        pytest.skip(str(error))
    reference, ours = spec.make(params()), spec.make(params(device="cuda"))
    train(reference, 0, 20)
    train(ours, 0, 20)
    for name, wanted in values(reference.params).items():
        assert np.abs(values(ours.params)[name] - wanted).max() <= 1e-12 * np.abs(wanted).max(), name


@rows
def test_blocks_of_any_size_give_the_same_bits(spec, monkeypatch):
    whole, parts = (spec.make(params("float32")) for _ in range(2))
    train(whole, 0, 5)
    monkeypatch.setattr(spec.cls, "BLOCK", 37)
    train(parts, 0, 5)
    assert np.array_equal(parts.params.value, whole.params.value)


@rows
def test_frozen_params_and_padding_are_not_touched(spec):
    ours = params()
    frozen = {"0.weight", "1.bias", "3.weight"}
    for name, param, _, _ in ours.segments:
        param.needs_grad = name not in frozen
    before = values(ours)
    optimizer = spec.make(ours)
    train(optimizer, 0, 5)
    for name, value in values(ours).items():
        assert np.array_equal(value, before[name]) == (name in frozen), name
    assert not frozen & {key.rpartition(".")[0] for key in optimizer.state_dict()}
    inside = np.zeros(ours.value.shape, bool)
    for _, _, start, stop in ours.segments:
        inside[start:stop] = True
    assert not ours.value[~inside].any()
    assert not any(state[~inside].any() for state in optimizer.state.values())


@rows
def test_the_working_copy_follows_the_master(spec):
    ours, twin = params(), params()
    ours.value = ours.master.astype(np.float32)
    train(spec.make(ours), 0, 3)
    train(spec.make(twin), 0, 3)
    assert np.array_equal(ours.master, twin.master)
    assert np.array_equal(ours.value, twin.master.astype(np.float32))


def test_a_model_with_uniform_settings_is_one_run():
    ours = params()
    end = ours.segments[-1].stop
    assert Adam(ours).runs == [(0, end, 0, False, None)]
    assert AdamW(ours).runs == [(0, end, 0, True, None)]
    assert Adam(ours, no_decay=["bias"]).runs == [(0, end, 0, False, None)]
    assert [run.decay for run in AdamW(ours, no_decay=["norm"]).runs] == [True, False, True]


@plain_rows
def test_coefficients_stay_where_a_captured_update_reads_them(spec):
    optimizer = spec.make(params())
    optimizer.prepare()
    seen, first = optimizer.scalars, optimizer.scalars.copy()
    optimizer.lr *= 2
    optimizer.prepare()
    assert optimizer.scalars is seen
    assert not np.array_equal(seen, first)


def test_a_constant_gradient_has_no_negative_variance():
    optimizer = RMSprop(params("float32"), centered=True, alpha=0.5)
    optimizer.params.grad[...] = np.random.default_rng(0).normal(size=optimizer.params.grad.shape)
    for _ in range(60):  # long enough for both means to arrive at the gradient and its square, to rounding
        optimizer.step()
    assert np.isfinite(optimizer.params.value).all()


def test_a_model_without_params_can_be_stepped():
    empty = Parameters({}, choose("cpu")[0], "float32", seed=0)
    optimizer = AdamW(empty)
    optimizer.step()
    assert optimizer.state_dict() == {}


def test_every_registered_optimizer_has_a_row():
    assert {optimizers[name] for name in optimizers} == {row.cls for row in ROWS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("0.bias.exp_avg"), "missing 0.bias.exp_avg"),
        (lambda d: d.update({"9.bias.exp_avg": np.zeros(3)}), "unknown 9.bias.exp_avg"),
        (lambda d: d.update({"0.bias.exp_avr": d.pop("0.bias.exp_avg")}), "did you mean '0.bias.exp_avg'?"),
        (lambda d: d.update({"0.bias.exp_avg": np.zeros(4)}), r"0.bias.exp_avg: shape \(4,\)"),
    ],
)
def test_state_that_does_not_fit_is_refused_whole(change, message):
    donor, taker = Adam(params()), Adam(params())
    train(donor, 0, 2)
    state = donor.state_dict()
    change(state)
    with pytest.raises(CheckpointError, match=message.replace("?", r"\?")):
        taker.load_state_dict(state, 2)
    assert taker.steps == 0
    assert not any(array.any() for array in taker.state.values())


def test_saved_state_is_a_copy():
    optimizer = Adam(params())
    train(optimizer, 0, 1)
    state = optimizer.state_dict()
    kept = {key: value.copy() for key, value in state.items()}
    train(optimizer, 1, 2)
    assert all(np.array_equal(state[key], kept[key]) for key in state)


def test_wrong_use_is_explained():
    with pytest.raises(UsageError, match=r"SGD takes a model's parameters, got list; write SGD\(model.parameters"):
        SGD([])
    with pytest.raises(UsageError, match="nesterov needs a momentum above 0"):
        SGD(params(), nesterov=True)
    with pytest.raises(UsageError, match="unknown kind 'norms'; known: bias, norm; did you mean 'norm'"):
        AdamW(params(), no_decay=["norms"])


@pytest.mark.parametrize("cls", [SGD, RMSprop])
def test_cycling_a_momentum_that_was_not_built_is_explained(cls):
    optimizer = cls(params())
    optimizer.momentum = 0.9
    with pytest.raises(UsageError, match="built without"):
        optimizer.step()
