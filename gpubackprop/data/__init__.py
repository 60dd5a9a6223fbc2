"""Data sources, transforms and the loader that turns them into batches. Needs NumPy alone until a source is read."""

from gpubackprop.data.arrays import Arrays, Memory
from gpubackprop.data.cifar import Cifar
from gpubackprop.data.digits import Digits
from gpubackprop.data.idx import Idx
from gpubackprop.data.loader import Batch, Loader, batches_in, prefetch
from gpubackprop.data.options import DataOptions
from gpubackprop.data.prepare import Data, check, prepare
from gpubackprop.data.preprocessing import Inputs, Preprocessing, read_inputs
from gpubackprop.data.source import DataInfo, Source, Split, Splits, sources
from gpubackprop.data.transform import Augmentation, Transform, augmentations, transforms

__all__ = [
    "Arrays",
    "Augmentation",
    "Batch",
    "Cifar",
    "Data",
    "DataInfo",
    "DataOptions",
    "Digits",
    "Idx",
    "Inputs",
    "Loader",
    "Memory",
    "Preprocessing",
    "Source",
    "Split",
    "Splits",
    "Transform",
    "augmentations",
    "batches_in",
    "check",
    "prefetch",
    "prepare",
    "read_inputs",
    "sources",
    "transforms",
]
