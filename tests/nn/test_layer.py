"""What all layers share: building, shapes, keys, the state dict."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import CheckpointError, DeviceError, ShapeError, UsageError
from gpubackprop.tape import Tape


def mlp():
    return nn.Sequential(nn.Linear(None, 8), nn.ReLU(), nn.Linear(None, 3))


class TestKeys:
    def test_parameterless_layers_take_an_index_too(self):
        assert list(mlp().build((5,)).state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]

    def test_names_take_the_place_of_the_index(self):
        model = nn.Sequential(nn.Linear(5, 3).named("head"), nn.Linear(3, 3)).build((5,))
        assert list(model.state_dict()) == ["head.weight", "head.bias", "1.weight", "1.bias"]

    def test_containers(self):
        model = nn.Sequential(
            nn.Sequential(nn.Linear(None, 4, bias=False)),
            nn.Residual([nn.Linear(None, 2, bias=False)], [nn.Linear(None, 2, bias=False)]),
            nn.Repeat(2, [nn.ReLU(), nn.Linear(None, 2, bias=False)]),
            nn.Parallel([[nn.Linear(None, 2, bias=False)], [nn.Tanh(), nn.Linear(None, 2, bias=False)]]),
        ).build((5,))
        assert list(model.state_dict()) == [
            "0.0.weight",
            "1.0.weight",
            "1.shortcut.0.weight",
            "2.0.1.weight",
            "2.1.1.weight",
            "3.0.0.weight",
            "3.1.1.weight",
        ]

    def test_shared_weights_appear_under_every_name_and_are_trained_under_the_first(self):
        shared = nn.Linear(5, 5, bias=False)
        model = nn.Sequential(shared, nn.ReLU(), shared).build((5,))
        assert list(model.state_dict()) == ["0.weight", "2.weight"]
        assert [s.name for s in model.parameters().segments] == ["0.weight"]


class TestStateDict:
    def test_there_and_back(self):
        a, b = mlp().build((5,), seed=1), mlp().build((5,), seed=2)
        x = np.ones((2, 5), np.float32)
        assert (a(x) != b(x)).any()
        b.load_state_dict(a.state_dict())
        np.testing.assert_array_equal(a(x), b(x))

    def test_holds_copies(self):
        model = mlp().build((5,))
        state = model.state_dict()
        state["0.weight"][...] = 7
        assert (model.state_dict()["0.weight"] != 7).all()
        model.load_state_dict(state)
        state["0.weight"][...] = 8
        assert (model.state_dict()["0.weight"] == 7).all()

    def test_casts(self):
        model = mlp().build((5,))
        model.load_state_dict({key: a.astype(np.float64) for key, a in model.state_dict().items()})
        assert {a.dtype for a in model.state_dict().values()} == {np.dtype(np.float32)}

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda d: d.pop("2.bias"), "missing 2.bias"),
            (lambda d: d.update(extra=np.zeros(1)), "unknown extra"),
            (lambda d: d.update({"0.weigth": d.pop("0.weight")}), "did you mean '0.weight'"),
            (lambda d: d.update({"2.bias": np.zeros(4)}), r"2.bias: shape \(4,\) does not fit the model's \(3,\)"),
        ],
    )
    def test_what_does_not_fit_is_named_and_nothing_changes(self, change, message):
        model = mlp().build((5,))
        before = model.state_dict()
        wrong = {key: a + 1 for key, a in before.items()}
        change(wrong)
        with pytest.raises(CheckpointError, match=message):
            model.load_state_dict(wrong)
        for key, a in model.state_dict().items():
            np.testing.assert_array_equal(a, before[key])


class TestBuild:
    def test_same_seed_same_weights_and_other_seed_other_weights(self):
        a, b, c = (mlp().build((5,), seed=seed).state_dict()["0.weight"] for seed in (1, 1, 2))
        np.testing.assert_array_equal(a, b)
        assert (a != c).all()

    def test_another_layer_in_front_of_the_name_changes_no_weights(self):
        a = nn.Sequential(nn.Linear(5, 3).named("head")).build((5,))
        b = nn.Sequential(nn.Tanh(), nn.Linear(5, 3).named("head")).build((5,))
        np.testing.assert_array_equal(a.state_dict()["head.weight"], b.state_dict()["head.weight"])

    def test_linear_starts_as_pytorchs_does(self):
        state = nn.Linear(400, 300).build((400,)).state_dict()
        for key in ("weight", "bias"):
            assert 0.98 / 20 < np.abs(state[key]).max() <= 1 / 20
            assert state[key].std() == pytest.approx(1 / 20 / np.sqrt(3), rel=0.1)

    def test_first_use_builds(self):
        model = mlp()
        y = model(np.ones((2, 5)))
        assert y.shape == (2, 3)
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, mlp().build((5,), seed=0)(np.ones((2, 5))))

    @pytest.mark.parametrize("precision", ["float32", "float64"])
    def test_precision(self, precision):
        model = mlp().build((5,), precision=precision)
        assert model(np.ones((2, 5), np.float32)).dtype == precision
        assert model.state_dict()["0.weight"].dtype == precision

    def test_unknown_precision(self):
        with pytest.raises(UsageError, match="unknown precision 'half'; known: float64, float32, tf32"):
            mlp().build((5,), precision="half")

    def test_a_size_that_nothing_tells(self):
        with pytest.raises(ShapeError, match="in_features is not known; give it, or build with input_shape"):
            mlp().build()

    def test_rebuilding_for_another_input_is_an_error(self):
        with pytest.raises(ShapeError, match="layer 0: in_features is 5, but the input has 6"):
            mlp().build((5,)).build((6,))

    def test_no_gpu_no_model(self):
        if choose("auto")[0].name == "cupy":
            pytest.skip("this machine has a GPU")
        with pytest.raises(DeviceError):
            mlp().build((5,), device="cuda")

    def test_memory_is_one_aligned_buffer(self):
        parameters = mlp().build((5,)).parameters()
        assert parameters.count == 5 * 8 + 8 + 8 * 3 + 3
        for segment in parameters.segments:
            assert segment.start % parameters.ALIGN == 0
            assert np.shares_memory(segment.param.value, parameters.value)


class TestStrictDevice:
    """The whole way through a model on the test device, as a GPU would see it."""

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(None, 6), nn.GELU(), nn.Dropout(0.3), nn.Linear(None, 3))

    def test_equals_numpy_in_training_and_inference(self):
        rng = np.random.default_rng(0)
        x, target = rng.normal(size=(4, 2, 3, 2)).astype(np.float32), np.array([0, 1, 2, 1])
        found = []
        for device in ("cpu", "strict"):
            model = self.model().build((2, 3, 2), device=device, kernels="reference")
            loss = nn.CrossEntropyLoss(label_smoothing=0.1)
            b = model.built.backend
            arrays = b.from_host(x), b.from_host(target), b.from_host(np.arange(4)), b.from_host(np.array(5))

            def step(x, target, samples, number, model=model, loss=loss, b=b):
                tape = Tape(b, training=True, recording=True, samples=samples, step=number)
                total, _ = loss.forward(model.forward(tape.input(x)), target)
                tape.backward(total)
                return total.value

            value = b.to_host(b.capture(step)(*arrays))
            found.append((value, b.to_host(model.parameters().grad), model(x)))
        for a, b in zip(*found, strict=True):
            np.testing.assert_array_equal(a, b)


class TestShapeMistakes:
    @pytest.mark.parametrize(
        ("model", "shape", "message"),
        [
            (lambda: nn.Reshape([5]), (4,), r"\(4,\) holds 4 numbers, which cannot take the shape \(5,\)"),
            (lambda: nn.Reshape([3, -1]), (4,), "cannot take the shape"),
            (lambda: nn.Softmax(0), (4,), r"dim 0 is no axis of a sample .* allowed: 1 to 1 or -1 to -1"),
            (lambda: nn.Softmax(-3), (4, 2), "dim -3 is no axis"),
            (lambda: nn.PadChannels(8), (4, 2), r"needs images \(H, W, C\), got \(4, 2\)"),
            (lambda: nn.PadChannels(2), (4, 4, 3), "out_channels is 2, but the input has 3"),
            (lambda: nn.Residual([nn.Linear(None, 4)]), (5,), r"the layers give \(4,\), but the shortcut \(5,\)"),
            (lambda: nn.Parallel([[nn.Linear(None, 4)], []], "add"), (5,), "are added, so must agree"),
            (lambda: nn.Add("x"), (5,), "nothing was saved as 'x' before; saved: nothing"),
            (lambda: nn.BatchNorm(), (), r"batch_norm needs \(\.\.\., C\), got single numbers"),
            (lambda: nn.Sequential(nn.Save("x"), nn.Concat("x")), (), "single numbers have no axis"),
        ],
    )
    def test_are_found_before_any_work(self, model, shape, message):
        with pytest.raises(ShapeError, match=message):
            nn.Sequential(nn.ReLU(), model()).build(shape)

    def test_say_where(self):
        model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Linear(4, 2).named("head")))
        with pytest.raises(ShapeError, match=r"layer 1\.head: in_features is 4, but the input has 5"):
            model.build((5,))

    def test_no_branches(self):
        with pytest.raises(UsageError, match="branches is empty"):
            nn.Parallel([])

    def test_two_layers_of_one_name(self):
        with pytest.raises(UsageError, match="share a name: the keys are a"):
            nn.Sequential(nn.ReLU().named("a"), nn.Linear(3, 3).named("a")).build((3,))

    def test_reshape_options(self):
        for wrong in ([0], [-1, -1], [-2]):
            with pytest.raises(UsageError, match="sizes must be at least 1, and one of them may be -1"):
                nn.Reshape(wrong)


@pytest.mark.parametrize(
    ("shape", "message"), [((3, 5), "in_features is 4, but the input has 5"), ((4,), "one sample is x")]
)
def test_an_input_that_does_not_fit_is_named_with_its_layer(shape, message):
    model = nn.Sequential(nn.Tanh(), nn.Linear(4, 2))
    assert model(np.ones((3, 4))).shape == (3, 2)
    for _ in range(2):  # the shape that was refused is not remembered as a good one
        with pytest.raises(ShapeError, match=f"layer 1: .*{message}"):
            model(np.ones(shape))
