"""The same training by PyTorch. Run as a module, it records references for where PyTorch is not installed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.optim.specs import ROWS, OptimizerSpec, draw, fingerprint, lr_of, params, values


class TorchOptimizer:
    """PyTorch's optimizer of a row of the table, on the table's params and gradients."""

    def __init__(self, spec: OptimizerSpec, dtype: str = "float64", no_decay: Sequence[str] = ()) -> None:
        import torch

        self.torch, self.ours = torch, params(dtype)
        self.tensors = {name: torch.from_numpy(value) for name, value in values(self.ours).items()}
        kept = [self.tensors[name] for name, param, _, _ in self.ours.segments if param.kind in no_decay]
        rest = [self.tensors[name] for name, param, _, _ in self.ours.segments if param.kind not in no_decay]
        groups = [{"params": rest}, *([{"params": kept, "weight_decay": 0.0}] if kept else [])]
        self.optimizer = getattr(torch.optim, spec.cls.__name__)(groups, **spec.options)
        self.base, self.momentum = self.optimizer.defaults["lr"], None

    def train(self, first: int, last: int) -> None:
        """As `specs.train`."""
        for step in range(first, last):
            draw(self.ours, seed=step)
            for name, param, _, _ in self.ours.segments:
                self.tensors[name].grad = self.torch.from_numpy(np.array(param.to_torch(param.grad)))
            for group in self.optimizer.param_groups:
                group["lr"] = lr_of(self.base, step)
                if self.momentum is not None and "betas" in group:
                    group["betas"] = (self.momentum, group["betas"][1])
                elif self.momentum is not None:
                    group["momentum"] = self.momentum
            self.optimizer.step()

    def values(self) -> dict[str, np.ndarray]:
        """By key."""
        return {name: tensor.numpy() for name, tensor in self.tensors.items()}

    def state(self) -> dict[str, np.ndarray]:
        """By key and state name, the counters left out."""
        return {
            f"{name}.{key}": value.numpy()
            for name, tensor in self.tensors.items()
            for key, value in self.optimizer.state[tensor].items()
            if key != "step" and value is not None
        }


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
