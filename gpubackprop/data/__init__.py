"""Data sources, transforms and the loader that turns them into batches. Needs NumPy alone until a source is read."""

from gpubackprop.data.arrays import Arrays, Memory
from gpubackprop.data.cifar import Cifar
from gpubackprop.data.digits import Digits
from gpubackprop.data.idx import Idx
from gpubackprop.data.inputs import Inputs, read_inputs
from gpubackprop.data.loader import Batch, Loader, batches_in, prefetch
from gpubackprop.data.options import DataOptions
from gpubackprop.data.prepare import Data, check, divided, prepare
from gpubackprop.data.preprocessing import Preprocessing
from gpubackprop.data.scenes import DigitScenes
from gpubackprop.data.sequences import Sequences
from gpubackprop.data.source import DataInfo, Source, Split, Splits, sources
from gpubackprop.data.synthetic import Synthetic
from gpubackprop.data.text import Text
from gpubackprop.data.transform import Augmentation, Transform, augmentations, transforms
from gpubackprop.data.vocabulary import Vocabulary

__all__ = [
    "Arrays",
    "Augmentation",
    "Batch",
    "Cifar",
    "Data",
    "DataInfo",
    "DataOptions",
    "DigitScenes",
    "Digits",
    "Idx",
    "Inputs",
    "Loader",
    "Memory",
    "Preprocessing",
    "Sequences",
    "Source",
    "Split",
    "Splits",
    "Synthetic",
    "Text",
    "Transform",
    "Vocabulary",
    "augmentations",
    "batches_in",
    "check",
    "divided",
    "prefetch",
    "prepare",
    "read_inputs",
    "sources",
    "transforms",
]
