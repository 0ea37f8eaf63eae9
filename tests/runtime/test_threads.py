"""Two computations at once end as they would in turn."""

import threading

import pytest
import torch

from funn.runtime.threads import at_once, halves


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    assert torch.get_num_threads() == 2
    torch.set_num_threads(threads)


def where():
    return threading.get_ident(), torch.get_num_threads()


def test_outside_of_halves_they_run_in_turn(two_threads):
    assert at_once(where, where) == ((threading.get_ident(), 2),) * 2


def test_each_has_half_of_the_threads(two_threads):
    both = threading.Barrier(2, timeout=30)  # passes only if they run at the same time
    with halves():
        mine, theirs = at_once(lambda: (both.wait(), where())[1], lambda: (both.wait(), where())[1])
    assert mine == (threading.get_ident(), 1)
    assert theirs[0] != mine[0]
    assert theirs[1] == 1


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_of_either_is_raised_when_both_have_ended(two_threads, failing):
    ended = []

    def good():
        ended.append(True)

    def bad():
        raise ValueError("no")

    with halves(), pytest.raises(ValueError, match="no"):
        at_once(*((bad, good) if failing == 0 else (good, bad)))
    assert ended == [True]
