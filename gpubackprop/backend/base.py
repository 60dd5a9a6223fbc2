"""What a device must be able to do, beyond the array functions that NumPy and CuPy spell alike."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import numpy.typing as npt

from gpubackprop.backend.precision import suited
from gpubackprop.errors import UsageError

#: An array of whichever backend is in use: `numpy.ndarray`, `cupy.ndarray` or the strict test array.
Array = Any
HostArray = npt.NDArray[Any]


#: What CUDA and its libraries say where memory is used up. CuPy has a MemoryError of its own for arrays alone.
USED_UP = ("cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "STATUS_ALLOC_FAILED")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is used up."""
    return isinstance(error, MemoryError) or any(name in str(error) for name in USED_UP)


class Backend:
    """The arrays of one device. A model holds one, chosen when it is built; there is no global backend.

    `xp` is the namespace of the functions that NumPy and CuPy share. A method exists only where the two differ,
    or where a device may wait, move data or own threads.
    """

    name: str  #: "numpy", "cupy" or "strict"
    device: str  #: as a config names it: "cpu", "cuda:0"
    xp: Any
    #: bytes: intermediate results of about this size are quickest. On a CPU they stay in the cache.
    scratch: int = 2 << 20

    #: whether work goes on after it was asked for, so that nothing in a step may look at values
    asynchronous: bool = False
    float32: str = "float32"  #: how products of float32 are computed: "float32", or "tf32" where the device knows that
    fuses: bool = False  #: whether ops that do several layers' work are quicker here

    def pair(self, op: Any, arrays: Sequence[Any], options: Mapping[str, Any]) -> Any:
        """The pair of functions that does `op` on these arrays: the op itself, or a kernel in its place.

        On short arrays most are done in float32 (backend/precision.py).
        """
        return suited(op, arrays)

    def rule(self, reference: Callable[..., Any]) -> Callable[..., Any]:
        """What does the work of a function that is not an op: itself, or a kernel in its place."""
        return reference

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Matrix product over the last two axes, (..., M, K) times (..., K, N), batches broadcast."""
        return self.xp.matmul(a, b, out=out)

    def add(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """x + y of one shape, into `out` where it is given."""
        return self.xp.add(x, y, out=out)

    def divide(self, x: Array, y: Array, out: Array | None = None) -> Array:
        """x / y, y of x's shape or 0-d, into `out` where it is given."""
        return self.xp.divide(x, y, out=out)

    def assign(self, out: Array, x: Any) -> None:
        """out[...] = x, an array of its shape or a number."""
        with np.errstate(over="ignore"):  # a weight beyond float16, as a GPU takes it
            out[...] = x

    def cast(self, x: Array, dtype: Any) -> Array:
        """x in another dtype, silent about what is too large for it; x itself where it is of it."""
        if x.dtype == dtype:
            return x
        with np.errstate(over="ignore"):
            return x.astype(dtype)

    def scatter_add(self, out: Array, index: Array, value: Array) -> None:
        """`out[index] += value` with every repetition of an index counted."""
        self.xp.add.at(out, index, value)

    def erf(self, x: Array) -> Array:
        """The error function, elementwise."""
        raise NotImplementedError

    def from_host(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """A copy or view on the device of a NumPy array or Python number."""
        raise NotImplementedError

    def to_host(self, array: Array) -> HostArray:
        """The array as NumPy's; waits for the device."""
        raise NotImplementedError

    def owns(self, array: object) -> bool:
        """Whether `array` is of this backend's array class."""
        raise NotImplementedError

    def capture(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step`, made ready to be run many times; inside it nothing may wait for the device."""
        return step

    def repeated(
        self,
        step: Callable[[Any], tuple[Array | None, ...]],
        prepare: Callable[[Any], Any],
        made_of: Callable[[], Iterable[object]],
        name: str = "steps",
    ) -> Callable[[Any], tuple[Array | None, ...]]:
        """`step(prepare(batches))`, made ready to be run many times on batches of the same shapes, as long as the
        attributes of the objects that it is `made_of` stay what they are. Messages call such runs by `name`."""
        captured = self.capture(step)
        return lambda batches: captured(prepare(batches))

    def only_once(self, reason: str, passing: bool = False) -> None:
        """Say inside a step that it cannot be replayed, since something happens that only Python knows of.

        passing  in this step alone
        """

    def unlaunched(self, reason: str) -> None:
        """Say inside a step that array functions run which are part of no op and no rule: a replay that knows of
        launches alone, and not of what the device does, would not repeat them."""

    def running(self) -> AbstractContextManager[None]:
        """Around everything that computes on this device."""
        return nullcontext()

    @property
    def choices(self) -> dict[str, str]:
        """What short measurements chose here among several ways to compute the same; they differ in rounding."""
        return {}

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Go on with an earlier run's choices."""

    def announcing(self, say: Callable[[str], None]) -> AbstractContextManager[None]:
        """Inside it `say` is told, in a line, of what makes the first step slow."""
        return nullcontext()

    def synchronize(self) -> None:
        """Wait until the device has done all that it was given."""

    def capacity(self) -> tuple[int, int] | None:
        """Bytes of the device's memory that are free, and all of them; None where it does not say."""
        return None

    def describe(self) -> str:
        """The device in words, for logs."""
        return self.device


class NumpyBackend(Backend):
    """The CPU, by NumPy. Every other backend is tested against this one."""

    name, device, xp = "numpy", "cpu", np

    def capture(self, step: Callable[..., Any]) -> Callable[..., Any]:
        """`step`, silent about overflow, as a GPU is: the trainer looks at the loss, and names the step."""

        def quiet(*args: Any, **kwargs: Any) -> Any:
            with np.errstate(all="ignore"):
                return step(*args, **kwargs)

        return quiet

    def erf(self, x: Array) -> Array:
        """The error function: NumPy has none. SciPy's where it is installed, else Python's, number by number."""
        try:
            from scipy.special import erf
        except ImportError:
            return np.asarray(np.vectorize(math.erf, otypes=[np.float64])(x), x.dtype)
        return erf(x)

    def capacity(self) -> tuple[int, int] | None:
        """As Linux counts pages."""
        try:
            page, free, total = map(os.sysconf, ("SC_PAGE_SIZE", "SC_AVPHYS_PAGES", "SC_PHYS_PAGES"))
        except ValueError:
            return None
        return page * free, page * total

    def from_host(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> Array:
        """The array itself where its dtype is right already. Raises UsageError for an array on a GPU."""
        if hasattr(array, "__cuda_array_interface__"):
            raise UsageError("the array is on a GPU, the model on the CPU; build the model with device='cuda'")
        return np.asarray(array, dtype)

    def to_host(self, array: Array) -> HostArray:
        """The array itself."""
        return np.asarray(array)

    def owns(self, array: object) -> bool:
        """Whether this is a NumPy array or scalar."""
        return isinstance(array, np.ndarray | np.generic)
