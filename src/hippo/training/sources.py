"""Which code made a run: this package, and the modules of one's own that its configuration names.

Of each a record has a hash of its sources, and the commit of the git repository that these lie in; of what is
installed, the version instead.
"""

import hashlib
import importlib.metadata
import subprocess
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hippo import project

MARK = "†uncommitted"
PACKAGE = "hippo"
# Their versions are in each record.
_LIBRARIES = {"torch", "torchvision", "pytorch_lightning", "hydra", "hydra_plugins", "optuna", "builtins"}
_PACKAGES = {"site-packages", "dist-packages"}


def used(config: Any) -> dict[str, dict[str, Any]]:
    """Return the code that a configuration uses, once what it names is imported.

    Args:
        config: A resolved configuration, or several.

    Returns:
        By the name of a package or a module: `version`, of what is installed; `hash`, of its sources; `commit`, of
        their repository; `dirty`, whether any of them differs from that commit. None where there is no such thing. A
        project's configurations are there as "configs", without a hash: a record has what they say.
    """
    names = {name.partition(".")[0] for name in _named(config)} - _LIBRARIES - {PACKAGE}
    found = {PACKAGE: package()}
    for name in sorted(names & sys.modules.keys()):
        if files := _sources(name, names):
            found[name] = _described(name, files)
    if (folder := project.configs()) != project.shipped():
        files = [path for path in folder.rglob("*.yaml") if path.relative_to(folder).parts[0] != "table"]
        if files:
            found["configs"] = {"version": None, "hash": None} | _repository(files)
    return found


def package() -> dict[str, Any]:
    """Return the same of this package, whose configurations and lock file count as well."""
    root = project.shipped().parent
    more = [root / name for name in ("src", "configs", "scripts", "train.py", "requirements.lock")]
    return _described(PACKAGE, sorted(Path(__file__).parents[1].rglob("*.py")), more)


def uncommitted(record: Mapping[str, Any], *, published: bool = False) -> list[str]:
    """Return the names of the code behind a record that no commit, and no version, tells.

    Args:
        record: A record; of one made before there was `code` in it, the repository of this package counts.
        published: Whether a version does not suffice.
    """

    def told(its: Mapping[str, Any]) -> bool:
        return its["dirty"] is False or (its.get("version") is not None and not published)

    sessions = [record, *record.get("earlier", [])]
    codes = [session.get("code") or {PACKAGE: session["git"]} for session in sessions]
    return list(dict.fromkeys(name for code in codes for name, its in code.items() if not told(its)))


def changed(record: Mapping[str, Any]) -> bool:
    """Return whether a run was taken up again with other code than it was begun with."""
    sessions = [record, *record.get("earlier", [])]
    if all("code" in session for session in sessions):
        hashes = ({name: its["hash"] for name, its in session["code"].items()} for session in sessions)
        return len({str(sorted(each.items())) for each in hashes}) > 1
    return len({session["git"]["commit"] for session in sessions}) > 1


def warning(code: Mapping[str, Any]) -> str | None:
    """Return what to say, before training, of code that is not committed; None where all is."""
    if not (names := uncommitted({"code": code})):
        return None
    return (
        f"warning  {', '.join(names)}: changed since the last commit, or in no repository of git. Tables will mark "
        f"what is trained now as {MARK}. Commit first, if it is to be run again"
    )


def _named(config: Any) -> Iterator[str]:
    """Yield the names that a configuration has imported: of classes, and by Hydra's `get_method` of others."""
    if isinstance(config, list | tuple):
        for item in config:
            yield from _named(item)
    if isinstance(config, dict):
        target = str(config.get("_target_", ""))
        yield target
        if target.startswith("hydra.utils.get_"):
            yield str(config.get("path", ""))
        yield from _named(list(config.values()))


def _sources(name: str, others: Iterable[str]) -> list[Path]:
    """Return the loaded files of a module, or a package, and those of its folder that none of the others has."""
    files = ((module.partition(".")[0], getattr(it, "__file__", None)) for module, it in [*sys.modules.items()])
    loaded = [(top, Path(file)) for top, file in files if file and top != "__main__" and Path(file).is_file()]
    own = [path for top, path in loaded if top == name]
    if not own or _installed(own[0]):
        return own
    root, elsewhere = _root(name), {PACKAGE, *others}
    beside = [path for top, path in loaded if root in path.parents and top not in elsewhere and not _installed(path)]
    return sorted({*own, *beside})


def _root(name: str) -> Path:
    """Return the folder that a loaded package or module is imported from."""
    module = sys.modules[name]
    return Path(next(iter(module.__path__)) if hasattr(module, "__path__") else str(module.__file__)).parent


def _installed(path: Path) -> bool:
    folders = [Path(sysconfig.get_path(kind)) for kind in ("stdlib", "scripts")]
    return bool(_PACKAGES & {*path.parts}) or any(folder in path.parents for folder in folders)


def _described(name: str, files: list[Path], more: Iterable[Path] = ()) -> dict[str, Any]:
    """Return version, hash, commit, and whether the files, or what else is named, differ from it."""
    root, digest = _root(name), hashlib.sha256()
    for path in sorted(files):
        where = path.relative_to(root).as_posix() if root in path.parents else path.name
        digest.update(f"{where}\0".encode() + path.read_bytes() + b"\0")
    installed = _installed(files[0])
    return {
        "version": _version(name) if installed else None,
        "hash": digest.hexdigest()[:12],
        **({"commit": None, "dirty": None} if installed else _repository(files, more)),
    }


def _version(name: str) -> str | None:
    distributions = importlib.metadata.packages_distributions().get(name)
    return importlib.metadata.version(distributions[0]) if distributions else None


def _repository(files: list[Path], more: Iterable[Path] = ()) -> dict[str, Any]:
    """Return the commit of the repository that files lie in, and whether any of them, or what is below the others,
    differs from it or is none of its files."""

    def git(*words: str | Path) -> str | None:
        try:
            command = ["git", "--no-optional-locks", "-C", files[0].parent, *words]
            return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
        except (OSError, subprocess.SubprocessError):
            return None

    if (commit := git("rev-parse", "HEAD")) is None:
        return {"commit": None, "dirty": None}
    tracked = git("ls-files", "--error-unmatch", "--", *files) is not None
    status = git("status", "--porcelain", "--untracked-files=all", "--", *files, *more)
    return {"commit": commit, "dirty": not tracked or status != ""}
