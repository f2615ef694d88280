"""Reproduce a table: run what is missing, resume what was cut, skip what is done, and write the table.

    python scripts/reproduce.py trajectories --dry-run      # what is done, and what the rest would take
    python scripts/reproduce.py trajectories --jobs 2       # two runs at a time, sharing out the cores

The table is written to results/tables/ as Markdown, LaTeX and CSV, and all tables with curves and runs to one page,
results/report.html, from the records under results/records/. It can be stopped at any time: the same command goes on.
"""

import argparse
import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from tqdm import tqdm

from hippo.tables.collect import by_name, collect, read_all
from hippo.tables.render import write_table
from hippo.tables.report import write_report
from hippo.tables.table import Cell, Run, Table, cells, read_table
from hippo.training.config import ConfigError

ROOT = Path(__file__).parents[1]
EPOCH = re.compile(r"^epoch (\d+)/(\d+) ")


def needed(table: Table, configs: Path) -> list[Run]:
    """Return the runs behind a table's cells, each once: all of the first seed before any of the second."""
    runs = {(run.name, run.id): run for cell in cells(table, configs) for run in cell.runs}
    return sorted(runs.values(), key=lambda run: run.config["seed"])


def every_table(name: str, table: Table) -> dict[str, tuple[Table, list[Cell]]]:
    """Return the project's tables and one more by their names, with their cells."""
    specs = {path.stem: read_table(path) for path in sorted((ROOT / "configs" / "table").glob("*.yaml"))}
    return {name: (spec, list(cells(spec, ROOT / "configs"))) for name, spec in {**specs, name: table}.items()}


def state(run: Run, outputs: Path, found: dict[tuple[str, str], Any]) -> str:
    """Return "done", "running", "cut" or "missing"."""
    folder = outputs / run.name / run.id
    if (run.name, run.id) in found or (folder / "record.json").is_file():
        return "done"
    if (folder / ".lock").is_file():
        try:
            FileLock(folder / ".lock", timeout=0).acquire().lock.release()
        except Timeout:
            return "running"
    return "cut" if (folder / "checkpoints" / "last.ckpt").is_file() else "missing"


def seconds_needed(run: Run, found: dict[tuple[str, str], Any]) -> float | None:
    """Return what a run should take, from records of the same model at the same size; None if there is none."""
    model, epochs = run.config["model"], run.config["trainer"]["max_epochs"]
    same, alike = [], []
    for record in found.values():
        config = record["config"]
        if config["dataset"]["_target_"] == run.config["dataset"]["_target_"] and all(
            config["model"][key] == model[key] for key in ("_target_", "hidden_size")
        ):
            chosen = same if record["hash"] == run.id.partition("-")[0] else alike
            chosen.append(record["seconds"] / record["epochs"])
    return epochs * statistics.median(same or alike) if same or alike else None


def duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_plan(table: Table, runs: list[Run], states: dict[Run, str], found: dict, jobs: int) -> None:
    """Print every run with its state and what it should take, and the sum."""
    print(table.title)
    left, unknown = 0.0, 0
    for run in runs:
        seconds = seconds_needed(run, found)
        todo = states[run] != "done"
        left += seconds if todo and seconds else 0
        unknown += todo and seconds is None
        print(f"  {states[run]:8}{duration(seconds) if seconds else '?':>8}  {run.command}")
    todo = sum(state != "done" for state in states.values())
    guess = f", and {unknown} of which no record tells how long they take" if unknown else ""
    print(f"{len(runs) - todo} of {len(runs)} runs are done; the others take about {duration(left / jobs)}{guess}")


def train(run: Run, outputs: Path, threads: int, progress: Any, stop: threading.Event, children: set) -> str | None:
    """Run train.py, moving the progress bar on; return why it failed, or None."""
    if stop.is_set():
        return None
    folder = outputs / run.name / run.id
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(ROOT / "train.py"), *run.overrides, f"threads={threads}", f"paths.outputs={outputs}"]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    lines, begun = [], None
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        child = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        children.add(child)
        assert child.stdout is not None
        for line in child.stdout:
            lines.append(line)
            log.write(line)
            log.flush()
            if match := EPOCH.match(line):
                epoch = int(match[1])
                progress.update(epoch if begun is None else 1)
                begun = epoch
                progress.set_postfix_str(f"{run.name} {run.id}: {line.split('   ')[2]}")
        children.discard(child)
    if child.wait() == 0 or stop.is_set():
        return None
    said = [line.strip() for line in lines if line.strip()]
    errors = [line for line in said if line.startswith("error:")] or said[-1:] or [f"exit status {child.returncode}"]
    return f"{run.name} {run.id}: {errors[-1]}\n  log: {folder / 'log.txt'}\n  {run.command}"


def run_all(runs: list[Run], outputs: Path, jobs: int, after_each: Any) -> list[str]:
    """Train all runs, `jobs` at a time; return the reasons of those that failed."""
    threads = max(1, (os.cpu_count() or 1) // jobs)
    stop, children = threading.Event(), set()
    progress = tqdm(total=sum(run.config["trainer"]["max_epochs"] for run in runs), unit="epoch", mininterval=1)
    failures = []
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(train, run, outputs, threads, progress, stop, children) for run in runs]
        try:
            waiting = list(futures)
            while waiting:
                time.sleep(0.5)
                for future in [future for future in waiting if future.done()]:
                    waiting.remove(future)
                    if reason := future.result():
                        failures.append(reason)
                        tqdm.write(f"failed: {reason}")
                    after_each()
        except KeyboardInterrupt:
            stop.set()
            for child in list(children):
                child.send_signal(signal.SIGINT)
            raise
        finally:
            progress.close()
    return failures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(sorted(path.stem for path in (ROOT / "configs" / "table").glob("*.yaml")))
    parser.add_argument("table", help=f"of {known}, or a file of your own, like those of configs/table")
    parser.add_argument("--dry-run", action="store_true", help="say what is done and what the rest takes; run nothing")
    parser.add_argument("--render", action="store_true", help="write the table from the records there are; run nothing")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (1)")
    parser.add_argument("--outputs", type=Path, default=ROOT / "outputs", help="folder of the runs (outputs)")
    parser.add_argument("--results", type=Path, default=ROOT / "results", help="folder of records and tables (results)")
    parser.add_argument("--rows", nargs="+", metavar="ROW", help="these rows only")
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", help="these seeds only")
    args = parser.parse_args()
    path = Path(args.table.removeprefix("table="))
    path = path if path.suffix == ".yaml" else ROOT / "configs" / "table" / f"{path}.yaml"
    name, results, outputs = path.stem, args.results.expanduser(), args.outputs.expanduser().absolute()
    try:
        table = read_table(path)
        if unknown := set(args.rows or []) - set(table.rows):
            parser.error(f"there is no row {unknown.pop()}; choose from {', '.join(table.rows)}")

        def render() -> dict[tuple[str, str], Any]:
            for line in collect([outputs], results):
                tqdm.write(line)
            found = by_name(read_all(results))
            wrote.update(write_table(name, *tables[name], found, results))
            wrote.add(write_report(tables, found, results))
            return found

        tables: dict[str, tuple[Table, list[Cell]]] = {} if args.dry_run else every_table(name, table)
        wrote: set[Path] = set()
        found = by_name(read_all(results)) if args.dry_run else render()
        chosen = {row: spec for row, spec in table.rows.items() if not args.rows or row in args.rows}
        runs = needed(table.model_copy(update={"rows": chosen}), ROOT / "configs")
        runs = [run for run in runs if not args.seeds or run.config["seed"] in args.seeds]
        states = {run: state(run, outputs, found) for run in runs}
        show_plan(table, runs, states, found, args.jobs)
        if not args.dry_run:
            todo = [run for run in runs if states[run] in ("cut", "missing")]
            failures = [] if args.render else run_all(todo, outputs, args.jobs, render)
            print("\n".join(str(path) for path in sorted(wrote)))
            if failures:
                sys.exit("\n".join([f"{len(failures)} of {len(todo)} runs failed:", *failures]))
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on")


if __name__ == "__main__":
    main()
