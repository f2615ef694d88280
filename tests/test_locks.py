"""One process at a time in a folder, with `flock` and without."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from filelock import FileLock

from hippo import locks

HOLDER = """
import errno, fcntl, sys, time, types
from pathlib import Path

sys.modules["hippo"] = types.ModuleType("hippo")  # without what it imports, which takes its time
sys.modules["hippo"].__path__ = [sys.argv[2]]
from hippo import locks

def none(*_):
    raise OSError(errno.ENOLCK, "No locks available")

fcntl.flock, locks.LEASE = none, 1.2
with locks.hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def lockless(request, monkeypatch):
    """A file system that answers flock as those without it do, and leases that end soon."""

    def none(*_):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", none)
    monkeypatch.setattr(locks, "LEASE", 1.2)
    return request.param


def test_a_folder_is_held_by_one_process_at_a_time(tmp_path):
    assert not locks.is_held(tmp_path)
    with FileLock(tmp_path / ".lock"):
        assert locks.is_held(tmp_path)
        with pytest.raises(locks.Held, match="another process is at work in"), locks.hold(tmp_path, timeout=0.05):
            pass
    with locks.hold(tmp_path):
        pass
    assert not locks.is_held(tmp_path)


def test_without_flock_a_lease_keeps_others_out_and_is_given_back(tmp_path, lockless):
    with locks.hold(tmp_path):
        assert (tmp_path / ".lease").exists()
        assert locks.is_held(tmp_path)
    assert not (tmp_path / ".lease").exists()
    assert not locks.is_held(tmp_path)


def test_a_lease_lasts_while_its_holder_lives_and_no_longer(tmp_path, monkeypatch):
    """The holder seems to run on another node, where nobody can ask whether its process is there."""
    monkeypatch.setattr(fcntl, "flock", _none)
    monkeypatch.setattr(locks, "LEASE", 1.2)
    monkeypatch.setattr("filelock._lease.owner_is_stale", lambda *_: False)
    command = [sys.executable, "-c", HOLDER, str(tmp_path), str(Path(locks.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(locks.Held, match=rf"process {holder.pid} on .*delete that file"), locks.hold(tmp_path, 0):
            pass
        assert locks.is_held(tmp_path)
        holder.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    while locks.is_held(tmp_path):
        assert time.monotonic() - begun < 10
        time.sleep(0.1)
    assert time.monotonic() - begun > 0.5  # nobody could know at once
    with locks.hold(tmp_path, 0.5):
        pass


def _none(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_who_loses_its_lease_is_told_to_stop(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(fcntl, "flock", _none)
    monkeypatch.setattr(locks, "LEASE", 0.3)
    monkeypatch.setattr(locks.os, "kill", lambda *what: told.append(what))
    with locks.hold(tmp_path):
        (tmp_path / ".lease").unlink()
        end = time.monotonic() + 10
        while not told and time.monotonic() < end:
            time.sleep(0.05)
    assert told == [(os.getpid(), signal.SIGTERM)]


def test_other_errors_are_not_taken_for_a_file_system_without_flock(tmp_path, monkeypatch):
    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(fcntl, "flock", broken)
    with pytest.raises(OSError, match="Input/output"), locks.hold(tmp_path):
        pass
