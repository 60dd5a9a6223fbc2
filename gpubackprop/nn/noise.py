"""Layers that add normal noise: functions of seed, step, sample and path, as dropout's masks are."""

from __future__ import annotations

from gpubackprop.backend.philox import stream_of
from gpubackprop.errors import ShapeError
from gpubackprop.nn.layer import Layer, Shape, layers
from gpubackprop.ops.noise import gaussian_noise, gaussian_sample, kl_standard_normal
from gpubackprop.registry import NonNegativeFloat
from gpubackprop.tape import Tensor


@layers.register("gaussian_noise")
class GaussianNoise(Layer):
    """In training, y = x + std ε with ε standard normal; in inference y = x."""

    streams = True

    def __init__(self, std: NonNegativeFloat = 0.1) -> None:
        self.std = std

    def forward(self, x: Tensor) -> Tensor:
        """(N, *shape) -> (N, *shape)."""
        if not (x.training and self.std):
            return x
        tape = x.tape
        stream = stream_of(self.path, tape.call_number(self.path))
        y: Tensor = gaussian_noise(x, tape.samples, tape.step, std=self.std, seed=tape.seed, stream=stream)
        return y


@layers.register("gaussian_latent")
class GaussianLatent(Layer):
    """The latent variable of a variational autoencoder: (..., 2D) = [mean, logvar] -> (..., D); Kingma, Welling 2014.

    In training a draw mean + exp(logvar / 2) ε, in inference the mean. The Kullback-Leibler divergence from the
    standard normal distribution, summed over the latent's values, joins the objective: its mean per sample, times beta
    (Higgins et al. 2017). Where the loss is a mean over P pixels, beta 1 / P with bce_with_logits, or 2 / P with mse
    (unit variance), gives the evidence lower bound over P.
    """

    streams = True

    def __init__(self, beta: NonNegativeFloat = 1.0) -> None:
        self.beta = beta

    def output_shape(self, shape: Shape) -> Shape:
        """The last axis halved."""
        if not shape or shape[-1] % 2:
            raise ShapeError(f"needs (..., 2D), means and log-variances, got samples of shape {shape}")
        return (*shape[:-1], shape[-1] // 2)

    def forward(self, x: Tensor) -> Tensor:
        """(N, ..., 2D) -> (N, ..., D)."""
        tape = x.tape
        if self.beta:
            tape.add_loss(kl_standard_normal(x, x.mask, scale=self.beta))
        z: Tensor
        if x.training:
            stream = stream_of(self.path, tape.call_number(self.path))
            z = gaussian_sample(x, tape.samples, tape.step, seed=tape.seed, stream=stream)
        else:
            z = gaussian_sample(x, None, None)
        return z
