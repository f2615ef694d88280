"""Times of samples, gaps between them, and LegS's relative steps."""

import pytest
import torch

from hippo import schedule

pytestmark = pytest.mark.usefixtures("float64")
CPU = torch.device("cpu")


def test_without_timestamps_steps_are_one_apart():
    when = schedule.regular(4, None, 0, CPU)
    assert when.times.tolist() == [0, 1, 2, 3]
    assert when.gaps.tolist() == [0, 1, 1, 1]
    assert when.relative.tolist() == [[0], [1], [1 / 2], [1 / 3]]
    assert schedule.regular(2, None, 1, CPU).gaps.tolist() == [1, 1]
    assert schedule.regular(2, 5.5, 1, CPU).times.tolist() == [6.5, 7.5]


def test_after_samples_with_times_of_their_own_each_goes_on_from_its_own():
    when = schedule.regular(2, torch.tensor([1.0, 3.0]), 0, CPU)
    assert when.times.tolist() == [[2, 4], [3, 5]]
    assert when.relative.tolist() == [[1 / 2, 1 / 4], [1 / 3, 1 / 5]]
    assert schedule.regular(2, torch.tensor([3.0, 3.0]), 0, CPU).times.tolist() == [4, 5]


def test_samples_that_share_their_times_have_one_schedule():
    times = torch.tensor([[1.0, 2.0, 4.0]])
    together = schedule.timed(times.expand(3, -1), None)
    assert together.times.tolist() == [1, 2, 4]
    assert together.gaps.tolist() == [1, 1, 2]
    assert together.still is None
    own = schedule.timed(torch.cat([times, times + 1]), None)
    assert own.times.tolist() == [[1, 2], [2, 3], [4, 5]]


def test_padding_repeats_the_last_timestamp_and_the_others_go_on():
    when = schedule.timed(torch.tensor([[1.0, 2.0, 4.0], [1.0, 2.0, 2.0]]), None)
    assert when.times.tolist() == [1, 2, 4]
    assert when.still.tolist() == [[False, False], [False, False], [False, True]]
    assert when.relative.tolist() == [[1, 1], [1 / 2, 1 / 2], [1 / 2, 0]]


def test_where_no_time_passes_there_is_no_step_even_at_time_zero():
    assert schedule.timed(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), None).relative.flatten().tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("times", [[0, 2, 1], [-1, 0, 1], [0, torch.nan, 1], [0, 1, torch.inf], [0.5, 1, 2]])
def test_what_goes_back_or_is_no_time_is_refused(times):
    since = 0.7 if times[0] == 0.5 else None
    with pytest.raises(ValueError, match=r"non-decreasing.*sample 1 "):
        schedule.timed(torch.tensor([[1.0, 2.0, 3.0], times]), since)
