"""Train a model on a dataset: `python train.py experiment=pmnist_legs`; `python train.py --help` shows the choices."""

import os
import sys
from typing import NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, where those that can be mended are explained


@hydra.main(version_base="1.3", config_path="configs", config_name="train")
def train(config: DictConfig) -> float | None:
    from hippo.training.records import objective
    from hippo.training.run import run

    try:
        record = run(config)
    except Exception as error:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise  # Hydra goes on with the other jobs
        stop(error)
    return None if record is None else objective(record)


def stop(error: Exception) -> NoReturn:
    """Exit with one sentence if there is one for the error, else raise it."""
    from hippo.training.errors import explain

    explanation = explain(error)
    if explanation is None:
        raise error
    sys.exit(f"error: {explanation}")


def open_what_is_closed() -> None:
    """Lead closed standard streams (`>&-`) to nowhere, lest a file that is opened later get what is printed."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


if __name__ == "__main__":
    open_what_is_closed()
    try:
        train()
    except KeyboardInterrupt:  # before a run, or between runs; one that has begun says how to go on
        sys.exit(130)
    except Exception as error:
        stop(error)
