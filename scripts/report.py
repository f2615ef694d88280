"""`hippo report` of this checkout; `python scripts/report.py --help` says more."""

import sys

from hippo.commands import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
