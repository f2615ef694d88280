"""`hippo reproduce` of this checkout; `python scripts/reproduce.py --help` says more."""

import sys

from hippo.commands import main

if __name__ == "__main__":
    main(["reproduce", *sys.argv[1:]])
