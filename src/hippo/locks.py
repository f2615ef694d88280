"""One process at a time in a folder, on file systems with and without locks of their own.

Where there is `flock`, the system lets go of a lock when its process ends, however that ends. Many file systems of
clusters have none. There a process holds a lease: a file that it renews while it lives, and that another process takes
over when nobody has renewed it for `LEASE` seconds, on whatever node either of them runs.
"""

import errno
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLease, Timeout

from hippo.errors import UserError

LEASE = 30.0  # seconds without a sign of life, after which a process counts as gone; renewed three times as often
FILES = (".lock", ".lease")
# What `flock` answers where the file system has none.
_NO_FLOCK = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP}
_watched: dict[Path, tuple[tuple[int, int], float]] = {}


class Held(UserError, RuntimeError):
    """Another process is at work in the folder."""


@contextmanager
def hold(folder: Path, timeout: float = 1.0) -> Iterator[None]:
    """Keep other processes out of a folder.

    Without `flock` it may take `LEASE` seconds longer to find that the process that held it is gone. A process that
    loses its lease, since it could not renew it, is sent SIGTERM: somebody else may be at work by then.

    Args:
        folder: It has to exist.
        timeout: Seconds to wait for another process.

    Raises:
        Held: If another process is at work in the folder.
    """
    lock: BaseFileLock = FileLock(folder / ".lock", timeout=timeout, fallback_to_soft=False)
    remedy = ""
    try:
        try:
            lock.acquire()
        except OSError as error:
            if error.errno not in _NO_FLOCK:
                raise
            path = folder / ".lease"
            lease = SoftFileLease(path, lease_duration=LEASE, timeout=timeout + 1.5 * LEASE, on_compromise=_stop)
            if (owner := lease.owner) is not None:
                remedy = (
                    f": process {owner.pid} on {owner.hostname}. This file system has no locks (flock), so it counts "
                    f"as alive while it renews {path}; if it is not, delete that file"
                )
                print(f"waiting up to {1.5 * LEASE:.0f} s to see whether {owner.hostname} is still at it", flush=True)
            lock = lease
            lock.acquire()
    except Timeout:
        raise Held(f"another process is at work in {folder}{remedy}") from None
    try:
        yield
    finally:
        lock.release()


def is_held(folder: Path) -> bool:
    """Return whether a process is at work in a folder.

    Without `flock` one that was killed on another node counts as alive until its lease has been watched, by repeated
    calls, for `LEASE` seconds.
    """
    if not (folder / ".lock").is_file():
        return False
    try:
        FileLock(folder / ".lock", timeout=0, fallback_to_soft=False).acquire().lock.release()
        return False
    except Timeout:
        return True
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise
    path = folder / ".lease"
    try:
        state = path.stat()
    except FileNotFoundError:
        return False
    mark, now = (state.st_ino, state.st_mtime_ns), time.monotonic()
    if path not in _watched or _watched[path][0] != mark:
        _watched[path] = (mark, now)
    return now - _watched[path][1] < LEASE


def _stop(compromise: object) -> None:
    print(f"the lease on this run is lost, and another process may be at work on it: {compromise}", file=sys.stderr)
    os.kill(os.getpid(), signal.SIGTERM)
