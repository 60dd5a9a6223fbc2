"""The options of a config's `data` section that every source shares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gpubackprop.data.transform import Augmentation, Transform
from gpubackprop.registry import Fraction, Positive


@dataclass
class DataOptions:
    """How samples become batches; beside them, in the same section, stand the source's own options."""

    #: Share of the training set, unless the source brings a split of its own; or a path to data of the same type.
    validation: Fraction | str = 0.1
    batch_size: Positive = 32
    targets: Literal["data", "inputs"] = "data"  #: inputs: what the model has to give is its own input
    shuffle: bool = True
    drop_last: bool = False  #: leave out the last, smaller batch of a training epoch
    transforms: list[Transform] = field(default_factory=list)
    augment: list[Augmentation] = field(default_factory=list)
