"""A double of CuPy: its arrays are the strict ones, and its device does what CUDA does with streams, events and graphs.

Kernels are compiled from their sources by the C++ compiler and executed (`host.py`). While a stream is captured nothing
runs: what is asked for is put off, its results are NaN until the graph is launched, and what CUDA refuses then is
refused. Memory that one stream uses before another's work on it is known to be done is a RaceError; so is pinned memory
that the host uses again too early. It computes from what it is given, and knows nothing of the code that it tests.

Written down from CuPy 14.2; `test_cupy_double.py` holds its signatures beside CuPy's own where that is installed.
"""

from __future__ import annotations

import ctypes
import itertools
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from gpubackprop.backend.strict import StrictArray, StrictNamespace, poison
from tests.kernels.cuda import host

#: What goes through cuBLAS, cuSOLVER or a library like them, which CuPy refuses while a stream is captured.
BY_CUBLAS = {"matmul", "dot", "einsum", "tensordot"}


class CaptureError(Exception):
    """What CUDA or CuPy refuse while a stream is captured."""


class RaceError(Exception):
    """Memory used by two streams, or by the host, without waiting for each other."""


class Access:
    """Who used a piece of memory last: how far along its stream each use was."""

    def __init__(self) -> None:
        self.written: tuple[str, int] = ("", 0)
        self.read: dict[str, int] = {}


def root(a: np.ndarray) -> int:
    """The address of the memory that an array is a view of."""
    while isinstance(a.base, np.ndarray):
        a = a.base
    return a.ctypes.data


class Device:
    """The work of all streams. It is done at once, but for what is captured; what waits for what is kept account of."""

    def __init__(self) -> None:
        self.capturing: Stream | None = None
        self.graph: list[Callable[[], object]] = []
        self.memory: list[np.ndarray] = []  #: that a graph works on, which knows it by its address
        self.touched: tuple[dict[int, None], dict[int, None]] = ({}, {})
        self.clocks: dict[str, Counter[str]] = {"host": Counter()}
        self.blocking: list[str] = []  #: streams that the default one, the first, waits for, and they for it
        self.accesses: dict[int, Access] = {}
        self.pinned: dict[int, tuple[str, int]] = {}
        self.waits = 0  #: how often the host waited for the device
        self.launches = 0  #: of graphs
        self.pools: list[Any] = []
        self.numbers = itertools.count(1)
        self.stream = Stream(self, null=True)  #: the current one
        self.entered = [self.stream]  #: by `with`

    # What the strict arrays tell

    def sees(self, reads: Sequence[np.ndarray], writes: Sequence[np.ndarray]) -> None:
        """Memory that the current stream works on next."""
        if self.capturing:
            for roots, arrays in zip(self.touched, (reads, writes), strict=True):
                roots.update(dict.fromkeys(map(root, arrays)))
        else:
            self.uses(self.stream, map(root, reads), map(root, writes))

    def puts_off(self, work: Callable[[], object]) -> bool:
        """Keep what is captured."""
        if self.capturing:
            self.graph.append(work)
        return self.capturing is not None

    def pointer(self, array: np.ndarray) -> Pointer:
        """An array's `data`."""
        return Pointer(self, array)

    def places(self, array: np.ndarray) -> np.ndarray:
        """A copy at an address that a pool gives: a multiple of 512."""
        memory = np.empty(array.nbytes + 512, np.uint8)
        if self.capturing:
            self.memory.append(memory)
        placed = memory[-memory.ctypes.data % 512 :][: array.nbytes].view(array.dtype).reshape(array.shape)
        placed[...] = array
        return placed

    # Streams

    def uses(self, stream: Stream, reads: Any, writes: Any) -> None:
        """Note that a stream reads and writes memory, and see that it is known to be free."""
        clock = self.clocks[stream.line]
        if stream.blocking:
            for line in self.blocking if not stream.ptr else self.blocking[:1]:
                clock |= self.clocks[line]
            self.clocks[stream.line] = clock
        clock[stream.line] += 1
        now = clock[stream.line]
        for address in reads:
            access = self.accesses.setdefault(address, Access())
            self._known(clock, [access.written])
            access.read[stream.line] = now
        for address in writes:
            access = self.accesses.setdefault(address, Access())
            self._known(clock, [access.written, *access.read.items()])
            access.written, access.read = (stream.line, now), {}

    def _known(self, clock: Counter[str], uses: list[tuple[str, int]]) -> None:
        for line, when in uses:
            if clock[line] < when:
                raise RaceError(f"memory that stream {line!r} still uses")

    def refuse(self, what: str) -> None:
        """Raise CaptureError while a stream is captured."""
        if self.capturing:
            raise CaptureError(f"{what} while a stream is captured")

    def wait(self, clock: Counter[str]) -> None:
        """The host waits for what `clock` has seen."""
        self.refuse("waiting")
        self.waits += 1
        self.clocks["host"] |= clock


class Stream:
    """cupy.cuda.Stream. A blocking stream and the default one wait for each other, no others do."""

    def __init__(self, device: Device, non_blocking: bool = False, null: bool = False) -> None:
        self._device = device
        self.ptr = 0 if null else 0x1000 + next(device.numbers)
        self.line, self.blocking = f"stream {self.ptr}", not non_blocking
        device.clocks[self.line] = Counter()
        if self.blocking:
            device.blocking.append(self.line)

    def use(self) -> Stream:
        self._device.stream = self
        return self

    def __enter__(self) -> Stream:
        self._device.entered.append(self)
        return self.use()

    def __exit__(self, *error: object) -> None:
        self._device.entered.pop()
        self._device.entered[-1].use()  # CuPy forgets what was `use`d before

    def begin_capture(self, mode: int | None = None) -> None:
        self._device.refuse("a second capture")
        if not self.ptr:
            raise CaptureError("the default stream cannot be captured")
        self._device.capturing, self._device.graph, self._device.touched = self, [], ({}, {})
        self._device.memory = []
        StrictArray.inside_step = True

    def end_capture(self) -> Graph:
        if self._device.capturing is not self:
            raise CaptureError("this stream is not captured")
        self._device.capturing, StrictArray.inside_step = None, False
        return Graph(self._device)

    def is_capturing(self) -> bool:
        return self._device.capturing is self

    def synchronize(self) -> None:
        self._device.wait(self._device.clocks[self.line])

    def wait_event(self, event: Event) -> None:
        self._device.refuse("an event of another stream")
        self._device.clocks[self.line] |= event.clock

    def record(self, event: Event) -> Event:
        event.record(self)
        return event


class Event:
    """cupy.cuda.Event."""

    def __init__(self, device: Device, disable_timing: bool = False) -> None:
        self._device, self._timed = device, not disable_timing
        self.clock: Counter[str] = Counter()

    def record(self, stream: Stream | None = None) -> None:
        self._device.refuse("an event")
        line = (stream or self._device.stream).line
        self.clock = Counter(self._device.clocks[line])

    def synchronize(self) -> None:
        self._device.wait(self.clock)


class Graph:
    """cupy.cuda.Graph: what was captured, on the memory that it was captured on."""

    def __init__(self, device: Device) -> None:
        self._device, self._work, self._touched = device, device.graph, device.touched
        self._memory = device.memory

    def launch(self, stream: Stream | None = None) -> None:
        self._device.refuse("launching a graph")
        self._device.uses(stream or self._device.stream, *self._touched)
        self._device.launches += 1
        watcher, StrictArray.watcher = StrictArray.watcher, None
        with np.errstate(all="ignore"):
            for work in self._work:
                work()
        StrictArray.watcher = watcher


class Pointer:
    """cupy.cuda.MemoryPointer."""

    def __init__(self, device: Device, host: np.ndarray) -> None:
        self._device, self._host, self.ptr = device, host, host.ctypes.data

    def copy_from_host_async(self, mem: int, size: int, stream: Stream | None = None) -> None:
        device, stream = self._device, stream or self._device.stream
        device.refuse("a copy from the host")
        if not any(start <= mem and mem + size <= start + length for start, length in PINNED):
            raise CaptureError("an asynchronous copy from memory that is not pinned")
        line, when = device.pinned.get(mem, ("", 0))
        if device.clocks["host"][line] < when:
            raise RaceError("pinned memory is written to again before its copy is known to be done")
        device.uses(stream, [], [root(self._host)])
        device.pinned[mem] = (stream.line, device.clocks[stream.line][stream.line])
        ctypes.memmove(self.ptr, mem, size)


PINNED: list[tuple[int, int]] = []


class MemoryPool:
    """cupy.cuda.MemoryPool: which pool memory comes from is all that is kept."""

    def __init__(self, allocator: Callable[[int], Any] | None = None) -> None:
        pass

    def malloc(self, size: int) -> object:
        raise AssertionError("the double's arrays are NumPy's")


class Function:
    """A compiled kernel: cupy.RawKernel."""

    def __init__(self, device: Device, kernel: host.Kernel) -> None:
        self._device, self._kernel = device, kernel

    def __call__(self, grid: Any, block: Any, args: tuple[Any, ...], *, shared_mem: int = 0) -> None:
        launch = self._kernel.prepare(grid, block, args, shared_mem)
        arrays = [(a._host, writes) for a, writes in launch.arrays]
        self._device.sees([a for a, _ in arrays], [a for a, writes in arrays if writes])
        if not self._device.puts_off(launch.run):
            launch.run()


class Elementwise:
    """cupy.ElementwiseKernel of one array."""

    def __init__(self, cupy: CupyDouble, operation: str, name: str) -> None:
        self._cupy, self._name = cupy, name
        self._made: dict[str, host.Kernel] = {}
        self._code = (
            f"template <typename T> __global__ void {name}(const T* from, T* to, long long n) {{\n"
            "  const long long i = blockIdx.x * 1ll * blockDim.x + threadIdx.x;\n"
            f"  if (i < n) {{ const T x = from[i]; T y; {operation}; to[i] = y; }}\n}}\n"
        )

    def __call__(self, x: StrictArray) -> StrictArray:
        y = self._cupy.empty(x.shape, x.dtype)
        full = f"{self._name}<{ {'float32': 'float', 'float64': 'double'}[x.dtype.name] }>"
        if full not in self._made:
            self._made[full] = host.compiled(self._code, [full], self._cupy)[full]
        if x.size:
            flat = x if x.flags.c_contiguous else x.copy()
            Function(self._cupy.device, self._made[full])((-(-x.size // 128),), (128,), (flat, y, np.int64(x.size)))
        return y


class CupyDouble(types.ModuleType):
    """The module `cupy`, of a machine with one GPU.

    order, sanitize  of the threads of a block, and AddressSanitizer: as in host.py
    """

    __version__ = "14.2.0"
    products: Any  #: the double of cuBLASLt beside it
    ndarray = StrictArray

    def __init__(self, order: str = "forward", sanitize: bool = False) -> None:
        super().__init__("cupy")
        self.order, self.sanitize, self.launches = order, sanitize, 0
        self.device = device = Device()
        self._namespace = StrictNamespace()
        self.cuda = types.SimpleNamespace(
            Device=lambda index=0: _Device(),
            Stream=lambda null=False, non_blocking=False, ptds=False: Stream(device, non_blocking, null),
            Event=lambda block=False, disable_timing=False, interprocess=False: Event(device, disable_timing),
            Graph=Graph,
            MemoryPool=MemoryPool,
            MemoryPointer=Pointer,
            alloc=lambda size: self._alloc(size),
            alloc_pinned_memory=_pinned,
            get_current_stream=lambda device_id=-1: device.stream,
            get_elapsed_time=lambda start, stop: 1.0,
            using_allocator=self._using,
            runtime=types.SimpleNamespace(
                getDeviceCount=lambda: 1,
                getDeviceProperties=lambda index: PROPERTIES,
                runtimeGetVersion=lambda: 13000,
                driverGetVersion=lambda: 13010,
            ),
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self._namespace, name)
        if name == "add":
            return _Add(found)
        if name in BY_CUBLAS:

            def product(*args: Any, **kwargs: Any) -> Any:
                self.device.refuse(f"cupy.{name}, which calls cuBLAS,")
                return found(*args, **kwargs)

            return product
        if name in ("empty", "empty_like"):
            return lambda *args, **kwargs: self._fresh(found(*args, **kwargs))
        return found

    def _fresh(self, array: StrictArray) -> StrictArray:
        if self.device.capturing and not self.device.pools:
            raise CaptureError("memory of the common pool while a stream is captured: the graph goes on writing to it")
        placed = StrictArray(self.device.places(array._host))
        poison(placed._host, 0 if self.device.capturing else 99)
        return placed

    def get_default_memory_pool(self) -> Any:
        """Of which nothing is kept."""
        return types.SimpleNamespace(free_all_blocks=lambda: self.device.refuse("giving memory back"))

    def asarray(self, a: Any, dtype: Any = None) -> StrictArray:
        """A copy of a host array; a device array as it is, unless it has another dtype."""
        if isinstance(a, StrictArray):
            return a if dtype is None or a.dtype == np.dtype(dtype) else a.astype(dtype)
        self.device.refuse("an array from the host")
        placed = self.device.places(np.array(a, dtype, order="C"))
        self.device.sees([], [placed])
        return StrictArray(placed)

    def asnumpy(self, a: Any) -> np.ndarray:
        """A copy on the host."""
        assert isinstance(a, StrictArray), "no device array"
        device = self.device
        device.uses(device.stream, [root(a._host)], [])
        device.wait(device.clocks[device.stream.line])
        return a._host.copy()

    def RawModule(self, *, code: str, options: tuple[str, ...] = (), name_expressions: Sequence[str] = ()) -> Any:
        """The kernels of a source, compiled for the CPU."""
        self.device.refuse("compiling")
        assert "-std=c++17" in options
        kernels = host.compiled(code, name_expressions, self)
        return types.SimpleNamespace(get_function=lambda name: Function(self.device, kernels[name]))

    def ElementwiseKernel(self, takes: str, gives: str, operation: str, name: str) -> Elementwise:
        """Of one array: `T x` to `T y`."""
        assert (takes, gives) == ("T x", "T y")
        return Elementwise(self, operation, name)

    def _alloc(self, size: int) -> Pointer:
        memory = np.zeros(size + 256, np.uint8)
        return Pointer(self.device, memory[-memory.ctypes.data % 256 :][:size])

    @contextmanager
    def _using(self, allocator: Any) -> Iterator[None]:
        self.device.pools.append(allocator)
        try:
            yield
        finally:
            self.device.pools.pop()


class _Add:
    """The ufunc `add`, with its `at`."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def at(self, out: StrictArray, index: StrictArray, value: StrictArray) -> None:
        from gpubackprop.backend.strict import _unwrap, _write

        _write(out, np.add.at, *_unwrap((out, index, value)))


class _Device:
    """cupy.cuda.Device."""

    mem_info = (60 << 30, 80 << 30)

    def use(self) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *error: object) -> None:
        pass


PROPERTIES = {"name": b"a double", "totalGlobalMem": 80 << 30, "major": 9, "minor": 0, "multiProcessorCount": 132}


def _pinned(size: int) -> Any:
    memory = (ctypes.c_char * size)()
    PINNED.append((ctypes.addressof(memory), size))
    return memory
