"""Which of several processes this one is; only the first speaks and writes."""

from pytorch_lightning.utilities import rank_zero_only


def is_first() -> bool:
    """Return whether this is the first process of the run, as the launcher's environment variables tell."""
    return getattr(rank_zero_only, "rank", 0) == 0


def say(line: str) -> None:
    """Print a line at once, from the first process alone."""
    if is_first():
        print(line, flush=True)
