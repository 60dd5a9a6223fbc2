"""Attention layers, positions and transformer blocks beyond their rows: masks, streams, dropout, errors."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape
from tests.nn.specs.transformer import later
from tests.nn.test_layers import weighted_sum
from tests.ops.harness import assert_close

oracle = pytest.mark.oracle


def torch_or_skip():
    return pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)


def lengths_mask(lengths, t):
    return np.arange(t) < np.array(lengths)[:, None]


def run(layer, inputs, mask=None, dy=None, training=True, **options):
    """Output (N, T, E) and the gradients of the inputs (by name where there are several) and of all params."""
    first = next(iter(inputs.values())) if isinstance(inputs, dict) else inputs
    options = {"samples": np.arange(len(first))} | options
    tape = Tape(layer.built.backend, training=training, recording=dy is not None, **options)
    x = tape.input(inputs, needs_grad=True, mask=mask)
    named = dict(tape.saved) if isinstance(inputs, dict) else {"x": x}
    y = layer.forward(x)
    if dy is None:
        return y.value
    layer.parameters().grad[...] = 0
    tape.backward(weighted_sum(y, dy))
    grads = {f"d{name}": tensor.grad for name, tensor in named.items()}
    return y.value, grads | {f"d{s.name}": s.param.grad.copy() for s in layer.parameters().segments}


def compare(layer, module, inputs, mask, call, rng, tolerance=1e-10):
    """Our output and gradients against `call(module, *tensors)`, with our weights."""
    torch = torch_or_skip()
    module = module.double().train(False)
    module.load_state_dict({key: torch.tensor(a) for key, a in layer.state_dict().items()})
    there = {name: torch.tensor(a, requires_grad=True) for name, a in inputs.items()}
    theirs = call(module, *there.values())
    dy = rng.normal(size=tuple(theirs.shape))
    y, grads = run(layer, inputs if len(inputs) > 1 else inputs["x"], mask, dy)
    (theirs * torch.tensor(dy)).sum().backward()
    wanted = {f"d{name}": a.grad.numpy() for name, a in there.items()}
    wanted |= {f"d{name}": p.grad.numpy() for name, p in module.named_parameters()}
    assert_close({"y": y} | grads, {"y": theirs.detach().numpy()} | wanted, tolerance)


def disturb(layer, rng):
    """Biases away from zero, which would hide mistakes."""
    for segment in layer.parameters().segments:
        segment.param.value += rng.normal(size=segment.param.shape) / 4
    return layer


@oracle
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    n=st.integers(1, 3),
    t=st.integers(1, 6),
    heads=st.integers(1, 3),
    size=st.integers(1, 3),
    causal=st.booleans(),
    masked=st.booleans(),
    norm_first=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_encoder_layer_equals_pytorch(n, t, heads, size, causal, masked, norm_first, bias, seed):
    torch = torch_or_skip()
    rng, width = np.random.default_rng(seed), heads * size
    if width == 1 and not norm_first:
        width = heads = 2  # a layer norm over one number passes no gradient, and rounding alone would be compared
    options = {"norm_first": norm_first, "bias": bias}
    layer = nn.TransformerEncoderLayer(width, heads, 5, 0.0, causal=causal, **options)
    disturb(layer.build((t, width), precision="float64"), rng)
    mask = lengths_mask(rng.integers(1, t + 1, size=n), t) if masked else None

    def call(m, x):
        padding = None if mask is None else torch.tensor(~mask)
        return m(x, src_mask=later(t) if causal else None, src_key_padding_mask=padding)

    module = torch.nn.TransformerEncoderLayer(width, heads, 5, 0.0, batch_first=True, **options)
    # A layer norm over two numbers that are nearly equal multiplies rounding errors.
    compare(layer, module, {"x": rng.normal(size=(n, t, width))}, mask, call, rng, 1e-8)


@oracle
@pytest.mark.parametrize("norm_first", [False, True])
def test_decoder_with_both_masks_equals_pytorch(norm_first, rng):
    torch = torch_or_skip()
    masks = {"target": lengths_mask([4, 2, 3], 4), "memory": lengths_mask([1, 5, 3], 5)}
    inputs = {"target": rng.normal(size=(3, 4, 6)), "memory": rng.normal(size=(3, 5, 6))}
    layer = nn.TransformerDecoderLayer(None, 2, "memory", 7, 0.0, activation="gelu", norm_first=norm_first)
    disturb(layer.build({"target": (4, 6), "memory": (5, 6)}, precision="float64"), rng)

    def call(m, x, memory):
        padding = {name: torch.tensor(~mask) for name, mask in masks.items()}
        return m(
            x,
            memory,
            tgt_mask=later(4),
            tgt_key_padding_mask=padding["target"],
            memory_key_padding_mask=padding["memory"],
        )

    module = torch.nn.TransformerDecoderLayer(6, 2, 7, 0.0, batch_first=True, activation="gelu", norm_first=norm_first)
    compare(layer, module, inputs, masks, call, rng)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.MultiheadAttention(None, 2),
        lambda: nn.MultiheadAttention(None, 2, causal=True, rotary=True),
        lambda: nn.TransformerEncoderLayer(None, 2, 5, 0.0),
        lambda: nn.GPTBlock(2),
    ],
)
def test_nothing_at_padding_leaks(make, rng):
    layer = disturb(make().build((5, 8), precision="float64"), rng)
    mask = lengths_mask([5, 3, 1], 5)
    x, dy = rng.normal(size=(2, 3, 5, 8))
    dy[~mask] = 0
    y, grads = run(layer, x, mask, dy)
    x[~mask] = 100 * rng.normal(size=x[~mask].shape)
    other, other_grads = run(layer, x, mask, dy)
    np.testing.assert_array_equal(other[mask], y[mask])
    assert not grads["dx"][~mask].any()
    for name, grad in grads.items():
        np.testing.assert_allclose(other_grads[name], grad, rtol=1e-12, atol=1e-12, err_msg=name)
    # What is at the end of each sample alone says the same as what is padded.
    short, short_grads = run(layer, x[1:2, :3], None, dy[1:2, :3])
    np.testing.assert_allclose(short[0], y[1, :3], rtol=1e-12)
    np.testing.assert_allclose(short_grads["dx"][0], grads["dx"][1, :3], rtol=1e-10, atol=1e-12)


def test_a_mask_may_have_holes_and_travels_on(rng):
    attention = nn.MultiheadAttention(None, 2)
    layer = nn.Sequential(attention, nn.GPTBlock(2), nn.TransformerEncoderLayer(None, 2, 5, 0.0)).build((5, 4))
    mask = np.array([[True, False, True, True, False]] * 2)
    x = rng.normal(size=(2, 5, 4)).astype(np.float32)
    tape = Tape(layer.built.backend)
    y = layer.forward(tape.input(x, mask=mask))
    assert y.mask is mask
    x[~mask] = 9
    np.testing.assert_array_equal(layer.forward(tape.input(x, mask=mask)).value[mask], y.value[mask])


def gpt(**options):
    """GPT-2, small: 7 symbols, 2 blocks, tied weights."""
    model = [
        {"embedding": {"num_embeddings": 7, "embedding_dim": 8, "std": 0.02, "name": "wte"}},
        {"learned_position": 6},
        {"repeat": {"times": 2, "layers": [{"gpt_block": {"num_heads": 2, "depth": 2, **options}}]}},
        "layer_norm",
        {"tied_linear": "wte"},
    ]
    return gbp.build(model, input_shape=(6,), seed=0, precision="float64")


def pieces(model, x, cuts, device=lambda a: a, host=lambda a: a):
    """The outputs of one pass for each piece, by one cache."""
    cache, found = {}, []
    for start, stop in pairwise(cuts):
        tape = Tape(model.built.backend, cache=cache)
        found.append(host(model.forward(tape.input(device(x[:, start:stop]))).value))
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 4, 5, 6), (0, 3, 4, 6), (0, 6)])
@pytest.mark.parametrize("rotary", [False, True])
def test_a_gpt_fed_piece_by_piece_gives_the_same_logits(cuts, rotary, rng):
    model = disturb(gpt(rotary=rotary), rng)
    assert model.streams
    x = rng.integers(0, 7, size=(3, 6))
    np.testing.assert_allclose(pieces(model, x, cuts), model(x), rtol=1e-10, atol=1e-12)


def test_a_layer_used_twice_has_a_cache_for_each_use(rng):
    shared = nn.GPTBlock(2)
    model = disturb(nn.Sequential(nn.SinusoidalPosition(), shared, shared).build((5, 4), precision="float64"), rng)
    x = rng.normal(size=(2, 5, 4))
    np.testing.assert_allclose(pieces(model, x, (0, 2, 3, 5)), model(x), rtol=1e-10, atol=1e-12)


def test_a_mask_of_one_piece_counts_for_the_next(rng):
    model = disturb(nn.Sequential(nn.GPTBlock(2)).build((4, 4), precision="float64"), rng)
    x, cache = rng.normal(size=(2, 4, 4)), {}
    mask = np.array([[True, False, True, True], [True] * 4])
    wanted = model.forward(Tape(model.built.backend).input(x, mask=mask)).value
    for piece, known in ((slice(0, 2), mask[:, :2]), (slice(2, 3), None), (slice(3, 4), mask[:, 3:])):
        y = model.forward(Tape(model.built.backend, cache=cache).input(x[:, piece], mask=known)).value
        np.testing.assert_allclose(y, wanted[:, piece], rtol=1e-10)


@pytest.mark.parametrize("width", [6, 4])
def test_a_decoder_fed_piece_by_piece_reads_its_memory_once(width, rng):
    layer = nn.TransformerDecoderLayer(None, 2, "memory", 7)
    disturb(layer.build({"target": (5, 6), "memory": (3, width)}, precision="float64"), rng)
    assert layer.streams
    x, memory, mask = rng.normal(size=(2, 5, 6)), rng.normal(size=(2, 3, width)), lengths_mask([3, 2], 3)
    tape = Tape(layer.built.backend)
    whole = layer.forward(tape.input({"target": x, "memory": memory}, mask={"memory": mask})).value
    cache = {}
    for t in range(5):
        tape = Tape(layer.built.backend, cache=cache)
        inputs = {"target": x[:, t : t + 1]}
        if t == 0:
            inputs["memory"] = memory
        y = layer.forward(tape.input(inputs, mask={"memory": mask})).value
        np.testing.assert_allclose(y, whole[:, t : t + 1], rtol=1e-10)


def test_what_looks_ahead_does_not_stream():
    assert not nn.MultiheadAttention(None, 2).streams
    assert not nn.TransformerEncoderLayer(None, 2).streams
    assert nn.MultiheadAttention(None, 2, memory="m").streams
    assert nn.TransformerEncoderLayer(None, 2, causal=True).streams


def test_what_knows_only_the_positions_of_its_training_says_so():
    for layer in (nn.LearnedPosition(None, 5), nn.GPTBlock(2, rotary=True), nn.MultiheadAttention(None, 2)):
        assert any(part.bounded for _, part in layer.walk())


def test_strict_device(rng):
    inputs = {"target": rng.normal(size=(2, 4, 6)), "source": rng.normal(size=(2, 5, 6))}
    masks = {"target": lengths_mask([4, 2], 4), "source": lengths_mask([1, 5], 5)}
    chain = lambda: nn.Sequential(  # noqa: E731  # a new model for each device
        nn.Input("source"), nn.SinusoidalPosition(), nn.TransformerEncoderLayer(None, 2, 5), nn.Save("memory"),
        nn.Input("target"), nn.LearnedPosition(None, 9), nn.TransformerDecoderLayer(None, 2, "memory", 5),
        nn.GPTBlock(2, 0.1, rotary=False), nn.MultiheadAttention(None, 1, 0.2, causal=True, rotary=True),
    )  # fmt: skip
    found = []
    for device in ("cpu", "strict"):
        shapes = {"target": (4, 6), "source": (5, 6)}
        model = chain().build(shapes, device=device, precision="float64", kernels="reference")
        backend = choose(device, "reference")[0]
        put = lambda arrays, b=backend: {name: b.from_host(a) for name, a in arrays.items()}  # noqa: E731  # short
        dy = backend.from_host(np.random.default_rng(1).normal(size=(2, 4, 6)))

        def step(model=model, put=put, dy=dy, backend=backend):
            samples = backend.from_host(np.arange(2))
            tape = Tape(backend, training=True, recording=True, samples=samples)
            tape.backward(weighted_sum(model.forward(tape.input(put(inputs), True, put(masks))), dy))

        backend.capture(step)()
        found.append(backend.to_host(model.parameters().grad))
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0]).max() > 0.01


def test_recomputation_gives_the_same_gradients(rng):
    x, dy = rng.normal(size=(2, 3, 5, 8))
    found = []
    for recompute in (False, True):
        model = nn.Sequential(nn.Sequential(nn.GPTBlock(2, 0.3), recompute=recompute)).build(
            (5, 8), precision="float64"
        )
        found.append(run(model, x, None, dy)[1])
    for name, grad in found[0].items():
        np.testing.assert_array_equal(found[1][name], grad, err_msg=name)


class TestDropout:
    @pytest.fixture
    def layer(self, rng):
        return disturb(nn.MultiheadAttention(None, 2, dropout=0.5).build((6, 4), precision="float64"), rng)

    def test_falls_on_the_weights_in_training_alone(self, layer, rng):
        x = rng.normal(size=(3, 6, 4))
        assert np.abs(run(layer, x) - layer(x)).max() > 0.01
        layer.dropout = 0.0
        np.testing.assert_array_equal(run(layer, x), layer(x))

    def test_does_not_depend_on_how_the_batch_is_split(self, layer, rng):
        x = rng.normal(size=(5, 6, 4))
        parts = [run(layer, x[s], samples=np.arange(5)[s], step=2) for s in (slice(2), slice(2, 5))]
        np.testing.assert_allclose(np.concatenate(parts), run(layer, x, step=2), rtol=1e-12)
        assert np.abs(run(layer, x, step=3) - run(layer, x, step=2)).max() > 0.01

    def test_a_layer_used_twice_draws_anew(self, layer, rng):
        x = rng.normal(size=(2, 6, 4))
        samples = np.arange(2)
        tape = Tape(layer.built.backend, training=True, samples=samples)
        first, second = (layer.forward(tape.input(x)).value for _ in range(2))
        assert np.abs(first - second).max() > 0.01

    def test_gradient_through_every_dropout_of_a_block(self, rng):
        layer = disturb(nn.TransformerEncoderLayer(None, 2, 5, 0.3).build((4, 6), precision="float64"), rng)
        x, dy, direction = rng.normal(size=(3, 2, 4, 6))
        _, grads = run(layer, x, None, dy)
        ends = [np.sum(run(layer, x + t * direction) * dy) for t in (1e-6, -1e-6)]
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(np.sum(grads["dx"] * direction), rel=1e-6)


class TestStart:
    def test_gpt_block_starts_as_gpt2(self):
        state = nn.GPTBlock(4, depth=8).build((3, 128)).state_dict()
        stds = {key: a.std() for key, a in state.items() if key.endswith("weight") and "ln" not in key}
        wanted = {"attn.c_attn": 0.02, "attn.c_proj": 0.005, "mlp.c_fc": 0.02, "mlp.c_proj": 0.005}
        assert stds == pytest.approx({f"{key}.weight": std for key, std in wanted.items()}, rel=0.03)
        assert not any(a.any() for key, a in state.items() if key.endswith("bias"))
        assert nn.GPTBlock(4).build((3, 128)).state_dict()["mlp.c_proj.weight"].std() == pytest.approx(0.02, rel=0.03)

    def test_multihead_attention_starts_as_pytorchs(self):
        state = nn.MultiheadAttention(None, 4).build((3, 96)).state_dict()
        bound = np.sqrt(6 / (96 + 3 * 96))
        assert 0.99 * bound < np.abs(state["in_proj_weight"]).max() <= bound
        assert np.abs(state["out_proj.weight"]).max() == pytest.approx(1 / np.sqrt(96), rel=0.01)
        assert not state["in_proj_bias"].any()
        assert not state["out_proj.bias"].any()

    def test_learned_position_starts_small(self):
        assert nn.LearnedPosition(64, 99).build().state_dict()["weight"].std() == pytest.approx(0.02, rel=0.05)

    def test_keys_are_nanogpts(self):
        keys = [f"{a}.{b}" for a in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
                for b in ("weight", "bias")]  # fmt: skip
        assert list(nn.GPTBlock(2).build((3, 4)).state_dict()) == keys


class TestFlops:
    def total(self, layer, shape):
        layer.build(shape)
        return sum(part.flops() for _, part in layer.walk())

    def test_a_block_by_hand(self):
        t, e = 5, 8
        assert self.total(nn.GPTBlock(2), (t, e)) == 24 * t * e * e + 4 * t * t * e

    def test_an_encoder_layer_by_hand(self):
        t, e, f = 5, 8, 12
        wanted = 8 * t * e * e + 4 * t * t * e + 4 * t * e * f
        assert self.total(nn.TransformerEncoderLayer(None, 2, f), (t, e)) == wanted

    def test_attention_to_a_memory_by_hand(self):
        t, e, s, m = 5, 8, 3, 6
        layer = nn.MultiheadAttention(None, 2, memory="memory")
        wanted = 4 * t * e * e + 4 * s * m * e + 4 * t * s * e
        assert self.total(layer, {"x": (t, e), "memory": (s, m)}) == wanted


class TestErrors:
    @pytest.mark.parametrize(
        ("layer", "shape", "message"),
        [
            (lambda: nn.MultiheadAttention(None, 3), (4, 8), "num_heads is 3, which does not divide .* 8"),
            (lambda: nn.Sequential(nn.GPTBlock(3)), (4, 8), r"layer 0\.attn: num_heads is 3"),
            (lambda: nn.TransformerEncoderLayer(None, 3), (4, 8), "layer self_attn: num_heads is 3"),
            (lambda: nn.TransformerEncoderLayer(6, 3), (4, 9), "d_model is 6, but the input has 9"),
            (lambda: nn.MultiheadAttention(None, 2), (8,), r"multihead_attention needs sequences \(T, E\), got \(8,\)"),
            (lambda: nn.GPTBlock(2), (8, 8, 3), "gpt_block needs sequences"),
            (lambda: nn.MultiheadAttention(6, 2), (4, 8), "embed_dim is 6, but the input has 8"),
            (lambda: nn.MultiheadAttention(None, 2, rotary=True), (4, 6), "a head is 3 wide, which is odd"),
            (lambda: nn.MultiheadAttention(None, 2, memory="enc"), (4, 6), "nothing was saved as 'enc'"),
            (lambda: nn.LearnedPosition(None, 3), (4, 6), "max_length is 3, but the sequence has 4 positions"),
            (lambda: nn.SinusoidalPosition(3), (4, 6), "max_length is 3, but the sequence has 4 positions"),
            (lambda: nn.SinusoidalPosition(), (4,), r"sinusoidal_position needs sequences \(T, E\)"),
        ],
    )  # fmt: skip
    def test_shapes_that_do_not_fit(self, layer, shape, message):
        with pytest.raises(ShapeError, match=message):
            layer().build(shape)

    def test_a_memory_that_is_no_sequence(self):
        layer = nn.MultiheadAttention(None, 2, memory="enc")
        with pytest.raises(ShapeError, match=r"memory enc needs sequences \(T, E\), got \(6,\)"):
            layer.build({"x": (4, 6), "enc": (6,)})

    @pytest.mark.parametrize("option", ["causal", "rotary"])
    def test_options_that_exclude_each_other(self, option):
        with pytest.raises(UsageError, match=f"{option}: true cannot go with memory: enc"):
            nn.MultiheadAttention(None, 2, memory="enc", **{option: True})

    def test_a_stream_longer_than_the_positions(self, rng):
        model = nn.LearnedPosition(None, 5).build((4, 2))
        with pytest.raises(ShapeError, match="max_length is 5, but the sequence has 6 positions"):
            pieces(model, rng.normal(size=(1, 6, 2)), (0, 3, 6))
