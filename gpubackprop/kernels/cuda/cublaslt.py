"""cuBLASLt by ctypes: the dozen functions that a matrix product needs, with their types, and errors that have names.

Numbers and types are those of NVIDIA's `cublasLt.h`. CUDA refuses cuBLAS while a stream is captured through CuPy; these
functions may be captured, write into the caller's buffers and take the caller's workspace.

Nothing here has run on a GPU yet. Tests call a double of the library that decodes what it is given, and, where the real
library is installed, let it make and read back the same descriptors, which it can without a GPU.
"""

from __future__ import annotations

import ctypes
import weakref
from ctypes import POINTER, c_float, c_int, c_int32, c_int64, c_size_t, c_uint32, c_uint64, c_void_p
from enum import IntEnum
from typing import Any, NamedTuple

from gpubackprop.errors import DeviceError, GpubackpropError


class Status(IntEnum):
    """cublasStatus_t."""

    SUCCESS = 0
    NOT_INITIALIZED = 1
    ALLOC_FAILED = 3
    INVALID_VALUE = 7
    ARCH_MISMATCH = 8
    MAPPING_ERROR = 11
    EXECUTION_FAILED = 13
    INTERNAL_ERROR = 14
    NOT_SUPPORTED = 15
    LICENSE_ERROR = 16


_MEANING = {
    Status.NOT_INITIALIZED: "the CUDA driver or the GPU cannot be used",
    Status.ALLOC_FAILED: "no memory left on the GPU",
    Status.INVALID_VALUE: "arguments that contradict each other, or too small a workspace",
    Status.ARCH_MISMATCH: "this GPU cannot do it",
    Status.EXECUTION_FAILED: "the kernel failed on the GPU, or an earlier one did",
    Status.NOT_SUPPORTED: "no algorithm for these dtypes, layouts and epilogue on this GPU",
}


class StatusError(GpubackpropError):
    """A function of cuBLASLt failed; `status` says how (a number that is no Status stays a number)."""

    def __init__(self, function: str, code: int, about: object = "") -> None:
        self.status: int = Status(code) if code in list(Status) else code
        name = self.status.name if isinstance(self.status, Status) else "unknown status"
        meaning = _MEANING.get(self.status, "") if isinstance(self.status, Status) else ""
        super().__init__(
            f"{function}: CUBLAS_STATUS_{name} ({code})"
            + (f": {meaning}" if meaning else "")
            + (f"; {about}" * bool(about))
        )


class Algorithm(ctypes.Structure):
    """cublasLtMatmulAlgo_t: plain bytes, which may be stored and used again with the same version of the library."""

    _fields_ = (("data", c_uint64 * 8),)


class Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", Algorithm),
        ("workspace", c_size_t),
        ("state", c_int),
        ("waves", c_float),
        ("reserved", c_int * 4),
    )


class Dtype(NamedTuple):
    """How the library computes on one kind of numbers."""

    code: int  #: cudaDataType_t of the numbers in memory
    compute: int  #: cublasComputeType_t
    scale: int  #: cudaDataType_t of alpha and beta
    size: int  #: bytes of a number


#: By name; "tf32" is float32 in memory, multiplied with 10 bits of mantissa. Sums are float32 for all but float64.
DTYPES = {
    "float32": Dtype(0, 68, 0, 4),
    "tf32": Dtype(0, 77, 0, 4),
    "bfloat16": Dtype(14, 68, 0, 2),
    "float16": Dtype(2, 68, 0, 2),
    "float64": Dtype(1, 70, 1, 8),
}

#: Attributes by the kind of object: their number and the type of their value.
ATTRIBUTES: dict[str, dict[str, tuple[int, Any]]] = {
    "MatmulDesc": {
        "TRANSA": (3, c_int32),
        "TRANSB": (4, c_int32),
        "EPILOGUE": (7, c_uint32),
        "BIAS_POINTER": (8, c_void_p),
        "BIAS_BATCH_STRIDE": (10, c_int64),
        "EPILOGUE_AUX_POINTER": (11, c_void_p),
        "EPILOGUE_AUX_LD": (12, c_int64),
        "EPILOGUE_AUX_BATCH_STRIDE": (13, c_int64),
    },
    "MatrixLayout": {
        "TYPE": (0, c_uint32),
        "ROWS": (2, c_uint64),
        "COLS": (3, c_uint64),
        "LD": (4, c_int64),
        "BATCH_COUNT": (5, c_int32),
        "STRIDED_BATCH_OFFSET": (6, c_int64),
    },
    "MatmulPreference": {
        "MAX_WORKSPACE_BYTES": (1, c_uint64),
        "MIN_ALIGNMENT_A_BYTES": (5, c_uint32),
        "MIN_ALIGNMENT_B_BYTES": (6, c_uint32),
        "MIN_ALIGNMENT_C_BYTES": (7, c_uint32),
        "MIN_ALIGNMENT_D_BYTES": (8, c_uint32),
    },
}

_P = c_void_p
SIGNATURES: dict[str, tuple[Any, ...]] = {
    "cublasLtCreate": (POINTER(_P),),
    "cublasLtDestroy": (_P,),
    "cublasLtMatmulDescCreate": (POINTER(_P), c_int, c_int),
    "cublasLtMatrixLayoutCreate": (POINTER(_P), c_int, c_uint64, c_uint64, c_int64),
    "cublasLtMatmulPreferenceCreate": (POINTER(_P),),
    "cublasLtMatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, c_int, POINTER(Heuristic), POINTER(c_int)),
    # handle, description, alpha, A, its layout, B, its layout, beta, C, its layout, D, its layout, algorithm, workspace
    # and its bytes, stream
    "cublasLtMatmul": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, POINTER(Algorithm), _P, c_size_t, _P),
}
for _kind in ATTRIBUTES:
    SIGNATURES[f"cublasLt{_kind}Destroy"] = (_P,)
    SIGNATURES[f"cublasLt{_kind}SetAttribute"] = (_P, c_int, _P, c_size_t)
    SIGNATURES[f"cublasLt{_kind}GetAttribute"] = (_P, c_int, _P, c_size_t, POINTER(c_size_t))


class Library:
    """cuBLASLt, or an object with functions of the same names; sets their types."""

    def __init__(self, functions: Any) -> None:
        self._functions = {name: getattr(functions, name) for name in SIGNATURES}
        for name, types in SIGNATURES.items():
            self._functions[name].argtypes, self._functions[name].restype = types, c_int
        functions.cublasLtGetVersion.argtypes, functions.cublasLtGetVersion.restype = (), c_size_t
        self.version: int = functions.cublasLtGetVersion()
        #: bare functions for a product that is repeated; they give a status
        self.matmul, self.set_description = functions.cublasLtMatmul, functions.cublasLtMatmulDescSetAttribute

    def call(self, name: str, *arguments: Any) -> None:
        """Call a function. Raises StatusError."""
        code = self._functions[name](*arguments)
        if code:
            raise StatusError(name, code)


def load() -> Library:
    """The library that CUDA's pathfinder finds: of the wheels, of conda, or of the system. Raises DeviceError."""
    try:
        from cuda.pathfinder import load_nvidia_dynamic_lib
    except ImportError as error:
        raise DeviceError(f"cuBLASLt is found by cuda-pathfinder ({error}): pip install cuda-pathfinder") from error
    try:
        path = load_nvidia_dynamic_lib("cublasLt").abs_path
        return Library(ctypes.CDLL(path))
    except (RuntimeError, OSError) as error:  # pathfinder's own error is a RuntimeError
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DeviceError(
            f"cuBLASLt cannot be loaded ({reason}): pip install nvidia-cublas (CUDA 12: nvidia-cublas-cu12)"
        ) from error


class Opaque:
    """A "MatmulDesc", "MatrixLayout" or "MatmulPreference" of the library; destroyed with this object or by close()."""

    def __init__(self, library: Library, kind: str, *arguments: Any) -> None:
        self._library, self._kind, self.handle = library, kind, c_void_p()
        library.call(f"cublasLt{kind}Create", ctypes.byref(self.handle), *arguments)
        self.close = weakref.finalize(self, library.call, f"cublasLt{kind}Destroy", c_void_p(self.handle.value))

    def set(self, **attributes: int) -> None:
        """Set attributes by the names of ATTRIBUTES. Raises StatusError."""
        for name, value in attributes.items():
            number, ctype = ATTRIBUTES[self._kind][name]
            memory = ctypes.byref(ctype(value))
            self._library.call(f"cublasLt{self._kind}SetAttribute", self.handle, number, memory, ctypes.sizeof(ctype))

    def get(self, name: str) -> int:
        """An attribute as the library has it; a null pointer is 0. Raises StatusError."""
        number, ctype = ATTRIBUTES[self._kind][name]
        value, written = ctype(), c_size_t()
        where = ctypes.byref(value), ctypes.sizeof(ctype), ctypes.byref(written)
        self._library.call(f"cublasLt{self._kind}GetAttribute", self.handle, number, *where)
        return int(value.value or 0)


class Handle:
    """cuBLASLt's context on the current GPU. Raises DeviceError where there is none."""

    def __init__(self, library: Library) -> None:
        self.library, self.handle = library, c_void_p()
        try:
            library.call("cublasLtCreate", ctypes.byref(self.handle))
        except StatusError as error:
            raise DeviceError(f"cuBLASLt {library.version} cannot be used here: {error}") from error
        self.close = weakref.finalize(self, library.call, "cublasLtDestroy", c_void_p(self.handle.value))
