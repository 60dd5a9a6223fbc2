"""Attention layers: sequences (N, T, E) in, sequences (N, T, E) out."""

from __future__ import annotations

from typing import Any

from gpubackprop.backend import Array
from gpubackprop.backend.philox import stream_of
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.init import xavier_uniform, zeros
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.nn.linear import Linear
from gpubackprop.nn.skip import saved_shape
from gpubackprop.ops.attention import (
    cross_projection,
    merge_heads,
    scaled_dot_product_attention,
    self_attention,
    split_heads,
)
from gpubackprop.ops.linear import linear
from gpubackprop.ops.position import rotary
from gpubackprop.parameters import Buffer, Init, Param
from gpubackprop.registry import Fraction, Inferred, Positive, PositiveFloat
from gpubackprop.tape import Tensor


class Projection(Linear):
    """A linear layer whose bias starts at 0, and its weight as `start` says, or else as any linear layer's."""

    def __init__(
        self, in_features: int | None, out_features: int, bias: bool = True, start: Init | None = None
    ) -> None:
        super().__init__(in_features, out_features, bias)
        self.start = start

    def arrays(self) -> dict[str, Param | Buffer]:
        """weight and bias."""
        arrays = super().arrays()
        for array in arrays.values():
            if isinstance(array, Param) and array.kind == "bias":
                array.init = zeros
            elif isinstance(array, Param) and self.start is not None:
                array.init = self.start
        return arrays


class Attention(Layer):
    """What attention layers share: heads, rotations, masks, and the keys and values of earlier pieces of a stream."""

    bounded = True  # distances that were never seen in training spoil the weights

    def __init__(self, num_heads: int, dropout: float, causal: bool, rotary_base: float | None) -> None:
        self.num_heads, self.dropout, self.causal, self.rotary_base = num_heads, dropout, causal, rotary_base
        self.streams = causal

    def check_heads(self, width: int) -> None:
        """ShapeError where the width E does not divide into the heads."""
        if width % self.num_heads:
            raise ShapeError(f"num_heads is {self.num_heads}, which does not divide the input's width {width}")
        if self.rotary_base is not None and width // self.num_heads % 2:
            raise ShapeError(f"rotary turns pairs, but a head is {width // self.num_heads} wide, which is odd")

    def attend(self, x: Tensor, q: Tensor, k: Tensor | Array, v: Tensor | Array, key_mask: Array | None) -> Tensor:
        """q (N, h, T, D) of x, k and v (N, h, S, D), key_mask (N, S) -> (N, T, E)."""
        tape = x.tape
        y: Tensor = scaled_dot_product_attention(
            q, k, v, key_mask, tape.samples, tape.step, causal=self.causal, **self._dropout(x)
        )
        y = merge_heads(y)
        y.mask = x.mask  # the positions are x's again
        return y

    def attend_to_self(self, x: Tensor, qkv: Tensor) -> Tensor:
        """qkv (N, T, 3E) of x -> (N, T, E); under a cache, x continues the sequence that the cache holds."""
        tape, mask = x.tape, x.mask
        if self.rotary_base is None and (tape.cache is None or not self.causal):
            options = {"num_heads": self.num_heads, "causal": self.causal, **self._dropout(x)}
            y: Tensor = self_attention(qkv, mask, tape.samples, tape.step, **options)
            return y
        q, k, v = split_heads(qkv, num_heads=self.num_heads, parts=3)
        cache = tape.cache if self.causal else None
        key = "" if cache is None else tape.key(self.path)
        past = None if cache is None else cache.get(key)
        if self.rotary_base is not None:
            offset = past[0].shape[2] if past else 0
            q, k = (rotary(a, offset=offset, base=self.rotary_base) for a in (q, k))
        if cache is None:
            return self.attend(x, q, k, v, mask)
        xp = tape.backend.xp
        keys, values = k.value, v.value
        if past:
            keys, values = (xp.concatenate(pair, axis=2) for pair in zip(past[:2], (keys, values), strict=True))
            if mask is not None or past[2] is not None:
                masks = zip((past[2], mask), (past[0], k.value), strict=True)
                mask = xp.concatenate([xp.ones(_positions(a), bool) if m is None else m for m, a in masks], axis=1)
        cache[key] = (keys, values, mask)
        return self.attend(x, q, keys, values, mask)

    def _dropout(self, x: Tensor) -> dict[str, Any]:
        """Options of the attention ops: the share of the weights that is dropped, and where its random numbers are."""
        p = self.dropout if x.training else 0.0
        stream = stream_of(self.path, x.tape.call_number(self.path)) if p else 0
        return {"dropout": p, "seed": x.tape.seed, "stream": stream}

    def attention_flops(self, queries: int, keys: int, width: int) -> int:
        """Of q kᵀ and p v."""
        return 4 * queries * keys * width


@layers.register("multihead_attention")
class MultiheadAttention(Attention):
    """A mean of the values, weighted by how each position's query fits the keys, in several heads; Vaswani et al. 2017.

    Queries come from the input (N, T, E); keys and values too, or from the tensor `memory` (N, S, M) that was saved
    under that name. Keys at padding are not seen. causal: nothing later is seen. rotary: queries and keys are turned by
    their positions (Su et al. 2021; halves, as Hugging Face's LLaMA). dropout falls on the weights.
    """

    in_proj_weight: Param | None = None
    q_proj_weight: Param | None = None
    k_proj_weight: Param | None = None
    v_proj_weight: Param | None = None
    in_proj_bias: Param | None = None

    def __init__(
        self,
        embed_dim: Inferred[Positive],
        num_heads: Positive,
        dropout: Fraction = 0.0,
        bias: bool = True,
        kdim: Inferred[Positive] = None,
        vdim: Inferred[Positive] = None,
        causal: bool = False,
        memory: str | None = None,
        rotary: bool = False,
        rotary_base: PositiveFloat = 1e4,
    ) -> None:
        if memory is not None and (causal or rotary):
            wrong = "causal" if causal else "rotary"
            raise UsageError(f"{wrong}: true cannot go with memory: {memory}, whose positions are not the input's")
        super().__init__(num_heads, dropout, causal, rotary_base if rotary else None)
        self.embed_dim, self.kdim, self.vdim = embed_dim, kdim, vdim
        self.has_bias, self.memory = bias, memory
        self.streams = causal or memory is not None
        self.out_proj = Projection(embed_dim, embed_dim or 1, bias)
        self._memory_shape: Shape | None = None

    def infer(self, shape: Shape, scope: dict[str, Shape]) -> Shape:
        """(T, E) -> (T, E); the memory is (S, M)."""
        width = sequence(shape, "multihead_attention")
        self.settle("embed_dim", width)
        self.check_heads(width)
        self._memory_shape = shape if self.memory is None else saved_shape(self.memory, scope)
        source = sequence(self._memory_shape, f"memory {self.memory}")
        self.settle("kdim", source)
        self.settle("vdim", source)
        self.out_proj.out_features = width
        self.shapes = (shape, self.out_proj.infer(shape, scope))
        return self.shapes[1]

    def flops(self) -> int:
        """The projections to queries, keys and values, and the attention; out_proj counts its own."""
        assert self.shapes is not None
        assert self._memory_shape is not None
        (t, width), (s, source) = self.shapes[0], self._memory_shape
        return 2 * t * width**2 + 4 * s * source * width + self.attention_flops(t, s, width)

    def arrays(self) -> dict[str, Param | Buffer]:
        """in_proj_weight (3E, E), or three weights where the memory has another width; in_proj_bias (3E,)."""
        width, source = self.size("embed_dim"), self.kdim or self.size("embed_dim")
        arrays: dict[str, Param | Buffer] = {}
        if source == width:
            arrays["in_proj_weight"] = _xavier(3 * width, width)
        else:
            sources = {"q": width, "k": source, "v": source}
            arrays |= {f"{name}_proj_weight": _xavier(width, i) for name, i in sources.items()}
        if self.has_bias:
            arrays["in_proj_bias"] = Param((3 * width,), zeros, kind="bias")
        return arrays

    def forward(self, x: Tensor) -> Tensor:
        """(N, T, E) -> (N, T, E)."""
        if self.memory is None:
            y = self.attend_to_self(x, linear(x, self.in_proj_weight, self.in_proj_bias))
        else:
            y = self._attend_to_memory(x, self.memory)
        return self.out_proj.forward(y)

    def _attend_to_memory(self, x: Tensor, name: str) -> Tensor:
        tape = x.tape
        key = tape.key(self.path) if tape.cache is not None else ""
        if tape.cache is not None and key in tape.cache:
            keys, values, mask = tape.cache[key]
            q = linear(x, *self._query_arrays())
            return self.attend(x, split_heads(q, num_heads=self.num_heads), keys, values, mask)
        memory = tape.saved[name]
        weights = [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        if self.in_proj_weight is not None:
            weights = [self.in_proj_weight]
        projected = cross_projection(x, memory, self.in_proj_bias, *weights)
        q, k, v = (split_heads(a, num_heads=self.num_heads) for a in projected)
        if tape.cache is not None:
            tape.cache[key] = (k.value, v.value, memory.mask)
        return self.attend(x, q, k, v, memory.mask)

    def _query_arrays(self) -> tuple[Array, Array | None]:
        width = self.size("embed_dim")
        weight = self.q_proj_weight or self.in_proj_weight
        assert weight is not None
        bias = self.in_proj_bias
        return weight.value[:width], None if bias is None else bias.value[:width]


def sequence(shape: Shape, what: str) -> int:
    """The width E of a sequence's shape (T, E); ShapeError where it is none."""
    if len(shape) != 2:
        raise ShapeError(f"{what} needs sequences (T, E), got {shape}; reshape, or embed tokens first")
    return shape[1]


def _positions(keys: Array) -> tuple[int, int]:
    return keys.shape[0], keys.shape[2]


def _xavier(rows: int, columns: int) -> Param:
    return Param((rows, columns), xavier_uniform(columns, rows))
