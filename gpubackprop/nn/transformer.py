"""Blocks of transformers: attention and a two-layer network for each position, both with residuals."""

from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from typing import Literal, TypeAlias

from gpubackprop.errors import ShapeError
from gpubackprop.nn.activation import GELU, ReLU, SiLU
from gpubackprop.nn.attention import Attention, MultiheadAttention, Projection, sequence
from gpubackprop.nn.containers import Sequential
from gpubackprop.nn.dropout import Dropout
from gpubackprop.nn.init import normal
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.norm import LayerNorm, RMSNorm
from gpubackprop.ops.shape import add
from gpubackprop.registry import Fraction, Inferred, Positive, PositiveFloat
from gpubackprop.tape import Tensor

Activation: TypeAlias = Literal["relu", "gelu", "gelu_tanh", "silu"]
ACTIVATIONS: dict[str, Callable[[], Layer]] = {
    "relu": ReLU,
    "gelu": GELU,
    "gelu_tanh": lambda: GELU("tanh"),
    "silu": SiLU,
}


class _Block(Layer):
    """Sublayers, each with a residual around it, and a norm before it (norm_first) or after the sum."""

    norm_first = True
    #: (norm, body, dropout) in order
    sublayers: list[tuple[LayerNorm | RMSNorm, Layer, Layer]]

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """(T, E) -> (T, E)."""
        self.settle_width(sequence(shape, layers.name_of(type(self))))
        names = {id(layer): key for key, layer in self.children().items()}
        for sublayer in self.sublayers:
            for layer in sublayer:
                try:
                    layer.infer(shape, scope)
                except ShapeError as error:
                    raise (error.under(names[id(layer)], layer) if id(layer) in names else error) from None
        self.shapes = (shape, shape)
        return shape

    def link(self, named: dict[str, Layer]) -> None:
        """The names of the layers inside are keys only: two blocks of one model have the same."""
        if self.name is not None:
            named[self.name] = self

    def settle_width(self, width: int) -> None:
        """Set the sizes that depend on the width E."""
        raise NotImplementedError(f"{type(self).__name__}.settle_width")

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        branch: Tensor | None = None  # what the last sublayer gave: its sum with x is the next one's to make
        for norm, body, dropout in self.sublayers:
            if not self.norm_first:
                x = norm.of_sum(x, dropout.forward(body.forward(x)))[1]
                continue
            if branch is None:
                y = norm.forward(x)
            else:
                x, y = norm.of_sum(x, branch)
            branch = dropout.forward(body.forward(y))
        return x if branch is None else add(x, branch)


class _TransformerLayer(_Block):
    """What PyTorch's two layers share: linear1, activation, dropout, linear2 for each position."""

    def __init__(
        self,
        d_model: int | None,
        dim_feedforward: int,
        dropout: float,
        activation: Activation,
        eps: float,
        norm_first: bool,
        bias: bool,
        attentions: dict[str, MultiheadAttention],
    ) -> None:
        self.d_model, self.norm_first, self.attentions = d_model, norm_first, attentions
        self._last = Linear(dim_feedforward, d_model or 0, bias)  # 0: not known before the input is
        self._feedforward = Sequential(
            Linear(d_model, dim_feedforward, bias).named("linear1"),
            ACTIVATIONS[activation]().named("activation"),
            Dropout(dropout).named("dropout"),
            self._last.named("linear2"),
        )
        bodies: list[Layer] = [*attentions.values(), self._feedforward]
        self.sublayers = [(LayerNorm(None, eps, bias=bias), body, Dropout(dropout)) for body in bodies]
        self.streams = all(attention.streams for attention in attentions.values())

    def settle_width(self, width: int) -> None:
        """d_model is E, and so is what linear2 gives."""
        self._last.out_features = self.settle("d_model", width)

    def children(self) -> dict[str, Layer]:
        """Under PyTorch's keys."""
        norms = {f"norm{i}": norm for i, (norm, _, _) in enumerate(self.sublayers, 1)}
        dropouts = {f"dropout{i}": dropout for i, (_, _, dropout) in enumerate(self.sublayers, 1)}
        return {**self.attentions, **self._feedforward.children(), **norms, **dropouts}


@layers.register("transformer_encoder_layer")
class TransformerEncoderLayer(_TransformerLayer):
    """Self-attention, then a two-layer network, as in PyTorch; Vaswani et al. 2017. causal: nothing later is seen.

    (N, T, E) -> (N, T, E). Keys: self_attn, linear1, linear2, norm1, norm2.
    """

    def __init__(
        self,
        d_model: Inferred[Positive],
        nhead: Positive,
        dim_feedforward: Positive = 2048,
        dropout: Fraction = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: PositiveFloat = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        causal: bool = False,
    ) -> None:
        attentions = {"self_attn": MultiheadAttention(d_model, nhead, dropout, bias, causal=causal)}
        super().__init__(d_model, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias, attentions)


@layers.register("transformer_decoder_layer")
class TransformerDecoderLayer(_TransformerLayer):
    """Self-attention, attention to the tensor saved as `memory`, then a two-layer network, as in PyTorch.

    (N, T, E) -> (N, T, E). Keys: self_attn, multihead_attn, linear1, linear2, norm1, norm2, norm3. The self-attention
    is causal unless that is turned off.
    """

    def __init__(
        self,
        d_model: Inferred[Positive],
        nhead: Positive,
        memory: str,
        dim_feedforward: Positive = 2048,
        dropout: Fraction = 0.1,
        activation: Activation = "relu",
        layer_norm_eps: PositiveFloat = 1e-5,
        norm_first: bool = False,
        bias: bool = True,
        causal: bool = True,
    ) -> None:
        attentions = {
            "self_attn": MultiheadAttention(d_model, nhead, dropout, bias, causal=causal),
            "multihead_attn": MultiheadAttention(d_model, nhead, dropout, bias, memory=memory),
        }
        super().__init__(d_model, dim_feedforward, dropout, activation, layer_norm_eps, norm_first, bias, attentions)


class CausalSelfAttention(Attention):
    """The attention of GPT-2: c_attn gives queries, keys and values, c_proj mixes the heads. (N, T, E) -> (N, T, E)."""

    def __init__(
        self, num_heads: int, dropout: float, bias: bool, rotary_base: float | None, start: Projection
    ) -> None:
        super().__init__(num_heads, dropout, True, rotary_base)
        self.c_attn, self.c_proj = Projection(None, 0, bias, normal(0.02)), start

    def output_shape(self, shape: Shape) -> Shape:
        """Unchanged; the heads must divide E."""
        width = sequence(shape, "gpt_block")
        self.check_heads(width)
        self.c_attn.out_features, self.c_proj.out_features = 3 * width, width
        self.c_attn.infer(shape, {})
        return self.c_proj.infer(shape, {})

    def flops(self) -> int:
        """The attention; the projections count their own."""
        assert self.shapes is not None
        t, width = self.shapes[0]
        return self.attention_flops(t, t, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        return self.c_proj.forward(self.attend_to_self(x, self.c_attn.forward(x)))


@layers.register("gpt_block")
class GPTBlock(_Block):
    """One layer of GPT-2 under nanoGPT's keys: x + attn(ln_1(x)), then x + mlp(ln_2(x)); Radford et al. 2019.

    (N, T, E) -> (N, T, E). Weights start as N(0, 0.02²); those that write to the residual stream (attn.c_proj,
    mlp.c_proj) are divided by √(2 depth) where the model's number of blocks, `depth`, is given. rotary turns queries
    and keys by their positions, in place of positions added before. activation: gelu_tanh is GPT-2's, gelu nanoGPT's.
    norm: that of ln_1 and ln_2, both with eps 1e-5.
    """

    def __init__(
        self,
        num_heads: Positive,
        dropout: Fraction = 0.0,
        bias: bool = True,
        mlp_ratio: PositiveFloat = 4.0,
        activation: Activation = "gelu",
        rotary: bool = False,
        rotary_base: PositiveFloat = 1e4,
        depth: Positive | None = None,
        norm: Literal["layer_norm", "rms_norm"] = "layer_norm",
    ) -> None:
        back = normal(0.02 / sqrt(2 * depth) if depth else 0.02)
        self.mlp_ratio = mlp_ratio
        norms = [LayerNorm(None, bias=bias) if norm == "layer_norm" else RMSNorm(None, 1e-5) for _ in range(2)]
        self.ln_1, self.ln_2 = norms
        self.attn = CausalSelfAttention(
            num_heads, dropout, bias, rotary_base if rotary else None, Projection(None, 0, bias, back)
        )
        self._wide, self._narrow = Projection(None, 0, bias, normal(0.02)), Projection(None, 0, bias, back)
        self.mlp = Sequential(
            self._wide.named("c_fc"), ACTIVATIONS[activation]().named("activation"), self._narrow.named("c_proj")
        )
        self.dropout_1, self.dropout_2 = Dropout(dropout), Dropout(dropout)
        self.sublayers = [(self.ln_1, self.attn, self.dropout_1), (self.ln_2, self.mlp, self.dropout_2)]
        self.streams = True

    def children(self) -> dict[str, Layer]:
        """ln_1, attn, ln_2, mlp, and the dropouts."""
        parts = ("ln_1", "attn", "ln_2", "mlp", "dropout_1", "dropout_2")
        return {name: getattr(self, name) for name in parts}

    def settle_width(self, width: int) -> None:
        """The network's hidden width is mlp_ratio E."""
        self._wide.out_features, self._narrow.out_features = round(self.mlp_ratio * width), width
