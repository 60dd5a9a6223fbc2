"""Muon, for matrices; the other params are updated as by AdamW."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import prod, sqrt
from typing import Literal

from gpubackprop.backend import Array, Backend
from gpubackprop.optim.adam import AdamW
from gpubackprop.optim.group import Groups, LayerDecay, check_patterns
from gpubackprop.optim.optimizer import Kinds, optimizers
from gpubackprop.parameters import Param, Parameters, Segment
from gpubackprop.registry import Fraction, Given, NonNegativeFloat, Positive, PositiveFloat

Quintic = tuple[float, float, float]


@optimizers.register("muon")
class Muon(AdamW):
    """Momentum, orthogonalised (Jordan et al. 2024), as PyTorch's Muon; what is no matrix is updated as by AdamW.

        B ← momentum·B + (1 - momentum)·grad
        O = orthogonal(B)                       (nesterov: of momentum·B + (1 - momentum)·grad)
        w ← w - lr·weight_decay·w - lr·f·O

    f is √max(1, rows/columns) (`original`), or √max(rows, columns)/5, which gives the update the size that AdamW's has
    (`match_rms_adamw`; Liu et al. 2025). O is approximate: `ns_steps` Newton-Schulz iterations with `ns_coefficients`,
    in the params' precision (PyTorch works in bfloat16).

    A matrix is a weight of two axes or more: a convolution's counts as (O, the rest), as in Jordan's code. Params whose
    keys match `adamw_for` are updated by AdamW all the same: name the embeddings and the output layer there, as
    `adamw_for: ["embed.*", "7.*"]`. Schedules multiply `adamw_lr` as they do `lr`; `momentum` is Muon's.
    """

    def __init__(
        self,
        params: Given[Parameters],
        lr: PositiveFloat = 1e-3,
        weight_decay: NonNegativeFloat = 0.1,
        momentum: Fraction = 0.95,
        nesterov: bool = True,
        ns_coefficients: tuple[float, float, float] = (3.4445, -4.775, 2.0315),
        eps: PositiveFloat = 1e-7,
        ns_steps: Positive = 5,
        adjust_lr_fn: Literal["original", "match_rms_adamw"] = "original",
        adamw_for: Sequence[str] = (),
        adamw_lr: PositiveFloat = 1e-3,
        adamw_betas: tuple[Fraction, Fraction] = (0.9, 0.999),
        adamw_eps: PositiveFloat = 1e-8,
        adamw_weight_decay: NonNegativeFloat = 1e-2,
        no_decay: Kinds = (),
        groups: Groups = (),
        layer_decay: LayerDecay = 1.0,
    ) -> None:
        super().__init__(
            params, lr, adamw_betas, adamw_eps, weight_decay, no_decay=no_decay, groups=groups, layer_decay=layer_decay
        )
        self.momentum, self.nesterov, self.adamw_beta1 = momentum, nesterov, adamw_betas[0]
        self.ns_coefficients, self.ns_eps, self.ns_steps = ns_coefficients, eps, ns_steps
        self.adjust_lr_fn, self.adamw_for = adjust_lr_fn, adamw_for
        self.adamw_lr, self.adamw_weight_decay = adamw_lr, adamw_weight_decay
        check_patterns(adamw_for, [segment.name for segment in params.segments])

    def alone(self, segment: Segment) -> bool:
        """Whether the param is updated as a matrix."""
        matrix = segment.param.kind == "weight" and len(segment.param.shape) > 1
        return matrix and not any(fnmatchcase(segment.name, pattern) for pattern in self.adamw_for)

    def rates(self, segment: Segment) -> tuple[float, float]:
        """AdamW's own learning rate and weight decay for what is no matrix."""
        return super().rates(segment) if self.alone(segment) else (self.adamw_lr, self.adamw_weight_decay)

    def factor(self, param: Param) -> float:
        """f, of a param that is updated as a matrix."""
        rows = param.torch_shape[0]
        columns = prod(param.shape) // rows
        return sqrt(max(1, rows / columns)) if self.adjust_lr_fn == "original" else 0.2 * sqrt(max(rows, columns))

    def keeps(self, state: str, segment: Segment) -> bool:
        """A matrix has a running mean alone."""
        return state == "exp_avg" or not self.alone(segment)

    def coefficients(self, lr: float, weight_decay: float) -> tuple[float, ...]:
        """AdamW's four, the last of them what weight decay leaves of a weight, then lr and 1 - momentum."""
        beta1, correction = self.adamw_beta1, sqrt(1 - self.beta2**self.steps)
        adamw = lr / (1 - beta1**self.steps), 1 - beta1, correction, 1 - lr * weight_decay
        return *adamw, lr, 1 - self.momentum

    def update_run(self, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool) -> None:
        """AdamW's update; all arrays (P,)."""
        self.backend.rule(AdamW.update_run)(self, value, grad, state, scalars[:4], decay)

    def update_param(
        self, param: Param, value: Array, grad: Array, state: Mapping[str, Array], scalars: Array, decay: bool
    ) -> None:
        """All arrays in the param's shape, which is a matrix (O, the rest) in PyTorch's layout."""
        shrink, lr, share = scalars[3:]
        mean = state["exp_avg"]
        mean += share * (grad - mean)
        direction = grad + (1 - share) * (mean - grad) if self.nesterov else mean
        rows = param.torch_shape[0]
        matrix = param.to_torch(direction).reshape(rows, -1)
        step = orthogonal(self.backend, matrix, self.ns_coefficients, self.ns_steps, self.ns_eps)
        back = sorted(range(len(param.layout)), key=param.layout.__getitem__)
        if decay:
            value *= shrink
        value -= lr * self.factor(param) * step.reshape(param.torch_shape).transpose(back)


def orthogonal(b: Backend, matrix: Array, coefficients: Quintic, steps: int, eps: float) -> Array:
    """About U·Vᵀ of `matrix` (R, C) = U·S·Vᵀ: singular values are brought near 1 by X ← a·X + (b·XXᵀ + c·(XXᵀ)²)·X."""
    first, third, fifth = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / b.xp.maximum(b.xp.sqrt(b.xp.sum(b.xp.square(x))), eps)
    for _ in range(steps):
        gram = b.matmul(x, x.T)
        x = first * x + b.matmul(third * gram + fifth * b.matmul(gram, gram), x)
    return x.T if tall else x
