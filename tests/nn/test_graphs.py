"""Models beyond chains: several inputs, several outputs, shared and tied layers, recomputation, masks."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gpubackprop as gbp
from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.nn.layer import Layer
from gpubackprop.ops.activation import tanh
from gpubackprop.ops.loss import mse
from gpubackprop.ops.shape import add
from gpubackprop.tape import Tape
from gpubackprop.training.evaluate import evaluate
from gpubackprop.training.step import TrainStep, value_and_grad


class Sum(nn.Loss):
    """The sum of squares of a head each."""

    def forward(self, output, target, weight=None, mask=None):
        (a, count), (b, _) = (mse(output[key], target[key], None, None) for key in ("left", "right"))
        return add(a, b), count

    def check(self, output_shape, target_shape, classes=None):
        pass


@pytest.fixture
def two_inputs():
    return gbp.build(
        [
            {"input": "left"},
            {"linear": 3},
            {"save": "l"},
            {"input": "right"},
            {"linear": 3},
            {"add": "l"},
            {"heads": {"branches": {"left": [{"linear": 4}], "right": [{"linear": 5}]}}},
        ],
        {"left": (4,), "right": (5,)},
        precision="float64",
    )


def draw_two(rng, count=6):
    return {"left": rng.normal(size=(count, 4)), "right": rng.normal(size=(count, 5))}


class TestSeveralInputsAndOutputs:
    def test_outputs_come_by_name(self, two_inputs, rng):
        x = draw_two(rng)
        weights = two_inputs.state_dict()
        hidden = sum(x[k] @ weights[f"{i}.weight"].T + weights[f"{i}.bias"] for k, i in (("left", 1), ("right", 4)))
        y = two_inputs(x)
        assert list(y) == ["left", "right"]
        np.testing.assert_allclose(y["right"], hidden @ weights["6.right.0.weight"].T + weights["6.right.0.bias"])

    def test_a_step_and_an_evaluation(self, two_inputs, rng):
        x = draw_two(rng)
        step = TrainStep(two_inputs, Sum(), gbp.optim.Adam(two_inputs.parameters(), lr=0.02))
        losses = [float(step(x, x)) for _ in range(200)]
        assert losses[-1] < 0.5 * losses[0]
        assert evaluate(two_inputs, Sum(), [], [{"inputs": x, "targets": x}])["loss"] == pytest.approx(
            float(step(x, x)), rel=1e-9
        )

    def test_accumulation_equals_the_large_batch(self, two_inputs, rng):
        x = draw_two(rng)
        _, whole = value_and_grad(two_inputs, Sum(), x, x)
        step = TrainStep(two_inputs, Sum(), gbp.optim.SGD(two_inputs.parameters(), lr=1.0))
        before = two_inputs.state_dict()
        step([{"inputs": p, "targets": p} for p in ({k: a[s] for k, a in x.items()} for s in (slice(2), slice(2, 6)))])
        for key, value in two_inputs.state_dict().items():
            np.testing.assert_allclose(before[key] - value, whole[key], atol=1e-12)

    def test_the_strict_device_agrees(self, rng):
        found = []
        for device in ("cpu", "strict"):
            model = gbp.build(
                [{"linear": 3}, {"heads": {"branches": {"left": [{"linear": 4}], "right": [{"linear": 5}]}}}],
                (5,),
                device=device,
                kernels="reference",
            )
            x = np.random.default_rng(0).normal(size=(6, 5))
            step = TrainStep(model, Sum(), gbp.optim.SGD(model.parameters(), lr=0.1))
            found.append([float(step(x, {"left": x[:, :4], "right": x})) for _ in range(3)])
        assert found[0] == found[1]

    def test_a_batch_whose_arrays_differ_in_length_is_refused(self, two_inputs, rng):
        x = draw_two(rng)
        with pytest.raises(UsageError, match=r"inputs\.right"):
            value_and_grad(two_inputs, Sum(), x | {"right": x["right"][:3]}, x)

    def test_nothing_follows_heads(self):
        with pytest.raises(ShapeError, match="end a model"):
            gbp.build([{"heads": {"branches": {"a": ["relu"]}}}, "relu"], (5,))

    @pytest.mark.parametrize(
        "around",
        [
            {"parallel": {"branches": [["HEADS"], ["relu"]]}},
            {"residual": ["HEADS"]},
            {"each": ["HEADS"]},
            {"heads": {"branches": {"b": ["HEADS"]}}},
            {"repeat": {"times": 1, "layers": ["HEADS"], "recompute": True}},
        ],
    )
    def test_heads_stand_in_no_branch_and_are_not_recomputed(self, around):
        config = json.dumps(around).replace('"HEADS"', '{"heads": {"branches": {"a": ["relu"]}}}')
        with pytest.raises(ShapeError, match=r"heads: they end a model|heads cannot be recomputed"):
            gbp.build([json.loads(config)], (4, 5))

    def test_an_unknown_input_names_what_there_is(self):
        with pytest.raises(ShapeError, match=r"'lefd'.*left, right.*did you mean 'left'"):
            gbp.build([{"input": "lefd"}], {"left": (4,), "right": (5,)})


class TestSharing:
    def test_one_layer_under_two_keys(self, rng):
        model = gbp.build([{"linear": {"out_features": 5, "name": "a"}}, "tanh", {"share": "a"}], (5,))
        assert list(model.state_dict()) == ["a.weight", "a.bias", "2.weight", "2.bias"]
        assert [segment.name for segment in model.parameters().segments] == ["a.weight", "a.bias"]

    def test_the_copies_of_a_repeat_share_within_themselves(self):
        block = [{"linear": {"out_features": 5, "bias": False, "name": "a"}}, {"share": "a"}]
        model = gbp.build([{"repeat": {"times": 2, "layers": block}}], (5,))
        assert [segment.name for segment in model.parameters().segments] == ["0.0.a.weight", "0.1.a.weight"]

    def test_another_input_size_is_refused(self):
        with pytest.raises(ShapeError, match="in_features is 5, but the input has 4"):
            gbp.build([{"linear": {"out_features": 4, "name": "a"}}, {"share": "a"}], (5,))

    def test_an_unknown_name(self):
        with pytest.raises(ShapeError, match="did you mean 'enc'"):
            gbp.build([{"linear": {"out_features": 5, "name": "enc"}}, {"share": "emc"}], (5,))


class TestRecompute:
    LAYERS = (
        {"linear": 6},
        {"save": "s"},
        {"sequential": {"layers": [{"linear": 6}, "batch_norm", {"dropout": 0.4}, {"add": "s"}], "recompute": True}},
        {"repeat": {"times": 2, "layers": [{"linear": 6}, {"dropout": 0.3}, "tanh"], "recompute": True}},
        {"linear": 3},
    )

    def train(self, layers, device="cpu"):
        rng = np.random.default_rng(3)
        model = gbp.build(layers, (5,), precision="float64", device=device)
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.Adam(model.parameters(), lr=0.05))
        x, target = rng.normal(size=(8, 5)), rng.integers(0, 3, 8)
        return [float(step(x, target)) for _ in range(4)], model.state_dict()

    def plain(self):
        def strip(value):
            if isinstance(value, dict):
                return {key: strip(below) for key, below in value.items() if key != "recompute"}
            return [strip(below) for below in value] if isinstance(value, list | tuple) else value

        return strip(self.LAYERS)

    def test_the_same_training(self):
        losses, weights = self.train(self.LAYERS)
        wanted, others = self.train(self.plain())
        assert losses == wanted
        for key, value in others.items():
            np.testing.assert_array_equal(weights[key], value, err_msg=key)

    def test_the_strict_device_agrees(self):
        wanted = pytest.approx(self.train(self.LAYERS)[0], rel=1e-12)  # on the CPU kernels may run
        assert self.train(self.LAYERS, "strict")[0] == wanted

    def test_fewer_entries_are_kept(self):
        kept = {}
        for name, layers in (("recompute", self.LAYERS), ("plain", self.plain())):
            model = gbp.build(layers, (5,))
            tape = Tape(model.built.backend, training=True, recording=True, samples=np.arange(2))
            model.forward(tape.input(np.ones((2, 5), np.float32)))
            kept[name] = len(tape.entries)
        assert kept["recompute"] == 5 < kept["plain"]  # linear, three recomputed pieces, linear

    def test_what_is_saved_inside_is_not_known_outside(self):
        inside = [{"linear": 5}, {"save": "s"}]
        with pytest.raises(ShapeError, match="nothing was saved as 's'"):
            gbp.build([{"sequential": {"layers": inside, "recompute": True}}, {"add": "s"}], (5,))

    def test_a_loss_of_its_own_is_refused(self):
        class Penalty(Layer):
            def forward(self, x):
                x.tape.add_loss(mse(x, np.zeros(x.shape), None, None)[0])
                return x

        model = nn.Sequential(nn.Linear(5, 5), Penalty(), recompute=True)
        with pytest.raises(UsageError, match="recompute"):
            value_and_grad(model, nn.MSELoss(), np.ones((2, 5)), np.ones((2, 5)))


class TestAuxiliaryLosses:
    class Penalty(Layer):
        """Adds half the squares of what goes through."""

        def forward(self, x):
            zeros = x.tape.backend.xp.zeros_like(x.value)
            x.tape.add_loss(mse(x, zeros, None, None)[0])
            return x

    def test_the_mean_per_sample_is_added(self, rng):
        x, target = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
        plain, penalised = nn.Sequential(nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 4), self.Penalty())
        for model in (plain, penalised):
            model.build((4,), precision="float64")
        loss, grads = value_and_grad(penalised, nn.CrossEntropyLoss(), x, target)
        own, own_grads = value_and_grad(plain, nn.CrossEntropyLoss(), x, target)
        y = plain(x)
        assert float(loss) == pytest.approx(float(own) + (y**2).sum() / 6)
        np.testing.assert_allclose(grads["0.weight"], own_grads["0.weight"] + 2 * y.T @ x / 6)
        found = evaluate(penalised, nn.CrossEntropyLoss(), [], [{"inputs": x, "targets": target}])
        assert found["loss"] == pytest.approx(float(loss))

    def test_accumulation_equals_the_large_batch(self, rng):
        x, target = rng.normal(size=(6, 4)), rng.integers(0, 4, 6)
        found = []
        for cuts in ([slice(6)], [slice(2), slice(2, 6)]):
            model = nn.Sequential(nn.Linear(4, 4), self.Penalty()).build((4,), precision="float64")
            step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
            found.append(float(step([{"inputs": x[cut], "targets": target[cut]} for cut in cuts])))
            found.append(model.state_dict()["0.weight"])
        assert found[0] == pytest.approx(found[2])
        np.testing.assert_allclose(found[1], found[3], rtol=1e-12)


class TestMasks:
    def tensor(self, shape, mask=True):
        lengths = np.arange(shape[1])[None] < np.array([[2], [4]])
        return Tape(choose("cpu")[0]).input(np.ones(shape), mask=lengths if mask else None)

    def test_travels_while_the_positions_stay(self):
        layers = nn.Sequential(nn.Linear(3, 5), nn.Tanh()).build((4, 3))
        x = self.tensor((2, 4, 3))
        y = layers.forward(x)
        assert y.mask is x.mask
        assert nn.Flatten().forward(y).mask is None

    def test_is_taken_from_whichever_input_has_one(self):
        x, y = self.tensor((2, 4, 3), mask=False), self.tensor((2, 4, 3))
        y.tape = x.tape
        assert add(x, y).mask is y.mask

    def test_masked_positions_count_neither_in_the_loss_nor_in_a_metric(self, rng):
        from gpubackprop.training.metric import Accuracy

        model = nn.Sequential(nn.Linear(3, 5)).build((4, 3), precision="float64")
        x, target = rng.normal(size=(2, 4, 3)), rng.integers(0, 5, (2, 4))
        mask = np.arange(4)[None] < np.array([[2], [4]])
        batch = {"inputs": x, "targets": target, "mask": mask}
        found = evaluate(model, nn.CrossEntropyLoss(), [Accuracy()], [batch])
        batch["targets"] = np.where(mask, target, -100)
        del batch["mask"]
        assert evaluate(model, nn.CrossEntropyLoss(), [Accuracy()], [batch]) == pytest.approx(found)

    def test_a_mask_of_the_inputs_alone_is_none_of_the_losss_business(self, rng):
        model = nn.Sequential(nn.Flatten(), nn.Linear(12, 5)).build((4, 3), precision="float64")
        x, target = rng.normal(size=(2, 4, 3)), rng.integers(0, 5, 2)
        step = TrainStep(model, nn.CrossEntropyLoss(), gbp.optim.SGD(model.parameters(), lr=0.1))
        assert np.isfinite(float(step({"inputs": x, "targets": target, "mask": np.ones((2, 4), bool)})))


class TestSymbols:
    class Lookup(Layer):
        """Integers come through as they are."""

        symbols = True

        def forward(self, x):
            assert x.value.dtype == np.int64
            return tanh(x.tape.input(x.value.astype(np.float64)))

    @pytest.mark.parametrize("dtype", [np.int16, np.int32, np.int64, np.uint16])
    def test_integers_stay_integers(self, dtype):
        model = nn.Sequential(self.Lookup())
        assert model(np.ones((2, 3), dtype)).shape == (2, 3)

    @pytest.mark.parametrize("dtype", [np.uint8, np.bool_, np.float32])
    def test_pixels_do_not(self, dtype):
        model = nn.Sequential(self.Lookup())
        with pytest.raises(AssertionError):
            model(np.ones((2, 3), dtype))

    def test_other_models_get_floats(self):
        assert nn.Sequential(nn.Linear(3, 2))(np.ones((2, 3), np.int64)).dtype == np.float32
