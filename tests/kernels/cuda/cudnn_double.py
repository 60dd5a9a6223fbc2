"""A double of the package `cudnn`: it remembers the graph that it is given, and computes that one by NumPy, on the
memory that the addresses point to.

Sizes, strides, types and attributes are all that it knows; nothing comes from the code under test. Like the library it
refuses what has no plan there (as the library itself said, asked for its plans without a GPU), a call out of turn, and
addresses that are not those of the graph's tensors. Plans can be serialized: `pickle` stands in for the library's form.
"""

from __future__ import annotations

import ctypes
import pickle
from functools import partial
from typing import Any

import numpy as np

from tests.kernels.cuda import cudnn_formulas
from tests.kernels.cuda.cudnn_formulas import (
    cudnnGraphNotSupportedError,
    data_type,
    diagonal_alignment,
    heur_mode,
    numerical_note,
    refuse,
    scalar_type,
)

WORKSPACE = 96
UNKNOWN = 1 << 62, True  # of an address that `address` did not give


class Tensor:
    """A tensor of a graph: given, made by a node, or a constant."""

    def __init__(
        self, dim: Any = None, stride: Any = None, kind: Any = None, uid: Any = None, value: Any = None
    ) -> None:
        self.dim, self.stride, self.kind, self.uid, self.value = dim, stride, kind, uid, value
        self.output = False

    def get_dim(self) -> list[int]:
        return self.dim

    def set_dim(self, dim: list[int]) -> Tensor:
        assert type(dim) is list
        self.dim = dim
        return self

    def set_stride(self, stride: list[int]) -> Tensor:
        assert type(stride) is list
        self.stride = stride
        return self

    def set_output(self, output: bool) -> Tensor:
        self.output = output
        return self

    def set_data_type(self, kind: data_type) -> Tensor:
        self.kind = kind
        return self

    def set_uid(self, uid: int) -> Tensor:
        self.uid = uid
        return self

    def memory(self, address: int, limit: int) -> np.ndarray[Any, Any]:
        """The array in memory that begins there, within so many bytes."""
        size = self.kind.dtype.itemsize
        last = sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True))
        assert (last + 1) * size <= limit, "beyond the array"
        flat = np.frombuffer((ctypes.c_char * ((last + 1) * size)).from_address(address), self.kind.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.dim, [s * size for s in self.stride], writeable=True)


class CudnnDouble:
    """What `import cudnn` gives."""

    __version__ = "1.28.0 (double)"
    cudnnGraphNotSupportedError = cudnnGraphNotSupportedError
    data_type, heur_mode, numerical_note, scalar_type = data_type, heur_mode, numerical_note, scalar_type
    diagonal_alignment = diagonal_alignment

    def __init__(self, device: Any = None) -> None:
        self.device = device  #: of cupy_double.py: what is captured is put off
        self.built: list[Graph] = []
        self.read: list[Graph] = []
        self.ran: list[Graph] = []
        self.streams: list[int] = []
        self.limits: dict[int, tuple[int, bool]] = {}

    def address(self, array: Any) -> int:
        """Of a test device's array; the double remembers how far it goes, and whether it may be written to."""
        host = array._host
        first: int = host.ctypes.data
        self.limits[first] = np.lib.array_utils.byte_bounds(host)[1] - first, host.flags.writeable
        return first

    @staticmethod
    def backend_version_string() -> str:
        return "9.28.1"

    @staticmethod
    def create_handle() -> str:
        return "handle"

    def set_stream(self, handle: Any, stream: int) -> None:
        assert handle is not None
        self.streams.append(stream)

    def pygraph(self, **options: Any) -> Graph:
        assert options.pop("handle") is not None
        return Graph(self, **options)


class Graph:
    """A graph: tensors, and nodes (name, operands by name, attributes, results)."""

    def __init__(self, library: CudnnDouble, **types: Any) -> None:
        self.library, self.types = library, types
        self.tensors: list[Tensor] = []
        self.nodes: list[tuple[str, dict[str, Tensor], dict[str, Any], list[Tensor]]] = []
        self.unwanted: list[Any] = []
        self.stage = 0

    def tensor(self, *, dim: list[int], stride: list[int], data_type: Any, uid: int) -> Tensor:
        assert len(dim) == len(stride)
        self.tensors.append(Tensor(dim, stride, data_type, uid))
        return self.tensors[-1]

    def tensor_scalar(self, value: float, kind: Any) -> Tensor:
        assert kind is scalar_type.COMPILE_TIME_CONST, "another would be read from the host while the graph runs"
        return Tensor([1, 1, 1, 1], [1, 1, 1, 1], value=np.float64(np.float32(value)))

    def _node(self, name: str, results: int, operands: dict[str, Tensor], **attributes: Any) -> list[Tensor]:
        assert all(isinstance(each, Tensor) for each in operands.values())
        found = [Tensor() for _ in range(results)]
        self.nodes.append((name, operands, attributes, found))
        return found

    def conv_fprop(self, *, image: Tensor, weight: Tensor, **windows: Any) -> Tensor:
        return self._node("conv_fprop", 1, {"image": image, "weight": weight}, **windows)[0]

    def conv_dgrad(self, *, loss: Tensor, filter: Tensor, **windows: Any) -> Tensor:
        return self._node("conv_dgrad", 1, {"loss": loss, "weight": filter}, **windows)[0]

    def conv_wgrad(self, *, image: Tensor, loss: Tensor, **windows: Any) -> Tensor:
        return self._node("conv_wgrad", 1, {"image": image, "loss": loss}, **windows)[0]

    def bias(self, *, input: Tensor, bias: Tensor) -> Tensor:
        return self._node("bias", 1, {"x": input, "bias": bias})[0]

    def batchnorm(self, *, input: Tensor, **rest: Tensor) -> list[Tensor]:
        return self._node("batchnorm", 5, {"x": input, **rest})

    def batchnorm_backward(self, **operands: Tensor) -> list[Tensor]:
        return self._node("batchnorm_backward", 3, operands)

    def sdpa(self, *, q: Tensor, k: Tensor, v: Tensor, **attributes: Any) -> list[Tensor]:
        assert attributes.pop("generate_stats")
        return self._node("sdpa", 2, {"q": q, "k": k, "v": v}, **attributes)

    def sdpa_backward(
        self,
        *,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        o: Tensor,
        dO: Tensor,
        stats: Tensor,
        **rest: Any,
    ) -> list[Tensor]:
        operands = {"q": q, "k": k, "v": v, "o": o, "do": dO, "stats": stats}
        return self._node("sdpa_backward", 3, operands, **rest)

    def _turn(self, stage: int) -> None:
        assert self.library.device is None or not self.library.device.capturing, "planned while a stream is captured"
        assert self.stage == stage - 1, "a call out of turn"
        self.stage = stage

    def validate(self) -> None:
        self._turn(1)
        for _, operands, _, results in self.nodes:
            self.tensors += [t for t in (*operands.values(), *results) if t not in self.tensors]
        for tensor in self._outer():
            assert tensor.dim, "an output without sizes"
        assert len({t.uid for t in self._outer()}) == len(self._outer())

    def build_operation_graph(self) -> None:
        self._turn(2)

    def create_execution_plans(self, modes: list[Any]) -> None:
        self._turn(3)
        assert modes
        for name, operands, attributes, results in self.nodes:
            refuse(name, operands, attributes, results)

    def deselect_numeric_notes(self, notes: list[Any]) -> None:
        assert self.stage == 3, "before there are plans it marks none"
        self.unwanted = notes

    def check_support(self) -> None:
        self._turn(4)

    def build_plans(self) -> None:
        self._turn(5)
        self.library.built.append(self)

    def get_workspace_size(self) -> int:
        assert self.stage == 5
        return WORKSPACE

    def serialize(self) -> list[int]:
        return [*pickle.dumps((self.types, self.tensors, self.nodes, self.unwanted))]

    def deserialize(self, data: list[int]) -> None:
        try:
            self.types, self.tensors, self.nodes, self.unwanted = pickle.loads(bytes(data))
        except (pickle.UnpicklingError, EOFError, ValueError) as error:
            raise RuntimeError("not a plan") from error
        self.stage = 5
        self.library.read.append(self)

    def _outer(self) -> list[Tensor]:
        """The tensors that have addresses: what is given, and outputs."""
        made = [t for _, _, _, results in self.nodes for t in results]
        return [t for t in self.tensors if t.value is None and (t.output or t not in made)]

    def execute(self, addresses: dict[int, int], workspace: int, handle: Any) -> None:
        assert self.stage == 5
        assert handle is not None
        outer = {tensor.uid: tensor for tensor in self._outer()}
        assert set(addresses) == set(outer), "addresses of other tensors than the graph's"
        assert all(type(each) is int and each for each in (*addresses.values(), workspace))
        work = partial(self._compute, dict(addresses), workspace, outer)
        if self.library.device is None or not self.library.device.puts_off(work):
            work()

    def _compute(self, addresses: dict[int, int], workspace: int, outer: dict[int, Tensor]) -> None:
        ctypes.memset(workspace, 0xFF, WORKSPACE)  # NaN, whatever is read from there
        values: dict[int, Any] = {}
        limits = self.library.limits
        for uid, tensor in outer.items():
            if not tensor.output:
                values[id(tensor)] = tensor.memory(addresses[uid], limits.get(addresses[uid], UNKNOWN)[0]).astype(
                    np.float64
                )
        for tensor in self.tensors:
            if tensor.value is not None:
                values[id(tensor)] = tensor.value
        for name, operands, attributes, results in self.nodes:
            given = {key: values[id(each)] for key, each in operands.items()}
            with np.errstate(invalid="ignore"):
                found = getattr(cudnn_formulas, f"compute_{name}")(results, **given, **attributes)
            for tensor, value in zip(results, found, strict=True):
                assert tensor.dim is None or list(value.shape) == tensor.dim, f"{name}: {value.shape}, not {tensor.dim}"
                values[id(tensor)] = value
        for uid, tensor in outer.items():
            if tensor.output:
                limit, writeable = limits.get(addresses[uid], UNKNOWN)
                assert writeable, "an output into what is read-only"
                tensor.memory(addresses[uid], limit)[...] = values[id(tensor)].astype(tensor.kind.dtype)
        self.library.ran.append(self)
