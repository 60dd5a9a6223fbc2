"""A recorded step as a program: all arguments lie ready in memory, and compiled code goes from launch to launch.

Called from Python a launch costs a microsecond or two before it begins, as much as the arithmetic of a small layer.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, TypeAlias

import numpy as np
from llvmlite import ir
from numba import types
from numba.core.dispatcher import Dispatcher
from numba.extending import intrinsic

from gpubackprop.kernels.cpu.jit import compiled
from gpubackprop.kernels.cpu.share import WHOLE

Launch: TypeAlias = tuple[Callable[..., Any], tuple[Any, ...]]
_PLAIN = {
    types.int32: ctypes.c_int32,
    types.int64: ctypes.c_int64,
    types.uint8: ctypes.c_uint8,
    types.uint32: ctypes.c_uint32,
    types.uint64: ctypes.c_uint64,
    types.float32: ctypes.c_float,
    types.float64: ctypes.c_double,
    types.boolean: ctypes.c_bool,
}
_BYTE = ir.IntType(8).as_pointer()


@intrinsic
def _call(context, function, data):
    """What the function of `share.whole` at an address returns for the arguments at another."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [_BYTE])
        return builder.call(builder.inttoptr(args[0], kind.as_pointer()), [builder.inttoptr(args[1], _BYTE)])

    return types.int32(types.int64, types.int64), generate


@compiled
def _run(calls):  # (L, 2): addresses of functions and of their arguments; how many of them did not raise
    for i in range(calls.shape[0]):
        if _call(calls[i, 0], calls[i, 1]) != 0:
            return i
    return calls.shape[0]


class Refused(Exception):
    """A launch raised: it did not take its data."""


class Program:
    """`program()` does what calling each function with its arguments does. Raises Refused where one raised."""

    def __init__(self, launches: Sequence[Launch]) -> None:
        self.launches = launches  # whose arrays are held by it
        self.compiled = all(isinstance(function, Dispatcher) for function, _ in launches)
        self.calls: list[Callable[[], Any]] = []
        for ready, group in groupby(map(_ready, launches), key=lambda each: type(each) is tuple):
            several = list(group)
            self.calls += [_Calls(several)] if ready else several

    def __call__(self) -> None:
        """All launches, in their order."""
        for call in self.calls:
            call()


class _Calls:
    """Compiled functions one after another; `ready` holds their addresses, and their arguments."""

    def __init__(self, ready: list[Any]) -> None:
        self.arguments = [data for _, data in ready]
        self.calls = np.array([(address, ctypes.addressof(data)) for address, data in ready], np.int64)

    def __call__(self) -> None:
        if (done := _run(self.calls)) != len(self.calls):
            raise Refused(f"launch {done} of {len(self.calls)}")


def _ready(launch: Launch) -> Any:
    """(address, arguments) of a compiled function; what is to be called, for one of Python's."""
    function, args = launch
    if not isinstance(function, Dispatcher):
        return lambda: function(*args)
    made = function.overloads[tuple(map(function.typeof_pyval, args))]
    address = made.library.get_pointer_to_function(made.fndesc.llvm_func_name + WHOLE)
    leaves: list[tuple[Any, Any]] = []
    try:
        for kind, value in list(zip(made.signature.args, args, strict=True))[:-1]:  # all but `who`
            leaves += _leaves(kind, value)
    except KeyError:  # a number of another kind
        address = 0
    if not address:
        return lambda: function(*args)
    fields = [(f"_{i}", kind) for i, (kind, _) in enumerate(leaves)]
    return address, type("Arguments", (ctypes.Structure,), {"_fields_": fields})(*(value for _, value in leaves))


def _leaves(kind: Any, value: Any) -> Iterator[tuple[Any, Any]]:
    """An argument as compiled code takes it, kinds and values: arrays and tuples in parts."""
    if isinstance(kind, types.BaseTuple):
        for each, part in zip(kind.types, value, strict=True):
            yield from _leaves(each, part)
    elif isinstance(kind, types.Array):
        yield from [(ctypes.c_void_p, None)] * 2  # whose memory it is does not concern the compiled code
        yield from ((ctypes.c_int64, number) for number in (value.size, value.itemsize))
        yield ctypes.c_void_p, value.ctypes.data
        yield from ((ctypes.c_int64, number) for number in (*value.shape, *value.strides))
    else:
        yield _PLAIN[kind], value
