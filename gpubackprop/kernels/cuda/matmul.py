"""Matrix products as plans of cuBLASLt: described once, their algorithm chosen once, then only pointers are set.

Arrays are row-major, or transposed views of such: nothing is copied. The library counts in columns, where a row-major
matrix is its own transpose; so its A is our b, its B our a, and it computes outᵀ = bᵀ aᵀ. Thus a bias is as long as a
row of `out`.

Nothing here has run on a GPU yet: no algorithm was ever chosen or timed on one, and which epilogue is quick, or offered
at all, for which dtype is the library's to say (NOT_SUPPORTED, a StatusError).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import byref, c_double, c_float, c_int, c_void_p
from math import inf

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.cublaslt import (
    ATTRIBUTES,
    DTYPES,
    Algorithm,
    Handle,
    Heuristic,
    Library,
    Opaque,
    StatusError,
)
from gpubackprop.kernels.cuda.matmul_product import EPILOGUES, Matrix, Product, describe


class Matmul:
    """A plan: the library's descriptors of a Product (which need no GPU) and, once chosen, an algorithm."""

    def __init__(self, library: Library, product: Product) -> None:
        self.product, self._library = product, library
        kind, result = DTYPES[product.dtype], DTYPES[product.result]
        a, b, out = product.a, product.b, product.out
        self.description = Opaque(library, "MatmulDesc", kind.compute, kind.scale)
        self.description.set(TRANSA=int(b.turned), TRANSB=int(a.turned), EPILOGUE=EPILOGUES[product.epilogue])
        if product.has_bias:
            self.description.set(BIAS_BATCH_STRIDE=product.bias_step)
        if product.has_aux:
            step = product.m * product.aux_lead
            self.description.set(EPILOGUE_AUX_LD=product.aux_lead, EPILOGUE_AUX_BATCH_STRIDE=step)
        self.a = self._layout(kind.code, a, product.m, product.k)
        self.b = self._layout(kind.code, b, product.k, product.n)
        self.out = self._layout(result.code, out, product.m, product.n)
        scalar = c_double if kind.scale == DTYPES["float64"].code else c_float
        self._alpha, self._beta = scalar(product.alpha), scalar(product.beta)
        self._bias, self._aux = c_void_p(), c_void_p()
        self.algorithm: Algorithm | None = None

    def _layout(self, code: int, matrix: Matrix, rows: int, columns: int) -> Opaque:
        inner, outer = (rows, columns) if matrix.turned else (columns, rows)
        layout = Opaque(self._library, "MatrixLayout", code, inner, outer, matrix.lead)
        layout.set(BATCH_COUNT=self.product.batch, STRIDED_BATCH_OFFSET=matrix.step)
        return layout

    def close(self) -> None:
        """Destroy the descriptors; the plan can't be used any more."""
        for each in (self.description, self.a, self.b, self.out):
            each.close()

    def point(self, bias: int = 0, aux: int = 0) -> None:
        """Set the addresses that the epilogue works on."""
        self._bias.value, self._aux.value = bias, aux
        if self.product.has_bias:
            self._set_address("BIAS_POINTER", self._bias)
        if self.product.has_aux:
            self._set_address("EPILOGUE_AUX_POINTER", self._aux)

    def _set_address(self, name: str, value: c_void_p) -> None:
        number = ATTRIBUTES["MatmulDesc"][name][0]
        code = self._library.set_description(self.description.handle, number, byref(value), ctypes.sizeof(value))
        if code:
            raise StatusError("cublasLtMatmulDescSetAttribute", code, self.product)

    def candidates(self, handle: Handle, workspace_bytes: int, count: int) -> list[Algorithm]:
        """Up to `count` algorithms that take no more workspace, most promising first.

        Call `point` before: the library looks at the addresses' alignment. Raises StatusError where there is none.
        """
        product, preference = self.product, Opaque(self._library, "MatmulPreference")
        preference.set(
            MAX_WORKSPACE_BYTES=workspace_bytes,
            MIN_ALIGNMENT_A_BYTES=product.b.alignment,
            MIN_ALIGNMENT_B_BYTES=product.a.alignment,
            MIN_ALIGNMENT_C_BYTES=product.out.alignment,
            MIN_ALIGNMENT_D_BYTES=product.out.alignment,
        )
        found, number = (Heuristic * count)(), c_int()
        layouts = self.b.handle, self.a.handle, self.out.handle, self.out.handle
        name = "cublasLtMatmulAlgoGetHeuristic"
        try:
            self._library.call(
                name, handle.handle, self.description.handle, *layouts, preference.handle, count, found, byref(number)
            )
        except StatusError as error:
            raise StatusError(name, error.status, product) from error
        finally:
            preference.close()
        usable = [Algorithm.from_buffer_copy(each.algorithm) for each in found[: number.value] if each.state == 0]
        if not usable:
            raise StatusError(name, 15, product)  # NOT_SUPPORTED, which some versions don't say
        return usable

    def __call__(self, handle: Handle, a: int, b: int, out: int, workspace: int, size: int, stream: int) -> None:
        """Compute, with the addresses of a, b, out and of `size` bytes of workspace. Raises StatusError."""
        o = self.out.handle
        code = self._library.matmul(
            handle.handle, self.description.handle, byref(self._alpha), b, self.b.handle, a, self.a.handle,
            byref(self._beta), out, o, out, o, self.algorithm, workspace, size, stream,
        )  # fmt: skip  # one C argument list
        if code:
            raise StatusError("cublasLtMatmul", code, self.product)


class Multiplier:
    """Multiplies the arrays of one GPU; each Product is planned once.

    `address` gives an array's address, `workspace` is the address of `workspace_bytes` bytes (a multiple of 256; 32 MiB
    suit Hopper), which belong to one stream at a time; `stream` gives the stream of the moment. With a `timer`, of a
    call in seconds, the quickest of the library's first `tries` algorithms is taken, else its first: the calls write
    `out` again and again, so a product that adds to `out` (beta) is not timed. The first call of each Product makes its
    plan, and has to come before a stream is captured. `float32`: how float32 is multiplied, "tf32" if not exactly.
    """

    def __init__(
        self,
        library: Library,
        address: Callable[[Array], int],
        workspace: int = 0,
        workspace_bytes: int = 0,
        stream: Callable[[], int] = lambda: 0,
        timer: Callable[[Callable[[], None]], float] | None = None,
        tries: int = 8,
        float32: str = "float32",
    ) -> None:
        self._library, self._handle, self._address = library, Handle(library), address
        self._workspace, self._bytes, self._stream = workspace, workspace_bytes, stream
        self._timer, self._tries, self.float32 = timer, tries, float32
        self._adopted: dict[str, str] = {}
        self._refused: dict[Product, StatusError] = {}
        self.plans: dict[Product, Matmul] = {}

    def __call__(
        self,
        a: Array,
        b: Array,
        out: Array,
        *,
        dtype: str | None = None,
        result: str | None = None,
        epilogue: str = "none",
        bias: Array | None = None,
        aux: Array | None = None,
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> Array:
        """out (..., M, N) = epilogue(alpha · a (..., M, K) @ b (..., K, N) + beta · out); gives `out`.

        The batches of a and b are broadcast to out's. Either may be a transposed view; out's rows are contiguous. dtype
        and result: as in Product, else the arrays' own. bias: (N,) or (..., N), contiguous, of out's dtype ("bgrad_a":
        M for N); aux: as `aux_shape` says. Raises UsageError for what would need a copy, and StatusError.
        """
        if (dtype or a.dtype.name) == "float32":
            dtype = self.float32
        product = describe(
            self._address, a, b, out, dtype=dtype, result=result, epilogue=epilogue, bias=bias, aux=aux,
            alpha=alpha, beta=beta,
        )  # fmt: skip  # one C argument list
        if product in self._refused:
            raise self._refused[product]
        where = self._address(a), self._address(b), self._address(out)
        plan = self.plans.get(product) or Matmul(self._library, product)
        plan.point(self._address(bias) if bias is not None else 0, self._address(aux) if aux is not None else 0)
        if plan.algorithm is None:
            try:
                self._choose(plan, where)
            except StatusError as error:
                self._refused[product] = error
                raise
            self.plans[product] = plan
        plan(self._handle, *where, self._workspace, self._bytes, self._stream())
        return out

    def _choose(self, plan: Matmul, where: tuple[int, int, int]) -> None:
        kept = self._adopted.get(self._name(plan.product))
        if kept is not None:
            plan.algorithm = Algorithm.from_buffer_copy(bytes.fromhex(kept))
            return
        measured = self._timer is not None and plan.product.beta == 0
        candidates = plan.candidates(self._handle, self._bytes, self._tries if measured else 1)
        plan.algorithm = candidates[0]
        if self._timer is None or len(candidates) == 1:
            return
        seconds: list[float] = []
        for plan.algorithm in candidates:
            try:
                time = self._timer(lambda: plan(self._handle, *where, self._workspace, self._bytes, self._stream()))
            except StatusError:  # the library promised too much: the call behind this one says so if none works
                time = inf
            seconds.append(time)
        plan.algorithm = candidates[seconds.index(min(seconds))]

    def _name(self, product: Product) -> str:
        return f"cublasLt {self._library.version} {self._bytes} {product}"

    @property
    def choices(self) -> dict[str, str]:
        """The algorithm of each plan, in words, so that a later run can compute the same to the bit."""
        return {self._name(product): bytes(plan.algorithm or b"").hex() for product, plan in self.plans.items()}

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Take an earlier run's algorithms; only the same version of the library knows them again."""
        self._adopted.update(choices)

    def close(self) -> None:
        """Destroy all plans and the library's context."""
        for plan in self.plans.values():
            plan.close()
        self.plans.clear()
        self._handle.close()
