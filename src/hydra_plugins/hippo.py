"""`train.py -m` as Hydra's plugins, which it finds by their place: the door to `hippo.training.sweeps`."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Runs side by side on this machine, each in a process of its own with its share of the cores, or on its GPU.

    Args:
        jobs: Runs at a time; None for one on each GPU, or without GPUs one on each core.
    """

    def __init__(self, jobs: int | None = None) -> None:
        self.jobs = jobs

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from hippo.training import records
        from hippo.training.config import ConfigError
        from hippo.training.sweeps import Run, side_by_side

        results, runs = [], []
        for overrides in job_overrides:
            result = JobReturn(overrides=list(overrides), status=JobStatus.FAILED)
            try:
                composed = self.context.config_loader.load_sweep_config(self.config, list(overrides))
                runs.append(Run.planned(overrides, composed))
            except ConfigError as error:
                runs.append(None)
                result.return_value = error
            results.append(result)
        failures = side_by_side([run for run in runs if run], Path(sys.argv[0]), self.jobs)
        for run, result in zip(runs, results, strict=True):
            if run and run in failures:
                result.return_value = ConfigError(failures[run])
            elif run:
                record = records.read(run.folder / "record.json")
                result.status = JobStatus.COMPLETED
                result.return_value = records.objective(record)
        return results


class Sweeper(BasicSweeper):
    """Hydra's grid of all combinations, but one failure does not hide the others: all are listed at the end."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        super().setup(hydra_context=hydra_context, task_function=task_function, config=config)
        self.results: list[JobReturn] = []
        launcher: Any = self.launcher
        launch = launcher.launch

        def keep(job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            results = launch(job_overrides, initial_job_idx)
            for overrides, result in zip(job_overrides, results, strict=True):
                result.overrides = overrides
            self.results += results
            return [result for result in results if result.status == JobStatus.COMPLETED]

        launcher.launch = keep

    def sweep(self, arguments: list[str]) -> Any:
        from hippo.training.errors import reason
        from hippo.training.sweeps import SweepFailed, command

        returns = super().sweep(arguments)
        failures = {
            command(result.overrides or ()): reason(result._return_value)
            for result in self.results
            if result.status != JobStatus.COMPLETED
        }
        if failures:
            raise SweepFailed(failures, len(self.results))
        return returns
