"""What a matrix product is, for the library: shapes, how the arrays lie in memory, dtypes and what is done behind it.

Arrays are row-major, or transposed views of such; whatever would need a copy is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from gpubackprop.backend import Array
from gpubackprop.errors import UsageError
from gpubackprop.kernels.cuda.cublaslt import DTYPES
from gpubackprop.registry import did_you_mean

_RELU, _BIAS, _DRELU, _BGRAD, _GELU, _DGELU, _AUX = 2, 4, 8, 16, 32, 64, 128
_SUM_LT_A, _SUM_LT_B = 256, 512
#: What is done behind the product z = alpha a b + beta out, by name -> cublasLtEpilogue_t.
#: bias: z + bias. relu, gelu (its tanh form): of that. _aux: also keep for the backward pass what drelu (a bit a
#: number) or dgelu (z itself) needs: out = z · slope. _bgrad: also bias = sum of out over its rows. bgrad_a: out = z,
#: and bias (M,) = sum of a over K; bgrad_b: bias (N,) = sum of b over K. ReLU makes 0 of NaN, as the library does.
EPILOGUES = {
    "none": 1,
    "bias": _BIAS,
    "relu": _RELU,
    "relu_bias": _RELU | _BIAS,
    "relu_aux": _RELU | _AUX,
    "relu_aux_bias": _RELU | _AUX | _BIAS,
    "gelu": _GELU,
    "gelu_bias": _GELU | _BIAS,
    "gelu_aux": _GELU | _AUX,
    "gelu_aux_bias": _GELU | _AUX | _BIAS,
    "drelu": _DRELU | _AUX,
    "drelu_bgrad": _DRELU | _AUX | _BGRAD,
    "dgelu": _DGELU | _AUX,
    "dgelu_bgrad": _DGELU | _AUX | _BGRAD,
    "bgrad_a": _SUM_LT_B,
    "bgrad_b": _SUM_LT_A,
}


class Matrix(NamedTuple):
    """How a matrix, or a batch of them, lies in memory; numbers of elements."""

    turned: bool  #: its columns are contiguous, not its rows
    lead: int  #: from a row to the next; turned: from a column to the next
    step: int = 0  #: from a matrix of the batch to the next; 0: all are the same one
    alignment: int = 256  #: bytes; the address is a multiple of it


class Product(NamedTuple):
    """out (batch, m, n) = epilogue(alpha · a (batch, m, k) @ b (batch, k, n) + beta · out)."""

    m: int
    n: int
    k: int
    a: Matrix
    b: Matrix
    out: Matrix
    batch: int = 1
    dtype: str = "float32"  #: of a and b, and how they are multiplied: a key of DTYPES
    result: str = "float32"  #: of out, bias and aux
    epilogue: str = "none"
    alpha: float = 1.0
    beta: float = 0.0
    bias_step: int = 0  #: elements from the bias of one matrix of the batch to the next
    bias_alignment: int = 256
    aux_alignment: int = 256

    @property
    def has_bias(self) -> bool:
        """Whether the epilogue reads or writes a bias."""
        return bool(EPILOGUES[self.epilogue] & (_BIAS | _BGRAD | _SUM_LT_A | _SUM_LT_B))

    @property
    def has_aux(self) -> bool:
        """Whether the epilogue writes, or reads, what the backward pass needs."""
        return bool(EPILOGUES[self.epilogue] & _AUX)

    @property
    def aux_lead(self) -> int:
        """Elements of a row of aux: bits in multiples of 128 for ReLU, numbers in multiples of 8 for GELU."""
        unit = 128 if EPILOGUES[self.epilogue] & (_RELU | _DRELU) else 8
        return -(-self.n // unit) * unit


def aux_shape(epilogue: str, m: int, n: int, batch: int = 1) -> tuple[tuple[int, int], bool]:
    """Shape of the array `aux` for `epilogue`, and whether it holds bytes (ReLU's bits) rather than `out`'s dtype."""
    unit = 128 if EPILOGUES[epilogue] & (_RELU | _DRELU) else 8
    lead = -(-n // unit) * unit
    return (batch * m, lead // 8 if unit == 128 else lead), unit == 128


def describe(
    address: Callable[[Array], int],
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
) -> Product:
    """The Product of these arrays. Raises UsageError."""
    dtype, result = dtype or a.dtype.name, result or out.dtype.name
    for name, known in ((dtype, DTYPES), (result, DTYPES), (epilogue, EPILOGUES)):
        if name not in known:
            raise UsageError(f"matmul: unknown {name!r}; known: {', '.join(known)}{did_you_mean(name, known)}")
    result = "float32" if result == "tf32" else result
    (m, k), n, batch = a.shape[-2:], b.shape[-1], out.shape[:-2]
    if b.shape[-2] != k or out.shape[-2:] != (m, n):
        raise UsageError(f"matmul: {a.shape} times {b.shape} does not give {out.shape}")
    if 0 in (m, n, k, *batch):
        raise UsageError(f"matmul: cuBLASLt takes no empty arrays: {a.shape} times {b.shape}; the reference does")
    size = DTYPES[dtype].size, DTYPES[result].size
    lie_a = _lie("a", a, batch, size[0], address)
    lie_b = _lie("b", b, batch, size[0], address)
    lie_out = _lie("out", out, batch, size[1], address)
    count = math.prod(batch)
    product = Product(m, n, k, lie_a, lie_b, lie_out, count, dtype, result, epilogue, float(alpha), float(beta))
    if product.out.turned or (product.batch > 1 and product.out.step == 0):
        raise UsageError("matmul: the rows of out must be contiguous, and its matrices apart from each other")
    if product.has_bias:
        length = m if epilogue == "bgrad_a" else n
        if bias is None or bias.shape not in ((length,), (*batch, length)) or not _dense(bias, size[1]):
            raise UsageError(f"matmul: {epilogue} needs a contiguous bias ({length},) of {result}")
        if bias.shape == (length,) and product.batch > 1 and "bgrad" in epilogue:
            raise UsageError(f"matmul: {epilogue} of a batch gives a bias for each matrix: {(*batch, length)}")
        step = length if bias.ndim > 1 else 0
        product = product._replace(bias_step=step, bias_alignment=_alignment(address(bias)))
    if product.has_aux:
        shape, bits = aux_shape(epilogue, m, n, product.batch)
        if aux is None or aux.shape != shape or not _dense(aux, 1 if bits else size[1]):
            raise UsageError(f"matmul: {epilogue} needs a contiguous aux {shape} of {'uint8' if bits else result}")
        product = product._replace(aux_alignment=_alignment(address(aux)))
    return product


def _lie(name: str, x: Array, batch: tuple[int, ...], size: int, address: Callable[[Array], int]) -> Matrix:
    if x.dtype.itemsize != size:
        raise UsageError(f"matmul: {name} has numbers of {x.dtype.itemsize} bytes, its dtype {size}")
    *steps, down, right = (stride // size for stride in x.strides)
    rows, columns = x.shape[-2:]
    if (right == 1 or columns == 1) and (down >= columns or rows == 1):
        turned, lead = False, down if rows > 1 else columns
    elif (down == 1 or rows == 1) and (right >= rows or columns == 1):
        turned, lead = True, right if columns > 1 else rows
    else:
        raise UsageError(
            f"matmul: {name} has strides {x.strides} for {x.shape}: neither rows nor columns are contiguous"
        )
    counts = [1] * (len(batch) - len(steps)) + list(x.shape[:-2])
    steps = [0] * (len(batch) - len(steps)) + steps
    if len(counts) != len(batch) or any(count not in (1, whole) for count, whole in zip(counts, batch, strict=True)):
        raise UsageError(f"matmul: the batch of {name}, {x.shape[:-2]}, does not broadcast to out's, {batch}")
    step = inner = 0
    for whole, count, stride in list(zip(batch, counts, steps, strict=True))[::-1]:
        stride = 0 if count == 1 else stride
        if whole == 1:
            continue
        if not inner:
            step, inner = stride, whole
        elif stride != step * inner:
            raise UsageError(f"matmul: the matrices of {name} {x.shape} are not evenly spaced: {x.strides}")
        else:
            inner *= whole
    if step < 0:
        raise UsageError(f"matmul: {name} runs backwards: strides {x.strides}")
    return Matrix(turned, lead, step, _alignment(address(x)))


def _dense(x: Array, size: int) -> bool:
    return bool(x.flags.c_contiguous) and x.dtype.itemsize == size


def _alignment(address: int) -> int:
    return min(address & -address, 256) or 256
