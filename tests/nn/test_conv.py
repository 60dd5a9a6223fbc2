"""What image layers say to inputs and options that do not fit."""

from __future__ import annotations

import numpy as np
import pytest

from gpubackprop import nn
from gpubackprop.errors import ShapeError, UsageError
from gpubackprop.tape import Tape


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (nn.Conv2d(None, 8, 3), (784,), r"conv2d needs images \(H, W, C\), got \(784,\); put reshape before it"),
        (nn.Conv2d(3, 8, 3), (28, 28, 1), "in_channels is 3, but the input has 1"),
        (nn.Conv2d(None, 8, 3, groups=2), (8, 8, 3), "in_channels must be a multiple of groups, but 3 is none of 2"),
        (nn.Conv2d(None, 9, 3, groups=2), (8, 8, 4), "out_channels must be a multiple of groups, but 9 is none of 2"),
        (nn.Conv2d(None, 8, 5), (4, 4, 1), r"a window of 5 x 5 does not fit into images \(4, 4, 1\).*smaller"),
        (nn.MaxPool2d(2), (1, 4, 1), "a window of 2 x 2 does not fit"),
        (nn.MaxPool2d(2), (10,), "max_pool2d needs images"),
        (nn.AdaptiveAvgPool2d(2), (10,), "adaptive_avg_pool2d needs images"),
        (nn.GlobalAvgPool2d(), (10, 3), "global_avg_pool2d needs images"),
        (nn.Conv1d(None, 8, 3), (8, 8, 3), r"conv1d needs sequences \(T, C\), got \(8, 8, 3\)"),
        (nn.Conv1d(None, 8, 3), (2, 3), r"a window of 3 does not fit into sequences \(2, 3\)"),
        (
            nn.Conv3d(None, 8, (1, 2, 3)),
            (4, 4, 2, 1),
            r"a window of 1 x 2 x 3 does not fit into volumes",
        ),
        (nn.DepthwiseConv2d(3), (8, 8), "depthwise_conv2d needs images"),
        (nn.ConvTranspose1d(None, 8, 3), (8, 8, 3), "conv_transpose1d needs sequences"),
        (nn.ConvTranspose2d(2, 8, 3), (8, 8, 3), "in_channels is 2, but the input has 3"),
        (
            nn.ConvTranspose2d(None, 9, 3, groups=2),
            (8, 8, 4),
            "out_channels must be a multiple of groups, but 9",
        ),
        (nn.ConvTranspose2d(None, 9, 3, padding=2), (1, 2, 4), r"padding cuts all off: the output of .* \(-1, 0\)"),
        (nn.GlobalMaxPool1d(), (10,), r"global_max_pool1d needs sequences \(T, C\)"),
        (nn.Upsample(4), (10,), r"upsample needs sequences \(T, C\), images"),
        (nn.Upsample(4, mode="bilinear"), (10, 3), "upsample with mode: bilinear needs images"),
        (nn.Upsample(scale_factor=0.1), (4, 4, 3), "scale_factor 0.1 leaves nothing"),
        (nn.PixelShuffle(2), (4, 4, 6), "upscale_factor 2 needs a multiple of 4 channels, the input has 6"),
        (nn.PixelUnshuffle(2), (4, 5, 6), r"downscale_factor 2 does not divide the height and width of \(4, 5, 6\)"),
        (nn.BatchNorm2d(None), (10,), "BatchNorm2d needs samples of 3 axes"),
        (nn.BatchNorm(4), (10,), "num_features is 4, but the input has 10"),
        (nn.LayerNorm((4, 5)), (5,), r"normalized_shape is \(4, 5\), but the input has \(5,\)"),
        (nn.LayerNorm(4), (2, 5), r"normalized_shape is \(4,\), but the input has \(5,\)"),
    ],
)
def test_inputs_that_do_not_fit(layer, shape, message):
    with pytest.raises(ShapeError, match=message):
        layer.output_shape(shape)


def test_same_padding_with_a_stride_is_an_error_in_the_constructor():
    with pytest.raises(UsageError, match=r"padding: same with stride: 2.*give the padding as a number, for example 1"):
        nn.Conv2d(None, 8, 3, stride=2, padding="same")


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (lambda: nn.Conv2d(None, 8, (3, 3, 3)), r"\[3, 3, 3\]: give one number, or 2: one for each axis of images"),
        (lambda: nn.ConvTranspose2d(None, 8, 3, 2, output_padding=2), "output_padding: 2 must be less than stride: 2"),
        (lambda: nn.Upsample(), "needs one of size and scale_factor"),
        (lambda: nn.Upsample(4, 2.0), "needs one of size and scale_factor"),
        (lambda: nn.Upsample(4, align_corners=True), "align_corners is for linear"),
        (lambda: nn.SqueezeExcite(4, layers=[nn.Linear(None, 3)]), "layers stand in for reduction and activation"),
    ],
)
def test_options_that_do_not_go_together(layer, message):
    with pytest.raises(UsageError, match=message):
        layer()


def test_pooling_padded_by_more_than_half_a_window_is_an_error():
    with pytest.raises(UsageError, match="padding: 2 is more than half of kernel_size: 3"):
        nn.MaxPool2d(3, padding=2)


def test_same_padding_puts_the_odd_cell_right_and_bottom():
    assert nn.Conv2d(None, 1, (2, 5), padding="same").padding == ((0, 1), (2, 2))


def test_batch_norm_names_itself_when_a_batch_has_one_value():
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm().named("bn")).build((3,))
    with pytest.raises(ShapeError, match=r"layer bn: .*more than one value per channel"):
        model.forward(Tape(model.built.backend, training=True).input(np.zeros((1, 3), np.float32)))


def test_running_statistics_wait_for_the_step_to_count():
    model = nn.Sequential(nn.BatchNorm()).build((3,))
    tape = Tape(model.built.backend, training=True)
    model.forward(tape.input(np.arange(12, dtype=np.float32).reshape(4, 3)))
    assert model.state_dict()["0.num_batches_tracked"] == 0
    tape.apply_effects()
    assert model.state_dict()["0.num_batches_tracked"] == 1


def test_norm_parameters_are_of_a_kind_of_their_own():
    model = nn.Sequential(nn.Conv2d(None, 4, 3), nn.BatchNorm(), nn.LayerNorm()).build((5, 5, 2))
    kinds = {segment.name: segment.param.kind for segment in model.parameters().segments}
    assert kinds["0.weight"] == "weight"
    assert kinds["0.bias"] == "bias"
    assert {kinds[f"{i}.{name}"] for i in (1, 2) for name in ("weight", "bias")} == {"norm"}


def test_conv_weights_start_like_pytorchs_and_lie_like_pytorchs_in_the_state_dict():
    weight = nn.Conv2d(8, 32, (3, 5)).build().state_dict()["weight"]
    assert weight.shape == (32, 8, 3, 5)
    bound = 1 / np.sqrt(8 * 15)
    assert 0.98 * bound < np.abs(weight).max() <= bound
    assert weight.std() == pytest.approx(bound / np.sqrt(3), rel=0.05)


def test_transposed_conv_weights_start_like_pytorchs_and_lie_like_pytorchs_in_the_state_dict():
    state = nn.ConvTranspose2d(32, 8, (3, 5), groups=2).build().state_dict()
    assert state["weight"].shape == (32, 4, 3, 5)
    bound = 1 / np.sqrt(4 * 15)  # PyTorch takes the second axis for the input
    assert 0.98 * bound < np.abs(state["weight"]).max() <= bound
    assert np.abs(state["bias"]).max() <= bound


@pytest.mark.parametrize(
    ("layer", "shape", "flops"),
    [
        (nn.Conv1d(None, 6, 3, groups=2), (10, 4), 2 * 3 * 2 * 6 * 8),
        (nn.Conv2d(None, 6, 3, stride=2), (9, 9, 4), 2 * 9 * 4 * 6 * 16),
        (nn.Conv3d(None, 6, 2), (3, 3, 3, 4), 2 * 8 * 4 * 6 * 8),
        (nn.DepthwiseConv2d(3, multiplier=2), (5, 5, 4), 2 * 9 * 8 * 9),
        (nn.ConvTranspose2d(None, 6, 2, 2, groups=2), (5, 5, 4), 2 * 4 * 4 * 3 * 25),
    ],
)
def test_flops_count_a_multiply_add_as_two(layer, shape, flops):
    layer.infer(shape, {})
    assert layer.flops() == flops


def test_squeeze_excite_says_what_does_not_fit():
    with pytest.raises(ShapeError, match=r"squeeze_excite needs positions .* got \(4,\)"):
        nn.SqueezeExcite().infer((4,), {})
    with pytest.raises(ShapeError, match=r"the layers give \(3,\), but there are 4 channels to scale"):
        nn.SqueezeExcite(layers=[nn.Linear(None, 3)]).infer((2, 2, 4), {})


def test_squeeze_excite_from_a_config():
    import gpubackprop as gbp

    block = {"squeeze_excite": {"reduction": 2, "activation": "silu", "gate": "tanh"}}
    own = {"squeeze_excite": {"layers": [{"linear": 4}]}}
    model = gbp.build([{"conv1d": {"out_channels": 4, "kernel_size": 3}}, block, own], input_shape=(8, 3))
    assert model(np.ones((2, 8, 3))).shape == (2, 6, 4)
    assert list(model.state_dict())[2:] == [
        "1.0.weight",
        "1.0.bias",
        "1.2.weight",
        "1.2.bias",
        "2.0.weight",
        "2.0.bias",
    ]
