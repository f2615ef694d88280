"""`hippo collect` of this checkout; `python scripts/collect.py --help` says more."""

import sys

from hippo.commands import main

if __name__ == "__main__":
    main(["collect", *sys.argv[1:]])
