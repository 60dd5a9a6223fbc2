"""Handwritten digits that come with the package: no download.

digits.npz holds the test part of "Optical Recognition of Handwritten Digits" (E. Alpaydin and C. Kaynak 1998, UCI
Machine Learning Repository, CC BY 4.0), in scikit-learn's order: images (1797, 64) of 0 to 16, labels (1797,).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpubackprop.data.source import DataInfo, Source, Split, SplitName, sources
from gpubackprop.data.split import hold_out

COUNT, TEST_COUNT = 1797, 360


@sources.register("digits")
class Digits(Source):
    """1,797 grey images of 8 x 8 pixels, ten classes (E. Alpaydin, C. Kaynak, UCI 1998).

    The original's values 0 to 16 become uint8 pixels 0 to 255. 20 % are the test split: stratified, by a constant
    permutation, so that results of different seeds can be compared.
    """

    def info(self) -> DataInfo:
        """Known without reading anything."""
        counts = {"train": COUNT - TEST_COUNT, "test": TEST_COUNT}
        return DataInfo((8, 8, 1), "uint8", (), "int64", [str(digit) for digit in range(10)], counts)

    def read(self, name: SplitName) -> Split | None:
        """Images (N, 8, 8, 1) uint8, labels (N,) int64."""
        if name == "validation":
            return None
        with np.load(Path(__file__).with_name("digits.npz")) as file:
            images, labels = file["images"], file["labels"]
        pixels = np.rint(images * (255 / 16)).astype(np.uint8).reshape(-1, 8, 8, 1)
        train, test = hold_out(Split(pixels, labels.astype(np.int64)), 0.2, seed=0, purpose="data.digits.test")
        return train if name == "train" else test
