"""What the loops over time of ops/recurrent.py share: orders of the axes, padding, and the work outside the loop.

Letters: D input and H hidden features, G gates times H.
"""

from __future__ import annotations

from gpubackprop.backend import Array, Backend
from gpubackprop.tape import Slots


def by_step(a: Array, reverse: bool) -> Array:
    """(N, T, ...) -> (T, N, ...), in the order of the loop; a view."""
    a = a.swapaxes(0, 1)
    return a[::-1] if reverse else a


def by_sample(a: Array, reverse: bool) -> Array:
    """(T, N, ...) in the order of the loop -> (N, T, ...); a view."""
    return (a[::-1] if reverse else a).swapaxes(0, 1)


def split_gates(a: Array, size: int) -> list[Array]:
    """(..., G) -> the gates (..., H), as views."""
    return [a[..., k : k + size] for k in range(0, a.shape[-1], size)]


def bias_sum(bias_ih: Array | None, bias_hh: Array | None) -> Array | None:
    """Their sum, either of them or None."""
    return bias_ih if bias_hh is None else bias_hh if bias_ih is None else bias_ih + bias_hh


def sigmoid_in_place(b: Backend, a: Array) -> None:
    """σ(a) in place, by tanh: no exponential that overflows."""
    a *= 0.5
    b.xp.tanh(a, out=a)
    a *= 0.5
    a += 0.5


def gate_slopes(gates: Array, start: int, stop: int) -> Array:
    """Slopes of the gates in terms of their values (T, N, G): y (1 − y) of σ, 1 − y² of tanh at [start, stop)."""
    slopes = gates * (1 - gates)
    g = gates[..., start:stop]
    slopes[..., start:stop] = 1 - g * g
    return slopes


def input_products(b: Backend, x: Array, weight: Array, bias: Array | None, reverse: bool) -> Array:
    """x (N, T, D), weight (G, D), bias (G,) -> the share of the inputs in all gates, (T, N, G)."""
    n, t, d = x.shape
    products = b.matmul(by_step(x, reverse).reshape(t * n, d), weight.T)
    if bias is not None:
        products += bias
    return products.reshape(t, n, weight.shape[0])


def state_buffer(b: Backend, start: Array | None, gates: Array, weight_hh: Array) -> Array:
    """Room for the states (T + 1, N, H), the first of which is `start` (N, H), or 0."""
    t, n, _ = gates.shape
    states = b.xp.empty((t + 1, n, weight_hh.shape[1]), gates.dtype)
    states[0] = 0 if start is None else start
    return states


def padding(mask: Array | None, reverse: bool) -> Array | None:
    """mask (N, T) -> where there is padding, (T, N, 1)."""
    return None if mask is None else ~by_step(mask, reverse)[..., None]


def hand_on(b: Backend, pad: Array | None, s: int, state: Array, new: Array) -> None:
    """At padding, `state` (N, H) takes the place of `new` (N, H), in place: no step was made there."""
    if pad is not None:
        b.xp.copyto(new, state, where=pad[s])


def without_padding(a: Array, pad: Array | None) -> Array:
    """`a` (T, N, ·) with zeros at padding."""
    return a if pad is None else a * ~pad


def outputs(hs: Array, pad: Array | None, reverse: bool) -> Array:
    """hs (T + 1, N, H) -> y (N, T, H), 0 at padding."""
    return by_sample(without_padding(hs[1:], pad), reverse)


def output_gradients(dy: Array | None, pad: Array | None, reverse: bool) -> Array | None:
    """dy (N, T, H) -> (T, N, H); what comes back at padding was no output of a state."""
    return None if dy is None else without_padding(by_step(dy, reverse), pad)


def last_gradient(b: Backend, dlast: Array | None, like: Array) -> Array:
    """The gradient (N, H) with which the loop backwards begins, free to be written to."""
    return b.xp.zeros_like(like) if dlast is None else dlast.copy()


def weight_gradients(
    b: Backend, x: Array, weight_ih: Array, hs: Array, dp: Array, dq: Array, reverse: bool, slots: Slots
) -> tuple[Array | None, ...]:
    """From the gates' gradients, dp (T, N, G) behind the inputs' product and dq (T, N, G) behind the state's:
    dx (N, T, D), dweight_ih (G, D), dweight_hh (G, H), dbias_ih (G,), dbias_hh (G,).
    """
    t, n, size = dp.shape
    dp2, dq2 = dp.reshape(t * n, size), dq.reshape(t * n, size)
    dx = dweight_ih = dweight_hh = None
    if slots[0].wanted:
        dx = by_sample(b.matmul(dp2, weight_ih).reshape(t, n, x.shape[2]), reverse)
    if slots[1].wanted:
        dweight_ih = b.matmul(dp2.T, by_step(x, reverse).reshape(t * n, x.shape[2]), out=slots[1].out)
    if slots[2].wanted:
        dweight_hh = b.matmul(dq2.T, hs[:-1].reshape(t * n, hs.shape[2]), out=slots[2].out)
    dbias_ih = dp2.sum(axis=0) if slots[3].wanted else None
    dbias_hh = dq2.sum(axis=0) if slots[4].wanted else None
    return dx, dweight_ih, dweight_hh, dbias_ih, dbias_hh
