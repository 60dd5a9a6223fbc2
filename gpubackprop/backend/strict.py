"""A device for tests: NumPy's arithmetic behind an array class that is as strict as a GPU.

Its arrays refuse every implicit mix with host arrays, as CuPy's do; inside a captured step they also refuse whatever
would wait for the device or give an array whose shape depends on data. Its namespace holds only what NumPy and CuPy
spell alike. So a test run on a CPU finds what would break, or could not be captured, on a GPU.
"""

from __future__ import annotations

import operator
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from gpubackprop.backend.base import Array, Backend, HostArray, NumpyBackend

#: Functions and constants that CuPy has under NumPy's name and with its meaning (a test compares with CuPy itself).
SHARED_NAMES = """
    abs absolute add arange argmax argmin argsort array_equal asarray broadcast_to ceil clip concatenate copyto cos
    cumsum divide dtype empty empty_like equal exp expand_dims expm1 eye finfo flip float32 float64 floor full full_like
    greater iinfo inf int32 int64 isfinite less log log1p logical_and logical_not logical_or matmul max maximum mean
    min minimum moveaxis multiply nan ndarray negative newaxis not_equal ones ones_like pad pi power prod ravel
    reciprocal repeat reshape rint roll round sign sin split sqrt square squeeze stack subtract sum swapaxes take
    take_along_axis tanh tensordot transpose tri tril triu uint32 uint64 uint8 var where zeros zeros_like bool_ int8
    array_split einsum dot std median cumprod sinh cosh arctan exp2 log2 floor_divide remainder any all isnan
"""
SHARED = frozenset(SHARED_NAMES.split())
_METHOD_NAMES = """
    all any argmax argmin argsort astype clip copy cumsum fill max mean min prod ravel repeat reshape round squeeze
    std sum swapaxes take transpose var view
"""
_METHODS = frozenset(_METHOD_NAMES.split())
JOINED = 8  #: arrays that CuPy joins by a copy each; of more, unless they are large, it makes an array of addresses
_ATTRIBUTES = frozenset(("dtype", "shape", "ndim", "size", "strides", "nbytes", "itemsize", "flags"))


class StrictError(TypeError):
    """Something that a GPU would refuse, or that could not be captured."""


class Watcher(Protocol):
    """Whoever wants to know what is done with device arrays: a stand-in for a device whose work is put off."""

    def sees(self, reads: Sequence[HostArray], writes: Sequence[HostArray]) -> None:
        """Memory that is read and written by the next piece of work."""

    def pointer(self, host: HostArray) -> Any:
        """What CuPy calls an array's `data`."""

    def places(self, host: HostArray) -> HostArray:
        """A fresh array, where the device would have put it."""

    def puts_off(self, work: Callable[[], object]) -> bool:
        """Whether `work` is kept to be done later; if not, it is done now."""


class StrictArray:
    """A device array whose memory only StrictBackend may look at."""

    __slots__ = ("_host",)
    __array_ufunc__ = None  # so that `numpy_array + strict_array` comes to our __radd__, which refuses it
    inside_step = False
    watcher: Watcher | None = None

    def __init__(self, host: HostArray) -> None:
        self._host = host

    def __array__(self, *_: object, **__: object) -> HostArray:
        raise StrictError("implicit conversion of a device array to NumPy; use backend.to_host")

    def __getattr__(self, name: str) -> Any:
        if name in _ATTRIBUTES:
            return getattr(self._host, name)
        if name == "T":
            return StrictArray(self._host.T)
        if name in _METHODS:
            method = getattr(np.ndarray, name)
            if name == "fill":
                return lambda value: _write(self, method, self._host, _unwrap(value))
            return lambda *args, **kwargs: _compute(method, self._host, *_unwrap(args), **_unwrap(kwargs))
        raise AttributeError(f"device arrays have no {name!r}")

    def __getitem__(self, key: object) -> StrictArray:
        found: StrictArray = _compute(operator.getitem, self._host, _index(key))
        return found

    @property
    def data(self) -> Any:
        """Where it lies, as CuPy says it: `data.ptr` is its address."""
        if self.watcher is not None:
            return self.watcher.pointer(self._host)
        return types.SimpleNamespace(ptr=self._host.ctypes.data)

    def __setitem__(self, key: object, value: object) -> None:
        _write(self, operator.setitem, self._host, _index(key), _unwrap(value))

    def __len__(self) -> int:
        return len(self._host)

    def __iter__(self) -> Iterator[StrictArray]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        return f"StrictArray(shape={self._host.shape}, dtype={self._host.dtype})"

    def _read(self) -> Any:
        _refuse_wait("reading a number from a device array")
        return self._host.item()

    def __float__(self) -> float:
        return float(self._read())

    def __int__(self) -> int:
        return int(self._read())

    def __bool__(self) -> bool:
        return bool(self._read())

    def item(self) -> Any:
        """The only element, as a Python number; waits for the device."""
        return self._read()


def _binary(name: str, reflected: bool) -> Callable[[StrictArray, object], Any]:
    function = getattr(operator, name)

    def method(self: StrictArray, other: object) -> Any:
        return _compute(function, *((_unwrap(other), self._host) if reflected else (self._host, _unwrap(other))))

    return method


def _unary(name: str) -> Callable[[StrictArray], Any]:
    function = getattr(operator, name)
    return lambda self: _compute(function, self._host)


def _inplace(name: str) -> Callable[[StrictArray, object], StrictArray]:
    function = getattr(operator, name)

    def method(self: StrictArray, other: object) -> StrictArray:
        _write(self, function, self._host, _unwrap(other))
        return self

    return method


_ARITHMETIC = ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul")
_BITWISE = ("and_", "or_", "xor", "lshift", "rshift")
for _name in _ARITHMETIC + _BITWISE:
    _bare = _name.strip("_")
    setattr(StrictArray, f"__{_bare}__", _binary(_name, reflected=False))
    setattr(StrictArray, f"__r{_bare}__", _binary(_name, reflected=True))
    setattr(StrictArray, f"__i{_bare}__", _inplace(f"i{_bare}"))
for _name in ("eq", "ne", "lt", "le", "gt", "ge"):
    setattr(StrictArray, f"__{_name}__", _binary(_name, reflected=False))
for _name in ("neg", "pos", "invert", "abs"):
    setattr(StrictArray, f"__{_name}__", _unary(_name))
StrictArray.__hash__ = None  # type: ignore[assignment]  # == compares elements, as NumPy's does


def _refuse_wait(what: str) -> None:
    if StrictArray.inside_step:
        raise StrictError(f"{what} inside a step: it waits for the device and cannot be captured")


def _unwrap(value: Any) -> Any:
    """Device arrays to their memory, in nested arguments; host arrays are refused, Python and NumPy scalars pass."""
    if isinstance(value, StrictArray):
        return value._host
    if isinstance(value, np.ndarray):
        raise StrictError("implicit mix of a device array and a NumPy array; use backend.from_host")
    if isinstance(value, tuple | list):
        return type(value)(map(_unwrap, value))
    if isinstance(value, dict):
        return {key: _unwrap(item) for key, item in value.items()}
    return value


def _wrap(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return StrictArray(value)
    if isinstance(value, np.generic):
        return StrictArray(np.asarray(value))
    if isinstance(value, tuple | list):
        return type(value)(map(_wrap, value))
    return value


def _compute(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """function(*args, **kwargs) of unwrapped arguments; what it gives is a view of one of them, or fresh memory."""
    watcher = StrictArray.watcher
    if watcher is None:
        return _wrap(function(*args, **kwargs))
    inputs = _arrays_in((args, kwargs))
    out = kwargs.get("out")
    if isinstance(out, np.ndarray):
        return _write(StrictArray(out), function, *args, **kwargs)
    with np.errstate(all="ignore"):  # what is put off computes on memory without meaning now
        result = function(*args, **kwargs)
    if isinstance(result, np.ndarray) and not any(np.may_share_memory(result, b) for b in inputs):
        result = watcher.places(result)
    fresh = [a for a in _arrays_in(result) if not any(np.may_share_memory(a, b) for b in inputs)]
    if fresh:
        watcher.sees(inputs, fresh)

        def again() -> None:
            for held, new in zip(fresh, _arrays_in(function(*args, **kwargs)), strict=True):
                np.copyto(held, new)

        if watcher.puts_off(again):
            for a in fresh:
                poison(a, 0)
    elif isinstance(result, np.generic) and inputs:
        return _compute(lambda: np.asarray(function(*args, **kwargs)))  # CuPy gives a 0-d array
    return _wrap(result)


def _write(target: StrictArray, function: Callable[..., Any], *args: Any, **kwargs: Any) -> StrictArray:
    """function(*args, **kwargs), which writes into `target` and makes no other array."""
    watcher = StrictArray.watcher
    if watcher is not None:
        watcher.sees(_arrays_in((args, kwargs)), [target._host])
    if watcher is None or not watcher.puts_off(lambda: function(*args, **kwargs)):
        result = function(*args, **kwargs)
        if isinstance(result, np.ndarray | np.generic) and result is not target._host:
            raise StrictError(f"{function.__name__} in place gave another array: a 0-d one is written by x[...] = y")
    return target


def _arrays_in(value: Any) -> list[HostArray]:
    if isinstance(value, np.ndarray):
        return [value]
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, tuple | list) else []
    return [a for item in inner for a in _arrays_in(item)]


def poison(array: HostArray, number: int = 99) -> None:
    """Fill memory that nobody has written yet: with NaN; integers with a `number` that is none of ours.

    Where work is put off that is 0: NumPy would not look for another index.
    """
    kind = array.dtype.kind
    array[...] = np.nan if kind in "fV" else number if kind != "b" else True  # NumPy knows bfloat16 as a void


def _index(key: Any) -> Any:
    parts = key if isinstance(key, tuple) else (key,)
    for part in parts:
        if isinstance(part, list):
            raise StrictError("a list as an index: CuPy would copy it to the device; make a device array first")
        if isinstance(part, StrictArray) and part.dtype == bool:
            _refuse_wait("boolean indexing")
    parts = tuple(map(_unwrap, parts))
    # With an Ellipsis even a full index gives a 0-d array, as CuPy's does, and never a host scalar.
    return parts if any(part is Ellipsis for part in parts) else (*parts, Ellipsis)


def _where(*args: Any) -> Any:
    if len(args) == 1:
        _refuse_wait("where of a condition alone: its shape depends on data,")
    return _compute(np.where, *_unwrap(args))


def _joining(name: str) -> Callable[..., Any]:
    function = getattr(np, name)

    def join(arrays: Sequence[StrictArray], *args: Any, **kwargs: Any) -> Any:
        if len(arrays) > JOINED:
            _refuse_wait(f"{name} of {len(arrays)} arrays, whose addresses CuPy sends from the host,")
        return _compute(function, _unwrap(arrays), *args, **_unwrap(kwargs))

    return join


class StrictNamespace:
    """NumPy's functions that CuPy shares, taking and giving StrictArrays."""

    @property
    def lib(self) -> Any:
        """`lib.stride_tricks.as_strided`, the one there that never waits for the device."""

        def as_strided(x: StrictArray, shape: tuple[int, ...], strides: tuple[int, ...]) -> StrictArray:
            return StrictArray(np.lib.stride_tricks.as_strided(x._host, shape, strides))

        return types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=as_strided))

    def __getattr__(self, name: str) -> Any:
        if name not in SHARED:
            raise AttributeError(f"{name!r} is not among the functions that NumPy and CuPy share (backend/strict.py)")
        thing = getattr(np, name)
        if name == "where":
            return _where
        if name in ("concatenate", "stack"):
            return _joining(name)
        if isinstance(thing, types.FunctionType | types.BuiltinFunctionType | np.ufunc) or hasattr(
            thing, "__wrapped__"
        ):
            if name == "copyto":
                return lambda to, *args, **kwargs: _write(to, thing, *_unwrap((to, *args)), **_unwrap(kwargs))
            return lambda *args, **kwargs: _compute(thing, *_unwrap(args), **_unwrap(kwargs))
        return thing


class StrictBackend(Backend):
    """The test device; arithmetic, and so every result, is NumPy's own."""

    name, device = "strict", "strict"
    asynchronous = True

    def __init__(self) -> None:
        self.xp = StrictNamespace()

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """NumPy's product; the result lands in `out` where one is given."""
        result = np.matmul(_unwrap(a), _unwrap(b), out=None if out is None else _unwrap(out))
        return _wrap(result) if out is None else out

    def scatter_add(self, out: Array, index: Array, value: Array) -> None:
        """`out[index] += value`, repetitions counted."""
        np.add.at(_unwrap(out), _unwrap(index), _unwrap(value))

    def erf(self, x: Array) -> Array:
        """The error function."""
        return _wrap(NumpyBackend().erf(_unwrap(x)))

    def from_host(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """Always a copy, so that writing to the host's array is not seen here."""
        return StrictArray(np.array(array, dtype))

    def to_host(self, array: Array) -> HostArray:
        """A copy; refused inside a step."""
        _refuse_wait("to_host")
        if not isinstance(array, StrictArray):
            raise StrictError(f"to_host of {type(array).__name__}, which is not a device array")
        return array._host.copy()

    def owns(self, array: object) -> bool:
        """Whether this is a StrictArray."""
        return isinstance(array, StrictArray)

    def capture(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step` with every wait refused while it runs; silent about overflow, as a GPU is."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            StrictArray.inside_step = True
            try:
                with np.errstate(all="ignore"):
                    return step(*args, **kwargs)
            finally:
                StrictArray.inside_step = False

        return guarded
