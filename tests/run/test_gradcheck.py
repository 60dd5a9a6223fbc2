"""gradcheck of configs and runs, and of plugins before they are trained with."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop.diagnose.gradcheck import check_model
from gpubackprop.errors import CheckpointError, ConfigError
from gpubackprop.registry import Registry
from gpubackprop.run.check import make_plan
from gpubackprop.run.gradcheck import check_before, gradcheck
from tests.run import toy

PLUGIN = """
from gpubackprop.nn import Layer, MSELoss, layers, losses
from gpubackprop.tape import Op

cube = Op(lambda b, x: (x**3, x), lambda b, x, dy, slots: ({factor} * x * x * dy,))


@layers.register("test_cube")
class Cube(Layer):
    def forward(self, x):
        return cube(x)


@losses.register("test_cubed")
class Cubed(MSELoss):
    def forward(self, output, target, weight=None, mask=None):
        total, count = super().forward(output, target, weight, mask)
        return cube(total), count
"""
MODEL = ["flatten", {"linear": 4}, {"residual": {"layers": ["test_cube"]}}, {"linear": 3}]


@pytest.fixture
def written(tmp_path, monkeypatch):
    """written(factor, …): a config with a plugin whose gradient is `factor` x² dy; right is 3."""
    for registry in Registry.by_base.values():  # what the plugin registers is of this test alone
        monkeypatch.setattr(registry, "_classes", dict(registry._classes))

    def write(factor, **changes):
        folder = tmp_path / f"factor{factor}"
        folder.mkdir()
        (folder / "mine.py").write_text(PLUGIN.format(factor=factor))
        return toy.write_config(folder, **({"plugins": ["mine.py"], "model": MODEL} | changes))

    return write


def line_of(path, word):
    lines = path.read_text().splitlines()
    return next(number for number, line in enumerate(lines, 1) if word in line)


def test_a_config(data):
    found = gradcheck_of(toy.config(data, model=toy.CNN), data)
    assert all(finding.passed for finding in found.values())
    assert [finding.kind for finding in found.values()][:3] == ["conv2d", "batch_norm", "relu"]
    assert found["0"].shape == (4, 6, 6, 1)


def gradcheck_of(config, data, **options):
    path = data.parent / "gradcheck.yaml"
    path.write_text(json.dumps(config))
    return {finding.path: finding for finding in gradcheck(path, **options)}


def test_how_many_samples_and_what_is_set(data):
    found = gradcheck_of(toy.config(data), data, samples=2, overrides=["model.1.linear.out_features=5"])
    assert found["3"].shape == (2, 5)


def test_a_run_is_checked_with_its_own_weights_in_float64(finished, monkeypatch):
    seen = []

    def look(model, *arguments, **options):
        seen.append(model.state_dict())
        return check_model(model, *arguments, **options)

    monkeypatch.setattr("gpubackprop.run.gradcheck.check_model", look)
    assert all(finding.passed for finding in gradcheck(finished.directory))
    wanted = finished.model.state_dict()
    assert {*seen[0]} == {*wanted}
    for key, array in seen[0].items():
        assert array.dtype == np.float64
        np.testing.assert_array_equal(array, wanted[key])


def test_a_run_without_a_checkpoint(finished, tmp_path):
    for name in ("config.resolved.yaml", "preprocessing.json"):
        (tmp_path / name).write_bytes((finished.directory / name).read_bytes())
    with pytest.raises(CheckpointError):
        gradcheck(tmp_path)


class TestPlugins:
    def test_a_right_one_is_trained_with_and_the_log_says_so(self, written, tmp_path):
        run = gbp.train(written(3), run_dir=tmp_path / "run")
        log = (run.directory / "train.log").read_text()
        assert "backward passes of plugins agree with numerical gradients: 2.0 test_cube" in log

    @pytest.mark.parametrize("factor", [-3, 3.03, 0])
    def test_a_wrong_one_is_a_mistake_in_the_config_before_anything_is_written(self, written, tmp_path, factor):
        path = written(factor)
        # A device that is missing comes second.
        with pytest.raises(ConfigError) as error:
            gbp.train(path, {"device": "cuda:7"}, run_dir=tmp_path / "run")
        (problem,) = error.value.problems
        assert problem.where.startswith(f"{path}:{line_of(path, 'test_cube')}:")
        assert problem.key == "model.2.residual.layers.0.test_cube"
        assert problem.message.startswith("its backward pass is wrong: dx differs from the numerical gradient by ")
        assert problem.message.endswith("; mend backward, or set training.check_plugins: false")
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("line", "what"),
        [
            ("def forward(self, x, y):", r"raises TypeError: .*missing 1 required positional argument: 'y'"),
            (
                "def forward(self, x):\n        np.power(x, 3)",
                r"raises OperatorError \(mine.py, line \d+\): numpy.power on a Tensor",
            ),
        ],
    )
    def test_a_broken_forward_pass_is_a_mistake_too(self, written, tmp_path, line, what):
        path = written(3)
        plugin = path.parent / "mine.py"
        plugin.write_text("import numpy as np\n" + plugin.read_text().replace("def forward(self, x):", line))
        for use in (lambda: gbp.train(path, run_dir=tmp_path / "run"), lambda: check_before(make_plan(path))):
            with pytest.raises(ConfigError, match=what) as error:
                use()
            (problem,) = error.value.problems
            assert problem.where.startswith(f"{path}:{line_of(path, 'test_cube')}:")
            assert problem.key == "model.2.residual.layers.0.test_cube"
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("factor", [3, -3])
    def test_validate_checks_plugins(self, written, factor):
        plan = make_plan(written(factor))
        if factor == 3:
            assert check_before(plan)[0].startswith("backward passes of plugins agree")
            return
        with pytest.raises(ConfigError, match="its backward pass is wrong"):
            check_before(plan)

    def test_the_check_can_be_turned_off(self, written, tmp_path):
        run = gbp.train(written(3.5), {"training.check_plugins": False, "training.epochs": 1}, run_dir=tmp_path / "run")
        assert "agree" not in (run.directory / "train.log").read_text()

    def test_a_run_whose_plugin_has_become_wrong_is_not_resumed(self, written, tmp_path):
        path = written(2)
        run = gbp.train(path, {"training.check_plugins": False, "training.epochs": 1}, run_dir=tmp_path / "run")
        with pytest.raises(ConfigError, match="its backward pass is wrong"):
            gbp.resume(run.directory, {"training.check_plugins": True, "training.epochs": 2})

    def test_a_wrong_loss(self, written, tmp_path):
        x = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
        path = written(1, model=[{"linear": 2}], loss="test_cubed", metrics=[])
        with pytest.raises(ConfigError, match=r"loss: its backward pass is wrong: doutput differs"):
            gbp.train(path, data={"train": (x, x[:, :2])}, run_dir=tmp_path / "run")

    def test_models_without_plugins_are_not_checked(self, data, tmp_path, monkeypatch):
        monkeypatch.setattr("gpubackprop.run.gradcheck.check_model", None)
        gbp.train(toy.config(data, training={"steps": 1}), run_dir=tmp_path / "run")
