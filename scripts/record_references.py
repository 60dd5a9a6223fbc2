"""Record tests/ops/references/*.npz from PyTorch: python -m scripts.record_references [FAMILY...]

Each op's outputs and gradients on the inputs of its rows, thinned out, so that the op tests have something to compare
with where PyTorch is not installed. Run it after adding or changing a row, and commit what it writes.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from tests.ops import harness
from tests.ops.specs import OpSpec, table


def record(row: OpSpec) -> tuple[np.uint32, dict[str, Any]]:
    """The checksum of the row's inputs, and PyTorch's outputs and gradients."""
    inputs = harness.draw(row)
    ys, _ = harness.forward(row, inputs)
    return harness.fingerprint(inputs), harness.named(*harness.run_torch(row, inputs, harness.draw_dys(row, ys)))


def main(families: list[str]) -> None:
    """Write one file per family of ops."""
    if find_spec("torch") is None:
        sys.exit('the references are PyTorch\'s results; install it: pip install ".[dev,oracle]"')
    rows = table()
    for family in families or sorted({row.family for row in rows}):
        path = harness.write_references(family, {row.name: record(row) for row in rows if row.family == family})
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
