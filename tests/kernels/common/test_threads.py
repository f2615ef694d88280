"""Work side by side."""

import subprocess
import sys
import threading
import time

import pytest

from hippo.kernels.common import threads


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_each_share_is_done_once_and_the_first_by_the_caller(count):
    done = []
    threads.side_by_side(lambda k: done.append((k, threading.get_native_id())), count)
    assert sorted(k for k, _ in done) == list(range(count))
    assert dict(done)[0] == threading.get_native_id()


def test_shares_are_done_at_the_same_time_in_threads_of_their_own():
    meet, names = threading.Barrier(3, timeout=20), []

    def work(k):
        meet.wait()  # fails unless all three are at work
        names.append(threading.current_thread().name.split("_")[0])

    threads.side_by_side(work, 3)
    assert names.count("hippo") == 2


@pytest.mark.parametrize("error", [ValueError("one"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", [0, 2])
def test_an_error_of_one_share_is_the_callers_once_the_others_are_done(where, error):
    done = []

    def work(k):
        if k == where:
            raise error
        time.sleep(0.05)
        done.append(k)

    with pytest.raises(type(error)) as caught:
        threads.side_by_side(work, 3)
    assert caught.value is error
    assert sorted(done) == [k for k in range(3) if k != where]
    threads.side_by_side(lambda k: done.append(k), 3)
    assert len(done) == 5


def test_several_callers_do_not_meet():
    found = {}

    def call(caller):
        for _ in range(50):
            threads.side_by_side(lambda k: found.setdefault((caller, k), []).append(k), 3)

    callers = [threading.Thread(target=call, args=(caller,)) for caller in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert {len(calls) for calls in found.values()} == {50}
    assert len(found) == 12


@pytest.mark.parametrize("inner", [2, 3])
def test_work_may_have_work_side_by_side_of_its_own(inner):
    done = []
    threads.side_by_side(lambda k: threads.side_by_side(lambda n: done.append((k, n)), inner), 3)
    assert len(set(done)) == len(done) == 3 * inner


def test_a_fork_does_not_wait_for_threads_that_it_does_not_have():
    code = """
import os, torch
from hippo.kernels.common import threads
torch.set_num_threads(3)
torch.randn(2_000_000).add(1)  # which has threads, too
for number in range(2):  # before any were ours, and after
    done = []
    if child := os.fork():
        print(os.waitpid(child, 0)[1])
        threads.side_by_side(done.append, 3)
    else:
        threads.side_by_side(done.append, 3)
        os._exit(int(sorted(done) != [0, 1, 2]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout == "0\n0\n"
