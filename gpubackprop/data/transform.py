"""What happens to inputs between the file and the model: transforms for all splits, augmentations for training."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt

from gpubackprop.backend.philox import stream_of, uniform
from gpubackprop.data.source import Array, Rows
from gpubackprop.errors import DataError, ShapeError, UsageError
from gpubackprop.registry import Positive, Range, Registry

Probability = Annotated[float, Range(ge=0, le=1)]


def as_input(raw: Array, dtype: npt.DTypeLike) -> Array:
    """Stored inputs (N, …) as the model takes them, in a fresh array: uint8 becomes [0, 1], floats and bools `dtype`,
    other integers int64."""
    if raw.dtype == np.uint8:
        return np.divide(raw, 255, dtype=dtype)
    if raw.dtype.kind in "fb":
        return raw.astype(dtype)
    return raw.astype(np.int64)


class Transform:
    """A change to the inputs of every split, the same for every sample. May write into the batch it is given."""

    def __call__(self, inputs: Array) -> Array:
        """inputs (N, …) as `as_input` makes them -> (N, …)."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """ShapeError where samples of this shape cannot be taken."""

    def fit(self, batches: Iterable[Array]) -> Self:
        """This transform with what it needs to know from the training inputs, each batch (N, …)."""
        return self

    def options(self) -> dict[str, Any]:
        """The constructor's arguments that make this transform again, ready for JSON."""
        return {}


transforms: Registry[Transform] = Registry("transform", Transform)


def state_of(transform: Transform) -> dict[str, Any]:
    """A transform as JSON; `from_state` makes it again."""
    return {"type": transforms.name_of(type(transform)), **transform.options()}


def from_state(state: dict[str, Any]) -> Transform:
    """The transform that `state_of` described; UsageError for an unknown type."""
    options = dict(state)
    return transforms[options.pop("type")](**options)


@transforms.register("normalize")
class Normalize(Transform):
    """(x - mean) / std, for each channel (last axis) or one number for all.

    What is left out is measured once, per channel, on the training split without augmentation. A channel that never
    changes keeps the scale 1.
    """

    def __init__(self, mean: float | list[float] | None = None, std: float | list[float] | None = None) -> None:
        if std is not None and np.min(std, initial=np.inf) <= 0:
            raise UsageError(f"std must be greater than 0, got {std}")
        self.mean, self.std = mean, std

    def __call__(self, inputs: Array) -> Array:
        """inputs (N, …, C) -> (N, …, C), in place where they are floats."""
        if self.mean is None or self.std is None:
            raise UsageError("normalize has no mean and std yet; fit it on the training inputs first")
        x = np.ascontiguousarray(inputs if inputs.dtype.kind == "f" else inputs.astype(np.float32))
        rows = x.reshape(len(x), -1)
        rows -= _along(self.mean, rows)
        rows /= _along(self.std, rows)
        return x

    def check(self, shape: tuple[int, ...]) -> None:
        """Lists must have one number per channel."""
        channels = shape[-1] if shape else 1
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, list) and len(value) != channels:
                raise ShapeError(
                    f"normalize: {name} has {len(value)} numbers, the data has {channels} channels (shape {shape}); "
                    "give one number per channel, one for all, or leave it out"
                )

    def fit(self, batches: Iterable[Array]) -> Self:
        """Mean and standard deviation per channel, in float64 (Chan, Golub, LeVeque 1983)."""
        if self.mean is not None and self.std is not None:
            return self
        count, mean, squares = 0, np.zeros(1), np.zeros(1)
        for batch in batches:
            channels = batch.shape[-1] if batch.ndim > 1 else 1
            rows = batch.reshape(len(batch), -1)  # long inner loops instead of loops over three channels
            new = rows.size // channels
            batch_mean = rows.mean(axis=0, dtype=np.float64).reshape(-1, channels).mean(axis=0)
            deviation = rows - _along(batch_mean, rows)
            deviation *= deviation
            squares = squares + deviation.sum(axis=0, dtype=np.float64).reshape(-1, channels).sum(axis=0)
            squares = squares + (batch_mean - mean) ** 2 * (count * new / (count + new))
            mean = mean + (batch_mean - mean) * (new / (count + new))
            count += new
        if not count or not np.isfinite(squares).all():
            raise DataError("normalize: the training inputs hold NaN, infinity or nothing; clean the data first")
        std = np.sqrt(squares / count)
        std[std < 1e-12] = 1.0
        return type(self)(
            mean=mean.tolist() if self.mean is None else self.mean, std=std.tolist() if self.std is None else self.std
        )

    def options(self) -> dict[str, Any]:
        """Mean and standard deviation as numbers."""
        return {"mean": self.mean, "std": self.std}


def _along(value: float | Sequence[float], rows: Array) -> Array:
    """`value` per channel, repeated along rows (N, …·C): long inner loops instead of loops over three channels."""
    numbers = np.asarray(value, rows.dtype).reshape(-1)
    return numbers if len(numbers) == 1 else np.tile(numbers, rows.shape[1] // len(numbers))


@dataclass
class Draw:
    """Random numbers of one augmentation for the samples of a batch: a pure function of (seed, epoch, sample).

    So a sample looks the same in one epoch whatever the batch size, the order or the rank.
    """

    seed: int
    epoch: int
    samples: Rows  #: (N,) numbers of the samples within the split
    purpose: str
    calls: int = 0

    def uniform(self, count: int) -> npt.NDArray[np.float32]:
        """(N, count) in [0, 1), new ones at each call."""
        stream = stream_of(self.purpose, self.calls)
        self.calls += 1
        numbers: npt.NDArray[np.float32] = uniform(np, self.seed, stream, self.epoch, self.samples, count)
        return numbers

    def below(self, limit: int, count: int) -> Rows:
        """(N, count) whole numbers from 0 to limit - 1."""
        return (self.uniform(count) * np.float32(limit)).astype(np.int64)


class Augmentation:
    """A random change to training images, after uint8 became [0, 1] and before the transforms: 0 is black."""

    def __call__(self, images: Array, draw: Draw) -> Array:
        """images (N, H, W, C) float -> (N, H, W, C), possibly in place."""
        raise NotImplementedError

    def check(self, shape: tuple[int, ...]) -> None:
        """ShapeError where samples of this shape are no images."""
        if len(shape) != 3:
            name = augmentations.name_of(type(self))
            raise ShapeError(f"{name} is for images (H, W, C); samples of this data have shape {shape}")


augmentations: Registry[Augmentation] = Registry("augmentation", Augmentation)


@augmentations.register("random_flip")
class RandomFlip(Augmentation):
    """Mirrors left and right with probability `p`."""

    def __init__(self, p: Probability = 0.5) -> None:
        self.p = p

    def __call__(self, images: Array, draw: Draw) -> Array:
        """images (N, H, W, C) -> (N, H, W, C)."""
        flipped = np.flatnonzero(draw.uniform(1)[:, 0] < self.p)
        images[flipped] = images[flipped, :, ::-1]
        return images


@augmentations.register("random_crop")
class RandomCrop(Augmentation):
    """Pads by `padding` black pixels on each side and cuts the original size out at a random place."""

    def __init__(self, padding: Positive) -> None:
        self.padding = padding

    def __call__(self, images: Array, draw: Draw) -> Array:
        """images (N, H, W, C) -> (N, H, W, C)."""
        count, height, width, channels = images.shape
        p = self.padding
        padded = np.zeros((count, height + 2 * p, width + 2 * p, channels), images.dtype)
        padded[:, p : p + height, p : p + width] = images
        n, y, x, c = padded.strides
        places = np.lib.stride_tricks.as_strided(
            padded, (count, 2 * p + 1, 2 * p + 1, height, width * channels), (n, y, x, y, c), writeable=False
        )
        top, left = draw.below(2 * p + 1, 2).T
        cut: Array = places[np.arange(count), top, left].reshape(images.shape)
        return cut


@augmentations.register("cutout")
class Cutout(Augmentation):
    """Blackens a square of `size` pixels around a random pixel, cut off at the border (DeVries, Taylor 2017)."""

    def __init__(self, size: Positive) -> None:
        self.size = size

    def __call__(self, images: Array, draw: Draw) -> Array:
        """images (N, H, W, C) -> (N, H, W, C), in place."""
        _, height, width, channels = images.shape
        place = draw.uniform(2)
        rows = self._covered((place[:, :1] * np.float32(height)).astype(np.int64), height)
        columns = self._covered((place[:, 1:] * np.float32(width)).astype(np.int64), width)
        kept = ~(rows[:, :, None] & np.repeat(columns, channels, axis=1)[:, None, :])
        images *= kept.reshape(images.shape)  # several times as fast as assigning through the mask
        return images

    def _covered(self, centre: Rows, length: int) -> npt.NDArray[np.bool_]:
        first = centre - self.size // 2
        position = np.arange(length)
        return (position >= first) & (position < first + self.size)
