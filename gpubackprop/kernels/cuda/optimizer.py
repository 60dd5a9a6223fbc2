"""Update rules as in optim/*.py: one launch for a stretch of the flat buffers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.driver import EXACT, NULL, Source
from gpubackprop.kernels.cuda.grid import elementwise
from gpubackprop.kernels.cuda.kernel import rule
from gpubackprop.optim import SGD, Adam

SOURCE = Source("optimizer.cu", ("sgd<{real}>", "adam<{real}>"), EXACT)
State = Mapping[str, Array]


def sgd_run(self: SGD, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As SGD.update_run."""
    b: Any = self.backend
    b.launch(
        *(SOURCE, "sgd<{real}>", value.dtype, *elementwise(value.size, value.itemsize)),
        *(value, grad, state.get("momentum_buffer", NULL), scalars),
        *(np.int32(decay), np.int32(self.nesterov), np.int64(value.size)),
    )


def adam_run(self: Adam, value: Array, grad: Array, state: State, scalars: Array, decay: bool) -> None:
    """As Adam.update_run."""
    if type(self).means is not Adam.means or type(self).decayed is not Adam.decayed:
        Adam.update_run(self, value, grad, state, scalars, decay)  # a user's own formula, in Adam's frame
        return
    b: Any = self.backend
    largest = state.get("max_exp_avg_sq", NULL)
    b.launch(
        *(SOURCE, "adam<{real}>", value.dtype, *elementwise(value.size, value.itemsize)),
        *(value, grad, state["exp_avg"], state["exp_avg_sq"], largest, scalars),
        *map(value.dtype.type, (self.beta2, 1 - self.beta2, self.eps)),
        *(np.int32(decay), np.int32(self.decoupled), np.int64(value.size)),
    )


rule(SGD.update_run, sgd_run)
rule(Adam.update_run, adam_run)
