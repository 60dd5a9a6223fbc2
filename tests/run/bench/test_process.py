"""Candidates in processes of their own."""

from __future__ import annotations

import pytest

from gpubackprop.run.bench.process import BenchError, Candidate

MODULE = "tests.run.bench.candidate"


def test_it_says_what_it_is_and_makes_slices_when_told():
    with Candidate([MODULE, "well"], {"BENCH_TEST": "7"}) as candidate:
        assert candidate.cannot is None
        assert candidate.about["losses"] == [1, 2, 3]
        assert (candidate.about["runs_on"], candidate.about["variable"]) == ("nothing", "7")
        assert 0 < candidate.first_step < 60
        found = candidate.slice(0.01)
        assert found.steps > 1
        assert 0 < found.seconds < 0.01
        memory = candidate.memory()
        assert memory["peak"] is None or memory["peak"] >= memory["imported"] > 1e6
    assert candidate._process.returncode == 0


def test_one_that_cannot_be_measured_says_why():
    with Candidate([MODULE, "cannot"]) as candidate:
        assert candidate.cannot == "no twin"


def test_one_that_breaks_is_an_error_with_its_last_line():
    with pytest.raises(BenchError, match=r"candidate raises: ended with code 1: in two lines"):
        Candidate([MODULE, "raises"])


def test_one_that_dies_between_slices_is_an_error_with_its_last_line():
    with Candidate([MODULE, "dies"]) as candidate, pytest.raises(BenchError, match="ended with code 9: out of luck"):
        candidate.slice(1.0)
