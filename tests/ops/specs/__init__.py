"""One table of op specs: every test of ops runs over all rows. A row lives in the module of its family."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from gpubackprop.tape import Op


@dataclass
class OpSpec:
    """One op on one choice of shapes and options.

    inputs     draws the inputs in the op's layout: float64 arrays of order one, integer arrays, or None
    torch      the same computation by PyTorch, on tensors in the op's own layout (NHWC), results likewise;
               called as torch(*inputs, **options)
    outputs    how many of the op's outputs have gradients (the first ones)
    constants  indices of float inputs that the op gives no gradient for (masks, running statistics)
    fixed      by input, an index of what has no gradient by definition: the padding row of a table
    batched    indices of inputs whose first axis is the batch; (): the op does not take an empty batch
    """

    name: str
    op: Op
    inputs: Callable[[np.random.Generator], Sequence[Any]]
    torch: Callable[..., Any]
    options: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    constants: tuple[int, ...] = ()
    batched: tuple[int, ...] = (0,)
    fixed: dict[int, int] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The module of gpubackprop.ops that holds the op."""
        return self.op.forward.__module__.rsplit(".", 1)[-1]


def families() -> list[str]:
    """The modules of rows, one per module of gpubackprop.ops."""
    return sorted(path.stem for path in Path(__file__).parent.glob("[a-z]*.py"))


def table() -> list[OpSpec]:
    """All rows of all families."""
    return [row for family in families() for row in import_module(f"{__name__}.{family}").ROWS]
