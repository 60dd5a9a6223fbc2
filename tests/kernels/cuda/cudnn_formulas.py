"""What cuDNN's nodes compute, written down once more in NumPy and float64, and what it has no plan for."""

from __future__ import annotations

import enum
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np


class cudnnGraphNotSupportedError(Exception):
    """There is no plan for a graph."""


class data_type(enum.Enum):
    """Types of numbers."""

    DOUBLE, FLOAT, HALF, BFLOAT16 = "float64", "float32", "float16", "bfloat16"

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's, which knows bfloat16 once ml_dtypes is imported."""
        return np.dtype(ml_dtypes.bfloat16 if self is data_type.BFLOAT16 else self.value)


heur_mode = enum.Enum("heur_mode", "A FALLBACK")
numerical_note = enum.Enum("numerical_note", "NONDETERMINISTIC DOWN_CONVERT_INPUTS TENSOR_CORE")
diagonal_alignment = enum.Enum("diagonal_alignment", "TOP_LEFT BOTTOM_RIGHT")
scalar_type = enum.Enum("scalar_type", "COMPILE_TIME_CONST RUNTIME_PARAM")


def refuse(name: str, operands: dict[str, Any], attributes: dict[str, Any], results: list[Any]) -> None:
    """As the library refuses."""

    def needed(condition: Any, reason: str) -> None:
        if not condition:
            raise cudnnGraphNotSupportedError(f"no engine proposed a plan for this graph: {reason}")

    if name.startswith("conv"):
        image = operands.get("image") or results[0]
        weight, loss = operands.get("weight") or results[0], operands.get("loss") or results[0]
        needed(image.dim[1] % weight.dim[1] == 0, "channels")
        assert _known_filter(weight), "cuDNN would not refuse such strides, but read the filter as (O, *K, C)"
        if loss.dim:
            needed(weight.dim[0] == loss.dim[1], "channels")
            needed(_places(image.dim[2:], weight.dim[2:], attributes) == loss.dim[2:], "sizes")
    elif name.startswith("batchnorm"):
        x = operands.get("x") or operands["input"]
        needed(x.kind is not data_type.DOUBLE, "float64")
        needed(x.dim[1] % (4 if x.kind is data_type.FLOAT else 8) == 0, "channels")
        needed(all(t.kind is data_type.FLOAT for key, t in operands.items() if "mean" in key or "var" in key), "types")
    elif name.startswith("sdpa"):
        q, k, v = (operands[each] for each in "qkv")
        short = q.kind in (data_type.HALF, data_type.BFLOAT16)
        needed(short, "types")
        needed(q.dim[3] % 8 == 0 and v.dim[3] % 8 == 0 and max(q.dim[3], v.dim[3]) <= 128, "hidden_dim")
        needed(attributes.get("diagonal_alignment") is not diagonal_alignment.BOTTOM_RIGHT or q.dim[2] <= k.dim[2], "")
        needed(name == "sdpa" or (q.dim[2], k.dim[2]) != (1, 1), "s_q = s_kv = 1")


def _places(sizes: list[int], kernel: list[int], windows: dict[str, Any]) -> list[int]:
    axes = zip(sizes, kernel, *(windows[w] for w in ("pre_padding", "post_padding", "stride", "dilation")), strict=True)
    return [(n + before + after - d * (k - 1) - 1) // s + 1 for n, k, before, after, s, d in axes]


def _cells(padded: Any, kernel: Any, places: Any, windows: dict[str, Any]) -> Any:
    """Each cell of the window, with the view of the padded image (N, C, *P) that it sees."""
    for cell in product(*map(range, kernel)):
        axes = zip(cell, places, windows["stride"], windows["dilation"], strict=True)
        yield cell, padded[(..., *(slice(c * d, c * d + (p - 1) * s + 1, s) for c, p, s, d in axes))]


def _padded(image: Any, windows: dict[str, Any]) -> Any:
    around = list(zip(windows["pre_padding"], windows["post_padding"], strict=True))
    return np.pad(image, [(0, 0), (0, 0), *around])


def _known_filter(weight: Any) -> bool:
    """Whether a filter (O, C, *K) lies as (O, *K, C) or as (O, C, *K); an axis of one may stand anywhere."""
    longer = [axis for axis, size in enumerate(weight.dim) if size > 1]
    lies = sorted(longer, key=lambda axis: -weight.stride[axis])
    orders = [0, *range(2, len(weight.dim)), 1], [*range(len(weight.dim))]
    return lies in ([axis for axis in order if axis in longer] for order in orders)


def _split(array: Any, groups: int, axis: int) -> Any:
    return np.stack(np.split(array, groups, axis), 0)


def compute_conv_fprop(results: Any, image: Any, weight: Any, **windows: Any) -> list[Any]:
    groups, padded = image.shape[1] // weight.shape[1], _padded(image, windows)
    places = _places(image.shape[2:], weight.shape[2:], windows)
    y = np.zeros((image.shape[0], weight.shape[0], *places))
    for cell, seen in _cells(padded, weight.shape[2:], places, windows):
        parts = np.einsum("gnc...,goc->gno...", _split(seen, groups, 1), _split(weight[(..., *cell)], groups, 0))
        y += np.concatenate(parts, 1)
    return [y]


def compute_conv_dgrad(results: Any, loss: Any, weight: Any, **windows: Any) -> list[Any]:
    shape = results[0].dim
    groups, padded = shape[1] // weight.shape[1], _padded(np.zeros(shape), windows)
    for cell, seen in _cells(padded, weight.shape[2:], loss.shape[2:], windows):
        parts = np.einsum("gno...,goc->gnc...", _split(loss, groups, 1), _split(weight[(..., *cell)], groups, 0))
        seen += np.concatenate(parts, 1)
    inner = (slice(b, b + n) for b, n in zip(windows["pre_padding"], shape[2:], strict=True))
    return [padded[(..., *inner)]]


def compute_conv_wgrad(results: Any, image: Any, loss: Any, **windows: Any) -> list[Any]:
    dweight = np.zeros(results[0].dim)
    groups, padded = image.shape[1] // dweight.shape[1], _padded(image, windows)
    for cell, seen in _cells(padded, dweight.shape[2:], loss.shape[2:], windows):
        flat = (_split(each.reshape(*each.shape[:2], -1), groups, 1) for each in (seen, loss))
        parts = np.einsum("gncp,gnop->goc", *flat)
        dweight[(..., *cell)] = np.concatenate(parts, 0)
    return [dweight]


def compute_bias(results: Any, x: Any, bias: Any) -> list[Any]:
    return [x + bias]


def compute_batchnorm(
    results: Any, x: Any, scale: Any, bias: Any, epsilon: Any, momentum: Any, in_running_mean: Any, in_running_var: Any
) -> list[Any]:
    over, count = (0, 2, 3), x.size / x.shape[1]
    mean, var = x.mean(axis=over, keepdims=True), x.var(axis=over, keepdims=True)
    rstd = 1 / np.sqrt(var + epsilon)
    running = (1 - momentum) * in_running_mean + momentum * mean
    spread = (1 - momentum) * in_running_var + momentum * var * count / (count - 1)
    return [(x - mean) * rstd * scale + bias, mean, rstd, running, spread]


def compute_batchnorm_backward(
    results: Any,
    grad: Any,
    input: Any,
    scale: Any,
    mean: Any,
    inv_variance: Any,
) -> list[Any]:
    over, normal = (0, 2, 3), (input - mean) * inv_variance
    dscale, dbias = ((grad * each).sum(axis=over, keepdims=True) for each in (normal, 1.0))
    count = input.size / input.shape[1]
    return [scale * inv_variance * (grad - dbias / count - normal * dscale / count), dscale, dbias]


def _scores(q: Any, k: Any, attributes: dict[str, Any]) -> Any:
    scores = np.einsum("nhtd,nhsd->nhts", q, k) * attributes["attn_scale"]
    if "diagonal_band_right_bound" not in attributes:
        return scores
    assert attributes["diagonal_band_right_bound"] == 0
    t, s = scores.shape[-2:]
    shift = s - t if attributes["diagonal_alignment"] is diagonal_alignment.BOTTOM_RIGHT else 0
    return np.where(np.arange(s) <= np.arange(t)[:, None] + shift, scores, -np.inf)


def compute_sdpa(results: Any, q: Any, k: Any, v: Any, **attributes: Any) -> list[Any]:
    scores = _scores(q, k, attributes)
    highest = scores.max(axis=-1, keepdims=True)
    stats = highest + np.log(np.exp(scores - highest).sum(axis=-1, keepdims=True))
    return [np.exp(scores - stats) @ v, stats]


def compute_sdpa_backward(results: Any, q: Any, k: Any, v: Any, o: Any, do: Any, stats: Any, **rest: Any) -> list[Any]:
    assert rest["use_deterministic_algorithm"]
    p = np.exp(_scores(q, k, rest) - stats)
    ds = p * (np.einsum("nhtv,nhsv->nhts", do, v) - (o * do).sum(axis=-1, keepdims=True)) * rest["attn_scale"]
    return [ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do]
