"""How far whole trainings part from PyTorch's, step by step: python -m scripts.compare_torch

For each row of the goldens, at the config's own learning rate: the relative difference of the first loss, and the
largest of the first 20, in float64 and in float32. Beside it how far PyTorch's float32 parts from itself with its
images in memory as channels_last, and how far the float32 of each stands from PyTorch's float64, which tells whose
rounding it is. It asserts nothing; tests/training/test_goldens.py does.
"""

from __future__ import annotations

import numpy as np
from threadpoolctl import threadpool_limits

from tests.training import golden, torch_training
from tests.training.golden import GOLDENS, STEPS, Golden, Training

COLUMNS = (
    "float64",
    "float32",
    "PyTorch's float32, channels_last",
    "our float32 from float64",
    "PyTorch's float32 from float64",
)


def difference(found: Training, wanted: Training) -> str:
    """Relative differences of the losses: of the first, and the largest."""
    apart = np.abs(np.array(found.losses) / np.array(wanted.losses) - 1)
    return f"{apart[0]:.0e}, {apart.max():.0e}"


def compare(row: Golden) -> list[str]:
    """The row's differences, in the order of COLUMNS."""
    double, single = (torch_training.train(row, precision) for precision in ("float64", "float32"))
    ours = golden.train(row, "float32")
    return [
        difference(golden.train(row, "float64"), double),
        difference(ours, single),
        difference(torch_training.train(row, "float32", channels_last=True), single),
        difference(ours, double),
        difference(single, double),
    ]


def main() -> None:
    """Print one Markdown table."""
    print(f"Relative difference of the first loss, and the largest of {STEPS}.\n")
    print(f"| | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for row in GOLDENS:
        print(f"| {' | '.join([str(row), *compare(row)])} |", flush=True)


if __name__ == "__main__":
    with threadpool_limits(1):  # sums are in another order with more threads
        main()
