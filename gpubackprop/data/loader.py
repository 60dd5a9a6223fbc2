"""Batches as a pure function of (seed, epoch, index), prepared ahead of the step in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from gpubackprop.data.source import Array, Rows, Split, Value, over
from gpubackprop.data.split import permutation
from gpubackprop.data.transform import Augmentation, Draw, Transform, as_input
from gpubackprop.errors import DataError

T = TypeVar("T")
Batch = dict[str, Value]


def batches_in(samples: int, batch_size: int, drop_last: bool = False) -> int:
    """How many batches an epoch of `samples` has; the last may be smaller, or is left out."""
    whole, rest = divmod(samples, batch_size)
    return whole + (rest > 0 and not drop_last)


class Loader:
    """The batches of one split.

    `batch(epoch, index)` depends on its arguments and the seed alone, so resuming in the middle of an epoch is
    `loader.batch(*divmod(step, len(loader)))`. Whole sets are never copied nor converted: only batches are.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int = 32,
        *,
        seed: int = 0,
        dtype: npt.DTypeLike = np.float32,
        transforms: Sequence[Transform] = (),
        augment: Sequence[Augmentation] = (),
        shuffle: bool = False,
        drop_last: bool = False,
        reconstruct: bool = False,
        accumulate: int = 1,
    ) -> None:
        if not len(split):
            raise DataError("a split has no samples")
        if drop_last and len(split) < batch_size:
            raise DataError(
                f"drop_last leaves nothing: {len(split)} samples are less than one batch of {batch_size}; "
                "lower batch_size or set drop_last: false"
            )
        self.split, self.batch_size, self.seed, self.dtype = split, batch_size, seed, np.dtype(dtype)
        self.transforms, self.augment = list(transforms), list(augment)
        self.shuffle, self.drop_last = shuffle, drop_last
        self.reconstruct = reconstruct  # the targets are the inputs, as the model gets them
        self.accumulate = accumulate  # batches that make one step, each of which hands on states of its own
        self._latest: tuple[int, Rows] | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return batches_in(len(self.split), self.batch_size, self.drop_last)

    @property
    def samples(self) -> int:
        """Samples in an epoch."""
        return min(len(self) * self.batch_size, len(self.split))

    def order(self, epoch: int) -> Rows:
        """The samples (N,) of the split in the order of this epoch."""
        latest = self._latest
        if latest is None or latest[0] != epoch:
            count = len(self.split)
            if self.split.contiguous:
                order = streams(count, self.batch_size * self.accumulate)
            else:
                order = permutation(count, self.seed, "data.order", epoch) if self.shuffle else np.arange(count)
            self._latest = latest = (epoch, order)
        return latest[1]

    def batch(self, epoch: int, index: int) -> Batch:
        """inputs (B, *input_shape), C-contiguous, targets (B, *target_shape), of batch `index` of this epoch; and mask,
        weight where the split has them. Several inputs or targets are dicts of such arrays.

        Inputs have the loader's dtype (int64 for words and symbols), integer targets int64, others the loader's dtype.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"batch {index} of an epoch of {len(self)}")
        samples = self.order(epoch)[index * self.batch_size : (index + 1) * self.batch_size]
        batch = self.split.take(samples)
        batch["inputs"] = over(lambda raw: self._input(raw, epoch, samples), batch["inputs"])
        if self.reconstruct:
            batch["targets"] = over(np.copy, batch["inputs"])
        elif "targets" in batch:
            batch["targets"] = over(self._number, batch["targets"])
        if "weight" in batch:
            batch["weight"] = over(self._number, batch["weight"])
        return batch

    def _input(self, raw: Array, epoch: int, samples: Rows) -> Array:
        inputs = as_input(raw, self.dtype)
        for position, augmentation in enumerate(self.augment):
            inputs = augmentation(inputs, Draw(self.seed, epoch, samples, f"data.augment.{position}"))
        for transform in self.transforms:
            inputs = transform(inputs)
        return np.ascontiguousarray(inputs)

    def _number(self, array: Array) -> Array:
        return array.astype(np.int64 if array.dtype.kind in "ui" else self.dtype, copy=False)

    def batches(self, epoch: int = 0, start: int = 0, depth: int = 2) -> Iterator[Batch]:
        """The batches of an epoch from `start` on, prepared ahead."""
        return prefetch(lambda index: self.batch(epoch, start + index), len(self) - start, depth)


def streams(count: int, batch_size: int) -> Rows:
    """Order of consecutive pieces (N,) in which row r of each whole batch goes on with the r-th stream.

    What does not fill the streams evenly comes last, as a smaller batch. Where several batches accumulate to one step,
    `batch_size` is that of the step: each micro-batch has rows of its own, as in the large batch.
    """
    length = count // batch_size
    even = np.arange(length * batch_size).reshape(batch_size, length).T
    return np.concatenate([even.reshape(-1), np.arange(even.size, count)])


def prefetch(produce: Callable[[int], T], count: int, depth: int = 2) -> Iterator[T]:
    """produce(0), …, produce(count - 1), up to `depth` of them prepared ahead in one thread; none with depth 0.

    What `produce` raises is raised here, with its own traceback. Closing the iterator early drops what was prepared.
    """
    if depth <= 0:
        yield from map(produce, range(count))
        return
    pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
    try:
        ahead = deque(pool.submit(produce, index) for index in range(min(depth, count)))
        for index in range(count):
            ready = ahead.popleft().result()
            if index + depth < count:
                ahead.append(pool.submit(produce, index + depth))
            yield ready
    finally:
        pool.shutdown(cancel_futures=True)
