"""Every config trains on a GPU as on the CPU."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("pydantic", reason="configs are read by pydantic")
from tests.test_configs import CONFIGS, STEPS, train, written

pytestmark = pytest.mark.gpu
MANY = 20
each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("data"))


@each_config
def test_two_steps_in_float32(cuda, path, folder, monkeypatch):
    monkeypatch.setenv("GBP_DATA", str(folder))
    wanted, validation, _ = train(path, "cpu", precision="float32")
    losses, found, _ = train(path, "cuda", "auto", precision="float32")
    assert len(losses) == STEPS
    assert losses[0] == pytest.approx(wanted[0], rel=1e-5)
    assert losses == pytest.approx(wanted, rel=1e-3)  # after an update roundings differ
    assert found.keys() == validation.keys()


@each_config
def test_twenty_steps_in_float64(cuda, path, folder, monkeypatch):
    monkeypatch.setenv("GBP_DATA", str(folder))
    wanted, validation, weights = train(path, "cpu", steps=MANY, precision="float64")
    losses, found, ours = train(path, "cuda", "auto", steps=MANY, precision="float64")
    assert len(losses) == MANY
    np.testing.assert_allclose(losses, wanted, rtol=1e-8)
    for name, value in validation.items():
        assert found[name] == pytest.approx(value, rel=1e-6), name
    for name, value in weights.items():
        np.testing.assert_allclose(ours[name], value, rtol=1e-5, atol=1e-6, err_msg=name)
