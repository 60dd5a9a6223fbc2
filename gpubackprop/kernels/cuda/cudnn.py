"""cuDNN's graphs as plans: described once, planned once, kept on disk, then run with nothing but addresses.

A plan takes up to a second to build, since cuDNN compiles some of its kernels then, and a few milliseconds to read. So
does the first call of each graph, which has to come before a stream is captured.

Nothing here has run on a GPU yet: the plans are made by the library itself, also without one (the tests do it), but no
result of a kernel of cuDNN's has been seen.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from operator import mul
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from gpubackprop.backend import Array
from gpubackprop.kernels.cuda.driver import EXACT
from gpubackprop.kernels.cuda.kernel import same_floats
from gpubackprop.kernels.kernel import Table
from gpubackprop.tape import Op

DTYPES = {"float64": "DOUBLE", "float32": "FLOAT", "float16": "HALF", "bfloat16": "BFLOAT16"}


class Operand(NamedTuple):
    """An array as a graph sees it: sizes in cuDNN's order (N, C, *S), and how many numbers lie between neighbours."""

    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: str


def operand(shape: Sequence[int], axes: Sequence[int], dtype: Any) -> Operand:
    """A C-contiguous array of this shape, its axes in this order; those left out are looked at in their first place."""
    steps = (*accumulate(reversed(shape[1:]), mul, initial=1),)[::-1]
    return Operand(tuple(shape[a] for a in axes), tuple(steps[a] for a in axes), dtype.name)


#: describe(library, graph, *inputs, **settings) -> outputs, all of them the library's tensors.
Describe: TypeAlias = Callable[..., Sequence[Any]]


class Graph(NamedTuple):
    """What a plan is made for; equal ones share it."""

    describe: Describe
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    settings: tuple[tuple[str, Any], ...] = ()
    products: bool = False  #: whether it multiplies, which tensor cores do in tf32 if they may

    def __str__(self) -> str:
        return f"{self.describe.__name__} {self.inputs} {self.outputs} {self.settings}"


class Plan(NamedTuple):
    """How a graph is computed."""

    graph: Any  #: the library's
    workspace: int  #: bytes of scratch memory


class Cudnn:
    """Plans and runs graphs on one GPU.

    library  the package `cudnn`
    address  an array's
    empty    an array of so many bytes, for a moment: a call's scratch memory
    stream   the current one
    machine  the GPU in words: its plans are kept apart from another's in `folder`, None: not kept
    handle   the library's; None with `device`, its properties, to plan without a GPU
    float32  "tf32" where float32 may be multiplied so
    """

    def __init__(
        self,
        library: Any,
        address: Callable[[Array], int],
        empty: Callable[[int], Array],
        stream: Callable[[], int] = lambda: 0,
        *,
        machine: str = "",
        handle: Any = None,
        device: Any = None,
        folder: Path | None = None,
        float32: str = "float32",
    ) -> None:
        self._library, self._address, self._empty, self._stream = library, address, empty, stream
        self._handle, self._device, self._folder = handle, device, folder
        #: How the library says that it has no plan; ValueError where it finds shapes that do not fit.
        self._refusals = library.cudnnGraphNotSupportedError, RuntimeError, ValueError
        self.version: str = library.backend_version_string()
        self._machine = f"{library.__version__} {self.version} {machine} {_sources()}"
        self._plans: dict[str, dict[Graph, Plan | None]] = {}
        self.float32 = float32  #: "tf32": how float32 is multiplied, if not exactly
        self.refused: dict[Graph, str] = {}  #: the library's reasons

    def pair(self, op: Op, arrays: Sequence[Any], options: Mapping[str, Any]) -> Op | None:
        """The pair that stands in for `op`, None unless cuDNN has a plan for all its graphs."""
        kernel = TABLE.kernels.get(op)
        if kernel is None or not kernel.fits(arrays, options) or any(0 in getattr(a, "shape", ()) for a in arrays):
            return None
        graphs = GRAPHS[op](arrays, options)
        return kernel if graphs and all(self.plan(graph) for graph in graphs) else None

    @property
    def plans(self) -> dict[Graph, Plan | None]:
        """Of the graphs so far, with float32 multiplied as it is now; None: the library has none."""
        return self._plans.setdefault(self.float32, {})

    def plan(self, graph: Graph) -> Plan | None:
        """The plan of a graph, made at the first call; None where the library has none: `refused` says why."""
        if graph not in self.plans:
            try:
                self.plans[graph] = self._read(graph) or self._build(graph)
            except self._refusals as error:
                self.plans[graph] = None
                self.refused[graph] = (str(error) or type(error).__name__).splitlines()[0]
        return self.plans[graph]

    def __call__(self, graph: Graph, *arrays: Array) -> None:
        """Compute, on the current stream: the arrays are the inputs and then the outputs, as the graph has them."""
        plan = self.plan(graph)
        if plan is None:
            raise RuntimeError(f"cuDNN has no plan for {graph}: {self.refused[graph]}")
        workspace = self._empty(max(plan.workspace, 1))
        places = {uid: self._address(array) for uid, array in enumerate(arrays, 1)}
        if self._handle is not None:
            self._library.set_stream(self._handle, self._stream())
        plan.graph.execute(places, self._address(workspace), handle=self._handle)

    def _new(self, **types: Any) -> Any:
        where = {"handle": self._handle, "device_property": self._device}
        return self._library.pygraph(**types, **{name: each for name, each in where.items() if each is not None})

    def _build(self, graph: Graph) -> Plan:
        library, kinds = self._library, self._library.data_type
        exact = next((each.dtype for each in graph.inputs if each.dtype == "float64"), "float32")
        computed = getattr(kinds, DTYPES[exact])
        described = self._new(
            io_data_type=getattr(kinds, DTYPES[graph.inputs[0].dtype]),
            intermediate_data_type=computed,
            compute_data_type=computed,
        )
        tensors = [
            described.tensor(
                dim=[*each.sizes], stride=[*each.strides], data_type=getattr(kinds, DTYPES[each.dtype]), uid=uid
            )
            for uid, each in enumerate(graph.inputs, 1)
        ]
        found = graph.describe(library, described, *tensors, **dict(graph.settings))
        for uid, (tensor, each) in enumerate(zip(found, graph.outputs, strict=True), len(tensors) + 1):
            tensor.set_output(True).set_data_type(getattr(kinds, DTYPES[each.dtype])).set_uid(uid)
            tensor.set_dim([*each.sizes]).set_stride([*each.strides])
        described.validate()
        described.build_operation_graph()
        described.create_execution_plans([library.heur_mode.A, library.heur_mode.FALLBACK])
        described.deselect_numeric_notes(self._unwanted(graph))
        described.check_support()
        described.build_plans()
        self._keep(graph, described)
        return Plan(described, described.get_workspace_size())

    def _unwanted(self, graph: Graph) -> list[Any]:
        notes = self._library.numerical_note
        unwanted = [notes.NONDETERMINISTIC]
        if graph.products and graph.inputs[0].dtype in EXACT:
            unwanted.append(notes.DOWN_CONVERT_INPUTS)
            if self.float32 != "tf32":
                unwanted.append(notes.TENSOR_CORE)
        return unwanted

    def _file(self, graph: Graph) -> Path | None:
        known = hashlib.sha256(f"{self._machine} {self.float32} {graph}".encode()).hexdigest()[:32]
        return None if self._folder is None else self._folder / f"{known}.plan"

    def _read(self, graph: Graph) -> Plan | None:
        file = self._file(graph)
        if file is None or not file.exists():
            return None
        kept = self._new()
        try:
            kept.deserialize([*file.read_bytes()])
            return Plan(kept, kept.get_workspace_size())
        except (*self._refusals, OSError):  # cut short, say: it is made anew
            return None

    def _keep(self, graph: Graph, described: Any) -> None:
        file = self._file(graph)
        if file is None:
            return
        unfinished = file.with_suffix(f".{os.getpid()}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished.write_bytes(bytes(described.serialize()))
            unfinished.replace(file)
        except (*self._refusals, OSError):
            return  # it is only quicker with a file


def kept_plans() -> Path:
    """The folder for plans: GPUBACKPROP_CACHE, or the user's cache folder."""
    home = os.environ.get("GPUBACKPROP_CACHE") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(home).expanduser() / "gpubackprop" / "cudnn"


def _sources() -> str:
    """What the graphs are described by: a plan of another description is not taken."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("cudnn*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


#: The graphs that a pair needs, both passes; none where it can't take these inputs.
Graphs: TypeAlias = Callable[[Sequence[Any], Mapping[str, Any]], Sequence[Graph]]
TABLE = Table(same_floats)
GRAPHS: dict[Op, Graphs] = {}


def pair(op: Op, forward: Callable[..., Any], backward: Callable[..., Any], graphs: Graphs) -> None:
    """Let a pair stand in for `op` where cuDNN has plans for all its graphs."""
    TABLE.kernel(op, forward, backward)
    GRAPHS[op] = graphs
