"""Copying the records of complete runs to where tables are made from them."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hippo import project
from hippo.files import write_atomically
from hippo.tables.report import curves, drawn
from hippo.training import records, sources


def unfit(record: dict[str, Any], published: bool = False) -> str | None:
    """Return why a record cannot stand in a table of results, or None if it can.

    Args:
        record: The record.
        published: Whether the table is one of this package's own, which takes records of committed code only.
    """
    try:
        named = f"{records.config_hash(record['config'])}-seed{record['seed']}"
        if named != record["id"] or not named.startswith(f"{record['hash']}-"):
            return "its name is not that of the configuration in it"
        if record["command"] is None:
            return "it was not made by hippo train, so that no command gives it again"
        if published and (names := sources.uncommitted(record, published=True)):
            return f"it was not made from committed code ({', '.join(names)})"
        if sources.changed(record):
            return "it was interrupted and taken up again with other code"
        partial = ("limit_", "fast_dev_run", "overfit")
        if limits := [key for key in record["config"]["trainer"] if key.startswith(partial)]:
            return f"it read a part of the data only ({', '.join(limits)})"
    except (KeyError, TypeError) as error:
        return f"it lacks {error}"
    return None


def download(project: str, folder: Path) -> None:
    """Fetch the records of a W&B project's runs into a folder, one below it for each run.

    Args:
        project: As `entity/project`.
        folder: Where to.
    """
    import wandb

    for number, run in enumerate(wandb.Api().runs(project)):
        for file in run.files(names=["record.json"]):
            # Names come from the server: this one is compared before it is used as a path, and the run's own is not
            # used at all.
            if file.name == "record.json":
                file.download(root=str(folder / str(number)), exist_ok=True)


def collect(outputs: Iterable[Path], results: Path) -> Iterator[str]:
    """Copy records and their curves from folders of outputs to `results`/records, and yield a line about each.

    A run that is met twice is kept once. Of two results under one identity the first is kept, and the other reported;
    so is what is no record, or not that of its configuration. But a record of committed code takes the place of one of
    other code. What is unfit for a table is told at the end, in one line for each reason.
    """
    left_out: dict[str, list[Path]] = {}
    for path in sorted(path for folder in outputs for path in folder.rglob("record.json")):
        try:
            record = records.read(path)
            if reason := unfit(record, project.is_published(results)):
                left_out.setdefault(reason, []).append(path)
                continue
            target = results / "records" / record["name"] / f"{record['id']}.json"
            target.parent.mkdir(parents=True, exist_ok=True)  # which another file, or the name's length, may forbid
            collected = records.read(target) if target.is_file() else None
        except (records.RecordError, OSError) as error:
            yield _left_out(path, error)
            continue
        if collected is not None and bool(sources.uncommitted(record)) >= bool(sources.uncommitted(collected)):
            if collected["metrics"] != record["metrics"]:
                yield (
                    f"left out {path}: its result is not that of {target}, which has the same identity: made on "
                    "another machine, with other threads, or by other code. Delete the one that you do not want"
                )
            continue
        draw(target, record)
        records.write(target, record)
        yield str(target)
    for reason, paths in left_out.items():
        yield f"left out {several(paths)}: {reason}"


def several(paths: Sequence[Path]) -> str:
    """Return the first of some paths, and how many more there are."""
    return f"{paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(paths[0])


def draw(path: Path, record: dict[str, Any]) -> None:
    """Write the learning curves of a record beside it, unless they are there."""
    picture, text = path.with_suffix(".svg"), curves(record)
    if not picture.is_file() or picture.read_bytes() != text.encode():
        write_atomically(picture, text)


def complain(line: str) -> None:
    """Print a line where errors go."""
    print(line, file=sys.stderr)


def read_all(
    results: Path,
    tell: Callable[[str], Any] = complain,
    each: Callable[[Path, dict[str, Any]], Any] = lambda path, record: None,
) -> list[dict[str, Any]]:
    """Return the collected records, in the order of their names, without what is damaged. Of their histories only
    what a page draws is kept: thousands of records have to fit into memory.

    Args:
        results: The folder of the records.
        tell: Gets a line about each file that is left out.
        each: Gets the path and the whole of each record.
    """
    found = []
    for path in sorted((results / "records").rglob("*.json")):
        try:
            record = records.read(path)
        except (records.RecordError, OSError) as error:
            tell(_left_out(path, error))
        else:
            each(path, record)
            found.append(record | {"history": drawn(record["history"])})
    return found


def _left_out(path: Path, error: Exception) -> str:
    return f"left out {path}: {str(error).removeprefix(f'{path} is ')}"


def by_name(found: Iterable[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return records by the names of their experiment and run."""
    return {(record["name"], record["id"]): record for record in found}
