"""`hippo collect`: copy the records of complete runs to results/, and write the tables and pages that they give there.

hippo collect            # what lies in outputs/
hippo collect --check    # write nothing; say what does not fit the records, in the README as well
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hippo.commands.report import write
from hippo.tables.check import faults
from hippo.tables.collect import collect, download


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="hippo collect", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("outputs", nargs="*", type=Path, default=[Path("outputs")], help="folders to search (outputs)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of records and tables (results)")
    parser.add_argument(
        "--wandb", nargs="+", default=[], metavar="ENTITY/PROJECT", help="W&B projects to search as well"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail with a sentence for each fault")
    args = parser.parse_args(arguments)
    if args.check:
        if found := list(faults(Path.cwd())):
            sys.exit("\n".join(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        for project in args.wandb:
            download(project, Path(folder))
        for line in collect([*args.outputs, Path(folder)], args.results):
            print(line)
    write(args.results)
