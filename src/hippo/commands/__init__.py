"""The program `hippo`: its first word is a verb, each a file in here, and the other words are for that verb."""

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from hippo import project
from hippo.errors import UserError
from hippo.extras import require

VERBS = {
    "train": "train a model on a dataset: experiment=digits model=gru …; resume a run, or show one that is complete",
    "evaluate": "test a trained model on other data, or under other settings of its dataset",
    "reproduce": "run what a table lacks, and write it",
    "collect": "copy the records of complete runs to results/, and write all tables",
    "report": "write all tables anew from the records in results/",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Do what the words of a command line say; exit with one sentence where a person can mend what is wrong.

    Args:
        arguments: What follows the program's name; None for those of this process.
    """
    typed = sys.argv[1:] if arguments is None else arguments
    words = ["--config-dir" if word == "-cd" else word for word in typed]  # as Hydra abbreviates it
    verb = _parser().parse_args(words[:1]).verb
    of_all = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    of_all.add_argument("--config-dir")
    known, rest = of_all.parse_known_args(words[1:])
    _open_what_is_closed()
    try:
        require("train", f"hippo {verb}")
        from hippo.training import host

        host.set_environment()
        project.enter(known.config_dir)
        importlib.import_module(f"{__name__}.{verb}").main(rest)
    except KeyboardInterrupt:  # before a run, or between runs; one that has begun says how to go on
        sys.exit(130)
    except Exception as error:
        stop(error)


def stop(error: Exception) -> NoReturn:
    """Exit with one sentence if there is one for the error, else raise it."""
    if isinstance(error, UserError):
        sys.exit(f"error: {error}")
    from hippo.training.errors import explain

    if (explanation := explain(error)) is None:
        raise error
    sys.exit(f"error: {explanation}")


def _parser() -> argparse.ArgumentParser:
    width = max(map(len, VERBS))
    parser = argparse.ArgumentParser(
        prog="hippo",
        description="Experiments in recurrent memory: runs, records, tables.",
        epilog="\n".join(
            [
                *(f"{verb:{width}}  {what}" for verb, what in VERBS.items()),
                "",
                "hippo VERB --help says more of each. Where the current folder has configs/, its configurations and",
                "the modules beside it are found as well; --config-dir DIR, after the verb, names another such folder.",
            ]
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("verb", choices=VERBS, metavar="VERB", help="one of those below")
    return parser


def _open_what_is_closed() -> None:
    """Lead closed standard streams (`>&-`) to nowhere, lest a file that is opened later get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
