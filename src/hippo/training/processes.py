"""Which of several processes this one is; only the first speaks and writes."""

import contextlib
import os
import sys
import threading
import time

from pytorch_lightning.utilities import rank_zero_only

_PARENT = "HIPPO_FIRST_PROCESS"


def is_first() -> bool:
    """Return whether this is the first process of the run, as the launcher's environment variables tell."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(line: str) -> None:
    """Print a line at once, from the first process alone. Where nobody can read it any more, go on in silence."""
    if not is_first():
        return
    try:
        print(line, flush=True)
    except OSError as error:
        mute(error)


def mute(error: OSError) -> None:
    """Lead the standard output to nowhere, as after `hippo train | head`: a result is worth more than its audience."""
    with contextlib.suppress(OSError):
        print(f"the standard output is closed ({error.strerror}); the run goes on", file=sys.stderr, flush=True)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def end_together() -> None:
    """Make the processes that the first one starts end when it does, in whatever way.

    Lightning's would wait for a process that was killed for half an hour, in the midst of their greetings.
    """
    if is_first():
        os.environ[_PARENT] = str(os.getpid())  # for those that it starts
        return
    parent = int(os.environ.get(_PARENT) or os.getppid())

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
