"""Record tests/training/goldens/*.json from PyTorch: python -m scripts.record_goldens [MODEL...]

The losses of whole trainings and the running statistics behind them, so that there is something to compare with where
PyTorch is not installed. Run it after changing a row, a config's model or optimizer, or how weights start; commit what
it writes.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from tests.training import torch_training
from tests.training.golden import FOLDER, GOLDENS, MODELS, Golden, start, summary


def record(row: Golden) -> dict[str, Any]:
    """What the tests compare with."""
    training = torch_training.train(row)
    return {
        "start": start(row),
        "losses": training.losses,
        "first_float32": torch_training.train(row, "float32", steps=1).losses[0],
        "statistics": {key: summary(array).tolist() for key, array in training.statistics.items()},
    }


def main(models: list[str]) -> None:
    """Write one file per model."""
    for model in models or MODELS:
        path = FOLDER / f"{model}.json"
        rows = {str(row): record(row) for row in GOLDENS if row.model == model}
        path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
