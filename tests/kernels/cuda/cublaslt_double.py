"""A double of cuBLASLt: real C functions that decode what they are given, and compute it with NumPy.

It knows nothing of the binding: numbers, sizes and rules are written down again from `cublasLt.h`. Descriptors are the
bytes that were set; matrices are read from, and written to, the memory at the pointers; sums are made in float64 and
rounded as the library stores them. It refuses what the library refuses. Where the header is silent (which epilogues
float64 has, the alignment of aux, a bias gradient shared by a batch) it takes the strict side.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from ctypes import CFUNCTYPE, c_int, c_int64, c_size_t, c_uint64, c_void_p
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

SUCCESS, NOT_INITIALIZED, INVALID_VALUE, EXECUTION_FAILED, INTERNAL_ERROR, NOT_SUPPORTED = 0, 1, 7, 13, 14, 15

#: attribute -> (bytes, default)
SIZES: dict[str, dict[int, tuple[int, int]]] = {
    "MatmulDesc": {
        0: (4, 0), 1: (4, 0), 2: (4, 0), 3: (4, 0), 4: (4, 0), 5: (4, 0), 6: (4, 0), 7: (4, 1), 8: (8, 0), 10: (8, 0),
        11: (8, 0), 12: (8, 0), 13: (8, 0),
    },
    "MatrixLayout": {0: (4, 0), 1: (4, 0), 2: (8, 0), 3: (8, 0), 4: (8, 0), 5: (4, 1), 6: (8, 0)},
    "MatmulPreference": {0: (4, 0), 1: (8, 0), 5: (4, 256), 6: (4, 256), 7: (4, 256), 8: (4, 256)},
}  # fmt: skip  # a table as in the header
COMPUTE, SCALE, POINTER_MODE, TRANS_A, TRANS_B, TRANS_C = 0, 1, 2, 3, 4, 5
EPILOGUE, BIAS, BIAS_STRIDE, AUX, AUX_LD, AUX_STRIDE = 7, 8, 10, 11, 12, 13
TYPE, ORDER, ROWS, COLS, LD, BATCH, STRIDE = 0, 1, 2, 3, 4, 5, 6

RELU, ADD_BIAS, DRELU, BGRAD, GELU, DGELU, HAS_AUX, BGRADA, BGRADB = 2, 4, 8, 16, 32, 64, 128, 256, 512
KNOWN = {1, 2, 4, 6, 32, 36, 128 | 2, 128 | 6, 128 | 32, 128 | 36, 136, 152, 192, 208, 256, 512}
STORED = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}  # 14: bfloat16, as its bits
#: compute type, scale type, type of A and B -> types of C and D
COMBINATIONS = {
    (68, 0, 0): {0}, (77, 0, 0): {0}, (68, 0, 2): {2, 0}, (68, 0, 14): {14, 0}, (70, 1, 1): {1},
}  # fmt: skip  # a table as in the header
UNIT = 1 << 16  # bytes of workspace that algorithm 1 needs; algorithm 2 needs two; 0 none


class Refusal(Exception):
    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


def require(truth: bool, reason: str, status: int = INVALID_VALUE) -> None:
    if not truth:
        raise Refusal(status, reason)


@dataclass
class Thing:
    kind: str
    attributes: dict[int, bytes]
    alive: bool = True

    def __getitem__(self, number: int) -> int:
        raw = self.attributes[number]
        return int.from_bytes(raw, "little", signed=True)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(x), 0x7FC0, rounded).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_tf32(x: np.ndarray) -> np.ndarray:
    bits = np.asarray(x, np.float32).view(np.uint32)
    return np.where(np.isfinite(x), ((bits + 0x1000) & 0xFFFFE000).astype(np.uint32).view(np.float32), x)


def gelu_parts(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """GELU in its tanh form, and its slope."""
    t = np.tanh(np.sqrt(2 / np.pi) * (z + 0.044715 * z**3))
    inner = np.sqrt(2 / np.pi) * (1 + 3 * 0.044715 * z**2)
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * inner


@dataclass
class Call:
    """A product that was computed: which algorithm, on which stream, and the epilogue."""

    algorithm: int
    stream: int
    epilogue: int
    workspace: int


@dataclass(eq=False)
class CublasLtDouble:
    """Hand it to `Library`. `memory`: address ranges that may be touched; None: all. `gpu` False: there is none."""

    version: int = 131000
    gpu: bool = True
    device: Any = None  #: of cupy_double.py: what is captured is put off
    interleaves: bool = False  #: whether rows of a batch's results may lie between each other; the header doesn't say
    memory: list[tuple[int, int]] | None = None
    calls: list[Call] = field(default_factory=list)
    asked: int = 0  #: how often for algorithms
    reason: str = ""  #: why the last call was refused

    def __post_init__(self) -> None:
        self._things: dict[int, Thing] = {}
        self._addresses = itertools.count(0x10000, 0x100)
        p, u, n = c_void_p, c_uint64, c_size_t
        self._export("cublasLtCreate", self._create, p)
        self._export("cublasLtDestroy", lambda handle: self._destroy("handle", handle), p)
        self._export("cublasLtMatmulDescCreate", self._create_description, p, c_int, c_int)
        self._export("cublasLtMatrixLayoutCreate", self._create_layout, p, c_int, u, u, c_int64)
        self._export("cublasLtMatmulPreferenceCreate", lambda where: self._new("MatmulPreference", where), p)
        for kind in SIZES:
            self._export(f"cublasLt{kind}Destroy", lambda handle, kind=kind: self._destroy(kind, handle), p)
            self._export(f"cublasLt{kind}SetAttribute", lambda *a, kind=kind: self._set(kind, *a), p, c_int, p, n)
            self._export(f"cublasLt{kind}GetAttribute", lambda *a, kind=kind: self._get(kind, *a), p, c_int, p, n, p)
        self._export("cublasLtMatmulAlgoGetHeuristic", self._heuristic, p, p, p, p, p, p, p, c_int, p, p)
        self._export("cublasLtMatmul", self._matmul, p, p, p, p, p, p, p, p, p, p, p, p, p, p, n, p)
        self.cublasLtGetVersion = CFUNCTYPE(c_size_t)(lambda: self.version)

    def _export(self, name: str, function: Callable[..., None], *types: Any) -> None:
        def guarded(*arguments: Any) -> int:
            try:
                function(*arguments)
            except Refusal as refusal:
                self.reason = f"{name}: {refusal}"
                return refusal.status
            except Exception as error:  # ctypes would swallow it
                self.reason = f"{name}: {type(error).__name__}: {error}"
                return INTERNAL_ERROR
            return SUCCESS

        setattr(self, name, CFUNCTYPE(c_int, *types)(guarded))

    @property
    def alive(self) -> list[str]:
        """The kinds of what was created and not destroyed."""
        return sorted(thing.kind for thing in self._things.values() if thing.alive)

    # Objects

    def _new(self, kind: str, where: int, **given: int) -> None:
        require(bool(where), "nowhere to write the new object's address")
        table = SIZES.get(kind, {})
        attributes = {number: default.to_bytes(size, "little") for number, (size, default) in table.items()}
        for name, value in given.items():
            number = int(name[1:])
            attributes[number] = value.to_bytes(table[number][0], "little", signed=True)
        address = next(self._addresses)
        self._things[address] = Thing(kind, attributes)
        c_void_p.from_address(where).value = address

    def _thing(self, kind: str, handle: int | None) -> Thing:
        thing = self._things.get(handle or 0)
        require(thing is not None and thing.kind == kind, f"{handle} is no {kind}")
        assert thing is not None
        require(thing.alive, f"the {kind} {handle} was destroyed")
        return thing

    def _create(self, where: int) -> None:
        require(self.gpu, "no GPU", NOT_INITIALIZED)
        self._new("handle", where)

    def _create_description(self, where: int, compute: int, scale: int) -> None:
        self._new("MatmulDesc", where, _0=compute, _1=scale)

    def _create_layout(self, where: int, kind: int, rows: int, columns: int, lead: int) -> None:
        self._new("MatrixLayout", where, _0=kind, _2=rows, _3=columns, _4=lead)

    def _destroy(self, kind: str, handle: int) -> None:
        self._thing(kind, handle).alive = False

    def _set(self, kind: str, handle: int, number: int, where: int, size: int) -> None:
        thing = self._thing(kind, handle)
        require(number in SIZES[kind], f"{kind} has no attribute {number}")
        require(size == SIZES[kind][number][0], f"attribute {number} of {kind} has not {size} bytes")
        thing.attributes[number] = ctypes.string_at(where, size)

    def _get(self, kind: str, handle: int, number: int, where: int, size: int, written: int | None) -> None:
        thing = self._thing(kind, handle)
        require(number in SIZES[kind] and size == SIZES[kind][number][0], f"{kind}: {number} of {size} bytes")
        ctypes.memmove(where, thing.attributes[number], size)
        if written:
            c_size_t.from_address(written).value = size

    # Algorithms

    def _problem(self, desc: Thing, a: Thing, b: Thing, c: Thing, d: Thing) -> int:
        """Checks everything but the pointers of the matrices; a number that only the same problem has."""
        triple = desc[COMPUTE], desc[SCALE], a[TYPE]
        require(desc[POINTER_MODE] == 0 and desc[TRANS_C] == 0, "not done by the double", NOT_SUPPORTED)
        require(triple in COMBINATIONS and b[TYPE] == a[TYPE], f"types {triple} {b[TYPE]}", NOT_SUPPORTED)
        require(c[TYPE] == d[TYPE] and d[TYPE] in COMBINATIONS[triple], f"result of type {d[TYPE]}", NOT_SUPPORTED)
        for name, each in zip("ABCD", (a, b, c, d), strict=True):
            require(each[ORDER] == 0, f"{name} is not in column order", NOT_SUPPORTED)
            require(each[ROWS] > 0 and each[COLS] > 0, f"{name} is empty")
            require(each[LD] >= each[ROWS], f"{name}: leading dimension {each[LD]} < {each[ROWS]} rows")
            require(each[BATCH] == d[BATCH] >= 1, f"{name}: batch of {each[BATCH]}, D of {d[BATCH]}")
        require(desc[TRANS_A] in (0, 1) and desc[TRANS_B] in (0, 1), "operation")
        shape_a = (a[COLS], a[ROWS]) if desc[TRANS_A] else (a[ROWS], a[COLS])
        shape_b = (b[COLS], b[ROWS]) if desc[TRANS_B] else (b[ROWS], b[COLS])
        require(shape_a[1] == shape_b[0], f"{shape_a} times {shape_b}")
        require((shape_a[0], shape_b[1]) == (d[ROWS], d[COLS]) == (c[ROWS], c[COLS]), "the result's shape")
        if d[BATCH] > 1:
            behind = d[STRIDE] >= (d[COLS] - 1) * d[LD] + d[ROWS]
            between = d[STRIDE] >= d[ROWS] and d[LD] >= (d[BATCH] - 1) * d[STRIDE] + d[ROWS]
            require(behind or (self.interleaves and between), "the results of the batch overlap")
        self._check_epilogue(desc, d, shape_a[1])
        described = [desc[n] for n in SIZES["MatmulDesc"] if n not in (BIAS, AUX)]
        described += [each[n] for each in (a, b, c, d) for n in SIZES["MatrixLayout"]]
        return hash(tuple(described)) & 0xFFFFFFFF

    def _check_epilogue(self, desc: Thing, d: Thing, inner: int) -> None:
        epilogue = desc[EPILOGUE]
        require(epilogue in KNOWN, f"epilogue {epilogue}")
        if desc[COMPUTE] == 70:
            gradient = DRELU | DGELU | BGRAD | BGRADA | BGRADB | HAS_AUX
            require(not epilogue & gradient, f"epilogue {epilogue} for float64", NOT_SUPPORTED)
        if epilogue & (BGRADA | BGRADB) and inner == 1:
            require(self.version >= 120304, "a bias gradient with K = 1", NOT_SUPPORTED)
        if epilogue & (ADD_BIAS | BGRAD | BGRADA | BGRADB):
            require(desc[BIAS] != 0, "the bias pointer is missing")
            require(desc[BIAS] % np.dtype(STORED[d[TYPE]]).itemsize == 0, "the bias pointer is misaligned")
            length = d[COLS] if epilogue & BGRADB else d[ROWS]
            shared = 0 if epilogue & ADD_BIAS else length
            require(d[BATCH] == 1 or desc[BIAS_STRIDE] >= length or desc[BIAS_STRIDE] == shared, "bias stride")
        if epilogue & HAS_AUX:
            unit = 128 if epilogue & (RELU | DRELU) else 8
            require(desc[AUX] != 0, "the aux pointer is missing")
            require(desc[AUX] % 16 == 0, "the aux pointer is misaligned")
            require(desc[AUX_LD] >= d[ROWS] and desc[AUX_LD] % unit == 0, f"aux leading dimension {desc[AUX_LD]}")
            if d[BATCH] > 1:
                fits = desc[AUX_STRIDE] >= d[COLS] * desc[AUX_LD] and desc[AUX_STRIDE] % unit == 0
                require(fits, f"aux batch stride {desc[AUX_STRIDE]}")

    def _heuristic(
        self,
        handle: int,
        desc: int,
        a: int,
        b: int,
        c: int,
        d: int,
        preference: int,
        count: int,
        found: int,
        number: int,
    ) -> None:
        self.asked += 1
        require(self.device is None or not self.device.capturing, "algorithms asked for while a stream is captured")
        c_int.from_address(number).value = 0
        self._thing("handle", handle)
        wish = self._thing("MatmulPreference", preference)
        description = self._thing("MatmulDesc", desc)
        problem = self._problem(description, *(self._thing("MatrixLayout", each) for each in (a, b, c, d)))
        alignments = [wish[n] for n in (5, 6, 7, 8)]
        aligned = min(alignments) >= 16
        offered = [i for i in (2, 1, 0) if i * UNIT <= wish[1] and (aligned or i < 2)]
        for place, i in enumerate(offered[:count]):
            data = [0xC0B1A5, i, problem, 16 if i == 2 else 1, *alignments]
            entry = found + place * 96
            ctypes.memmove(entry, np.array(data, np.uint64).tobytes(), 64)
            c_size_t.from_address(entry + 64).value = i * UNIT
            c_int.from_address(entry + 72).value = SUCCESS
        c_int.from_address(number).value = min(count, len(offered))

    # The product

    def _memory(self, address: int, count: int, kind: int, what: str) -> np.ndarray:
        """`count` numbers at an address, as stored; writing into it writes there."""
        size = np.dtype(STORED[kind]).itemsize
        require(bool(address) and address % size == 0, f"{what} is null or misaligned: {address}", EXECUTION_FAILED)
        self._touch(address, count * size, what)
        return np.frombuffer((ctypes.c_char * (count * size)).from_address(address), STORED[kind])

    def _touch(self, address: int, size: int, what: str) -> None:
        if self.memory is not None:
            inside = any(low <= address and address + size <= high for low, high in self.memory)
            require(inside, f"{what}: {size} bytes at {address} are nobody's", EXECUTION_FAILED)

    def _matrix(self, address: int, layout: Thing, which: int, what: str) -> np.ndarray:
        kind = layout[TYPE]
        size = np.dtype(STORED[kind]).itemsize
        start = address + which * layout[STRIDE] * size
        flat = self._memory(start, (layout[COLS] - 1) * layout[LD] + layout[ROWS], kind, what)
        shape, strides = (layout[ROWS], layout[COLS]), (size, layout[LD] * size)
        return np.lib.stride_tricks.as_strided(flat, shape, strides)

    def _matmul(
        self, handle: int, desc: int, alpha: int, a: int, a_layout: int, b: int, b_layout: int, beta: int, c: int,
        c_layout: int, d: int, d_layout: int, algorithm: int, workspace: int | None, size: int, stream: int | None,
    ) -> None:  # fmt: skip  # one C argument list
        self._thing("handle", handle)
        description = self._thing("MatmulDesc", desc)
        layouts = [self._thing("MatrixLayout", each) for each in (a_layout, b_layout, c_layout, d_layout)]
        problem = self._problem(description, *layouts)
        require(bool(algorithm), "the double wants an algorithm", NOT_SUPPORTED)
        magic, index, made_for, least, *told = np.frombuffer(ctypes.string_at(algorithm, 64), np.uint64).tolist()
        require(magic == 0xC0B1A5 and made_for == problem, "the algorithm is another problem's")
        require(size >= index * UNIT, f"workspace of {size} bytes, algorithm {index} needs {index * UNIT}")
        if index:
            require(bool(workspace) and (workspace or 0) % 256 == 0, "the workspace is null or misaligned")
            self._touch(workspace or 0, index * UNIT, "workspace")
        for name, pointer, promised in zip("ABCD", (a, b, c, d), told, strict=True):
            require((pointer or 0) % max(least, promised) == 0, f"{name} is not aligned to {promised} bytes")
        require(c == d and c_layout == d_layout, "not done by the double: C apart from D", NOT_SUPPORTED)
        scalar = ctypes.c_double if description[SCALE] == 1 else ctypes.c_float
        factors = scalar.from_address(alpha).value, scalar.from_address(beta).value
        self.calls.append(Call(index, stream or 0, description[EPILOGUE], size))
        # As they are now: the next product may set other addresses in the same description.
        description, *layouts = (replace(each, attributes=dict(each.attributes)) for each in (description, *layouts))

        def work() -> None:
            results = [self._one(description, layouts, (a, b, d), factors, which) for which in range(layouts[3][BATCH])]
            for store in results:  # after all was read: an input that overlaps the output does not look right by luck
                store()

        if self.device is None or not self.device.puts_off(work):
            work()

    def _one(
        self, desc: Thing, layouts: list[Thing], where: tuple[int, int, int], factors: tuple[float, float], which: int
    ) -> Callable[[], None]:
        left, right = (self._read(at, layouts[i], which, "AB"[i]) for i, at in enumerate(where[:2]))
        if desc[COMPUTE] == 77:
            left, right = to_tf32(left), to_tf32(right)
        left, right = (x.astype(np.float64) for x in (left, right))
        left, right = left.T if desc[TRANS_A] else left, right.T if desc[TRANS_B] else right
        z = factors[0] * (left @ right)
        if factors[1]:
            z += factors[1] * self._read(where[2], layouts[3], which, "C").astype(np.float64)
        epilogue, layout = desc[EPILOGUE], layouts[3]
        kind, rows, columns = layout[TYPE], layout[ROWS], layout[COLS]
        stores: list[tuple[np.ndarray, np.ndarray]] = []
        bias = None
        if epilogue & (ADD_BIAS | BGRAD | BGRADA | BGRADB):
            length = columns if epilogue & BGRADB else rows
            at = desc[BIAS] + which * desc[BIAS_STRIDE] * np.dtype(STORED[kind]).itemsize
            bias = self._memory(at, length, kind, "bias")
        if epilogue & ADD_BIAS:
            assert bias is not None
            z = z + self._decode(bias, kind).astype(np.float64)[:, None]
        if epilogue & (RELU | DRELU) and epilogue & HAS_AUX:
            bits = self._bits(desc, rows, columns, which)
            if epilogue & RELU:
                packed = np.packbits(z > 0, axis=0, bitorder="little")
                stores.append((bits[: packed.shape[0]], packed))
            else:
                z = z * np.unpackbits(bits, axis=0, count=rows, bitorder="little")
        if epilogue & (GELU | DGELU) and epilogue & HAS_AUX:
            size = np.dtype(STORED[kind]).itemsize
            lead, start = desc[AUX_LD], desc[AUX] + which * desc[AUX_STRIDE] * np.dtype(STORED[kind]).itemsize
            flat = self._memory(start, (columns - 1) * lead + rows, kind, "aux")
            kept = np.lib.stride_tricks.as_strided(flat, (rows, columns), (size, lead * size))
            if epilogue & GELU:
                stores.append((kept, self._encode(z, kind)))
            else:
                z = z * gelu_parts(self._decode(kept, kind).astype(np.float64))[1]
        if epilogue & RELU:
            z = np.fmax(z, 0)  # the library makes 0 of NaN
        if epilogue & GELU:
            z = gelu_parts(z)[0]
        if epilogue & BGRAD:
            stores.append((bias, self._encode(z.sum(axis=1), kind)))
        if epilogue & BGRADA:
            stores.append((bias, self._encode(left.sum(axis=1), kind)))
        if epilogue & BGRADB:
            stores.append((bias, self._encode(right.sum(axis=0), kind)))
        stores.append((self._matrix(where[2], layout, which, "D"), self._encode(z, kind)))

        def store() -> None:
            for target, value in stores:
                target[...] = value

        return store

    def _bits(self, desc: Thing, rows: int, columns: int, which: int) -> np.ndarray:
        """ReLU's mask, (bytes of a column, columns): bit i % 8 of byte i // 8 is row i's."""
        lead, start = desc[AUX_LD] // 8, desc[AUX] + which * desc[AUX_STRIDE] // 8
        self._touch(start, columns * lead, "aux")
        flat = np.frombuffer((ctypes.c_char * (columns * lead)).from_address(start), np.uint8)
        return np.lib.stride_tricks.as_strided(flat, (-(-rows // 8), columns), (1, lead))

    def _read(self, address: int, layout: Thing, which: int, what: str) -> np.ndarray:
        return self._decode(self._matrix(address, layout, which, what), layout[TYPE])

    def _decode(self, stored: np.ndarray, kind: int) -> np.ndarray:
        return from_bfloat16(stored) if kind == 14 else stored

    def _encode(self, x: np.ndarray, kind: int) -> np.ndarray:
        with np.errstate(over="ignore"):
            return to_bfloat16(x.astype(np.float32)) if kind == 14 else x.astype(STORED[kind])
