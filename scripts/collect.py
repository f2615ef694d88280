"""Copy the records of complete runs from outputs/ to results/, and write the tables and pages that they give there.

python scripts/collect.py            # what lies in outputs/
python scripts/collect.py --check    # write nothing; say what does not fit the records, in the README as well
"""

import argparse
import sys
import tempfile
from pathlib import Path

from hippo.files import write_atomically
from hippo.tables.check import faults, read_benchmarks
from hippo.tables.collect import by_name, collect, download, draw, read_all
from hippo.tables.page import page
from hippo.tables.render import write_table
from hippo.tables.report import write_report
from hippo.tables.table import every_table
from hippo.training.errors import explain

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


def write(outputs: list[Path], projects: list[str]) -> None:
    """Collect records from folders and from W&B projects, and write what they give."""
    with tempfile.TemporaryDirectory() as folder:
        for project in projects:
            download(project, Path(folder))
        for line in collect([*outputs, Path(folder)], RESULTS):
            print(line)
    found, tables = read_all(RESULTS, each=draw), every_table(ROOT / "configs")
    for name, (table, cells) in tables.items():
        write_table(name, table, cells, by_name(found), RESULTS)
    write_report(tables, by_name(found), RESULTS)
    write_atomically(RESULTS / "README.md", page(tables, found, read_benchmarks(RESULTS)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", nargs="*", type=Path, default=[ROOT / "outputs"], help="folders to search")
    parser.add_argument(
        "--wandb", nargs="+", default=[], metavar="ENTITY/PROJECT", help="W&B projects to search as well"
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail with a sentence for each fault")
    args = parser.parse_args()
    try:
        if not args.check:
            write(args.outputs, args.wandb)
        elif found := list(faults(ROOT)):
            sys.exit("\n".join(found))
    except Exception as error:
        if (explanation := explain(error)) is None:
            raise
        sys.exit(f"error: {explanation}")


if __name__ == "__main__":
    main()
