"""Dropout."""

from __future__ import annotations

from gpubackprop.backend.philox import stream_of
from gpubackprop.nn.layer import Layer, layers
from gpubackprop.ops.dropout import dropout
from gpubackprop.registry import Share
from gpubackprop.tape import Tensor


@layers.register("dropout")
class Dropout(Layer):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p); Srivastava et al. 2014.

    The mask is a function of the model's seed, the step, the sample's place in the step, and the layer's path: the same
    on every device, and in micro-batches as in one batch.
    """

    def __init__(self, p: Share = 0.5) -> None:
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        if not (x.training and self.p):
            return x
        tape = x.tape
        stream = stream_of(self.path, tape.call_number(self.path))
        y: Tensor = dropout(x, tape.samples, tape.step, p=self.p, seed=tape.seed, stream=stream)
        return y
