"""`hippo report`: write all tables, and the pages of all results, anew from the records in results/."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from hippo import project
from hippo.files import write_atomically
from hippo.tables.check import read_benchmarks
from hippo.tables.collect import by_name, draw, read_all
from hippo.tables.page import page
from hippo.tables.render import write_table
from hippo.tables.report import write_report
from hippo.tables.table import every_table


def write(results: Path) -> Path:
    """Write what the records give, and return the page to open in a browser.

    Args:
        results: The folder of the records.
    """
    results.mkdir(parents=True, exist_ok=True)
    found, tables = read_all(results, each=draw), every_table(project.configs())
    for name, (table, cells) in tables.items():
        write_table(name, table, cells, by_name(found), results)
    write_atomically(results / "README.md", page(tables, found, read_benchmarks(results)))
    return write_report(tables, by_name(found), results)


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="hippo report", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables (results)")
    print(write(parser.parse_args(arguments).results))
