"""Fair times on a machine that others use too: slices in turn, disturbed ones once more, medians with their spread.

Only the standard library: every candidate's process imports it, PyTorch's too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, TypeAlias

DISTURBED = 0.2  #: processors that others kept busy: a slice with more than this is measured again
TRIES = 3  #: of a slice, before a disturbed one is taken
PAUSE = 0.03  #: seconds before a slice, in which the threads of the last candidate go to sleep


class Clock:
    """The time, and how much of the machine others use."""

    def now(self) -> float:
        """Seconds."""
        return time.perf_counter()

    def others(self) -> float | None:
        """Seconds of our processors that other processes have used so far; None where the system does not tell."""
        try:
            with open("/proc/stat") as file:
                lines = [line.split() for line in file]
        except OSError:
            return None
        ours = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        # user, nice, system, irq, softirq, steal; 3 and 4 are idle and waiting for a disk
        ticks = sum(int(words[i]) for words in lines if words[0] in ours for i in (1, 2, 3, 6, 7, 8))
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()


@dataclass(frozen=True)
class Slice:
    """Some steps in a row."""

    seconds: float  #: of one step, the median
    steps: int
    others: float | None  #: processors that other processes used meanwhile, None: unknown

    @property
    def disturbed(self) -> bool:
        """Whether others used too much."""
        return self.others is not None and self.others > DISTURBED


def timed(
    step: Callable[[], Any], seconds: float, clock: Clock | None = None, wait: Callable[[], Any] | None = None
) -> Slice:
    """Steps for so many seconds, one at least, after a tenth of it that is not counted: caches are another's.

    wait  where a step is only begun, since a device works on while Python goes on: waits until all are done. The time
          of a step is then that of many in a row, waited for once, by their number.
    """
    clock = clock or Clock()
    count = 1
    if wait is None:
        _during(step, seconds / 10, clock)
    else:
        count = _filling(step, wait, seconds, clock)
    before, start = clock.others(), clock.now()
    if wait is None:
        times = _during(step, seconds, clock)
        middle, count = median(times), len(times)
    else:
        middle = _burst(step, wait, count, clock) / count
    after, end = clock.others(), clock.now()
    others = None if before is None or after is None else (after - before) / (end - start)
    return Slice(middle, count, others)


def _filling(step: Callable[[], Any], wait: Callable[[], Any], seconds: float, clock: Clock) -> int:
    """How many steps in a row take so many seconds, by as many as take a tenth of it."""
    count = 1
    while (spent := _burst(step, wait, count, clock)) < seconds / 10:
        count *= 2
    return max(round(count * seconds / spent), 1)


def _burst(step: Callable[[], Any], wait: Callable[[], Any], count: int, clock: Clock) -> float:
    start = clock.now()
    for _ in range(count):
        step()
    wait()
    return clock.now() - start


def _during(step: Callable[[], Any], seconds: float, clock: Clock) -> list[float]:
    times: list[float] = []
    start = last = clock.now()
    while not times or last - start < seconds:
        step()
        now = clock.now()
        times.append(now - last)
        last = now
    return times


#: slice(seconds): measure a slice of a candidate
Measure: TypeAlias = Callable[[float], Slice]


def in_turn(
    candidates: Mapping[str, Measure],
    rounds: int,
    seconds: float,
    *,
    sleep: Callable[[float], None] = time.sleep,
    said: Callable[[int], None] = lambda number: None,
) -> dict[str, list[Slice]]:
    """A slice of each candidate in every round, in reverse order every second round; `said` hears of each round.

    A slice that others disturbed is measured again, TRIES times in all; the least disturbed one counts.
    """
    found: dict[str, list[Slice]] = {name: [] for name in candidates}
    for number in range(rounds):
        for name in list(candidates)[:: 1 if number % 2 == 0 else -1]:
            tries: list[Slice] = []
            while not tries or (tries[-1].disturbed and len(tries) < TRIES):
                sleep(PAUSE)
                tries.append(candidates[name](seconds))
            found[name].append(min(tries, key=lambda each: each.others or 0.0))
        said(number + 1)
    return found


@dataclass(frozen=True)
class Spread:
    """A median, and how far the rest lies from it."""

    median: float
    lower: float  #: quartile
    upper: float  #: quartile
    minimum: float

    def to_json(self) -> dict[str, float]:
        """As an object."""
        return asdict(self)


def spread(values: Sequence[float]) -> Spread:
    """Of one value or more; quartiles are inclusive."""
    lower, middle, upper = quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return Spread(middle, lower, upper, min(values))


def step_time(slices: Sequence[Slice]) -> Spread:
    """Seconds of a step, over the slices that were not disturbed; over all where all were."""
    return spread([each.seconds for each in slices if not each.disturbed] or [each.seconds for each in slices])


def ratio(slices: Sequence[Slice], base: Sequence[Slice]) -> Spread:
    """Times as a share of the base's, each of the same round, over the rounds that were not disturbed, or all."""
    pairs = list(zip(slices, base, strict=True))
    clean = [(a, b) for a, b in pairs if not a.disturbed and not b.disturbed]
    return spread([a.seconds / b.seconds for a, b in clean or pairs])
