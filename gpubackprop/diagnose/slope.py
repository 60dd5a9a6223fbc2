"""One slope by central differences, with an eye for rounding and for kinks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, isfinite

#: In units of the direction, which is about as long as what is moved. The small ones are for deep networks: of a
#: million relus some turn at any moment (ResNet-20 needs 1e-8).
STEPS = (1e-4, 1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
ROUNDING = 8 * 2.0**-52  #: of a value of order one, generously
BLIND = 1e-3  #: of the slope; a step at which rounding is more than this tells nothing


@dataclass(frozen=True)
class Slope:
    """How a slope that is claimed compares with the numerical one.

    error   |claimed − numerical| over the larger of the numerical slope and `scale`, beyond what rounding explains;
            the least over all steps
    kink    the slopes to the left and to the right do not come together as the step shrinks
    """

    error: float
    kink: bool


def compare(f: Callable[[float], float], claimed: float, *, scale: float, size: float, tolerance: float) -> Slope:
    """Compare df/dt at 0 with `claimed`; `size` is how large the terms are that f adds up.

    One step that agrees is enough: a wrong slope agrees at none, as long as rounding does not drown it. Where it does
    at every step, the largest one decides. At a kink left and right differ at every step; where one lies close by, a
    smaller step agrees.
    """
    middle = f(0.0)
    best, jumps = inf, []
    for step in STEPS:
        right, left = (f(step) - middle) / step, (middle - f(-step)) / step
        rounding = ROUNDING * (abs(middle) + size) / step
        numerical = (right + left) / 2
        off, jump = abs(numerical - claimed) - rounding, abs(right - left) - 2 * rounding
        if not isfinite(off):  # agrees with nothing
            jumps.append(0.0)
            continue
        jumps.append(max(0.0, jump))
        unit = max(abs(numerical), scale)
        if rounding > BLIND * unit and best < inf:
            continue
        best = min(best, off / unit if off > 0 else 0.0)
        if best <= tolerance:
            return Slope(best, False)
    # Of a smooth function the jump shrinks with the step, ten thousandfold from 1e-5 to 1e-9.
    return Slope(best, jumps[-1] > 0.1 * jumps[1] > 0.0)
