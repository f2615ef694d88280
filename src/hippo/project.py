"""Where configurations lie: those of this package, and before them those of a project of one's own.

A project is a folder with `configs/` beside its own modules. Whoever runs `hippo` in that folder has both.
"""

import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path

from hippo.errors import UserError

_CHOSEN = "HIPPO_CONFIGS"  # for the processes that are started from here


class ProjectError(UserError, ValueError):
    """There is no such project."""


def shipped() -> Path:
    """Return the folder of this package's configurations: inside an installed package, beside `src` in a checkout."""
    inside = Path(__file__).parent / "configs"
    return inside if inside.is_dir() else Path(__file__).parents[2] / "configs"


def configs() -> Path:
    """Return the folder of configurations in use: that of the project that was entered, else `shipped`.

    Hydra searches a project's folder first, and then that of `shipped`, which need not be repeated in it.
    """
    chosen = os.environ.get(_CHOSEN)
    return Path(chosen) if chosen else shipped()


def enter(folder: str | None = None) -> None:
    """Take a project's configurations and modules into use, here and in every process that is started from here.

    Args:
        folder: The project's folder of configurations. Where None: that of the process that started this one, or
            `configs` in the current folder, or none.

    Raises:
        ProjectError: If the folder does not exist.
    """
    chosen = Path(folder or os.environ.get(_CHOSEN) or "configs").absolute()
    if not chosen.is_dir():
        if folder is not None:
            raise ProjectError(f"--config-dir={folder} is no folder")
        return
    if chosen.samefile(shipped()):
        return
    os.environ[_CHOSEN] = str(chosen)
    modules = str(chosen.parent)
    if modules not in sys.path:
        sys.path.insert(0, modules)
    known = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if modules not in known:
        os.environ["PYTHONPATH"] = os.pathsep.join([modules, *filter(None, known)])


def is_published(results: Path) -> bool:
    """Return whether a folder of results is that of this package's own checkout."""
    return results.absolute().parent == shipped().parent


def command(overrides: Iterable[str]) -> str:
    """Return the command line of a run, for the current folder."""
    own = configs()
    where = [] if own in (shipped(), Path.cwd() / "configs") else [f"--config-dir={os.path.relpath(own)}"]
    return shlex.join(["hippo", "train", *where, *overrides])
