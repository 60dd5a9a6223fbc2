from __future__ import annotations

from importlib import import_module

import numpy as np
import pytest

from gpubackprop import tape as tape_module
from gpubackprop.backend import choose
from gpubackprop.errors import OperatorError, UsageError
from gpubackprop.nn import init
from gpubackprop.ops.shape import add
from gpubackprop.parameters import Param
from gpubackprop.tape import Op, Tape


def multiply_forward(b, x, y):
    return x * y, (x, y)


def multiply_backward(b, saved, dz, slots):
    x, y = saved
    return dz * y, dz * x


def total_forward(b, x):
    return x.sum(), x.shape


def total_backward(b, shape, dy, slots):
    return (b.xp.broadcast_to(dy, shape),)


def halves_forward(b, x):
    return (x[:2], x[2:]), None


def halves_backward(b, saved, dys, slots):
    top, bottom = (np.zeros(2) if dy is None else dy for dy in dys)
    return (np.concatenate([top, bottom]),)


multiply = Op(multiply_forward, multiply_backward)
total = Op(total_forward, total_backward)
halves = Op(halves_forward, halves_backward)


@pytest.fixture
def tape():
    return Tape(choose("cpu")[0], recording=True)


def param(*values):
    made = Param((len(values),), init.zeros)
    made.value, made.grad = np.array(values), np.full(len(values), np.nan)
    return made


class TestBackward:
    def test_a_tensor_used_several_times_receives_all_gradients(self, tape):
        x = tape.input(np.array([2.0, 3.0]), needs_grad=True)
        y = add(multiply(x, x), x)  # x² + x
        tape.backward(total(y))
        np.testing.assert_array_equal(x.grad, [5, 7])

    def test_accumulating_leaves_an_ops_own_array_alone(self, tape):
        x = tape.input(np.ones(2), needs_grad=True)
        y = add(x, x)  # its backward returns dy itself, twice
        tape.backward(total(add(y, y)))
        np.testing.assert_array_equal(x.grad, [4, 4])

    def test_a_param_used_twice(self, tape):
        weight = param(2.0, 3.0)
        x = tape.input(np.array([5.0, 7.0]))
        tape.backward(total(multiply(multiply(x, weight), weight)))
        np.testing.assert_array_equal(weight.grad, [20, 42])

    def test_a_param_used_twice_by_one_op_that_writes_in_place(self, tape):
        def forward(b, x, y, z):
            return x * y + 3 * z, x

        def backward(b, x, dy, slots):
            outs = [np.empty(2) if slot.out is None else slot.out for slot in slots[1:]]
            for out, grad in zip(outs, (dy * x, 3 * dy), strict=True):
                out[...] = grad
            return None, *outs

        weight = param(2.0, 3.0)
        tape.backward(total(Op(forward, backward)(tape.input(np.array([5.0, 7.0])), weight, weight)))
        np.testing.assert_array_equal(weight.grad, [8, 10])

    def test_a_params_first_gradient_replaces_what_was_there(self, tape):
        weight = param(2.0)
        tape.backward(total(multiply(tape.input(np.array([5.0])), weight)))
        assert weight.grad.tolist() == [5]

    def test_micro_batches_add_up_where_they_share_what_was_written(self):
        weight, written = param(2.0), set()
        for value in (5.0, 7.0):
            tape = Tape(choose("cpu")[0], recording=True, written=written)
            tape.backward(total(multiply(tape.input(np.array([value])), weight)))
        assert weight.grad.tolist() == [12]

    def test_the_gradient_is_written_in_place(self, tape):
        weight = param(2.0)
        memory = weight.grad
        tape.backward(total(multiply(tape.input(np.array([5.0])), weight)))
        assert weight.grad is memory

    def test_frozen_params_are_left_alone(self, tape):
        weight = param(2.0)
        weight.needs_grad = False
        x = tape.input(np.array([5.0]), needs_grad=True)
        tape.backward(total(multiply(x, weight)))
        assert np.isnan(weight.grad).all()
        assert x.grad.tolist() == [2]

    def test_an_output_that_nobody_used_has_no_gradient(self, tape):
        x = tape.input(np.arange(4.0), needs_grad=True)
        _, bottom = halves(x)
        tape.backward(total(multiply(bottom, bottom)))
        np.testing.assert_array_equal(x.grad, [0, 0, 4, 6])

    def test_what_does_not_lead_to_the_loss_is_passed_over(self, tape):
        x = tape.input(np.array([2.0]), needs_grad=True)
        multiply(x, x)
        tape.backward(total(x))
        assert x.grad.tolist() == [1]

    def test_entries_and_gradients_between_are_let_go(self, tape):
        x = tape.input(np.array([2.0]), needs_grad=True)
        y = multiply(x, x)
        tape.backward(total(y))
        assert tape.entries == []
        assert y.grad is None


def test_ops_without_anything_to_learn_are_not_recorded(tape):
    x = tape.input(np.array([2.0]))
    multiply(x, np.array([3.0]))
    assert tape.entries == []


def test_a_tape_that_does_not_record_keeps_nothing():
    tape = Tape(choose("cpu")[0])
    multiply(tape.input(np.array([2.0]), needs_grad=True), param(3.0))
    assert tape.entries == []


def test_effects_run_once_in_order_and_only_when_told(tape):
    seen = []
    for i in range(3):
        tape.after_step(lambda backend, *args: seen.append((backend, args)), i)
    assert seen == []
    tape.apply_effects()
    tape.apply_effects()
    assert seen == [(tape.backend, (i,)) for i in range(3)]


def test_call_numbers_count_per_path(tape):
    assert [tape.call_number(path) for path in ("a", "b", "a", "a")] == [0, 0, 1, 2]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda x: x * 2, r"^\* on a Tensor: .*call gpubackprop\.ops\.arithmetic\.scale\(x, s\)"),
        (lambda x: 2 * x, r"^\* on a Tensor"),
        (lambda x: x + x, r"^\+ on a Tensor: .*call gpubackprop\.ops\.shape\.add\(x, y\)"),
        (lambda x: x @ np.ones((3, 2)), r"^@ on a Tensor: .*gpubackprop\.ops\.linear\.linear"),
        (lambda x: x[0], r"^\[\] on a Tensor: .*; write an Op, a pair of forward and backward"),
        (lambda x: -x, r"^- on a Tensor"),
        (lambda x: x > 0, r"^> on a Tensor"),
        (lambda x: np.ones(3) * x, r"^numpy\.multiply on a Tensor"),
        (lambda x: np.tanh(x), r"^numpy\.tanh on a Tensor: .*gpubackprop\.ops\.activation\.tanh"),
        (lambda x: np.concatenate([x, x]), r"^numpy\.concatenate on a Tensor"),
        (lambda x: np.asarray(x), r"^numpy\.asarray on a Tensor"),
    ],
)
def test_a_tensor_has_no_operators_and_says_which_op_to_call(tape, wrong, words):
    x = tape.input(np.ones((2, 3)), needs_grad=True)
    with pytest.raises(OperatorError, match=words) as error:
        wrong(x)
    assert isinstance(error.value, TypeError)  # as Python has it
    assert isinstance(error.value, UsageError)
    assert not tape.entries


def test_the_ops_that_operators_name_exist():
    for call in tape_module._CALLS.values():
        module, name = call.partition("(")[0].rsplit(".", 1)
        assert isinstance(getattr(import_module(f"gpubackprop.{module}"), name), Op)
