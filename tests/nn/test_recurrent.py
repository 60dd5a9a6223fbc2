"""Recurrent layers beyond one sequence: unequal lengths, states that come from and go somewhere, starts, mistakes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop import nn
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Op, Tape
from tests.ops.harness import assert_close

KINDS = ["RNN", "LSTM", "GRU"]
each_kind = pytest.mark.parametrize("kind", KINDS)

# Ends a tape in a number: the sum of y · dy over several tensors.
weighted_sum = Op(
    lambda b, *pairs: (sum((y * dy).sum() for y, dy in zip(pairs[::2], pairs[1::2], strict=True)), pairs[1::2]),
    lambda b, dys, scale, slots: [each for dy in dys for each in (dy * scale, None)],
)


def build(kind, *args, shape=(6, 5), seed=1, **options):
    return getattr(nn, kind)(None, *args, **options).build(shape, seed=seed, precision="float64")


def on_tape(layer, x, mask=None, **options):
    """The input on a tape that records."""
    return Tape(layer.built.backend, recording=True, samples=np.arange(len(x)), **options).input(x, True, mask)


def run(layer, x, mask=None, dy=None, **options):
    """Output, and gradients of the input and the params where `dy` is given."""
    tensor = on_tape(layer, x, mask, **options)
    y = layer.forward(tensor)
    if dy is None:
        return y.value
    layer.parameters().grad[...] = 0
    tensor.tape.backward(weighted_sum(y, dy))
    return y.value, {"dx": tensor.grad} | {f"d{s.name}": s.param.grad.copy() for s in layer.parameters().segments}


def mask_of(lengths, t):
    return np.arange(t) < np.array(lengths)[:, None]


@st.composite
def packed(draw):
    t = draw(st.integers(1, 6))
    lengths = draw(st.lists(st.integers(1, t), min_size=1, max_size=4))
    options = {
        "num_layers": draw(st.integers(1, 3)),
        "bidirectional": draw(st.booleans()),
        "bias": draw(st.booleans()),
    }
    kind = draw(st.sampled_from([*KINDS, "relu"]))
    if kind == "relu":
        kind, options["nonlinearity"] = "RNN", "relu"
    return kind, t, lengths, draw(st.integers(1, 4)), draw(st.integers(1, 4)), options, draw(st.integers(0, 99))


@pytest.mark.oracle
@settings(max_examples=40, deadline=None, derandomize=True)
@given(packed())
def test_unequal_lengths_equal_pytorchs_packed_sequences(drawn):
    """Outputs, last states, and the gradients of inputs, weights and starting states, at every layer and direction."""
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

    kind, t, lengths, d, h, options, seed = drawn
    rng, n = np.random.default_rng(seed), len(lengths)
    layer = build(kind, h, shape=(t, d), **options)
    count = options["num_layers"] * len(layer.directions)
    x, starts = rng.normal(size=(n, t, d)), rng.normal(size=(layer.states, count, n, h))
    dy, dends = rng.normal(size=(n, t, h * len(layer.directions))), rng.normal(size=starts.shape)

    tensor = on_tape(layer, x, mask_of(lengths, t))
    begin = [tuple(tensor.tape.input(a[k], True) for a in starts) for k in range(count)]
    y, ends = layer.run(tensor, begin)
    pairs = [(y, dy)] + [(end, dends[i, k]) for k, state in enumerate(ends) for i, end in enumerate(state)]
    tensor.tape.backward(weighted_sum(*(each for pair in pairs for each in pair)))
    found = {"y": y.value, "dx": tensor.grad}
    found |= {f"end {i}": np.stack([state[i].value for state in ends]) for i in range(layer.states)}
    found |= {f"dstart {i}": np.stack([state[i].grad for state in begin]) for i in range(layer.states)}
    found |= {f"d{s.name}": s.param.grad for s in layer.parameters().segments}

    module = getattr(torch.nn, kind)(d, h, batch_first=True, **options).double()
    module.load_state_dict({key: torch.tensor(a) for key, a in layer.state_dict().items()})
    there, theirs = torch.tensor(x, requires_grad=True), torch.tensor(starts, requires_grad=True)
    sequence = pack_padded_sequence(there, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    out, last = module(sequence, tuple(theirs) if layer.states > 1 else theirs[0])
    last = torch.stack(last) if layer.states > 1 else last[None]
    out = pad_packed_sequence(out, batch_first=True, total_length=t)[0]
    ((out * torch.tensor(dy)).sum() + (last * torch.tensor(dends)).sum()).backward()
    wanted = {"y": out.detach().numpy(), "dx": there.grad.numpy()}
    wanted |= {f"end {i}": last[i].detach().numpy() for i in range(layer.states)}
    wanted |= {f"dstart {i}": theirs.grad[i].numpy() for i in range(layer.states)}
    wanted |= {f"d{key}": p.grad.numpy() for key, p in module.named_parameters()}
    assert_close(found, wanted, 1e-10)


@each_kind
@pytest.mark.parametrize("last", [False, True])
def test_what_stands_at_padding_changes_nothing_and_gets_no_gradient(kind, last):
    rng = np.random.default_rng(0)
    layer = build(kind, 3, num_layers=2, bidirectional=True, last=last)
    x, mask = rng.normal(size=(3, 6, 5)), mask_of([4, 6, 1], 6)
    y, grads = run(layer, x, mask, dy := rng.normal(size=(3, 6) if last else (3, 6, 6)))
    other, others = run(layer, np.where(mask[..., None], x, 1e3), mask, dy)
    np.testing.assert_array_equal(other, y)
    for key, grad in grads.items():
        np.testing.assert_array_equal(others[key], grad, err_msg=key)
    assert not grads["dx"][~mask].any()
    if not last:
        assert not y[~mask].any()


@each_kind
def test_gaps_and_sequences_of_no_length(kind):
    """What is left of a sequence with gaps is read as if it stood together; of no sequence at all, the state stays."""
    rng = np.random.default_rng(0)
    layer = build(kind, 3, bidirectional=True, last=True)
    x = rng.normal(size=(2, 6, 5))
    kept = [0, 2, 5]
    mask = np.isin(np.arange(6), kept) * np.array([[True], [False]])
    y = run(layer, x, mask)
    np.testing.assert_allclose(y[:1], run(layer, x[:1, kept]), rtol=1e-12)
    assert not y[1].any()


@each_kind
def test_last_is_the_state_at_the_last_real_position(kind):
    x = np.random.default_rng(0).normal(size=(3, 6, 5))
    lengths = [4, 6, 1]
    layer, whole = build(kind, 3, last=True), build(kind, 3)
    y, all_states = run(layer, x, mask_of(lengths, 6)), run(whole, x)
    np.testing.assert_array_equal(y, all_states[np.arange(3), np.array(lengths) - 1])
    # The state's shape (3, 6) could be mistaken for the mask's.
    wide = build(kind, 6, last=True)
    assert wide.forward(on_tape(wide, x, mask_of(lengths, 6))).mask is None
    assert whole.forward(on_tape(whole, x, mask_of(lengths, 6))).mask is not None


@pytest.mark.oracle
@each_kind
def test_a_decoder_starts_in_the_encoders_last_state(kind):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    encoder = nn.GRU(None, 3, last=True).named("encoder")
    decoder = getattr(nn, kind)(None, 3, num_layers=2, initial="state").named("decoder")
    model = nn.Sequential(nn.Save("x"), encoder, nn.Save("state"), nn.Input("x"), decoder)
    model.build((6, 5), precision="float64")
    rng = np.random.default_rng(0)
    x, dy = rng.normal(size=(4, 6, 5)), rng.normal(size=(4, 6, 3))
    y, grads = run(model, x, dy=dy)

    state = {key: torch.tensor(a) for key, a in model.state_dict().items()}
    first = torch.nn.GRU(5, 3, batch_first=True).double()
    second = getattr(torch.nn, kind)(5, 3, 2, batch_first=True).double()
    modules = {"encoder": first, "decoder": second}
    for name, module in modules.items():
        prefix = f"{name}."
        module.load_state_dict({k.removeprefix(prefix): a for k, a in state.items() if k.startswith(prefix)})
    there = torch.tensor(x, requires_grad=True)
    h0 = first(there)[1].expand(2, -1, -1).contiguous()
    out = second(there, (h0, torch.zeros_like(h0)) if kind == "LSTM" else h0)[0]
    (out * torch.tensor(dy)).sum().backward()
    wanted = {f"d{n}.{key}": p.grad.numpy() for n, module in modules.items() for key, p in module.named_parameters()}
    wanted |= {"y": out.detach().numpy(), "dx": there.grad.numpy()}
    assert_close({"y": y} | grads, wanted, 1e-10)


@each_kind
def test_a_stateful_layer_goes_on_where_it_ended_without_a_gradient_into_the_past(kind):
    rng = np.random.default_rng(0)
    layer = build(kind, 3, num_layers=2, stateful=True)
    x, dy = rng.normal(size=(2, 6, 5)), rng.normal(size=(2, 4, 3))
    whole, carry = run(layer, x), {}
    first = run(layer, x[:, :2], carry=carry)
    kept = {key: [a.copy() for a in arrays] for key, arrays in carry.items()}
    second, grads = run(layer, x[:, 2:], dy=dy, carry=carry)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), whole, rtol=1e-12)

    (start,) = kept.values()  # constants, so the gradient is that of the second piece alone
    tensor = on_tape(layer, x[:, 2:])
    y, _ = layer.run(tensor, [start[i : i + layer.states] for i in range(0, len(start), layer.states)])
    layer.parameters().grad[...] = 0
    tensor.tape.backward(weighted_sum(y, dy))
    for segment in layer.parameters().segments:
        np.testing.assert_array_equal(segment.param.grad, grads[f"d{segment.name}"])

    assert all(isinstance(a, np.ndarray) and a.base is None for arrays in carry.values() for a in arrays)
    np.testing.assert_allclose(run(layer, x[:1], carry=carry), whole[:1], rtol=1e-12)  # another batch size: anew


@each_kind
def test_a_layer_that_is_not_stateful_leaves_no_state(kind):
    carry = {}
    run(build(kind, 3), np.ones((2, 6, 5)), carry=carry)
    assert not carry


@each_kind
def test_piece_by_piece_with_a_cache_equals_the_whole(kind):
    x = np.random.default_rng(0).normal(size=(2, 6, 5))
    layer = build(kind, 3, num_layers=2)
    cache = {}
    pieces = [run(layer, x[:, i:j], cache=cache) for i, j in ((0, 1), (1, 4), (4, 5), (5, 6))]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), run(layer, x), rtol=1e-12)
    assert layer.streams
    assert not build(kind, 3, bidirectional=True).streams

    so_far, cache = build(kind, 3, last=True), {}
    for i in range(6):
        found = run(so_far, x[:, i : i + 1], cache=cache)
        np.testing.assert_allclose(found, run(so_far, x[:, : i + 1]), rtol=1e-12)


def test_a_layer_used_twice_keeps_two_states():
    x = np.random.default_rng(0).normal(size=(2, 6, 3))
    shared = nn.LSTM(None, 3)
    model = nn.Sequential(shared, shared).build((6, 3), precision="float64")
    cache = {}
    pieces = [run(model, x[:, i : i + 2], cache=cache) for i in (0, 2, 4)]
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), run(model, x), rtol=1e-12)


def test_a_cached_decoder_reads_its_initial_state_once():
    model = nn.Sequential(nn.Save("x"), nn.GRU(None, 3, last=True), nn.Save("h"), nn.Input("x"))
    model = nn.Sequential(*model.layers, nn.GRU(None, 3, initial="h")).build((6, 5), precision="float64")
    x = np.random.default_rng(0).normal(size=(2, 6, 5))
    decoder, state = model.layers[-1], np.ones((2, 3))
    whole, cache, pieces = None, {}, []
    for i, j, at in ((0, 6, None), (0, 2, cache), (2, 6, cache)):
        tensor = on_tape(decoder, x[:, i:j], cache=at)
        tensor.tape.saved["h"] = tensor.tape.input(state)
        y = decoder.forward(tensor).value
        whole, pieces = (y, pieces) if at is None else (whole, [*pieces, y])
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), whole, rtol=1e-12)


def test_recomputed_in_the_backward_pass_it_gives_the_same():
    rng = np.random.default_rng(0)
    x, dy, mask = rng.normal(size=(3, 6, 5)), rng.normal(size=(3, 6, 4)), mask_of([4, 6, 1], 6)
    found = []
    for recompute in (False, True):
        layer, carry = nn.LSTM(None, 4, num_layers=2, dropout=0.5, stateful=True), {}
        model = nn.Sequential(nn.Sequential(layer, recompute=recompute)).build((6, 5), precision="float64")
        steps = [run(model, x, mask, dy, training=True, step=i, carry=carry) for i in range(2)]
        found.append([a for y, grads in steps for a in (y, *grads.values())])
    for whole, again in zip(*found, strict=True):
        np.testing.assert_array_equal(again, whole)


def test_dropout_acts_between_layers_in_training():
    x = np.random.default_rng(0).normal(size=(4, 6, 5))
    layer = build("LSTM", 8, num_layers=2, dropout=0.5)
    inference = run(layer, x)
    whole = run(layer, x, training=True, step=3)
    assert (whole != inference).any()
    tape = Tape(layer.built.backend, training=True, step=3, samples=np.arange(4)[2:])
    np.testing.assert_allclose(layer.forward(tape.input(x[2:])).value, whole[2:], rtol=1e-12)
    assert (run(layer, x, training=True, step=4) != whole).any()
    alone = build("LSTM", 8, dropout=0.5)
    np.testing.assert_array_equal(run(alone, x, training=True), run(alone, x))
    zeroed = build("LSTM", 8, num_layers=2, dropout=1.0)  # the top layer sees zeros
    np.testing.assert_array_equal(run(zeroed, x, training=True), run(zeroed, 2 * x, training=True))


def test_pytorchs_start():
    layer = build("LSTM", 16, num_layers=2, bidirectional=True)
    for a in layer.state_dict().values():
        assert 0.2 < np.abs(a).max() <= 1 / 4


def test_le_and_others_start():
    state = build("RNN", 50, nonlinearity="relu", init="identity", shape=(6, 40)).state_dict()
    np.testing.assert_array_equal(state["weight_hh_l0"], np.eye(50))
    assert not state["bias_ih_l0"].any()
    assert not state["bias_hh_l0"].any()
    assert state["weight_ih_l0"].std() == pytest.approx(0.001, rel=0.1)


def test_forget_bias():
    state = build("LSTM", 4, num_layers=2, forget_bias=1.5).state_dict()
    usual = build("LSTM", 4, num_layers=2).state_dict()
    for k in range(2):
        np.testing.assert_array_equal((state[f"bias_ih_l{k}"] + state[f"bias_hh_l{k}"])[4:8], 1.5)
        for name in (f"bias_ih_l{k}", f"bias_hh_l{k}"):
            np.testing.assert_array_equal(np.delete(state[name], range(4, 8)), np.delete(usual[name], range(4, 8)))


def test_flops_count_a_multiply_add_as_two():
    assert build("LSTM", 3).flops() == 2 * 6 * 12 * (5 + 3)
    assert build("GRU", 3, num_layers=2, bidirectional=True).flops() == 2 * 6 * 9 * ((5 + 3) + (6 + 3)) * 2


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (lambda: nn.LSTM(None, 3), (5,), r"lstm needs sequences \(T, D\), got \(5,\); put embedding"),
        (lambda: nn.GRU(None, 3), (0, 5), r"gru needs at least one position, got \(0, 5\)"),
        (lambda: nn.RNN(4, 3), (6, 5), "input_size is 4, but the input has 5"),
        (
            lambda: nn.GRU(None, 3, initial="encoder"),
            (6, 5),
            "initial: nothing was saved as 'encoder' before; saved: enc",
        ),
        (
            lambda: nn.GRU(None, 3, initial="enc"),
            (6, 5),
            r"initial: 'enc' has shape \(4,\), but the state \(3,\); save",
        ),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer().infer(shape, {"enc": (4,)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.LSTM(None, 3, bidirectional=True, stateful=True), "stateful needs one direction"),
        (lambda: nn.LSTM(None, 3, bidirectional=True, initial="h"), "initial needs one direction"),
        (lambda: nn.LSTM(None, 3, bias=False, forget_bias=1.0), "forget_bias needs bias: true"),
    ],
)
def test_options_that_do_not_go_together(make, message):
    with pytest.raises(UsageError, match=message):
        make()


@each_kind
def test_a_training_step_with_a_mask_on_the_strict_device(kind):
    from gpubackprop import optim
    from gpubackprop.training.step import TrainStep

    rng = np.random.default_rng(0)
    batch = {
        "inputs": rng.normal(size=(3, 6, 5)).astype(np.float32),
        "targets": np.array([0, 1, 2]),
        "mask": mask_of([4, 6, 1], 6),
    }
    losses = []
    for device in ("cpu", "strict"):
        options = {"num_layers": 2, "dropout": 0.3}
        first, second = (getattr(nn, kind)(None, 4, **options, **o) for o in ({"stateful": True}, {"last": True}))
        model = nn.Sequential(first, second, nn.Linear(None, 3)).build((6, 5), device=device)
        step = TrainStep(model, nn.CrossEntropyLoss(), optim.Adam(model.parameters(), lr=0.01))
        backend = model.built.backend
        losses.append([backend.to_host(step(batch)).item() for _ in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # kernels of the CPU round differently
    assert losses[0][-1] != losses[0][0]
