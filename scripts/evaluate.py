"""`hippo evaluate` of this checkout; `python scripts/evaluate.py --help` says more."""

import sys

from hippo.commands import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
