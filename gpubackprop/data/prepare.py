"""From a source and its options to the loaders that training takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gpubackprop.data.loader import Loader
from gpubackprop.data.options import DataOptions
from gpubackprop.data.preprocessing import Preprocessing
from gpubackprop.data.source import Array, DataInfo, Source, Split, Splits, over, sources
from gpubackprop.data.split import held_out_count, hold_out
from gpubackprop.data.transform import Augmentation, Transform, as_input
from gpubackprop.errors import DataError

FIT_BATCH = 4096  #: samples at a time while a transform measures the training inputs


@dataclass(frozen=True)
class Data:
    """All that a run needs of its data."""

    info: DataInfo  #: with the counts of the splits as they are used
    train: Loader
    validation: Loader | None
    test: Loader | None
    preprocessing: Preprocessing


def check(source: Source, options: DataOptions) -> DataInfo:
    """What `prepare` will find, from headers alone; DataError or ShapeError for all that can be known to fail."""
    return _check(divided(source, options), options)


def divided(source: Source, options: DataOptions) -> Source:
    """The source, told to hold out its validation split itself where it does so: what it reads then is read once."""
    share = options.validation
    return source if isinstance(share, str) or not share else source.holding_out(share)


def _check(source: Source, options: DataOptions) -> DataInfo:
    info = source.info()
    counts = dict(info.counts)
    if "train" not in counts:
        raise DataError(f"{source.label}: no training samples here; found {', '.join(counts)}")
    if isinstance(options.validation, str):
        other = source.at(options.validation).info()
        _check_alike(info, other, options.validation)
        counts["validation"] = next(
            other.counts[name] for name in ("validation", "test", "train") if name in other.counts
        )
    elif options.validation and "validation" not in counts:
        counts["validation"] = held_out_count(counts["train"], options.validation)
        counts["train"] -= counts["validation"]
    if counts["train"] < 1:
        raise DataError(f"data.validation: a share of {options.validation} leaves no samples to train on; lower it")
    if options.drop_last and counts["train"] < options.batch_size:
        raise DataError(
            f"data.drop_last leaves nothing: {counts['train']} training samples are less than one batch of "
            f"{options.batch_size}; lower batch_size or set drop_last: false"
        )
    changes: list[Augmentation | Transform] = [*options.augment, *options.transforms]
    for change in changes:
        if isinstance(info.input_shape, dict):
            names = ", ".join(info.input_shape)
            raise DataError(f"data.transforms, data.augment: this data has several inputs ({names}); leave them out")
        if not info.float_inputs:
            raise DataError("data.transforms, data.augment: the inputs are numbers of tokens; leave them out")
        change.check(info.input_shape)
    if options.targets == "inputs":
        info = _reconstructing(info)
    order = [name for name in ("train", "validation", "test") if name in counts]
    return dataclasses.replace(info, counts={name: counts[name] for name in order})


def prepare(
    source: Source,
    options: DataOptions,
    *,
    seed: int = 0,
    dtype: npt.DTypeLike = np.float32,
    preprocessing: Preprocessing | None = None,
    accumulate: int = 1,
) -> Data:
    """Reads the source, holds out the validation samples and fits the transforms on the training samples.

    With the `preprocessing` of an earlier run its transforms are used as they were fitted then. The training loader
    shuffles by (seed, epoch); the others keep the order of the data. `accumulate` batches of it make one step.
    """
    source = divided(source if preprocessing is None else source.after(preprocessing), options)
    info = _check(source, options)
    splits = _with_validation(source, source.load(), options, seed)
    present = {name: split for name in info.counts if (split := getattr(splits, name)) is not None}
    info = dataclasses.replace(info, counts={name: len(split) for name, split in present.items()})
    if preprocessing is None:
        fitted = fit(options.transforms, splits.train, dtype)
        preprocessing = Preprocessing.of(sources.name_of(type(source)), info, fitted)
    reconstruct = options.targets == "inputs"
    for name, split in present.items():
        preprocessing.check(split, f"{name} split")
        shape = over(lambda array: tuple(array.shape[1:]), split.targets)
        if not reconstruct and shape != info.target_shape:
            raise DataError(
                f"{name} split: targets of shape {shape}; those of the training data have {info.target_shape}"
            )
    train = Loader(
        splits.train,
        options.batch_size,
        seed=seed,
        dtype=dtype,
        transforms=preprocessing.transforms,
        augment=options.augment,
        shuffle=options.shuffle,
        drop_last=options.drop_last,
        reconstruct=reconstruct,
        accumulate=accumulate,
    )
    validation, test = (
        None
        if split is None
        else Loader(
            split, options.batch_size, dtype=dtype, transforms=preprocessing.transforms, reconstruct=reconstruct
        )
        for split in (splits.validation, splits.test)
    )
    return Data(info, train, validation, test, preprocessing)


def fit(transforms: Sequence[Transform], train: Split, dtype: npt.DTypeLike = np.float32) -> list[Transform]:
    """The transforms, each fitted on the training inputs as those before it leave them."""
    fitted: list[Transform] = []
    for transform in transforms:
        fitted.append(transform.fit(_inputs(train, tuple(fitted), dtype)))
    return fitted


def _inputs(split: Split, transforms: tuple[Transform, ...], dtype: npt.DTypeLike) -> Iterator[Array]:
    for first in range(0, len(split), FIT_BATCH):
        found = split.take(np.arange(first, min(first + FIT_BATCH, len(split))))
        raw, mask = found["inputs"], found.get("mask")
        assert isinstance(raw, np.ndarray), "_check lets no transform near several inputs"
        inputs = as_input(raw, dtype)
        for transform in transforms:
            inputs = transform(inputs)
        # Padding is no data: what is measured is measured at real positions, (M, D) instead of (N, T, D).
        yield inputs[mask] if isinstance(mask, np.ndarray) else inputs


def _with_validation(source: Source, splits: Splits, options: DataOptions, seed: int) -> Splits:
    """A path goes before the source's own validation split, and that before a share."""
    if isinstance(options.validation, str):
        other = source.at(options.validation).samples("validation", "test", "train")
        return dataclasses.replace(splits, validation=other)
    if splits.validation is not None or not options.validation:
        return splits
    train, validation = hold_out(splits.train, options.validation, seed, "data.validation")
    return dataclasses.replace(splits, train=train, validation=validation)


def _reconstructing(info: DataInfo) -> DataInfo:
    """Of data whose targets are its inputs, as the model gets them."""
    if isinstance(info.input_shape, dict) or not info.float_inputs:
        raise DataError("data.targets: inputs needs a single input of numbers; leave it out")
    return dataclasses.replace(info, target_shape=info.input_shape, target_dtype="float32", classes=None)


def _check_alike(info: DataInfo, other: DataInfo, path: str) -> None:
    for what, mine, theirs in (
        ("inputs of shape", info.input_shape, other.input_shape),
        ("targets of shape", info.target_shape, other.target_shape),
    ):
        if mine != theirs:
            raise DataError(f"{path}: {what} {theirs}, but the training data has {mine}")
