"""`hippo train`: one run, or with -m many, as Hydra reads the command line."""

import os
import sys
from collections.abc import Sequence

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from hippo import project
from hippo.commands import stop

os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, where those that can be mended are explained


def main(arguments: Sequence[str]) -> None:
    typed, mine = sys.argv, [sys.argv[0], *arguments]

    def train(config: DictConfig) -> float | None:
        from hippo.training.records import objective
        from hippo.training.run import run

        if sys.argv is mine:
            sys.argv = typed  # by which Lightning starts further processes
        try:
            record = run(config)
        except Exception as error:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs
            stop(error)
        return None if record is None else objective(record)

    sys.argv = mine  # where Hydra looks
    try:
        hydra.main(version_base="1.3", config_path=str(project.configs()), config_name="train")(train)()
    finally:
        sys.argv = typed
