"""The GPU's speed as a candidate: python -m scripts.gpu.gemm ours|torch PRECISION [SIDE [DEVICE]]

A step is one product of two square matrices of normal random numbers; on zeros a GPU draws less power and is faster.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np

from gpubackprop.run.bench.process import CannotError, serve

SIDE = 8192


class Product:
    """`launch` begins one, `wait` waits for all."""

    def __init__(self, side: int, launch: Callable[[], Any], wait: Callable[[], Any]) -> None:
        self.side, self.launch, self.wait = side, launch, wait

    def step(self) -> None:
        """One product, waited for."""
        self.launch()
        self.wait()

    def about(self) -> dict[str, Any]:
        """How many operations a step takes."""
        return {"work": 2 * self.side**3}


def drawn(side: int) -> list[Any]:
    """Two matrices."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal((side, side), np.float32) for _ in range(2)]


def ours(precision: str, side: int, device: str) -> Product:
    """By the backend's own products."""
    from gpubackprop.backend import choose

    backend: Any = choose(device)[0]
    dtype: Any = np.float32
    if precision == "bfloat16":
        try:
            from ml_dtypes import bfloat16 as dtype
        except ImportError as error:
            raise CannotError("ml_dtypes, which has bfloat16, is not installed") from error
    a, b = (backend.from_host(each.astype(dtype)) for each in drawn(side))
    out = backend.empty(a.shape, a.dtype) if hasattr(backend, "empty") else backend.xp.empty_like(a)
    if hasattr(backend, "multiply"):
        options = {"dtype": "tf32"} if precision == "tf32" else {}
        return Product(side, lambda: backend.multiply(a, b, out, **options), backend.synchronize)
    if precision == "tf32":
        raise CannotError("this backend has no products in tf32")
    return Product(side, lambda: backend.matmul(a, b, out), backend.synchronize)


def by_torch(precision: str, side: int, device: str) -> Product:
    """By PyTorch's."""
    torch = import_module("torch")
    on_gpu = device.startswith("cuda")
    if on_gpu and not torch.cuda.is_available():
        raise CannotError("this PyTorch cannot use the GPU")
    if precision == "tf32":
        torch.set_float32_matmul_precision("high")
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.from_numpy(each).to(device, dtype) for each in drawn(side))
    out = torch.empty_like(a)
    return Product(side, lambda: torch.mm(a, b, out=out), torch.cuda.synchronize if on_gpu else lambda: None)


def main(who: str, precision: str, side: str = str(SIDE), device: str = "cuda") -> None:
    """Serve."""
    make = by_torch if who == "torch" else ours
    serve(lambda: make(precision, int(side), device), "numpy")


if __name__ == "__main__":
    main(*sys.argv[1:])
