from __future__ import annotations

import threading
import time
import traceback
from pathlib import Path

import numpy as np
import pytest

from gpubackprop.data import Loader, Split, prefetch
from gpubackprop.data.transform import Cutout, Normalize, RandomCrop, RandomFlip
from gpubackprop.errors import DataError


def numbered(count: int) -> Split:
    """Sample i is the number i, its target too."""
    return Split(np.arange(count, dtype=np.float64)[:, None], np.arange(count, dtype=np.int32))


def epoch_of(loader: Loader, epoch: int = 0) -> np.ndarray:
    return np.concatenate([batch["targets"] for batch in loader.batches(epoch)])


@pytest.mark.parametrize(("drop_last", "sizes"), [(False, [4, 4, 2]), (True, [4, 4])])
def test_batches_of_an_epoch(drop_last: bool, sizes: list[int]):
    loader = Loader(numbered(10), 4, drop_last=drop_last)
    assert [len(batch["targets"]) for batch in loader.batches()] == sizes
    assert len(loader) == len(sizes)
    assert loader.samples == sum(sizes)
    np.testing.assert_array_equal(epoch_of(loader), np.arange(sum(sizes)))


def test_shuffling_sees_every_sample_once_and_differs_by_epoch_and_seed():
    loader = Loader(numbered(50), 8, seed=1, shuffle=True)
    first, second = epoch_of(loader, 0), epoch_of(loader, 1)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    assert (first != second).any()
    assert (first != epoch_of(Loader(numbered(50), 8, seed=2, shuffle=True), 0)).any()
    np.testing.assert_array_equal(first, epoch_of(loader, 0))


def test_inputs_and_targets_stay_together():
    for batch in Loader(numbered(50), 8, shuffle=True).batches():
        np.testing.assert_array_equal(batch["inputs"][:, 0], batch["targets"])


def test_resuming_in_the_middle_of_an_epoch_needs_only_the_step():
    def loader() -> Loader:
        images = np.random.default_rng(0).integers(0, 256, (50, 6, 6, 1), np.uint8)
        augment = [RandomFlip(), RandomCrop(1), Cutout(2)]
        return Loader(Split(images, np.arange(50)), 8, seed=3, augment=augment, shuffle=True)

    uninterrupted = [loader().batch(*divmod(step, 7)) for step in range(20)]
    resumed = loader()
    for step in (19, 3, 12):
        for name, array in resumed.batch(*divmod(step, 7)).items():
            np.testing.assert_array_equal(array, uninterrupted[step][name])


def test_a_sample_is_augmented_alike_whatever_the_batch_size():
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 1), np.uint8)
    seen = []
    for size in (4, 30):
        loader = Loader(Split(images, np.arange(30)), size, augment=[RandomFlip(), RandomCrop(2)], shuffle=True)
        seen.append(np.concatenate([batch["inputs"] for batch in loader.batches()]))
    np.testing.assert_array_equal(*seen)


def test_a_sample_looks_different_in_another_epoch():
    images = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 1), np.uint8)
    loader = Loader(Split(images, np.arange(30)), 30, augment=[RandomCrop(2)])
    first, second = (loader.batch(epoch, 0)["inputs"] for epoch in (0, 1))
    assert (first != second).any(axis=(1, 2, 3)).mean() > 0.8


def test_two_augmentations_of_one_kind_draw_independently():
    images = np.random.default_rng(0).random((64, 4, 4, 1))
    loader = Loader(Split(images, np.arange(64)), 64, augment=[RandomFlip(), RandomFlip()], dtype=np.float64)
    assert 0 < (loader.batch(0, 0)["inputs"] != images).any(axis=(1, 2, 3)).sum() < 64


def test_scaled_then_augmented_then_normalised():
    split = Split(np.full((20, 8, 8, 1), 255, np.uint8), np.zeros(20, np.uint8))
    inputs = Loader(split, 20, transforms=[Normalize(0.5, 0.25)], augment=[Cutout(4)]).batch(0, 0)["inputs"]
    assert set(np.unique(inputs)) == {-2.0, 2.0}  # black and white, normalised


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("stored", "target", "input_kind", "target_kind"),
    [
        ("uint8", "uint8", "f", "i"),
        ("float64", "float64", "f", "f"),
        ("float32", "bool", "f", "f"),
        ("int32", "int16", "i", "i"),
    ],
)
def test_dtypes(dtype, stored, target, input_kind, target_kind):
    split = Split(np.zeros((4, 3), stored), np.zeros(4, target))
    batch = Loader(split, 4, dtype=dtype).batch(0, 0)
    assert batch["inputs"].dtype == (dtype if input_kind == "f" else np.int64)
    assert batch["targets"].dtype == (dtype if target_kind == "f" else np.int64)
    assert batch["inputs"].flags.c_contiguous


def test_masks_weights_and_several_inputs_are_taken_alike():
    n = np.arange(10)
    split = Split(
        {"a": n[:, None].astype(np.int32), "b": n[:, None, None] / 2},
        {"c": n, "d": n[:, None] / 4},
        mask={"a": n[:, None] > 4, "b": n[:, None] > 5},
        weight=n / 8,
    )
    loader = Loader(split, 4, shuffle=True)
    batch = loader.batch(1, 1)
    rows = loader.order(1)[4:8]
    np.testing.assert_array_equal(batch["inputs"]["a"], rows[:, None])
    np.testing.assert_array_equal(batch["inputs"]["b"], rows[:, None, None] / 2)
    np.testing.assert_array_equal(batch["targets"]["c"], rows)
    np.testing.assert_array_equal(batch["targets"]["d"], rows[:, None] / 4)
    np.testing.assert_array_equal(batch["mask"]["a"], rows[:, None] > 4)
    np.testing.assert_array_equal(batch["mask"]["b"], rows[:, None] > 5)
    np.testing.assert_array_equal(batch["weight"], (rows / 8).astype(np.float32))
    assert batch["inputs"]["a"].dtype == batch["targets"]["c"].dtype == np.int64
    assert batch["inputs"]["b"].dtype == batch["targets"]["d"].dtype == batch["weight"].dtype == np.float32
    assert batch["mask"]["a"].dtype == bool


def test_arrays_of_a_split_must_have_one_length():
    with pytest.raises(DataError, match="4 inputs but 3 targets 'd'"):
        Split(np.zeros(4), {"c": np.zeros(4), "d": np.zeros(3)})
    with pytest.raises(DataError, match="4 inputs but 5 mask"):
        Split(np.zeros((4, 2)), np.zeros(4), mask=np.zeros((5, 2), bool))


@pytest.mark.parametrize(("count", "size"), [(12, 3), (13, 3), (2, 3), (7, 1)])
def test_contiguous_samples_go_on_row_by_row(count: int, size: int):
    split = Split(np.arange(count)[:, None], np.arange(count), contiguous=True)
    loader = Loader(split, size, shuffle=True, seed=5)
    batches = [batch["targets"] for batch in loader.batches(3)]
    assert sorted(np.concatenate(batches)) == list(range(count))
    whole = np.array([batch for batch in batches if len(batch) == size])
    assert len(whole) == count // size
    assert (np.diff(whole, axis=0) == 1).all()


def test_micro_batches_of_contiguous_samples_are_rows_of_the_large_batch():
    split = Split(np.arange(26)[:, None], np.arange(26), contiguous=True)
    micro = [batch["targets"] for batch in Loader(split, 2, accumulate=3).batches(0)]
    large = [batch["targets"] for batch in Loader(split, 6).batches(0)]
    for step, batch in enumerate(large):
        np.testing.assert_array_equal(np.concatenate(micro[3 * step : 3 * step + 3]), batch)
    assert (micro[3] - micro[0] == 1).all()  # each goes on where it was one step ago


def test_a_subset_of_overlapping_windows_copies_only_what_is_taken():
    windows = np.lib.stride_tricks.sliding_window_view(np.arange(2_000_000, dtype=np.int32), 100_000)
    batch = Loader(Split(windows, np.zeros(len(windows))), 2).batch(0, 5)  # 760 GB, if it were copied
    np.testing.assert_array_equal(batch["inputs"][:, 0], [10, 11])


def test_batches_never_share_memory_with_the_data():
    split = numbered(8)
    loader = Loader(split, 8, dtype=np.float64, transforms=[Normalize(1.0, 2.0)])
    batch = loader.batch(0, 0)
    batch["inputs"][:] = 99
    batch["targets"][:] = 99
    np.testing.assert_array_equal(split.inputs[:, 0], np.arange(8))
    np.testing.assert_array_equal(split.targets, np.arange(8))


def test_a_memory_mapped_set_gives_the_same_batches(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (40, 5, 5, 1), np.uint8)
    np.save(tmp_path / "x.npy", images)
    mapped = Split(np.load(tmp_path / "x.npy", mmap_mode="r"), np.arange(40))
    in_memory = Split(images, np.arange(40))
    for a, b in zip(
        Loader(mapped, 7, shuffle=True).batches(2), Loader(in_memory, 7, shuffle=True).batches(2), strict=True
    ):
        np.testing.assert_array_equal(a["inputs"], b["inputs"])
        np.testing.assert_array_equal(a["targets"], b["targets"])


def test_empty_and_dropped_splits_are_errors():
    with pytest.raises(DataError, match="no samples"):
        Loader(numbered(0), 4)
    with pytest.raises(DataError, match="3 samples are less than one batch of 4"):
        Loader(numbered(3), 4, drop_last=True)


def test_no_batch_beyond_the_epoch():
    with pytest.raises(IndexError, match="batch 3 of an epoch of 3"):
        Loader(numbered(10), 4).batch(0, 3)


class TestPrefetch:
    @pytest.mark.parametrize("depth", [0, 1, 2, 50])
    def test_everything_in_order(self, depth: int):
        assert list(prefetch(lambda i: i * i, 10, depth)) == [i * i for i in range(10)]
        assert list(prefetch(lambda i: i, 0, depth)) == []

    def test_depth_0_uses_no_thread(self):
        assert set(prefetch(lambda _: threading.current_thread(), 3, 0)) == {threading.current_thread()}

    def test_one_other_thread(self):
        threads = set(prefetch(lambda _: threading.current_thread(), 5, 2))
        assert len(threads) == 1
        assert threads != {threading.current_thread()}

    def test_depth_batches_are_ahead_while_the_consumer_works_and_no_more(self):
        produced: list[int] = []
        third = threading.Event()

        def produce(index: int) -> int:
            produced.append(index)
            if index == 3:
                third.set()
            return index

        batches = prefetch(produce, 100, 3)
        assert next(batches) == 0
        assert third.wait(timeout=10)
        time.sleep(0.05)
        assert produced == [0, 1, 2, 3]
        batches.close()

    @pytest.mark.parametrize("depth", [0, 2])
    def test_an_error_surfaces_with_its_own_traceback(self, depth: int):
        def broken_produce(index: int) -> int:
            if index == 2:
                raise DataError("file is gone")
            return index

        batches = prefetch(broken_produce, 5, depth)
        assert [next(batches), next(batches)] == [0, 1]
        with pytest.raises(DataError, match="file is gone") as caught:
            next(batches)
        assert "broken_produce" in [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]

    def test_closing_early_never_hangs_and_ends_the_thread(self):
        before = set(threading.enumerate())

        def consume() -> None:
            batches = prefetch(lambda i: time.sleep(0.01), 10_000, 4)
            next(batches)
            batches.close()

        consumer = threading.Thread(target=consume, daemon=True)
        consumer.start()
        consumer.join(timeout=20)
        assert not consumer.is_alive()
        assert set(threading.enumerate()) <= before

    def test_an_error_of_the_consumer_ends_the_thread_too(self):
        before = set(threading.enumerate())

        def consume() -> None:
            for _ in prefetch(lambda i: i, 1000, 2):
                raise KeyError

        with pytest.raises(KeyError):
            consume()
        assert set(threading.enumerate()) <= before
