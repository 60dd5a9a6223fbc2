"""What the steps of recurrent layers do to rows: one sample's gates or states at one step."""

from __future__ import annotations

from gpubackprop.kernels.cpu.elementary import logistic, tanh
from gpubackprop.kernels.cpu.jit import serial


@serial
def logistic_of_sum(a, p, bias):
    """a becomes σ of itself, the inputs' share, p, the state's, and the bias."""
    for j in range(a.size):
        a[j] = logistic(a[j] + p[j] + bias[j])


@serial
def tanh_of_sum(a, p, bias):
    """a becomes tanh of the same."""
    for j in range(a.size):
        a[j] = tanh(a[j] + p[j] + bias[j])


@serial
def relu_of_sum(a, p, bias):
    """a becomes the same where that is positive, else 0; a NaN stays one."""
    for j in range(a.size):
        value = a[j] + p[j] + bias[j]
        a[j] = a.dtype.type(0) if value <= 0 else value


@serial
def copy(a, target):
    """Target becomes a."""
    for j in range(target.size):
        target[j] = a[j]


@serial
def clear(a):
    """A becomes 0."""
    for j in range(a.size):
        a[j] = 0


@serial
def hide(a, target):
    """Target becomes 0, but NaN where a is."""
    for j in range(target.size):
        target[j] = a[j] * a.dtype.type(0)


@serial
def add(a, target):
    """Add a to target."""
    for j in range(target.size):
        target[j] += a[j]


@serial
def move(a, target):
    """Add a to target; a becomes 0."""
    for j in range(target.size):
        target[j] += a[j]
        a[j] = 0


@serial
def add_rows(rows, total):
    """Add the rows (R, J) to total (J,), four at a time: so it is read and written less often."""
    fours = rows.shape[0] // 4 * 4
    for i in range(0, fours, 4):
        a, b, c, d = rows[i], rows[i + 1], rows[i + 2], rows[i + 3]
        for j in range(total.size):
            total[j] += (a[j] + b[j]) + (c[j] + d[j])
    for i in range(fours, rows.shape[0]):
        add(rows[i], total)
