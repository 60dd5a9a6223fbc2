"""Segmentation in small: scenes with a few handwritten digits, and the class of every pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gpubackprop.backend.philox import stream_of, uniform
from gpubackprop.data.digits import Digits
from gpubackprop.data.source import Array, DataInfo, Source, Split, SplitName, sources
from gpubackprop.data.split import held_out_count, hold_out
from gpubackprop.errors import UsageError
from gpubackprop.registry import NonNegative, Positive, Share

DIGIT, INK = 8, 64  #: pixels of a digit's side; how bright a pixel must be to belong to it
BACKGROUND = "background"


@sources.register("digit_scenes")
class DigitScenes(Source):
    """Grey scenes (size, size, 1) of 1 to `most` of the handwritten digits, `scale` times as large, at random places
    under noise; targets (size, size): 0 background, 1 to 10 the digits 0 to 9, the uppermost where they overlap.

    noise    share of the brightness that is uniform noise
    samples  scenes to train on, made of training images alone; `test` ones of test images alone; a validation share
             is made of images of its own
    seed     of the scenes; not the run's
    """

    def __init__(
        self,
        size: Positive = 32,
        most: Positive = 3,
        scale: Positive = 2,
        noise: Share = 0.2,
        samples: Positive = 2000,
        test: Positive = 400,
        seed: NonNegative = 0,
    ) -> None:
        if size < DIGIT * scale:
            raise UsageError(f"size must be at least {DIGIT * scale}, the side of a digit, {DIGIT} x scale")
        self.size, self.most, self.scale, self.noise = size, most, scale, noise
        self.scenes, self.test, self.seed = samples, test, seed
        self._held_out = 0.0

    def info(self) -> DataInfo:
        """Known without making anything."""
        held = held_out_count(self.scenes, self._held_out)
        counts = {"train": self.scenes - held, "validation": held, "test": self.test}
        shape, classes = (self.size, self.size), [BACKGROUND, *map(str, range(10))]
        return DataInfo((*shape, 1), "uint8", shape, "uint8", classes, {k: n for k, n in counts.items() if n})

    def holding_out(self, share: float) -> Source:
        """Scenes of digits that no other scene shows."""
        return self.changed(_held_out=share)

    def read(self, name: SplitName) -> Split | None:
        """Scenes (N, S, S, 1) uint8 and classes (N, S, S) uint8."""
        count = self.info().counts.get(name)
        if count is None:
            return None
        digits = Digits().read("test" if name == "test" else "train")
        assert digits is not None, "the digits have both splits"
        if name != "test" and self._held_out:
            kept, held = hold_out(digits, self._held_out, 0, "data.digit_scenes")
            digits = held if name == "validation" else kept
        found = digits.take(np.arange(len(digits)))
        images, labels = found["inputs"], found["targets"]
        assert isinstance(images, np.ndarray)
        assert isinstance(labels, np.ndarray)
        return self._scenes(images[..., 0], labels, count, name)

    def _scenes(self, images: Array, labels: Array, count: int, name: SplitName) -> Split:
        scenes = np.arange(count)

        def draw(what: str, width: int) -> npt.NDArray[np.float32]:
            stream = stream_of(f"data.digit_scenes.{name}.{what}")
            drawn: npt.NDArray[np.float32] = uniform(np, self.seed, stream, 0, scenes, width)
            return drawn

        side = DIGIT * self.scale
        shown = 1 + (draw("count", 1) * np.float32(self.most)).astype(np.int64)
        chosen = (draw("digits", self.most) * np.float32(len(images))).astype(np.int64)
        places = (draw("places", 2 * self.most) * np.float32(self.size - side + 1)).astype(np.int64)
        light = np.zeros((count, self.size, self.size), np.float32)
        classes = np.zeros((count, self.size, self.size), np.uint8)
        for digit in range(self.most):  # one digit of all scenes at a time
            image = images[chosen[:, digit]].repeat(self.scale, axis=1).repeat(self.scale, axis=2)
            rows = places[:, 2 * digit, None, None] + np.arange(side)[:, None]
            columns = places[:, 2 * digit + 1, None, None] + np.arange(side)
            window = scenes[:, None, None], rows, columns
            ink = (image >= INK) & (digit < shown)[:, :, None]
            light[window] = np.where(ink, image, light[window])
            classes[window] = np.where(ink, 1 + labels[chosen[:, digit], None, None], classes[window])
        noise = draw("noise", self.size**2).reshape(light.shape) * np.float32(255)
        pixels = np.rint((1 - self.noise) * light + self.noise * noise).astype(np.uint8)
        return Split(pixels[..., None], classes)
