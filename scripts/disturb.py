"""Kill runs, damage their checkpoints and fill their disk, at random, and see whether their numbers stay the same.

    python scripts/disturb.py --count 200

Runs take place in processes that are forked from this one, so that a disturbance costs a second. Linux and macOS only.
"""

import argparse
import contextlib
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from matplotlib.figure import Figure
from omegaconf import OmegaConf

from hippo.training import records
from hippo.training.errors import explain
from hippo.training.run import run

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Random numbers within an epoch (dropout), a rate that changes at every step, and a best epoch that may be any.
TINY = (
    *("experiment=digits", "model=transformer", "model.hidden_size=8", "model.dropout=0.3", "scheduler=one_cycle"),
    *("trainer=cpu", "trainer.max_epochs=4", "threads=1", "logger=none"),
    *("+trainer.limit_train_batches=3", "+trainer.limit_val_batches=2", "+trainer.limit_test_batches=2"),
)
KINDS = ("kill", "terminate", "flip", "truncate", "delete", "fill")
DONE, EXPLAINED, BUG = 0, 3, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="disturbances in all")
    parser.add_argument("--seed", type=int, default=0, help="of what happens when")
    arguments = parser.parse_args()
    chance, happened, faults = random.Random(arguments.seed), Counter(), []
    with tempfile.TemporaryDirectory() as folder:
        Figure().savefig(Path(folder, "fonts.png"))  # finding fonts is done once, here, and not in each process
        start = time.monotonic()
        whole = numbers(finish(Path(folder, "undisturbed")))
        seconds = time.monotonic() - start
        runs = 0
        while happened.total() < arguments.count and len(faults) < 10:
            outputs = Path(folder, f"disturbed{runs}")
            runs += 1
            told: list[str] = []
            try:
                for _ in range(min(chance.randint(1, 4), arguments.count - happened.total())):
                    kind = chance.choice(KINDS)
                    happened[kind] += 1
                    told += [kind, *disturb(outputs, kind, seconds, chance)]
                if numbers(finish(outputs)) != whole:
                    faults.append(f"run {runs}, {', '.join(told)}: other numbers")
            except RuntimeError as error:
                faults.append(f"run {runs}, {', '.join(told)}: {error}")
    of_each = ", ".join(f"{count} × {kind}" for kind, count in sorted(happened.items()))
    print(f"{happened.total()} disturbances ({of_each}) of {runs} runs; {len(faults)} faults", *faults, sep="\n")
    sys.exit(bool(faults))


def numbers(record: dict[str, Any]) -> list[Any]:
    """Return what is to stay the same, to the last bit: all but time and place."""
    epochs = [{key: value for key, value in epoch.items() if key != "seconds"} for epoch in record["history"]]
    return [epochs, *(record[key] for key in ("metrics", "confusion", "config", "hash", "id", "parameters", "epochs"))]


def finish(outputs: Path) -> dict[str, Any]:
    """Let a run come to its end, from the start where it says that it has to; return its record.

    Raises:
        RuntimeError: If it does not.
    """
    for force in (False, True):
        code, said = wait(begin(outputs, force=force), outputs)
        if code == DONE:
            (path,) = outputs.glob("*/*/record.json")
            return records.read(path)
        if code != EXPLAINED or "force=true" not in said:
            break
    raise RuntimeError(f"exit status {code}: {said}")


def disturb(outputs: Path, kind: str, seconds: float, chance: random.Random) -> list[str]:
    """Let one thing happen to a run, whatever it is at; return what is to be told of it.

    Args:
        outputs: Where the run is.
        kind: One of `KINDS`.
        seconds: How long a run takes that nothing happens to.
        chance: Says when, and where.

    Raises:
        RuntimeError: If the run ends in an error that nobody foresaw.
    """
    limit = chance.randrange(20_000) if kind == "fill" else None
    process = begin(outputs, limit)
    if kind != "fill":
        time.sleep(chance.uniform(0.1, 1.1) * seconds)
        os.kill(process, signal.SIGTERM if kind == "terminate" else signal.SIGKILL)
    code, said = wait(process, outputs)
    if code == BUG:
        raise RuntimeError(f"{kind}: {said}")
    files = sorted(outputs.glob("*/*/checkpoints/*.ckpt"))
    if kind in ("flip", "truncate", "delete") and files and not list(outputs.glob("*/*/record.json")):
        path = chance.choice(files)
        content = bytearray(path.read_bytes())
        if kind == "delete":
            path.unlink()
        elif kind == "truncate":
            path.write_bytes(content[: chance.randrange(len(content))])
        else:
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(content)
        return [f"of {path.name}"]
    return []


def begin(outputs: Path, limit: int | None = None, force: bool = False) -> int:
    """Fork a process that works on the run; return its number.

    Args:
        outputs: Where the run is to be.
        limit: Bytes that a file may have, as a disk that is full sets one.
        force: Whether to start over.
    """
    outputs.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if not process:
        _work(outputs, limit, force)
    return process


def _work(outputs: Path, limit: int | None, force: bool) -> None:
    code = BUG
    try:
        log = os.open(outputs / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with hydra.initialize_config_dir(str(CONFIGS), version_base="1.3"):
            overrides = [*TINY, f"paths.outputs={outputs}", f"force={force}"]
            config = hydra.compose("train", overrides, return_hydra_config=True)
        HydraConfig.instance().set_config(config)
        run(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))
        code = DONE
    except SystemExit:
        code = EXPLAINED  # it was told to stop, and said how to go on
    except Exception as error:
        explanation = explain(error)
        code = EXPLAINED if explanation else BUG
        with contextlib.suppress(OSError):  # the log has no more place than other files
            print(explanation or traceback.format_exc(), file=sys.stderr)
    finally:
        with contextlib.suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(process: int, outputs: Path) -> tuple[int, str]:
    """Wait for a process; return its exit status and the last line that it wrote."""
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    lines = (outputs / "log.txt").read_text(errors="replace").splitlines() if (outputs / "log.txt").exists() else []
    return code, lines[-1] if lines else ""


if __name__ == "__main__":
    main()
