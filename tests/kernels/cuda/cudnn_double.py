"""A double of the package `cudnn`: it remembers the graph that it is given, and computes that one by NumPy, on the
memory that the addresses point to.

Sizes, strides, types and attributes are all that it knows; nothing comes from the code under test. Like the library it
refuses what has no plan there (as the library itself said, asked for its plans without a GPU), a call out of turn, and
addresses that are not those of the graph's tensors. Plans can be serialized: `pickle` stands in for the library's form.
"""

from __future__ import annotations

import ctypes
import enum
import pickle
from functools import partial
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np

WORKSPACE = 96
UNKNOWN = 1 << 62, True  # of an address that `address` did not give


class cudnnGraphNotSupportedError(Exception):
    """There is no plan for a graph."""


class data_type(enum.Enum):
    """Types of numbers."""

    DOUBLE, FLOAT, HALF, BFLOAT16 = "float64", "float32", "float16", "bfloat16"

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's, which knows bfloat16 once ml_dtypes is imported."""
        return np.dtype(ml_dtypes.bfloat16 if self is data_type.BFLOAT16 else self.value)


heur_mode = enum.Enum("heur_mode", "A FALLBACK")
numerical_note = enum.Enum("numerical_note", "NONDETERMINISTIC DOWN_CONVERT_INPUTS TENSOR_CORE")
reduction_mode = enum.Enum("reduction_mode", "ADD MAX")
diagonal_alignment = enum.Enum("diagonal_alignment", "TOP_LEFT BOTTOM_RIGHT")
scalar_type = enum.Enum("scalar_type", "COMPILE_TIME_CONST RUNTIME_PARAM")


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
    reduction_mode, diagonal_alignment = reduction_mode, diagonal_alignment

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

    def reduction(self, *, input: Tensor, mode: Any) -> Tensor:
        return self._node("reduction", 1, {"x": input}, mode=mode)[0]

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
                found = globals()[f"compute_{name}"](results, **given, **attributes)
            for tensor, value in zip(results, found, strict=True):
                assert tensor.dim is None or list(value.shape) == tensor.dim, f"{name}: {value.shape}, not {tensor.dim}"
                values[id(tensor)] = value
        for uid, tensor in outer.items():
            if tensor.output:
                limit, writeable = limits.get(addresses[uid], UNKNOWN)
                assert writeable, "an output into what is read-only"
                tensor.memory(addresses[uid], limit)[...] = values[id(tensor)].astype(tensor.kind.dtype)
        self.library.ran.append(self)


def refuse(name: str, operands: dict[str, Tensor], attributes: dict[str, Any], results: list[Tensor]) -> None:
    """As the library refuses."""

    def needed(condition: Any, reason: str) -> None:
        if not condition:
            raise cudnnGraphNotSupportedError(f"no engine proposed a plan for this graph: {reason}")

    if name.startswith("conv"):
        image = operands.get("image") or results[0]
        weight, loss = operands.get("weight") or results[0], operands.get("loss") or results[0]
        needed(image.dim[1] % weight.dim[1] == 0, "channels")
        if loss.dim:
            needed(weight.dim[0] == loss.dim[1], "channels")
            needed(_places(image.dim[2:], weight.dim[2:], attributes) == loss.dim[2:], "sizes")
    elif name == "reduction":
        needed(operands["x"].kind is not data_type.DOUBLE and results[0].kind is data_type.FLOAT, "types")
    elif name.startswith("batchnorm"):
        x = operands.get("x") or operands["input"]
        needed(x.kind is not data_type.DOUBLE, "float64")
        needed(x.dim[1] % (4 if x.kind is data_type.FLOAT else 8) == 0, "channels")
        needed(all(t.kind is data_type.FLOAT for key, t in operands.items() if "mean" in key or "var" in key), "types")
    elif name.startswith("sdpa"):
        q, k, v = (operands[each] for each in "qkv")
        short = q.kind in (data_type.HALF, data_type.BFLOAT16)
        needed(short, "types")
        needed(q.dim[3] % 8 == 0 and v.dim[3] % 8 == 0 and max(q.dim[3], v.dim[3]) <= 128, "hidden_dim")
        needed(attributes.get("diagonal_alignment") is not diagonal_alignment.BOTTOM_RIGHT or q.dim[2] <= k.dim[2], "")
        needed(name == "sdpa" or (q.dim[2], k.dim[2]) != (1, 1), "s_q = s_kv = 1")


def _places(sizes: list[int], kernel: list[int], windows: dict[str, Any]) -> list[int]:
    axes = zip(sizes, kernel, *(windows[w] for w in ("pre_padding", "post_padding", "stride", "dilation")), strict=True)
    return [(n + before + after - d * (k - 1) - 1) // s + 1 for n, k, before, after, s, d in axes]


def _cells(padded: Any, kernel: Any, places: Any, windows: dict[str, Any]) -> Any:
    """Each cell of the window, with the view of the padded image (N, C, *P) that it sees."""
    for cell in product(*map(range, kernel)):
        axes = zip(cell, places, windows["stride"], windows["dilation"], strict=True)
        yield cell, padded[(..., *(slice(c * d, c * d + (p - 1) * s + 1, s) for c, p, s, d in axes))]


def _padded(image: Any, windows: dict[str, Any]) -> Any:
    around = list(zip(windows["pre_padding"], windows["post_padding"], strict=True))
    return np.pad(image, [(0, 0), (0, 0), *around])


def _split(array: Any, groups: int, axis: int) -> Any:
    return np.stack(np.split(array, groups, axis), 0)


def compute_conv_fprop(results: Any, image: Any, weight: Any, **windows: Any) -> list[Any]:
    groups, padded = image.shape[1] // weight.shape[1], _padded(image, windows)
    places = _places(image.shape[2:], weight.shape[2:], windows)
    y = np.zeros((image.shape[0], weight.shape[0], *places))
    for cell, seen in _cells(padded, weight.shape[2:], places, windows):
        parts = np.einsum("gnc...,goc->gno...", _split(seen, groups, 1), _split(weight[(..., *cell)], groups, 0))
        y += np.concatenate(parts, 1)
    return [y]


def compute_conv_dgrad(results: Any, loss: Any, weight: Any, **windows: Any) -> list[Any]:
    shape = results[0].dim
    groups, padded = shape[1] // weight.shape[1], _padded(np.zeros(shape), windows)
    for cell, seen in _cells(padded, weight.shape[2:], loss.shape[2:], windows):
        parts = np.einsum("gno...,goc->gnc...", _split(loss, groups, 1), _split(weight[(..., *cell)], groups, 0))
        seen += np.concatenate(parts, 1)
    inner = (slice(b, b + n) for b, n in zip(windows["pre_padding"], shape[2:], strict=True))
    return [padded[(..., *inner)]]


def compute_conv_wgrad(results: Any, image: Any, loss: Any, **windows: Any) -> list[Any]:
    dweight = np.zeros(results[0].dim)
    groups, padded = image.shape[1] // dweight.shape[1], _padded(image, windows)
    for cell, seen in _cells(padded, dweight.shape[2:], loss.shape[2:], windows):
        flat = (_split(each.reshape(*each.shape[:2], -1), groups, 1) for each in (seen, loss))
        parts = np.einsum("gncp,gnop->goc", *flat)
        dweight[(..., *cell)] = np.concatenate(parts, 0)
    return [dweight]


def compute_bias(results: Any, x: Any, bias: Any) -> list[Any]:
    return [x + bias]


def compute_reduction(results: Any, x: Any, mode: Any) -> list[Any]:
    assert mode is reduction_mode.ADD
    axes = tuple(i for i, n in enumerate(results[0].dim) if n == 1)
    return [x.sum(axis=axes, keepdims=True)]


def compute_batchnorm(
    results: Any, x: Any, scale: Any, bias: Any, epsilon: Any, momentum: Any, in_running_mean: Any, in_running_var: Any
) -> list[Any]:
    over, count = (0, 2, 3), x.size / x.shape[1]
    mean, var = x.mean(axis=over, keepdims=True), x.var(axis=over, keepdims=True)
    rstd = 1 / np.sqrt(var + epsilon)
    running = (1 - momentum) * in_running_mean + momentum * mean
    spread = (1 - momentum) * in_running_var + momentum * var * count / (count - 1)
    return [(x - mean) * rstd * scale + bias, mean, rstd, running, spread]


def compute_batchnorm_backward(
    results: Any,
    grad: Any,
    input: Any,
    scale: Any,
    mean: Any,
    inv_variance: Any,
) -> list[Any]:
    over, normal = (0, 2, 3), (input - mean) * inv_variance
    dscale, dbias = ((grad * each).sum(axis=over, keepdims=True) for each in (normal, 1.0))
    count = input.size / input.shape[1]
    return [scale * inv_variance * (grad - dbias / count - normal * dscale / count), dscale, dbias]


def _scores(q: Any, k: Any, attributes: dict[str, Any]) -> Any:
    scores = np.einsum("nhtd,nhsd->nhts", q, k) * attributes["attn_scale"]
    if "diagonal_band_right_bound" not in attributes:
        return scores
    assert attributes["diagonal_band_right_bound"] == 0
    t, s = scores.shape[-2:]
    shift = s - t if attributes["diagonal_alignment"] is diagonal_alignment.BOTTOM_RIGHT else 0
    return np.where(np.arange(s) <= np.arange(t)[:, None] + shift, scores, -np.inf)


def compute_sdpa(results: Any, q: Any, k: Any, v: Any, **attributes: Any) -> list[Any]:
    scores = _scores(q, k, attributes)
    highest = scores.max(axis=-1, keepdims=True)
    stats = highest + np.log(np.exp(scores - highest).sum(axis=-1, keepdims=True))
    return [np.exp(scores - stats) @ v, stats]


def compute_sdpa_backward(results: Any, q: Any, k: Any, v: Any, o: Any, do: Any, stats: Any, **rest: Any) -> list[Any]:
    assert rest["use_deterministic_algorithm"]
    p = np.exp(_scores(q, k, rest) - stats)
    ds = p * (np.einsum("nhtv,nhsv->nhts", do, v) - (o * do).sum(axis=-1, keepdims=True)) * rest["attn_scale"]
    return [ds @ k, ds.swapaxes(-1, -2) @ q, p.swapaxes(-1, -2) @ do]
