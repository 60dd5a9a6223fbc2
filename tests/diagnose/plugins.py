"""Layers as a user might write them, right and wrong; registered nowhere."""

from __future__ import annotations

import numpy as np

from gpubackprop.nn import Layer, Linear, Sequential
from gpubackprop.nn.init import normal
from gpubackprop.ops.activation import relu, tanh
from gpubackprop.ops.shape import add
from gpubackprop.parameters import Param
from gpubackprop.tape import Op


def _forward(b, x, scale):
    return b.xp.sin(x) * scale, (x, scale)


def sine(dx=lambda b, x, scale, dy: dy * b.xp.cos(x) * scale, dscale=lambda b, x, dy: dy * b.xp.sin(x)):
    """sin(x) scale as an op, with any gradients."""

    def backward(b, saved, dy, slots):
        x, scale = saved
        axes = tuple(range(dy.ndim - 1))
        return dx(b, x, scale, dy), dscale(b, x, dy).sum(axis=axes)

    return Op(_forward, backward)


class Sine(Layer):
    op = sine()

    def output_shape(self, shape):
        self.width = shape[-1]
        return shape

    def arrays(self):
        return {"scale": Param((self.width,), normal(1.0))}

    def forward(self, x):
        return self.op(x, self.scale)


class WrongSign(Sine):
    op = sine(dx=lambda b, x, scale, dy: -dy * b.xp.cos(x) * scale)


class WrongFactor(Sine):
    op = sine(dscale=lambda b, x, dy: 0.99 * dy * b.xp.sin(x))


class ForgottenFactor(Sine):
    op = sine(dx=lambda b, x, scale, dy: dy * b.xp.cos(x))


class OneWrongElement(Sine):
    @staticmethod
    def dx(b, x, scale, dy):
        grad = dy * b.xp.cos(x) * scale
        grad[:, 0] *= 1.1
        return grad

    op = sine(dx=dx)


class WrongShape(Sine):
    op = sine(dx=lambda b, x, scale, dy: (dy * b.xp.cos(x) * scale).sum(axis=0))


class NotANumber(Sine):
    op = sine(dx=lambda b, x, scale, dy: dy * np.nan)


class Raising(Sine):
    op = Op(_forward, lambda b, saved, dy, slots: [dy / saved[2]])


class Forgetful(Sine):
    op = Op(_forward, lambda b, saved, dy, slots: (dy * b.xp.cos(saved[0]) * saved[1], None))


class TanhReLU(Layer):
    """The plugin of README."""

    def forward(self, x):
        return relu(tanh(x))


class Steps(Layer):
    """A staircase: kinks or jumps wherever one looks."""

    op = Op(lambda b, x: (b.xp.floor(x * 1e9) * 1e-9, None), lambda b, saved, dy, slots: (0 * dy,))

    def forward(self, x):
        return self.op(x)


class Block(Layer):
    """Layers inside a layer, and a sum with a tensor that was saved."""

    def __init__(self, inner):
        self.body = Sequential(Linear(None, 6), inner)

    def infer(self, shape, scope):
        self.shapes = (shape, self.body.infer(shape, scope))
        return self.shapes[1]

    def forward(self, x):
        return add(self.body.forward(x), x.tape.saved["early"])
