"""A GPU with kernels: which of them stands in for an op, how they are launched, and how steps are captured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from gpubackprop.backend import Array
from gpubackprop.backend.cuda import CupyBackend
from gpubackprop.backend.precision import suited
from gpubackprop.errors import UsageError
from gpubackprop.kernels.cuda import cublaslt, cudnn_library
from gpubackprop.kernels.cuda.candidates import WAYS, Choices, own_kernel
from gpubackprop.kernels.cuda.capture import CapturedStep, Captures, Refused, timed
from gpubackprop.kernels.cuda.cudnn import Cudnn, Graph
from gpubackprop.kernels.cuda.driver import REAL, Driver, Size, Source
from gpubackprop.kernels.cuda.kernel import RULES
from gpubackprop.kernels.cuda.matmul import Multiplier
from gpubackprop.tape import Op, Slot

WORKSPACE = 32 << 20  # bytes for cuBLASLt, what it wants on Hopper


class CudaBackend(CupyBackend):
    """GPU number `index`, with kernels. Raises DeviceError with CUDA's own reason where it cannot be used.

    All work on a GPU is on one stream, whoever asks for it, so that it comes about in the order it was asked for. This
    is the current one of the thread that makes the backend, and, in `running`, of others; CUDA's default stream and it
    wait for each other.
    """

    fuses = True

    def __init__(self, index: int = 0) -> None:
        super().__init__(index)
        cuda = self._cupy.cuda
        self.stream = _stream(self._cupy, index)
        self.stream.use()
        self.driver = Driver(self._cupy)
        self._workspace = cuda.alloc(WORKSPACE)
        self.library = cublaslt.load()
        self.multiply = Multiplier(
            self.library,
            lambda array: int(array.data.ptr),
            self._workspace.ptr,
            WORKSPACE,
            stream=lambda: int(cuda.get_current_stream().ptr),
            timer=lambda call: self.seconds(call),
        )
        self.cudnn: Cudnn | None = cudnn_library.cudnn_for(self._cupy, index)
        self.captures, self.chosen = Captures(), Choices()

    @property
    def float32(self) -> str:
        """How float32 is multiplied: "float32", or "tf32" if not exactly."""
        return self.multiply.float32

    @float32.setter
    def float32(self, how: str) -> None:
        self.multiply.float32 = how
        if self.cudnn is not None:
            self.cudnn.float32 = how

    def pair(self, op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op:
        """Of cuDNN's pair and the kernel that take these inputs the quicker; else the reference."""
        own = own_kernel(op, arrays, options)
        other = self.cudnn.pair(op, arrays, options) if self.cudnn is not None else None
        if own is not None and other is not None:
            return self.chosen.quickest(self, op, arrays, options, {"cudnn": other, "kernel": own})
        pair: Op = other or own or suited(op, arrays)
        return pair

    def rule(self, reference: Callable[..., Any]) -> Callable[..., Any]:
        """What stands in for a function that is not an op, else the function itself."""
        return RULES.get(reference, reference)

    def launch(self, source: Source, name: str, dtype: Any, grid: Size, block: Size, *args: Any) -> None:
        """Run the kernel of this name for numbers of this dtype, on arrays that lie C-contiguous, and NumPy scalars."""
        if 0 not in grid:  # nothing to do, and CUDA refuses it
            self.driver.function(source, name, REAL[dtype.name])(grid, block, args)

    def compute(self, graph: Graph, *arrays: Array) -> None:
        """Run a graph of cuDNN's: the arrays are its inputs and then its outputs."""
        assert self.cudnn is not None, "only a pair of cuDNN's computes graphs"
        self.cudnn(graph, *arrays)

    def empty(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """An array to be written before it is read."""
        return self.xp.empty(shape, dtype)

    def out(self, slot: Slot, shape: tuple[int, ...], dtype: Any) -> Array:
        """Where to write a gradient: where the slot says, if a kernel can write there."""
        given = slot.out
        usable = given is not None and given.flags.c_contiguous and given.dtype == dtype
        return given if usable else self.empty(shape, dtype)

    def contiguous(self, x: Any) -> Any:
        """x itself where it is C-contiguous, as kernels take it, or no array; else a copy."""
        if x is None or isinstance(x, int) or x.flags.c_contiguous:
            return x
        copy = self.empty(x.shape, x.dtype)
        self.assign(copy, x)
        return copy

    def matmul(self, a: Array, b: Array, out: Array | None = None) -> Array:
        """Matrix product over the last two axes, (..., M, K) times (..., K, N), batches broadcast; by cuBLASLt."""
        if min(a.ndim, b.ndim) < 2 or a.dtype != b.dtype or a.dtype.name not in REAL:
            return super().matmul(a, b, out)
        batch = _broadcast(a.shape[:-2], b.shape[:-2])
        shape = (*batch, a.shape[-2], b.shape[-1])
        y = self.empty(shape, a.dtype) if out is None or not out.flags.c_contiguous or out.dtype != a.dtype else out
        if 0 in (*shape, a.shape[-1]):
            y.fill(0)
        else:
            self._multiply(a, b, y, batch)
        if out is None or y is out:
            return y
        self.assign(out, y)
        return out

    def _multiply(self, a: Array, b: Array, y: Array, batch: tuple[int, ...]) -> None:
        try:
            self.multiply(a, b, y)
        except UsageError:  # of strides that cuBLASLt does not know
            wide = (self.xp.broadcast_to(x, (*batch, *x.shape[-2:])) for x in (a, b))
            left, right = map(self.contiguous, wide)
            self.multiply(left, right, y)

    def seconds(self, call: Callable[[], None]) -> float:
        """How long a call takes; waits, so that while a step is captured all take the same."""
        return 0.0 if self.captures.capturing else timed(self, call)

    def only_once(self, reason: str, passing: bool = False) -> None:
        """What runs now is for Python alone to know: a step that it is part of cannot be captured.

        passing  the next one may be
        """
        if self.captures.capturing:
            raise Refused(reason, passing)

    def repeated(
        self, step: Any, prepare: Any, made_of: Callable[[], Iterable[object]], name: str = "steps"
    ) -> CapturedStep:
        """`step`, captured as a CUDA graph at its second run on batches of the same shapes, and launched after that."""
        return CapturedStep(self, step, prepare, made_of, name)

    @contextmanager
    def running(self) -> Iterator[None]:
        """On this GPU and its stream."""
        with super().running():
            before = self._cupy.cuda.get_current_stream()
            self.stream.use()
            try:
                yield
            finally:  # CuPy's own `with stream` would go back to the default stream, not to one in use
                before.use()

    @contextmanager
    def announcing(self, say: Callable[[str], None]) -> Iterator[None]:
        """Inside it `say` is told, in a line, of what makes steps slow, instead of a warning."""
        captures = self.captures
        before, captures.say = captures.say, say
        try:
            yield
        finally:
            captures.say = before

    @property
    def choices(self) -> dict[str, str]:
        """The algorithms of the products so far, and who does what."""
        return self.multiply.choices | self.chosen.found

    def adopt(self, choices: Mapping[str, str]) -> None:
        """Go on with an earlier run's."""
        self.multiply.adopt(choices)
        self.chosen.found |= {where: who for where, who in choices.items() if who in WAYS}

    def describe(self) -> str:
        """`cuda:0 (NVIDIA H100, …, CuPy 14.2 for CUDA 13.0, cuBLASLt 13.1, cuDNN 9.28.1, own kernels)`."""
        version = self.library.version  # 13.1.0 is 130100
        cudnn = "no cuDNN (doctor says why)" if self.cudnn is None else f"cuDNN {self.cudnn.version}"
        products = f"cuBLASLt {version // 10000}.{version // 100 % 100}"
        return f"{super().describe()[:-1]}, {products}, {cudnn}, own kernels)"


_STREAMS: WeakKeyDictionary[Any, dict[int, Any]] = WeakKeyDictionary()


def _stream(cupy: Any, index: int) -> Any:
    """The stream of GPU number `index`, the current one."""
    streams = _STREAMS.setdefault(cupy, {})
    if index not in streams:
        streams[index] = cupy.cuda.Stream()
    return streams[index]


def _broadcast(a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    length = max(len(a), len(b))
    pairs = zip((1,) * (length - len(a)) + a, (1,) * (length - len(b)) + b, strict=True)
    return tuple(n if m == 1 else m for m, n in pairs)
