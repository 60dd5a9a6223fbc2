"""Convolutions of every shape against their references, and how an algorithm is chosen."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import cpu
from gpubackprop.errors import UsageError
from gpubackprop.ops.conv import Windows, conv, conv_transpose, transposed_size
from gpubackprop.ops.depthwise import depthwise_conv
from tests.kernels import harness

few = settings(max_examples=25, deadline=None, derandomize=True)
dtypes = st.sampled_from([np.float32, np.float64])


@st.composite
def windows(draw, transposed=False):
    """(sizes of the image, of the kernel, options), such that at least one window fits."""
    axes = draw(st.integers(1, 3))
    each = [
        (
            draw(st.integers(1, [40, 12, 6][axes - 1])),
            draw(st.integers(1, 5 if axes < 3 else 3)),
            draw(st.integers(1, 3)),
            (draw(st.integers(0, 2)), draw(st.integers(0, 2))),
            draw(st.integers(1, 2)),
        )
        for _ in range(axes)
    ]
    if not transposed:  # an image at least as large as the window
        each = [(max(s, d * (k - 1) + 1 - sum(p)), k, t, p, d) for s, k, t, p, d in each]
    else:  # something is left when the padding is cut off
        each = [(s, k, t, p if transposed_size(s, k, t, p, d) > 0 else (0, 0), d) for s, k, t, p, d in each]
    sizes, kernel, stride, padding, dilation = map(tuple, zip(*each, strict=True))
    return sizes, kernel, {"stride": stride, "padding": padding, "dilation": dilation}


channels = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33, 40])


def arrays(seed, dtype, *shapes):
    rng = np.random.default_rng(seed)
    return [None if shape is None else rng.normal(size=shape).astype(dtype) for shape in shapes]


@few
@given(windows(), st.integers(0, 3), channels, channels, st.sampled_from([1, 1, 2, 3]), st.booleans(), dtypes)
def test_convolutions(lie, n, group_in, group_out, groups, bias, dtype):
    sizes, kernel, options = lie
    shapes = (n, *sizes, groups * group_in), (*kernel, group_in, groups * group_out), (groups * group_out,)
    inputs = arrays(0, dtype, *shapes[:2], shapes[2] if bias else None)
    harness.assert_equals_reference(harness.backend(2), conv, inputs, {**options, "groups": groups})


@few
@given(windows(True), st.integers(1, 2), channels, channels, st.sampled_from([1, 2]), st.data(), dtypes)
def test_transposed_convolutions(lie, n, group_in, group_out, groups, data, dtype):
    sizes, kernel, options = lie
    behind = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(options["stride"], options["dilation"], strict=True)
    )
    shapes = (n, *sizes, groups * group_in), (*kernel, group_out, groups * group_in), (groups * group_out,)
    options = {**options, "groups": groups, "output_padding": behind}
    harness.assert_equals_reference(harness.backend(2), conv_transpose, arrays(1, dtype, *shapes), options)


@few
@given(windows(), st.integers(0, 3), channels, st.integers(1, 3), st.booleans(), dtypes)
def test_depthwise_convolutions(lie, n, count, multiplier, bias, dtype):
    sizes, kernel, options = lie
    out = count * multiplier
    inputs = arrays(2, dtype, (n, *sizes, count), (*kernel, 1, out), (out,) if bias else None)
    harness.assert_equals_reference(harness.backend(2), depthwise_conv, inputs, options)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("stride", [1, 2])
def test_images_larger_than_the_cache_are_worked_on_in_blocks(threads, stride):
    inputs = arrays(3, np.float32, (2, 70, 66, 24), (3, 3, 24, 20), (20,))
    options = {"stride": (stride, stride), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    harness.assert_equals_reference(harness.backend(threads), conv, inputs, options)


@pytest.fixture
def choices(monkeypatch, tmp_path):
    """The module conv with nothing chosen yet, and two more algorithms: a slow one, and one that takes nothing."""
    harness.backend()
    from gpubackprop.kernels.cpu import backend
    from gpubackprop.kernels.cpu import conv as module

    calls = []

    def slow(*args):
        calls.append("slow")
        for _ in range(30):
            module.ALGORITHMS["direct"].forward(*args)
        return module.ALGORITHMS["direct"].forward(*args)

    direct = module.ALGORITHMS["direct"]
    never = direct._replace(fits=lambda *_: False, forward=None)
    monkeypatch.setattr(module, "ALGORITHMS", {"direct": direct, "slow": direct._replace(forward=slow), "never": never})
    monkeypatch.setattr(module, "CHOICES", {})
    monkeypatch.setattr(backend, "CHOICES", module.CHOICES)
    monkeypatch.setattr(module, "_file", lambda: tmp_path / "choices.json")
    monkeypatch.delenv("GPUBACKPROP_CONV", raising=False)
    module._kept.cache_clear()
    yield module, calls, tmp_path / "choices.json"
    module._kept.cache_clear()


LARGE = (8, 32, 32, 16), (3, 3, 16, 16), Windows((1, 1), ((1, 1), (1, 1)), (1, 1), 1), np.dtype(np.float32)


def test_the_quicker_algorithm_is_measured_once_and_kept(choices):
    module, calls, path = choices
    b = harness.backend()
    assert module.algorithm(b, module.FORWARD, *LARGE) is module.ALGORITHMS["direct"]
    assert len(calls) == module.ROUNDS + 1
    assert list(json.loads(path.read_text()).values()) == ["direct"]
    assert list(module.CHOICES.values()) == ["direct"]
    module.algorithm(b, module.FORWARD, *LARGE)
    assert len(calls) == module.ROUNDS + 1, "measured again"

    path.write_text(json.dumps(dict.fromkeys(module.CHOICES, "slow")))
    module.CHOICES.clear()
    module._kept.cache_clear()
    assert module.algorithm(b, module.FORWARD, *LARGE) is module.ALGORITHMS["slow"], "what was kept does not count"


def test_small_ones_are_not_measured(choices):
    module, calls, _ = choices
    module.algorithm(harness.backend(), module.FORWARD, (1, 4, 4, 3), (3, 3, 3, 4), *LARGE[2:])
    assert not calls
    assert module.CHOICES == {}


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"a": []}', b'{"a": {}}', b"\xff", b""])
def test_a_broken_file_is_said_and_measured_anew(choices, content):
    module, _, path = choices
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"choices\.json: cannot be read .* measured anew"):
        assert module.algorithm(harness.backend(), module.FORWARD, *LARGE) is module.ALGORITHMS["direct"]
    assert list(json.loads(path.read_text()).values()) == ["direct"]


def test_what_another_machine_chose_is_taken_and_not_kept(choices):
    module, calls, path = choices
    b = harness.backend()
    key = module._key(module.FORWARD, *LARGE, b.threads)
    b.adopt({key: "slow"})
    assert module.algorithm(b, module.FORWARD, *LARGE) is module.ALGORITHMS["slow"]
    assert not calls
    module.algorithm(b, module.DATA, *LARGE)
    kept = json.loads(path.read_text())
    assert [key.split()[0] for key in kept] == [module.DATA]
    module.algorithm(b, module.WEIGHTS, *LARGE)
    assert [key.split()[0] for key in json.loads(path.read_text())] == [module.DATA, module.WEIGHTS]


def test_an_algorithm_can_be_asked_for(choices, monkeypatch):
    module, _, _ = choices
    b = harness.backend()
    for name, taken in (("slow", "slow"), ("never", "direct")):
        monkeypatch.setenv("GPUBACKPROP_CONV", name)
        assert module.algorithm(b, module.FORWARD, *LARGE) is module.ALGORITHMS[taken]
    monkeypatch.setenv("GPUBACKPROP_CONV", "slwo")
    with pytest.raises(UsageError, match=r"GPUBACKPROP_CONV=slwo.*slow"):
        module.algorithm(b, module.FORWARD, *LARGE)
    with pytest.raises(UsageError, match=r"GPUBACKPROP_CONV=slwo.*slow"):
        cpu()  # wherever kernels are, and whether or not there are convolutions
    monkeypatch.setenv("GPUBACKPROP_CONV", "")
    assert hasattr(cpu()[0], "launch")
