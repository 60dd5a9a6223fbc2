"""CTC beyond its rows: any lengths against PyTorch, and the sum over all alignments by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpubackprop.backend import NumpyBackend
from gpubackprop.ops.ctc import ctc
from gpubackprop.tape import FREE, SKIP

B = NumpyBackend()
SLOTS = (FREE, SKIP, SKIP, SKIP, SKIP)


def run(logits, target, lengths=None, weight=None, **options):
    (total, count), saved = ctc.forward(B, logits, target, lengths, weight, None, **options)
    return float(total), float(count), ctc.backward(B, saved, (np.ones(()), None), SLOTS)[0]


@pytest.mark.oracle
@settings(max_examples=40, deadline=None, derandomize=True)
@given(data=st.data())
def test_any_lengths_against_pytorch(data):
    torch = pytest.importorskip("torch", reason="PyTorch, the [oracle] extra, is not installed", exc_type=ImportError)
    samples, time, classes = (data.draw(st.integers(*bounds)) for bounds in [(1, 4), (1, 8), (2, 5)])
    blank = data.draw(st.integers(0, classes - 1))
    labels = st.sampled_from([c for c in range(classes) if c != blank])
    rows = data.draw(st.lists(st.lists(labels, max_size=5), min_size=samples, max_size=samples))
    lengths = np.array(data.draw(st.lists(st.integers(1, time), min_size=samples, max_size=samples)))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    logits = rng.normal(size=(samples, time, classes)) * data.draw(st.sampled_from([1.0, 10.0]))
    target = np.full((samples, max(map(len, rows))), -100)
    for row, line in zip(target, rows, strict=True):
        row[: len(line)] = line
    total, count, grad = run(logits, target, lengths, blank=blank, zero_infinity=True)

    there = torch.tensor(logits, requires_grad=True)
    counts = torch.tensor([len(row) for row in rows])
    flat = torch.tensor([c for row in rows for c in row], dtype=torch.long)
    theirs = torch.nn.CTCLoss(blank=blank, zero_infinity=True)
    wanted = theirs(torch.log_softmax(there, -1).transpose(0, 1), flat, torch.tensor(lengths), counts) * samples
    wanted.backward()
    assert count == samples
    assert total == pytest.approx(wanted.item(), rel=1e-10, abs=1e-12)
    np.testing.assert_allclose(grad, there.grad.numpy(), rtol=1e-8, atol=1e-10)


def collapsed(path):
    return [c for c, _ in itertools.groupby(path) if c]


@pytest.mark.parametrize("target", [[1, 2], [1, 1], [2], []])
def test_the_sum_over_all_paths(target):
    logits = np.random.default_rng(0).normal(size=(1, 4, 3))
    p = np.exp(logits[0]) / np.exp(logits[0]).sum(axis=-1, keepdims=True)
    paths = [path for path in itertools.product(range(3), repeat=4) if collapsed(path) == target]
    probability = sum(np.prod([p[t, c] for t, c in enumerate(path)]) for path in paths)
    padded = np.array([[*target, -100, -100]])
    assert run(logits, padded)[0] == pytest.approx(-np.log(probability) / max(len(target), 1), rel=1e-12)


def test_a_target_that_does_not_fit_is_infinite_or_nothing():
    logits, target = np.random.default_rng(0).normal(size=(2, 3, 4)), np.array([[1, 1, 2], [1, 2, 3]])
    total, _, grad = run(logits, target)
    assert total == np.inf
    assert not grad[0].any()
    assert grad[1].any()
    total, count, again = run(logits, target, zero_infinity=True)
    assert total == pytest.approx(run(logits[1:], target[1:])[0])
    assert count == 2
    np.testing.assert_array_equal(again, grad)
    assert np.isfinite(run(logits, target, weight=np.array([0.0, 1.0]))[0])


def test_no_time_at_all():
    logits, target = np.zeros((2, 3, 4)), np.array([[-100], [1]])
    total, _, grad = run(logits, target, np.array([0, 0]), zero_infinity=True)
    assert total == 0
    assert not grad.any()
    assert run(logits, target, np.array([0, 0]))[0] == np.inf


def test_long_sequences_stay_finite_and_exact_in_float32():
    rng = np.random.default_rng(0)
    logits, target = 5 * rng.normal(size=(2, 400, 6)), rng.integers(1, 6, (2, 50))
    total, _, grad = run(logits, target)
    single, _, close = run(logits.astype(np.float32), target)
    assert single == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(close, grad, atol=2e-5)
