"""`hippo reproduce`: run what is missing, resume what was cut, skip what is done, and write the table.

    hippo reproduce trajectories --dry-run          # what is done, and what the rest takes here
    hippo reproduce trajectories                    # runs side by side, sharing out the cores
    hippo reproduce trajectories --launcher slurm   # each run a job of SLURM

The table is written to results/tables/ as Markdown, LaTeX and CSV, and all tables with curves and runs to one page,
results/report.html, from the records under results/records/. It can be stopped at any time: the same command goes on.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hippo import project
from hippo.tables.collect import by_name, collect, read_all, several, unfit
from hippo.tables.describe import hardware
from hippo.tables.estimate import estimates, on_gpus
from hippo.tables.render import write_table
from hippo.tables.report import write_report
from hippo.tables.table import Cell, cells, every_table, find_table, read_table
from hippo.training import records
from hippo.training.sweeps import Run, SweepFailed, cores, share_out, through, train_all


def needed(table: list[Cell]) -> list[Run]:
    """Return the runs behind a table's cells, each once: all of the first seed before any of the second."""
    return sorted(dict.fromkeys(run for cell in table for run in cell.runs), key=lambda run: run.config["seed"])


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def state(run: Run, found: dict[tuple[str, str], Any], published: bool) -> tuple[str, str]:
    """Return "done", "running", "cut", "missing" or "unfit", and of what is unfit for a table the reason."""
    if (run.name, run.id) in found:
        return "done", ""
    if run.state != "done":
        return run.state, ""
    try:
        reason = unfit(records.read(run.folder / "record.json"), published)
    except (records.RecordError, OSError) as error:
        return "unfit", str(error)
    return ("unfit", reason) if reason else ("done", "")


def unfit_runs(judged: Mapping[Run, tuple[str, str]]) -> Iterator[str]:
    """Yield a line for each reason for which runs cannot stand in the table.

    Args:
        judged: What `state` says of each run.
    """
    found: dict[str, list[Path]] = {}
    for run, (name, reason) in judged.items():
        if name == "unfit":
            found.setdefault(reason, []).append(run.folder)
    for reason, folders in found.items():
        yield f"{several(folders)}: {reason}. Delete what is to be run again"


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {text}")
    return number


def show_plan(title: str, runs: list[Run], states: dict[Run, str], found: dict, jobs: int, measured: bool) -> None:
    """Print every run with its state and what it took, or should take here, and the sum.

    Args:
        title: Of the table.
        runs: What the table needs.
        states: By run, one of those of `state`.
        found: Records.
        jobs: Runs at a time.
        measured: Whether what is missing is timed.
    """
    print(title)
    todo, threads = [run for run in runs if states[run] != "done"], max(1, cores() // jobs)
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    known = estimates(todo, threads) if measured else {}
    for run in runs:
        record = found.get((run.name, run.id))
        seconds, reason = known.get(run, (record["seconds"] if record else None, ""))
        line = f"  {states[run]:8}{duration(seconds) if seconds is not None else '?':>9}  {run.command}"
        others = [f"{name}: {duration(its)}" for name, its in on_gpus(run, found).items()] if run in known else []
        print("; ".join([line, *others, *([reason] if reason else [])]))
    print(f"{len(runs) - len(todo)} of {len(runs)} runs are done", end="")
    if times := [seconds for seconds, _ in known.values() if seconds is not None]:
        machine = records.provenance()["machine"] | {"threads": threads}
        print(
            f"; {len(times)} take about {duration(sum(times) / jobs)} on {hardware(machine)}, {jobs} at a time, by "
            "steps timed one run at a time",
            end="",
        )
        if load > 0.5:
            print(f", beside other processes (load {load:.1f} on {cores()} cores): less on an idle machine", end="")
    print(f"; {len(todo) - len(times)} could not be timed" if measured and len(todo) > len(times) else "")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="hippo reproduce", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    folder = project.configs()
    known = ", ".join(sorted(path.stem for path in (folder / "table").glob("*.yaml"))) or "configs/table"
    parser.add_argument("table", help=f"of {known}, or a file of your own, like those of configs/table")
    parser.add_argument("overrides", nargs="*", help="for the launcher, such as hydra.launcher.partition=gpu")
    parser.add_argument("--dry-run", action="store_true", help="say what is done and what the rest takes; run nothing")
    parser.add_argument("--render", action="store_true", help="write the table from the records there are; run nothing")
    parser.add_argument("--launcher", default="local", help="one of configs/hydra/launcher, or of Hydra's (local)")
    parser.add_argument(
        "--jobs", type=positive, help="runs at a time on this machine (one on each GPU, or on each core)"
    )
    parser.add_argument("--outputs", type=Path, default=Path("outputs"), help="folder of the runs (outputs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables (results)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these rows only")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds only")
    args = parser.parse_intermixed_args(list(arguments))
    if args.overrides and args.launcher == "local":
        parser.error(f"{' '.join(args.overrides)}: overrides are for another launcher; a table's runs are in its file")
    path = find_table(args.table.removeprefix("table="))
    name, results, outputs = path.stem, args.results.expanduser(), args.outputs.expanduser().absolute()
    table = read_table(path)
    if unknown := set(args.rows or []) - set(table.rows):
        parser.error(f"there is no row {unknown.pop()}; choose from {', '.join(table.rows)}")
    alone = {name: (table, list(cells(table, folder)))}
    tables = alone if args.dry_run else every_table(folder) | alone

    told: set[str] = set()

    def tell(line: str) -> None:
        """Write a line about a file once, however often the records are read."""
        if line not in told:
            tqdm.write(line)
        told.add(line)

    def render(aloud: bool = True) -> dict[tuple[str, str], Any]:
        for line in collect([outputs], results):
            if aloud:
                tell(line)
        found = by_name(read_all(results, tell))
        wrote.update(write_table(name, *tables[name], found, results))
        wrote.add(write_report(tables, found, results))
        return found

    wrote: set[Path] = set()
    found = by_name(read_all(results, tell)) if args.dry_run else render()
    runs = needed([cell for cell in tables[name][1] if not args.rows or cell.row in args.rows])
    runs = [run.at(outputs) for run in runs if not args.seeds or run.config["seed"] in args.seeds]
    if not runs:
        parser.error(f"no run has a seed of {', '.join(map(str, args.seeds or []))}")
    judged = {run: state(run, found, project.is_published(results)) for run in runs}
    states = {run: name for run, (name, _) in judged.items()}
    todo = [run for run in runs if states[run] not in ("done", "unfit")]
    show_plan(table.title, runs, states, found, len(share_out(args.jobs, len(todo))), args.dry_run)
    if args.dry_run:
        return
    failures: dict[Run, str] = {}
    try:
        if todo and not args.render:
            if args.launcher == "local":
                failures = train_all(todo, args.jobs, after_each=lambda: render(aloud=False))
            else:
                options = [*args.overrides, f"paths.outputs={outputs}"]
                failures = through(args.launcher, todo, folder, options)
            render()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")
    print("\n".join(str(path) for path in sorted(wrote)))
    said = [str(SweepFailed({run.command: why for run, why in failures.items()}, len(todo)))] if failures else []
    if not args.render:
        said += unfit_runs(judged)
    if said:
        sys.exit("\n".join(said))
