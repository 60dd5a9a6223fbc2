from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.backend import choose
from gpubackprop.errors import ShapeError
from gpubackprop.optim import SGD
from gpubackprop.tape import Tape
from gpubackprop.training.step import TrainStep, value_and_grad


def run(layer, x, *, samples=None, training=True, **options):
    samples = np.arange(len(x)) if samples is None else samples
    tape = Tape(choose("cpu")[0], training=training, samples=samples, **options)
    return layer.forward(tape.input(x)).value


@pytest.mark.parametrize("make", [lambda: nn.GaussianNoise(0.5), lambda: nn.GaussianLatent(beta=0.0)])
class TestNoise:
    def test_it_depends_on_seed_step_sample_and_path_and_not_on_the_split(self, make):
        layer, x = nn.Sequential(make(), make()).build((8,)), np.zeros((8, 8), np.float32)
        first, second = layer.layers
        whole = run(first, x, step=3)
        parts = [run(first, x[s], step=3, samples=np.arange(8)[s]) for s in (slice(0, 3), slice(3, 8))]
        np.testing.assert_array_equal(np.concatenate(parts), whole)
        others = [run(first, x, step=4), run(first, x, step=3, seed=1), run(second, x, step=3)]
        others.append(run(first, x, step=3, samples=np.arange(8) + 8))
        for i, a in enumerate(others):
            assert all((a != b).all() for b in [whole, *others[:i]])
        np.testing.assert_array_equal(run(first, x, step=np.array(3)), whole)

    def test_the_noise_is_independent_between_samples_and_values(self, make):
        y = run(make().build((200,)), np.zeros((300, 200), np.float32))
        assert np.abs(np.corrcoef(y[:, :40].T) - np.eye(40)).max() < 0.3
        assert np.abs(np.corrcoef(y[:40]) - np.eye(40)).max() < 0.5


def test_gaussian_noise_has_the_standard_deviation():
    layer, x = nn.GaussianNoise(0.5).build((1000,)), np.ones((50, 1000), np.float32)
    y = run(layer, x)
    assert y.mean() == pytest.approx(1, abs=0.01)
    assert y.std() == pytest.approx(0.5, abs=0.01)
    np.testing.assert_array_equal(layer(x), x)


class TestGaussianLatent:
    X = np.concatenate([np.full((400, 50), 3.0), np.full((400, 50), np.log(4.0))], axis=1).astype(np.float32)

    def test_a_draw_has_mean_and_variance_of_the_input(self):
        z = run(nn.GaussianLatent(beta=0.0).build((100,)), self.X)
        assert z.shape == (400, 50)
        assert z.mean() == pytest.approx(3, abs=0.05)
        assert z.std() == pytest.approx(2, abs=0.05)

    def test_inference_gives_the_mean(self):
        np.testing.assert_array_equal(nn.GaussianLatent()(self.X), self.X[:, :50])

    def test_an_odd_number_of_features(self):
        with pytest.raises(ShapeError, match=r"means and log-variances, got samples of shape \(5,\)"):
            nn.GaussianLatent().build((5,))

    def test_the_divergence_joins_the_objective(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6, 4))
        mean, logvar = np.split(x, 2, axis=1)
        wanted = 0.3 * 0.5 * (mean**2 + np.exp(logvar) - 1 - logvar).sum()
        layer = nn.GaussianLatent(beta=0.3)
        for training in (True, False):
            tape = Tape(choose("cpu")[0], training=training, samples=np.arange(6))
            layer.forward(tape.input(x))
            assert [float(total.value) for total in tape.losses] == pytest.approx([wanted])

    def test_padding_has_no_divergence(self):
        x, mask = np.ones((2, 3, 4)), np.array([[True, True, False], [True, False, False]])
        tape = Tape(choose("cpu")[0])
        z = nn.GaussianLatent().forward(tape.input(x, mask=mask))
        assert tape.losses[0].value == pytest.approx(3 * 2 * 0.5 * (1 + np.e - 2))
        assert z.mask is mask

    def test_the_gradient_of_a_training_step_is_that_of_mean_loss_and_divergence(self):
        """An autoencoder of one linear layer: by finite differences of the objective, the noise held."""
        model = nn.Sequential(nn.Linear(3, 4), nn.GaussianLatent(beta=0.5), nn.Linear(2, 3))
        model.build((3,), seed=1, precision="float64")
        x = np.random.default_rng(0).normal(size=(5, 3))
        loss, grads = value_and_grad(model, nn.MSELoss(), x, x)
        weight = model.layers[0].weight.value
        for index in [(0, 1), (3, 2)]:
            weight[index] += 1e-6
            above = value_and_grad(model, nn.MSELoss(), x, x)[0]
            weight[index] -= 2e-6
            below = value_and_grad(model, nn.MSELoss(), x, x)[0]
            weight[index] += 1e-6
            assert (above - below) / 2e-6 == pytest.approx(grads["0.weight"][index], rel=1e-6)
        assert loss > 0

    def test_accumulation_equals_the_large_batch(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(6, 3)).astype(np.float32)
        found = []
        for parts in ([x], [x[:4], x[4:]]):
            model = nn.Sequential(nn.Linear(3, 4), nn.GaussianLatent(), nn.Linear(2, 3)).build((3,))
            step = TrainStep(model, nn.MSELoss(), SGD(model.parameters(), lr=0.1))
            loss = step([{"inputs": part, "targets": part} for part in parts])
            found.append([float(loss), *model.parameters().value])
        np.testing.assert_allclose(found[0], found[1], rtol=1e-5, atol=1e-7)
