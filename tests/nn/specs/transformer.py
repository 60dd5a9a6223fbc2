"""Rows of nn/attention.py, nn/position.py and nn/transformer.py, one family: each reference is used by the next."""

from __future__ import annotations

import functools

from gpubackprop import nn
from tests.nn.specs import LayerSpec
from tests.ops.specs.position import rotated, sinusoidal


def _wrap(inner, forward):
    """A module with the state dict of `inner()` whose forward is `forward(inner, x)`."""

    def make():
        import torch

        class Wrapped(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = inner()

            def forward(self, x):
                return forward(self.inner, x)

            def named_parameters(self, *args, **kwargs):
                return self.inner.named_parameters(*args, **kwargs)

            def state_dict(self, *args, **kwargs):
                return self.inner.state_dict(*args, **kwargs)

            def load_state_dict(self, *args, **kwargs):
                return self.inner.load_state_dict(*args, **kwargs)

        return Wrapped()

    return make


def later(t):
    """True where a position must not look: PyTorch's causal mask."""
    import torch

    return torch.ones(t, t, dtype=torch.bool).triu(1)


def _mha(name, width, heads, causal=False, **options):
    def inner():
        import torch

        return torch.nn.MultiheadAttention(width, heads, batch_first=True, **options)

    def forward(m, x):
        return m(x, x, x, attn_mask=later(x.shape[1]) if causal else None)[0]

    def layer():
        return nn.MultiheadAttention(None, heads, causal=causal, **options)

    return LayerSpec(f"multihead_attention{name}", layer, _wrap(inner, forward), (5, width))


def _with_memory(name, layer, memory, inner, call, shape):
    """The layer over the input, with `memory` layers of the input saved before it. Keys 0 (the memory's), and 3."""

    def ours():
        make = [nn.Linear(None, memory), nn.Save("memory"), nn.Linear(None, shape[-1]), layer()]
        return nn.Sequential(*make)

    def torch():
        import torch

        return torch.nn.ModuleDict(
            {"0": torch.nn.Linear(shape[-1], memory), "2": torch.nn.Linear(memory, shape[-1]), "3": inner()}
        )

    def forward(m, x):
        saved = m["0"](x)
        return call(m["3"], m["2"](saved), saved)

    return LayerSpec(name, ours, _wrap(torch, forward), shape)


def _cross(name, memory, **options):
    def inner():
        import torch

        return torch.nn.MultiheadAttention(6, 2, batch_first=True, kdim=memory, vdim=memory, **options)

    def layer():
        return nn.MultiheadAttention(None, 2, memory="memory", **options)

    return _with_memory(
        f"multihead_attention over a memory{name}", layer, memory, inner, lambda m, x, s: m(x, s, s)[0], (4, 6)
    )


def _encoder(name, causal=False, **options):
    def inner():
        import torch

        return torch.nn.TransformerEncoderLayer(6, 3, 10, 0.0, batch_first=True, **options)

    def forward(m, x):
        return m(x, src_mask=later(x.shape[1])) if causal else m(x)

    def layer():
        return nn.TransformerEncoderLayer(None, 3, 10, 0.0, causal=causal, **options)

    return LayerSpec(f"transformer_encoder_layer{name}", layer, _wrap(inner, forward), (5, 6))


def _decoder(name, causal=True, **options):
    def inner():
        import torch

        return torch.nn.TransformerDecoderLayer(6, 2, 10, 0.0, batch_first=True, **options)

    def layer():
        return nn.TransformerDecoderLayer(None, 2, "memory", 10, 0.0, causal=causal, **options)

    def call(m, x, saved):
        return m(x, saved, tgt_mask=later(x.shape[1]) if causal else None)

    return _with_memory(f"transformer_decoder_layer{name}", layer, 6, inner, call, (4, 6))


def gpt_block(width, heads, bias=True, ratio=4, activation="gelu", rotary=False, rms=False):
    """nanoGPT's block, from PyTorch's parts."""

    def make():
        import torch
        import torch.nn.functional as F

        class Attention(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.c_attn = torch.nn.Linear(width, 3 * width, bias=bias)
                self.c_proj = torch.nn.Linear(width, width, bias=bias)

            def forward(self, x):
                q, k, v = (a.unflatten(-1, (heads, -1)).transpose(1, 2) for a in self.c_attn(x).split(width, dim=-1))
                if rotary:
                    q, k = rotated(q), rotated(k)
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                return self.c_proj(y.transpose(1, 2).flatten(2))

        class MLP(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.c_fc = torch.nn.Linear(width, ratio * width, bias=bias)
                self.c_proj = torch.nn.Linear(ratio * width, width, bias=bias)

            def forward(self, x):
                y = self.c_fc(x)
                act = {"relu": F.relu, "gelu": F.gelu, "gelu_tanh": lambda y: F.gelu(y, approximate="tanh")}
                return self.c_proj(act[activation](y))

        class Block(torch.nn.Module):
            def __init__(self):
                super().__init__()
                norm = functools.partial(torch.nn.LayerNorm, bias=bias)
                if rms:
                    norm = functools.partial(torch.nn.RMSNorm, eps=1e-5)
                self.ln_1 = norm(width)
                self.attn = Attention()
                self.ln_2 = norm(width)
                self.mlp = MLP()

            def forward(self, x):
                x = x + self.attn(self.ln_1(x))
                return x + self.mlp(self.ln_2(x))

        return Block()

    return make


def _learned_position(width, length):
    def make():
        import torch

        class Module(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = torch.nn.Parameter(torch.randn(length, width))

            def forward(self, x):
                return x + self.weight[: x.shape[1]]

        return Module()

    return make


def _sinusoidal():
    import torch

    return _wrap(torch.nn.Identity, lambda _, x: sinusoidal(x))()


ROWS = [
    _mha("", 6, 2),
    _mha(", causal", 6, 3, causal=True),
    _mha(", no bias", 4, 1, bias=False),
    _cross("", 6),
    _cross(", no bias", 6, bias=False),
    _cross(" of another width", 5),
    _cross(" of another width, no bias", 5, bias=False),
    _encoder(""),
    _encoder(", norm first", norm_first=True, activation="gelu", layer_norm_eps=1e-3),
    _encoder(", causal, no bias", causal=True, bias=False),
    _decoder(""),
    _decoder(", norm first, not causal", causal=False, norm_first=True, activation="gelu"),
    _decoder(", no bias", bias=False, norm_first=True),
    LayerSpec("gpt_block", lambda: nn.GPTBlock(2), gpt_block(6, 2), (5, 6)),
    LayerSpec(
        "gpt_block, options",
        lambda: nn.GPTBlock(3, bias=False, mlp_ratio=2, activation="gelu_tanh"),
        gpt_block(6, 3, bias=False, ratio=2, activation="gelu_tanh"),
        (4, 6),
    ),
    LayerSpec(
        "gpt_block, rotary, rms_norm",
        lambda: nn.GPTBlock(2, rotary=True, activation="relu", depth=3, norm="rms_norm"),
        gpt_block(8, 2, rotary=True, activation="relu", rms=True),
        (4, 8),
    ),
    LayerSpec("learned_position", lambda: nn.LearnedPosition(None, 7), _learned_position(4, 7), (5, 4)),
    LayerSpec("sinusoidal_position", lambda: nn.SinusoidalPosition(), _sinusoidal, (5, 6)),
]
