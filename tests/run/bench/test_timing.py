"""The logic of fair times, on a clock that stands still unless told."""

from __future__ import annotations

import pytest

from gpubackprop.run.bench.timing import DISTURBED, TRIES, Clock, Slice, in_turn, ratio, spread, step_time, timed


class FakeClock(Clock):
    """Steps take what `durations` say, one after the other; others use `share` of a processor all the while."""

    def __init__(self, durations, share=0.0):
        self.time, self.durations, self.share = 100.0, iter(durations), share

    def now(self):
        return self.time

    def others(self):
        return None if self.share is None else self.share * self.time

    def step(self):
        self.time += next(self.durations)


def test_a_slice_is_the_median_of_steps_for_the_time_without_the_first_tenth():
    clock = FakeClock([9.0, 1.0, 3.0, 2.0, 100.0])
    found = timed(clock.step, 6.0, clock)
    assert (found.seconds, found.steps, found.others) == (2.0, 3, 0.0)
    assert next(clock.durations) == 100.0


def test_a_slice_has_one_step_at_least():
    clock = FakeClock([5.0, 7.0])
    assert timed(clock.step, 0.001, clock) == Slice(7.0, 1, 0.0)


def test_what_others_used_is_told_as_processors_and_unknown_as_none():
    found = timed((clock := FakeClock([1.0] * 9, share=1.5)).step, 2.0, clock)
    assert found.others == pytest.approx(1.5)
    assert found.disturbed
    found = timed((clock := FakeClock([1.0] * 9, share=None)).step, 2.0, clock)
    assert (found.others, found.disturbed) == (None, False)


def test_the_real_clock_does_not_count_this_process(monkeypatch):
    before = Clock().others()
    if before is None:
        pytest.skip("this system does not tell what other processes use")
    monkeypatch.setattr("time.process_time", lambda: 1e6)
    assert Clock().others() == pytest.approx(before - 1e6, abs=1000)


def test_steps_that_are_only_begun_are_waited_for_once():
    clock, begun = FakeClock([]), []

    def wait():
        clock.time += 0.5 * len(begun)
        begun.clear()

    found = timed(lambda: begun.append(1), 20.0, clock, wait=wait)
    assert (found.seconds, found.steps) == (0.5, 40)
    assert clock.time == 100 + 0.5 * (1 + 2 + 4) + 20
    assert timed(lambda: begun.append(1), 0.001, clock, wait=wait).steps == 1


class Script:
    """Candidates whose slices are given; says in which order they were asked."""

    def __init__(self, **slices):
        self.left, self.asked = {name: list(each) for name, each in slices.items()}, []

    def measures(self):
        def of(name):
            def measure(seconds):
                self.asked.append(name)
                return self.left[name].pop(0)

            return measure

        return {name: of(name) for name in self.left}


def clean(seconds):
    return Slice(seconds, 1, 0.0)


def loud(seconds, others=1.0):
    return Slice(seconds, 1, others)


def test_the_order_is_reversed_every_second_round():
    script, rounds, pauses = Script(a=[clean(1)] * 3, b=[clean(2)] * 3, c=[clean(3)] * 3), [], []
    found = in_turn(script.measures(), 3, 0.1, sleep=pauses.append, said=rounds.append)
    assert "".join(script.asked) == "abccbaabc"
    assert {name: len(each) for name, each in found.items()} == {"a": 3, "b": 3, "c": 3}
    assert rounds == [1, 2, 3]
    assert len(pauses) == 9


def test_a_disturbed_slice_is_measured_again():
    script = Script(a=[loud(9), clean(1)], b=[clean(2)])
    assert in_turn(script.measures(), 1, 0.1, sleep=lambda _: None) == {"a": [clean(1)], "b": [clean(2)]}


def test_after_three_tries_the_least_disturbed_slice_counts_and_is_marked():
    script = Script(a=[loud(1, 0.9), loud(2, 0.3), loud(3, 0.5), clean(4)])
    [kept] = in_turn(script.measures(), 1, 0.1, sleep=lambda _: None)["a"]
    assert kept == loud(2, 0.3)
    assert kept.disturbed
    assert len(script.asked) == TRIES


def test_others_at_the_limit_do_not_disturb_and_unknown_others_neither():
    assert not loud(1, DISTURBED).disturbed
    assert not Slice(1, 1, None).disturbed


def test_spread():
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.minimum, found.lower, found.median, found.upper) == (1, 2, 3, 4)
    assert set(found.to_json()) == {"minimum", "lower", "median", "upper"}
    assert spread([7.0]).to_json() == {"minimum": 7, "lower": 7, "median": 7, "upper": 7}


def test_step_times_leave_disturbed_slices_out_unless_all_are():
    assert step_time([clean(1), loud(50), clean(3)]).median == 2
    assert step_time([loud(1), loud(3)]).median == 2


def test_ratios_are_of_the_same_round_and_of_rounds_in_which_both_were_clean():
    # The machine became ten times slower in the second round: pairwise ratios do not see it.
    assert ratio([clean(2), clean(20)], [clean(1), clean(10)]).to_json() == pytest.approx(
        {"minimum": 2, "lower": 2, "median": 2, "upper": 2}
    )
    assert ratio([clean(2), loud(90)], [clean(1), clean(1)]).median == 2
    assert ratio([clean(2), clean(90)], [clean(1), loud(1)]).median == 2
    assert ratio([loud(2), loud(4)], [clean(1), clean(1)]).median == 3
