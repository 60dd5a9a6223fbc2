"""Recurrent layers, one op per layer and direction: Elman's rnn, lstm, gru, as PyTorch defines them.

The products with the inputs need no state, so one GEMM makes those of all steps; the loop over time adds the product
with the state and applies the gates. The backward loop yields the gradients of the gates alone: those of the weights
and the inputs are again one GEMM each. Inside, arrays are (T, N, ·) in the order in which the loop runs, so that a
reverse direction is a matter of turning x and y round.

Padding (mask False) hands the state on unchanged and has the output 0. Thus `h_last` is the state at each sample's last
real position, and a reverse direction starts there. Letters: D input and H hidden features, G gates times H.
"""

from __future__ import annotations

from typing import Any, Literal

from gpubackprop.backend import Array, Backend
from gpubackprop.ops.steps import (
    bias_sum,
    gate_slopes,
    hand_on,
    input_products,
    last_gradient,
    output_gradients,
    outputs,
    padding,
    sigmoid_in_place,
    split_gates,
    state_buffer,
    weight_gradients,
    without_padding,
)
from gpubackprop.tape import Op, Slots


def rnn_forward(
    b: Backend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    mask: Array | None = None,
    *,
    nonlinearity: Literal["tanh", "relu"] = "tanh",
    reverse: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """x (N, T, D), weight_ih (H, D), weight_hh (H, H), biases (H,), h0 (N, H), mask (N, T) -> y (N, T, H), h_last
    (N, H). Biases, h0 and mask may be None.

    h = tanh(weight_ih x + bias_ih + weight_hh h + bias_hh), or relu of that; Elman 1990.
    """
    xp = b.xp
    pad = padding(mask, reverse)
    inputs = input_products(b, x, weight_ih, bias_sum(bias_ih, bias_hh), reverse)  # (T, N, H)
    hs = state_buffer(b, h0, inputs, weight_hh)
    for s, a in enumerate(inputs):
        a += b.matmul(hs[s], weight_hh.T, out=hs[s + 1])
        xp.tanh(a, out=hs[s + 1]) if nonlinearity == "tanh" else xp.maximum(a, 0, out=hs[s + 1])
        hand_on(b, pad, s, hs[s], hs[s + 1])
    return (outputs(hs, pad, reverse), hs[-1]), (x, weight_ih, weight_hh, hs, pad, reverse, nonlinearity)


def rnn_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, H), dh_last (N, H) -> gradients of all inputs. With a the argument of tanh: da = dh (1 − h²)."""
    dy, dh_last = dys
    x, weight_ih, weight_hh, hs, pad, reverse, nonlinearity = saved
    dhs = output_gradients(dy, pad, reverse)
    h = hs[1:]
    slopes = 1 - h * h if nonlinearity == "tanh" else (h > 0).astype(h.dtype)
    da = without_padding(slopes, pad)  # (T, N, H): the slopes so far
    dh = last_gradient(b, dh_last, hs[0])
    for s in reversed(range(len(da))):
        if dhs is not None:
            dh += dhs[s]
        da[s] *= dh
        before = b.matmul(da[s], weight_hh)
        hand_on(b, pad, s, dh, before)
        dh = before
    return (*weight_gradients(b, x, weight_ih, hs, da, da, reverse, slots), dh if slots[5].wanted else None, None)


def lstm_forward(
    b: Backend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    c0: Array | None = None,
    mask: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[tuple[Array, Array, Array], Any]:
    """x (N, T, D), weight_ih (4H, D), weight_hh (4H, H), biases (4H,), h0 and c0 (N, H), mask (N, T) -> y (N, T, H),
    h_last (N, H), c_last (N, H). Biases, h0, c0 and mask may be None.

    Gates in the order i, f, g, o, each of weight_ih x + bias_ih + weight_hh h + bias_hh: i, f, o = σ, g = tanh;
    c = f c + i g, h = o tanh(c). Hochreiter and Schmidhuber 1997, Gers et al. 2000.
    """
    xp, size = b.xp, weight_hh.shape[1]
    pad = padding(mask, reverse)
    gates = input_products(b, x, weight_ih, bias_sum(bias_ih, bias_hh), reverse)  # (T, N, 4H)
    hs, cs = state_buffer(b, h0, gates, weight_hh), state_buffer(b, c0, gates, weight_hh)
    tanh_cs = xp.empty_like(cs[1:])
    product, scratch = xp.empty_like(gates[0]), xp.empty_like(cs[0])
    for s, a in enumerate(gates):
        a += b.matmul(hs[s], weight_hh.T, out=product)
        i, f, g, o = split_gates(a, size)
        sigmoid_in_place(b, a[:, : 2 * size])
        xp.tanh(g, out=g)
        sigmoid_in_place(b, o)
        c = xp.multiply(f, cs[s], out=cs[s + 1])
        c += xp.multiply(i, g, out=scratch)
        xp.tanh(c, out=tanh_cs[s])
        xp.multiply(o, tanh_cs[s], out=hs[s + 1])
        hand_on(b, pad, s, cs[s], cs[s + 1])
        hand_on(b, pad, s, hs[s], hs[s + 1])
    saved = (x, weight_ih, weight_hh, gates, hs, cs, tanh_cs, pad, reverse)
    return (outputs(hs, pad, reverse), hs[-1], cs[-1]), saved


def lstm_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, H), dh_last and dc_last (N, H) -> gradients of all inputs.

    dc += dh o (1 − tanh² c); di = dc g, df = dc c_before, dg = dc i, do = dh tanh c, each times the slope of its gate;
    dc_before = dc f.
    """
    dy, dh_last, dc_last = dys
    x, weight_ih, weight_hh, gates, hs, cs, tanh_cs, pad, reverse = saved
    size = weight_hh.shape[1]
    dhs = output_gradients(dy, pad, reverse)
    i, f, g, o = split_gates(gates, size)  # each (T, N, H)
    da = without_padding(gate_slopes(gates, 2 * size, 3 * size), pad)  # (T, N, 4H): the slopes so far
    di, df, dg, do = split_gates(da, size)
    dh_to_dc = without_padding(o * (1 - tanh_cs * tanh_cs), pad)
    dh, dc = last_gradient(b, dh_last, hs[0]), last_gradient(b, dc_last, cs[0])
    for s in reversed(range(len(da))):
        if dhs is not None:
            dh += dhs[s]
        dc += dh * dh_to_dc[s]
        di[s] *= dc * g[s]
        df[s] *= dc * cs[s]
        dg[s] *= dc * i[s]
        do[s] *= dh * tanh_cs[s]
        h_before, c_before = b.matmul(da[s], weight_hh), dc * f[s]
        hand_on(b, pad, s, dh, h_before)
        hand_on(b, pad, s, dc, c_before)
        dh, dc = h_before, c_before
    to_start = (dh if slots[5].wanted else None, dc if slots[6].wanted else None)
    return (*weight_gradients(b, x, weight_ih, hs, da, da, reverse, slots), *to_start, None)


def gru_forward(
    b: Backend,
    x: Array,
    weight_ih: Array,
    weight_hh: Array,
    bias_ih: Array | None,
    bias_hh: Array | None,
    h0: Array | None = None,
    mask: Array | None = None,
    *,
    reverse: bool = False,
) -> tuple[tuple[Array, Array], Any]:
    """x (N, T, D), weight_ih (3H, D), weight_hh (3H, H), biases (3H,), h0 (N, H), mask (N, T) -> y (N, T, H), h_last
    (N, H). Biases, h0 and mask may be None.

    Gates in the order r, z, n. With p = weight_ih x + bias_ih and q = weight_hh h + bias_hh: r, z = σ(p + q),
    n = tanh(p + r q), h = (1 − z) n + z h: PyTorch's, which applies r behind the product; Cho et al. 2014.
    """
    xp, size = b.xp, weight_hh.shape[1]
    pad = padding(mask, reverse)
    gates = input_products(b, x, weight_ih, bias_ih, reverse)  # (T, N, 3H)
    hs = state_buffer(b, h0, gates, weight_hh)
    qns = xp.empty_like(hs[1:])  # q of the gate n
    q, scratch = xp.empty_like(gates[0]), xp.empty_like(hs[0])
    for s, a in enumerate(gates):
        b.matmul(hs[s], weight_hh.T, out=q)
        if bias_hh is not None:
            q += bias_hh
        r, z, n = split_gates(a, size)
        qns[s] = q[:, 2 * size :]
        rz = a[:, : 2 * size]
        rz += q[:, : 2 * size]
        sigmoid_in_place(b, rz)
        n += xp.multiply(r, qns[s], out=scratch)
        xp.tanh(n, out=n)
        h = xp.subtract(hs[s], n, out=hs[s + 1])
        h *= z
        h += n
        hand_on(b, pad, s, hs[s], h)
    return (outputs(hs, pad, reverse), hs[-1]), (x, weight_ih, weight_hh, gates, hs, qns, pad, reverse)


def gru_backward(b: Backend, saved: Any, dys: Any, slots: Slots) -> tuple[Array | None, ...]:
    """dy (N, T, H), dh_last (N, H) -> gradients of all inputs.

    dz = dh (h_before − n), dn = dh (1 − z), dr = dn q_n, each times the slope of its gate; behind r: dq_n = dn r;
    dh_before = dh z + dq weight_hh.
    """
    dy, dh_last = dys
    x, weight_ih, weight_hh, gates, hs, qns, pad, reverse = saved
    size = weight_hh.shape[1]
    dhs = output_gradients(dy, pad, reverse)
    r, z, n = split_gates(gates, size)  # each (T, N, H)
    dp = without_padding(gate_slopes(gates, 2 * size, 3 * size), pad)  # (T, N, 3H): the slopes so far
    dq = b.xp.empty_like(dp)
    dr, dz, dn = split_gates(dp, size)
    dh = last_gradient(b, dh_last, hs[0])
    for s in reversed(range(len(dp))):
        if dhs is not None:
            dh += dhs[s]
        dz[s] *= dh * (hs[s] - n[s])
        dn[s] *= dh * (1 - z[s])
        dr[s] *= dn[s] * qns[s]
        dq[s] = dp[s]
        dq[s, :, 2 * size :] *= r[s]
        before = b.matmul(dq[s], weight_hh)
        before += dh * z[s]
        hand_on(b, pad, s, dh, before)
        dh = before
    return (*weight_gradients(b, x, weight_ih, hs, dp, dq, reverse, slots), dh if slots[5].wanted else None, None)


rnn = Op(rnn_forward, rnn_backward)
lstm = Op(lstm_forward, lstm_backward)
gru = Op(gru_forward, gru_backward)
