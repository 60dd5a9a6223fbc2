"""Update rules as in optim/*.py: one pass over a stretch of the flat buffers, each thread over its own part of it.

The coefficients of a step are read from `scalars` by the compiled code itself, so that a launch that is replayed sees
those of its own step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cpu.glue import STREAM, part
from gpubackprop.kernels.cpu.jit import parallel, prange, serial
from gpubackprop.kernels.cpu.kernel import rule
from gpubackprop.optim import SGD, Adadelta, Adagrad, Adam, Lion, NAdam, RAdam, RMSprop, average
from gpubackprop.optim.optimizer import update_all

CHUNK = 512  # numbers: the arrays of one pass are still in the nearest cache at the next
ADAM, NADAM, RADAM = 0, 1, 2


@serial
def _sgd_plain(value, grad, lr, pull):
    for i in range(value.size):
        value[i] -= lr * (grad[i] + pull * value[i])


@serial
def _sgd_momentum(value, grad, buffer, lr, pull, momentum, share, nesterov):
    for i in range(value.size):
        g = grad[i] + pull * value[i]
        moved = momentum * buffer[i] + share * g
        buffer[i] = moved
        value[i] -= lr * (g + momentum * moved if nesterov else moved)


@parallel
def _sgd(value, grad, buffer, scalars, decay, nesterov, threads):  # (P,), (P,), (P,) or (0,), (4,)
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        pull = scalars[1] if decay else value.dtype.type(0)
        if buffer.size:
            v, g, m = value[low:high], grad[low:high], buffer[low:high]
            _sgd_momentum(v, g, m, scalars[0], pull, scalars[2], scalars[3], nesterov)
        else:
            _sgd_plain(value[low:high], grad[low:high], scalars[0], pull)


@serial
def _adam_whole(value, grad, mean, square, keep, pull, share, beta2, rest, of_mean, of_grad, of_root, plus):
    for i in range(value.size):
        w = keep * value[i]
        g = grad[i] + pull * w
        m = mean[i] + share * (g - mean[i])
        v = beta2 * square[i] + rest * (g * g)
        mean[i], square[i] = m, v
        value[i] = w - (of_mean * m + of_grad * g) / (of_root * np.sqrt(v) + plus)


@serial
def _adam_largest(value, grad, mean, square, largest, keep, pull, share, beta2, rest, of_mean, of_root, plus):
    for i in range(value.size):
        w = keep * value[i]
        g = grad[i] + pull * w
        m = mean[i] + share * (g - mean[i])
        v = beta2 * square[i] + rest * (g * g)
        high = largest[i] if v <= largest[i] else v  # so that a NaN gets through
        mean[i], square[i], largest[i] = m, v, high
        value[i] = w - of_mean * m / (of_root * np.sqrt(high) + plus)


@parallel
def _adam(value, grad, mean, square, largest, scalars, beta2, rest, eps, form, decay, decoupled, threads):
    # (P,) four times, (P,) or (0,), (K,), numbers. All forms are w - (of_mean·m + of_grad·g) / (of_root·√v + plus).
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        zero, one = value.dtype.type(0), value.dtype.type(1)
        of_mean, of_grad, plus = scalars[0], zero, eps
        share, of_root, weight_decay = scalars[1], one / scalars[2], scalars[3]
        if form == NADAM:
            of_grad, share, of_root, weight_decay = scalars[1], scalars[2], one / scalars[3], scalars[4]
        if form == RADAM:
            of_root, share = scalars[1], scalars[2]
            plus = of_root * eps + (one - of_root)
        keep = weight_decay if decay and decoupled else one
        pull = weight_decay if decay and not decoupled else zero
        w, g, m, v = value[low:high], grad[low:high], mean[low:high], square[low:high]
        if largest.size:
            _adam_largest(w, g, m, v, largest[low:high], keep, pull, share, beta2, rest, of_mean, of_root, plus)
        else:
            _adam_whole(w, g, m, v, keep, pull, share, beta2, rest, of_mean, of_grad, of_root, plus)


@serial
def _lion_part(value, grad, mean, lr, share, keep, rest):
    for i in range(value.size):
        gap = grad[i] - mean[i]
        direction = mean[i] + share * gap
        value[i] = keep * value[i] - lr * np.sign(direction)
        mean[i] += rest * gap


@parallel
def _lion(value, grad, mean, scalars, rest, decay, threads):  # (P,), (P,), (P,), (3,)
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        keep = scalars[2] if decay else value.dtype.type(1)
        _lion_part(value[low:high], grad[low:high], mean[low:high], scalars[0], scalars[1], keep, rest)


@serial
def _adagrad_part(value, grad, squares, step_size, pull, eps):
    for i in range(value.size):
        g = grad[i] + pull * value[i]
        squares[i] += g * g
        value[i] -= step_size * g / (np.sqrt(squares[i]) + eps)


@parallel
def _adagrad(value, grad, squares, scalars, eps, decay, threads):  # (P,), (P,), (P,), (2,)
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        pull = scalars[1] if decay else value.dtype.type(0)
        _adagrad_part(value[low:high], grad[low:high], squares[low:high], scalars[0], pull, eps)


@serial
def _adadelta_part(value, grad, square, moved, lr, pull, rho, rest, eps):
    for i in range(value.size):
        g = grad[i] + pull * value[i]
        v = rho * square[i] + rest * (g * g)
        delta = np.sqrt(moved[i] + eps) / np.sqrt(v + eps) * g
        square[i] = v
        moved[i] = rho * moved[i] + rest * (delta * delta)
        value[i] -= lr * delta


@parallel
def _adadelta(value, grad, square, moved, scalars, rho, rest, eps, decay, threads):  # (P,) four times, (2,)
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        pull = scalars[1] if decay else value.dtype.type(0)
        w, g, v, u = value[low:high], grad[low:high], square[low:high], moved[low:high]
        _adadelta_part(w, g, v, u, scalars[0], pull, rho, rest, eps)


@serial
def _rmsprop_squares(value, grad, square, g, spread, pull, alpha, rest):
    for i in range(g.size):
        g[i] = grad[i] + pull * value[i]
        square[i] = alpha * square[i] + rest * (g[i] * g[i])
        spread[i] = square[i]


@serial
def _rmsprop_center(g, spread, mean, rest):
    for i in range(g.size):
        m = mean[i] + rest * (g[i] - mean[i])
        mean[i] = m
        # A variance; rounding can make it negative, which would be nan under the root.
        variance = spread[i] - m * m
        spread[i] = 0 if variance < 0 else variance


@serial
def _rmsprop_direction(g, spread, eps):
    for i in range(g.size):
        g[i] /= np.sqrt(spread[i]) + eps


@serial
def _rmsprop_momentum(g, buffer, momentum):
    for i in range(g.size):
        buffer[i] = momentum * buffer[i] + g[i]
        g[i] = buffer[i]


@parallel
def _rmsprop(value, grad, square, mean, buffer, scratch, scalars, alpha, rest, eps, decay, threads):
    # (P,) three times, (P,) or (0,) twice, (threads, 2, CHUNK), (3,), numbers
    for t in prange(threads):
        low, high = part(value.size, threads, t)
        pull = scalars[1] if decay else value.dtype.type(0)
        for at in range(low, high, CHUNK):
            end = min(at + CHUNK, high)
            w, g, spread = value[at:end], scratch[t, 0, : end - at], scratch[t, 1, : end - at]
            _rmsprop_squares(w, grad[at:end], square[at:end], g, spread, pull, alpha, rest)
            if mean.size:
                _rmsprop_center(g, spread, mean[at:end], rest)
            _rmsprop_direction(g, spread, eps)
            if buffer.size:
                _rmsprop_momentum(g, buffer[at:end], scalars[2])
            _sgd_plain(w, g, scalars[0], value.dtype.type(0))


@serial
def _follow_part(mean, value, share):
    for i in range(mean.size):
        mean[i] += share * (value[i] - mean[i])


@parallel
def _follow(mean, value, share, threads):  # (P,), (P,), (1,)
    for t in prange(threads):
        low, high = part(mean.size, threads, t)
        _follow_part(mean[low:high], value[low:high], share[0])


State = Mapping[str, Array]


def _cost(value: Array, passes: int) -> float:
    return passes * STREAM * float(value.size)


def sgd_run(self: SGD, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As SGD.update_run."""
    b: Any = self.backend
    buffer = state["momentum_buffer"] if state else b.empty((0,), value.dtype)
    b.launch(_sgd, value, grad, buffer, scalars, decay, self.nesterov, cost=_cost(value, 5))


def _adam_run(form: int, self: Adam, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    b: Any = self.backend
    mean, square, number = state["exp_avg"], state["exp_avg_sq"], value.dtype.type
    largest = state["max_exp_avg_sq"] if "max_exp_avg_sq" in state else b.empty((0,), value.dtype)
    beta2, rest, eps = number(self.beta2), number(1 - self.beta2), number(self.eps)
    numbers = scalars, beta2, rest, eps, form, decay, self.decoupled
    b.launch(_adam, value, grad, mean, square, largest, *numbers, cost=_cost(value, 7))


def adam_run(self: Adam, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As Adam.update_run."""
    if type(self).means is not Adam.means or type(self).decayed is not Adam.decayed:
        Adam.update_run(self, value, grad, state, scalars, decay)  # a user's own formula, in Adam's frame
    else:
        _adam_run(ADAM, self, value, grad, state, scalars, decay)


def nadam_run(self: NAdam, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As NAdam.update_run."""
    _adam_run(NADAM, self, value, grad, state, scalars, decay)


def radam_run(self: RAdam, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As RAdam.update_run."""
    _adam_run(RADAM, self, value, grad, state, scalars, decay)


def lion_run(self: Lion, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As Lion.update_run."""
    b: Any = self.backend
    rest = value.dtype.type(1 - self.beta2)
    b.launch(_lion, value, grad, state["exp_avg"], scalars, rest, decay, cost=_cost(value, 5))


def adagrad_run(self: Adagrad, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As Adagrad.update_run."""
    b: Any = self.backend
    b.launch(_adagrad, value, grad, state["sum"], scalars, value.dtype.type(self.eps), decay, cost=_cost(value, 5))


def adadelta_run(self: Adadelta, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As Adadelta.update_run."""
    b: Any = self.backend
    rho, rest, eps = (value.dtype.type(number) for number in (self.rho, 1 - self.rho, self.eps))
    square, moved = state["square_avg"], state["acc_delta"]
    b.launch(_adadelta, value, grad, square, moved, scalars, rho, rest, eps, decay, cost=_cost(value, 9))


def rmsprop_run(self: RMSprop, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As RMSprop.update_run."""
    b: Any = self.backend
    none = b.empty((0,), value.dtype)
    square, mean, buffer = (state.get(name, none) for name in ("square_avg", "grad_avg", "momentum_buffer"))
    scratch = b.empty((b.threads, 2, CHUNK), value.dtype)
    numbers = (value.dtype.type(number) for number in (self.alpha, 1 - self.alpha, self.eps))
    b.launch(_rmsprop, value, grad, square, mean, buffer, scratch, scalars, *numbers, decay, cost=_cost(value, 9))


def follow(b: Any, mean: Array, value: Array, share: Array) -> None:
    """As optim/average.py."""
    b.launch(_follow, mean, value, share.reshape(1), cost=_cost(mean, 3))


for _cls, _rule in (
    (SGD, sgd_run),
    (Adam, adam_run),
    (NAdam, nadam_run),
    (RAdam, radam_run),
    (Lion, lion_run),
    (Adagrad, adagrad_run),
    (Adadelta, adadelta_run),
    (RMSprop, rmsprop_run),
):
    rule(_cls.update_run, _rule)
rule(update_all, update_all)  # as it is: a recorded step is to see the launches in it
rule(average.follow, follow)
