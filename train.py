"""`hippo train` of this checkout: `python train.py experiment=digits`; `python train.py --help` shows the choices."""

import sys

from hippo.commands import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
