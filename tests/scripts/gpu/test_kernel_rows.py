"""The check of kernels, on the test device: good ones pass, whatever is wrong with one is found."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest

from gpubackprop.kernels.cuda.kernel import KERNELS, RULES
from gpubackprop.optim import SGD, clip, optimizer
from gpubackprop.tape import Op
from scripts.gpu import kernel_rows, kernel_rules
from scripts.gpu.kernel_rows import DiffersError, check, checks, small, tell
from tests.kernels.cuda.device import TestDevice
from tests.kernels.cuda.rows import needs_compiler
from tests.kernels.cuda.test_cudnn import Device as with_cudnn
from tests.ops.specs import table

pytestmark = needs_compiler
SPEC = next(spec for spec in table() if spec.op.name == "silu")


class Lines:
    """Keeps what is said."""

    def __init__(self, done=()):
        self.done, self.said, self.items = frozenset(done), [], {}

    def say(self, **values):
        self.said.append(values)

    def item(self, name, status, reason="", **values):
        self.items[name] = {"status": status, "reason": reason, **values}


def test_a_seed_gives_inputs_of_its_own():
    first, again, other = (kernel_rows.draw(SPEC, np.float32, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    b = TestDevice()
    assert check(b, SPEC, np.float32, 1)["error"] != check(b, SPEC, np.float32, 2)["error"]


def test_every_kernel_is_checked_in_every_dtype():
    found = list(checks(TestDevice(), 0))
    names = [name for name, *_ in found]
    assert len(names) == len(set(names))
    kinds = {(kernel, dtype) for _, kernel, dtype, _ in found}
    assert {(op.name, dtype) for op in KERNELS for dtype in kernel_rows.TOLERANCES} <= kinds
    assert {("SGD.update", dtype) for dtype in kernel_rules.TOLERANCES} <= kinds


def test_a_few_are_run_and_told(monkeypatch):
    monkeypatch.setenv(kernel_rows.ONLY, "silu: ")
    lines = Lines()
    tell(lines, TestDevice(), 5)
    assert lines.said[0] == {"total": len(lines.items)}
    assert lines.said[-1] == {"end": True}
    assert {item["dtype"] for item in lines.items.values()} == set(kernel_rows.TOLERANCES)
    for item in lines.items.values():
        assert item["status"] == "passed", item
        assert 0 <= item["error"] <= kernel_rows.TOLERANCES[item["dtype"]]
        assert item["kernel"] in ("silu", "linear_activation")  # which has a row with it
        assert item["seed"] == 5
    json.dumps(lines.items)
    rest = Lines(done=list(lines.items)[1:])
    tell(rest, TestDevice(), 5)
    assert list(rest.items) == list(lines.items)[:1]


def broken(change):
    """A device whose kernels' results go through `change(name, array, call)`."""
    b, calls = TestDevice(), []
    right = b.pair

    def pair_of(op, arrays, options):
        pair = right(op, arrays, options)

        def forward(b, *inputs, **options):
            calls.append(1)
            y, saved = pair.forward(b, *inputs, **options)
            return change("y", y, len(calls)), saved

        def backward(b, saved, dy, slots):
            return tuple(g if g is None else change("d", g, len(calls)) for g in pair.backward(b, saved, dy, slots))

        return Op(forward, backward)

    b.pair = pair_of
    return b


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda name, a, call: a + a.dtype.type(1e-3) if name == "y" else a, "y0: error"),
        (lambda name, a, call: a * a.dtype.type(1.001) if name == "d" else a, "d0: error"),
        (lambda name, a, call: a * a.dtype.type(np.nan) if name == "d" else a, "d0: error nan"),
        (lambda name, a, call: a + a.dtype.type(1e-7 * call), "other bits"),
        (lambda name, a, call: a.astype(np.float64), "float64, not of float32"),
    ],
)
def test_what_is_wrong_is_found(change, words):
    with pytest.raises(DiffersError, match=words):
        check(broken(change), SPEC, np.float32, 0)


def test_memory_that_is_not_written_is_found():
    b = TestDevice()
    right = b.launch
    b.launch = lambda source, name, *args: None if "backward" in name else right(source, name, *args)
    with pytest.raises(DiffersError, match="nan"):
        check(b, SPEC, np.float32, 0)


def test_errors_of_all_kinds_are_findings(monkeypatch):
    monkeypatch.setenv(kernel_rows.ONLY, "silu: float32")

    def fails(*args):
        raise RuntimeError("CUDA_ERROR_INVALID_PTX")

    b, lines = TestDevice(), Lines()
    b.launch = fails
    tell(lines, b, 0)
    assert lines.items["silu: float32"]["status"] == "failed"
    assert lines.items["silu: float32"]["reason"] == "RuntimeError: CUDA_ERROR_INVALID_PTX"


def test_what_has_no_check_is_told(monkeypatch):
    unknown, other = Op(lambda b, x: (x, None), lambda b, saved, dy, slots: (dy,)), lambda: None
    unknown.name = "unknown"
    monkeypatch.setitem(KERNELS, unknown, next(iter(KERNELS.values())))
    monkeypatch.setitem(RULES, other, other)
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    found = {(kernel, dtype): made for _, kernel, dtype, made in checks(TestDevice(), 0) if isinstance(made, str)}
    assert "no row" in found["unknown", "float32"]
    assert found["silu", "bfloat16"] == "ml_dtypes is not installed"
    assert "no check for it" in found[other.__qualname__, ""]


@pytest.mark.parametrize("dtype", kernel_rules.TOLERANCES)
def test_updates_and_other_rules(monkeypatch, dtype):
    b, limit = TestDevice(), kernel_rules.TOLERANCES[dtype]
    rows = [spec for spec in kernel_rules.PLAIN if spec.cls is SGD]
    for spec in rows:
        assert max(kernel_rules.update(b, spec, dtype, 3).values()) <= limit
    right = RULES[optimizer.update_all]

    def wrong(self, *args):
        right(self, *args)
        self.params.master *= self.params.master.dtype.type(1.001)

    monkeypatch.setitem(RULES, optimizer.update_all, wrong)
    for spec in rows:
        assert max(kernel_rules.update(b, spec, dtype, 3).values()) > limit
    for reference, drawn in kernel_rules.CALLS.items():
        monkeypatch.setitem(RULES, reference, reference)
        assert max(kernel_rules.call(b, reference, drawn, dtype, 3).values()) <= 1e-5
    monkeypatch.setitem(RULES, clip.clip_value, lambda b, grad, limit: None)
    assert kernel_rules.call(b, clip.clip_value, kernel_rules.CALLS[clip.clip_value], dtype, 3)["argument 0"] > 0.1


def test_the_small_run_says_how_many_failed(monkeypatch, capsys):
    some = [(f"{k}{i}: {d}", k, d, f) for k, d, i, f in (
        ("a", "float32", 1, lambda: {}),
        ("a", "float32", 2, lambda: 1 / 0),  # a second row: not run
        ("a", "float64", 1, lambda: 1 / 0),
        ("a", "bfloat16", 1, lambda: 1 / 0),
        ("b", "bfloat16", 1, "no row"),
    )]  # fmt: skip  # a table
    monkeypatch.setattr(kernel_rows, "checks", lambda b, seed: some)
    assert small(None, 0) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "2 kernels, 1 failed"


def test_cudnns_pairs_are_checked_beside_the_kernels():
    b = with_cudnn()
    found = {name: made for name, kernel, dtype, made in checks(b, 0) if dtype == "float32" and "conv" in kernel}
    both = [name for name in found if name.replace(":", ", cuDNN:") in found]
    assert len(both) > 10
    for name in (both[0], both[0].replace(":", ", cuDNN:")):
        assert found[name]()["error"] < 1e-5
    assert b.double.ran
