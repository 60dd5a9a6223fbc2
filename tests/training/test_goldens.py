"""Whole trainings against PyTorch: from the same weights on the same batches, at the configs' own learning rates.

In float64 twenty losses agree to 1e-8; in float32 only the first is compared, for there rounding grows so fast that
PyTorch's own two memory layouts part within a few steps of a ResNet (`python -m scripts.compare_torch` shows it).
Recorded goldens are functions of the starting weights and of the configs too: where those were changed on purpose and
the live comparison passes, record anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from tests.training.golden import GOLDENS, MODELS, STEPS, Golden, Training, read_recorded, start, summary, train

RECORDED = {model: read_recorded(model) for model in MODELS}

rows = pytest.mark.parametrize(
    "row",
    [pytest.param(row, id=str(row), marks=pytest.mark.slow if row.model == "resnet20" else ()) for row in GOLDENS],
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    # The matrices are small: more threads cost more than they bring, many times so where another process is busy.
    with threadpool_limits(1):
        yield


@pytest.fixture(scope="module")
def oracle() -> Iterator[Any]:
    torch = pytest.importorskip("torch", reason="needs PyTorch, the [oracle] extra")
    from tests.training import torch_training

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch_training
    torch.set_num_threads(threads)


@cache
def ours(row_number: int) -> Training:
    return train(GOLDENS[row_number])


def trained(row: Golden) -> Training:
    return ours(GOLDENS.index(row))


def recorded(row: Golden) -> dict[str, Any]:
    assert str(row) in RECORDED[row.model], "this row was not recorded; run `python -m scripts.record_goldens`"
    found: dict[str, Any] = RECORDED[row.model][str(row)]
    here = start(row)
    assert here == found["start"] | {"weights": pytest.approx(found["start"]["weights"], rel=1e-10)}, (
        "the config or the starting weights are others than those recorded; where that is meant, "
        "run `python -m scripts.record_goldens`"
    )
    return found


def assert_close(found: np.ndarray, wanted: np.ndarray, name: str) -> None:
    assert np.abs(found - wanted).max() <= 1e-8 * np.abs(wanted).max(), name


@pytest.mark.oracle
@rows
def test_twenty_losses_equal_pytorchs(oracle, row):
    found, wanted = trained(row), oracle.train(row)
    np.testing.assert_allclose(found.losses, wanted.losses, rtol=1e-8, atol=0)
    assert list(found.state) == list(wanted.state)
    for key, array in wanted.state.items():
        assert_close(found.state[key], array, key)


@rows
def test_twenty_losses_equal_the_recorded_ones(row):
    found, wanted = trained(row), recorded(row)
    np.testing.assert_allclose(found.losses, wanted["losses"], rtol=1e-8, atol=0)


@rows
def test_the_statistics_after_twenty_steps_equal_the_recorded_ones(row):
    found, wanted = trained(row).statistics, recorded(row)["statistics"]
    assert list(found) == list(wanted)
    for key, array in found.items():
        assert_close(summary(array), np.array(wanted[key]), key)
        if key.endswith("num_batches_tracked"):
            assert array == len(row.sizes) * STEPS


@pytest.mark.oracle
@rows
def test_the_first_loss_in_float32_equals_pytorchs(oracle, row):
    found, wanted = (side(row, "float32", steps=1).losses[0] for side in (train, oracle.train))
    assert found == pytest.approx(wanted, rel=1e-5)


@rows
def test_the_first_loss_in_float32_equals_the_recorded_one(row):
    assert train(row, "float32", steps=1).losses[0] == pytest.approx(recorded(row)["first_float32"], rel=1e-5)
