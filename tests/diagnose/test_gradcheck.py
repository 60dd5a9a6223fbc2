"""gradcheck finds what is wrong, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.diagnose.gradcheck import check_model, is_plugin
from tests.diagnose import plugins
from tests.nn.specs import table
from tests.nn.test_layers import draw


def check(*layers, shape=(6,), loss=None, x=None, targets=None, **options):
    """Findings by path, of the layers with a random batch of 4 and 3 classes."""
    rng = np.random.default_rng(0)
    model = nn.Sequential(*layers).build(shape, seed=3, precision="float64")
    x = rng.normal(size=(4, *shape)) if x is None else x
    batch = {"inputs": x, "targets": rng.integers(0, 3, 4) if targets is None else targets}
    return {f.path: f for f in check_model(model, loss or nn.CrossEntropyLoss(), batch, **options)}


def test_right_layers_pass():
    found = check(
        nn.Conv2d(None, 4, 3, padding="same"),
        nn.BatchNorm(),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Residual([nn.Conv2d(None, 4, 1), nn.GroupNorm(2)]),
        nn.Dropout(0.4),
        nn.Flatten(),
        plugins.Sine(),
        plugins.TanhReLU(),
        nn.Linear(None, 3),
        shape=(4, 4, 2),
    )
    assert all(finding.passed for finding in found.values())
    assert [*found] == ["0", "1", "2", "3", "4.0", "4.1", "5", "6", "7", "8", "9", "loss", "model"]
    assert [*found["9"].errors] == ["x", "weight", "bias"]
    assert found["0"].shape == (4, 4, 4, 2)
    assert found["3"].verdict == "kink"  # behind a relu many a window is all zeros
    assert max(error for finding in found.values() for error in finding.errors.values()) <= 1e-5


@pytest.mark.slow
def test_every_layer_of_the_package_passes():
    for spec in table():
        layer, x, _ = draw(spec)
        model = nn.Sequential(layer).build(spec.shape, seed=1, precision="float64")
        batch = {"inputs": x, "targets": np.zeros(model(x).shape)}
        if x.ndim == 3:  # (N, T, D)
            batch["mask"] = np.arange(x.shape[1]) < np.array([[x.shape[1]], [1], [1], [2]])
        for finding in check_model(model, nn.MSELoss(), batch, with_loss=False, with_model=False):
            assert finding.verdict in ("ok", "kink", "constant"), (spec.name, finding)


@pytest.mark.parametrize(
    ("layer", "name", "least"),
    [
        (plugins.WrongSign, "dx", 0.5),
        (plugins.ForgottenFactor, "dx", 0.1),
        (plugins.OneWrongElement, "dx", 1e-3),
        (plugins.WrongFactor, "dscale", 1e-3),
        (plugins.Forgetful, "dscale", 0.99),
        (plugins.NotANumber, "dx", 1.0),
    ],
)
def test_wrong_gradients_are_found_and_nothing_else_is_blamed(layer, name, least):
    found = check(nn.Linear(None, 5), layer(), nn.Linear(None, 3))
    wrong = found["1"]
    assert wrong.verdict == "wrong"
    assert wrong.errors[name[1:]] > least
    assert wrong.reason.startswith(f"{name} differs from the numerical gradient by ")
    assert wrong.reason.count("differs") == 1
    assert [path for path, finding in found.items() if not finding.passed] == ["1", "model"]


def test_gradients_that_are_none():
    found = check(plugins.WrongShape(), nn.Linear(None, 3))
    assert found["0"].reason == "dx has shape (6,), but must have (4, 6)"
    found = check(plugins.Raising(), nn.Linear(None, 3))
    assert found["0"].reason.startswith("it raises IndexError: tuple index out of range")


def test_a_forward_pass_that_fails_is_not_the_backward_passs_fault():
    class Failing(nn.MSELoss):
        def forward(self, output, target, weight=None, mask=None):
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        check(nn.Linear(None, 3), loss=Failing())


def test_a_wrong_layer_behind_a_relu_is_wrong_in_spite_of_kinks():
    class Pool(nn.MaxPool2d):
        def forward(self, x):
            return plugins.WrongSign.op(super().forward(x), np.ones(2))

    found = check(nn.ReLU(), Pool(2), nn.Flatten(), nn.Linear(None, 3), shape=(4, 4, 2))
    assert found["1"].verdict == "wrong"


def test_kinks_everywhere_are_called_unclear():
    found = check(nn.Linear(None, 5), plugins.Steps(), nn.Linear(None, 3), with_model=False)
    assert found["1"].verdict == "unclear"
    assert found["1"].passed


def test_whole_numbers_have_no_gradient_and_padding_rows_none_either():
    x = np.array([[0, 1, 2, 0], [4, 4, 0, 0], [3, 1, 1, 2], [2, 0, 0, 0]])
    found = check(nn.Embedding(5, 4, padding_idx=0), nn.LayerNorm(), nn.Flatten(), nn.Linear(None, 3), shape=(4,), x=x)
    assert all(finding.passed for finding in found.values())
    assert [*found["0"].errors] == ["weight"]
    found = check(nn.OneHot(5), nn.Flatten(), nn.Linear(None, 3), shape=(4,), x=x)
    assert found["0"].verdict == "constant"


def test_masks_reach_the_layers():
    seen = []

    class Look(nn.Layer):
        def forward(self, x):
            seen.append(x.mask)
            return plugins.Sine.op(x, np.ones(4))

    rng = np.random.default_rng(0)
    model = nn.Sequential(Look(), nn.GroupNorm(2), nn.Linear(None, 3)).build((5, 4), precision="float64")
    mask = np.arange(5) < np.array([[5], [2], [1]])
    batch = {"inputs": rng.normal(size=(3, 5, 4)), "targets": rng.integers(0, 3, (3, 5)), "mask": mask}
    found = check_model(model, nn.CrossEntropyLoss(), batch)
    assert all(finding.verdict == "ok" for finding in found)
    assert len(seen) > 3
    assert all(each is mask for each in seen)


def test_what_a_layer_takes_from_elsewhere_is_checked_too():
    def block(op):
        layer = plugins.Block(plugins.TanhReLU())
        layer.forward = lambda x: op(layer.body.forward(x), x.tape.saved["early"])
        return layer

    from gpubackprop.ops.shape import add
    from gpubackprop.tape import Op

    half = Op(lambda b, x, y: (x + y, None), lambda b, saved, dy, slots: (dy, dy / 2))
    ghost = Op(lambda b, x, y: (x + 1, None), lambda b, saved, dy, slots: (dy, dy))
    for op, verdict in ((add, "ok"), (half, "wrong"), (ghost, "wrong")):
        found = check(nn.Save("early"), block(op), nn.Linear(None, 3))
        assert found["1"].verdict == verdict
        assert {*found["1"].errors} == {"x", "saved early", "body.0.weight", "body.0.bias"}


def test_a_wrong_layer_inside_another_is_named_itself():
    found = check(nn.Save("early"), plugins.Block(plugins.WrongSign()), nn.Linear(None, 3))
    assert found["1.body.1"].verdict == "wrong"
    assert (found["1"].verdict, found["1"].reason) == ("inner", "holds 1.body.1")


def test_dropout_inside_each_and_recomputed_layers():
    each = nn.Each([nn.Linear(None, 4), nn.Dropout(0.5), plugins.Sine()], recompute=True)
    found = check(each, nn.Flatten(), nn.Linear(None, 3), shape=(5, 4))
    assert all(finding.verdict == "ok" for finding in found.values())
    assert found["0.1"].shape == (20, 4)


@pytest.mark.parametrize(("factor", "verdict"), [(2, "ok"), (-2, "wrong")])
def test_a_layers_own_loss(factor, verdict):
    from gpubackprop.tape import Op

    square = Op(lambda b, x: ((x * x).sum(), x), lambda b, x, dy, slots: (factor * x * dy,))

    class Activity(nn.Layer):
        def forward(self, x):
            x.tape.add_loss(square(x))
            return x

    found = check(nn.Linear(None, 3), Activity())
    assert (found["1"].verdict, found["model"].verdict) == (verdict, verdict)


def test_a_users_own_container_is_checked_as_a_whole():
    class Mine(nn.Sequential):
        def through(self, x):
            return plugins.WrongSign.op(super().through(x), np.ones(3))

    found = check(Mine(nn.Linear(None, 3)))
    assert (found["0.0"].verdict, found["0"].verdict) == ("ok", "wrong")


def test_a_wrong_loss():
    class Loss(nn.MSELoss):
        def forward(self, output, target, weight=None, mask=None):
            total, weight = super().forward(output, target, weight, mask)
            return plugins.WrongSign.op(total, np.ones(())), weight

    found = check(nn.Linear(None, 3), loss=Loss(), targets=np.zeros((4, 3)))
    assert found["loss"].verdict == "wrong"
    assert found["0"].passed


def test_shared_weights_and_several_inputs_and_outputs():
    rng = np.random.default_rng(0)
    model = nn.Sequential(
        nn.Embedding(6, 4).named("table"),
        nn.Save("early"),
        nn.Input("b"),
        nn.Linear(None, 4),
        nn.Add("early"),
        nn.Heads({"words": [nn.TiedLinear("table")], "size": [nn.Flatten(), nn.Linear(None, 1)]}),
    ).build({"a": (3,), "b": (3, 2)}, precision="float64")

    class Both(nn.Loss):
        name = "both"
        words, size = nn.CrossEntropyLoss(), nn.MSELoss()

        def check_targets(self, target):
            pass

        def forward(self, output, target, weight=None, mask=None):
            from gpubackprop.ops.shape import add

            total, weight = self.words.forward(output["words"], target["words"])
            return add(total, self.size.forward(output["size"], target["size"])[0]), weight

    inputs = {"a": rng.integers(0, 6, (4, 3)), "b": rng.normal(size=(4, 3, 2))}
    targets = {"words": rng.integers(0, 6, (4, 3)), "size": rng.normal(size=(4, 1))}
    found = {f.path: f for f in check_model(model, Both(), {"inputs": inputs, "targets": targets})}
    assert all(finding.passed for finding in found.values()), found
    assert {*found["loss"].errors} == {"words", "size"}
    assert {*found["4"].errors} == {"x", "saved early"}


def test_weights_and_buffers_stay_and_layers_are_left_as_they_were():
    model = nn.Sequential(nn.Linear(None, 5), nn.BatchNorm(), plugins.WrongSign(), nn.Linear(None, 3))
    model.build((6,), precision="float64")
    before = model.state_dict()
    rng = np.random.default_rng(0)
    check_model(model, nn.CrossEntropyLoss(), {"inputs": rng.normal(size=(4, 6)), "targets": rng.integers(0, 3, 4)})
    for key, array in model.state_dict().items():
        np.testing.assert_array_equal(array, before[key])
    assert not model.parameters().grad.any()
    assert not any("forward" in vars(layer) for _, layer in model.walk())


def test_only_what_is_wanted_is_checked():
    found = check(
        nn.Linear(None, 5), plugins.Sine(), nn.Linear(None, 3), wanted=is_plugin, with_loss=False, with_model=False
    )
    assert [*found] == ["1"]
