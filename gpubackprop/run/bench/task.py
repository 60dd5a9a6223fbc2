"""What all candidates are given: a config, its first batches and its starting weights, in a folder.

Read without the rest of the package, since PyTorch's process reads it too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKED = 3  #: first losses that are compared
#: By precision, how far the first loss may be from another program's, and one after an update. The short ones keep 10
#: and 7 bits of what is multiplied, float16 10.
LOSSES = {
    **{"float64": (1e-4, 1e-2), "float32": (1e-4, 1e-2)},
    **{"tf32": (2e-3, 2e-2), "float16": (5e-3, 2e-2), "bfloat16": (2e-2, 5e-2)},
}


@dataclass(frozen=True)
class Task:
    """Steps that are to be made again and again.

    config   with all defaults filled in (`Config.resolved`)
    batches  of one step, as the data gives them: dicts of NumPy arrays
    weights  the state dict to start from
    random   whether layers draw random numbers, so that training losses of two programs differ
    """

    config: dict[str, Any]
    batches: list[dict[str, Any]]
    weights: dict[str, Any]
    random: bool

    def write(self, folder: Path) -> None:
        """As task.json and .npz files."""
        import numpy as np

        stored = {"config": self.config, "batches": len(self.batches), "random": self.random}
        (folder / "task.json").write_text(json.dumps(stored))
        np.savez(folder / "weights.npz", **self.weights)
        for number, batch in enumerate(self.batches):
            np.savez(folder / f"batch-{number}.npz", **_flat(batch))

    @classmethod
    def read(cls, folder: Path) -> Task:
        """What `write` wrote."""
        import numpy as np

        stored = json.loads((folder / "task.json").read_text())
        files = ["weights", *(f"batch-{number}" for number in range(stored["batches"]))]
        weights, *batches = (dict(np.load(folder / f"{name}.npz")) for name in files)
        return cls(stored["config"], [_nested(batch) for batch in batches], weights, stored["random"])


def difference(task: Task, ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str | None:
    """How far another candidate's losses are from ours, None: they agree. Other models are not worth comparing.

    In float32 the first loss to 1e-4; of a model without random numbers the losses after an update to 1e-2 too, which
    tells another gradient or another update. With random numbers the loss in inference mode stands for all.
    """
    first, later = LOSSES[task.config.get("precision", "float32")]
    names = ["inference_loss"] if task.random else ["losses"]
    for name in names:
        if theirs[name] is None:
            continue
        a, b = (_list(each[name]) for each in (ours, theirs))
        for number, (x, y) in enumerate(zip(a, b, strict=True)):
            if not abs(x - y) <= (first if number == 0 else later) * max(abs(x), 1e-3):
                which = "the inference loss" if task.random else f"loss {number + 1}"
                return f"{which} is {y:.6g}, ours {x:.6g}"
    return None


def _list(value: Any) -> Sequence[float]:
    return value if isinstance(value, list) else [value]


def _flat(batch: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in batch.items():
        flat |= {f"{name}/{key}": each for key, each in value.items()} if isinstance(value, Mapping) else {name: value}
    return flat


def _nested(flat: Mapping[str, Any]) -> dict[str, Any]:
    batch: dict[str, Any] = {}
    for name, value in flat.items():
        part, _, key = name.partition("/")
        if key:
            batch.setdefault(part, {})[key] = value
        else:
            batch[part] = value
    return batch
