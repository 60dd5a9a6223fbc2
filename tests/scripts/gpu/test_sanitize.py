"""What compute-sanitizer says, as a result."""

from __future__ import annotations

import pytest

from scripts.gpu import sanitize

GOOD = "========= COMPUTE-SANITIZER\n12 kernels, 0 failed\n========= ERROR SUMMARY: 0 errors\n"
BAD = """========= COMPUTE-SANITIZER
========= Invalid __global__ write of size 4 bytes
=========     at sgd<float>+0x10
========= ERROR SUMMARY: 3 errors
"""
RACE = """========= COMPUTE-SANITIZER
========= Error: Race reported between Write access at a and Read access at b [64 hazards]
========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)
"""


@pytest.mark.parametrize(
    ("code", "output", "status", "words"),
    [
        (0, GOOD, "passed", ""),
        (1, GOOD, "failed", "no errors of memory, but code 1"),
        (9, BAD, "failed", "3 errors, the first: Invalid __global__ write of size 4 bytes"),
        (9, RACE, "failed", "1 errors, the first: Error: Race reported"),
        (0, "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n", "passed", ""),
        (1, "========= Error: Device not supported. Please refer to\n", "not run", "cannot work here: Error: Device"),
        (139, "Segmentation fault\n", "failed", "no summary, code 139: Segmentation fault"),
        (1, "", "failed", "no word"),
    ],
)
def test_verdicts(code, output, status, words):
    found, reason = sanitize.verdict(code, output)
    assert found == status
    assert words in reason
    assert bool(reason) == (status != "passed")


def test_where_it_is_missing_nothing_runs(monkeypatch):
    said = []

    class Lines:
        done = frozenset({"compute-sanitizer memcheck"})

        def say(self, **values):
            said.append(values)

        def item(self, name, status, reason):
            said.append((name, status, reason))

    monkeypatch.setattr(sanitize, "Lines", Lines)
    monkeypatch.setattr(sanitize.shutil, "which", lambda *args, **options: None)
    sanitize.main()
    assert ("compute-sanitizer racecheck", "not run", "compute-sanitizer is not installed") in said
    assert len([each for each in said if type(each) is tuple]) == 1
    assert said[-1] == {"end": True}
