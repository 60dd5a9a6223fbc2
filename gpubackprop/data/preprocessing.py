"""What happened to the inputs in training, kept beside a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from gpubackprop.data.series import Series
from gpubackprop.data.source import IGNORED, Array, DataInfo, Shape, Split, named, over
from gpubackprop.data.transform import Transform, as_input, from_state, state_of
from gpubackprop.data.vocabulary import Vocabulary
from gpubackprop.errors import CheckpointError, DataError

FORMAT = 1


@dataclass(frozen=True)
class Preprocessing:
    """All that predictions need to know of the training data; `preprocessing.json` of a run directory."""

    source: str  #: type of the data source
    input_shape: Shape | dict[str, Shape]  #: of one sample
    input_dtype: str | dict[str, str]  #: as stored: uint8 is scaled to [0, 1]
    classes: list[str] | None = None
    transforms: list[Transform] = field(default_factory=list)
    vocabulary: Vocabulary | None = None  #: of text
    series: Series | None = None  #: columns and scale of a series to forecast

    @classmethod
    def of(cls, source: str, info: DataInfo, transforms: Sequence[Transform]) -> Preprocessing:
        """From what training knows."""
        return cls(
            source, info.input_shape, info.input_dtype, info.classes, list(transforms), info.vocabulary, info.series
        )

    @property
    def single(self) -> tuple[Shape, np.dtype[Any]]:
        """Shape and stored dtype of the one input; DataError where there are several."""
        if isinstance(self.input_shape, dict) or isinstance(self.input_dtype, dict):
            raise DataError("predictions from files are for models of one input; this one has several, use Python")
        return self.input_shape, np.dtype(self.input_dtype)

    def apply(self, raw: Array, dtype: npt.DTypeLike = np.float32) -> Array:
        """Stored inputs (N, *input_shape) -> what the model takes, (N, *input_shape) of `dtype`."""
        inputs = as_input(raw, dtype)
        for transform in self.transforms:
            inputs = transform(inputs)
        return inputs

    def check(self, split: Split, where: str) -> None:
        """DataError, which begins with `where`, unless the split's samples and classes are of the kind trained on."""
        shape = over(lambda array: tuple(array.shape[1:]), split.inputs)
        if shape != self.input_shape:
            raise DataError(f"{where}: samples of shape {shape}; the model takes {self.input_shape}")
        arrays = [(what, array) for what, value in split.arrays().items() for array in named(value).values()]
        for what, array in arrays:
            if (bad := first_not_finite(array)) is not None:
                raise DataError(f"{where}: {what} of sample {bad} hold a number that is not finite; mend or drop it")
        if split.weight is not None and not (split.weight.min() >= 0 < split.weight.max()):
            raise DataError(
                f"{where}: weights must be at least 0, and some above; got {split.weight.min():g} to "
                f"{split.weight.max():g}"
            )
        labels = None if self.classes is None else split.labels()
        if labels is not None and (strange := labels[(labels < 0) & (labels != IGNORED)]).size:
            raise DataError(f"{where}: class {strange[0]}; classes count from 0, and {IGNORED} leaves a sample out")
        if labels is not None and self.classes is not None and labels.max() >= len(self.classes):
            raise DataError(
                f"{where}: class {labels.max()}, but the training data has only 0 to {len(self.classes) - 1}; "
                "every class must occur in the training data"
            )

    def to_json(self) -> dict[str, Any]:
        """A dict of plain numbers, strings and lists."""
        return {
            "format": FORMAT,
            "source": self.source,
            "input_shape": _plain(self.input_shape),
            "input_dtype": self.input_dtype,
            "scale": 1 / 255 if self.input_dtype == "uint8" else 1.0,
            "classes": self.classes,
            "vocabulary": None if self.vocabulary is None else self.vocabulary.to_json(),
            "series": None if self.series is None else self.series.to_json(),
            "transforms": [state_of(transform) for transform in self.transforms],
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Preprocessing:
        """What `to_json` gave; CheckpointError where it is damaged or of a later format."""
        if content.get("format") != FORMAT:
            raise CheckpointError(
                f"preprocessing.json: format {content.get('format')!r}, this version reads {FORMAT}; update gpubackprop"
            )
        try:
            shape, vocabulary, series = content["input_shape"], content.get("vocabulary"), content.get("series")
            return cls(
                content["source"],
                {k: tuple(v) for k, v in shape.items()} if isinstance(shape, dict) else tuple(shape),
                content["input_dtype"],
                content["classes"],
                [from_state(state) for state in content["transforms"]],
                None if vocabulary is None else Vocabulary.from_json(vocabulary),
                None if series is None else Series(**series),
            )
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"preprocessing.json: damaged ({error})") from error


def _plain(shape: Shape | dict[str, Shape]) -> Any:
    return {name: list(each) for name, each in shape.items()} if isinstance(shape, dict) else list(shape)


def first_not_finite(array: Array, at_once: int = 4096) -> int | None:
    """Index of the first sample of floats (N, ...) with a NaN or an infinity; read in pieces, as it may be on disk."""
    if array.dtype.kind != "f":
        return None
    for start in range(0, len(array), at_once):
        good = np.isfinite(array[start : start + at_once]).reshape(len(array[start : start + at_once]), -1).all(axis=1)
        if not good.all():
            return start + int(good.argmin())
    return None
