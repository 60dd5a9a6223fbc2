"""python -m tests.kernels.cuda.cudnn_plans COMPUTE: what the installed cuDNN plans for a GPU of that capability.

A program of its own, because the libraries that stand in for the driver's have to be there when Python starts. Prints a
JSON object: by dtype and by kind of graph how many were planned, and of the others what for and why not.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Any, TypeAlias

import cudnn
import numpy as np
from ml_dtypes import bfloat16

from gpubackprop.kernels.cuda import cudnn_attention, cudnn_conv, cudnn_norm  # noqa: F401  # they enter their pairs
from gpubackprop.kernels.cuda.cudnn import GRAPHS, Cudnn
from gpubackprop.ops.attention import scaled_dot_product_attention, self_attention
from gpubackprop.ops.conv import conv
from gpubackprop.ops.norm import batch_norm
from gpubackprop.tape import Op
from tests.ops import harness
from tests.ops.specs import table

Situation: TypeAlias = tuple[str, Op, list[Any], Mapping[str, Any]]  #: name, op, inputs, options
#: What cuDNN's heuristics ask about; of an H200 but for the capability.
PROPERTIES = {
    "deviceName": "a GPU that is not there", "cudaDeviceId": 0, "driverVer": 13000, "warpSize": 32, "pciDeviceId": 0,
    "maxGridSize": [2147483647, 65535, 65535], "maxBlockSize": [1024, 1024, 64], "multiProcessorCount": 132,
    "regsPerBlock": 65536, "maxRegistersPerSM": 65536, "maxCtasPerSM": 32, "maxThreadsPerBlock": 1024,
    "maxThreadsPerSM": 2048, "smClockRateKHz": 1980000, "memClockRateKHz": 3201000, "memoryBusWidth": 6144,
    "l2CacheSize": 62914560, "totalGlobalMem": 150754820096, "maxSharedMemoryPerBlock": 49152,
    "maxSharedMemoryPerBlockOptin": 232448, "reservedSharedMemoryPerBlock": 1024, "oversizedSharedMemoryPerBlock": 0,
    "isTccDriver": 0, "supportCoopLaunch": 1,
}  # fmt: skip  # a table


def planned(compute: int, dtype: Any) -> dict[str, Any]:
    """{kind of graph: [how many were planned, {row: reason} of the others]}"""
    device = cudnn.create_device_properties(json.dumps(PROPERTIES | {"deviceVer": compute * 10}))
    plans = Cudnn(cudnn, lambda array: 0, lambda count: None, device=device)
    found: dict[str, Any] = {}
    for name, op, inputs, options in [*rows(dtype), *workloads(dtype)]:
        for graph in GRAPHS[op](inputs, options):
            kind = found.setdefault(graph.describe.__name__, [0, {}])
            if plans.plan(graph) is None:
                kind[1][name] = plans.refused[graph]
            else:
                kind[0] += 1
    return found


def rows(dtype: Any) -> list[Situation]:
    """The op table's."""
    return [(row.name, row.op, harness.draw(row, dtype), row.options) for row in table() if row.op in GRAPHS]


def workloads(dtype: Any) -> list[Situation]:
    """What large networks have: ResNet-18 and ResNet-50's first layer, a GPT of twelve layers."""
    windows = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1)}
    large = {"stride": (2, 2), "padding": ((3, 3), (3, 3)), "dilation": (1, 1)}
    drawn = [
        ("ResNet, 3x3", conv, [(256, 32, 32, 64), (3, 3, 64, 64), None], windows),
        ("ResNet, stride 2", conv, [(256, 32, 32, 64), (3, 3, 64, 128), None], windows | {"stride": (2, 2)}),
        ("ResNet, images", conv, [(64, 224, 224, 3), (7, 7, 3, 64), None], large),
        ("ResNet, batch norm", batch_norm, [(256, 16, 16, 128), (128,), (128,)], {}),
        ("GPT", self_attention, [(16, 1024, 3 * 768), None, None, None], {"num_heads": 12, "causal": True}),
        ("GPT, odd length", self_attention, [(2, 77, 3 * 128), None, None, None], {"num_heads": 4, "causal": True}),
        ("translation", scaled_dot_product_attention, [(8, 8, 30, 64), *[(8, 8, 50, 64)] * 2, None, None, None], {}),
        (
            "generation",
            scaled_dot_product_attention,
            [(8, 8, 3, 64), *[(8, 8, 50, 64)] * 2, *[None] * 3],
            {"causal": True},
        ),
    ]
    number = np.zeros((), dtype)  # nobody looks at it
    return [
        (name, op, [None if shape is None else np.broadcast_to(number, shape) for shape in shapes], options)
        for name, op, shapes, options in drawn
    ]


if __name__ == "__main__":
    compute = int(sys.argv[1])
    print(json.dumps({np.dtype(d).name: planned(compute, d) for d in (np.float64, np.float32, np.float16, bfloat16)}))
