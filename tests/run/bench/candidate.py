"""A candidate for the tests: python -m tests.run.bench.candidate HOW"""

from __future__ import annotations

import os
import sys

from gpubackprop.run.bench.process import CannotError, serve


class Counts:
    """Its loss is the number of the step."""

    def __init__(self, how):
        if how == "cannot":
            raise CannotError("no twin")
        if how == "raises":
            raise ValueError("broken\nin two lines")
        self.how, self.steps = how, 0

    def step(self):
        self.steps += 1
        print("a library that prints")
        os.write(1, b"and one that writes\n")
        if self.how == "dies" and self.steps > 4:
            print("out of luck", file=sys.stderr)
            os._exit(9)
        return float(self.steps)

    def about(self):
        return {"runs_on": "nothing", "variable": os.environ.get("BENCH_TEST")}


if __name__ == "__main__":
    serve(lambda: Counts(sys.argv[1]), "json")
