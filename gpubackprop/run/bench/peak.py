"""The machine's own limits as candidates: python -m gpubackprop.run.bench.peak product|copy DEVICE PRECISION

A step of `product` is one product of two square matrices on all threads, of `copy` one copy of a large array.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

from gpubackprop.run.bench.process import serve

SIDE = 2048  #: of the matrices
LENGTH = 1 << 26  #: bytes that are copied, more than any cache holds


class Product:
    """C = A B."""

    def __init__(self, device: str, precision: str) -> None:
        import numpy as np

        from gpubackprop.backend import choose
        from gpubackprop.backend.precision import PRECISIONS

        self.backend, _ = choose(device, "reference")
        rng = np.random.default_rng(0)
        self.a, self.b = (
            self.backend.from_host(rng.random((SIDE, SIDE)).astype(PRECISIONS[precision])) for _ in range(2)
        )
        self.out = self.backend.xp.empty_like(self.a)

    def step(self) -> None:
        """One product, waited for."""
        self.backend.xp.matmul(self.a, self.b, out=self.out)
        self.backend.synchronize()

    def about(self) -> dict[str, Any]:
        """How many operations a step takes."""
        return {"work": 2 * SIDE**3}


class Copy:
    """Each thread copies its part."""

    def __init__(self, device: str, precision: str) -> None:
        import numpy as np

        from gpubackprop.backend import choose

        self.backend, _ = choose(device, "reference")
        xp = self.backend.xp
        self.source, self.target = xp.ones(LENGTH, np.uint8), xp.zeros(LENGTH, np.uint8)
        threads = int(os.environ.get("OMP_NUM_THREADS", 1)) if self.backend.device == "cpu" else 1
        edges = [LENGTH * i // threads for i in range(threads + 1)]
        self._parts = [slice(*each) for each in pairwise(edges)]
        self._pool = ThreadPoolExecutor(threads)

    def _copy(self, part: slice) -> None:
        self.target[part] = self.source[part]

    def step(self) -> None:
        """One copy, waited for."""
        list(self._pool.map(self._copy, self._parts))
        self.backend.synchronize()

    def about(self) -> dict[str, Any]:
        """How many bytes a step reads and writes."""
        return {"work": 2 * LENGTH}


def main(kind: str, device: str, precision: str) -> None:
    """Serve."""
    candidate = Product if kind == "product" else Copy
    serve(lambda: candidate(device, precision), "numpy")


if __name__ == "__main__":
    main(*sys.argv[1:])
