from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gpubackprop.tape import Tape
from scripts import vanishing_gradients as script

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_readme_shows_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    script.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert len(lines) == len(script.NETWORKS) + len(script.RECURRENT) + 4
    assert [line for line in lines if line not in README] == []


def test_plain_layers_vanish_and_residuals_do_not() -> None:
    plain, residual = (script.layer_norms(*script.NETWORKS[name]) for name in ("plain, PyTorch's start", "residual"))
    assert plain[0] < 1e-9 * plain[-1]
    assert residual[0] > residual[-1]


def test_the_state_gradient_is_the_slope_of_the_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an IRNN with states above zero, one step before the end: dL/dh = 2 (y − target) w."""
    monkeypatch.setattr(script, "SEQUENCES", 1)
    [found] = script.state_norms(script.RECURRENT["IRNN"], [1])
    model = script.nn.Sequential(script.RECURRENT["IRNN"](), script.nn.Linear(None, 1))
    x, target = script.adding_problem(np.random.default_rng(0), 1, 2)
    model.build(x.shape[1:], precision="float64")
    h = model.layers[0].forward(Tape(model.built.backend).input(x)).value[0, -1]
    [w] = model.state_dict()["1.weight"]
    error = h @ w + model.state_dict()["1.bias"] - target[0]
    assert found == pytest.approx(np.linalg.norm(2 * error * w * (h > 0)), rel=1e-9)


def test_adding_problem() -> None:
    x, target = script.adding_problem(np.random.default_rng(0), 5, 9)
    assert (x[..., 1].sum(axis=1) == 2).all()
    np.testing.assert_allclose(target[:, 0], (x[..., 0] * x[..., 1]).sum(axis=1))
