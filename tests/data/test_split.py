from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpubackprop.data.source import Split
from gpubackprop.data.split import hold_out, permutation
from gpubackprop.errors import DataError


def labelled(labels: np.ndarray) -> Split:
    return Split(np.arange(len(labels)), labels)


def test_permutation_holds_every_sample_once_and_depends_on_all_its_arguments():
    first = permutation(1000, 3, "a", 5)
    np.testing.assert_array_equal(np.sort(first), np.arange(1000))
    np.testing.assert_array_equal(first, permutation(1000, 3, "a", 5))
    for other in (permutation(1000, 4, "a", 5), permutation(1000, 3, "b", 5), permutation(1000, 3, "a", 6)):
        assert (other != first).mean() > 0.9


def test_permutation_never_changes():
    # a saved run resumes with another NumPy on another machine: the order is part of the format
    np.testing.assert_array_equal(permutation(8, 0, "data.order"), [3, 6, 2, 4, 1, 0, 5, 7])


def test_permutation_is_uniform():
    places = np.array([permutation(5, seed, "a")[0] for seed in range(2000)])
    np.testing.assert_allclose(np.bincount(places), 400, atol=80)


@given(st.integers(2, 300), st.floats(0.01, 0.9), st.integers(0, 2**40))
def test_hold_out_divides_without_loss_or_overlap(count: int, share: float, seed: int):
    split = Split(np.arange(count), np.zeros(count))
    wanted = int(np.ceil(round(share * count, 6)))
    if wanted >= count:
        with pytest.raises(DataError, match="leaves none to train on"):
            hold_out(split, share, seed, "v")
        return
    kept, held = hold_out(split, share, seed, "v")
    assert len(held) == wanted
    np.testing.assert_array_equal(np.sort(np.concatenate([kept.rows, held.rows])), np.arange(count))


def test_hold_out_keeps_the_mix_of_classes():
    labels = np.repeat([0, 1, 2], [500, 300, 7])
    _, held = hold_out(labelled(labels), 0.1, 0, "v")
    np.testing.assert_array_equal(np.bincount(held.labels()), [50, 30, 1])


def test_hold_out_with_a_class_of_one_falls_back_to_a_plain_share():
    _, held = hold_out(labelled(np.array([0] * 9 + [1])), 0.5, 0, "v")
    assert len(held) == 5


def test_hold_out_of_a_subset_stays_within_it():
    subset = labelled(np.arange(100) % 4).subset(np.arange(50, 100))
    kept, held = hold_out(subset, 0.2, 1, "v")
    assert len(held) == 10
    assert min(kept.rows.min(), held.rows.min()) >= 50


def test_other_seeds_hold_out_other_samples():
    split = labelled(np.arange(100) % 2)
    assert set(hold_out(split, 0.2, 0, "v")[1].rows) != set(hold_out(split, 0.2, 1, "v")[1].rows)
