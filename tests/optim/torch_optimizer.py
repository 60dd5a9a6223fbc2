"""The same training by PyTorch. Run as a module, it records references for where PyTorch is not installed.

What torch.optim lacks is taken from the package `pytorch_optimizer`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytorch_optimizer
import torch

from tests.optim.specs import ROWS, OptimizerSpec, draw, fingerprint, lr_of, params, values

#: State that is a matter of PyTorch's, or one number for all params here.
NOT_COMPARED = {"step", "mu_product", "weight_norm", "adam_norm", "trust_ratio"}


class TorchOptimizer:
    """PyTorch's optimizer of a row of the table, on the table's params and gradients.

    changes  settings of single params by key: {"0.bias": {"weight_decay": 0.0}}
    """

    def __init__(
        self, spec: OptimizerSpec, dtype: str = "float64", changes: Mapping[str, dict[str, Any]] | None = None
    ) -> None:
        self.ours = params(dtype)
        self.tensors = {name: torch.from_numpy(np.array(value, order="C")) for name, value in values(self.ours).items()}
        self.handed = dict(self.tensors)
        inner = spec.inner or spec
        self.optimizers = self.made(inner.cls.__name__, dict(inner.options), changes or {})
        if spec.cls.__name__ == "Lookahead":
            self.optimizers = [pytorch_optimizer.Lookahead(self.optimizers[0], **spec.options)]
        for group in self.groups():
            group["base"] = group["lr"]
        self.momentum: float | None = None

    def made(self, name: str, options: dict[str, Any], changes: Mapping[str, dict[str, Any]]) -> list[Any]:
        """The optimizers that together do what ours does, each param in a group of its own."""
        if name == "Muon":
            return self.muon(options, changes)
        kinds = {"Lion": lion, "LAMB": lamb}
        groups = [{"params": [tensor], **changes.get(key, {})} for key, tensor in self.tensors.items()]
        return [kinds.get(name, getattr(torch.optim, name, None))(groups, **options)]

    def muon(self, options: dict[str, Any], changes: Mapping[str, dict[str, Any]]) -> list[Any]:
        """PyTorch's Muon knows matrices only: convolutions flattened; the rest goes to AdamW, as its docs advise."""
        spared = options.pop("adamw_for", ())
        adamw = {key[6:]: options.pop(key) for key in list(options) if key.startswith("adamw_")}
        matrices, rest = [], []
        for key, tensor in self.tensors.items():
            if tensor.ndim > 1 and not any(fnmatchcase(key, pattern) for pattern in spared):
                self.handed[key] = tensor.view(len(tensor), -1)
                matrices.append({"params": [self.handed[key]], **changes.get(key, {})})
            else:
                rest.append({"params": [tensor], **changes.get(key, {})})
        return [torch.optim.Muon(matrices, **options), torch.optim.AdamW(rest, **adamw)]

    def groups(self) -> list[dict[str, Any]]:
        """All param groups."""
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]

    def train(self, first: int, last: int) -> None:
        """As `specs.train`."""
        for step in range(first, last):
            draw(self.ours, seed=step)
            for name, param, _, _ in self.ours.segments:
                grad = torch.from_numpy(np.array(param.to_torch(param.grad), order="C"))
                self.handed[name].grad = grad.view(self.handed[name].shape)
            for group in self.groups():
                group["lr"] = lr_of(group["base"], step)
            if self.momentum is not None:
                for group in self.optimizers[0].param_groups:
                    if "betas" in group:
                        group["betas"] = (self.momentum, group["betas"][1])
                    else:
                        group["momentum"] = self.momentum
            # Muon's iteration in the params' precision, not in bfloat16; NAdam's product of momenta in float64.
            torch.set_default_dtype(torch.float64)
            with mock.patch.object(torch.Tensor, "bfloat16", torch.Tensor.clone):
                for optimizer in self.optimizers:
                    optimizer.step()
            torch.set_default_dtype(torch.float32)

    def values(self) -> dict[str, np.ndarray]:
        """By key."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def state(self) -> dict[str, np.ndarray]:
        """By key and state name, the counters left out."""
        found: dict[str, np.ndarray] = {}
        for name, handed in self.handed.items():
            inner = [optimizer.optimizer for optimizer in self.optimizers if hasattr(optimizer, "optimizer")]
            for state in (optimizer.state.get(handed, {}) for optimizer in (*self.optimizers, *inner)):
                if "mu_product" in state:
                    found["mu_product"] = state["mu_product"].numpy()
                for key, value in state.items():
                    # Muon's buffer is a running mean, and is called so by us.
                    key = "exp_avg" if handed is not self.tensors[name] else key
                    if key not in NOT_COMPARED and value is not None:
                        found[f"{name}.{key}"] = value.view(self.tensors[name].shape).numpy()
        return found


def lion(groups: list[dict[str, Any]], **options: Any) -> Any:
    """From the package pytorch_optimizer."""
    return pytorch_optimizer.Lion(groups, **options)


def lamb(groups: list[dict[str, Any]], bias_correction: bool = True, **options: Any) -> Any:
    """The package's, which corrects no bias; with that correction, one whose directions are those of PyTorch's Adam."""
    if bias_correction:
        return LambOfAdam(groups, **{"eps": 1e-6, **options})
    found = pytorch_optimizer.Lamb(groups, weight_decouple=False, adam_debias=True, **options)
    found.clamp = math.inf
    return found


class LambOfAdam(torch.optim.Adam):
    """Where PyTorch's Adam would go with lr 1, decay added, scaled to the length of the param."""

    def step(self, closure: Any = None) -> None:
        """One update."""
        kept = [dict(group) for group in self.param_groups]
        before = [group["params"][0].clone() for group in self.param_groups]
        for group in self.param_groups:
            group["params"][0].zero_()
            group["lr"], group["weight_decay"] = 1.0, 0.0
        super().step(closure)
        for group, (w, old) in zip(self.param_groups, zip(before, kept, strict=True), strict=True):
            group |= old
            direction = -group["params"][0] + group["weight_decay"] * w
            scale = w.norm() / (direction.norm() + group["eps"]) if w.any() and direction.any() else 1.0
            group["params"][0].copy_(w - group["lr"] * scale * direction)


def record() -> None:
    """Write references.json: the fingerprint of every row's params after 50 steps in float64."""
    references = {}
    for spec in ROWS:
        theirs = TorchOptimizer(spec)
        theirs.train(0, 50)
        references[str(spec)] = fingerprint(theirs.values())
    Path(__file__).with_name("references.json").write_text(json.dumps(references, indent=1) + "\n")


if __name__ == "__main__":
    record()
