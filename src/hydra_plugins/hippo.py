"""`hippo train -m` as Hydra's plugins, which it finds by their place: the door to `hippo.training.sweeps`.

Hydra imports plugins whenever it starts, for `--help` too: what takes long to import is imported where it is used.
"""

import itertools
from collections.abc import Sequence
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper as HydraSweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from hippo import project


class Shipped(SearchPathPlugin):
    """Behind the configurations of a project those of this package are found."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        if project.configs() != project.shipped():
            search_path.append("hippo", f"file://{project.shipped()}")


def _settings(*, _root_: DictConfig) -> str:
    from hippo.training.help import settings

    return settings(_root_).replace("$", "$$")  # Hydra substitutes in what it shows


def _groups() -> str:
    from hippo.training.help import groups

    return groups()


OmegaConf.register_new_resolver("hippo.settings", _settings, replace=True)
OmegaConf.register_new_resolver("hippo.groups", _groups, replace=True)


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
        from hippo.training.sweeps import Run, train_all

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
        failures = train_all([run for run in runs if run], self.jobs)
        for run, result in zip(runs, results, strict=True):
            if run and run in failures:
                result.return_value = ConfigError(failures[run])
            elif run:
                try:
                    record = records.read(run.folder / "record.json")
                except records.RecordError as error:  # a damaged one, which stops nothing else
                    result.return_value = error
                    continue
                result.status = JobStatus.COMPLETED
                result.return_value = records.objective(record)
        return results


class Sweeper(HydraSweeper):
    """All combinations of what is listed; one failure does not hide the others: all are told at the end.

    Args:
        max_batch_size: Runs that the launcher gets at once; all where None.
        params: Overrides, as on the command line, by their keys; the command line's come after them.
    """

    def __init__(self, max_batch_size: int | None = None, params: dict[str, str] | None = None) -> None:
        self.max_batch_size, self.params = max_batch_size, params or {}

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Launch every combination.

        Raises:
            SweepFailed: At the end, if any failed.
            hippo.training.config.ConfigError: If what is asked for is no list.
        """
        from hippo.training.sweeps import SweepFailed, failure

        assert self.launcher is not None
        combinations = self._combinations([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        self.validate_batch_is_legal(combinations)
        size = self.max_batch_size or len(combinations) or 1
        results: list[JobReturn] = []
        failures: dict[str, str] = {}
        for first in range(0, len(combinations), size):
            batch = combinations[first : first + size]
            for overrides, result in zip(batch, self.launcher.launch(batch, initial_job_idx=first), strict=True):
                results.append(result)
                if (why := failure(result)) is not None:
                    failures[project.command(overrides)] = why
        done = [overrides for overrides, result in zip(combinations, results, strict=True) if not failure(result)]
        self._conclude(done)
        if failures:
            raise SweepFailed(failures, len(results))
        return results

    def _conclude(self, combinations: list[list[str]]) -> None:
        """Print a table of what runs came to, and draw it, where several have a record."""
        from hippo.tables.sweep import write
        from hippo.training import records
        from hippo.training.processes import say
        from hippo.training.sweeps import Run

        assert self.hydra_context is not None
        assert self.config is not None
        found = []
        for overrides in combinations:
            run = Run.planned(overrides, self.hydra_context.config_loader.load_sweep_config(self.config, overrides))
            if (path := run.folder / "record.json").is_file():
                found.append((dict(override.split("=", 1) for override in overrides), records.read(path)))
        if len(found) > 1:
            say(write(found, Path(self.config.hydra.sweep.dir).expanduser()))

    def _combinations(self, arguments: list[str]) -> list[list[str]]:
        from hippo.training.config import ConfigError

        assert self.hydra_context is not None
        choices: dict[str, list[str]] = {}  # the last word on a key counts
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        for override in parser.parse_overrides(arguments):
            key = override.get_key_element()
            if not override.is_sweep_override():
                choices[key] = [f"{key}={override.get_value_element_as_str()}"]
            elif override.is_discrete_sweep():
                choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
            else:
                raise ConfigError(
                    f"{override.input_line} is no list of values. List some, as in {key}=1,2,3, or let a search choose "
                    "them: hydra/sweeper=search"
                )
        return [list(combination) for combination in itertools.product(*choices.values())]
